"""`current.trigger`: the events behind a run, in Metaflow's shape plus the event's own `data`."""

from __future__ import annotations

from collections import namedtuple
from datetime import datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MetaflowEvent = namedtuple("MetaflowEvent", ["name", "id", "timestamp", "type", "data"])


def _event(event: dict[str, Any]) -> MetaflowEvent:
    timestamp = None
    if event.get("time"):
        # fromisoformat learned about Z in 3.11.
        timestamp = datetime.fromisoformat(str(event["time"]).replace("Z", "+00:00"))
    kind = "run" if str(event.get("type", "")).startswith("dev.causey.run.") else "event"
    return MetaflowEvent(event.get("type"), event.get("id"), timestamp, kind, event.get("data"))


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
