"""Hosts over a real socket: roles, the life of runners, failures by name."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import sys
import uuid
from pathlib import Path

import pytest
import worker as peer

FLOW = """
class Flow(FlowSpec):
    @step
    def start(self):
        {body}
        self.next(self.end)

    @step
    def end(self):
        pass
"""


def flow(*lines):
    return FLOW.format(body="\n        ".join(lines) or "pass")


def value(answer, name):
    entry = answer["artifacts"][name]
    data = base64.b64decode(answer["data"])
    return pickle.loads(data[entry["offset"] : entry["offset"] + entry["bytes"]])


def test_a_later_runner_meets_few_page_faults_in_its_step(flow_file, start_worker):
    text = "from resource import RUSAGE_SELF, getrusage\n" + flow("self.faults = getrusage(RUSAGE_SELF).ru_minflt")
    worker = start_worker(flow_file(text))
    for _ in range(6):
        runner = worker.fork()
        before = int(Path(f"/proc/{runner.hello['pid']}/stat").read_text().rsplit(")", 1)[1].split()[7])
        answer = runner.run(peer.message(worker.store, "start"))
        faults = value(answer, "faults") - before
        runner.close()
        assert worker.connection.receive()["type"] == "exited"
    # Without what the first ones told it is 30 and more.
    assert faults < 15


def test_a_runner_in_a_hurry_runs_its_step_like_any_other(flow_file, start_worker):
    worker = start_worker(flow_file(flow("self.number = 7")))
    runner = worker.fork(hurry=True)
    assert value(runner.run(peer.message(worker.store, "start")), "number") == 7


def test_template_says_hello_and_forks_ready_runners(flow_file, start_worker):
    worker = start_worker(flow_file(flow("print('out')", "import sys; print('err', file=sys.stderr)")))
    version = ".".join(map(str, sys.version_info[:3]))
    assert worker.hello == {
        "type": "hello",
        "protocol": 1,
        "host": "h0",
        "role": "template",
        "pid": worker.process.pid,
        "language": f"python {version}",
    }
    assert worker.first == {"type": "loaded", "flow": "Flow", "forkable": True, "because": None}
    runner = worker.fork()
    assert runner.hello["role"] == "runner" and runner.hello["pid"] != worker.process.pid
    answer = runner.run(peer.message(worker.store, "start"))
    assert answer["type"] == "finished" and answer["next"] == ["end"] and answer["foreach"] is None
    os.kill(runner.hello["pid"], 0)
    runner.close()
    assert worker.connection.receive() == {
        "type": "exited",
        "host": "h1",
        "pid": runner.hello["pid"],
        "code": 0,
        "signal": None,
    }
    assert runner.text == "out\nerr\n"


def test_runner_has_a_process_group_of_its_own(flow_file, start_worker):
    worker = start_worker(flow_file(flow()))
    pid = worker.fork().hello["pid"]
    assert os.getpgid(pid) == pid


def test_killed_runner_is_reported_with_its_signal(flow_file, start_worker):
    worker = start_worker(flow_file(flow()))
    runner = worker.fork()
    os.kill(runner.hello["pid"], signal.SIGKILL)
    exited = worker.connection.receive()
    assert (exited["host"], exited["code"], exited["signal"]) == ("h1", None, "SIGKILL")


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_runners_die_with_their_template(flow_file, start_worker):
    worker = start_worker(flow_file(flow()))
    runner = worker.fork()
    worker.process.kill()
    assert runner.connection.receive() is None


def test_lone_runner_loads_the_flow_itself(flow_file, start_worker):
    worker = start_worker(flow_file(flow("self.x = 1")), role="runner")
    assert worker.hello["role"] == "runner" and worker.first == {"type": "ready"}
    worker.connection.send(peer.message(worker.store, "start"))
    assert worker.connection.receive()["type"] == "finished"


def test_failing_import_is_reported(flow_file, start_worker):
    worker = start_worker(flow_file("import absent_package\n"))
    error = worker.first["error"]
    assert worker.first["type"] == "load_failed"
    assert (error["type"], error["file"], error["line"]) == ("ModuleNotFoundError", "flow.py", 2)
    assert error["message"] == "No module named 'absent_package'\nhint: pip install absent_package, or add it to the step's environment: @pypi(packages={'absent_package': ''})"
    assert worker.process.wait(peer.DEADLINE_SECONDS) == 1


@pytest.mark.parametrize(
    ("setup", "because"),
    [
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n",
            "the flow file starts a thread at import (poller)",
        ),
        ("import socket\nkept = socket.socket()\n", "the flow file opens a socket at import"),
    ],
)
def test_template_that_must_not_fork_says_why(setup, because, flow_file, start_worker):
    worker = start_worker(flow_file(setup + flow()))
    assert (worker.first["forkable"], worker.first["because"]) == (False, because)


def test_reused_runner_gives_every_attempt_fresh_values(flow_file, start_worker):
    worker = start_worker(
        flow_file(
            """
            import os

            class Flow(FlowSpec):
                shared = []
                listed = Parameter("listed", type=JSONType)

                @step
                def start(self):
                    here = os.path.basename(os.getcwd())
                    self.before = [list(self.shared), list(self.listed), hasattr(self, "mine"), here]
                    self.shared.append(1)
                    self.listed.append(1)
                    self.mine = 1
                    os.chdir("/")
                    self.run = current.run_id
                    self.next(self.end)

                @step
                def end(self):
                    pass
            """
        )
    )
    runner = worker.fork()
    for run in ("r1", "r2"):
        answer = runner.run(peer.message(worker.store, "start", run=run, parameters={"listed": []}))
        assert value(answer, "before") == [[], [], False, "project"]
        assert value(answer, "run") == run


def test_runners_draw_different_random_numbers(flow_file, start_worker):
    pytest.importorskip("numpy")
    worker = start_worker(
        flow_file("import random, numpy\n" + flow("self.x = [random.random(), float(numpy.random.random())]"))
    )
    drawn = [value(worker.fork().run(peer.message(worker.store, "start")), "x") for _ in range(2)]
    assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]


def test_runners_draw_different_numbers_with_torch(flow_file, start_worker):
    pytest.importorskip("torch")
    worker = start_worker(flow_file("import torch\n" + flow("self.x = float(torch.rand(1)[0])")))
    drawn = [value(worker.fork().run(peer.message(worker.store, "start")), "x") for _ in range(2)]
    assert drawn[0] != drawn[1]


def test_a_forked_child_fits_with_processes_of_its_own(flow_file, start_worker):
    """joblib's processes start in the child, compute, and end with it."""
    pytest.importorskip("sklearn")
    lines = (
        "import os\n"
        "from sklearn.datasets import make_classification\n"
        "from sklearn.ensemble import RandomForestClassifier\n"
        "from sklearn.model_selection import cross_val_score\n"
    )
    body = (
        "x, y = make_classification(60, random_state=1); "
        "forest = RandomForestClassifier(5, n_jobs=2, random_state=1).fit(x, y); "
        "self.x = [float(forest.score(x, y)), len(cross_val_score(forest, x, y, cv=2, n_jobs=2)), os.getpgrp() == os.getpid()]"
    )
    worker = start_worker(flow_file(lines + flow(body)))
    assert worker.first["forkable"] is True
    score, folds, own_group = value(worker.fork().run(peer.message(worker.store, "start")), "x")
    assert score > 0.9 and folds == 2 and own_group


