from metaflow import FlowSpec, step


class Numbers:
    """Iterable without indexing."""

    def __init__(self, last):
        self.last = last

    def __iter__(self):
        return iter(range(self.last))

    def __repr__(self):
        return f"Numbers({self.last})"


class Iterables(FlowSpec):
    """foreach over all sorts of things, also the same variable twice."""

    @step
    def start(self):
        self.items = (1, "two", None)
        self.next(self.a, foreach="items")

    @step
    def a(self):
        self.got = [self.index, self.input]
        self.next(self.a_join)

    @step
    def a_join(self, inputs):
        self.collected = [each.got for each in inputs]
        self.items = "xyz"
        self.next(self.to_b)

    @step
    def to_b(self):
        self.next(self.b, foreach="items")

    @step
    def b(self):
        self.got = [self.index, self.input]
        self.next(self.b_join)

    @step
    def b_join(self, inputs):
        self.collected = inputs[0].collected + [each.got for each in inputs]
        self.items = Numbers(3)
        self.next(self.to_c)

    @step
    def to_c(self):
        self.next(self.c, foreach="items")

    @step
    def c(self):
        self.got = [self.index, self.input]
        self.next(self.c_join)

    @step
    def c_join(self, inputs):
        self.collected = inputs[0].collected + [each.got for each in inputs]
        self.items = list(range(1005))[1000:]
        self.next(self.to_d)

    @step
    def to_d(self):
        self.next(self.d, foreach="items")

    @step
    def d(self):
        self.items.append("changed")
        self.got = [self.index, self.input, len(self.items)]
        self.next(self.d_join)

    @step
    def d_join(self, inputs):
        self.collected = inputs[0].collected + [each.got for each in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Iterables()
