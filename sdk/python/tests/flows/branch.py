from metaflow import FlowSpec, step


class Branch(FlowSpec):
    """Static branches of different length, inputs by name and by index, merge_artifacts."""

    @step
    def start(self):
        self.common = [1, 2, 3]
        self.shadowed = 0
        self.next(self.left, self.right, self.middle)

    @step
    def left(self):
        self.l = self.common[0]
        self.shadowed = 1
        self.next(self.left_more)

    @step
    def left_more(self):
        self.l += 10
        self.next(self.join)

    @step
    def right(self):
        self.r = {"r": 1}
        self.shadowed = 2
        self.next(self.join)

    @step
    def middle(self):
        self.next(self.join)

    @step
    def join(self, inputs):
        self.by_name = [inputs.left_more.l, inputs.right.r["r"], inputs.middle.shadowed]
        self.in_order = [each.shadowed for each in inputs]
        self.first = inputs[0].shadowed
        self.visible = [hasattr(self, "common"), hasattr(inputs[1], "l")]
        self.shadowed = max(self.in_order)
        self.merge_artifacts(inputs)
        self.after = self.common
        self.next(self.end)

    @step
    def end(self):
        self.done = self.l + self.r["r"]


if __name__ == "__main__":
    Branch()