def test_a_daemon_of_a_forked_runner_comes_to_that_runner(flow_file, start_worker):
    lines = (
        "import os, signal\n"
        "def leave():\n"
        "    read, write = os.pipe()\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        middle = os.getpid()\n"
        "        if os.fork() == 0:\n"
        "            while os.getppid() == middle: pass\n"
        "            os.write(write, str(os.getppid()).encode())\n"
        "            os._exit(0)\n"
        "        os._exit(0)\n"
        "    return int(os.read(read, 20))\n"
    )
    worker = start_worker(flow_file(lines + flow("self.x = leave() == os.getpid()")))
    assert value(worker.fork().run(peer.message(worker.store, "start")), "x") is True


def test_current_describes_the_attempt(run_step):
    names = (
        "flow_name run_id run_name step_name task_id pathspec retry_count username idempotency_key is_running_flow "
        "origin_run_id namespace"
    ).split()
    answer, _, _ = run_step(
        flow(
            f"self.seen = {{name: getattr(current, name) for name in {names!r}}}",
            "self.tags = current.tags",
            "self.fired = (current.trigger.event.name, current.trigger['b'].data, 'c' in current.trigger)",
        ),
        path=[3, 1],
        splits=[{"step": "a", "count": 4}, {"step": "b", "count": 2}],
        visit=2,
        retry=1,
        retries_max=1,
        tags=["t"],
        trigger={
            "events": [{"type": "a", "id": "1", "time": "2026-01-02T00:00:00Z"}, {"type": "b", "id": "2", "data": 7}]
        },
        origin_run="r0",
    )
    assert answer["type"] == "finished", answer
    assert value(answer, "seen") == {
        "flow_name": "Flow",
        "run_id": "r1",
        "run_name": "brisk-otter-41",
        "step_name": "start",
        "task_id": "3.1~2",
        "pathspec": "Flow/r1/start/3.1~2",
        "retry_count": 1,
        "username": "ann",
        "idempotency_key": "once",
        "is_running_flow": True,
        "origin_run_id": "r0",
        "namespace": "user:ann",
    }
    assert value(answer, "tags") == {"t"}
    assert value(answer, "fired") == ("a", 7, False)


