from metaflow import FlowSpec, step


class Recursion(FlowSpec):
    """A switch that leads back to its own step, alone and inside a foreach."""

    @step
    def start(self):
        self.sum = 0
        self.left = True
        self.next(self.count)

    @step
    def count(self):
        self.sum += 1
        self.left = "again" if self.sum < 4 else "done"
        self.next({"again": self.count, "done": self.fan}, condition="left")

    @step
    def fan(self):
        self.items = [0, 2]
        self.next(self.halve, foreach="items")

    @step
    def halve(self):
        self.rounds = getattr(self, "rounds", []) + [self.input + len(getattr(self, "rounds", []))]
        self.more = len(self.rounds) <= self.input
        self.next({True: self.halve, False: self.leave}, condition="more")

    @step
    def leave(self):
        self.told = [self.index, self.rounds]
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.told = [each.told for each in inputs]
        self.merge_artifacts(inputs, include=["sum"])
        self.next(self.end)

    @step
    def end(self):
        self.done = self.sum


if __name__ == "__main__":
    Recursion()
