"""`current.trigger`: the events behind a run, in Metaflow's shape plus the event's own `data`."""

from __future__ import annotations

from collections import namedtuple
from datetime import datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MetaflowEvent = namedtuple("MetaflowEvent", ["name", "id", "timestamp", "type", "data"])


def _timestamp(text: object) -> datetime | None:
    """None for what is no time: the producer's mistake shall not fail the step."""
    import re

    # Before Python 3.11 fromisoformat knows neither Z nor fractions of other than three or six digits.
    six_digits = re.sub(r"\.(\d+)", lambda fraction: f".{fraction[1]:0<6.6}", str(text))
    try:
        return datetime.fromisoformat(six_digits.replace("Z", "+00:00"))
    except ValueError:
        return None


def _event(event: dict[str, Any]) -> MetaflowEvent:
    kind = "run" if str(event.get("type", "")).startswith("dev.causey.run.") else "event"
    return MetaflowEvent(event.get("type"), event.get("id"), _timestamp(event.get("time")), kind, event.get("data"))


class Trigger:
    """The events that started a run, latest first."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        latest_first = sorted(events, key=lambda event: str(event.get("time") or ""), reverse=True)
        self._events = [_event(event) for event in latest_first]

    @property
    def event(self) -> MetaflowEvent | None:
        return self._events[0] if self._events else None

    @property
    def events(self) -> list[MetaflowEvent] | None:
        return list(self._events) or None

    def __getitem__(self, name: str) -> MetaflowEvent:
        for event in self._events:
            if event.name == name:
                return event
        raise KeyError(name)

    def __iter__(self) -> Iterator[MetaflowEvent]:
        return iter(self._events)

    def __contains__(self, name: str) -> bool:
        return any(event.name == name for event in self._events)
