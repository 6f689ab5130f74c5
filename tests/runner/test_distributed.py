"""Seeds on workers: equal numbers, whole folders, and what is left when something breaks down."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnbench.executors.choice import On
from cnnbench.executors.cores import available_cores
from cnnbench.executors.local import WorkerPlace
from cnnbench.runner.distributed import run_on
from cnnbench.runner.run import Request
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunResult, Status
from tests.runner.test_interleaving import Diary

ROOT = Path(__file__).parents[2]
SPEC = """\
name: {name}
task: classify
dataset: {{name: mnist_5k, train_examples: 60}}
model: {{layers: {{conv: {{op: conv, filters: 2, kernel: 3}}, out: {{op: dense, units: 10}}}}}}
train: {{epochs: 3, batch_size: 20, optimizer: {{name: adam, learning_rate: {rate}}}}}
seeds: {seeds}
"""
CORE = available_cores()[:1]


def two_workers() -> On:
    """Two workers, on the same core if there is only one."""
    return On("local:2", (WorkerPlace(CORE), WorkerPlace(available_cores()[-1:])))


def requests(folder: Path, seeds: dict[str, list[int]], **options: Any) -> list[Request]:
    paths = []
    for number, (name, own) in enumerate(seeds.items(), start=1):
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(SPEC.format(name=name, seeds=own, rate=0.01 * number))
    common: dict[str, Any] = {"results_dir": folder / "results", "engine": "direct", **options}
    return [Request(path, **common) for path in paths]


def diaries(number: int, disturb: Callable[[str], None] = lambda _: None) -> list[Diary]:
    return [Diary("ab"[n], [], disturb) for n in range(number)]


def numbers(run: RunResult) -> tuple[Any, ...]:
    """Everything that does not depend on the clock."""
    assert run.summary
    epochs = [(e.seed, e.epoch, e.train_loss, e.validation_loss, e.metrics) for e in run.epochs]
    seeds = [(s.seed, s.final, s.best, s.test, s.weights_digest) for s in run.summary.seeds]
    return epochs, seeds, run.summary.num_params, run.record.spec_digest, run.record.dataset


ALONE = """
import os, sys
os.sched_setaffinity(0, {core})
from pathlib import Path
from rich.console import Console
from cnnbench.cli.progress import Silent
from cnnbench.runner.run import Request, run_experiment
for name in sys.argv[2:]:
    request = Request(Path(name), results_dir=Path(sys.argv[1]), engine="direct")
    run_experiment(request, Silent(Console()))
"""


def one_after_another(folder: Path, names: list[str]) -> dict[str, RunResult]:
    """The experiments, trained by another process on one core."""
    results = folder / "alone"
    files = [str(folder / f"{name}.yaml") for name in names]
    code = ALONE.format(core=set(CORE))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(results), *files], check=True, env=environment)
    return {path.parent.name: read_run(path) for path in results.glob("*/*")}


def test_equal_to_seeds_one_after_another_on_one_core(tmp_path: Path) -> None:
    asked = requests(tmp_path, {"a": [3, 0, 1], "b": [0, 1]})
    done: list[str] = []
    found = run_on(asked, diaries(2), two_workers(), lambda run: done.append(run.record.name))
    assert sorted(done) == ["a", "b"]
    expected = one_after_another(tmp_path, ["a", "b"])
    for name, run in zip("ab", found, strict=True):
        assert run.path
        assert numbers(run) == numbers(expected[name])
        assert run.record.status is Status.FINISHED
        assert run.record.engine
        assert run.record.environment.num_cpus == 1
        assert {p.name for p in run.path.rglob("*")} == {
            p.name for p in (expected[name].path or tmp_path).rglob("*")
        }
        first, *others = run.epochs
        assert first.alone
        assert (first.seed, first.epoch) == (run.record.seeds[0], 1)
        assert any(epoch.beside == 1 for epoch in others)
        order = [(run.record.seeds.index(e.seed), e.epoch) for e in run.epochs]
        assert order == sorted(order)
