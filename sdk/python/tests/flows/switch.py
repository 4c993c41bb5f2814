from metaflow import FlowSpec, step


class Switch(FlowSpec):
    """Switches by text, number and boolean: paths that meet without a join, end early, lie in a foreach and in a branch."""

    @step
    def start(self):
        self.kind = "deep"
        self.trail = ["start"]
        self.next({"deep": self.deep, "shallow": self.shallow, "none": self.end}, condition="kind")

    @step
    def deep(self):
        self.trail.append("deep")
        self.next(self.meet)

    @step
    def shallow(self):
        self.trail.append("shallow")
        self.next(self.meet)

    @step
    def meet(self):
        self.trail.append("meet")
        self.items = [1, 2, 3, 4]
        self.next(self.sort, foreach="items")

    @step
    def sort(self):
        self.rest = self.input % 3
        self.next({0: self.zero, 1: self.one, 2: self.many}, condition="rest")

    @step
    def zero(self):
        self.word = "zero"
        self.next(self.told)

    @step
    def one(self):
        self.word = "one"
        self.next(self.told)

    @step
    def many(self):
        self.word = "many"
        self.next(self.gather)

    @step
    def told(self):
        self.word += "!"
        self.next(self.gather)

    @step
    def gather(self, inputs):
        # Metaflow orders the inputs by step name first.
        self.words = [word for _, word in sorted((each.index, each.word) for each in inputs)]
        self.trail = inputs[0].trail
        self.next(self.part)

    @step
    def part(self):
        self.next(self.left, self.right)

    @step
    def left(self):
        self.flag = self.words[0] == "one!"
        self.next({True: self.yes, False: self.no}, condition="flag")

    @step
    def yes(self):
        self.said = "yes"
        self.next(self.meet_again)

    @step
    def no(self):
        self.said = "no"
        self.next(self.meet_again)

    @step
    def right(self):
        self.next(self.meet_again)

    @step
    def meet_again(self, inputs):
        self.said = sorted(getattr(each, "said", "nothing") for each in inputs)
        self.merge_artifacts(inputs, exclude=["flag"])
        self.ending = 1.5
        self.next(self.choose_end)

    @step
    def choose_end(self):
        self.next({1.5: self.end, "more": self.more}, condition="ending")

    @step
    def more(self):
        self.next(self.end)

    @step
    def end(self):
        self.done = self.trail + self.words


if __name__ == "__main__":
    Switch()
