"""The definition of a flow and the files of its code package."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import worker as peer

SMALL = """
class Small(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass
"""


def described(flow_file, decorator):
    path = flow_file(SMALL.replace("    @step\n    def start", f"    {decorator}\n    @step\n    def start"))
    return peer.describe(path)


def test_resources_are_numbers_or_text_in_metaflows_units(flow_file):
    given = (
        '@resources(cpu="2", memory="8192", gpu=0.5, gpu_model="A100", gpu_memory=10_000, disk="20480", shared_memory=64, '
        'pool="gpu", spill="cpu", spill_seconds=20, labels={"zone": "b"}, custom={"licence": 1})'
    )
    steps = described(flow_file, given)["definition"]["steps"]
    assert steps[0]["resources"] == {
        "cpu": 2.0,
        "memory_mb": 8192,
        "gpu": 0.5,
        "gpu_model": "A100",
        "gpu_memory_mb": 10_000,
        "disk_mb": 20_480,
        "shared_memory_mb": 64,
        "pool": "gpu",
        "spill": {"pool": "cpu", "after_seconds": 20.0},
        "labels": {"zone": "b"},
        "custom": {"licence": 1.0},
    }
    # What is not asked for is not needed: memory too, although Metaflow's decorator has a default.
    plain = described(flow_file, "@resources")["definition"]["steps"][0]["resources"]
    assert plain == {"cpu": 1.0, "memory_mb": None, "gpu": 0.0, "pool": None}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("cpu=0", "cpu=0 is not between 0.001 and 1024"),
        ("memory='lots'", "memory='lots' is not a number"),
        ("gpu=1.5", "gpu=1.5: ask for whole ones, or for a share of one below 1"),
        ("gpu_model='A100'", "gpu_model= says which GPU, but none is asked for"),
        ("labels=['zone']", "is not a dict of at most 32 entries"),
        ("custom={'licence': 0}", "custom['licence']=0 is not between"),
        ("spill='other'", "spill='other' needs pool="),
    ],
)
def test_wrong_resources_name_step_and_line(flow_file, given, words):
    answer = described(flow_file, f"@resources({given})")
    [problem] = answer.get("problems") or [answer["problem"]]
    assert problem["step"] == "start" and problem["line"] > 0
    assert problem["message"].startswith("@resources of step 'start': ") and words in problem["message"]


def test_definition_holds_everything_the_coordinator_needs(flow_file):
    path = flow_file(
        '''
        listed = {"name": "c", "parameters": ["doc", ("n", "m")]}

        @trigger(events=["a", {"name": "b", "parameters": {"alpha": "x"}}, listed])
        class Full(FlowSpec):
            """What it is for.

            More.
            """

            alpha = Parameter("alpha", default=1, type=float, help="step size")
            n = Parameter("n", required=True, type=int)
            doc = Parameter("doc", default={"k": [1]})
            on = Parameter("on", default=True)

            @retry(times=2, seconds_between_retries=5, factor=2, jitter=0.5)
            @resources(cpu=2, memory=8192, gpu=1, pool="big")
            @step
            def start(self):
                """Splits."""
                self.items = [1]
                self.next(self.a, self.b)

            @catch(var="error")
            @retry
            @step
            def a(self):
                self.next(self.join)

            @host(mode="reuse")
            @step
            def b(self):
                self.items = [1]
                self.next(self.c, foreach="items")

            @step
            def c(self):
                self.next(self.c_join)

            @step
            def c_join(self, inputs):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        '''
    )
    definition = peer.describe(path)["definition"]
    steps = {step.pop("name"): step for step in definition.pop("steps")}
    assert definition == {
        "format": 1,
        "name": "Full",
        "language": "python",
        "file": "flow.py",
        "doc": "What it is for.\n\nMore.",
        "parameters": [
            {"name": "alpha", "type": "float", "required": False, "default": 1.0, "help": "step size"},
            {"name": "n", "type": "int", "required": True, "default": None, "help": ""},
            {"name": "doc", "type": "json", "required": False, "default": {"k": [1]}, "help": ""},
            {"name": "on", "type": "bool", "required": False, "default": True, "help": ""},
        ],
        "triggers": [
            {
                "events": [
                    {"name": "a", "parameters": None},
                    {"name": "b", "parameters": {"alpha": "x"}},
                    {"name": "c", "parameters": {"doc": "doc", "n": "m"}},
                ]
            }
        ],
    }
    assert list(steps) == ["start", "a", "b", "c", "c_join", "join", "end"]
    assert steps["start"] == {
        "line": 20,
        "doc": "Splits.",
        "join": False,
        "next": {"branch": {"to": ["a", "b"]}},
        "retry": {"times": 2, "delay_seconds": 5.0, "factor": 2.0, "cap_seconds": 86400.0, "jitter": 0.5},
        "catch": None,
        "resources": {"cpu": 2.0, "memory_mb": 8192, "gpu": 1, "pool": "big"},
        "host": None,
    }
    assert steps["a"]["retry"] == {
        "times": 3,
        "delay_seconds": 120.0,
        "factor": 1.0,
        "cap_seconds": 86400.0,
        "jitter": 0.0,
    }
    assert steps["a"]["catch"] == {"variable": "error"}
    assert steps["b"]["host"] == "reuse"
    assert steps["b"]["next"] == {"foreach": {"to": "c", "variable": "items"}}
    assert steps["c_join"]["join"] and steps["c_join"]["next"] == {"linear": {"to": "join"}}
    assert steps["end"]["next"] == "end"


def test_package_holds_sources_and_skips_environments_and_hidden_folders(flow_file):
    path = flow_file(SMALL)
    project = path.parent
    for name in (
        "lib/util.py",
        "data.csv",
        "model.RDS",
        "script.R",
        ".git/hook.py",
        ".causey/x.py",
        "venv/pyvenv.cfg",
        "venv/lib/x.py",
        "node_modules/x.py",
        "lib/__pycache__/util.py",
    ):
        file = project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    assert [inside for _, inside in peer.describe(path)["files"]] == ["flow.py", "lib/util.py", "model.RDS", "script.R"]
    assert all(os.path.isabs(absolute) for absolute, _ in peer.describe(path)["files"])
    more = subprocess.run(
        [sys.executable, "-m", "causey._describe", str(path), "--package-suffixes", ".csv"],
        env={**os.environ, "PYTHONPATH": str(peer.SDK)},
        capture_output=True,
    )
    assert ["data.csv" in inside for _, inside in json.loads(more.stdout)["files"]].count(True) == 1


def test_main_part_does_not_run_and_prints_do_not_spoil_the_answer(flow_file):
    path = flow_file('print("noise")\n' + SMALL + 'if __name__ == "__main__":\n    1 / 0\n    Small()\n')
    assert peer.describe(path)["definition"]["name"] == "Small"


def test_flow_started_in_main_is_chosen_among_several(flow_file):
    other = SMALL.replace("Small", "Other")
    path = flow_file(f'{SMALL}{other}\nif __name__ == "__main__":\n    Other()\n')
    assert peer.describe(path)["definition"]["name"] == "Other"


def test_flow_file_may_have_the_name_of_a_standard_module(flow_file):
    assert "definition" in peer.describe(flow_file(SMALL, name="statistics.py"))


def test_too_large_package_is_refused(flow_file, monkeypatch):
    from causey import _package
    from causey._problem import FlowProblem

    path = flow_file(SMALL)
    (path.parent / "more.py").write_text("")
    monkeypatch.setattr(_package, "FILES_MAX", 1)
    with pytest.raises(FlowProblem, match="the code package is too large"):
        _package.package_files(str(path))


def test_callable_default_is_evaluated_and_its_failure_named(flow_file):
    body = SMALL.replace(
        "    @step\n    def start", '    d = Parameter("d", default=lambda c: 1 / 0)\n    @step\n    def start', 1
    )
    problem = peer.describe(flow_file(body))["problem"]
    assert problem["message"] == "default of parameter 'd': ZeroDivisionError: division by zero"
    assert problem["code"] == "CSY-1114"


def test_memoised_steps_say_what_their_results_hold_for(flow_file):
    path = flow_file(
        """
        from datetime import timedelta

        class Memo(FlowSpec):
            @memoize
            @step
            def start(self):
                self.next(self.a)

            @memoize(version=2, expires="7d")
            @step
            def a(self):
                self.next(self.end)

            @memoize(expires=timedelta(minutes=1))
            @step
            def end(self):
                pass
        """
    )
    memos = [step["memo"] for step in peer.describe(path)["definition"]["steps"]]
    assert memos == [{}, {"version": "2", "expires_seconds": 604800.0}, {"expires_seconds": 60.0}]
