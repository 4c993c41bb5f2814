"""A consumer of published models: reads the notification from standard input and writes next week's forecast.

causey events follow --type dev.causey.model.published.v1 --subscriber planning --exec "python consume.py"

Writes forecast.csv (country, day, title, hours) and adds one line to consumed.jsonl for every notification it acted on. With
--truth it also says how far the forecast is from the truth the generator wrote down.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from causey import models

import demand


def main() -> int:
    parser = argparse.ArgumentParser(description="Forecasts next week with a model that was just published.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for forecast.csv and consumed.jsonl")
    parser.add_argument("--truth", type=Path, help="truth.json of the generator")
    arguments = parser.parse_args()

    event = json.load(sys.stdin)
    if event["subject"] != "title-demand":
        print(f"{event['subject']} is not for us", file=sys.stderr)
        return 0
    acted = arguments.out / "consumed.jsonl"
    # A notification may come again under the same id, when this process died between acting and saying so.
    if acted.exists() and any(json.loads(line)["event"] == event["id"] for line in acted.read_text().splitlines()):
        print(f"notification {event['id']} was acted on before")
        return 0

    version = event["data"]["version"]
    forecaster = models.load("title-demand", version, trusted=demand.TRUSTED_TYPES)
    rows = demand.title_forecast(forecaster)
    write_forecast(arguments.out / "forecast.csv", rows)
    done = {"event": event["id"], "version": version, "rows": len(rows)}
    if arguments.truth:
        done["error"] = round(error_against_truth(rows, json.loads(arguments.truth.read_text())), 4)
    with acted.open("a") as file:
        print(json.dumps(done), file=file)
    print(
        f"forecast.csv: {len(rows)} rows with version {version}"
        + (f", error {done['error']:.1%} against the truth" if arguments.truth else "")
    )
    return 0


def write_forecast(path: Path, rows: list[tuple[str, str, str, float]]) -> None:
    """Whoever reads the file sees the old forecast or the new one, never half of one."""
    unfinished = path.with_suffix(".csv.tmp")
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["country", "day", "title", "hours"])
        writer.writerows((country, day, title, f"{hours:.3f}") for country, day, title, hours in rows)
    os.replace(unfinished, path)


def error_against_truth(rows: list[tuple[str, str, str, float]], truth: dict) -> float:
    """Of the hours per country and day, all countries together."""
    totals: dict[tuple[str, str], float] = defaultdict(float)
    for country, day, _, hours in rows:
        totals[country, day] += hours
    expected = {
        (country, day): sum(titles.values())
        for country, week in truth["next_week"].items()
        for day, titles in week.items()
    }
    return demand.wape(
        np.array([expected[key] for key in sorted(expected)]), np.array([totals[key] for key in sorted(expected)])
    )


if __name__ == "__main__":
    sys.exit(main())
