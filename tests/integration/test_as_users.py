"""The training step with the users' XLA settings; other tests compile with few optimizations."""

import subprocess
import sys

import pytest

from tests.conftest import AS_USERS
from tests.support.environments import without
from tests.support.paths import ROOT

FILES = ("tests/integration/test_parity.py", "tests/training/test_trainer.py")


@pytest.mark.slow
def test_networks_and_runs_are_numpys_and_pytorchs_with_all_optimisations() -> None:
    chosen = "float32 or in_numpy or every_image or same_bits"
    command = [sys.executable, "-m", "pytest", "-q", *FILES, "-k", chosen]
    environment = without("XLA_FLAGS") | {AS_USERS: "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
