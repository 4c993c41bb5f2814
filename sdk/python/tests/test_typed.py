"""Values in forms that all languages read, and files of functions for flows that are defined elsewhere."""

from __future__ import annotations

import math
import textwrap

import pytest
import worker as peer
from causey._encoding import decode
from causey._typed import encode_typed


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -(2**53), 0.1, 1e300, "Grüße \u2028 \"quoted\"", [1, [2.5, None]], {"a": [1, {"b": "c"}]}, [], {}],
)
def test_plain_values_are_kept_in_json_and_come_back_equal_in_type(value):
    encoded = encode_typed(value)
    assert encoded.encoding == "json" and encoded.type == type(value).__name__
    back = decode(bytes(encoded.parts[0]), "json")
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("value", [(1, 2), {1, 2}, {1: 2}, 2**60, math.nan, math.inf, object, [1, (2,)]])
def test_what_would_come_back_otherwise_is_pickled(value):
    assert encode_typed(value).encoding == "pickle5"


def test_a_list_inside_itself_is_pickled():
    value: list[object] = []
    value.append(value)
    assert encode_typed(value).encoding == "pickle5"


def test_bytes_stay_bytes():
    encoded = encode_typed(b"\x00\xff")
    assert encoded.encoding == "bytes" and decode(b"\x00\xff", "bytes") == b"\x00\xff"


def test_data_frames_of_plain_columns_become_tables():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1, 2], "x": [0.5, None], "name": ["a", None], "ok": [True, False]})
    encoded = encode_typed(frame)
    assert encoded.encoding == "table"
    back = decode(bytes(encoded.parts[0]), "table")
    assert back.equals(frame) and list(back.dtypes.astype(str)[["n", "x", "ok"]]) == ["int64", "float64", "bool"]
    for other in (frame.set_index("name"), frame.assign(when=pandas.Timestamp("2026-11-24")), frame.assign(x=[[1], [2]])):
        assert encode_typed(other).encoding == "pickle5"


FUNCTIONS = """
def start(self):
    self.items = [10, 20]
    self.seen = self.alpha


def work(self):
    self.doubled = self.input * 2


def gather(self, inputs):
    self.all = [each.doubled for each in inputs]


def choose(self):
    self.kind = "b"
"""


@pytest.fixture
def worker(tmp_path, start_worker):
    path = tmp_path / "steps.py"
    path.write_text(textwrap.dedent(FUNCTIONS))
    return start_worker(path)


def test_functions_are_the_steps_of_a_flow_that_is_defined_elsewhere(worker):
    runner = worker.fork()
    foreach = {"foreach": {"to": "work", "variable": "items"}}
    start = peer.message(worker.store, "start", parameters={"alpha": 0.5}, transition=foreach, typed=True)
    answer = runner.run(start)
    assert (answer["next"], answer["foreach"]) == (["work"], 2), answer
    assert {entry["encoding"] for entry in answer["artifacts"].values()} == {"json"}
    reference = peer.compose(start, answer)
    splits = [{"step": "start", "count": 2}]
    references = []
    for index in range(2):
        linear = {"linear": {"to": "gather"}}
        work = peer.message(worker.store, "work", path=[index], inputs=[reference], splits=splits, transition=linear, typed=True)
        references.append(peer.compose(work, worker.fork().run(work)))
    gather = peer.message(worker.store, "gather", inputs=references, transition="end", typed=True)
    answer = worker.fork().run(gather)
    assert answer["next"] == [] and answer["artifacts"]["all"]["encoding"] == "json", answer


def test_a_told_switch_takes_the_case_of_the_value(worker):
    cases = [{"value": "a", "to": "start"}, {"value": "b", "to": "work"}]
    switch = {"switch": {"condition": "kind", "cases": cases}}
    answer = worker.fork().run(peer.message(worker.store, "choose", transition=switch, typed=True))
    assert answer["next"] == ["work"]
    absent = {"switch": {"condition": "kind", "cases": cases[:1]}}
    answer = worker.fork().run(peer.message(worker.store, "choose", transition=absent, typed=True))
    assert "has value 'b' which is not in the available cases: ['a']" in answer["error"]["message"]


def test_what_only_r_reads_is_named_with_its_step(worker):
    runner = worker.fork()
    start = peer.message(worker.store, "start", parameters={"alpha": 0.5}, typed=True)
    answer = runner.run(start)
    answer["artifacts"]["input_model"] = {**answer["artifacts"]["seen"], "encoding": "rds", "type": "lm"}
    reference = peer.compose(start, answer)
    (worker.folder / "later.py").write_text("def later(self):\n    self.input_model\n")
    other = peer.Worker(worker.folder / "later.py")
    try:
        later = peer.message(worker.store, "later", inputs=[reference], transition="end", typed=True)
        error = other.fork().run(later)["error"]
    finally:
        other.close()
    assert "artifact 'input_model', which step 'start' left, is kept as rds, which only R reads" in error["message"]


def test_a_missing_function_is_named(worker):
    error = worker.fork().run(peer.message(worker.store, "absent", transition="end"))["error"]
    assert error["message"] == "steps has no step 'absent'"
