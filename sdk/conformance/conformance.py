"""Plays the worker's side of the host protocol (docs/protocol.md §1) against a host and says what it does right.

    python conformance.py --flow steps.R --broken broken.R [--pipes] [--only NAME] -- Rscript host.R host

The flow file holds the steps that `flows/` shows in three languages. With --pipes the host gets a pair of named pipes, otherwise a
Unix socket. Exit status 0 when everything passes. Needs nothing but Python 3.10.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from pathlib import Path

PATIENCE_SECONDS = 30
LINE_BYTES_MAX = 1024 * 1024
TYPED = ("json", "table", "text", "bytes")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Wrong(Exception):
    """What the host should not have done."""


def expect(holds, what):
    if not holds:
        raise Wrong(what)


class Line:
    """The worker's end: whole lines in both directions, with a deadline."""

    def __init__(self, read, write):
        self.read, self.write = read, write
        self.received = b""

    def send_bytes(self, content):
        view = memoryview(content)
        while view:
            view = view[os.write(self.write, view) :]

    def send(self, message):
        self.send_bytes(json.dumps(message).encode() + b"\n")

    def receive(self, seconds=PATIENCE_SECONDS):
        """The next line, or None when the host has closed."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.received:
            expect(len(self.received) <= LINE_BYTES_MAX, "a line is longer than 1 MiB")
            ready, _, _ = select.select([self.read], [], [], max(0, deadline - time.monotonic()))
            expect(ready, f"no line came within {seconds} seconds")
            try:
                piece = os.read(self.read, 65536)
            except ConnectionResetError:
                piece = b""
            if not piece:
                expect(not self.received, f"the host closed in the middle of a line: {self.received[:80]!r}")
                return None
            self.received += piece
        line, _, self.received = self.received.partition(b"\n")
        return json.loads(line)

    def close(self):
        for descriptor in {self.read, self.write}:
            os.close(descriptor)


class Host:
    """A started host and what it prints."""

    def __init__(self, settings, flow):
        self.folder = Path(tempfile.mkdtemp(prefix="causey-host-"))
        self.store = self.folder / "store"
        (self.store / "cas").mkdir(parents=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CAUSEY_HOST")}
        environment |= dict.fromkeys(THREADS, "1")
        environment |= {"CAUSEY_HOST_ID": "h0", "CAUSEY_HOST_ROLE": "runner", "CAUSEY_FLOW_FILE": str(flow), "TMPDIR": str(self.folder)}
        listener = None
        if settings.pipes:
            names = [self.folder / "in", self.folder / "out"]
            for name in names:
                os.mkfifo(name, 0o600)
            environment |= {"CAUSEY_HOST_READ": str(names[0]), "CAUSEY_HOST_WRITE": str(names[1])}
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self.folder / "s"))
            listener.listen(1)
            listener.settimeout(PATIENCE_SECONDS)
            environment["CAUSEY_HOST_SOCKET"] = str(self.folder / "s")
        # A pipe opened in both directions never blocks, and is never without its far end.
        opened = [os.open(name, os.O_RDWR) for name in names] if settings.pipes else []
        self.process = subprocess.Popen(
            settings.command,
            cwd=flow.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.output = [b"", b""]
        self.threads = [threading.Thread(target=self._read, args=(place,), daemon=True) for place in range(2)]
        for thread in self.threads:
            thread.start()
        if settings.pipes:
            self.line = Line(opened[1], opened[0])
            self.hello = self.line.receive()
            # From here on the end of the host is seen.
            received = self.line.received
            self.line = Line(os.open(names[1], os.O_RDONLY | os.O_NONBLOCK), os.open(names[0], os.O_WRONLY))
            self.line.received = received
            for descriptor in opened:
                os.close(descriptor)
        else:
            stream, _ = listener.accept()
            listener.close()
            descriptor = stream.detach()
            self.line = Line(descriptor, descriptor)
            self.hello = self.line.receive()

    def _read(self, place):
        stream = (self.process.stdout, self.process.stderr)[place]
        while piece := stream.read1(65536):
            self.output[place] += piece

    def ready(self):
        line = self.line.receive()
        expect(line == {"type": "ready"}, f"`ready` was expected, not {line}")
        return self

    def message(self, step, *, inputs=(), path=(), splits=(), transition="end", **more):
        folder = tempfile.mkdtemp(prefix="task-", dir=self.folder)
        return {
            "type": "run", "key": uuid.uuid4().hex, "run": str(uuid.uuid4()), "run_name": "brisk-otter-41", "flow": "Flow", "step": step,
            "path": list(path), "visit": 0, "attempt": 0, "retry": 0, "retries_max": 0, "idempotency_key": "once", "user": "ann",
            "tags": [], "parameters": {"alpha": 0.5}, "trigger": None, "store": str(self.store), "folder": folder,
            "inputs": list(inputs), "splits": list(splits), "transition": transition, "typed": True, **more,
        }

    def answer(self, seconds=PATIENCE_SECONDS):
        while True:
            line = self.line.receive(seconds)
            if line is None or line["type"] != "status":
                return line

    def run(self, step, **more):
        message = self.message(step, **more)
        self.line.send(message)
        return message, self.answer()

    def finish(self, step, **more):
        message, answer = self.run(step, **more)
        check_finished(message, answer)
        return message, answer

    def wait(self, seconds=10):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Wrong(f"the host still lives {seconds} seconds later") from None

    def printed(self):
        return self.output[0].decode(errors="replace"), self.output[1].decode(errors="replace")

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        for thread in self.threads:
            thread.join(PATIENCE_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)


def check_finished(message, answer):
    expect(answer is not None, "the host closed instead of answering")
    expect(answer["type"] == "finished", f"`finished` was expected, not {json.dumps(answer)[:600]}")
    expect(answer["key"] == message["key"], "the answer does not repeat the key")
    expect(isinstance(answer["next"], list), "`next` is no list")
    for name, entry in answer["artifacts"].items():
        expect(isinstance(entry.get("encoding"), str) and isinstance(entry.get("bytes"), int), f"artifact {name} lacks encoding or bytes")
        expect(isinstance(entry.get("hash"), str) and len(entry["hash"]) == 32, f"artifact {name} has no hash of 32 letters")
        places = [place for place in ("file", "object", "blob") if entry.get(place) is not None]
        expect(len(places) == 1, f"artifact {name} is in {places or 'no place'}")
        if entry.get("file") == "data":
            expect(entry["offset"] % 64 == 0, f"artifact {name} does not begin at a multiple of 64")


def bytes_of(message, answer, name):
    entry = answer["artifacts"].get(name)
    expect(entry is not None, f"there is no artifact {name}, only {sorted(answer['artifacts'])}")
    expect(entry.get("file"), f"artifact {name} is not new")
    if entry["file"] != "data":
        return (Path(message["folder"]) / entry["file"]).read_bytes()
    data = base64.b64decode(answer["data"], validate=True) if answer.get("data") is not None else (Path(message["folder"]) / "data").read_bytes()
    return data[entry["offset"] : entry["offset"] + entry["bytes"]]


def value_of(message, answer, name):
    content = bytes_of(message, answer, name)
    encoding = answer["artifacts"][name]["encoding"]
    expect(encoding in TYPED, f"artifact {name} is kept as {encoding}, which other languages do not read")
    return json.loads(content) if encoding == "json" else content.decode() if encoding == "text" else content


def compose(host, message, answer):
    """Writes the object of an answer as a worker does; what the next task gets as input."""
    names = [name for name, entry in answer["artifacts"].items() if entry.get("file")]
    data, artifacts = b"", dict(answer["artifacts"])
    for name in names:
        content = bytes_of(message, answer, name)
        data += bytes(-len(data) % 64)
        entry = {key: value for key, value in answer["artifacts"][name].items() if key != "file"}
        artifacts[name] = {**entry, "offset": len(data)}
        data += content
    data += bytes(-len(data) % 64)
    task = {name: message[name] for name in ("run", "run_name", "flow", "step", "path", "visit", "attempt")}
    manifest = {"format": 1, "task": task, "objects": answer["objects"], "artifacts": artifacts, "output": None, "error": None}
    encoded = json.dumps({**manifest, "next": answer["next"], "foreach": answer["foreach"]}).encode()
    content = data + encoded + len(encoded).to_bytes(8, "little") + len(data).to_bytes(8, "little") + b"CAUSEY1\n"
    target = host.store / "runs" / message["run"] / message["key"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    digest = hashlib.blake2b(content, digest_size=32).hexdigest()
    return {"step": message["step"], "path": message["path"], "run": message["run"], "key": message["key"], "digest": digest}


FOREACH = {"foreach": {"to": "item", "variable": "items"}}


def object_of_values(start, transition="end", path=()):
    """A finished step `values` of a host of its own: the new host, and the reference to its object."""
    host = start()
    message, answer = host.finish("values", transition=transition, path=path)
    reference = compose(host, message, answer)
    fresh = start()
    shutil.copytree(host.store, fresh.store, dirs_exist_ok=True)
    return fresh, reference, answer


def says_hello_and_ready(start):
    host = start()
    hello = host.hello
    expect(hello["type"] == "hello" and hello["protocol"] == 1, f"the first line is {hello}")
    expect(hello["host"] == "h0" and hello["role"] == "runner", "host id or role are not repeated")
    expect(isinstance(hello["language"], str) and hello["language"], "it does not say its language")
    os.kill(hello["pid"], 0)


def leaves_typed_values(start):
    host = start()
    message, answer = host.finish("values", transition={"linear": {"to": "read"}})
    expect(answer["next"] == ["read"] and answer["foreach"] is None, f"it goes on to {answer['next']}")
    wanted = {"number": 41, "half": 0.5, "word": "Grüße", "items": [10, 20, 30], "record": {"a": 1, "b": [True, None]}}
    for name, value in wanted.items():
        found = value_of(message, answer, name)
        expect(found == value, f"{name} is {found!r}, not {value!r}")


def skips_unknown_fields(start):
    host = start()
    host.finish("values", surprise={"later": True})


def takes_a_line_in_pieces(start):
    host = start()
    message = host.message("values")
    content = json.dumps(message).encode() + b"\n"
    for piece in (content[:10], content[10:200], content[200:]):
        host.line.send_bytes(piece)
    check_finished(message, host.answer())


def reads_what_another_step_left(start):
    host, reference, _ = object_of_values(start)
    message, answer = host.finish("read", inputs=[reference])
    expect(value_of(message, answer, "sum") == 42, "the sum of an input and 1 is wrong")
    expect(value_of(message, answer, "greeting") == "Grüße!", "a text with umlauts came back changed")
    for name in ("half", "items", "record"):
        entry = answer["artifacts"].get(name)
        expect(entry is not None, f"{name} is not passed on")
        expect(entry.get("object") is not None, f"{name} is stored again although nobody changed it")
    expect(answer["objects"][0]["key"] == reference["key"], "`objects` does not name the parent's object")


def fetches_a_missing_object(start):
    host, reference, _ = object_of_values(start)
    path = f"runs/{reference['run']}/{reference['key']}"
    hidden = host.folder / "hidden"
    (host.store / path).rename(hidden)
    message = host.message("read", inputs=[reference])
    host.line.send(message)
    question = host.answer()
    expect(question == {"type": "fetch", "path": path}, f"a `fetch` of {path} was expected, not {question}")
    hidden.rename(host.store / path)
    host.line.send({"type": "fetched", "path": path})
    check_finished(message, host.answer())


def says_that_a_fetch_failed(start):
    host, reference, _ = object_of_values(start)
    path = f"runs/{reference['run']}/{reference['key']}"
    (host.store / path).unlink()
    host.line.send(host.message("read", inputs=[reference]))
    question = host.answer()
    expect(question["type"] == "fetch", f"a `fetch` was expected, not {question}")
    host.line.send({"type": "fetch_failed", "path": path, "message": "the bucket is gone"})
    answer = host.answer()
    expect(answer["type"] == "failed" and "the bucket is gone" in answer["error"]["message"], f"it says {answer}")


def opens_a_foreach(start):
    host = start()
    message, answer = host.finish("values", transition=FOREACH)
    expect(answer["next"] == ["item"] and answer["foreach"] == 3, f"next is {answer['next']}, foreach {answer['foreach']}")
    entry = answer["artifacts"]["_items_0"]
    expect(entry["encoding"] == "json", f"the items are kept as {entry['encoding']}")
    expect(value_of(message, answer, "_items_0") == [10, 20, 30], "the items are wrong")
    stack = value_of(message, answer, "_split_stack")
    expect(stack == [["items", answer["artifacts"]["items"]["hash"]]], f"_split_stack is {stack}")


def item_of(start, index):
    host, reference, _ = object_of_values(start, transition=FOREACH)
    splits = [{"step": "values", "count": 3}]
    message, answer = host.finish("item", inputs=[reference], path=[index], splits=splits, transition={"linear": {"to": "gather"}})
    return host, message, answer


def works_on_an_item(start):
    _, message, answer = item_of(start, 2)
    expect(value_of(message, answer, "doubled") == 60, "the doubled item is wrong")


def joins_in_order(start):
    results = [item_of(start, index) for index in range(2)]
    references = [compose(host, message, answer) for host, message, answer in results]
    for by_file in (False, True):
        host = start()
        for other, _, _ in results:
            shutil.copytree(other.store, host.store, dirs_exist_ok=True)
        message = host.message("gather", inputs=references)
        if by_file:
            listed = host.folder / "inputs.json"
            listed.write_text(json.dumps(message.pop("inputs")))
            message["inputs_file"] = str(listed)
        host.line.send(message)
        answer = host.answer()
        check_finished(message, answer)
        found = value_of(message, answer, "all")
        expect(found == [20, 40], f"the joined values are {found}{' (list by file)' if by_file else ''}")


def prints_before_it_answers(start):
    host = start()
    host.finish("talk")
    # Written before the answer, so it is in the pipe.
    prints(host, lambda printed: printed == ("to stdout\n", "to stderr\n"))


def prints(host, is_enough):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_enough(host.printed()):
        expect(time.monotonic() < deadline, f"it printed {host.printed()}")
        time.sleep(0.01)


def says_why_a_step_failed(start):
    host = start()
    message, answer = host.run("fail")
    expect(answer is not None and answer["type"] == "failed", f"`failed` was expected, not {answer}")
    expect(answer["key"] == message["key"] and isinstance(answer["retryable"], bool), "key or retryable are missing")
    error = answer["error"]
    expect(error["type"] and isinstance(error["message"], str) and isinstance(error["traceback"], str), f"the error is {error}")
    told = error["message"] + error["traceback"] + host.printed()[1]
    expect("no luck" in told, f"the reason is not told: {error}")


def ends_a_step_at_its_time_limit(start):
    host = start()
    host.line.send(host.message("slow", timeout_seconds=1.0))
    answer = host.answer(15)
    expect(answer is not None and answer["type"] == "failed" and answer.get("timed_out") is True, f"it answers {answer}")


def ends_when_it_is_asked_to(start):
    host = start()
    host.line.send(host.message("slow"))
    prints(host, lambda printed: "begun" in printed[0])
    os.killpg(host.process.pid, signal.SIGTERM)
    answer = host.answer(10)
    expect(answer is None or answer["type"] == "failed", f"after SIGTERM it answers {answer}")


def is_seen_to_leave(start):
    host = start()
    _, answer = host.run("leave")
    if answer is None:
        expect(host.wait() == 3, f"it ended with {host.wait()}")
    else:
        expect(answer["type"] == "failed" and "3" in answer["error"]["message"], f"it answers {answer}")


def leaves_large_values_in_files(start):
    host = start()
    message, answer = host.finish("large")
    expect(answer.get("data") is None or len(answer["data"]) < 100_000, "a large value travels inside the line")
    expect(value_of(message, answer, "text") == "x" * 2_000_000, "the large value came back changed")


def closes_on_an_unknown_message(start):
    host = start()
    host.line.send({"type": "surprise"})
    expect(host.line.receive(10) is None, "it goes on after a message it cannot know")
    host.wait()


def ends_with_its_line(start):
    host = start()
    host.line.close()
    host.wait()


def ends_with_half_a_line(start):
    host = start()
    host.line.send_bytes(b'{"type":"run","key":')
    host.line.close()
    host.wait()


CHECKS = (
    says_hello_and_ready, leaves_typed_values, skips_unknown_fields, takes_a_line_in_pieces, reads_what_another_step_left,
    fetches_a_missing_object, says_that_a_fetch_failed, opens_a_foreach, works_on_an_item, joins_in_order, prints_before_it_answers,
    says_why_a_step_failed, ends_a_step_at_its_time_limit, ends_when_it_is_asked_to, is_seen_to_leave, leaves_large_values_in_files,
    closes_on_an_unknown_message, ends_with_its_line, ends_with_half_a_line,
)  # fmt: skip


def tells_that_a_file_cannot_be_loaded(settings):
    host = Host(settings, settings.broken)
    try:
        line = host.line.receive()
        expect(line is not None and line["type"] == "load_failed", f"`load_failed` was expected, not {line}")
        error = line["error"]
        expect(error["message"] and error.get("file") == settings.broken.name, f"the error is {error}")
        expect(isinstance(error.get("line"), int), f"it does not say the line: {error}")
        expect(host.line.receive(10) is None, "it goes on without its file")
        host.wait()
    finally:
        host.close()


def play(settings, check):
    """None, or what is wrong."""
    started = []

    def start():
        started.append(Host(settings, settings.flow))
        return started[-1].ready()

    try:
        if check is tells_that_a_file_cannot_be_loaded:
            check(settings)
        else:
            check(start)
    except Wrong as problem:
        printed = "".join(host.printed()[1] for host in started[-1:])
        return f"{problem}\n{printed[-2000:]}".rstrip()
    except Exception:
        return traceback.format_exc()
    finally:
        for host in started:
            host.close()
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flow", type=Path, required=True, help="flow file with the steps of the check")
    parser.add_argument("--broken", type=Path, help="flow file that cannot be loaded")
    parser.add_argument("--pipes", action="store_true", help="give the host named pipes instead of a socket")
    parser.add_argument("--only", help="one check")
    parser.add_argument("command", nargs="+", help="the host's command")
    settings = parser.parse_args()
    settings.flow = settings.flow.resolve()
    checks = list(CHECKS)
    if settings.broken:
        settings.broken = settings.broken.resolve()
        checks.append(tells_that_a_file_cannot_be_loaded)
    failed = 0
    for check in checks:
        name = check.__name__.replace("_", " ")
        if settings.only and settings.only not in (name, check.__name__):
            continue
        wrong = play(settings, check)
        failed += wrong is not None
        print(f"{'ok    ' if wrong is None else 'FAILED'} {name}", flush=True)
        if wrong:
            print("       " + wrong.replace("\n", "\n       "), flush=True)
    print(f"{failed} of {len(checks)} checks failed" if failed else "this host conforms")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
