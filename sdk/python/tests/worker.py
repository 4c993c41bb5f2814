"""A small worker: speaks the host protocol over a real Unix socket and composes objects as docs/protocol.md §2 says.

With `run_flow` it is also a scheduler of one flow, one task at a time, for comparing results with Metaflow.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path

SDK = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 30


class Connection:
    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(DEADLINE_SECONDS)
        self.stream = stream
        self.file = stream.makefile("rb")

    def send(self, message):
        self.stream.sendall(json.dumps(message).encode() + b"\n")

    def receive(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def close(self):
        self.file.close()
        self.stream.close()


class Worker:
    """One template (or lone runner) process and its connections."""

    def __init__(self, flow_file, role="template", environment=None):
        self.folder = Path(tempfile.mkdtemp(prefix="causey-test-"))
        self.store = self.folder / "store"
        (self.store / "cas").mkdir(parents=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.folder / "s"))
        self.listener.listen(64)
        self.listener.settimeout(DEADLINE_SECONDS)
        flow_file = Path(flow_file).resolve()
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "causey._host"],
            cwd=flow_file.parent,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env={
                **os.environ,
                "PYTHONPATH": str(SDK),
                "CAUSEY_HOST_SOCKET": str(self.folder / "s"),
                "CAUSEY_HOST_ID": "h0",
                "CAUSEY_HOST_ROLE": role,
                "CAUSEY_FLOW_FILE": flow_file.name,
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                **(environment or {}),
            },
        )
        self.connection = self.accept()
        self.hello = self.connection.receive()
        self.first = self.connection.receive()
        self.forks = 0
        self.open = []

    def accept(self):
        stream, _ = self.listener.accept()
        return Connection(stream)

    def fork(self, hurry=False):
        """A new runner, ready."""
        self.forks += 1
        host = f"h{self.forks}"
        runner = Runner(self, host)
        socket.send_fds(self.connection.stream, [json.dumps({"type": "fork", "host": host, "hurry": hurry}).encode() + b"\n"], runner.ends)
        for end in runner.ends:
            os.close(end)
        runner.connection = self.accept()
        runner.hello = runner.connection.receive()
        assert runner.hello["host"] == host, runner.hello
        assert runner.connection.receive() == {"type": "ready"}
        self.open.append(runner)
        return runner

    def close(self):
        for runner in self.open:
            runner.close()
        self.connection.close()
        self.process.wait(DEADLINE_SECONDS)
        self.listener.close()
        self.log.close()
        shutil.rmtree(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Runner:
    def __init__(self, worker, host):
        self.worker = worker
        self.host = host
        self.output = [b"", b""]
        self.connection = None
        self.threads = []
        self.ends = []
        self.told = []
        for place in range(2):
            ours, theirs = os.pipe()
            self.ends.append(theirs)
            thread = threading.Thread(target=self._read, args=(place, ours), daemon=True)
            thread.start()
            self.threads.append(thread)

    def _read(self, place, descriptor):
        with open(descriptor, "rb") as file:
            self.output[place] = file.read()

    def run(self, message, answers=None):
        """Sends `run`, answers questions from `answers` and returns the result."""
        self.connection.send(message)
        while True:
            answer = self.connection.receive()
            if answer is None or answer["type"] in ("finished", "failed"):
                return answer
            if answer["type"] == "status":
                self.told.append((answer["name"], answer["value"]))
                continue
            self.connection.send(answers(answer))

    def close(self):
        """Closes the connection; afterwards `text` holds what the runner printed."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
            for thread in self.threads:
                thread.join(DEADLINE_SECONDS)

    @property
    def text(self):
        return self.output[0].decode() + self.output[1].decode()


def digest(content):
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def message(store, step, *, flow="Flow", path=(), inputs=(), splits=(), parameters=None, **more):
    folder = tempfile.mkdtemp(prefix="task-", dir=store.parent)
    return {
        "type": "run",
        "key": uuid.uuid4().hex,
        "run": "r1",
        "run_name": "brisk-otter-41",
        "flow": flow,
        "step": step,
        "path": list(path),
        "visit": 0,
        "attempt": 0,
        "retry": 0,
        "retries_max": 0,
        "idempotency_key": "once",
        "user": "ann",
        "tags": [],
        "parameters": parameters or {},
        "trigger": None,
        "store": str(store),
        "folder": folder,
        "inputs": list(inputs),
        "splits": list(splits),
        **more,
    }


