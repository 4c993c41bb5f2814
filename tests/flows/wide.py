"""A foreach wide enough for its results to be gathered in chunks."""

from causey import FlowSpec, Parameter, step


class Wide(FlowSpec):
    items = Parameter("items", default=2100)

    @step
    def start(self):
        self.numbers = list(range(self.items))
        self.next(self.work, foreach="numbers")

    @step
    def work(self):
        self.square = self.input**2
        if self.input == 640:
            print("this is item 640")
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.total = sum(each.square for each in inputs)
        self.last = (len(inputs), inputs[-1].square, inputs.work.index)
        self.next(self.end)

    @step
    def end(self):
        print(f"total={self.total} last={self.last}")


if __name__ == "__main__":
    Wide()
