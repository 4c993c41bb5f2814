import os
import time

from causey import FlowSpec, Parameter, resources, step


class Pools(FlowSpec):
    """CPU and "GPU" steps: the pretend GPU is a label and a resource of its own."""

    marks = Parameter("marks", default="")
    items = Parameter("items", default=6)
    seconds = Parameter("seconds", default=0.2)

    @step
    def start(self):
        self.numbers = list(range(self.items))
        self.next(self.train, foreach="numbers")

    @resources(memory=64, labels={"kind": "pretend-gpu"}, custom={"accelerator": 1})
    @step
    def train(self):
        own = os.path.join(self.marks, str(self.input))
        open(own, "w").close()
        self.beside = len(os.listdir(self.marks))
        time.sleep(self.seconds)
        os.unlink(own)
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.most = max(each.beside for each in inputs)
        print("most at once:", self.most)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Pools()