def compose(run, finished):
    """Writes the object of a finished attempt and returns the reference the next task gets as input."""
    store, folder = Path(run["store"]), Path(run["folder"])
    if "data" in finished:
        data = base64.b64decode(finished["data"])
    else:
        data = (folder / "data").read_bytes()
    blobs = {}
    artifacts = {}
    for name, entry in finished["artifacts"].items():
        entry = dict(entry)
        file = entry.pop("file", None)
        if file is not None and file != "data":
            if file not in blobs:
                content = (folder / file).read_bytes()
                blobs[file] = digest(content)
                (store / "cas" / blobs[file]).write_bytes(content)
            entry["blob"] = blobs[file]
            del entry["offset"]
        artifacts[name] = entry
    data += bytes(-len(data) % 64)
    manifest = {
        "format": 1,
        "task": {**{name: run[name] for name in ("run", "run_name", "flow", "step", "path", "visit", "attempt")}},
        "objects": finished["objects"],
        "artifacts": artifacts,
        "output": None,
        "error": None,
        "next": finished["next"],
        "foreach": finished["foreach"],
    }
    encoded = json.dumps(manifest).encode()
    content = data + encoded + len(encoded).to_bytes(8, "little") + len(data).to_bytes(8, "little") + b"CAUSEY1\n"
    target = store / "runs" / run["run"] / run["key"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    shutil.rmtree(folder)
    return {"step": run["step"], "path": run["path"], "run": run["run"], "key": run["key"], "digest": digest(content)}


class FlowFailed(Exception):
    pass


def run_flow(worker, definition, parameters=None, reuse=False):
    """Runs a whole flow; returns {step: [reference, …]} in task order. Retries follow the definition, undelayed."""
    steps = {step["name"]: step for step in definition["steps"]}
    values = {each["name"]: each["default"] for each in definition["parameters"]} | (parameters or {})
    shared = worker.fork() if reuse else None
    done = {}

    def task(step, path, inputs, splits, visit=0, **more):
        retries_max = (steps[step]["retry"] or {"times": 0})["times"]
        for retry in range(retries_max + 1):
            run = message(
                worker.store,
                step,
                flow=definition["name"],
                path=path,
                inputs=inputs,
                splits=splits,
                visit=visit,
                parameters=values,
                retry=retry,
                attempt=retry,
                retries_max=retries_max,
                **more,
            )
            runner = shared or worker.fork()
            answer = runner.run(run)
            if not shared:
                runner.close()
            if answer is not None and answer["type"] == "finished":
                reference = compose(run, answer)
                done.setdefault(step, []).append(reference)
                return answer, reference
        raise FlowFailed(json.dumps(answer))

    def follow(step, path, inputs, splits, until, **more):
        """Runs from a step to the join that closes the level (exclusive); returns (join, last reference)."""
        visit = 0
        while True:
            answer, reference = task(step, path, inputs, splits, visit, **more)
            declared = steps[step]["next"]
            if declared == "end":
                assert answer["next"] == [], answer
                return None, reference
            ((kind, how),) = declared.items()
            if kind == "switch":
                (chosen,) = answer["next"]
                assert chosen in [case["to"] for case in how["cases"]], answer
                visit = visit + 1 if chosen == step else 0
                step, inputs = chosen, [reference]
                continue
            visit = 0
            targets = how["to"] if kind == "branch" else [how["to"]]
            assert answer["next"] == targets, answer
            if kind == "linear":
                if steps[targets[0]]["join"]:
                    return targets[0], reference
                step, inputs = targets[0], [reference]
                continue
            if kind == "branch":
                ends = [follow(target, path, [reference], splits, None) for target in targets]
            else:
                count = answer["foreach"]
                deeper = [*splits, {"step": step, "count": count}]
                members = [{"ip": "127.0.0.1", "port": 4000 + index} for index in range(count)]
                gangs = [{"gang": {"index": index, "members": members}} if kind == "gang" else {} for index in range(count)]
                ends = [
                    follow(targets[0], [*path, index], [reference], deeper, None, **gangs[index]) for index in range(count)
                ]
            step, inputs = ends[0][0], [end for _, end in ends]

    follow(definition["steps"][0]["name"], [], [], [], None)
    return done


def describe(flow_file):
    """The answer of `python -m causey._describe`."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "causey._describe", str(flow_file)],
        env={**os.environ, "PYTHONPATH": str(SDK)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert finished.stdout, finished.stderr
    return json.loads(finished.stdout)
