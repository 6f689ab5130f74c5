"""Workers on Ray: room, versions, cores and messages; `test_contract` has the rest."""

import os
import sys
import time
from pathlib import Path

import pytest

from cnnbench.errors import UsageError
from cnnbench.executors.choice import OnRay, parse_on
from cnnbench.executors.ray import other_versions
from cnnbench.executors.ray_folder import PREFIX, ray_folder
from cnnbench.executors.ray_worker import Hello, Wanted, versions
from cnnbench.system.locks import LOCK_FILE


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
    with pytest.raises(UsageError, match="workers on Ray see no GPU; add --gpus 1"):
        parse_on("ray", "gpu")
