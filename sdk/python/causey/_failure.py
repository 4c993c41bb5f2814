"""An exception of user code as the ERROR of the protocol: where it happened, without the SDK's own frames."""

from __future__ import annotations

import os
import traceback

from causey._encoding import content_hash
from causey._errors import StepCancelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SDK_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Import names whose package has another name on PyPI.
_PACKAGES = {
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}

# Two such texts fit into a line of 1 MiB even when each character is escaped.
_TEXT_MAX = 64 * 1024


def describe_failure(problem: BaseException, step: str | None, root: str | None = None) -> dict[str, Any]:
    """`root` is the folder the code package lies in; paths are given relative to it."""
    root = os.path.realpath(root or os.getcwd()) + os.sep
    summary = _without_sdk_frames(traceback.TracebackException.from_exception(problem))
    error: dict[str, Any] = {
        "type": type(problem).__name__,
        "message": _clipped(_message(problem)),
        "traceback": _clipped("".join(summary.format())),
        "file": None,
        "line": None,
        "step": step,
        "source": None,
        "column": None,
        "end_column": None,
        "hash": _hash(problem, summary),
        "classes": [each.__name__ for each in type(problem).__mro__[1:-1]],
    }
    frame = _innermost_user_frame(summary, root)
    if frame is not None:
        error.update(file=_relative(frame.filename, root), line=frame.lineno, source=frame.line or None)
        error.update(_columns(frame))
    if isinstance(problem, SyntaxError) and problem.filename:
        error.update(
            file=_relative(problem.filename, root), line=problem.lineno, source=(problem.text or "").strip() or None
        )
    return error


def user_traceback(problem: BaseException) -> str:
    return "".join(_without_sdk_frames(traceback.TracebackException.from_exception(problem)).format())


def _without_sdk_frames(summary: traceback.TracebackException) -> traceback.TracebackException:
    seen: set[int] = set()
    pending: list[traceback.TracebackException | None] = [summary]
    while pending:
        part = pending.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        kept = [frame for frame in part.stack if not frame.filename.startswith(_SDK_FOLDER)]
        part.stack = traceback.StackSummary.from_list(kept)
        pending += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
    return summary


def _innermost_user_frame(summary: traceback.TracebackException, root: str) -> traceback.FrameSummary | None:
    frames = list(summary.stack)
    own = [frame for frame in frames if _is_user_file(frame.filename, root)]
    return own[-1] if own else frames[-1] if frames else None


def _is_user_file(path: str, root: str) -> bool:
    path = os.path.realpath(path)
    return path.startswith(root) and f"{os.sep}site-packages{os.sep}" not in path


def _relative(path: str, root: str) -> str:
    real = os.path.realpath(path)
    return real[len(root) :] if real.startswith(root) else path


def _columns(frame: traceback.FrameSummary) -> dict[str, int]:
    """Columns of the failing expression in characters from the start of the line; Python counts bytes. From 3.11 on."""
    start, end = getattr(frame, "colno", None), getattr(frame, "end_colno", None)
    if start is None or end is None or getattr(frame, "end_lineno", None) != frame.lineno:
        return {}
    import linecache

    line = linecache.getline(frame.filename, frame.lineno or 0).encode()
    return {
        "column": len(line[:start].decode(errors="replace")),
        "end_column": len(line[:end].decode(errors="replace")),
    }


def _clipped(text: str) -> str:
    """Keeps both ends, so that the report of a failure always fits into a line."""
    left_out = len(text) - _TEXT_MAX
    if left_out <= 0:
        return text
    return f"{text[: _TEXT_MAX // 2]}\n[… {left_out} characters left out …]\n{text[-_TEXT_MAX // 2 :]}"


def _message(problem: BaseException) -> str:
    if isinstance(problem, StepCancelled):
        return "the step was cancelled"
    if isinstance(problem, SystemExit):
        return f"the step called sys.exit({'' if problem.code is None else repr(problem.code)})"
    if isinstance(problem, KeyboardInterrupt):
        return "the step was interrupted"
    text = str(problem)
    hint = _hint(problem)
    return f"{text}\nhint: {hint}" if hint else text


def _hint(problem: BaseException) -> str | None:
    if isinstance(problem, ModuleNotFoundError) and problem.name:
        package = problem.name.partition(".")[0]
        package = _PACKAGES.get(package, package)
        add = f"add it to the step's environment: @pypi(packages={{'{package}': ''}})"
        return add if "CAUSEY_ENVIRONMENT" in os.environ else f"pip install {package}, or {add}"
    if isinstance(problem, AttributeError) and problem.name:
        from causey._flow import FlowSpec
        from causey._suggest import did_you_mean

        if isinstance(problem.obj, FlowSpec):
            own = [name for name in dir(problem.obj) if not name.startswith("_")]
            return did_you_mean(problem.name, own)
    return None


def _hash(problem: BaseException, summary: traceback.TracebackException) -> str:
    """Equal failures of many tasks have equal hashes: type and places, not the message, which may hold the item."""
    places = [f"{os.path.basename(frame.filename)}:{frame.name}:{frame.line}" for frame in summary.stack]
    text = "\n".join([f"{type(problem).__module__}.{type(problem).__qualname__}", *places])
    return content_hash(text.encode())
