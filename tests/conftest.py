"""What all tests share: two host devices, a cache folder, an engine, Hypothesis's examples.

Programs that tests compile for themselves, a thousand of them, are compiled with fewer
optimisations, which takes two thirds of the time. The engine's own training programs ask for
theirs, and are compiled as users have them.
"""

import os
import shutil
import tempfile

import jax
import pytest
from hypothesis import settings

# Examples are drawn anew by each run, so that many runs see many. Where a failure has to be
# the doing of a change, they are always the same: Hypothesis has a profile for that.
settings.register_profile("random", deadline=None)
repeatable = {"CI", "CNNBENCH_TEST_DETERMINISTIC"} & os.environ.keys()
settings.load_profile("ci" if repeatable else "random")


def pytest_configure(config: pytest.Config) -> None:
    """Before JAX starts, and before worker processes do, which inherit the environment."""
    jax.config.update("jax_num_cpu_devices", 2)
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()
    os.environ["CNNBENCH_ENGINE"] = "direct"
    if not hasattr(config, "workerinput"):
        os.environ["CNNBENCH_CACHE_DIR"] = tempfile.mkdtemp(prefix="cnnbench-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The folder goes with the process that made it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["CNNBENCH_CACHE_DIR"], ignore_errors=True)
