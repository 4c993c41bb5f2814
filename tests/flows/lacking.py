"""A flow that asks for a secret that is not there."""

from causey import FlowSpec, retry, secrets, step


class Lacking(FlowSpec):
    @retry(times=3)
    @secrets(sources=["env:NO_SUCH_SECRET"])
    @step
    def start(self):
        print("user code runs")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Lacking()
