"""The exception tree of the SDK. Everything it raises on purpose derives from `CauseyException`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class CauseyException(Exception):
    """Root of the tree; `headline` is what a screen shows above the text."""

    headline = "Flow failed"

    def __init__(self, msg: str = "") -> None:
        self.message = msg
        super().__init__(msg)

    def __str__(self) -> str:
        return self.message


class InvalidFlowException(CauseyException):
    """The flow file is wrong in a way that is known before anything runs."""

    headline = "Invalid flow"

    def __init__(self, msg: str = "", hint: str | None = None) -> None:
        self.hint = hint
        super().__init__(msg)


class InvalidDecoratorAttribute(InvalidFlowException):
    headline = "Unknown decorator attribute"


class InvalidNextException(CauseyException):
    headline = "Invalid self.next() transition detected"


class TimeoutException(CauseyException):
    """The step took longer than its @timeout; raised where it was at that moment."""

    headline = "@timeout"


class StepCancelled(SystemExit):
    """Raised in a step whose run was cancelled or failed elsewhere: `finally` and context managers may clean up."""

    def __init__(self) -> None:
        super().__init__(143)


class UnpicklableArtifactException(CauseyException):
    headline = "Artifact cannot be stored"


class FailureHandledByCatch(CauseyException):
    headline = "Task execution failed but @catch handled it"

    def __init__(self, retry_count: int) -> None:
        super().__init__(
            f"Task execution kept failing over {retry_count} attempts. Your code did not raise an exception. "
            "Something in the execution environment caused the failure."
        )


class MergeArtifactsException(CauseyException):
    """`artifact_names` lists what stood in the way."""

    def __init__(self, msg: str, unhandled: list[str] | None = None) -> None:
        super().__init__(msg)
        self.artifact_names = unhandled or []


class UnhandledInMergeArtifactsException(MergeArtifactsException):
    headline = "Unhandled artifacts in merge"


class MissingInMergeArtifactsException(MergeArtifactsException):
    headline = "Missing artifacts in merge"


class ArtifactStoreException(CauseyException):
    headline = "Artifact store"


class ServerException(CauseyException):
    """A call to the Causey server failed; `status` is None when no server answered."""

    headline = "Causey server"

    def __init__(self, msg: str, status: int | None = None, code: str | None = None) -> None:
        super().__init__(msg)
        self.status = status
        self.code = code


class ExceptionWrapper(Exception):
    """What `@catch(var=…)` stores: the text of an exception, safe to unpickle anywhere."""

    exception: str
    type: str
    stacktrace: str | None

    def __init__(self, exc: BaseException | None = None, stacktrace: str | None = None) -> None:
        super().__init__()
        if exc is not None:
            self.exception = str(exc)
            self.type = f"{type(exc).__module__}.{type(exc).__name__}"
            self.stacktrace = stacktrace

    # BaseException's own pickling would call __init__ with the arguments of the original.
    def __reduce__(self) -> Any:
        return ExceptionWrapper, (), self.__dict__

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return self.stacktrace or f"[no stacktrace]\n{self.type}: {self.exception}"
