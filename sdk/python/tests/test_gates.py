"""What steps wait for, and runs that they start: what the definition says, what a step sees, what is reported."""

from __future__ import annotations

import pytest
import worker as peer

FLOW = """
from datetime import timedelta
from causey import flows

class Flow(FlowSpec):
    {head}
    @step
    def start(self):
        {body}
        self.next(self.end)

    @step
    def end(self):
        pass
"""


def flow(body="pass", head=""):
    return FLOW.format(body=body, head=head)


def described(flow_file, head):
    answer = peer.describe(flow_file(flow(head=head)))
    if "definition" in answer:
        return answer["definition"]["steps"][0]["gate"]
    problems = answer.get("problems") or [answer["problem"]]
    return [f"{each['line']}: {each['message']} | {each['hint']}" for each in problems]


@pytest.mark.parametrize(
    ("head", "gate"),
    [
        ("@wait_for('go')", {"signals": [{"name": "go"}]}),
        (
            "@wait_for('rate', timeout=timedelta(hours=1), default=None)\n    @wait_for('go', timeout=2.5)",
            {
                "signals": [
                    {"name": "rate", "timeout_seconds": 3600.0, "default": {"value": None}},
                    {"name": "go", "timeout_seconds": 2.5},
                ]
            },
        ),
        ("@approval", {"approval": {}}),
        ("@approval(by='ann')", {"approval": {"by": ["ann"]}}),
        (
            "@approval(by=['ann', 'bob'], timeout=60)\n    @wait_for('go')",
            {"signals": [{"name": "go"}], "approval": {"by": ["ann", "bob"], "timeout_seconds": 60.0}},
        ),
    ],
)
def test_the_definition_says_what_a_step_waits_for(head, gate, flow_file):
    assert described(flow_file, head) == gate


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (
            "@wait_for('no name')",
            "7: @wait_for of step 'start': 'no name' is not the name of a signal | use up to 64 letters, digits, '_' and '-'",
        ),
        (
            "@wait_for('go')\n    @wait_for('go')",
            "8: @wait_for of step 'start': it waits for signal 'go' twice | keep one of them",
        ),
        (
            "@wait_for('go', timeout=0)",
            "7: @wait_for of step 'start': a timeout of 0 seconds is not between 0 (excluded) and 31536000 | None",
        ),
        (
            "@wait_for('go', timeout='soon')",
            "7: @wait_for of step 'start': timeout='soon' is neither a number of seconds nor a timedelta | None",
        ),
        (
            "@wait_for('go', default=1)",
            "7: @wait_for of step 'start': the default of signal 'go' never counts without a timeout | "
            "give it timeout=<seconds>",
        ),
        (
            "@wait_for('go', timeout=1, default=float('nan'))",
            "7: @wait_for of step 'start': the default of signal 'go' has no JSON form: "
            "Out of range float values are not JSON compliant: nan | use text, numbers, lists and dictionaries",
        ),
        (
            "@approval(by=[1])",
            "7: @approval of step 'start': by=[1] does not name people | "
            "list up to 64 user names, as in by=['ann', 'bob']; without it everybody may decide",
        ),
        (
            "@approval(timeout=-1)",
            "7: @approval of step 'start': a timeout of -1 seconds is not between 0 (excluded) and 31536000 | None",
        ),
    ],
)
def test_gates_that_cannot_be_are_told_with_their_line(head, problem, flow_file):
    found = described(flow_file, head)
    assert len(found) == 1
    # Newer versions of Python name the number.
    assert found[0].replace("compliant |", "compliant: nan |") == problem


def test_a_recursion_cannot_wait(flow_file):
    path = flow_file(
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.again)

            @approval
            @step
            def again(self):
                self.next({"x": self.again, "y": self.end}, condition="kind")

            @step
            def end(self):
                pass
        """
    )
    problem = peer.describe(path)["problem"]
    assert (problem["line"], problem["message"]) == (8, "step 'again' has @approval and leads back to itself")


def test_the_step_of_a_gang_cannot_wait(flow_file):
    path = flow_file(
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.train, num_parallel=2)

            @wait_for("go")
            @parallel
            @step
            def train(self):
                self.next(self.gather)

            @step
            def gather(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """
    )
    problem = peer.describe(path)["problem"]
    assert (problem["line"], problem["message"]) == (8, "step 'train' has @wait_for and is the step of a gang")


def test_wait_for_needs_a_name(flow_file):
    problem = peer.describe(flow_file(flow(head="@wait_for")))["problem"]
    assert problem["message"].endswith("@wait_for of 'start' names no signal"), problem


