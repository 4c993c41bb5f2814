from metaflow import FlowSpec, step


class Nested(FlowSpec):
    """foreach in foreach with steps between, and what input, index and foreach_stack say in every place."""

    def look(self):
        return [self.index, self.input, [list(level) for level in self.foreach_stack()]]

    @step
    def start(self):
        self.outer = ["a", "b", "c"]
        self.seen = self.look()
        self.next(self.prepare, foreach="outer")

    @step
    def prepare(self):
        self.seen = self.look()
        self.next(self.split)

    @step
    def split(self):
        self.seen = self.look()
        self.inner = [self.input * n for n in range(1, 3)]
        self.next(self.work, foreach="inner")

    @step
    def work(self):
        self.seen = self.look()
        self.result = self.input + "!"
        self.next(self.after)

    @step
    def after(self):
        self.seen = self.look()
        self.inner = ["overwritten"] * 2
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.seen = self.look()
        self.results = [each.result for each in inputs]
        self.of_inputs = [[each.index, each.input, len(each.foreach_stack())] for each in inputs]
        self.next(self.between)

    @step
    def between(self):
        self.seen = self.look()
        self.next(self.outer_join)

    @step
    def outer_join(self, inputs):
        self.seen = self.look()
        self.results = [each.results for each in inputs]
        self.indices = [each.index for each in inputs]
        self.last = inputs.between.results
        self.next(self.end)

    @step
    def end(self):
        self.seen = self.look()


if __name__ == "__main__":
    Nested()
