"""Starting runs of other deployed flows. They start once the result of the step that asked for them is accepted."""

from __future__ import annotations

from causey._current import current
from causey._errors import CauseyException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._attempt import Attempt

__all__ = ["Child", "Data", "start"]


class Data:
    """What the last step of a run left, read when it is asked for."""

    def __init__(self, attempt: Attempt, reference: dict[str, str]) -> None:
        self.__dict__["_artifacts"] = attempt.store.object(reference).artifacts

    def __getattr__(self, name: str) -> Any:
        artifacts = self.__dict__["_artifacts"]
        if name not in artifacts or name.startswith("_"):
            raise AttributeError(f"the run left no artifact '{name}'")
        value = self.__dict__[name] = artifacts[name].load()
        return value

    def __dir__(self) -> list[str]:
        return sorted(name for name in self.__dict__["_artifacts"] if not name.startswith("_"))


class Child:
    """A run that a step started. What became of it is known to the steps behind that one, and only if they waited for it."""

    def __init__(self, flow: str, step: str, path: list[int], visit: int, ordinal: int) -> None:
        self.flow = flow
        self._place = (step, list(path), visit, ordinal)

    def __repr__(self) -> str:
        step, _, _, ordinal = self._place
        return f"Child({self.flow!r}, started by step {step!r} as number {ordinal})"

    def _found(self) -> dict[str, Any]:
        for found in current._field("children") or ():
            if self._place == (found["step"], found["path"], found["visit"], found["ordinal"]):
                return found  # type: ignore[no-any-return]
        raise CauseyException(
            f"the run of flow '{self.flow}' that step '{self._place[0]}' starts is not known here\n"
            "hint: it starts when its step has succeeded; the steps behind that one see it, unless it was started with wait=False"
        )

    @property
    def run_id(self) -> str:
        return self._found()["run"]  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        return self._found()["name"]  # type: ignore[no-any-return]

    @property
    def state(self) -> str:
        """succeeded, failed, cancelled or aborted."""
        return self._found()["state"]  # type: ignore[no-any-return]

    @property
    def successful(self) -> bool:
        return self.state == "succeeded"

    @property
    def data(self) -> Data:
        """The artifacts of the run's last step, as attributes; only of a run that succeeded."""
        attempt, found = current._attempt, self._found()
        if attempt is None or found["object"] is None:
            raise CauseyException(f"run {found['name']} of flow '{self.flow}' left nothing: it {found['state']}")
        return Data(attempt, found["object"])


def start(flow: str, /, *, wait: bool = True, allow_failure: bool = False, **parameters: Any) -> Child:
    """Starts a run of a deployed flow when this step has succeeded, once, however often the step is tried.

    With `wait` the next step opens when that run has ended, and this run fails with it unless `allow_failure`.
    """
    from json import dumps

    attempt = current._attempt
    if attempt is None:
        raise CauseyException("flows.start works only inside a running step")
    if not isinstance(flow, str) or not 0 < len(flow) <= 64 or not flow.replace("_", "").replace("-", "").isalnum() or not flow.isascii():
        raise CauseyException(f"{flow!r} is not the name of a flow\nhint: name a deployed flow, as in flows.start('Training')")
    for name, value in parameters.items():
        try:
            dumps(value, allow_nan=False)
        except (TypeError, ValueError) as problem:
            raise CauseyException(f"parameter '{name}' of flow '{flow}' has no JSON form: {problem}") from None
    message = attempt.message
    child = Child(flow, message["step"], message["path"], message["visit"], len(attempt.started))
    attempt.started.append(
        {"flow": flow, "parameters": parameters, "wait": bool(wait), "allow_failure": bool(allow_failure)}
    )
    return child
