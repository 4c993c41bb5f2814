"""From an arriving file to a consumer's forecast, on this machine, in one go.

    python demo.py [FOLDER] [--countries 12] [--days 182] [--titles 20]

Needs the `causey` program (CAUSEY_BIN or PATH) and what requirements.txt lists. Everything it starts, it stops; what it leaves
is FOLDER (by default a fresh temporary one) with the data, the forecast, the logs and Causey's state.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import generate

HERE = Path(__file__).resolve().parent
ERROR_MAX = 0.05
START_SECONDS = 60
STOP_SECONDS = 30
# The subscriber that is started again must stay silent this long.
SILENCE_SECONDS = 3
EXIT_TIMEOUT = 6


class Failed(Exception):
    """Says what went wrong and where to look."""


class Started:
    """A program in the background."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, log: Path) -> None:
        self.process = process
        self.name = name
        self.log = log

    def has_ended_well(self) -> bool:
        """Whether it is through; Failed if it ended in any other way."""
        if self.process.poll() not in (None, 0):
            last_lines = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise Failed(f"{self.name} ended with {self.process.returncode}:\n{last_lines}")
        return self.process.returncode == 0

    def must_run(self) -> None:
        expect(not self.has_ended_well(), f"{self.name} ended by itself")


class Demo:
    def __init__(self, folder: Path, causey: str) -> None:
        self.folder = folder
        self.causey = causey
        self.began = time.monotonic()
        self.consumed = folder / "consumed.jsonl"
        self.environment = {
            "CAUSEY_PYTHON": sys.executable,
            # A server the user works with otherwise is none of our business.
            **{name: value for name, value in os.environ.items() if name not in ("CAUSEY_URL", "CAUSEY_TOKEN")},
            "CAUSEY_STATE": str(folder / ".causey"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        }

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def command(self, *arguments: str) -> str:
        """Runs `causey …` in the folder and returns what it printed."""
        done = subprocess.run(
            [self.causey, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"causey {shlex.join(arguments)} ended with {done.returncode}:\n{done.stderr or done.stdout}")
        return done.stdout

    @contextlib.contextmanager
    def running(self, log: str, *arguments: str) -> Iterator[Started]:
        """Starts `causey …` and stops it at the end by its process id, should it still run."""
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [self.causey, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield Started(process, f"causey {arguments[0]}", self.folder / log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def get(self, path: str) -> dict:
        state = self.folder / ".causey"
        url = (state / "url").read_text().strip().rstrip("/")
        token = (state / "token").read_text().strip()
        request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"{}")

    def is_ready(self) -> bool:
        try:
            self.get("/v1/status")
        except (OSError, urllib.error.URLError, json.JSONDecodeError):
            return False
        return True

    def publish_arrival(self, day: str) -> dict:
        data = json.dumps({"folder": str(self.folder / "viewing"), "day": day})
        identity = ("--source", "demo", "--id", f"viewing-{day}")
        return json.loads(self.command("events", "publish", "viewing.arrived", *identity, "--data", data, "--json"))

    def following(self, seconds: float) -> contextlib.AbstractContextManager[Started]:
        """The subscriber: acts on one notification, notes its position and ends; with EXIT_TIMEOUT if none comes."""
        consumer = shlex.join([sys.executable, str(HERE / "consume.py"), "--truth", str(self.folder / "truth.json")])
        what = ("--type", "dev.causey.model.published.v1", "--name", "title-demand")
        # From the start, so that nothing is missed while the subscriber has no position of its own yet.
        who = (
            "--subscriber",
            "planning",
            "--from-start",
            "--exec",
            f"{consumer} --out {shlex.quote(str(self.folder))}",
        )
        until = ("--count", "1", "--timeout", str(seconds))
        return self.running("subscriber.log", "events", "follow", *what, *who, *until)

    def acted(self) -> list[dict]:
        return [json.loads(line) for line in self.consumed.read_text().splitlines()] if self.consumed.exists() else []


def wait_until(what: str, seconds: float, condition: Callable[[], bool], *checks: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        for check in checks:
            check()
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.1)


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


def play(demo: Demo, arguments: argparse.Namespace) -> None:
    truth = generate.generate(demo.folder, arguments.countries, arguments.days, arguments.titles)
    demo.say(f"wrote viewing hours: {len(truth['next_week'])} countries × {arguments.days} days, one Parquet file each")

    with demo.running("dev.log", "dev", "--random-ports", "--json") as dev:
        wait_until("the start of causey dev", START_SECONDS, demo.is_ready, dev.must_run)
        demo.say(f"causey dev is up at {(demo.folder / '.causey' / 'url').read_text().strip()}")
        demo.command("deploy", str(HERE / "flow.py"))
        demo.say("deployed TitleDemand: the event viewing.arrived will start it")

        with demo.following(arguments.timeout) as subscriber:
            demo.say("subscriber 'planning' waits for published models")
            day = truth["last_day"]
            first, second = demo.publish_arrival(day), demo.publish_arrival(day)
            arrived = time.monotonic()
            demo.say(f"told Causey twice, under one id, that {day} has arrived")
            expect(len(first["started"]) == 1, f"the event started {len(first['started'])} runs: {first}")
            expect(not second["started"] and second["duplicate"], f"the second telling was not recognised: {second}")
            run = first["started"][0]["name"]
            demo.say(f"the first started run {run}; the second was recognised and started nothing")

            def run_goes_on() -> None:
                found = demo.get(f"/v1/runs/{run}")
                state, problem = found["state"], found["problem"]
                expect(state in ("pending", "running", "succeeded"), f"run {run} {state}: {problem}")

            done = subscriber.has_ended_well
            wait_until("the consumer's forecast", arguments.timeout, done, dev.must_run, run_goes_on)
            demo.say(f"the consumer wrote its forecast, {time.monotonic() - arrived:.1f} s after the event")

        def run_is_over() -> bool:
            return demo.get(f"/v1/runs/{run}")["state"] == "succeeded"

        wait_until("the end of the run", START_SECONDS, run_is_over, dev.must_run, run_goes_on)

        demo.publish_arrival(day)
        with demo.following(SILENCE_SECONDS) as subscriber:
            code = subscriber.process.wait(SILENCE_SECONDS + START_SECONDS)
            expect(code == EXIT_TIMEOUT, f"the subscriber, started again, did not stay silent: it ended with {code}")
        demo.say("told it a third time and started the subscriber again: silence")

        runs = demo.get("/v1/runs")["runs"]
        versions = demo.get("/v1/models/title-demand")["versions"]
        steps = demo.get(f"/v1/runs/{run}")["steps"]
    demo.say("stopped everything")

    acted = demo.acted()
    expect(len(runs) == 1, f"there are {len(runs)} runs, one was expected")
    expect(len(versions) == 1, f"there are {len(versions)} versions of title-demand, one was expected")
    expect(len(acted) == 1, f"the consumer acted {len(acted)} times, once was expected")
    expect(
        acted[0]["error"] < ERROR_MAX, f"the forecast is off by {acted[0]['error']:.1%}, {ERROR_MAX:.0%} is the most"
    )
    report(demo, run, versions[0], acted[0], sum(step["counts"]["succeeded"] for step in steps))


def report(demo: Demo, run: str, version: dict, acted: dict, tasks: int) -> None:
    metrics = version["metrics"]
    picked = ", ".join(
        f"{name.removeprefix('picked_').replace('_', ' ')} {count:.0f}×"
        for name, count in metrics.items()
        if name.startswith("picked_")
    )
    print(f"""
What happened
  one event told three times → 1 run ({tasks} tasks) → 1 version of title-demand → 1 forecast
  models picked by backtest: {picked}
  error in the backtest: {metrics["wape"]:.1%}; repeating last week: {metrics["wape_seasonal_naive"]:.1%}
  error of the forecast against the known truth: {acted["error"]:.1%} ({acted["rows"]} rows)

Where to look next
  cd {demo.folder}
  head forecast.csv                   what the consumer wrote
  causey dev                          brings the same state back; then in another terminal
  causey runs                         the run
  causey logs {run:<23} what its steps printed
  causey models show title-demand     the version and its metrics
  {HERE / "flow.py"} is the flow, {demo.causey} the program""")


def main() -> int:
    parser = argparse.ArgumentParser(description="Plays the example from the arriving data to the consumer's forecast.")
    parser.add_argument(
        "folder", type=Path, nargs="?", help="an empty or missing folder (default: a fresh temporary one)"
    )
    parser.add_argument("--countries", type=int, default=int(os.environ.get("DEMO_COUNTRIES", "12")))
    parser.add_argument("--days", type=int, default=int(os.environ.get("DEMO_DAYS", "182")))
    parser.add_argument("--titles", type=int, default=int(os.environ.get("DEMO_TITLES", "20")))
    parser.add_argument("--timeout", type=float, default=300, help="seconds to wait for the forecast")
    arguments = parser.parse_args()

    causey = os.environ.get("CAUSEY_BIN") or shutil.which("causey")
    if not causey:
        parser.error(
            "the program causey was not found; build it (cargo build -p causey-cli) and set CAUSEY_BIN to its path"
        )
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="causey-demo-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    demo = Demo(folder, str(Path(causey).resolve()))
    try:
        play(demo, arguments)
    except (Failed, OSError) as problem:
        print(f"\ndemo: {problem}\nlogs: {folder / 'dev.log'}, {folder / 'subscriber.log'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
