"""The training step with the users' XLA settings; other tests compile with few optimizations."""

import subprocess
import sys

import pytest

from tests.conftest import AS_USERS
from tests.support.environments import without
from tests.support.paths import ROOT

FILES = ("tests/integration/test_parity.py", "tests/training/test_trainer.py")


@pytest.mark.slow
def test_networks_and_runs_match_numpy_and_pytorch_with_full_optimization() -> None:
    chosen = "float32 or in_numpy or every_image or same_bits"
    command = [sys.executable, "-m", "pytest", "-q", *FILES, "-k", chosen]
    environment = without("XLA_FLAGS") | {AS_USERS: "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
