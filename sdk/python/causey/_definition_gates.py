"""What @wait_for and @approval say, as the `gate` of docs/protocol.md §4, and what can be wrong with them."""

from __future__ import annotations

from json import dumps

from causey._decorators import NOTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from causey._graph import Node

SIGNALS_PER_STEP_MAX = 16
SIGNAL_BYTES_MAX = 64 * 1024
APPROVERS_MAX = 64
TIMEOUT_SECONDS_MAX = 365 * 86_400


def step_gate(decorators: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """None for a step that waits for nothing; `gate_problems` has found none."""
    gate: dict[str, Any] = {}
    if "wait_for" in decorators:
        gate["signals"] = [_signal(each) for each in decorators["wait_for"]["signals"]]
    if "approval" in decorators:
        attributes = decorators["approval"]
        gate["approval"] = {
            **({"by": by} if (by := _people(attributes["by"])) else {}),
            **_timeout(attributes["timeout"]),
        }
    return gate or None


def gate_problems(node: Node) -> Iterator[tuple[str, str, str | None]]:
    """Decorator, problem and hint."""
    decorators = node.marks.decorators
    if node.recurs and ("wait_for" in decorators or "approval" in decorators):
        name = "wait_for" if "wait_for" in decorators else "approval"
        message = f"step '{node.name}' has @{name} and leads back to itself"
        yield name, message, "a signal or an approval counts once in a run: let the step before it wait"
    elif "parallel" in decorators and ("wait_for" in decorators or "approval" in decorators):
        name = "wait_for" if "wait_for" in decorators else "approval"
        yield name, f"step '{node.name}' has @{name} and is the step of a gang", "let the step before it wait"
    if "wait_for" in decorators:
        signals = decorators["wait_for"]["signals"]
        names = [each["name"] for each in signals]
        if len(signals) > SIGNALS_PER_STEP_MAX:
            message = f"step '{node.name}' waits for {len(signals)} signals; at most {SIGNALS_PER_STEP_MAX} are possible"
            yield "wait_for", message, None
        for place, signal in enumerate(signals):
            problem = _signal_problem(signal, twice=signal["name"] in names[:place])
            if problem:
                yield "wait_for", f"@wait_for of step '{node.name}': {problem[0]}", problem[1]
    if "approval" in decorators:
        attributes = decorators["approval"]
        people = _people(attributes["by"])
        named = all(isinstance(each, str) and 0 < len(each.encode()) <= 256 for each in people)
        if not named or len(people) > APPROVERS_MAX:
            message = f"@approval of step '{node.name}': by={attributes['by']!r} does not name people"
            yield "approval", message, "list up to 64 user names, as in by=['ann', 'bob']; without it everybody may decide"
        elif fault := _timeout_problem(attributes["timeout"]):
            yield "approval", f"@approval of step '{node.name}': {fault}", None


def _signal(signal: dict[str, Any]) -> dict[str, Any]:
    default = {} if signal["default"] is NOTHING else {"default": {"value": signal["default"]}}
    return {"name": signal["name"], **_timeout(signal["timeout"]), **default}


def _signal_problem(signal: dict[str, Any], twice: bool) -> tuple[str, str | None] | None:
    name, default = signal["name"], signal["default"]
    plain = isinstance(name, str) and 0 < len(name) <= 64 and name.isascii()
    if not plain or not name.replace("_", "").replace("-", "").isalnum():
        return f"{name!r} is not the name of a signal", "use up to 64 letters, digits, '_' and '-'"
    if twice:
        return f"it waits for signal '{name}' twice", "keep one of them"
    if fault := _timeout_problem(signal["timeout"]):
        return fault, None
    if default is NOTHING:
        return None
    if signal["timeout"] is None:
        return f"the default of signal '{name}' never counts without a timeout", "give it timeout=<seconds>"
    try:
        size = len(dumps(default, allow_nan=False))
    except (TypeError, ValueError) as problem:
        return f"the default of signal '{name}' has no JSON form: {problem}", "use text, numbers, lists and dictionaries"
    if size > SIGNAL_BYTES_MAX:
        return f"the default of signal '{name}' has {size} bytes; at most {SIGNAL_BYTES_MAX} are accepted", None
    return None


def _people(by: Any) -> list[Any]:
    return list(by) if isinstance(by, (list, tuple, set, frozenset)) else [by]


def _seconds(timeout: Any) -> Any:
    return timeout.total_seconds() if hasattr(timeout, "total_seconds") else timeout


def _timeout(timeout: Any) -> dict[str, float]:
    return {} if timeout is None else {"timeout_seconds": float(_seconds(timeout))}


def _timeout_problem(timeout: Any) -> str | None:
    seconds = _seconds(timeout)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return f"timeout={timeout!r} is neither a number of seconds nor a timedelta"
    if not 0 < seconds <= TIMEOUT_SECONDS_MAX:
        return f"a timeout of {seconds:g} seconds is not between 0 (excluded) and {TIMEOUT_SECONDS_MAX}"
    return None
