from metaflow import FlowSpec, JSONType, Parameter, current, step


def from_context(context):
    return f"{context.flow_name}.{context.parameter_name}"


class Parameters(FlowSpec):
    """Types, defaults, read-only parameters and class variables."""

    alpha = Parameter("alpha", default=0.5)
    whole = Parameter("whole", type=float, default=2)
    count = Parameter("count", default=3, help="how many")
    flag = Parameter("flag", default=False)
    label = Parameter("my-label", default="x")
    nothing = Parameter("nothing")
    document = Parameter("document", type=JSONType, default='{"a": [1, 2]}')
    called = Parameter("called", default=from_context)
    listed = Parameter("listed", default="a,b", separator=",")
    names = Parameter("names", type=JSONType, default='["p", "q"]')

    constant = 42
    mutable = [1]

    def helper(self):
        return self.alpha * self.count

    @property
    def derived(self):
        return self.count + 1

    @step
    def start(self):
        self.refused = []
        for name in ("alpha", "constant", "input", "index"):
            try:
                setattr(self, name, 1)
            except AttributeError:
                self.refused.append(name)
        self.computed = [self.helper(), self.derived, self.constant]
        self.mutable.append(2)
        self.known = sorted(current.parameter_names)
        self.next(self.each, foreach="names")

    @step
    def each(self):
        self.got = [self.input, self.document["a"], self.mutable]
        self.next(self.join)

    @step
    def join(self, inputs):
        self.all = [each.got for each in inputs]
        self.seen = [self.alpha, self.constant, self.label, inputs[0].count]
        self.next(self.end)

    @step
    def end(self):
        self.last = [self.flag, self.nothing, self.listed, self.called]


if __name__ == "__main__":
    Parameters()