@pytest.mark.parametrize(
    ("lines", "type_name", "message"),
    [
        (["import sys", "sys.exit(3)"], "SystemExit", "the step called sys.exit(3)"),
        (["raise KeyboardInterrupt"], "KeyboardInterrupt", "the step was interrupted"),
        (["return"], "InvalidNextException", "step 'start' ended without calling self.next()"),
        (
            ["self.lock = __import__('threading').Lock()"],
            "UnpicklableArtifactException",
            "artifact 'lock' of type lock cannot be pickled: cannot pickle '_thread.lock' object",
        ),
        (
            ["import sklearn_absent.x"],
            "ModuleNotFoundError",
            "No module named 'sklearn_absent'\nhint: pip install sklearn_absent, or add it to the step's environment: @pypi(packages={'sklearn_absent': ''})",
        ),
        (
            ["self.total = 1", "self.totl"],
            "AttributeError",
            "Flow Flow has no attribute 'totl'\nhint: did you mean 'total'?",
        ),
        (
            ["self.next(self.end)"],
            "InvalidNextException",
            "multiple self.next() calls detected in step 'start': call self.next() only once",
        ),
        (["self.next(1)"], "InvalidNextException", "argument 1 of self.next() in step 'start' is not a step"),
        (
            ["self.items = 5", "self.next(self.end, foreach='items')"],
            "InvalidNextException",
            "foreach variable 'self.items' in step 'start' is not iterable: 'int' object is not iterable",
        ),
        (
            ["self.items = []", "self.next(self.end, foreach='items')"],
            "InvalidNextException",
            "foreach over 'self.items' in step 'start' has zero items: it needs at least one",
        ),
        (
            ["self.next(self.end, foreach='absent')"],
            "InvalidNextException",
            "foreach variable 'self.absent' in step 'start' does not exist: check the name",
        ),
        (
            ["self.kind = 'c'", "self.next({'a': self.start, 'b': self.end}, condition='kind')"],
            "RuntimeError",
            "Switch condition variable 'kind' has value 'c' which is not in the available cases: ['a', 'b']",
        ),
        (
            ["self.next({'a': self.start, 'b': self.end}, condition='absent')"],
            "InvalidNextException",
            "condition variable 'self.absent' in step 'start' does not exist: set it in this step",
        ),
        (
            ["self.next({'a': self.start, 'b': self.end})"],
            "InvalidNextException",
            "self.next() in step 'start' has a dictionary of cases but no condition: add condition='<artifact>'",
        ),
        (
            ["self.items = [1]", "self.next({1: self.end}, condition='count', foreach='items')"],
            "InvalidNextException",
            "self.next() in step 'start' combines condition and foreach: use one of them",
        ),
        (
            ["self.next(self.end, colour=1)"],
            "InvalidNextException",
            "step 'start' passes an unknown keyword argument 'colour' to self.next()",
        ),
        (
            ["self.me = self"],
            "UnpicklableArtifactException",
            "artifact 'me' of type Flow cannot be pickled: Flows can't be serialized.",
        ),
        (["self.count = 2"], "AttributeError", "Parameter 'count' is read-only"),
    ],
)
def test_failure_has_a_name(lines, type_name, message, run_step):
    body = flow(*lines).replace(
        "    @step\n    def start", '    count = Parameter("count", default=1)\n    @step\n    def start', 1
    )
    answer, worker, runner = run_step(body, parameters={"count": 1})
    assert answer["type"] == "failed" and answer["retryable"] is True
    assert answer["error"]["type"] == type_name
    assert answer["error"]["message"].startswith(message)
    assert answer["error"]["step"] == "start"
    assert len(answer["error"]["hash"]) == 32


