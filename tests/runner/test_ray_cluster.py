"""Seeds on a real Ray cluster of two machines: nothing is lost or trained twice."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnnbench.executors.ray import RayExecutor
from cnnbench.runner.distributed import run_on
from cnnbench.runs.folder import read_run
from tests.runner.test_distributed import diaries, numbers, requests
from tests.runner.warm_workers import two_workers

# Ray starts its processes by fork and exec; JAX warns of the fork if other tests have started it.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(r"ignore:os\.fork\(\):RuntimeWarning")]
SEEDS = {"a": [0, 1, 2], "b": [0, 1, 2]}


class Connected:
    """A worker on each machine of the cluster of RAY_ADDRESS."""

    def start(self, preload: str) -> RayExecutor:
        """Starts them."""
        self.executor = RayExecutor(preload=preload)
        return self.executor


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two machines with one core each."""
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    one = {"num_cpus": 1, "object_store_memory": 100 << 20}
    found = Cluster(initialize_head=True, head_node_args=one | {"include_dashboard": False})
    found.second = found.add_node(**one)
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    yield found
    found.shutdown()


@pytest.fixture
def expected(tmp_path: Path) -> list[Any]:
    """Numbers of local workers."""
    asked = requests(tmp_path, SEEDS, results_dir=tmp_path / "local")
    return [numbers(run) for run in run_on(asked, diaries(2), two_workers())]


@pytest.mark.usefixtures("cluster")
def test_two_machines_have_the_numbers_of_local_workers(
    expected: list[Any], tmp_path: Path
) -> None:
    runs = run_on(requests(tmp_path, SEEDS), diaries(2), Connected())
    assert [numbers(run) for run in runs] == expected


def test_a_machine_that_dies_loses_nothing(
    cluster: Any, expected: list[Any], tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()

    def disturb(event: str) -> None:
        seen[event] += 1
        if sum(seen.values()) == 8 and cluster.second:
            cluster.remove_node(cluster.second, allow_graceful=False)
            cluster.second = None

    runs = run_on(requests(tmp_path, SEEDS), diaries(2, disturb), Connected())
    assert cluster.second is None
    assert [numbers(run) for run in runs] == expected


def test_a_machine_that_joins_gets_tasks(cluster: Any, expected: list[Any], tmp_path: Path) -> None:
    cluster.remove_node(cluster.second)
    on = Connected()
    slots: list[int] = []

    def disturb(_: str) -> None:
        slots.append(on.executor.slots)
        if len(slots) == 1:
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20)

    runs = run_on(requests(tmp_path, SEEDS), diaries(2, disturb), on)
    assert (slots[0], max(slots)) == (1, 2)
    assert [numbers(run) for run in runs] == expected


@pytest.mark.usefixtures("cluster")
def test_a_killed_driver_goes_on_with_needed(expected: list[Any], tmp_path: Path) -> None:
    asked = requests(tmp_path, SEEDS)
    words = [sys.executable, "-m", "cnnbench", "run", *(str(each.path) for each in asked)]
    words += ["--on", "ray", "--engine", "direct", "--quiet"]
    words += ["--results-dir", str(tmp_path / "results")]
    process = subprocess.Popen(words, start_new_session=True)
    until = time.monotonic() + 240
    while _lines(tmp_path) < 4:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.read_text() for path in _epochs(tmp_path)}
    subprocess.run([*words, "--needed"], check=True, timeout=240)
    folders = [path.parent for path in sorted(_epochs(tmp_path))]
    assert set(before) == set(_epochs(tmp_path))
    assert [numbers(read_run(folder)) for folder in folders] == expected


def _epochs(folder: Path) -> list[Path]:
    return list((folder / "results").glob("*/*/epochs.jsonl"))


def _lines(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in _epochs(folder))
