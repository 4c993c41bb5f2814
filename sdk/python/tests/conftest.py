"""Fixtures: a flow file from text, and workers that end with the test."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import worker as peer


@pytest.fixture
def flow_file(tmp_path):
    """Writes a flow file; the import of the SDK and the main part are added."""

    def write(body, name="flow.py", head="from causey import *\n"):
        path = tmp_path / "project" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(head + textwrap.dedent(body))
        return path

    return write


@pytest.fixture
def start_worker():
    workers = []

    def start(path, **options):
        workers.append(peer.Worker(path, **options))
        return workers[-1]

    yield start
    for each in workers:
        each.close()


@pytest.fixture
def run_step(flow_file, start_worker):
    """Runs one step of a flow given as text; returns (answer, worker, runner)."""

    def run(body, step="start", answers=None, **fields):
        worker = start_worker(flow_file(body))
        assert worker.first["type"] == "loaded", worker.first
        runner = worker.fork()
        message = peer.message(worker.store, step, **fields)
        answer = runner.run(message, answers)
        return answer, worker, runner

    return run


@pytest.fixture
def server(monkeypatch, tmp_path):
    from server import TOKEN, Server

    running = Server()
    monkeypatch.setenv("CAUSEY_URL", running.url)
    monkeypatch.setenv("CAUSEY_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    yield running
    running.close()
