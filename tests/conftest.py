"""What all tests share: devices, a cache folder, an engine, no network, Hypothesis's examples.

Tests compile some thousand programs, for which XLA is asked to be quick: few optimisations, and
its older code generator, where it still has one, which takes less than half the time. Programs as
users have them are held by `test_as_users`, by the processes that `test_faults` kills, and by
`make smoke`.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from coverage import Coverage
from hypothesis import settings

# Examples are drawn anew by each run, so that many runs see many. Where a failure has to be
# the doing of a change, they are always the same: Hypothesis has a profile for that.
settings.register_profile("random", deadline=None)
repeatable = {"CI", "CNNBENCH_TEST_DETERMINISTIC"} & os.environ.keys()
settings.load_profile("ci" if repeatable else "random")

QUICK = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
AS_USERS = "CNNBENCH_TEST_AS_USERS"  # where it is set, programs are compiled without QUICK


def pytest_configure(config: pytest.Config) -> None:
    """Before JAX starts, and before worker processes do, which inherit the environment."""
    jax.config.update("jax_num_cpu_devices", 2)
    os.environ["CNNBENCH_ENGINE"] = "direct"
    if not hasattr(config, "workerinput"):
        if AS_USERS not in os.environ:
            quick = [flag for flag in QUICK if known(flag)]
            os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *quick)).strip()
        os.environ["CNNBENCH_CACHE_DIR"] = tempfile.mkdtemp(prefix="cnnbench-tests-")


def known(flag: str) -> bool:
    """XLA ends the process that names a flag it does not know, so another process tries it."""
    from cnnbench.errors import UsageError
    from cnnbench.system.settings import require_flags

    try:
        require_flags(flag)
    except UsageError:
        return False
    return True


# The files that take longest, which come first, so that two workers end at about the same time.
LONGEST = ("test_frameworks", "test_docs", "test_faults", "test_app", "test_trainer", "test_parity")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_sessionfinish() -> None:
    """Saves which lines were reached: xdist kills a worker that takes 10 seconds to end."""
    if measured := Coverage.current():
        measured.stop()
        measured.save()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The folder goes with the process that made it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["CNNBENCH_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _small_products() -> Iterator[None]:
    """The products that a network's cost is measured beside, which took longer than a training."""
    from cnnbench.training import profiling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "SIZE", 128)
        yield


HERE = {None, "", "localhost", "127.0.0.1", "::1"}


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Asking for a host other than this one fails the test that does."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in HERE:
            pytest.fail(f"the network is asked for {host!r}")
        return look_up(host, *args, **kwargs)

    def connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in HERE:
            pytest.fail(f"the network is asked for {address!r}")
        super(socket.socket, self).connect(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(socket.socket, "connect", connect)
        yield
