import os
import pathlib
import signal
import time

from causey import FlowSpec, Parameter, catch, grace, retry, step, timeout


@timeout(hours=1)
class Limits(FlowSpec):
    """Steps that take too long, in the way `how` says."""

    how = Parameter("how", default="asleep")
    mark = Parameter("mark", default="")

    @step
    def start(self):
        self.next(
            {"asleep": self.asleep, "deaf": self.deaf, "caught": self.caught, "cleaning": self.cleaning},
            condition="how",
        )

    @timeout(seconds=0.5)
    @retry(times=1, minutes_between_retries=0)
    @step
    def asleep(self):
        time.sleep(600)
        self.next(self.end)

    @grace(seconds=0.5)
    @timeout(seconds=0.5)
    @step
    def deaf(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])
        time.sleep(600)
        self.next(self.end)

    @catch(var="problem")
    @timeout(seconds=0.5)
    @step
    def caught(self):
        time.sleep(600)
        self.next(self.end)

    @grace(seconds=2)
    @step
    def cleaning(self):
        if self.mark.endswith("deaf"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        mark = pathlib.Path(self.mark)
        mark.write_text(f"begun {os.getpid()} ")
        try:
            time.sleep(600)
        finally:
            mark.write_text("cleaned up")
        self.next(self.end)

    @step
    def end(self):
        problem = getattr(self, "problem", None)
        print("problem:", problem and problem.exception)


if __name__ == "__main__":
    Limits()
