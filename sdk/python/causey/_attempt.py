"""One attempt at a task: from a `run` message to the `finished` or `failed` that answers it."""

from __future__ import annotations

import sys
from _thread import allocate_lock
from os import getcwd

from causey._current import current
from causey._decorators import error_names, step_marks
from causey._encoding import Encoded
from causey._errors import (
    ArtifactStoreException,
    CauseyException,
    ExceptionWrapper,
    FailureHandledByCatch,
    InvalidNextException,
    StepCancelled,
    TimeoutException,
    UnpicklableArtifactException,
)
from causey._inputs import InputList, Inputs, InputTable
from causey._interrupt import TimeLimit
from causey._objects import Store
from causey._report import Report, encode_artifact
from causey._task import IMMUTABLE, SPLIT_STACK, Task, Transition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._channel import Channel, Message
    from causey._flow import FlowSpec
    from causey._objects import Artifact


# Longest value of a status, in bytes.
STATUS_BYTES_MAX = 4096


class LoadedFlow:
    """A flow class with what every attempt asks about it, found out once per process."""

    def __init__(self, flow_class: type[FlowSpec]) -> None:
        self.flow_class = flow_class
        # The package's folder; a step may change the working directory.
        self.folder = getcwd()
        self.constants = frozenset(flow_class._causey_constants())
        self.parameters = flow_class._causey_parameters()
        self._steps: dict[str, tuple[Any, bool, dict[str, Any] | None]] = {}

    def step(self, name: str) -> tuple[Any, bool, dict[str, Any] | None]:
        """The step's function, whether it is a join, the attributes of its @catch."""
        found = self._steps.get(name)
        if found is None:
            function = getattr(self.flow_class, name, None)
            marks = step_marks(function)
            if function is None or marks is None:
                raise ArtifactStoreException(f"{self.flow_class.__name__} has no step '{name}'")
            is_join = function.__code__.co_argcount > 1
            found = self._steps[name] = (function, is_join, marks.decorators.get("catch"))
        return found


