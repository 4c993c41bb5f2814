"""Writes viewing hours as one Parquet file per day and country, and beside them the truth a forecast is judged by.

    python generate.py FOLDER [--countries 12] [--days 182] [--titles 20] [--last-day 2026-06-28] [--seed 7]

FOLDER/viewing/<day>/<country>.parquet has the columns title and hours. FOLDER/truth.json has the expected hours of the week
after the last day, without the noise. Same arguments, same bytes.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import holidays
import numpy as np
import plotly.data
import pyarrow
from pyarrow import parquet

from demand import HORIZON_DAYS, dates_after

ADJECTIVES = (
    "Amber Broken Crimson Distant Electric Forgotten Golden Hidden "
    "Iron Last Midnight Northern Paper Quiet Restless Silver"
).split()
NOUNS = (
    "Archive Bridge Causeway Detective Empire Frontier Garden Harbour "
    "Island Journey Kitchen Lighthouse Mountain Orchard Protocol River"
).split()

HOURS_PER_THOUSAND_PEOPLE = 40
NOISE_OF_A_DAY = 0.02
NOISE_OF_A_TITLE = 0.15


# Every third country has a sudden change of level (a price cut, a local launch) on some day of the last months.
LEVEL_CHANGE_EVERY = 3


def country_populations(count: int) -> dict[str, int]:
    """The most populous countries whose holidays are known, by ISO code."""
    people = {
        row["iso_alpha"]: row["pop"]
        for row in plotly.data.gapminder(return_type="pyarrow").to_pylist()
        if row["year"] == 2007
    }
    usable = [(code, number) for code, number in people.items() if _has_calendar(code)]
    if len(usable) < count:
        raise SystemExit(
            f"{len(usable)} countries have both a population and a holiday calendar; {count} were asked for"
        )
    return dict(sorted(usable, key=lambda item: -item[1])[:count])


def _has_calendar(country: str) -> bool:
    # Some three-letter codes mean something else there: holidays.MAR is the month, not Morocco.
    return callable(getattr(holidays, country, None))


def title_names(rng: np.random.Generator, count: int) -> list[str]:
    pairs = [f"The {adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    if count > len(pairs):
        raise SystemExit(f"there are names for {len(pairs)} titles; {count} were asked for")
    return sorted(rng.choice(pairs, size=count, replace=False).tolist())


class Country:
    """The truth about one country: expected hours of every title on every day, noise apart."""

    def __init__(
        self,
        rng: np.random.Generator,
        code: str,
        people: int,
        titles: list[str],
        first_day: datetime.date,
        days: int,
        level_changes: bool,
    ):
        self.first_day = first_day
        self.base = people / 1000 * HOURS_PER_THOUSAND_PEOPLE
        self.growth_per_week = 0.0 if level_changes else rng.uniform(0.005, 0.02)
        weekend = rng.uniform(0.2, 0.5)
        self.weekday_effect = np.array([-0.05, -0.05, 0, 0, weekend / 2, weekend, weekend * 0.9]) + rng.normal(
            0, 0.02, 7
        )
        self.holiday_effect = rng.uniform(0.2, 0.4)
        self.level_change = rng.choice([-1, 1]) * rng.uniform(0.25, 0.4) if level_changes else 0.0
        self.level_change_day = int(days * rng.uniform(0.5, 0.7))
        self.shares = rng.dirichlet(np.full(len(titles), 1.5))
        self.calendar = holidays.country_holidays(code, years=range(first_day.year, first_day.year + 3 + days // 365))

    def expected(self, day: datetime.date) -> np.ndarray:
        number = (day - self.first_day).days
        effects = self.growth_per_week * number / 7 + self.weekday_effect[day.weekday()]
        if day in self.calendar:
            effects += self.holiday_effect
        if number >= self.level_change_day:
            effects += self.level_change
        return self.base * np.exp(effects) * self.shares


def generate(
    folder: Path, countries: int = 12, days: int = 182, titles: int = 20, last_day: str = "2026-06-28", seed: int = 7
) -> dict:
    """Writes everything below `folder` and returns the truth."""
    rng = np.random.default_rng(seed)
    names = title_names(rng, titles)
    last = datetime.date.fromisoformat(last_day)
    first = last - datetime.timedelta(days=days - 1)
    next_week = {}
    for place, (code, people) in enumerate(country_populations(countries).items()):
        country = Country(rng, code, people, names, first, days, level_changes=place % LEVEL_CHANGE_EVERY == 2)
        for number in range(days):
            day = first + datetime.timedelta(days=number)
            noise = rng.normal(0, NOISE_OF_A_DAY) + rng.normal(0, NOISE_OF_A_TITLE, titles)
            _write_day(
                folder / "viewing" / day.isoformat() / f"{code}.parquet", names, country.expected(day) * np.exp(noise)
            )
        next_week[code] = {
            day.isoformat(): dict(zip(names, country.expected(day).round(3).tolist()))
            for day in dates_after(last, HORIZON_DAYS)
        }
    truth = {
        "seed": seed,
        "first_day": first.isoformat(),
        "last_day": last_day,
        "titles": names,
        "next_week": next_week,
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))
    return truth


def _write_day(path: Path, titles: list[str], hours: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"title": titles, "hours": hours.round(3)}), path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes viewing hours per day and country, and the truth beside them.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--countries", type=int, default=12)
    parser.add_argument("--days", type=int, default=182)
    parser.add_argument("--titles", type=int, default=20)
    parser.add_argument("--last-day", default="2026-06-28")
    parser.add_argument("--seed", type=int, default=7)
    arguments = vars(parser.parse_args())
    truth = generate(**arguments)
    print(
        f"{len(truth['next_week'])} countries, {len(truth['titles'])} titles, {truth['first_day']} to {truth['last_day']} in {arguments['folder']}"
    )


if __name__ == "__main__":
    main()
