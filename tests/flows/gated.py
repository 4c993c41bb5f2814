"""Steps that wait: for a signal, and for an approval."""

from causey import FlowSpec, approval, current, step, wait_for


class Gated(FlowSpec):
    @step
    def start(self):
        self.next(self.work)

    @wait_for("optional", timeout=1, default={"rate": 0.25})
    @wait_for("go")
    @step
    def work(self):
        self.rate = current.signals["go"]["rate"] + current.signals["optional"]["rate"]
        self.next(self.deploy)

    @approval(by=["ann", "bob"], timeout=3600)
    @step
    def deploy(self):
        self.next(self.end)

    @step
    def end(self):
        print(f"deployed with {self.rate}, as {sorted(current.signals)} say")


if __name__ == "__main__":
    Gated()
