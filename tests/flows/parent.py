"""A flow that starts others, waits for one of them and reads what it left."""

from causey import FlowSpec, Parameter, current, flows, step


class Parent(FlowSpec):
    divisor = Parameter("divisor", default=4)
    patience = Parameter("patience", default=False)

    @step
    def start(self):
        self.child = flows.start("Quotient", allow_failure=self.patience, dividend=20, divisor=self.divisor)
        flows.start("Quotient", wait=False, dividend=1, divisor=1)
        self.next(self.end)

    @step
    def end(self):
        print("the child", self.child.name, self.child.state)
        if self.child.successful:
            print("it left", self.child.data.quotient, self.child.data.numbers[-1], len(current.children))


if __name__ == "__main__":
    Parent()
