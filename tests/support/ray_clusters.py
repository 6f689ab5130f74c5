"""Ray clusters whose machines are processes of this one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from tests.support.limits import PATIENCE_S

STORE = 100 << 20  # bytes; Ray's least is 75 MiB

# Ray starts its processes by fork and exec; JAX warns of the fork if other tests have started it.
NO_FORK_WARNING = pytest.mark.filterwarnings(r"ignore:os\.fork\(\):RuntimeWarning")
OTHER_HARDWARE = """\
from cnnbench.system import host
host.processor = lambda: "Other CPU"
"""


@contextmanager
def ray_cluster(monkeypatch: pytest.MonkeyPatch, **head: Any) -> Iterator[Any]:
    """A cluster that `RAY_ADDRESS` names; `add_machine` adds to it.

    Args:
      monkeypatch: sets environment variables.
      head: what the first machine has, such as ``num_cpus``.
    """
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns otherwise
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 otherwise, which starves on a busy machine
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", str(int(PATIENCE_S)))
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        add_machine(cluster, include_dashboard=False, **head)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        cluster.shutdown()


def add_machine(cluster: Any, **has: Any) -> Any:
    """Adds a machine with a core, and waits for it."""
    machine = cluster.add_node(wait=False, **{"num_cpus": 1, "object_store_memory": STORE, **has})
    cluster._wait_for_node(machine, PATIENCE_S)  # `add_node` itself gives up after 30 s
    return machine


def other_hardware(folder: Path) -> dict[str, str]:
    """Environment variables of a machine whose processor has another name.

    Args:
      folder: folder for a module that all of its Python processes import when they start.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(OTHER_HARDWARE)
    return {"PYTHONPATH": str(folder)}


def workers_of(machine: Any) -> list[tuple[int, int]]:
    """The actors of cnnbench on a machine, each with the process that trains."""
    (raylet,) = machine.all_processes["raylet"]
    return [
        (actor, training)
        for actor in children(raylet.process.pid)
        if "RayWorker" in command_line(actor)
        for training in children(actor)
    ]


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[0] != "Z" and int(fields[1]) == pid:
            found.append(int(folder.name))
    return sorted(found)


def command_line(pid: int) -> str:
    """The command line of a process; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
    except OSError:
        return ""


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Waits for something that happens however slow the machine is."""
    until = monotonic() + PATIENCE_S
    while not happened():
        assert monotonic() < until, what
        sleep(0.05)
