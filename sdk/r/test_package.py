"""The R package: its own tests, and that it installs and runs as a package."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RSCRIPT = shutil.which("Rscript")


def has_r() -> bool:
    return RSCRIPT is not None and subprocess.run([RSCRIPT, "-e", "library(jsonlite)"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not has_r(), reason="no Rscript with jsonlite; Debian: apt-get install r-base-core r-cran-jsonlite")


def run(*command: str, **settings) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("file", sorted(file.name for file in (HERE / "tests").glob("*.R")))
def test_r(file):
    run("Rscript", "--vanilla", file, cwd=HERE / "tests")


def test_the_package_installs_and_a_script_hands_over_to_causey(tmp_path):
    library = tmp_path / "library"
    library.mkdir()
    run("R", "CMD", "INSTALL", "--no-docs", "-l", str(library), str(HERE))
    causey = tmp_path / "causey"
    causey.write_text('#!/bin/sh\necho "$@"\n')
    causey.chmod(0o755)
    script = tmp_path / "flow.R"
    script.write_text('library(causey)\nflow("X") |> step("start", function(self) NULL) |> causey_main()\n')
    environment = {**os.environ, "R_LIBS": str(library), "CAUSEY_BIN": str(causey)}
    done = run("Rscript", str(script), "run", "--n", "a b", env=environment)
    assert done.stdout == f"run {script} --n a b\n"
    wrong = subprocess.run(["Rscript", str(script)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 2 and "usage: Rscript flow.R run" in wrong.stderr
