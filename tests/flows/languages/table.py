import pandas


def start(self):
    self.frame = pandas.DataFrame({"n": [1, 2, 3], "x": [0.1, None, 1e-300], "name": ["a", "ü", None], "ok": [True, False, True]})
    self.third = 1 / 3
    self.text = 'line\n"quoted" \\ Grüße €'
    self.empty = []
    self.nothing = None
    self.nested = {"a": [1, [2, 3]], "b": {"c": "d"}}


def end(self):
    assert self.frame.equals(pandas.DataFrame({"n": [2, 4, 6], "x": [0.1, None, 1e-300], "name": ["a", "ü", None], "ok": [True, False, True]})), self.frame
    assert self.third == 1 / 3 and self.half == 0.5
    assert self.text == 'line\n"quoted" \\ Grüße €' and self.back == self.text
    assert self.nested == {"a": [1, [2, 3]], "b": {"c": "d"}}
    assert self.empty == [] and self.nothing is None
    print("all came back")
