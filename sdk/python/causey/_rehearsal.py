"""Drives receive → read input → call → encode → send dry in a freshly forked runner.

The first touch of a page after a fork copies it. Done here, before `ready`, those faults do not delay the attempt.
"""

from __future__ import annotations

import os
from _socket import socketpair
from json import dumps

from causey._channel import Channel
from causey._encoding import encode
from causey._flow import FlowSpec, step
from causey._objects import MAGIC, Store
from causey._runner import Runner

ROUNDS = 1
# So often in the template that the interpreter has specialised the code and every lazy import is done before a fork.
WARM_UP_ROUNDS = 16


class Rehearsal(FlowSpec):
    number: int

    @step
    def start(self) -> None:
        self.number += 1
        self.items = [self.number]
        self.next(self.start, foreach="items")


class _OneObject(Store):
    """Answers for every path with one object that lives in memory."""

    def __init__(self) -> None:
        super().__init__("/")
        number = encode(1)
        entry = {"offset": 0, "bytes": number.size, "encoding": number.encoding, "type": "int", "hash": number.hash}
        manifest = dumps({"format": 1, "objects": [], "artifacts": {"number": entry}}).encode()
        data = bytes(number.parts[0])
        footer = len(manifest).to_bytes(8, "little") + len(data).to_bytes(8, "little") + MAGIC
        self._file = _nameless_file()
        os.write(self._file, data + manifest + footer)

    def open(self, path: str) -> int:
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.dup(self._file)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("causey-rehearsal")
    # Not above: it loads `random`, which is seeded anew in every child.
    from tempfile import TemporaryFile

    with TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


_PARENT = {"step": "start", "path": [], "run": "", "key": "", "digest": ""}
_RUN = {
    "type": "run",
    "key": "",
    "step": "start",
    "path": [],
    "retry": 0,
    "retries_max": 0,
    "parameters": {},
    "store": "/",
    "folder": "/",
    "inputs": [_PARENT],
    "splits": [],
}

# Made when the template imports this, so that a forked runner only uses it.
_runner = Runner(Rehearsal)
_runner.stores["/"] = _OneObject()


def rehearse(rounds: int = ROUNDS) -> None:
    ours, theirs = socketpair()
    worker, host = Channel(ours), Channel(theirs)
    for _ in range(rounds):
        worker.send(_RUN)
        message = host.receive()
        assert message is not None
        _runner.serve_one(host, message)
        answer = worker.receive()
        assert answer is not None and answer["type"] == "finished", answer
    worker.close()
    host.close()
