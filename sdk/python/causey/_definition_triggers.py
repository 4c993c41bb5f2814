"""The `triggers` of a definition, from @trigger in all of Metaflow's forms."""

from __future__ import annotations

import os

from causey._decorators import Marks
from causey._problem import DECORATOR, Problem
from causey._suggest import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._flow import FlowSpec

    Event = dict[str, Any]


class _Wrong(Exception):
    pass


def triggers(flow: type[FlowSpec], path: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    from causey._refused import FLOW_DECORATORS

    problems: list[Problem] = []
    found: list[dict[str, Any]] = []
    for base in reversed(flow.__mro__):
        marks: Marks | None = base.__dict__.get("_causey_flow_marks")
        for name, attributes in (marks.decorators if marks else {}).items():
            if name in FLOW_DECORATORS:
                message = f"flow '{flow.__name__}' has @{name}, which Causey does not offer yet"
                problems.append(Problem(DECORATOR, message, path, _line(path, name), hint=FLOW_DECORATORS[name]))
                continue
            if name != "trigger":
                continue
            try:
                found.append({"events": _events(flow, attributes)})
            except _Wrong as problem:
                text, _, hint = str(problem).partition("\n")
                problems.append(
                    Problem(
                        DECORATOR,
                        f"@trigger of flow '{flow.__name__}': {text}",
                        path,
                        _line(path, name),
                        hint=hint or None,
                    )
                )
    return found, problems


def _line(path: str, name: str) -> int | None:
    """Line of a class decorator; looked for only when there is something to complain about."""
    import ast

    from causey._graph import _decorator_name

    with open(path, "rb") as file:
        tree = ast.parse(file.read(), os.path.basename(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                if _decorator_name(decorator) == name:
                    return decorator.lineno
    return None


def _called(value: Any) -> Any:
    """Deploy-time values are functions without arguments or, as in Metaflow, of one context."""
    if not callable(value):
        return value
    try:
        return value() if value.__code__.co_argcount == 0 else value(None)
    except Exception as problem:
        raise _Wrong(
            f"{getattr(value, '__name__', 'a function')} failed: {type(problem).__name__}: {problem}"
        ) from problem


def _events(flow: type[FlowSpec], attributes: dict[str, Any]) -> list[Event]:
    if attributes["event"] and attributes["events"]:
        raise _Wrong("event and events exclude each other\nuse events=[…] for several")
    if attributes["options"]:
        raise _Wrong("options are not offered yet\nremove them")
    if attributes["event"]:
        given = [attributes["event"]]
    else:
        given = _called(attributes["events"]) or []
    if not isinstance(given, (list, tuple)):
        raise _Wrong("events must be a list\nwrite events=['a', {'name': 'b', 'parameters': {'alpha': 'field'}}]")
    events = [_event(flow, each) for each in given]
    if not events:
        raise _Wrong("it names no event\nwrite @trigger(event='name')")
    names = [event["name"] for event in events]
    for name in names:
        if names.count(name) > 1:
            raise _Wrong(f"event '{name}' is listed twice\nlist it once")
    return events


def _event(flow: type[FlowSpec], given: Any) -> Event:
    given = _called(given)
    if isinstance(given, str):
        return {"name": given, "parameters": None}
    if not isinstance(given, dict):
        raise _Wrong(f"{given!r} is not an event\nwrite a name or {{'name': …, 'parameters': …}}")
    unknown = set(given) - {"name", "parameters", "type"}
    if unknown:
        raise _Wrong(f"an event has no field '{sorted(unknown)[0]}'\nuse name and parameters")
    name = _called(given.get("name"))
    if not isinstance(name, str) or not name:
        raise _Wrong("an event lacks its name\nwrite {'name': …}")
    if "parameters" not in given:
        return {"name": name, "parameters": None}
    return {"name": name, "parameters": _parameters(flow, name, _called(given["parameters"]))}


def _parameters(flow: type[FlowSpec], event: str, given: Any) -> dict[str, str] | None:
    if given is None:
        return None
    if isinstance(given, dict):
        pairs = list(given.items())
    elif isinstance(given, (list, tuple)):
        pairs = [(each, each) if isinstance(each, str) else each for each in given]
    else:
        raise _Wrong(f"parameters of event '{event}' must be a dict or a list\nwrite {{'parameter': 'field'}}")
    mapping = {}
    known = [parameter.name for parameter in flow._causey_parameters().values()]
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise _Wrong(f"{pair!r} in the parameters of event '{event}' is not a name or a pair of names")
        parameter, field = pair
        if parameter not in known:
            hint = did_you_mean(parameter, known) or f"define it: {parameter} = Parameter('{parameter}')"
            raise _Wrong(f"event '{event}' fills parameter '{parameter}', which the flow does not have\n{hint}")
        mapping[parameter] = field
    return mapping
