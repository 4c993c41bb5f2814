"""Counts the words of a text, one task per word: the same flow as words.R and words.toml.

causey run words.py --text "to be or not to be"
"""

from causey import FlowSpec, Parameter, step


class Words(FlowSpec):
    text = Parameter("text", default="to be or not to be")

    @step
    def start(self):
        self.words = sorted(set(self.text.split()))
        self.next(self.count, foreach="words")

    @step
    def count(self):
        self.n = self.text.split().count(self.input)
        print(self.input, self.n)
        self.next(self.collect)

    @step
    def collect(self, inputs):
        self.counts = [task.n for task in inputs]
        self.next(self.end)

    @step
    def end(self):
        print(f"{sum(self.counts)} words, the most frequent one {max(self.counts)} times")


if __name__ == "__main__":
    Words()
