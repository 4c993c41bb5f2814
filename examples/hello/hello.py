"""The smallest flow with a foreach: three tasks in parallel and a join.

causey run hello.py
"""

from causey import FlowSpec, step


class HelloFlow(FlowSpec):
    @step
    def start(self):
        self.items = [1, 2, 3]
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.doubled = self.input * 2
        print(f"doubled {self.input}")
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(task.doubled for task in inputs)
        self.next(self.end)

    @step
    def end(self):
        print(f"total={self.total}")


if __name__ == "__main__":
    HelloFlow()
