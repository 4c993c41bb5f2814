"""Measures hosts from the worker's side of the socket: `python tests/bench_host.py [ATTEMPTS]`.

"result" is the time from sending `run` to having read `finished`; for forked runners, which are made ahead of need, and
for one reused runner. "overhead" is the runner's own time per attempt, without the socket's wake-ups.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from worker import SDK, Worker, compose, message

FLOW = """{imports}
from causey import FlowSpec, step


class Tiny(FlowSpec):
    @step
    def start(self):
        self.number = 1
        self.next(self.middle)

    @step
    def middle(self):
        self.number += 1
        self.next(self.end)

    @step
    def end(self):
        pass
"""
SCIENCE = "import numpy, pandas, sklearn.ensemble"


def percentiles(seconds):
    ordered = sorted(seconds)
    return [round(ordered[int(len(ordered) * share)] * 1e6) for share in (0.5, 0.99)]


def results(title, worker, attempts, reuse):
    start = message(worker.store, "start", flow="Tiny")
    runner = worker.fork()
    parent = compose(start, runner.run(start))
    times = []
    for _ in range(attempts):
        if not reuse:
            runner.close()
            worker.connection.receive()
            runner = worker.fork()
        run = message(worker.store, "middle", flow="Tiny", inputs=[parent])
        began = time.perf_counter()
        answer = runner.run(run)
        times.append(time.perf_counter() - began)
        assert answer["type"] == "finished", answer
        os.rmdir(run["folder"])
    runner.close()
    p50, p99 = percentiles(times)
    print(f"{title:42} result p50 {p50:6} µs   p99 {p99:6} µs")


def fork_times(title, worker, attempts):
    times = []
    for _ in range(attempts):
        began = time.perf_counter()
        runner = worker.fork()
        times.append(time.perf_counter() - began)
        runner.close()
        worker.connection.receive()
    p50, p99 = percentiles(times)
    print(f"{title:42} fork to ready p50 {p50:6} µs   p99 {p99:6} µs")


def overhead(folder, attempts):
    """In this process, without sockets: message to answer."""
    sys.path.insert(0, str(SDK))
    from json import dumps, loads

    from causey._attempt import Attempt, LoadedFlow
    from causey._flowfile import load_flow

    loaded = LoadedFlow(load_flow(str(folder / "tiny.py")))
    store = folder / "store"
    store.mkdir()
    start = message(store, "start", flow="Tiny")
    parent = compose(start, Attempt(start, loaded, None, {}).answer())
    run = dumps(message(store, "middle", flow="Tiny", inputs=[parent]))
    stores, times = {}, []
    for _ in range(attempts):
        began = time.perf_counter()
        dumps(Attempt(loads(run), loaded, None, stores).answer())
        times.append(time.perf_counter() - began)
    p50, p99 = percentiles(times)
    print(f"{'overhead of one attempt, no socket':42}        p50 {p50:6} µs   p99 {p99:6} µs")


def import_time(rounds=30):
    def best(code):
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(SDK)}, check=True)
            times.append(time.perf_counter() - began)
        return sorted(times)[rounds // 2] * 1000

    bare, sdk = best("pass"), best("import causey")
    print(f"import causey: {sdk - bare:.1f} ms over bare Python ({bare:.1f} ms)")


def main():
    attempts = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    import_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, imports in (("bare", ""), ("pandas + sklearn", SCIENCE)):
            (folder / "tiny.py").write_text(FLOW.format(imports=imports))
            with Worker(folder / "tiny.py") as worker:
                assert worker.first["type"] == "loaded", worker.first
                results(f"reuse, {title}", worker, attempts, reuse=True)
                worker.connection.receive()
                fork_times(f"forked, {title}", worker, max(attempts // 10, 10))
                results(f"forked ahead, {title}", worker, attempts // 2, reuse=False)
                for runner in worker.open:
                    runner.close()
        (folder / "tiny.py").write_text(FLOW.format(imports=""))
        overhead(folder, attempts * 10)


if __name__ == "__main__":
    main()
