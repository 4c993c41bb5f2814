"""Throws dice in every item of a foreach; forked from one process, they must not all fall alike."""

import random

import numpy as np
from causey import FlowSpec, step


class Dice(FlowSpec):
    @step
    def start(self):
        self.items = list(range(6))
        self.next(self.throw, foreach="items")

    @step
    def throw(self):
        self.thrown = (random.random(), float(np.random.rand()))
        self.next(self.join)

    @step
    def join(self, inputs):
        self.plain = [task.thrown[0] for task in inputs]
        self.numpy = [task.thrown[1] for task in inputs]
        self.next(self.end)

    @step
    def end(self):
        print(f"different={len(set(self.plain))},{len(set(self.numpy))}")


if __name__ == "__main__":
    Dice()
