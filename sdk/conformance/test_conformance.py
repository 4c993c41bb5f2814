"""Every host that comes with Causey passes the conformance script."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SDKS = HERE.parent
FLOWS = HERE / "flows"


def has_r() -> bool:
    rscript = shutil.which("Rscript")
    return rscript is not None and subprocess.run([rscript, "-e", "library(jsonlite)"], capture_output=True, check=False).returncode == 0


def conform(ending: str, *command: str, pipes: bool = False, environment: dict[str, str] | None = None) -> None:
    arguments = ["--flow", str(FLOWS / f"steps.{ending}"), "--broken", str(FLOWS / f"broken.{ending}"), *(["--pipes"] if pipes else [])]
    done = subprocess.run(
        [sys.executable, str(HERE / "conformance.py"), *arguments, "--", *command],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this host conforms" in done.stdout


def test_the_python_host_conforms():
    conform("py", sys.executable, "-m", "causey._host", environment={"PYTHONPATH": str(SDKS / "python")})


@pytest.mark.skipif("CAUSEY_BIN" not in os.environ, reason="CAUSEY_BIN does not name the causey program")
def test_the_host_of_commands_conforms():
    conform("toml", str(Path(os.environ["CAUSEY_BIN"]).resolve()), "host")


@pytest.mark.skipif(not has_r(), reason="no Rscript with jsonlite; Debian: apt-get install r-base-core r-cran-jsonlite")
def test_the_r_host_conforms():
    conform("R", "Rscript", "--no-save", "--no-restore", "--no-init-file", str(SDKS / "r" / "exec" / "causey.R"), "host", pipes=True)


def test_a_host_that_says_nothing_does_not_conform():
    done = subprocess.run(
        [sys.executable, str(HERE / "conformance.py"), "--only", "says hello and ready", "--flow", str(FLOWS / "steps.py")]
        + ["--pipes", "--", sys.executable, "-c", "import os; os.write(os.open(os.environ['CAUSEY_HOST_WRITE'], os.O_WRONLY), b'{}\\n')"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "FAILED says hello and ready" in done.stdout
