"""What hosts ask of the operating system: dying with the parent, sessions, descriptors, a quiet end. Linux first."""

from __future__ import annotations

import os
import signal
import sys
from _struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def death_with_parent() -> Callable[[], None]:
    """A function that makes the kernel kill this process when its parent dies. Made before any fork: ctypes is slow."""
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def adoption() -> Callable[[], None]:
    """A function that makes this process the parent of what its descendants leave behind, so that a daemon shows whose it is: the
    worker ends it with the step. Made before any fork: ctypes is slow."""
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def time_slices() -> Callable[[int], None]:
    """A function that sets for how many nanoseconds this process computes in one go, 0 for the system's default; shorter ones
    go before longer ones at every wake-up (sched_setattr(2), Linux 6.12; without effect elsewhere)."""
    number = {"x86_64": 314, "aarch64": 274, "riscv64": 274}.get(os.uname().machine)
    if sys.platform != "linux" or number is None:
        return lambda nanoseconds: None
    import ctypes

    call = ctypes.CDLL(None).syscall

    def set_slice(nanoseconds: int) -> None:
        # struct sched_attr: size, policy SCHED_OTHER, flags, nice, priority, runtime, deadline, period.
        attributes = pack("=IIQiIQQQ", 48, 0, 0, os.nice(0), 0, nanoseconds, 0, 0)
        call(number, 0, attributes, 0)

    return set_slice


def own_group() -> None:
    """A process group of its own, so that the worker can end the step with all its children. Not a session: the kernel shares
    the processor out by session first (autogroup), which would leave `leave`'s low priority without effect."""
    try:
        os.setpgid(0, 0)
    except PermissionError:
        # The leader of a session has one.
        pass


def take_output(stdout: int, stderr: int) -> None:
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)


def stream_lines() -> None:
    """Output shall be seen line by line while the step runs."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        # A forked runner has its template's streams, which do so already.
        if reconfigure is not None and not stream.line_buffering:
            reconfigure(line_buffering=True)


def flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            # A step may have closed or replaced it.
            pass


def leave() -> None:
    """Ends the process without Python's teardown, at the lowest priority: unmapping a large image takes milliseconds
    of the very core on which the worker was just woken."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        pass
    os._exit(0)


def open_sockets() -> set[str]:
    """Identities of this process's open sockets; empty where there is no /proc."""
    found: set[str] = set()
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def why_not_fork(sockets_before: set[str]) -> str | None:
    """What the flow file set up at import that does not survive a fork."""
    from _thread import _count

    if _count() > 0:
        import threading

        names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        return f"the flow file starts a thread at import ({', '.join(names) or 'unnamed'})"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "the flow file initialises CUDA at import"
    if open_sockets() - sockets_before:
        return "the flow file opens a socket at import"
    return None


def reseed() -> None:
    """Forked runners would all draw the template's random numbers. Of `random` Python sees to that by itself."""
    for name in ("numpy.random", "torch"):
        module = sys.modules.get(name)
        if module is not None:
            module.seed()
