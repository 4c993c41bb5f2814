"""What may interrupt a step from outside: its time limit, and the worker's request to end. Both raise in the main thread, where
user code runs."""

from __future__ import annotations

# Not `signal`: its enumerations touch, and so copy, tens of pages of a forked child.
import _signal  # type: ignore[import-not-found]
import os

from causey._current import current
from causey._errors import StepCancelled, TimeoutException

ENDED_BY_SIGTERM = 143
_ending = False


def listen_for_the_end() -> None:
    """From now on SIGTERM raises in the step that runs; without one it ends the process."""
    _signal.signal(_signal.SIGTERM, _end)
    # What a step forks ends at once, as `Process.terminate` expects.
    os.register_at_fork(after_in_child=_end_as_usual)


def _end_as_usual() -> None:
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)


def _end(signal_number: int, frame: object) -> None:
    global _ending
    if current._attempt is None:
        os._exit(ENDED_BY_SIGTERM)
    # Once: cleaning up may take as long as the worker waits.
    if not _ending:
        _ending = True
        raise StepCancelled


class TimeLimit:
    """Raises TimeoutException in the step after so many seconds. A step that handles SIGALRM itself is ended by the worker."""

    def __init__(self, step: str, seconds: float | None) -> None:
        self._step = step
        self._seconds = seconds

    def __enter__(self) -> None:
        if self._seconds is not None:
            self._before = _signal.signal(_signal.SIGALRM, self._over)
            _signal.setitimer(_signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *problem: object) -> None:
        if self._seconds is not None:
            _signal.setitimer(_signal.ITIMER_REAL, 0)
            _signal.signal(_signal.SIGALRM, self._before)

    def _over(self, signal_number: int, frame: object) -> None:
        raise TimeoutException(f"step '{self._step}' timed out after {self._seconds:g} seconds")
