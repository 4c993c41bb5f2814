"""The runner role: answers `run` messages until the worker closes the connection."""

from __future__ import annotations

import os
import pickle

from causey._attempt import Attempt, LoadedFlow
from causey._channel import LineTooLong
from causey._process import flush_output
from causey._task import IMMUTABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from causey._channel import Channel, Message
    from causey._flow import FlowSpec
    from causey._objects import Store


class Runner:
    """Keeps between attempts what cannot change: the steps, stored objects, pristine copies of class variables."""

    def __init__(self, flow_class: type[FlowSpec]) -> None:
        self._loaded = LoadedFlow(flow_class)
        self.stores: dict[str, Store] = {}
        self._folder = os.getcwd()
        self._pristine = _pristine_constants(flow_class)
        self._used = False

    def serve(self, channel: Channel, after_first: Callable[[], None] | None = None) -> None:
        """Returns when the worker closes. Does not end the process: its teardown would delay the last result."""
        try:
            while (message := channel.receive()) is not None:
                if message["type"] != "run":
                    return
                self.serve_one(channel, message)
                if after_first is not None:
                    after_first()
                    after_first = None
        except ConnectionError:
            # The worker went away in the middle of an attempt: nobody is left to be told.
            return

    def serve_one(self, channel: Channel, message: Message) -> None:
        if self._used:
            self._refresh()
        self._used = True
        answer = Attempt(message, self._loaded, channel, self.stores).answer()
        flush_output()
        try:
            channel.send(answer)
        except LineTooLong as problem:
            from causey._failure import describe_failure

            error = describe_failure(problem, message["step"], self._folder)
            channel.send({"type": "failed", "key": message["key"], "retryable": False, "error": error})

    def _refresh(self) -> None:
        """Undoes what an earlier attempt may have done to this process."""
        if _current_folder() != self._folder:
            os.chdir(self._folder)
        for name, stream in self._pristine.items():
            setattr(self._loaded.flow_class, name, pickle.loads(stream))


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _pristine_constants(flow_class: type[FlowSpec]) -> dict[str, bytes]:
    pristine = {}
    for name, value in flow_class._causey_constants().items():
        if type(value) not in IMMUTABLE:
            try:
                pristine[name] = pickle.dumps(value, 5)
            except Exception:
                # The first step will say so: class variables are artifacts.
                continue
    return pristine
