"""`python -m causey._host`: a host of the worker (docs/protocol.md §1), as template or as runner."""

from __future__ import annotations

import gc
import os
import signal
import sys

from causey._channel import Channel
from causey._process import death_with_parent, leave, open_sockets, own_group, stream_lines, why_not_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from causey._channel import Message

FAILED_LOAD_STATUS = 1


def main() -> None:
    environment = os.environ
    role, host = environment["CAUSEY_HOST_ROLE"], environment["CAUSEY_HOST_ID"]
    parent = os.getppid()
    die_with_parent = death_with_parent()
    die_with_parent()
    if os.getppid() != parent:
        return
    # Importing makes few cycles and many objects: collections in between only cost time.
    gc.disable()
    stream_lines()
    if role == "template":
        # A Ctrl-C in the terminal reaches the whole group; how to end is for the worker to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        own_group()
    channel = Channel.connect(environment["CAUSEY_HOST_SOCKET"])
    channel.send(_hello(host, role))
    sockets = open_sockets() if role == "template" else set()

    from causey._flowfile import load_flow
    from causey._problem import FlowProblem
    from causey._runner import Runner

    try:
        flow = load_flow(environment["CAUSEY_FLOW_FILE"], or_functions=True)
    except FlowProblem as problem:
        channel.send({"type": "load_failed", "error": _error(problem)})
        leave_with_status(FAILED_LOAD_STATUS)
    runner = Runner(flow)
    if role == "template":
        from causey._template import Template

        because = why_not_fork(sockets)
        channel.send({"type": "loaded", "flow": flow.__name__, "forkable": because is None, "because": because})
        Template(channel, runner, die_with_parent, lambda runner_id: _hello(runner_id, "runner")).serve()
    else:
        from causey._interrupt import listen_for_the_end

        gc.freeze()
        gc.enable()
        listen_for_the_end()
        channel.send({"type": "ready"})
        runner.serve(channel)
    leave()


def leave_with_status(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _hello(host: str, role: str) -> Message:
    version = ".".join(map(str, sys.version_info[:3]))
    return {
        "type": "hello",
        "protocol": 1,
        "host": host,
        "role": role,
        "pid": os.getpid(),
        "language": f"python {version}",
    }


def _error(problem: BaseException) -> Message:
    from causey._failure import describe_failure
    from causey._problem import FlowProblem

    if problem.__cause__ is not None:
        return describe_failure(problem.__cause__, None)
    assert isinstance(problem, FlowProblem)
    first = problem.problems[0]
    text = first.message if first.hint is None else f"{first.message}\nhint: {first.hint}"
    return {**describe_failure(problem, None), "type": "InvalidFlow", "message": text, "traceback": text}


if __name__ == "__main__":
    main()
