"""The R example against the real program: from an event to what the consumers in R and shell make of the model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RSCRIPT = shutil.which("Rscript")
DIRECT = """
y <- window(log(Seatbelts[, "drivers"]), end = c(1983, 12)); law <- window(Seatbelts[, "law"], end = c(1983, 12))
fits <- lapply(list(c(1, 0, 0), c(0, 1, 1)), function(order) {
  arima(y, order = order, seasonal = list(order = c(0, 1, 1)), xreg = law, method = "CSS-ML")
})
best <- fits[[which.min(sapply(fits, AIC))]]
cat(sprintf("%.10f", coef(best)[length(coef(best))]))
"""


def has_r() -> bool:
    return RSCRIPT is not None and subprocess.run([RSCRIPT, "-e", "library(jsonlite)"], capture_output=True, check=False).returncode == 0


def wait_for(what, found, process, seconds=90):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert process.poll() is None, f"the stack has ended while waiting for {what}"
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.05)
    return value


@pytest.mark.skipif("CAUSEY_BIN" not in os.environ, reason="CAUSEY_BIN does not name the causey program")
@pytest.mark.skipif(not has_r(), reason="no Rscript with jsonlite; Debian: apt-get install r-base-core r-cran-jsonlite")
def test_the_published_effect_is_that_of_arima_and_consumers_use_it(tmp_path):
    state = tmp_path / "state"
    environment = {name: value for name, value in os.environ.items() if name not in ("CAUSEY_URL", "CAUSEY_TOKEN")}
    environment |= {"CAUSEY_STATE": str(state)}
    if server := os.environ.get("CAUSEY_TEST_NATS_SERVER"):
        environment["CAUSEY_NATS_SERVER"] = server
    causey = str(Path(os.environ["CAUSEY_BIN"]).resolve())

    def run(*arguments, **more):
        done = subprocess.run(
            [causey, *arguments], cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with (tmp_path / "dev.log").open("w") as log:
        stack = subprocess.Popen(
            [causey, "dev", "--random-ports"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        url = wait_for("the address", lambda: (state / "url").exists() and (state / "url").read_text().strip(), stack)
        place = {"CAUSEY_URL": url, "CAUSEY_TOKEN": (state / "token").read_text().strip()}
        run("deploy", str(HERE / "safety.R"), **place)
        run("events", "publish", "dataset.arrived", "--data", '{"until": 1983}', **place)

        def consume(model, command):
            follow = ["events", "follow", "--type", "dev.causey.model.published.v1", "--name", model, "--from-start"]
            return run(*follow, "--count", "1", "--timeout", "100", "--exec", command, **place)

        consume("road-safety", f"Rscript {HERE / 'consume.R'}")
        consume("road-safety-effects", f"sh {HERE / 'consume.sh'}")
    finally:
        stack.terminate()
        stack.wait(60)
    effects = json.loads((tmp_path / "effects.jsonl").read_text())
    direct = float(subprocess.run(["Rscript", "--vanilla", "-e", DIRECT], capture_output=True, text=True, check=True).stdout)
    assert abs(effects["drivers"] - direct) < 1e-6
    # Harvey and Durbin (1986) found a fall of 18 % for car drivers and 25 % and more in front.
    assert -0.35 < effects["drivers"] < -0.1 and effects["front"] < -0.2
    forecast = (tmp_path / "forecast.csv").read_text().splitlines()
    assert forecast[0] == '"month","drivers"' and len(forecast) == 13
