"""`current`: what a step may know about the attempt it runs in. One object per process, replaced per attempt."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any

    from causey._attempt import Attempt
    from causey._parallel import Parallel
    from causey._trigger import Trigger
    from causey.flows import Child


class Current:
    """Read-only; every documented name is None (or False) outside a running step."""

    def __init__(self) -> None:
        self._attempt: Attempt | None = None

    def _field(self, name: str) -> Any:
        return None if self._attempt is None else self._attempt.message.get(name)

    @property
    def is_running_flow(self) -> bool:
        return self._attempt is not None

    @property
    def flow_name(self) -> str | None:
        return self._field("flow")  # type: ignore[no-any-return]

    @property
    def run_id(self) -> str | None:
        return self._field("run")  # type: ignore[no-any-return]

    @property
    def run_name(self) -> str | None:
        return self._field("run_name")  # type: ignore[no-any-return]

    @property
    def step_name(self) -> str | None:
        return self._field("step")  # type: ignore[no-any-return]

    @property
    def task_id(self) -> str | None:
        if self._attempt is None:
            return None
        task = ".".join(map(str, self._field("path") or ())) or "0"
        visit = self._field("visit")
        return f"{task}~{visit}" if visit else task

    @property
    def pathspec(self) -> str | None:
        if self._attempt is None:
            return None
        return f"{self.flow_name}/{self.run_id}/{self.step_name}/{self.task_id}"

    @property
    def retry_count(self) -> int:
        """Charged retries so far, 0 in the first attempt."""
        return self._field("retry") or 0

    @property
    def idempotency_key(self) -> str | None:
        """Same for every attempt of one task: use it to make outside effects happen once."""
        return self._field("idempotency_key")  # type: ignore[no-any-return]

    @property
    def origin_run_id(self) -> str | None:
        return self._field("origin_run")  # type: ignore[no-any-return]

    @property
    def username(self) -> str | None:
        return self._field("user")  # type: ignore[no-any-return]

    @property
    def namespace(self) -> str | None:
        return None if self.username is None else f"user:{self.username}"

    @property
    def tags(self) -> set[str]:
        return set(self._field("tags") or ())

    @property
    def parameter_names(self) -> list[str]:
        return [] if self._attempt is None else list(self._attempt.flow_class._causey_parameters())

    @property
    def is_parallel(self) -> bool:
        return self._field("gang") is not None

    @property
    def parallel(self) -> Parallel | None:
        """The gang this task is a member of, None outside one."""
        if self._attempt is None or not self.is_parallel:
            return None
        from causey._parallel import parallel

        return parallel(self._attempt.message)

    @property
    def tempdir(self) -> str | None:
        """The attempt's own empty folder, removed after the attempt."""
        return self._field("folder")  # type: ignore[no-any-return]

    @property
    def trigger(self) -> Trigger | None:
        """The events that started the run, None for a run started by hand."""
        events = (self._field("trigger") or {}).get("events")
        if not events:
            return None
        from causey._trigger import Trigger

        return Trigger(events)

    @property
    def scheduled_at(self) -> datetime | None:
        """The instant of the schedule or backfill that the run is for, in UTC; None for any other run."""
        micros = self._field("scheduled_at")
        if micros is None:
            return None
        from datetime import datetime, timedelta, timezone

        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=micros)

    @property
    def signals(self) -> dict[str, Any]:
        """The data of the signals that the run has received, by name; those the step waits for are among them."""
        return dict(self._field("signals") or {})

    def set_status(self, name: str, value: Any) -> None:
        """Tells about the run under this name, for `causey query`; the last value wins. It takes up to a second to be seen."""
        if self._attempt is None:
            from causey._errors import CauseyException

            raise CauseyException("current.set_status works only inside a running step")
        self._attempt.tell_status(name, value)

    @property
    def children(self) -> list[Child]:
        """The runs that earlier steps started and waited for, in the order of steps and tasks."""
        found = self._field("children") or ()
        if not found:
            return []
        from causey.flows import Child

        return [Child(each["flow"], each["step"], each["path"], each["visit"], each["ordinal"]) for each in found]

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)

    def __contains__(self, key: str) -> bool:
        return getattr(self, key, None) is not None


current = Current()
