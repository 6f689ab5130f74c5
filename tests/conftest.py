"""What all tests share: two host devices, a cache folder of their own, no measuring of engines."""

import os
import shutil
import tempfile

import jax
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Before JAX starts, and before worker processes do, which inherit the environment."""
    jax.config.update("jax_num_cpu_devices", 2)
    os.environ["CNNBENCH_ENGINE"] = "direct"
    if not hasattr(config, "workerinput"):
        os.environ["CNNBENCH_CACHE_DIR"] = tempfile.mkdtemp(prefix="cnnbench-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The folder goes with the process that made it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["CNNBENCH_CACHE_DIR"], ignore_errors=True)
