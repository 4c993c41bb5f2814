"""Forecasts next week's viewing per country whenever a day of viewing hours has arrived, and publishes the model.

causey deploy flow.py        then every event `viewing.arrived` starts a run
causey run flow.py --folder …/viewing --day 2026-06-28
"""

from pathlib import Path

from causey import FlowSpec, Parameter, current, models, resources, retry, step, trigger

import demand


@trigger(event={"name": "viewing.arrived", "parameters": {"folder": "folder", "day": "day"}})
class TitleDemand(FlowSpec):
    folder = Parameter("folder", required=True, help="folder with <day>/<country>.parquet")
    day = Parameter("day", required=True, help="last day to learn from, as 2026-06-28")

    @step
    def start(self):
        event = current.trigger.event if current.trigger else None
        print(f"started by event {event.id}" if event else "started by hand")
        self.countries = demand.countries_of(self.folder, self.day)
        if not self.countries:
            raise FileNotFoundError(f"no Parquet file in {Path(self.folder, self.day)}")
        self.next(self.read, foreach="countries")

    # The folder may be a network share: reading is tried again, fitting is not.
    @retry(times=2, seconds_between_retries=1)
    @resources(cpu=1, memory=1024)
    @step
    def read(self):
        self.country = self.input
        self.days, titles, hours = demand.read_country(self.folder, self.country, self.day)
        self.totals = hours.sum(axis=1)
        self.shares = demand.title_shares(titles, hours)
        self.candidates = list(demand.CANDIDATES)
        self.next(self.fit, foreach="candidates")

    @resources(cpu=1, memory=1024)
    @step
    def fit(self):
        self.kind = self.input
        self.error = demand.backtest(self.kind, self.country, self.days, self.totals)
        self.model = demand.fit(self.kind, self.country, self.days, self.totals)
        self.next(self.pick)

    @step
    def pick(self, inputs):
        self.errors = {candidate.kind: candidate.error for candidate in inputs}
        self.kind = demand.pick(self.errors)
        self.model = next(candidate.model for candidate in inputs if candidate.kind == self.kind)
        self.merge_artifacts(inputs, include=["country", "totals", "shares"])
        print(f"{self.country}: {self.kind}, error {self.errors[self.kind]:.1%} in the backtest")
        self.next(self.combine)

    @step
    def combine(self, inputs):
        self.forecaster = {
            "last_day": self.day,
            "countries": {
                part.country: {"kind": part.kind, "model": part.model, "shares": part.shares} for part in inputs
            },
        }
        # Large countries weigh more, as they do for whoever buys the capacity.
        weights = [float(part.totals[-demand.HORIZON_DAYS :].sum()) for part in inputs]
        picked = demand.weighted_mean([part.errors[part.kind] for part in inputs], weights)
        naive = demand.weighted_mean([part.errors["seasonal_naive"] for part in inputs], weights)
        self.metrics = {
            "wape": round(picked, 4),
            "wape_seasonal_naive": round(naive, 4),
            "countries": len(self.forecaster["countries"]),
        }
        for kind in demand.CANDIDATES:
            self.metrics[f"picked_{kind}"] = sum(part.kind == kind for part in inputs)
        self.next(self.publish)

    @step
    def publish(self):
        models.publish(
            "title-demand",
            self.forecaster,
            format="skops",
            metrics=self.metrics,
            tags={"day": self.day},
            description=f"viewing hours per country and title, learned up to {self.day}",
        )
        self.next(self.end)

    @step
    def end(self):
        print(
            f"error {self.metrics['wape']:.1%} in the backtest, {self.metrics['wape_seasonal_naive']:.1%} for last week repeated"
        )


if __name__ == "__main__":
    TitleDemand()
