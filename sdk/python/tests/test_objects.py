"""Artifacts to object files and back: small, in their own file, inherited, damaged."""

from __future__ import annotations

import hashlib

import pytest
import worker as peer

from causey._errors import ArtifactStoreException
from causey._objects import Store

BODY = """
class Flow(FlowSpec):
    @step
    def start(self):
        {start}
        self.next(self.end)

    @step
    def end(self):
        {end}
"""


@pytest.fixture
def two_steps(flow_file, start_worker):
    """Runs start and end; returns the answers and the stored object of each."""

    def run(start, end, head=""):
        worker = start_worker(flow_file(head + BODY.format(start="\n        ".join(start), end="\n        ".join(end))))
        results, inputs = [], []
        for step in ("start", "end"):
            message = peer.message(worker.store, step, inputs=inputs)
            answer = worker.fork().run(message)
            assert answer["type"] == "finished", answer
            inputs = [peer.compose(message, answer)]
            results.append((answer, Store(str(worker.store)).object(inputs[0])))
        return results

    return run


def test_small_values_travel_inline_at_multiples_of_64(two_steps):
    (answer, stored), _ = two_steps(["self.a = 1", "self.b = 'text'", "self.c = [1.5]"], ["pass"])
    entries = answer["artifacts"]
    assert {name: entry["type"] for name, entry in entries.items()} == {"a": "int", "b": "str", "c": "list"}
    assert all(entry["file"] == "data" and entry["offset"] % 64 == 0 for entry in entries.values())
    assert [stored.artifacts[name].load() for name in "abc"] == [1, "text", [1.5]]
    for name in "abc":
        raw = bytes(stored.artifacts[name].raw())
        assert hashlib.blake2b(raw, digest_size=16).hexdigest() == entries[name]["hash"]


def test_more_than_16_kib_of_small_values_go_to_the_file_data(two_steps):
    (answer, stored), _ = two_steps(["self.a = 'x' * 20000"], ["pass"])
    assert "data" not in answer
    assert stored.artifacts["a"].load() == "x" * 20000


def test_values_of_a_mebibyte_get_a_file_of_their_own(two_steps):
    (answer, stored), _ = two_steps(["self.a = b'x' * 2**20", "self.b = b'y' * (2**20 - 100)"], ["pass"])
    assert answer["artifacts"]["a"]["file"] == "big-0" and answer["artifacts"]["b"]["file"] == "data"
    assert stored.artifacts["a"].load() == b"x" * 2**20
    assert stored.artifacts["b"].load() == b"y" * (2**20 - 100)


def test_untouched_and_unchanged_values_are_inherited_by_reference(two_steps):
    (_, first), (answer, second) = two_steps(
        ["self.untouched = [1]", "self.read = [2]", "self.changed = [3]", "self.assigned = [4]", "self.number = 5"],
        ["self.read", "self.changed.append(0)", "self.assigned = [4]", "self.number"],
    )
    entries = answer["artifacts"]
    assert {name for name, entry in entries.items() if entry.get("object") == 0} == {
        "untouched",
        "read",
        "assigned",
        "number",
    }
    assert answer["objects"] == [{name: first.reference[name] for name in ("run", "key", "digest")}]
    assert second.artifacts["read"].load() == [2] and second.artifacts["changed"].load() == [3, 0]


def test_set_that_was_only_read_is_inherited_under_another_hash_seed(flow_file, start_worker):
    path = flow_file(
        BODY.format(
            start="self.words = {'ab', 'cd', 'ef', 'gh', 'ij'}; self.more = {'a'}", end="self.more |= self.words"
        )
    )
    first, second = (start_worker(path, environment={"PYTHONHASHSEED": seed}) for seed in "12")
    message = peer.message(first.store, "start")
    parent = peer.compose(message, first.fork().run(message))
    answer = second.fork().run(peer.message(first.store, "end", inputs=[parent]))
    assert answer["artifacts"]["words"]["object"] == 0
    assert answer["artifacts"]["more"]["file"] == "data"


def test_arrays_are_stored_out_of_band_and_mapped_writable(two_steps):
    numpy = pytest.importorskip("numpy")
    (answer, stored), (later, _) = two_steps(
        [
            "self.large = numpy.arange(300_000, dtype='float64')",
            "self.same = numpy.ones(300_000)",
            "self.middle = numpy.arange(20_000)",
            "self.small = numpy.arange(3)",
        ],
        ["self.large[0] = 7", "self.total = float(self.same.sum())", "self.middle[1] = 5"],
        head="import numpy\n",
    )
    entries = answer["artifacts"]
    large, middle = entries["large"], entries["middle"]
    assert large["file"] == "big-0" and [length for _, length in large["buffers"]][1] == 2_400_000
    assert all(offset % 64 == 0 for offset, _ in large["buffers"])
    assert middle["file"] == "data" and len(middle["buffers"]) == 2
    assert "buffers" not in entries["small"]
    array = stored.artifacts["large"].load()
    array[0] = 99
    assert stored.artifacts["large"].load()[0] == 0
    assert later["artifacts"]["large"]["file"] == "big-0"
    assert "blob" in later["artifacts"]["same"] and "file" not in later["artifacts"]["same"]
    assert numpy.array_equal(stored.artifacts["middle"].load(), numpy.arange(20_000))


def test_damaged_object_is_refused_by_name(tmp_path):
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "k").write_bytes(b"nonsense" * 9)
    with pytest.raises(ArtifactStoreException, match="runs/r/k is not a Causey object: its footer is damaged"):
        Store(str(tmp_path)).object({"run": "r", "key": "k", "digest": ""})
    with pytest.raises(ArtifactStoreException, match="runs/r/absent is not in the artifact store"):
        Store(str(tmp_path)).object({"run": "r", "key": "absent", "digest": ""})


def test_newer_object_format_names_both_numbers(tmp_path):
    (tmp_path / "runs" / "r").mkdir(parents=True)
    manifest = b'{"format":2,"artifacts":{}}'
    footer = len(manifest).to_bytes(8, "little") + (0).to_bytes(8, "little") + b"CAUSEY1\n"
    (tmp_path / "runs" / "r" / "k").write_bytes(manifest + footer)
    with pytest.raises(ArtifactStoreException, match="has format 2, this SDK reads format 1"):
        Store(str(tmp_path)).object({"run": "r", "key": "k", "digest": ""})
