"""A foreach of four items that wait for the file `go` and leave as many bytes as they are told, and the version of the code they have run."""

import os
import time

from causey import FlowSpec, Parameter, step

VERSION = 1


class Waiting(FlowSpec):
    go = Parameter("go", required=True, help="file to wait for; each item leaves a dot in one of its own for each time it runs")
    size = Parameter("size", default=0)

    @step
    def start(self):
        self.numbers = [0, 1, 2, 3]
        self.next(self.work, foreach="numbers")

    @step
    def work(self):
        with open(f"{self.go}-{self.input}", "a") as mark:
            mark.write(".")
        while not os.path.exists(self.go):
            time.sleep(0.02)
        self.left, self.version = os.urandom(self.size), VERSION
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.versions = [each.version for each in inputs] + [VERSION]
        self.next(self.end)

    @step
    def end(self):
        self.last = self.versions + [VERSION]


if __name__ == "__main__":
    Waiting()
