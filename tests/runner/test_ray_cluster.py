"""Seeds on a real Ray cluster of several machines: nothing is lost or trained twice."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cnnbench.executors.ray import RayExecutor
from cnnbench.runner.distributed import run_on
from cnnbench.runner.run import Request
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunRecord, RunResult
from cnnbench.system.host import processor
from tests.executors.test_contract import ended
from tests.runner.test_distributed import diaries, numbers, requests
from tests.runner.test_interleaving import Diary
from tests.runner.warm_workers import two_workers
from tests.support.limits import PATIENCE_S
from tests.support.ray_clusters import (
    NO_FORK_WARNING,
    add_machine,
    other_hardware,
    ray_cluster,
    wait_until,
    workers_of,
)
from tests.support.tinysets import write_pictures

pytestmark = [pytest.mark.slow, NO_FORK_WARNING]
SEEDS = {"a": [0, 1, 2], "b": [0, 1, 2]}
IMAGES = """\
name: {name}
task: classify
dataset: {{folder: pics, channels: 1, split: {{validation: 0.25, test: 0.25}}}}
model: {{layers: {{hidden: {{op: dense, units: {units}}}, out: {{op: dense, units: 2}}}}}}
train: {{epochs: 2, batch_size: 4, metrics: [accuracy]}}
seeds: 3
"""


class Connected:
    """A worker for each core of the cluster of RAY_ADDRESS."""

    def start(self, preload: str) -> RayExecutor:
        """Starts them."""
        self.executor = RayExecutor(preload=preload)
        return self.executor


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two machines with one core each."""
    with ray_cluster(monkeypatch, num_cpus=1) as found:
        found.second = add_machine(found)
        yield found


@pytest.fixture
def expected(tmp_path: Path) -> list[Any]:
    """Numbers of local workers."""
    return on_local(requests(tmp_path, SEEDS, results_dir=tmp_path / "local"))


def on_local(asked: list[Request]) -> list[Any]:
    return [numbers(run) for run in run_on(asked, diaries(len(asked)), two_workers())]


@pytest.mark.usefixtures("cluster")
def test_two_machines_have_the_numbers_of_local_workers(
    expected: list[Any], tmp_path: Path
) -> None:
    runs = run_on(requests(tmp_path, SEEDS), diaries(2), Connected())
    assert [numbers(run) for run in runs] == expected


