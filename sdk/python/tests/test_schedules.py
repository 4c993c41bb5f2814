"""@schedule and @concurrency: Metaflow's forms, our own, and what is wrong with them."""

from __future__ import annotations

import pytest
import worker as peer

BODY = """
class Flow(FlowSpec):
    day = Parameter("day", default="")

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass
"""


def _described(flow_file, decorators):
    return peer.describe(flow_file(f"from causey import concurrency, schedule\n{decorators}{BODY}"))


@pytest.mark.parametrize(
    ("arguments", "cron"),
    [
        ("", "0 0 * * ? *"),
        ("daily=True", "0 0 * * ? *"),
        ("hourly=True", "0 * * * ? *"),
        ("weekly=True, hourly=True", "0 0 ? * SUN *"),
        ("cron='0 2 * * *', weekly=True", "0 2 * * *"),
    ],
)
def test_schedules_have_the_patterns_metaflow_gives_them(flow_file, arguments, cron):
    schedules = _described(flow_file, f"@schedule({arguments})")["definition"]["schedules"]
    assert [schedule["cron"] for schedule in schedules] == [cron]
    assert "timezone" not in schedules[0] and schedules[0]["catch_up"] == "latest"


def test_a_schedule_that_is_switched_off_is_none(flow_file):
    assert "schedules" not in _described(flow_file, "@schedule(daily=False)")["definition"]


def test_several_schedules_come_in_their_order_with_their_lines(flow_file):
    definition = _described(
        flow_file,
        "@schedule\n"
        "@schedule(cron='0 2 * * *', timezone='Europe/Berlin', catch_up='all', catch_up_max=7, jitter_seconds=60,\n"
        "          parameters={'day': 'date'})\n"
        "@concurrency(strategy='Forbid', max=2)",
    )["definition"]
    first, second = definition["schedules"]
    assert second.pop("line") == first.pop("line") + 1
    assert first == {
        "cron": "0 0 * * ? *",
        "catch_up": "latest",
        "catch_up_max": 100,
        "jitter_seconds": 0,
        "parameters": {},
    }
    assert second == {
        "cron": "0 2 * * *",
        "timezone": "Europe/Berlin",
        "catch_up": "all",
        "catch_up_max": 7,
        "jitter_seconds": 60,
        "parameters": {"day": "date"},
    }
    assert definition["concurrency"] == {"strategy": "skip", "max": 2}


@pytest.mark.parametrize(
    ("decorator", "words"),
    [
        ("@schedule(cron='0 2 *')", "has 3 fields"),
        ("@schedule(cron=5)", "cron=5 is not text"),
        ("@schedule(timezone=1)", "timezone=1 is not a name"),
        ("@schedule(catch_up='some')", "catch_up='some' is unknown"),
        ("@schedule(catch_up_max=0)", "catch_up_max=0 is not a whole number between 1 and 1000"),
        ("@schedule(jitter_seconds=-1)", "jitter_seconds=-1 is not a whole number"),
        ("@schedule(parameters={'dya': 'date'})", "fills parameter 'dya', which the flow does not have"),
        ("@schedule(parameters={'day': 'weekday'})", "parameter 'day' takes the instant as 'weekday'"),
        ("@concurrency(strategy='buffer_one')", "strategy='buffer_one' is unknown"),
        ("@concurrency(max=0)", "max=0 is not a whole number between 1 and 1000"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(flow_file, decorator, words):
    answer = _described(flow_file, decorator)
    [problem] = answer.get("problems") or [answer["problem"]]
    assert words in problem["message"] and problem["line"] is not None, problem
