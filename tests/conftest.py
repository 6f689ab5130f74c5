"""Shared test setup: devices, cache folder, engine, blocked network, Hypothesis profiles.

Tests compile some thousand programs, so XLA compiles with few optimizations and, if available, its
older code generator, in less than half the time. Programs with the users' settings are tested by
`test_as_users`, by the processes that `test_faults` kills, and by `make smoke`.
"""

import os
import shutil
import socket
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from coverage import Coverage
from hypothesis import settings

# Each run draws new examples, so that many runs cover many. In CI, where a failure has to be due to
# a change, they are always the same: Hypothesis has a profile for that.
settings.register_profile("random", deadline=None)
repeatable = {"CI", "CNNBENCH_TEST_DETERMINISTIC"} & os.environ.keys()
settings.load_profile("ci" if repeatable else "random")

QUICK = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
AS_USERS = "CNNBENCH_TEST_AS_USERS"  # if set, programs are compiled without QUICK
SHARE = "CNNBENCH_TEST_SHARE"  # "3 COMMIT" runs every third slow test; others after other commits


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before JAX and worker processes start."""
    jax.config.update("jax_num_cpu_devices", 2)
    os.environ["CNNBENCH_ENGINE"] = "direct"
    if not hasattr(config, "workerinput"):
        if AS_USERS not in os.environ:
            quick = [flag for flag in QUICK if known(flag)]
            os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *quick)).strip()
        os.environ["CNNBENCH_CACHE_DIR"] = tempfile.mkdtemp(prefix="cnnbench-tests-")
        # Datasets that Keras downloaded are not those of the tests.
        os.environ["KERAS_HOME"] = os.path.join(os.environ["CNNBENCH_CACHE_DIR"], "keras")  # noqa: PTH118
        os.environ["HF_HOME"] = os.path.join(os.environ["CNNBENCH_CACHE_DIR"], "hf")  # noqa: PTH118


def known(flag: str) -> bool:
    """True if XLA knows the flags; tested in a child process, which XLA aborts otherwise."""
    from cnnbench.errors import UsageError
    from cnnbench.system.settings import require_flags

    try:
        require_flags(flag)
    except UsageError:
        return False
    return True


# The slowest files run first, so that two workers finish at about the same time.
LONGEST = ("test_frameworks", "test_docs", "test_faults", "test_app", "test_trainer", "test_parity")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item, place in zip(items, case_numbers(items), strict=True):
        sampled = item.get_closest_marker("sampled")
        if sampled and place >= sampled.args[0]:
            item.add_marker("slow")
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if share := os.environ.get(SHARE, "").split():
        items[:] = [item for item in items if drawn(item, int(share[0]), share[-1])]


def drawn(item: pytest.Item, share: int, commit: str) -> bool:
    """True for tests that are not slow, and for one of `share` slow ones, by hash."""
    number = zlib.crc32(f"{commit} {item.nodeid}".encode())
    return item.get_closest_marker("slow") is None or number % share == 0


def case_numbers(items: list[pytest.Item]) -> Iterator[int]:
    """Number of each item among the cases of its test function, from 0."""
    seen: Counter[str] = Counter()
    for item in items:
        function = item.nodeid.partition("[")[0]
        yield seen[function]
        seen[function] += 1


def pytest_sessionfinish() -> None:
    """Save the coverage, since xdist kills a worker that takes 10 seconds to exit."""
    if measured := Coverage.current():
        measured.stop()
        measured.save()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder in the process that created it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["CNNBENCH_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _small_products() -> Iterator[None]:
    """Use small matrix products in cost measurements, which otherwise dominate short trainings."""
    from cnnbench.training import profiling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "SIZE", 128)
        yield


HERE = {None, "", "localhost", "127.0.0.1", "::1"}


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Fail tests that connect to another host."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in HERE:
            pytest.fail(f"test connects to {host!r}")
        return look_up(host, *args, **kwargs)

    def connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in HERE:
            pytest.fail(f"test connects to {address!r}")
        super(socket.socket, self).connect(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(socket.socket, "connect", connect)
        yield
