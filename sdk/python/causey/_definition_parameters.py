"""The `parameters` of a definition: types, defaults (evaluating callables) and what may be wrong with them."""

from __future__ import annotations

import os

from causey._parameter import RESERVED_NAMES, JSONType, ParameterContext
from causey._problem import PARAMETER, FlowProblem, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._flow import FlowSpec
    from causey._parameter import Parameter

_TYPES = {int: "int", float: "float", str: "str", bool: "bool"}


def parameters_problems(flow: type[FlowSpec], path: str) -> list[Problem]:
    problems = []
    seen: dict[str, str] = {}
    for parameter in flow._causey_parameters().values():
        message = _problem(parameter, seen)
        if message:
            problems.append(Problem(PARAMETER, f"parameter '{parameter.name}' {message}", path))
        seen[parameter.name.lower()] = parameter.name
    return problems


def _problem(parameter: Parameter, seen: dict[str, str]) -> str | None:
    name = parameter.name
    if name in RESERVED_NAMES:
        return "has a reserved name"
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= 64
        or not name.isascii()
        or not name.replace("-", "_").isidentifier()
    ):
        return "has a name that is not made of letters, digits, '_' and '-'"
    if name.lower() in seen:
        return "is defined twice; upper and lower case count as the same"
    if parameter.type is not JSONType and parameter.type not in _TYPES:
        return f"has an unknown type {parameter.type!r}: use int, float, str, bool or JSONType"
    if parameter.separator and parameter.type is not str:
        return "has a separator but is not a str"
    return None


def parameters(flow: type[FlowSpec], path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": parameter.name,
            "type": "json" if parameter.type is JSONType else _TYPES[parameter.type],
            "required": parameter.required,
            "default": _default(flow, parameter, path),
            "help": parameter.help or "",
        }
        for parameter in flow._causey_parameters().values()
    ]


def _default(flow: type[FlowSpec], parameter: Parameter, path: str) -> Any:
    value = parameter.default
    try:
        if callable(value):
            value = value(ParameterContext(flow.__name__, _user(), parameter.name))
        if value is None:
            return None
        if parameter.type is JSONType:
            return _json(value)
        if isinstance(value, bool) and parameter.type is not bool:
            raise TypeError(f"{value!r} is not {'an' if parameter.type is int else 'a'} {parameter.type.__name__}")
        # The separator applies to the value of a run; the definition keeps the text.
        return str(value) if parameter.type is str else parameter.convert(value)
    except Exception as problem:
        text = f"default of parameter '{parameter.name}': {type(problem).__name__}: {problem}"
        raise FlowProblem(Problem(PARAMETER, text, path)) from problem


def _json(value: Any) -> Any:
    import json

    # Text is a JSON document, as in Metaflow; anything else must survive being written as one.
    return json.loads(value if isinstance(value, str) else json.dumps(value))


def _user() -> str:
    for variable in ("METAFLOW_USER", "SUDO_USER", "USERNAME", "USER"):
        user = os.environ.get(variable)
        if user and user != "root":
            return user
    return "root"
