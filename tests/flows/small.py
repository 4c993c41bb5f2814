"""A run in a moment: what must still work after something else went wrong."""

from causey import FlowSpec, Parameter, step


class Small(FlowSpec):
    alpha = Parameter("alpha", default=0.5)
    count = Parameter("count", default=1)

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        print(f"alpha={self.alpha} count={self.count}")


if __name__ == "__main__":
    Small()