def test_a_step_sees_the_data_of_signals(run_step):
    body = "print(current.signals['go']['rate'], sorted(current.signals), current.signals.get('other'))"
    answer, _, runner = run_step(flow(body), signals={"go": {"rate": 0.5}, "on": None})
    runner.close()
    assert (answer["type"], runner.text) == ("finished", "0.5 ['go', 'on'] None\n")


def test_without_signals_and_children_a_step_sees_none(run_step):
    answer, _, runner = run_step(flow("print(current.signals, current.children)"))
    runner.close()
    assert (answer["type"], runner.text) == ("finished", "{} []\n")
    assert "start" not in answer


def test_runs_that_a_step_starts_are_in_its_report(run_step):
    body = "self.child = flows.start('Training', rows=[1, 2]); flows.start('Report', wait=False, allow_failure=True)"
    answer, _, _ = run_step(flow(body))
    assert answer["start"] == [
        {"flow": "Training", "parameters": {"rows": [1, 2]}, "wait": True, "allow_failure": False},
        {"flow": "Report", "parameters": {}, "wait": False, "allow_failure": True},
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("flows.start('no flow')", "'no flow' is not the name of a flow"),
        ("flows.start('Other', day=object())", "parameter 'day' of flow 'Other' has no JSON form"),
        ("flows.start('Other').state", "the run of flow 'Other' that step 'start' starts is not known here"),
    ],
)
def test_what_cannot_be_started_is_told(call, message, run_step):
    answer, _, _ = run_step(flow(call))
    assert answer["type"] == "failed"
    assert message in answer["error"]["message"]


def test_flows_start_outside_a_step_is_refused():
    from causey import CauseyException, flows

    with pytest.raises(CauseyException, match="only inside a running step"):
        flows.start("Other")


def test_a_step_that_is_caught_starts_nothing(run_step):
    answer, _, _ = run_step(flow("flows.start('Other'); 1 / 0", head="@catch(var='error')"))
    assert (answer["type"], "start" in answer) == ("finished", False)


def test_the_next_step_sees_how_the_run_ended_and_what_it_left(flow_file, start_worker):
    path = flow_file(
        """
        from causey import flows

        class Flow(FlowSpec):
            @step
            def start(self):
                self.child = flows.start("Other")
                self.answer = 42
                self.next(self.end)

            @step
            def end(self):
                seen = current.children
                print(len(seen), seen[0].name, self.child.state, self.child.successful, self.child.data.answer)
                print(dir(self.child.data), hasattr(self.child.data, "nothing"), seen[1].state)
                try:
                    seen[1].data
                except CauseyException as problem:
                    print(problem)
        """
    )
    worker = start_worker(path)
    first = peer.message(worker.store, "start")
    parent = peer.compose(first, worker.fork().run(first))
    # As if the same flow had run as the child.
    other = {"run": "r2", "run_name": "calm-fox-2"}
    child = peer.message(worker.store, "start", **{}) | other
    left = peer.compose(child, worker.fork().run(child))
    entry = {"run": "r2", "name": "calm-fox-2", "flow": "Other", "state": "succeeded", "step": "start", "path": [], "visit": 0, "ordinal": 0}
    entry["object"] = {name: left[name] for name in ("run", "key", "digest")}
    failed = entry | {"ordinal": 1, "state": "failed", "name": "fast-elk-3", "object": None}
    runner = worker.fork()
    answer = runner.run(peer.message(worker.store, "end", inputs=[parent], children=[entry, failed]))
    runner.close()
    assert answer["type"] == "finished", answer
    assert runner.text.splitlines() == [
        "2 calm-fox-2 succeeded True 42",
        "['answer', 'child'] False failed",
        "run fast-elk-3 of flow 'Other' left nothing: it failed",
    ]


def test_a_step_tells_about_its_run(run_step):
    body = "current.set_status('progress', 0.5); current.set_status('progress', {'done': 7}); current.set_status('phase', None)"
    answer, _, runner = run_step(flow(body))
    assert answer["type"] == "finished"
    assert runner.told == [("progress", 0.5), ("progress", {"done": 7}), ("phase", None)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("current.set_status('no name', 1)", "'no name' is not the name of a status"),
        ("current.set_status('x', object())", "status 'x' has no JSON form"),
        ("current.set_status('x', float('nan'))", "status 'x' has no JSON form"),
        ("current.set_status('x', 'y' * 5000)", "status 'x' has 5002 bytes; at most 4096 are told"),
    ],
)
def test_a_status_that_cannot_be_told_is_refused(call, message, run_step):
    answer, _, runner = run_step(flow(call))
    assert answer["type"] == "failed"
    assert message in answer["error"]["message"]
    assert runner.told == []
