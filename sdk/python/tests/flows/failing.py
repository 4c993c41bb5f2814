from metaflow import FlowSpec, step


class Failing(FlowSpec):
    """Three items, two of which fail in the same way."""

    @step
    def start(self):
        self.items = [1, 2, 3]
        self.next(self.work, foreach="items")

    @step
    def work(self):
        if self.index != 1:
            self.y = self.input * undefined  # noqa: F821
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Failing()
