from metaflow import FlowSpec, Parameter, retry, step


class Base(FlowSpec):
    size = Parameter("size", default=2)
    version = "base"

    @step
    def start(self):
        self.made_by = "base start"
        self.next(self.middle)

    @retry(times=1)
    @step
    def middle(self):
        self.middle_by = "base middle"
        self.next(self.end)

    @step
    def end(self):
        self.ended = self.describe()

    def describe(self):
        return f"{self.version} {self.size}"


class Mixin:
    extra = "mixed in"

    def describe(self):
        return f"mixin {self.extra} {super().describe()}"
