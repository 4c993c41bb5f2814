"""What the package exports, how it stays small, and how `python flow.py` hands over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import worker as peer

import causey

SHIM = peer.SDK / "causey" / "_shim"


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "PYTHONPATH": str(peer.SDK), **environment},
        capture_output=True,
        text=True,
    )


def test_every_exported_name_exists():
    assert all(getattr(causey, name) is not None for name in causey.__all__)
    assert causey.__all__ == sorted(causey.__all__)


def test_import_loads_nothing_heavy():
    heavy = {
        "json",
        "socket",
        "_socket",
        "typing",
        "dataclasses",
        "inspect",
        "ast",
        "urllib",
        "ctypes",
        "pickle",
        "hashlib",
    }
    code = (
        f"import sys; before = set(sys.modules); import causey; print(sorted((set(sys.modules) - before) & {heavy!r}))"
    )
    assert python("-c", code).stdout == "[]\n"


def test_metaflow_means_causey_behind_the_shim():
    code = (
        "from metaflow import FlowSpec, step, current, card\n"
        "from metaflow.exception import MetaflowException\n"
        "from metaflow.integrations import ArgoEvent\n"
        "import causey; print(FlowSpec is causey.FlowSpec, MetaflowException is causey.CauseyException)\n"
    )
    finished = python("-c", code, PYTHONPATH=f"{SHIM}{os.pathsep}{peer.SDK}")
    assert finished.stdout == "True True\n", finished.stderr


def test_name_that_is_not_offered_says_what_to_do():
    with pytest.raises(ImportError, match="'Run' of Metaflow is not offered by Causey yet\nhint: read results with"):
        causey.Run
    with pytest.raises(AttributeError, match="module 'causey' has no attribute 'nonsense'"):
        causey.nonsense


def test_flow_attributes_outside_of_a_run():
    class Flow(causey.FlowSpec):
        alpha = causey.Parameter("alpha", default=1)

    flow = Flow()
    assert (flow.index, flow.input, flow.foreach_stack(), flow.name) == (None, None, [], "Flow")
    with pytest.raises(causey.CauseyException, match="self.next works only inside a running step"):
        flow.next()
    assert causey.current.is_running_flow is False and causey.current.run_id is None


@pytest.fixture
def script(flow_file):
    return flow_file(
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                pass

        if __name__ == "__main__":
            Flow()
        """
    )


def test_script_hands_over_to_the_program(script, tmp_path):
    program = tmp_path / "causey"
    program.write_text('#!/bin/sh\necho "$@" "$CAUSEY_PYTHON"\n')
    program.chmod(0o755)
    finished = python(str(script), "run", "--alpha", "2", CAUSEY_BIN=str(program))
    assert finished.stdout == f"run {script} --alpha 2 {sys.executable}\n"
    assert python(str(script), "check", PATH=str(tmp_path), CAUSEY_BIN="").stdout.startswith(f"check {script}")


def test_missing_program_is_explained(script, tmp_path):
    finished = python(str(script), "run", PATH=str(tmp_path), CAUSEY_BIN="")
    if Path(sys.executable).with_name("causey").exists():
        pytest.skip("causey is installed beside this Python")
    assert finished.returncode == 2
    assert finished.stderr.startswith(
        "causey: the program `causey` is needed to run a flow, and was not found\nhint: pip install causey"
    )


def test_script_without_a_command_shows_its_usage(script):
    finished = python(str(script))
    assert (finished.returncode, finished.stderr.splitlines()[0]) == (
        2,
        "usage: python flow.py run [--parameter value …]",
    )
