"""The whole example against the real program, small: from the event to the consumer's forecast."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parent / "demo.py"


@pytest.mark.skipif("CAUSEY_BIN" not in os.environ, reason="CAUSEY_BIN does not name the causey program")
def test_one_event_told_three_times_gives_one_version_and_one_forecast(tmp_path):
    arguments = ["--countries", "4", "--days", "84", "--titles", "6"]
    done = subprocess.run(
        [sys.executable, str(DEMO), str(tmp_path), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 version of title-demand → 1 forecast" in done.stdout
    assert len((tmp_path / "forecast.csv").read_text().splitlines()) == 1 + 4 * 7 * 6