class Attempt:
    """Also what `current` and `models` look at while the step runs."""

    def __init__(self, message: Message, loaded: LoadedFlow, channel: Channel, stores: dict[str, Store]) -> None:
        self.message = message
        self.flow_class = loaded.flow_class
        self.published: list[dict[str, Any]] = []
        self.models: dict[str, Encoded] = {}
        self.started: list[dict[str, Any]] = []
        self.events_published = 0
        self._loaded = loaded
        self._channel = channel
        self._asking = allocate_lock()
        self._splits = [split["count"] for split in message.get("splits") or ()]
        self._inputs = self._all_inputs()
        root = message["store"]
        if root not in stores:
            stores[root] = Store(root)
        self.store = stores[root]
        self.store.fetch = self._fetch

    def answer(self) -> Message:
        """Runs the step; every outcome, also sys.exit, is an answer."""
        current._attempt = self
        try:
            return self._answer()
        except BaseException as problem:
            from causey._failure import describe_failure

            error = describe_failure(problem, self.message.get("step"), self._loaded.folder)
            # Into the task's log too, as in Metaflow: what the step printed and why it ended belong together.
            try:
                print(error["traceback"], end="", file=sys.stderr)
            except (AttributeError, OSError, ValueError):
                # A step may have closed or replaced it.
                pass
            failed = {"type": "failed", "key": self.message["key"], "retryable": True, "error": error}
            if isinstance(problem, TimeoutException):
                failed["timed_out"] = True
            return failed
        finally:
            current._attempt = None

    def _answer(self) -> Message:
        message = self.message
        function, is_join, catch = self._loaded.step(message["step"])
        flow = self._flow(is_join)
        if not self._inputs:
            self._check_parameters(flow)
            self._constants = self._captured_constants(flow)
        try:
            if message["retry"] > message["retries_max"]:
                raise FailureHandledByCatch(message["retry"])
            with TimeLimit(message["step"], message.get("timeout_seconds")):
                self._call_equipped(flow, function, is_join)
            if catch and catch["var"]:
                setattr(flow, catch["var"], None)
            return self._finished(flow)
        except BaseException as problem:
            if catch is None or isinstance(problem, StepCancelled) or self._is_tried_again(function, problem):
                raise
            if isinstance(problem, UnpicklableArtifactException):
                flow = self._flow(is_join)
            self._catch(flow, function, catch, problem)
            return self._finished(flow)

    def _is_tried_again(self, function: Any, problem: BaseException) -> bool:
        message = self.message
        if message["retry"] >= message["retries_max"]:
            return False
        marks = step_marks(function)
        wanted = error_names(marks.decorators["retry"]["on"]) if marks and "retry" in marks.decorators else []
        return not wanted or any(each.__name__ in wanted for each in type(problem).__mro__)

    def _flow(self, is_join: bool) -> FlowSpec:
        """A fresh flow instance that sees the artifacts of the parents, in a join those that are the same in all."""
        artifacts: dict[str, Artifact] = {}
        if self._inputs:
            parent = self.store.object(self._inputs[0]).artifacts
            if is_join:
                shared = (*self._loaded.constants, *self._loaded.parameters, SPLIT_STACK)
                artifacts = {name: parent[name] for name in shared if name in parent}
            else:
                artifacts = dict(parent)
        message = self.message
        return self._instance(message["step"], message["path"], self._splits, artifacts, is_join)

    def _instance(
        self, step: str, path: list[int], splits: list[int], artifacts: dict[str, Artifact], is_join: bool
    ) -> FlowSpec:
        flow = self.flow_class(use_cli=False)
        flow.__dict__["_causey"] = Task(
            step, path, splits, artifacts, self.message["parameters"], self._loaded.constants, is_join
        )
        return flow

    def _call_equipped(self, flow: FlowSpec, function: Any, is_join: bool) -> None:
        environment = self.message.get("environment")
        if not environment:
            self._call_as_member(flow, function, is_join)
            return
        from causey._environment import variables

        with variables(environment):
            self._call_as_member(flow, function, is_join)

    def _call_as_member(self, flow: FlowSpec, function: Any, is_join: bool) -> None:
        if self.message.get("gang") is None:
            self._call(flow, function, is_join)
            return
        from causey._parallel import gang_environment

        with gang_environment(self.message):
            self._call(flow, function, is_join)

    def _call(self, flow: FlowSpec, function: Any, is_join: bool) -> None:
        task = flow._causey
        assert task is not None
        if is_join:
            function(flow, Inputs(self._inputs, self._input))
        else:
            function(flow)
        # Only a step that mentions `next` can have forgotten to call it; the builtin of that name is told apart below.
        if task.transition is None and "next" in function.__code__.co_names:
            from causey._graph import declared_transition

            if declared_transition(function) is not None:
                raise InvalidNextException(
                    f"step '{task.step}' ended without calling self.next()\n"
                    "hint: an early `return` skips the self.next(…) in the last line"
                )

    def _check_parameters(self, flow: FlowSpec) -> None:
        for attribute, parameter in self._loaded.parameters.items():
            try:
                getattr(flow, attribute)
            except (TypeError, ValueError) as problem:
                raise ValueError(f"parameter '{parameter.name}': {problem}") from None

    def _captured_constants(self, flow: FlowSpec) -> dict[str, Any]:
        """Before the step runs: what a step does to a class variable does not persist, as in Metaflow. Values that nobody can change
        are encoded after it."""
        values = {name: getattr(flow, name) for name in (*self._loaded.parameters, *self._loaded.constants)}
        return {
            name: value if type(value) in IMMUTABLE else encode_artifact(name, value) for name, value in values.items()
        }

    def _input(self, place: int) -> FlowSpec:
        parent = self._inputs[place]
        path = parent["path"]
        # A foreach join stands one level above its inputs, and has one input per item.
        splits = self._splits if len(path) == len(self._splits) else [*self._splits, len(self._inputs)]
        return self._instance(parent["step"], path, splits, dict(self.store.object(parent).artifacts), False)

    def _catch(self, flow: FlowSpec, function: Any, catch: dict[str, Any], problem: BaseException) -> None:
        from causey._failure import user_traceback
        from causey._graph import declared_transition

        text = user_traceback(problem)
        if catch["print_exception"]:
            print(f"@catch caught an exception from {flow}")
            for line in text.splitlines():
                print(f">  {line}")
        # What failed starts nothing.
        self.started.clear()
        wrapper = ExceptionWrapper(problem, text)
        flow._catch_exception = wrapper
        if catch["var"]:
            setattr(flow, catch["var"], wrapper)
        task = flow._causey
        assert task is not None
        # As if self.next had been called as usual.
        declared = declared_transition(function)
        task.transition = None if declared is None else Transition(declared.targets)

    def _finished(self, flow: FlowSpec) -> Message:
        task = flow._causey
        assert task is not None
        told = self.message.get("transition")
        if told is not None and task.transition is None:
            from causey._next import told_transition

            task.transition = told_transition(flow, task.step, told)
        report = Report(self.message["folder"], bool(self.message.get("typed")))
        if not self._inputs:
            for name, captured in self._constants.items():
                report.add(name, captured if isinstance(captured, Encoded) else encode_artifact(name, captured))
        report.collect(flow, task)
        for name, encoded in self.models.items():
            report.add(name, encoded)
        transition = task.transition
        return {
            "type": "finished",
            "key": self.message["key"],
            "next": transition.next if transition else [],
            "foreach": transition.count if transition else None,
            **report.fields(),
            "publish": self.published,
            **({"start": self.started} if self.started else {}),
        }

    def _all_inputs(self) -> InputList | InputTable:
        table = self.message.get("inputs_table")
        if table is not None:
            return InputTable(table, self._verify_inputs)
        inputs_file = self.message.get("inputs_file")
        if inputs_file is None:
            return InputList(self.message.get("inputs") or ())
        from json import load

        with open(inputs_file, encoding="utf-8") as file:
            return InputList(load(file))

    def _verify_inputs(self, start: int, count: int) -> None:
        answer = self.ask({"type": "inputs", "from": start, "count": count})
        if answer["type"] != "inputs_ready":
            raise ArtifactStoreException(f"inputs {start} to {start + count} cannot be read: {answer.get('message')}")

    def ask(self, question: Message) -> Message:
        """A question to the worker in the middle of an attempt. User threads may ask, so one at a time."""
        with self._asking:
            self._channel.send(question)
            answer = self._channel.receive()
        if answer is None:
            raise ArtifactStoreException(f"the worker went away while it was asked for {question}")
        return answer

    def tell_status(self, name: str, value: Any) -> None:
        from json import dumps

        plain = isinstance(name, str) and 0 < len(name) <= 64 and name.isascii()
        if not plain or not name.replace("_", "").replace("-", "").isalnum():
            raise CauseyException(f"{name!r} is not the name of a status: use up to 64 letters, digits, '_' and '-'")
        try:
            text = dumps(value, allow_nan=False)
        except (TypeError, ValueError) as problem:
            raise CauseyException(f"status '{name}' has no JSON form: {problem}") from None
        if len(text) > STATUS_BYTES_MAX:
            raise CauseyException(f"status '{name}' has {len(text)} bytes; at most {STATUS_BYTES_MAX} are told")
        with self._asking:
            self._channel.send({"type": "status", "name": name, "value": value})

    def _fetch(self, path: str) -> None:
        answer = self.ask({"type": "fetch", "path": path})
        if answer["type"] != "fetched":
            raise ArtifactStoreException(f"{path} cannot be fetched: {answer.get('message')}")
