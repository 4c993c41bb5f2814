from metaflow import FlowSpec, step


class NestedMerged(FlowSpec):
    """A branch inside a foreach and a foreach inside a branch; merging brings the outer item back."""

    @step
    def start(self):
        self.outer = [{"k": 1}, {"k": 2}]
        self.next(self.fan, foreach="outer")

    @step
    def fan(self):
        self.k = self.input["k"]
        self.next(self.plain, self.each)

    @step
    def plain(self):
        self.p = self.k * 10
        self.next(self.branch_join)

    @step
    def each(self):
        self.numbers = list(range(self.k + 1))
        self.next(self.number, foreach="numbers")

    @step
    def number(self):
        self.squared = self.input**2
        self.stack = [list(level) for level in self.foreach_stack()]
        self.next(self.number_join)

    @step
    def number_join(self, inputs):
        self.without = self.input
        self.merge_artifacts(inputs, include=["outer", "k"])
        self.squares = [each.squared for each in inputs]
        self.next(self.branch_join)

    @step
    def branch_join(self, inputs):
        self.merge_artifacts(inputs)
        self.again = [self.index, self.input, [list(level) for level in self.foreach_stack()]]
        self.next(self.join)

    @step
    def join(self, inputs):
        self.all = [[each.p, each.squares, each.again] for each in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    NestedMerged()