def test_traceback_ends_in_user_code_and_names_the_innermost_frame(run_step):
    answer, _, _ = run_step("def helper(x):\n    return x / 0\n" + flow("helper(1)"))
    error = answer["error"]
    assert (error["file"], error["line"], error["source"]) == ("flow.py", 3, "return x / 0")
    assert error["traceback"].count('File "') == 2 and "_attempt" not in error["traceback"]


def test_parameter_of_a_wrong_type_fails_by_name(run_step):
    body = flow().replace("    @step\n    def start", '    n = Parameter("n", default=1)\n    @step\n    def start', 1)
    answer, _, _ = run_step(body, parameters={"n": "many"})
    assert answer["error"]["message"] == "parameter 'n': invalid literal for int() with base 10: 'many'"


CATCHING = """
class Flow(FlowSpec):
    @catch(var="problem")
    @step
    def start(self):
        self.ran = True
        {body}
        self.next(self.end)

    @step
    def end(self):
        pass
"""


def test_catch_waits_for_the_last_retry(run_step):
    answer, _, _ = run_step(CATCHING.format(body="1 / 0"), retry=0, retries_max=1)
    assert answer["type"] == "failed"


def test_catch_acts_in_the_last_attempt(run_step):
    answer, _, runner = run_step(CATCHING.format(body="1 / 0"), retry=1, retries_max=1)
    assert (answer["type"], answer["next"]) == ("finished", ["end"])
    problem = value(answer, "problem")
    assert (problem.type, problem.exception) == ("builtins.ZeroDivisionError", "division by zero")
    assert value(answer, "ran") is True
    runner.close()
    assert runner.text.startswith("@catch caught an exception from <flow Flow step start>\n>  Traceback")


def test_catch_leaves_none_after_success(run_step):
    answer, _, _ = run_step(CATCHING.format(body="pass"))
    assert value(answer, "problem") is None


def test_fallback_of_catch_does_not_run_user_code(run_step):
    answer, _, _ = run_step(CATCHING.format(body="pass"), retry=2, retries_max=1)
    assert answer["type"] == "finished" and "ran" not in answer["artifacts"]
    problem = value(answer, "problem")
    assert problem.type == "causey._errors.FailureHandledByCatch"
    assert problem.exception.startswith("Task execution kept failing over 2 attempts.")


def test_catch_covers_an_artifact_that_cannot_be_stored(run_step):
    answer, _, _ = run_step(CATCHING.format(body="self.bad = lambda: 0; self.bad = (i for i in [])"))
    assert answer["type"] == "finished" and "bad" not in answer["artifacts"]
    assert "artifact 'bad' of type generator" in value(answer, "problem").exception


def test_missing_file_is_fetched(flow_file, start_worker):
    worker = start_worker(flow_file(flow("self.x = 'kept'")))
    runner = worker.fork()
    start = peer.message(worker.store, "start")
    parent = peer.compose(start, runner.run(start))
    path = worker.store / "runs" / "r1" / start["key"]
    hidden = path.rename(worker.folder / "elsewhere")

    def bring(question):
        assert question == {"type": "fetch", "path": f"runs/r1/{start['key']}"}
        hidden.rename(path)
        return {"type": "fetched", "path": question["path"]}

    answer = worker.fork().run(peer.message(worker.store, "end", inputs=[parent]), bring)
    assert answer["artifacts"]["x"]["object"] == 0
    hidden = path.rename(worker.folder / "elsewhere")
    answer = worker.fork().run(
        peer.message(worker.store, "end", inputs=[parent]),
        lambda question: {"type": "fetch_failed", "path": question["path"], "message": "gone"},
    )
    assert answer["error"]["message"] == f"runs/r1/{start['key']} cannot be fetched: gone"


