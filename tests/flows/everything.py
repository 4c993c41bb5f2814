"""Nested foreach with joins, a branch, parameters, a retry and a catch, as one flow."""

from causey import FlowSpec, Parameter, catch, current, retry, step


class Everything(FlowSpec):
    letters = Parameter("letters", default="ab")
    times = Parameter("times", default=2)

    @step
    def start(self):
        self.outer = list(self.letters)
        self.next(self.split, foreach="outer")

    @step
    def split(self):
        self.letter = self.input
        self.inner = list(range(self.times))
        self.next(self.work, foreach="inner")

    @retry(times=2, minutes_between_retries=0)
    @step
    def work(self):
        if self.input == 1 and current.retry_count == 0:
            raise ValueError("not yet")
        self.word = f"{self.letter}{self.input}r{current.retry_count}"
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.words = [task.word for task in inputs]
        self.next(self.collect)

    @step
    def collect(self, inputs):
        self.words = [word for task in inputs for word in task.words]
        self.next(self.fork)

    @step
    def fork(self):
        self.next(self.left, self.right)

    @catch(var="problem")
    @step
    def left(self):
        self.divided = 1 / 0
        self.next(self.merge)

    @step
    def right(self):
        self.count = len(self.words)
        self.next(self.merge)

    @step
    def merge(self, inputs):
        self.caught = bool(inputs.left.problem)
        self.count = inputs.right.count
        self.words = inputs.right.words
        self.next(self.end)

    @step
    def end(self):
        print(f"words={' '.join(self.words)} count={self.count} caught={self.caught}")


if __name__ == "__main__":
    Everything()
