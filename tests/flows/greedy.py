"""A step that takes memory without end, itself or in a child that has left its group; `deed` says which."""

import subprocess
import sys

from causey import FlowSpec, Parameter, resources, step

EAT = "import time\nheld = []\nwhile True:\n    held.append(b'x' * 5_000_000)\n    time.sleep(0.02)\n"


class Greedy(FlowSpec):
    deed = Parameter("deed")

    @resources(memory=200)
    @step
    def start(self):
        if self.deed == "itself":
            exec(EAT, {})
        elif self.deed == "child":
            subprocess.run([sys.executable, "-c", EAT], start_new_session=True, check=True)
        self.next(self.end)

    @step
    def end(self):
        pass
