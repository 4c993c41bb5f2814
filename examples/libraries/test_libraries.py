"""Each flow with a library, its packages from the configured index. They are large: `make libraries` runs them, `make test` does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
UV = Path(sys.executable).parent / "uv"
UNREACHABLE = "the package index cannot be reached"

pytestmark = [
    pytest.mark.skipif("CAUSEY_TEST_LIBRARIES" not in os.environ, reason="large packages; `make libraries` runs these"),
    pytest.mark.skipif(not UV.is_file(), reason="there is no uv; `make venv` installs it"),
]


@pytest.mark.parametrize(
    ("name", "says"),
    [("boosting.py", "best of three"), ("learning.py", "of the flowers"), ("network.py", "learnt ")],
)
def test_a_flow_learns_with_the_packages_it_asks_for(name, says, tmp_path):
    causey = os.environ.get("CAUSEY_BIN", str(ROOT / "target" / "debug" / "causey"))
    settings = {"CAUSEY_PYTHON": sys.executable, "CAUSEY_STATE": str(tmp_path / "state"), "CAUSEY_UV": str(UV)}
    servers = {"CAUSEY_NATS_SERVER": os.environ.get("CAUSEY_TEST_NATS_SERVER", str(UV.with_name("nats-server")))}
    command = [causey, "run", str(HERE / name)]
    environment = {**os.environ, **settings, **servers}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    if UNREACHABLE in done.stderr:
        pytest.skip(f"{UNREACHABLE}: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert says in done.stdout, done.stdout