class Hides(Diary):
    """A listener that hides a folder once this process has read it."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, [], lambda _: None)
        self._folder = folder

    def started(self, record: RunRecord, num_steps: int) -> None:  # noqa: ARG002
        if self._folder.exists():
            self._folder.rename(self._folder.with_name("hidden"))


def test_machines_without_the_images_train_with_those_of_the_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = of_own_images(tmp_path)
    local = tmp_path / "local"
    expected = on_local([dataclasses.replace(each, results_dir=local, known={}) for each in asked])
    caches = [tmp_path / "cache0", tmp_path / "cache1"]
    told = [Hides(name, tmp_path / "pics") for name in "ab"]
    with ray_cluster(monkeypatch, num_cpus=0) as cluster:
        for cache in caches:
            add_machine(cluster, env_vars={"CNNBENCH_CACHE_DIR": str(cache)})
        runs = run_on(asked, told, Connected())
    assert not (tmp_path / "pics").exists()
    assert [numbers(run) for run in runs] == expected
    (note,) = (text for each in told for text in each.notes if "got its images from this" in text)
    assert note.startswith("a machine without 'pics' ")
    files = [file.name for cache in caches for file in cache.glob("datasets/*.safetensors")]
    assert {name.partition("-")[0] for name in files} == {"sent"}  # there was nothing else to read


def of_own_images(folder: Path) -> list[Request]:
    """Two experiments on a folder of 24 images."""
    write_pictures(folder / "pics")
    for name, units in (("a", 3), ("b", 5)):
        (folder / f"{name}.yaml").write_text(IMAGES.format(name=name, units=units))
    paths = [folder / f"{name}.yaml" for name in "ab"]
    return [Request(path, results_dir=folder / "results", engine="direct") for path in paths]


def kill_trainings(cluster: Any) -> None:
    """Kills the processes that train; their actors start others."""
    for machine in cluster.list_all_nodes():
        for _, training in workers_of(machine):
            os.kill(training, signal.SIGKILL)


def kill_actors(cluster: Any) -> None:
    """Kills the actors; their children end with them, and the driver asks Ray for others."""
    for machine in cluster.list_all_nodes():
        for actor, training in workers_of(machine):
            os.kill(actor, signal.SIGKILL)
            assert ended([training])


def remove_machine(cluster: Any) -> None:
    cluster.remove_node(cluster.second, allow_graceful=False)


@pytest.mark.parametrize(
    ("disturb", "reason"),
    [
        (kill_trainings, " was killed (SIGKILL); seed "),
        (kill_actors, " died; seed "),
        (remove_machine, " died"),  # its actor, or all of it, whatever Ray notices first
    ],
)
def test_what_is_killed_loses_nothing(
    cluster: Any, tmp_path: Path, disturb: Callable[[Any], None], reason: str
) -> None:
    """With epochs enough that workers are still training when the driver hears of the eighth."""
    asked = requests(tmp_path, SEEDS, overrides=("train.epochs=30",))
    local = tmp_path / "local"
    expected = on_local([dataclasses.replace(each, results_dir=local, known={}) for each in asked])
    seen: Counter[str] = Counter()

    def at_eighth(event: str) -> None:
        seen[event] += 1
        if sum(seen.values()) == 8:
            disturb(cluster)

    told = diaries(2, at_eighth)
    runs = run_on(asked, told, Connected())
    assert [numbers(run) for run in runs] == expected
    assert any(reason in note for each in told for note in each.notes)
    # An epoch is kept, or its worker died before its checkpoint had arrived.
    assert sum(seen.values()) - len(seen) <= 2


def test_a_machine_that_joins_gets_tasks(cluster: Any, expected: list[Any], tmp_path: Path) -> None:
    cluster.remove_node(cluster.second)
    on = Connected()
    slots: list[int] = []

    def disturb(_: str) -> None:
        slots.append(on.executor.slots)
        if len(slots) == 1:
            add_machine(cluster)

    runs = run_on(requests(tmp_path, SEEDS), diaries(2, disturb), on)
    assert (slots[0], max(slots)) == (1, 2)
    assert [numbers(run) for run in runs] == expected


@pytest.mark.parametrize("other", [False, True])
def test_a_pair_moves_to_a_machine_of_its_kind_or_starts_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: bool
) -> None:
    seeds = {"a": [0], "b": [0]}
    expected = on_local(requests(tmp_path, seeds, results_dir=tmp_path / "local"))
    variables = other_hardware(tmp_path / "start") if other else {}
    seen: Counter[str] = Counter()
    with ray_cluster(monkeypatch, num_cpus=0) as cluster:
        first = add_machine(cluster)

        def move(event: str) -> None:
            seen[event] += 1
            if event == "b0.2" and seen[event] == 1:
                add_machine(cluster, env_vars=variables)
                cluster.remove_node(first, allow_graceful=False)

        told = diaries(2, move)
        runs = run_on(requests(tmp_path, seeds), told, Connected())
    assert [numbers(run) for run in runs] == expected
    name = "Other CPU" if other else processor()
    assert [machine_of(run) for run in runs] == [name, name]
    assert seen["a0.1"] == (2 if other else 1)
    text = f"seed 0 would continue with device Other CPU instead of {processor()}; it starts over"
    assert any(text in note for note in told[0].notes) == other


def machine_of(run: RunResult) -> str:
    """The processor that trained the only seed."""
    assert run.summary
    (seed,) = run.summary.seeds
    assert seed.machine
    return seed.machine.model


def test_a_killed_driver_goes_on_with_needed(
    cluster: Any, expected: list[Any], tmp_path: Path
) -> None:
    asked = requests(tmp_path, SEEDS)
    words = [sys.executable, "-m", "cnnbench", "run", *(str(each.path) for each in asked)]
    words += ["--on", "ray", "--engine", "direct", "--quiet"]
    words += ["--results-dir", str(tmp_path / "results")]
    process = subprocess.Popen(words, start_new_session=True)
    wait_until(lambda: process.poll() is not None or _lines(tmp_path) >= 4, "nothing is trained")
    assert process.poll() is None
    machines = cluster.list_all_nodes()
    running = [pid for machine in machines for pair in workers_of(machine) for pid in pair]
    assert running
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert ended(running)
    before = {path: path.read_text() for path in _epochs(tmp_path)}
    subprocess.run([*words, "--needed"], check=True, timeout=PATIENCE_S)
    folders = [path.parent for path in sorted(_epochs(tmp_path))]
    assert set(before) == set(_epochs(tmp_path))
    assert [numbers(read_run(folder)) for folder in folders] == expected


def _epochs(folder: Path) -> list[Path]:
    return list((folder / "results").glob("*/*/epochs.jsonl"))


def _lines(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in _epochs(folder))
