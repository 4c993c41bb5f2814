"""A step that tells about its run until a file appears, and once more at its end."""

import os
import time

from causey import FlowSpec, Parameter, current, step


class Telling(FlowSpec):
    until = Parameter("until", required=True, type=str)

    @step
    def start(self):
        for done in range(1_000):
            current.set_status("progress", {"done": done})
        current.set_status("phase", "waiting")
        while not os.path.exists(self.until):
            time.sleep(0.05)
        current.set_status("progress", {"done": 1_000})
        self.next(self.end)

    @step
    def end(self):
        current.set_status("phase", "over")


if __name__ == "__main__":
    Telling()
