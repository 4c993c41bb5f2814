"""Publishing events and following notifications. Both are CloudEvents 1.0."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import uuid
from http.client import HTTPException
from urllib.parse import urlencode

from causey._client import Client
from causey._current import current
from causey._errors import CauseyException, ServerException
from causey._sse import parse
from causey._subscriber import Position

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Event", "follow", "publish"]

PUBLISH_ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0


class Event:
    """A notification; `attributes` is the whole CloudEvent."""

    def __init__(self, attributes: dict[str, Any], position: str | None) -> None:
        self.attributes = attributes
        self.position = position

    @property
    def type(self) -> str:
        return str(self.attributes["type"])

    @property
    def id(self) -> str:
        return str(self.attributes["id"])

    @property
    def source(self) -> str:
        return str(self.attributes["source"])

    @property
    def subject(self) -> str | None:
        return self.attributes.get("subject")

    @property
    def data(self) -> Any:
        return self.attributes.get("data")

    def __repr__(self) -> str:
        return f"Event(type={self.type!r}, subject={self.subject!r}, id={self.id!r})"


def publish(
    type: str, data: Any = None, source: str | None = None, subject: str | None = None, id: str | None = None
) -> dict[str, Any]:
    """Sends one event and returns the server's answer: `started` lists the runs it started, `because` says why none.

    The same source and id count once. Inside a step the id follows from the task, so a retry does not send twice.
    """
    event = {"specversion": "1.0", "type": type, "source": source or _source(), "id": id or _id()}
    if subject is not None:
        event["subject"] = subject
    if data is not None:
        event["datacontenttype"] = "application/json"
        event["data"] = data
    try:
        body = json.dumps(event, allow_nan=False).encode()
    except (TypeError, ValueError) as problem:
        raise CauseyException(f"the data of event '{type}' is not JSON: {problem}") from None
    client = Client()
    for attempt in range(1, PUBLISH_ATTEMPTS + 1):
        try:
            answer: dict[str, Any] = client.post("/events", body, "application/cloudevents+json")
            return answer
        except ServerException as problem:
            # Sending again is safe: the server knows the event by its id.
            if attempt == PUBLISH_ATTEMPTS or not _is_transient(problem):
                raise
            time.sleep(_pause(attempt))
    raise AssertionError("unreachable")


def follow(type: str | None = None, name: str | None = None, subscriber: str | None = None) -> Iterator[Event]:
    """Yields notifications as they come, for ever, reconnecting where it left off.

    `type` is a CloudEvents type such as `dev.causey.model.published.v1`, `name` the model or flow it is about. With
    `subscriber` the position is kept in `.causey/subscribers/` and moves on when the loop asks for the next event: each
    event is acted on once, or again if the process ended (or the loop was left) in the middle of acting.
    """
    client = Client()
    position = Position(subscriber)
    failures = 0
    while True:
        try:
            for event in _stream(client, position, type, name):
                failures = 0
                if position.knows(event.id):
                    continue
                yield event
                position.advance(event.position, event.id)
        except ServerException as problem:
            if not _is_transient(problem):
                raise
        except (OSError, HTTPException):
            # The connection broke or stayed silent; go on behind the last event.
            pass
        failures += 1
        time.sleep(_pause(failures))


def _stream(client: Client, position: Position, type: str | None, name: str | None) -> Iterator[Event]:
    wanted = {"after": position.position, "type": type, "name": name}
    query = urlencode({key: value for key, value in wanted.items() if value is not None})
    headers = {"Accept": "text/event-stream"}
    with client.open("GET", f"/events/follow?{query}" if query else "/events/follow", headers=headers) as response:
        if position.position is None and response.headers["Causey-Sequence"]:
            # "From now on" must mean the same now after a break.
            position.advance(response.headers["Causey-Sequence"])
        for message in parse(response):
            yield Event(json.loads(message.data), message.id)


def _is_transient(problem: ServerException) -> bool:
    return problem.status is None or problem.status in (408, 429) or problem.status >= 500


def _pause(failures: int) -> float:
    longest: float = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 10))
    return longest * random.uniform(0.5, 1.0)


def _source() -> str:
    if current.is_running_flow:
        return f"/causey/flows/{current.flow_name}/{current.step_name}"
    return f"/python/{os.path.basename(sys.argv[0]) or 'interactive'}"


def _id() -> str:
    attempt = current._attempt
    if attempt is None:
        return str(uuid.uuid4())
    attempt.events_published += 1
    return f"{attempt.message['idempotency_key']}-{attempt.events_published}"