def test_inputs_may_come_in_a_file_or_a_table(flow_file, start_worker):
    worker = start_worker(
        flow_file(
            """
            class Flow(FlowSpec):
                @step
                def start(self):
                    self.items = list(range(1500))
                    self.next(self.work, foreach="items")

                @step
                def work(self):
                    self.y = self.input
                    self.next(self.join)

                @step
                def join(self, inputs):
                    self.sum = sum(each.y for each in inputs)
                    self.many = [len(inputs), inputs[1499].index, inputs.work.input, [i.y for i in inputs[3:5]]]
                    self.next(self.end)

                @step
                def end(self):
                    pass
            """
        )
    )
    runner = worker.fork()
    start = peer.message(worker.store, "start")
    answer = runner.run(start)
    assert answer["foreach"] == 1500
    parent = peer.compose(start, answer)
    assert {"_items_0", "_items_1"} <= set(answer["artifacts"])
    references = []
    for index in range(1500):
        splits = [{"step": "start", "count": 1500}]
        # Some results may be those of an earlier run.
        run = peer.message(
            worker.store, "work", path=[index], inputs=[parent], splits=splits, run=str(uuid.UUID(int=index % 2))
        )
        references.append(peer.compose(run, runner.run(run)))
    file = worker.folder / "inputs.json"
    file.write_text(json.dumps(references))
    answer = runner.run(peer.message(worker.store, "join", inputs_file=str(file)))
    assert value(answer, "sum") == sum(range(1500))
    assert value(answer, "many") == [1500, 1499, 1499, [3, 4]]

    # Or in a table, whose entries the worker verifies when they are touched.
    table = worker.folder / "inputs.table"
    packed = (uuid.UUID(each["run"]).hex + each["key"] + each["digest"] for each in references)
    table.write_bytes(b"".join(map(bytes.fromhex, packed)))
    line = {"file": str(table), "step": "work", "path": [], "count": 1500}
    asked = []

    def ready(question):
        asked.append((question["type"], question["from"], question["count"]))
        return {"type": "inputs_ready", "from": question["from"], "count": question["count"]}

    join = peer.message(worker.store, "join", inputs_table=line)
    del join["inputs"]
    answer = runner.run(join, ready)
    assert value(answer, "sum") == sum(range(1500))
    assert value(answer, "many") == [1500, 1499, 1499, [3, 4]]
    assert asked == [("inputs", start, min(256, 1500 - start)) for start in range(0, 1500, 256)]
    answer = runner.run({**join, "key": "k2"}, lambda question: {"type": "inputs_failed", "from": 0, "message": "gone"})
    assert answer["error"]["message"] == "inputs 0 to 256 cannot be read: gone"


def test_report_above_the_line_limit_becomes_a_failure(run_step):
    answer, _, _ = run_step(flow("for i in range(9000):", "    setattr(self, f'a{i}', i)"))
    assert answer["error"]["type"] == "LineTooLong" and answer["retryable"] is False


HANGING = """
import os, signal, time

class Flow(FlowSpec):
    {decorators}
    @step
    def start(self):
        self.begun = True
        try:
            {body}
        finally:
            print("cleaned up", flush=True)
        self.next(self.end)

    @step
    def end(self):
        pass
"""


def test_a_time_limit_raises_where_the_step_is(run_step):
    body = HANGING.format(decorators="@timeout(seconds=5)", body="time.sleep(60)")
    answer, _, runner = run_step(body, timeout_seconds=0.2)
    assert answer["type"] == "failed" and answer["timed_out"] is True and answer["retryable"] is True
    error = answer["error"]
    assert (error["type"], error["message"]) == ("TimeoutException", "step 'start' timed out after 0.2 seconds")
    assert (error["line"], error["source"]) == (11, "time.sleep(60)")
    assert error["classes"] == ["CauseyException", "Exception", "BaseException"]
    runner.close()
    assert "cleaned up" in runner.text


