"""A foreach whose tasks leave marks: `running-INDEX-PID` while they run, `done-INDEX` after. The join publishes a model."""

import os
import time
from pathlib import Path

from causey import FlowSpec, Parameter, models, retry, step


class Marked(FlowSpec):
    marks = Parameter("marks", required=True, help="folder for the marks")
    items = Parameter("items", default=60)
    seconds = Parameter("seconds", default=0.1)

    @step
    def start(self):
        self.numbers = list(range(self.items))
        self.next(self.work, foreach="numbers")

    # A killed process counts as a failure of the step, so it needs retries to survive one.
    @retry(times=4, minutes_between_retries=0)
    @step
    def work(self):
        running = Path(self.marks, f"running-{self.index}-{os.getpid()}")
        running.touch()
        time.sleep(self.seconds)
        self.square = self.input**2
        Path(self.marks, f"done-{self.index}").touch()
        running.unlink()
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(task.square for task in inputs)
        models.publish("squares", {"total": self.total}, metrics={"items": len(inputs)})
        self.next(self.end)

    @step
    def end(self):
        print(f"total={self.total}")


if __name__ == "__main__":
    Marked()
