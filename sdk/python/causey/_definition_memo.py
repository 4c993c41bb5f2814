"""What @memoize says, as the `memo` of docs/protocol.md §4, and what can be wrong with it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from causey._graph import Node

VERSION_BYTES_MAX = 128
EXPIRES_SECONDS_MAX = 365 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def step_memo(decorators: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """None for a step that is not memoised; `memo_problems` has found none."""
    if "memoize" not in decorators:
        return None
    attributes = decorators["memoize"]
    memo: dict[str, Any] = {}
    if attributes["version"] is not None:
        memo["version"] = str(attributes["version"])
    if attributes["expires"] is not None:
        memo["expires_seconds"] = _seconds(attributes["expires"])
    return memo


def memo_problems(node: Node) -> Iterator[tuple[str, str, str | None]]:
    """Decorator, problem and hint."""
    decorators = node.marks.decorators
    if "memoize" not in decorators:
        return
    attributes = decorators["memoize"]
    version, expires = attributes["version"], attributes["expires"]
    named = version is None or (isinstance(version, (str, int)) and not isinstance(version, bool))
    if not named or not (version is None or 0 < len(str(version).encode()) <= VERSION_BYTES_MAX):
        message = f"@memoize of step '{node.name}': version={version!r} names no version"
        yield "memoize", message, f"use a text of up to {VERSION_BYTES_MAX} bytes, as in version='2'"
    if expires is not None:
        seconds = _seconds(expires)
        if seconds is None:
            message = f"@memoize of step '{node.name}': expires={expires!r} is no span of time"
            yield "memoize", message, "write 90s, 15m, 12h, 7d or 2w, a number of seconds or a timedelta"
        elif not 0 < seconds <= EXPIRES_SECONDS_MAX:
            message = f"@memoize of step '{node.name}': expires={expires!r} is not between 0 (excluded) and 365 days"
            yield "memoize", message, "without it results are taken however old they are"
    if "catch" in decorators:
        message = f"step '{node.name}' has @memoize and @catch: a caught failure would be taken as its result"
        yield "memoize", message, "let the step raise, or do not memoise it"
    if "parallel" in decorators:
        yield "memoize", f"step '{node.name}' has @memoize and is the step of a gang", "memoise the join behind it"


def _seconds(expires: Any) -> float | None:
    """None for what is no span of time."""
    if hasattr(expires, "total_seconds"):
        return float(expires.total_seconds())
    if isinstance(expires, str):
        text = expires.strip()
        number, unit = text[:-1], _UNITS.get(text[-1:])
        try:
            return float(number) * unit if unit is not None else None
        except ValueError:
            return None
    if isinstance(expires, (int, float)) and not isinstance(expires, bool):
        return float(expires)
    return None