def test_a_time_limit_can_be_caught(run_step):
    body = HANGING.format(decorators='@catch(var="problem")', body="time.sleep(60)")
    answer, worker, _ = run_step(body, timeout_seconds=0.2)
    assert answer["type"] == "finished" and answer["next"] == ["end"]
    assert "problem" in answer["artifacts"]


def test_a_limit_that_is_not_reached_changes_nothing(run_step):
    body = HANGING.format(decorators="@retry", body="self.left = signal.getitimer(signal.ITIMER_REAL)[0]")
    answer, worker, _ = run_step(body, timeout_seconds=600)
    assert answer["type"] == "finished"


def test_a_step_that_is_asked_to_end_may_clean_up_and_is_not_caught(run_step):
    body = HANGING.format(decorators="@catch", body="os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")
    answer, _, runner = run_step(body)
    assert answer["type"] == "failed"
    assert (answer["error"]["type"], answer["error"]["message"]) == ("StepCancelled", "the step was cancelled")
    runner.close()
    assert "cleaned up" in runner.text


def test_a_runner_without_a_step_ends_when_asked(start_worker, flow_file):
    worker = start_worker(flow_file(flow()))
    runner = worker.fork()
    os.kill(runner.hello["pid"], signal.SIGTERM)
    assert runner.connection.receive() is None
    assert worker.connection.receive()["code"] == 143


def test_catch_acts_at_once_on_an_error_that_the_retry_does_not_cover(run_step):
    for raised, expected in (("KeyError('x')", "finished"), ("ConnectionRefusedError()", "failed")):
        body = HANGING.format(
            decorators='@catch(var="problem")\n    @retry(times=3, on=[ConnectionError, "TimeoutException"])',
            body=f"raise {raised}",
        )
        answer, _, _ = run_step(body, retry=0, retries_max=3)
        assert answer["type"] == expected, raised


GANG = {"index": 1, "members": [{"ip": "10.0.0.7", "port": 4711}, {"ip": "10.0.0.8", "port": 4712}]}


def test_a_member_of_a_gang_knows_the_others_and_a_reused_process_forgets_them(flow_file, start_worker):
    text = flow(
        "import os",
        "names = ['MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE']",
        "self.environment = [os.environ.get(name) for name in names]",
        "self.gang = current.parallel and [*current.parallel, current.parallel.main_port, current.parallel.addresses]",
        "self.is_parallel = current.is_parallel",
        "os.environ['RANK'] = '9'",
    )
    runner = start_worker(flow_file(text), environment={"WORLD_SIZE": "kept"}).fork()
    splits = [{"step": "a", "count": 4}, {"step": "b", "count": 2}]
    member = {"path": [3, 1], "splits": splits, "gang": GANG}
    answer = runner.run(peer.message(runner.worker.store, "start", **member))
    assert value(answer, "environment") == ["10.0.0.7", "4711", "1", "2"]
    assert value(answer, "gang") == ["10.0.0.7", 2, 1, "3.0", 4711, [("10.0.0.7", 4711), ("10.0.0.8", 4712)]]
    assert value(answer, "is_parallel") is True
    answer = runner.run(peer.message(runner.worker.store, "start"))
    assert value(answer, "environment") == [None, None, None, "kept"]
    assert (value(answer, "gang"), value(answer, "is_parallel")) == (None, False)


@pytest.mark.parametrize("size", ["0", "-2", "2.0", "'3'", "True", "None", "501"])
def test_a_number_of_members_that_cannot_be_fails_by_name(size, flow_file, start_worker):
    text = f"""
class Flow(FlowSpec):
    @step
    def start(self):
        size = {size}
        self.next(self.train, num_parallel=size)

    @parallel
    @step
    def train(self):
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass
"""
    worker = start_worker(flow_file(text))
    error = worker.fork().run(peer.message(worker.store, "start"))["error"]
    assert error["type"] == "InvalidNextException"
    assert error["message"] == f"num_parallel={size} in step 'start' is not a whole number from 1 to 500"
