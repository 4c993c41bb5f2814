"""Says what a step may do: see other processes, signal them, write and read files."""

import ctypes
import os
import resource

from causey import FlowSpec, Parameter, step

LANDLOCK_CREATE_RULESET = 444


def attempt(action):
    try:
        action()
        return "allowed"
    except OSError as problem:
        return type(problem).__name__


def status(pid, field):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith(field + ":"))


class Confined(FlowSpec):
    outside = Parameter("outside", default="")
    secret = Parameter("secret", default="")

    @step
    def start(self):
        worker = int(status(os.getppid(), "PPid"))
        print("landlock", max(ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, 1), 0))
        print("new privileges given up", status("self", "NoNewPrivs"))
        print("core", resource.getrlimit(resource.RLIMIT_CORE)[0])
        print("credentials", sorted(name for name in os.environ if "NATS" in name or "TOKEN" in name or name.startswith("AWS_")))
        print("environment of the worker", attempt(lambda: open(f"/proc/{worker}/environ").read()))
        print("signal to the worker", attempt(lambda: os.kill(worker, 0)))
        print("signal to its own", attempt(lambda: os.kill(os.getpid(), 0)))
        print("temporary file", attempt(lambda: open(f"/tmp/causey-test-{os.getpid()}", "x").close()))
        attempt(lambda: os.unlink(f"/tmp/causey-test-{os.getpid()}"))
        if self.outside:
            print("file outside", attempt(lambda: open(self.outside, "x").close()))
        if self.secret:
            print("secret", attempt(lambda: open(self.secret).read()))
        self.next(self.end)

    @step
    def end(self):
        pass
