"""Forecasting viewing hours: reading, features, candidate models and backtest as plain functions.

Nothing here knows about Causey, so the flow, the consumer and the tests share it. A model maps the features of a day to the
logarithm of a country's viewing hours; the share of each title comes from its last four weeks.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import holidays
import numpy as np
from pyarrow import parquet
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HORIZON_DAYS = 7
BACKTEST_WEEKS = 4
SHARE_DAYS = 28

# skops loads these only when told to: a forged file could point a tree's nodes outside its arrays. The consumer trusts them
# because the model comes from a flow of its own.
TRUSTED_TYPES = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]

# Columns of the feature matrix.
TIME, WEEKDAYS, HOLIDAY, EVE = 0, slice(1, 8), 8, 9


def dates_after(day: datetime.date, count: int) -> list[datetime.date]:
    return [day + datetime.timedelta(days=ahead) for ahead in range(1, count + 1)]


def features(country: str, days: list[datetime.date]) -> np.ndarray:
    """One row per day: time in weeks, seven weekday flags, public holiday, eve of one."""
    years = range(days[0].year, days[-1].year + 2)
    calendar = holidays.country_holidays(country, years=years)
    matrix = np.zeros((len(days), 10))
    for row, day in zip(matrix, days):
        row[TIME] = day.toordinal() / 7
        row[1 + day.weekday()] = 1
        row[HOLIDAY] = day in calendar
        row[EVE] = day + datetime.timedelta(days=1) in calendar
    return matrix


def seasonal_naive():
    """Next Monday is like last Monday.

    Written as the nearest neighbour by time and weekday flags: the same weekday a week ago is 1.0 away, every other weekday
    1.41 or more. So it is an ordinary scikit-learn estimator that skops stores without trusting any class of ours.
    """
    time_and_weekday = ColumnTransformer([("keep", "passthrough", slice(TIME, WEEKDAYS.stop))])
    return make_pipeline(time_and_weekday, KNeighborsRegressor(n_neighbors=1, algorithm="brute"))


def ridge():
    """Linear trend, weekday and holiday effects; multiplicative, because the target is a logarithm."""
    return make_pipeline(StandardScaler(), Ridge(alpha=0.1))


def gradient_boosting():
    """Follows sudden changes of level, cannot extrapolate a trend."""
    return HistGradientBoostingRegressor(
        max_iter=12, max_leaf_nodes=8, min_samples_leaf=4, learning_rate=0.4, early_stopping=False
    )


CANDIDATES = {"seasonal_naive": seasonal_naive, "ridge": ridge, "gradient_boosting": gradient_boosting}


def fit(kind: str, country: str, days: list[datetime.date], totals: np.ndarray):
    return CANDIDATES[kind]().fit(features(country, days), np.log(totals))


def forecast(model, country: str, days: list[datetime.date]) -> np.ndarray:
    """Viewing hours of the country on each day."""
    return np.exp(model.predict(features(country, days)))


def wape(expected: np.ndarray, forecasted: np.ndarray) -> float:
    """Absolute error as a share of the whole; unlike a mean of percentages it does not blow up on small titles."""
    return float(np.abs(expected - forecasted).sum() / np.abs(expected).sum())


def backtest(kind: str, country: str, days: list[datetime.date], totals: np.ndarray) -> float:
    """Mean error of the last weeks, each forecast with what was known before it."""
    errors = []
    for weeks_back in range(BACKTEST_WEEKS, 0, -1):
        cut = len(days) - weeks_back * HORIZON_DAYS
        model = fit(kind, country, days[:cut], totals[:cut])
        week = slice(cut, cut + HORIZON_DAYS)
        errors.append(wape(totals[week], forecast(model, country, days[week])))
    return float(np.mean(errors))


def pick(errors: dict[str, float]) -> str:
    """The candidate with the least error in the backtest; of equals the first by name."""
    return min(sorted(errors), key=errors.__getitem__)


def countries_of(folder: str, day: str) -> list[str]:
    return sorted(path.stem for path in Path(folder, day).glob("*.parquet"))


def read_country(folder: str, country: str, last_day: str) -> tuple[list[datetime.date], list[str], np.ndarray]:
    """Days up to and including `last_day`, titles, and the hours as a matrix of days by titles."""
    days, rows, titles = [], [], None
    for path in sorted(Path(folder).glob(f"*/{country}.parquet")):
        if path.parent.name > last_day:
            break
        # One thread: a forked process must not count on a thread pool that its parent started.
        table = parquet.read_table(path, use_threads=False)
        names = table.column("title").to_pylist()
        if titles is not None and names != titles:
            raise ValueError(f"{path} lists other titles than the days before it")
        titles = names
        days.append(datetime.date.fromisoformat(path.parent.name))
        rows.append(table.column("hours").to_numpy())
    least_days = (BACKTEST_WEEKS + 2) * HORIZON_DAYS
    if len(days) < least_days:
        raise ValueError(
            f"{country} has {len(days)} days of viewing hours in {folder}, the backtest needs {least_days}"
        )
    return days, titles, np.array(rows)


def title_shares(titles: list[str], hours: np.ndarray) -> dict[str, float]:
    recent = hours[-SHARE_DAYS:].sum(axis=0)
    return dict(zip(titles, (recent / recent.sum()).tolist()))


def weighted_mean(values: list[float], weights: list[float]) -> float:
    return float(np.average(values, weights=weights))


def title_forecast(forecaster: dict) -> list[tuple[str, str, str, float]]:
    """(country, day, title, hours) of the week behind the forecaster's last day."""
    week = dates_after(datetime.date.fromisoformat(forecaster["last_day"]), HORIZON_DAYS)
    rows = []
    for country, part in forecaster["countries"].items():
        for day, total in zip(week, forecast(part["model"], country, week)):
            rows += [(country, day.isoformat(), title, float(total * share)) for title, share in part["shares"].items()]
    return rows
