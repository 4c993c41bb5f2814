"""Steps that do what no step should. `deed` says what, `mark` names a file that tells of it."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from causey import FlowSpec, Parameter, grace, step, timeout


def note(mark, text):
    part = Path(mark).with_suffix(".part")
    part.write_text(text)
    part.rename(mark)


def daemon(mark):
    """Leaves group, session and parent, and would stay for ever."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note(mark, str(os.getpid()))
            os.close(write)
            while True:
                time.sleep(1)
        os._exit(0)
    os.close(write)
    os.read(read, 1)


def deaf():
    """Hears no signal that can be refused, and waits for itself."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def handlers():
    """Replaces every handler and leaves it so."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, lambda number, frame: None)


class Rogue(FlowSpec):
    deed = Parameter("deed")
    mark = Parameter("mark", default="")

    @grace(seconds=0.5)
    @timeout(seconds=60)
    @step
    def start(self):
        deed = self.deed
        if deed == "daemon":
            daemon(self.mark)
        elif deed == "daemon-and-die":
            daemon(self.mark)
            os._exit(4)
        elif deed == "exit-0":
            os._exit(0)
        elif deed == "exit-3":
            os._exit(3)
        elif deed == "segfault":
            ctypes.string_at(0)
        elif deed == "silent":
            os.close(1)
            os.close(2)
        elif deed == "silent-and-raise":
            sys.stdout.close()
            os.close(2)
            raise ValueError("nobody hears me")
        elif deed == "handlers":
            handlers()
        elif deed == "unpicklable":
            self.lock = threading.Lock()
        elif deed == "import":
            import no_such_package  # noqa: F401
        elif deed == "loud":
            # Until the other flow has run meanwhile.
            while not Path(self.mark).exists():
                print("x" * 10_000)
        self.next(self.hang)

    @grace(seconds=0.5)
    @timeout(seconds=1)
    @step
    def hang(self):
        if self.deed == "deaf":
            deaf()
        self.next(self.end)

    @step
    def end(self):
        pass
