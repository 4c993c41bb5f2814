"""Whole flows give the artifacts Metaflow gives; `expected/` was printed by oracle.py under Metaflow 2.19."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import worker as peer

HERE = Path(__file__).resolve().parent
EXPECTED = sorted((HERE / "expected").glob("*.json"))


@pytest.mark.parametrize("reuse", [False, True], ids=["fork", "reuse"])
@pytest.mark.parametrize("expected", EXPECTED, ids=lambda path: path.stem)
def test_artifacts_are_those_of_metaflow(expected, reuse, start_worker):
    flow = HERE / "flows" / f"{expected.stem}.py"
    definition = peer.describe(flow)["definition"]
    worker = start_worker(flow)
    peer.run_flow(worker, definition, reuse=reuse)
    dumped = subprocess.run(
        [sys.executable, "-m", "causey._dump", str(worker.store), "r1", "--flow", str(flow)],
        env={**os.environ, "PYTHONPATH": str(peer.SDK)},
        capture_output=True,
        text=True,
    )
    assert dumped.returncode == 0, dumped.stderr
    assert json.loads(dumped.stdout) == json.loads(expected.read_text())


def test_equal_failures_of_several_tasks_have_equal_hashes(start_worker):
    worker = start_worker(HERE / "flows" / "failing.py")
    start = peer.message(worker.store, "start", flow="Failing")
    runner = worker.fork()
    parent = peer.compose(start, runner.run(start))
    answers = []
    for index in (0, 2):
        run = peer.message(
            worker.store, "work", path=[index], inputs=[parent], splits=[{"step": "start", "count": 3}], flow="Failing"
        )
        answers.append(runner.run(run))
    first, second = (answer["error"] for answer in answers)
    assert first["hash"] == second["hash"]
    assert {name: first[name] for name in ("type", "message", "file", "line", "step", "source")} == {
        "type": "NameError",
        "message": "name 'undefined' is not defined",
        "file": "failing.py",
        "line": 15,
        "step": "work",
        "source": "self.y = self.input * undefined  # noqa: F821",
    }
    assert "causey" not in first["traceback"].replace(str(peer.SDK), "")
    if sys.version_info >= (3, 11):
        assert (first["column"], first["end_column"]) == (34, 43)
