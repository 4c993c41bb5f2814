"""What another flow starts."""

from causey import FlowSpec, Parameter, step


class Quotient(FlowSpec):
    dividend = Parameter("dividend", type=int, required=True)
    divisor = Parameter("divisor", type=int, required=True)

    @step
    def start(self):
        self.numbers = list(range(300_000))
        self.quotient = self.dividend / self.divisor
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Quotient()
