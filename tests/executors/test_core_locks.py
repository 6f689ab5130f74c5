"""Cores that processes claim, and that all of their threads and children keep to."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from cnnbench.cli.processes import limit_cores
from cnnbench.errors import UsageError
from cnnbench.executors import core_locks
from cnnbench.executors.core_locks import ClaimedCores, apart, kept_to
from cnnbench.executors.cores import available_cores
from cnnbench.system import host

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
ALLOWED = "Cpus_allowed_list:"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims of these tests do not meet those of other processes."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))


def test_claims_share_cores_only_when_none_is_left() -> None:
    cores = available_cores()
    claims = [ClaimedCores(1) for _ in range(2 * len(cores))]
    assert sorted(claim.cores[0] for claim in claims) == sorted(2 * cores)
    assert [bool(claim.shared) for claim in claims] == [False] * len(cores) + [True] * len(cores)
    assert claims[-1].shared == claims[-1].cores
    assert ClaimedCores(len(cores) + 1).cores == cores
    claims[0].release()
    assert ClaimedCores(1).cores == claims[0].cores


@pytest.mark.parametrize(
    ("first", "order"),
    [((0, 1), (0, 1, 2, 3)), ((0, 2), (0, 2, 1, 3)), ((0, 9), (0, 1, 2, 3))],
    ids=["siblings are n and n + 2", "siblings are neighbors", "one is not usable"],
)
def test_one_hardware_thread_of_each_core_comes_first(
    first: tuple[int, ...], order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_locks, "available_cores", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(host, "cores", lambda: first)
    assert apart() == order
    claims = [ClaimedCores(2), ClaimedCores(2)]
    assert [claim.cores for claim in claims] == [order[:2], order[2:]]


def allowed(status: str) -> str:
    """The cores of a thread, as the kernel lists them."""
    return next(line.split()[1] for line in status.splitlines() if line.startswith(ALLOWED))


@linux
def test_all_threads_and_children_keep_to_the_cores() -> None:
    """Also threads that were there before, such as those of a library; afterwards they are free."""
    before, stop = available_cores(), threading.Event()
    older = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in older:
        thread.start()
    try:
        with kept_to(1) as claimed:
            younger = threading.Thread(target=stop.wait)
            younger.start()
            tasks = list(Path("/proc/self/task").iterdir())
            found = {allowed((task / "status").read_text()) for task in tasks}
            child = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
            said = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    finally:
        stop.set()
    assert len(tasks) >= 5
    assert found == {str(claimed.cores[0])} == {said.strip()}
    assert available_cores() == before
    assert {int(each.name) for each in tasks} >= {thread.native_id for thread in older}


@linux
def test_more_cores_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_locks, "available_cores", lambda: (0, 1))
    with pytest.raises(UsageError) as caught, kept_to(3):
        pass
    assert str(caught.value) == (
        "--cores: 3 cores, but only 2 cores are available to this process; write --cores 2, or"
        " omit it."
    )
    monkeypatch.setattr(core_locks, "available_cores", lambda: (5,))
    with pytest.raises(UsageError, match="only 1 core is available"), kept_to(3):
        pass


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(UsageError) as caught, kept_to(1):
        pass
    assert str(caught.value) == "--cores: this system does not support CPU affinity; omit it."


@pytest.mark.parametrize(
    ("on", "advice"),
    [
        ("ray:2", "give each worker some with --cpus."),
        ("slurm", "give each task some with --sbatch --cpus-per-task=N."),
        ("cloud", "remove one of them."),
    ],
)
def test_workers_elsewhere_have_cores_of_their_own(on: str, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        limit_cores(1, None, on)
    assert str(caught.value) == (
        f"--cores: is for processes of this machine, and not for --on {on}; {advice}"
    )


def test_launchers_choose_the_cores_of_their_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_STEP_NODELIST": "n1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        limit_cores(1)
    assert str(caught.value) == (
        "--cores: SLURM_NTASKS=2 has started 2 processes on cores of theirs; leave --cores out, or"
        " use --processes 1."
    )


def test_processes_that_were_launched_keep_what_they_got(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNBENCH_PARENT_PROCESS", "1")
    before = available_cores()
    limit_cores(1)
    limit_cores(None)
    assert available_cores() == before


# Trains, then says on which cores each of its threads may run, and how many devices JAX has.
TRAINING = """
import json, pathlib, sys
from cnnbench.cli.app import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
import jax
status = [(task / "status").read_text() for task in pathlib.Path("/proc/self/task").iterdir()]
lines = [line for text in status for line in text.splitlines() if line.startswith("Cpus_allowed_l")]
print(json.dumps([len(jax.devices()), sorted({line.split()[1] for line in lines}), len(lines)]))
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("way", [[], ["--on", "local:1"], ["--processes", "1"]], ids=" ".join)
def test_a_training_keeps_to_its_cores(way: list[str], tmp_path: Path) -> None:
    """Every thread of XLA, BLAS and Python; JAX has as many devices; run.json says so."""

    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\ntask: classify\ndataset: {name: mnist_5k, train_examples: 300}\n"
        "model:\n  layers:\n    conv: {op: conv, filters: 4, kernel: 5}\n"
        "    out: {op: dense, units: 10}\ntrain: {epochs: 1, batch_size: 100}\nseeds: [0]\n"
    )
    words = ["run", "tiny.yaml", "--cores", "1", "--device", "cpu", "--quiet", *way]
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, *words],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    devices, cores, threads = json.loads(done.stdout.splitlines()[-1])
    (record,) = (tmp_path / "results" / "tiny").glob("*/run.json")
    environment = json.loads(record.read_text())["environment"]
    expected = [apart()[0]] if (os.cpu_count() or 1) > 1 else []
    assert (devices, cores) == (1, [str(apart()[0])])
    assert threads > 1 or "--on" in way  # whose worker has them
    assert (environment["num_cpus"], environment["num_devices"]) == (1, 1)
    assert environment["cores"] == expected
