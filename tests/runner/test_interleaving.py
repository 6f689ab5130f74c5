"""Runs by turns: their order, their seconds, and what is left when one breaks down."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnbench.errors import CnnbenchError
from cnnbench.runner.run import Request, run_by_turns, run_experiment
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import EpochRecord, RunRecord, RunResult, Status
from cnnbench.spec.loader import Loaded
from cnnbench.training.events import Event, SeedDone

SPEC = """\
name: {name}
task: classify
dataset: {{name: mnist_5k, train_examples: 20}}
model: {{layers: {{out: {{op: dense, units: 10}}}}}}
train: {{epochs: 2, batch_size: 10}}
seeds: {seeds}
"""


class Diary:
    """A listener that notes what happens in a list that several share."""

    def __init__(self, name: str, happened: list[str], disturb: Callable[[str], None]) -> None:
        self.name, self.happened, self.disturb = name, happened, disturb
        self.notes: list[str] = []

    def loaded(self, loaded: Loaded) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def failed(self, reason: str) -> None:
        self.note(reason)

    def started(self, record: RunRecord, num_steps: int) -> None:
        pass

    def event(self, event: Event) -> None:
        if isinstance(event, EpochRecord):
            self.disturb(f"{self.name}{event.seed}.{event.epoch}")
        if isinstance(event, SeedDone):
            self.happened.append(f"{self.name}{event.summary.seed}")

    def finished(self, folder: Path) -> None:  # noqa: ARG002 - the protocol names it
        self.happened.append(self.name)


def runs(
    folder: Path, seeds: dict[str, list[int]], disturb: Callable[[str], None] = lambda _: None
) -> tuple[list[Request], list[Diary], list[str]]:
    happened: list[str] = []
    requests = []
    for name, own in seeds.items():
        path = folder / f"{name}.yaml"
        path.write_text(SPEC.format(name=name, seeds=own))
        requests.append(Request(path, results_dir=folder / "results"))
    return requests, [Diary(name, happened, disturb) for name in seeds], happened


def of_seed(run: RunResult, seed: int) -> list[tuple[float, float | None]]:
    return [(e.train_loss, e.validation_loss) for e in run.epochs if e.seed == seed]


def test_seeds_alternate_and_each_run_is_what_it_is_alone(tmp_path: Path) -> None:
    requests, diaries, happened = runs(tmp_path, {"a": [0, 1, 2], "b": [0, 1, 2], "c": [7]})
    done: list[str] = []
    found = run_by_turns(requests, diaries, lambda run: done.append(run.record.name))
    assert happened == ["a0", "b0", "c7", "c", "b1", "a1", "a2", "a", "b2", "b"]
    assert done == ["c", "a", "b"]
    assert [run.record.name for run in found] == ["a", "b", "c"]
    assert all(run.record.status is Status.FINISHED for run in found)
    alone = run_experiment(requests[1], Diary("b", [], lambda _: None))
    for seed in (0, 1, 2):
        assert of_seed(found[1], seed) == of_seed(alone, seed)
    assert of_seed(found[0], 1) == of_seed(found[1], 1)


def test_seconds_of_a_run_are_its_own(tmp_path: Path) -> None:
    requests, diaries, _ = runs(tmp_path, {"a": [0, 1], "b": [0, 1]})
    start = time.perf_counter()
    found = run_by_turns(requests, diaries)
    passed = time.perf_counter() - start
    totals = [run.record.timing.total_s for run in found if run.record.timing]
    assert len(totals) == 2
    assert sum(totals) < passed


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CnnbenchError("the disk is full")])
@pytest.mark.sampled(1)
def test_what_was_measured_is_kept_when_one_breaks_down(
    tmp_path: Path, error: BaseException
) -> None:
    def disturb(place: str) -> None:
        if place == "b1.1":
            raise error

    requests, diaries, happened = runs(tmp_path, {"a": [0, 1], "b": [0, 1]}, disturb)
    with pytest.raises(type(error)):
        run_by_turns(requests, diaries)
    assert happened == ["a0", "b0"]
    left = {path.parent.name: read_run(path) for path in (tmp_path / "results").glob("*/*")}
    broken = Status.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Status.FAILED
    assert {name: run.record.status for name, run in left.items()} == {
        "a": Status.INTERRUPTED,
        "b": broken,
    }
    assert len(left["a"].epochs) == 2
    assert len(left["b"].epochs) == 3
    stopped = sorted(
        path
        for path in (tmp_path / "results").glob("*/*")
        if read_run(path).record.status != "failed"
    )
    line = f"resume with: cnnbench run {' '.join(f'--resume {path}' for path in stopped)}"
    assert diaries[0].notes[-1:] == [f"interrupted; {line}"]
    assert diaries[1].notes == []
    notes = [line] if isinstance(error, KeyboardInterrupt) else []
    assert getattr(error, "__notes__", []) == notes
