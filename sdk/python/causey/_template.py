"""The template role: has imported the flow and forks runners when the worker asks. Events wake it, never a clock."""

from __future__ import annotations

# Not `signal` in a child: its enumerations touch, and so copy, tens of pages.
import _signal  # type: ignore[import-not-found]
import gc
import os
import signal
import sys
from _socket import socketpair

from causey._channel import Channel
from causey._interrupt import listen_for_the_end
from causey._pages import learner
from causey._process import adoption, leave, own_group, reseed, stream_lines, take_output, time_slices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from causey._channel import Message
    from causey._runner import Runner

FAILED_START_STATUS = 70
PATIENT_SLICE_NANOSECONDS = 100_000_000


class Template:
    def __init__(
        self, channel: Channel, runner: Runner, die_with_parent: Callable[[], None], hello: Callable[[str], Message]
    ) -> None:
        self._channel = channel
        self._runner = runner
        self._die_with_parent = die_with_parent
        self._hello = hello
        self._hosts: dict[int, str] = {}
        # Received and not used yet: two for each runner to be forked.
        self._descriptors: list[int] = []
        self._set_slice = time_slices()
        self._adopt = adoption()
        self._wakeup_read, self._wakeup_write = socketpair()
        self._pages = learner()

    def serve(self) -> None:
        """Returns when the worker closes."""
        from select import POLLIN, poll

        from causey._rehearsal import WARM_UP_ROUNDS, rehearse

        self._rehearse = rehearse
        rehearse(WARM_UP_ROUNDS)
        # A fork, and what a child does until it is ready, takes milliseconds: whoever runs a step goes first.
        self._set_slice(PATIENT_SLICE_NANOSECONDS)
        # A child ends: the signal's number arrives at the wakeup socket, which ends the wait below.
        for stream in (self._wakeup_read, self._wakeup_write):
            stream.setblocking(False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        # Objects made so far are never collected in children, where a collection would copy every page it looks at.
        gc.freeze()
        poller = poll()
        poller.register(self._channel.fileno(), POLLIN)
        poller.register(self._wakeup_read.fileno(), POLLIN)
        if self._pages is not None:
            poller.register(self._pages.fileno(), POLLIN)
        while True:
            for descriptor, _ in poller.poll():
                if descriptor == self._wakeup_read.fileno():
                    self._wakeup_read.recv(4096)
                    self._reap()
                elif self._pages is not None and descriptor == self._pages.fileno():
                    self._pages.learn()
                elif not self._channel.fill(self._descriptors):
                    return
            while (message := self._channel.take()) is not None:
                if message["type"] != "fork":
                    return
                self._fork(message)

    def _fork(self, message: Message) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        output = self._descriptors[:2]
        try:
            if len(output) < 2:
                raise OSError("its two descriptors for output are missing")
            pid = os.fork()
            if pid == 0:
                self._become_runner(message["host"], message["hurry"], *output)
            self._hosts[pid] = message["host"]
        except OSError as problem:
            self._channel.send({"type": "fork_failed", "host": message["host"], "message": str(problem)})
        finally:
            del self._descriptors[:2]
            for descriptor in output:
                os.close(descriptor)

    def _reap(self) -> None:
        # Each by its own id: processes that the flow file started at import are not ours to wait for.
        for pid, host in list(self._hosts.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._hosts[pid]
                self._channel.send({"type": "exited", "host": host, "pid": pid, **_how_it_ended(status)})

    def _become_runner(self, host: str, hurry: bool, stdout: int, stderr: int) -> None:
        """In the child; never returns."""
        template = os.getppid()
        try:
            self._die_with_parent()
            self._adopt()
            own_group()
            _signal.set_wakeup_fd(-1)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
            listen_for_the_end()
            for stream in (self._channel, self._wakeup_read, self._wakeup_write):
                stream.close()
            take_output(stdout, stderr)
            for descriptor in self._descriptors:
                os.close(descriptor)
            stream_lines()
            reseed()
            after_first = None
            if hurry:
                self._hurry()
            else:
                after_first = self._make_ready()
            gc.enable()
            self._set_slice(0)
            # The parent may have died before the kernel was asked to tell.
            if os.getppid() != template:
                return
            channel = Channel.connect(os.environ["CAUSEY_HOST_SOCKET"])
            channel.send(self._hello(host))
            channel.send({"type": "ready"})
            self._runner.serve(channel, after_first)
            leave()
        except BaseException:
            from traceback import print_exc

            print_exc()
        finally:
            # Whatever went wrong, also while saying so, a child must not run on as a second template.
            os._exit(FAILED_START_STATUS)


    def _make_ready(self) -> Callable[[], None] | None:
        """Spends now what would delay the first step, and returns what shall follow that."""
        self._rehearse()
        return self._pages.copy() if self._pages is not None else None

    def _hurry(self) -> None:
        if self._pages is not None:
            self._pages.leave()


def _ignore(signal_number: int, frame: object) -> None:
    """Without a handler the kernel would not wake the template."""


def _how_it_ended(status: int) -> dict[str, object]:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"SIG{number}"
        return {"code": None, "signal": name}
    return {"code": os.waitstatus_to_exitcode(status), "signal": None}
