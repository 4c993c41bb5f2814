"""A flow that fails where BROKEN says, until it is mended."""

from metaflow import FlowSpec, Parameter, current, step

BROKEN = "item"


class Mended(FlowSpec):
    factor = Parameter("factor", default=10)

    @step
    def start(self):
        self.numbers = [1, 2, 3]
        self.made = BROKEN
        self.next(self.work, foreach="numbers")

    @step
    def work(self):
        if BROKEN == "item" and self.input == 3:
            raise ValueError("this item is broken")
        self.product = self.input * self.factor
        self.made = BROKEN
        self.next(self.gather)

    @step
    def gather(self, inputs):
        if BROKEN == "join":
            raise ValueError("the join is broken")
        self.total = sum(each.product for each in inputs)
        self.all_made = [each.made for each in inputs]
        self.resumes = current.origin_run_id is not None
        self.next(self.end)

    @step
    def end(self):
        print(f"total={self.total}")


if __name__ == "__main__":
    Mended()
