"""Workers on Ray: room, versions, cores, GPUs and messages; `test_contract` has the rest."""

import os
import sys
import time
from pathlib import Path

import pytest

from cnnbench.errors import UsageError
from cnnbench.executors.choice import OnRay, parse_on
from cnnbench.executors.interface import Emitted
from cnnbench.executors.ray import RayExecutor, other_versions
from cnnbench.executors.ray_folder import PREFIX, ray_folder
from cnnbench.executors.ray_worker import Hello, Wanted, versions
from cnnbench.system.locks import LOCK_FILE
from tests.executors import toys
from tests.executors.test_contract import messages
from tests.support.ray_clusters import NO_FORK_WARNING, ray_cluster


def test_folders_of_killed_drivers_are_removed(tmp_path: Path) -> None:
    killed, starting, other = (tmp_path / f"{PREFIX}{name}" for name in ("a", "b", "c"))
    for folder in (killed, starting, other):
        (folder / "session").mkdir(parents=True)
    for folder in (killed, starting):
        (folder / LOCK_FILE).touch()
    hour_ago = time.time() - 3600
    os.utime(killed / LOCK_FILE, (hour_ago, hour_ago))
    with ray_folder(tmp_path) as own:
        assert sorted(tmp_path.iterdir()) == sorted([starting, other, own])
        os.utime(own / LOCK_FILE, (hour_ago, hour_ago))
        with ray_folder(tmp_path) as second:
            assert own.exists()  # its lock is held
        assert not second.exists()
    assert sorted(tmp_path.iterdir()) == sorted([starting, other])


def test_other_versions_are_named() -> None:
    own = versions()
    assert not other_versions(Hello("n", "10.0.0.5", own), own)
    there = Hello("n", "10.0.0.5", {**own, "jax": "0.9.0"})
    assert other_versions(there, own) == (
        f"--on ray: machine 10.0.0.5 has jax 0.9.0, this one jax {own['jax']}; install the same"
        " versions on all machines, for comparable numbers."
    )


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught:
        parse_on("ray")
    assert str(caught.value) == (
        "--on ray: Ray is not installed; run pip install 'cnnbench[ray]', or use --on local."
    )


def test_size_of_workers() -> None:
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    assert parse_on("ray:3", cpus=2, gpus=0.5) == OnRay("ray:3", Wanted(2, 0.5), 3)
    with pytest.raises(UsageError, match=r"--gpus: 1\.5 is neither a fraction"):
        parse_on("ray", gpus=1.5)
    with pytest.raises(UsageError, match="workers on Ray have no GPU; add --gpus 1"):
        parse_on("ray", "gpu")


SEEN = ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION", "JAX_PLATFORMS")


@pytest.mark.slow
@NO_FORK_WARNING
@pytest.mark.parametrize(
    ("gpus", "wanted", "expected"),
    [
        (1, 0.5, [("0", "0.4", None), ("0", "0.4", None)]),
        (2, 1, [("0", None, None), ("1", None, None)]),
        (1, 0, [(None, None, "cpu"), (None, None, "cpu")]),
    ],
)
def test_tasks_see_the_gpus_that_ray_gives_them(
    gpus: int,
    wanted: float,
    expected: list[tuple[str | None, ...]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Ray believes in as many GPUs as a machine declares; no task uses one here."""
    for name in SEEN:
        monkeypatch.delenv(name, raising=False)
    with (
        ray_cluster(monkeypatch, num_cpus=2, num_gpus=gpus),
        RayExecutor(Wanted(1, wanted)) as executor,
    ):
        assert executor.slots == 2
        for number in range(2):  # at the same time
            executor.submit(number, toys.Devices(toys.Meet(tmp_path, 2), SEEN))
        found = [each.value for each in messages(executor, 2) if isinstance(each, Emitted)]
    assert sorted(found, key=str) == expected


@pytest.mark.slow
@NO_FORK_WARNING
@pytest.mark.parametrize(
    ("wanted", "workers", "message"),
    [
        (
            Wanted(1, 2),
            None,
            "--on ray: a task needs 1 CPU and 2 GPUs, but the largest machine has 4 CPUs and 1 GPU;"
            " reduce --cpus or --gpus, or add a machine.",
        ),
        (
            Wanted(1, 0.5),
            3,
            "--on ray:3: the cluster has room for 2 workers of 1 CPU and 0.5 GPUs; write --on"
            " ray:2.",
        ),
    ],
)
def test_more_gpus_than_there_are(
    wanted: Wanted, workers: int | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        ray_cluster(monkeypatch, num_cpus=4, num_gpus=1),
        pytest.raises(UsageError) as caught,
    ):
        RayExecutor(wanted, workers)
    assert str(caught.value) == message
