"""Steps with the packages of the flow, with more of their own, and with none."""

import os

from causey import FlowSpec, pypi, pypi_base, step

TEMPLATE = os.getpid()


def has(module):
    from importlib.util import find_spec

    return find_spec(module) is not None


@pypi_base(packages={"greeter": "<2"})
class Packaged(FlowSpec):
    @step
    def start(self):
        import greeter

        print("base", greeter.WORD)
        print("of the worker", has("numpy"))
        print("forked", os.getpid() != TEMPLATE)
        self.next(self.own)

    @pypi(packages={"greeter": ">=2", "polite": "1.0"})
    @step
    def own(self):
        import polite

        print("own", polite.WORD)
        self.next(self.end)

    @pypi(disabled=True)
    @step
    def end(self):
        print("bare", has("greeter"))


if __name__ == "__main__":
    Packaged()
