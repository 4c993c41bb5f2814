"""What a host is asked to run by conformance.py, in Python."""

import sys
import time


def values(self):
    self.number = 41
    self.half = 0.5
    self.word = "Grüße"
    self.items = [10, 20, 30]
    self.record = {"a": 1, "b": [True, None]}


def read(self):
    self.sum = self.number + 1
    self.greeting = self.word + "!"


def item(self):
    self.doubled = self.input * 2


def gather(self, inputs):
    self.all = [each.doubled for each in inputs]


def talk(self):
    print("to stdout")
    print("to stderr", file=sys.stderr)


def fail(self):
    raise ValueError("no luck")


def slow(self):
    print("begun")
    time.sleep(60)


def leave(self):
    import os

    os._exit(3)


def large(self):
    self.text = "x" * 2_000_000
