"""Metaflow's ArgoEvent, sending to the Causey server."""

from __future__ import annotations

import sys
import time
import uuid

from causey._current import current
from causey._errors import CauseyException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class ArgoEvent:
    """`ArgoEvent("name").publish({"field": 1})`. `url` and `access_token` are ignored: the server is Causey's own."""

    def __init__(
        self,
        name: str | Callable[[], str],
        url: str | None = None,
        payload: dict[str, Any] | None = None,
        access_token: str | None = None,
    ) -> None:
        self._name = name() if callable(name) else name
        self._payload = dict(payload or {})

    def add_to_payload(self, key: str, value: Any) -> ArgoEvent:
        self._payload[key] = str(value)
        return self

    def publish(
        self, payload: dict[str, Any] | None = None, force: bool = True, ignore_errors: bool = True
    ) -> str | None:
        """The event's id, or None when it could not be sent and errors are ignored."""
        from causey.events import publish

        data = {
            "name": self._name,
            "id": str(uuid.uuid4()),
            "timestamp": int(time.time()),
            "utc_date": time.strftime("%Y%m%d", time.gmtime()),
            "generated-by-metaflow": True,
            **self._payload,
            **(payload or {}),
        }
        try:
            publish(self._name, data, id=str(data["id"]))
        except CauseyException as problem:
            if not ignore_errors:
                raise
            print(f"Event ({self._name}) could not be published: {problem}", file=sys.stderr)
            return None
        return str(data["id"])

    def safe_publish(self, payload: dict[str, Any] | None = None, ignore_errors: bool = True) -> str | None:
        """Publishes inside a running flow only."""
        return self.publish(payload, ignore_errors=ignore_errors) if current.is_running_flow else None
