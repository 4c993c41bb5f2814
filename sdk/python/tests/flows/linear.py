from metaflow import FlowSpec, step


class Linear(FlowSpec):
    """Artifacts of every plain kind, lazy loading, change in place, deletion."""

    @step
    def start(self):
        self.number = 1
        self.text = "é"
        self.values = [1, 2]
        self.table = {"a": [1]}
        self.pair = (1, "x")
        self.nothing = None
        self.gone = "still here"
        self.next(self.change)

    @step
    def change(self):
        self.values.append(3)
        self.table["b"] = self.number + 1
        self.same = self.values
        self.deleted = self.gone
        del self.gone
        self.where = (self.input, self.index, self.foreach_stack())
        self.missing = hasattr(self, "absent")
        self.next(self.end)

    @step
    def end(self):
        self.number += 1


if __name__ == "__main__":
    Linear()
