"""The `schedules` and the `concurrency` of a definition, from @schedule and @concurrency. What a cron pattern means is checked by
`causey check` and by the server, which have the calendar."""

from __future__ import annotations

from causey._problem import DECORATOR, Problem
from causey._suggest import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._decorators import Marks
    from causey._flow import FlowSpec

CATCH_UP_MAX = 1_000
JITTER_SECONDS_MAX = 86_400
CONCURRENT_RUNS_MAX = 1_000

_CATCH_UP = {"skip": "skip", "none": "skip", "latest": "latest", "all": "all", False: "latest", True: "all"}

# Words of Kubernetes' CronJob, Temporal, Prefect and GitHub that mean exactly one of ours.
_STRATEGIES = {
    "all": "all",
    "allow": "all",
    "allow_all": "all",
    "skip": "skip",
    "forbid": "skip",
    "cancel_new": "skip",
    "queue": "queue",
    "enqueue": "queue",
    "buffer_all": "queue",
    "replace": "replace",
    "cancel_other": "replace",
    "cancel_in_progress": "replace",
    "latest": "latest",
}

_FORMS = ("date", "datetime", "seconds")


class _Wrong(Exception):
    pass


def _nearest(flow: type[FlowSpec], name: str) -> Any:
    """What the class or the nearest of its bases says."""
    for base in flow.__mro__:
        marks: Marks | None = base.__dict__.get("_causey_flow_marks")
        if marks is not None and name in marks.decorators:
            return marks.decorators[name]
    return None


def schedules(flow: type[FlowSpec], path: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    found: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for attributes in (_nearest(flow, "schedule") or {"all": []})["all"]:
        try:
            schedule = _schedule(flow, attributes)
            if schedule is not None:
                found.append(schedule)
        except _Wrong as problem:
            problems.append(_problem("schedule", flow, path, attributes["line"], problem))
    return found, problems


def _problem(decorator: str, flow: type[FlowSpec], path: str, line: int, wrong: _Wrong) -> Problem:
    text, _, hint = str(wrong).partition("\n")
    return Problem(DECORATOR, f"@{decorator} of flow '{flow.__name__}': {text}", path, line, hint=hint or None)


def _cron(attributes: dict[str, Any]) -> str | None:
    """In Metaflow's order, with its patterns."""
    cron = attributes["cron"]
    if cron:
        if not isinstance(cron, str):
            raise _Wrong(f"cron={cron!r} is not text\nwrite cron='0 2 * * *'")
        fields = len(cron.split())
        if fields not in (5, 6, 7) and not cron.strip().startswith("@"):
            raise _Wrong(
                f"cron={cron!r} has {fields} fields\n"
                "write minute, hour, day, month and weekday; a year may follow, and then seconds may come first"
            )
        return cron
    for name, pattern in (("weekly", "0 0 ? * SUN *"), ("hourly", "0 * * * ? *"), ("daily", "0 0 * * ? *")):
        if attributes[name]:
            return pattern
    return None


def _number(attributes: dict[str, Any], name: str, least: int, most: int) -> int:
    number = attributes[name]
    if type(number) is not int or not least <= number <= most:
        raise _Wrong(f"{name}={number!r} is not a whole number between {least} and {most}")
    return number


def _schedule(flow: type[FlowSpec], attributes: dict[str, Any]) -> dict[str, Any] | None:
    cron = _cron(attributes)
    if cron is None:
        return None
    timezone = attributes["timezone"]
    if timezone is not None and not (isinstance(timezone, str) and timezone):
        raise _Wrong(f"timezone={timezone!r} is not a name\nwrite timezone='Europe/Berlin'")
    catch_up = attributes["catch_up"]
    try:
        policy = _CATCH_UP[catch_up]
    except (KeyError, TypeError):
        raise _Wrong(f"catch_up={catch_up!r} is unknown\nuse 'skip', 'latest' or 'all'") from None
    return {
        "cron": cron,
        **({} if timezone is None else {"timezone": timezone}),
        "line": attributes["line"],
        "catch_up": policy,
        "catch_up_max": _number(attributes, "catch_up_max", 1, CATCH_UP_MAX),
        "jitter_seconds": _number(attributes, "jitter_seconds", 0, JITTER_SECONDS_MAX),
        "parameters": _parameters(flow, attributes["parameters"]),
    }


def _parameters(flow: type[FlowSpec], given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _Wrong("parameters must be a dict\nwrite parameters={'day': 'date'}")
    known = [parameter.name for parameter in flow._causey_parameters().values()]
    for name, form in given.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"define it: {name} = Parameter('{name}')"
            raise _Wrong(f"it fills parameter '{name}', which the flow does not have\n{hint}")
        if not isinstance(form, str) or (form not in _FORMS and "%" not in form):
            hint = f"use {', '.join(map(repr, _FORMS))} or a pattern such as '%Y-%m'"
            raise _Wrong(f"parameter '{name}' takes the instant as {form!r}\n{hint}")
    return dict(given)


def concurrency(flow: type[FlowSpec], path: str) -> tuple[dict[str, Any] | None, list[Problem]]:
    attributes = _nearest(flow, "concurrency")
    if attributes is None:
        return None, []
    try:
        given = attributes["strategy"]
        strategy = _STRATEGIES.get(given.lower()) if isinstance(given, str) else None
        if strategy is None:
            raise _Wrong(f"strategy={given!r} is unknown\nuse 'all', 'skip', 'queue', 'replace' or 'latest'")
        return {"strategy": strategy, "max": _number(attributes, "max", 1, CONCURRENT_RUNS_MAX)}, []
    except _Wrong as problem:
        return None, [_problem("concurrency", flow, path, attributes["line"], problem)]
