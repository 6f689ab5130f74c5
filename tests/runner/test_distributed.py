"""Seeds on workers: equal numbers, whole folders, and what is left when something breaks down."""

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cnnbench.comparisons.verdict import Criteria
from cnnbench.errors import UsageError
from cnnbench.runner.distributed import run_on, run_requests
from cnnbench.runner.remote_run import RemoteRun
from cnnbench.runner.run import Request, run_by_turns
from cnnbench.runner.seed_task import SeedTask
from cnnbench.runner.until_decided import run_until_decided
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunResult, Status
from cnnbench.statistics.looks import Looks
from cnnbench.training.events import Compiled, Event, Tuning
from tests.runner.test_interleaving import Diary
from tests.runner.warm_workers import WarmWorkers, lend, two_workers, warm_workers

SPEC = """\
name: {name}
task: classify
dataset: {{name: mnist_5k, train_examples: 60}}
model: {{layers: {{conv: {{op: conv, filters: 2, kernel: 3}}, out: {{op: dense, units: 10}}}}}}
train: {{epochs: 3, batch_size: 20, optimizer: {{name: adam, learning_rate: {rate}}}}}
seeds: {seeds}
"""


@pytest.fixture(scope="module")
def started() -> Iterator[WarmWorkers]:
    with warm_workers() as found:
        yield found


@pytest.fixture
def warm(started: WarmWorkers, monkeypatch: pytest.MonkeyPatch) -> WarmWorkers:
    lend(started, monkeypatch)
    return started


def requests(folder: Path, seeds: dict[str, list[int]], **options: Any) -> list[Request]:
    paths = []
    for number, (name, own) in enumerate(seeds.items(), start=1):
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(SPEC.format(name=name, seeds=own, rate=0.01 * number))
    common: dict[str, Any] = {"results_dir": folder / "results", "engine": "direct", **options}
    return [Request(path, **common) for path in paths]


def diaries(number: int, disturb: Callable[[str], None] = lambda _: None) -> list[Diary]:
    return [Diary("abc"[n], [], disturb) for n in range(number)]


def numbers(run: RunResult) -> tuple[Any, ...]:
    """Everything that does not depend on the clock."""
    assert run.summary
    epochs = [(e.seed, e.epoch, e.train_loss, e.validation_loss, e.metrics) for e in run.epochs]
    seeds = [(s.seed, s.final, s.best, s.test, s.weights_digest) for s in run.summary.seeds]
    return epochs, seeds, run.summary.num_params, run.record.spec_digest, run.record.dataset


def train_alone(requests: Sequence[Request]) -> None:
    """Trains as a command without workers does; runs on a worker, for its core."""
    run_by_turns([dataclasses.replace(each, on="") for each in requests], diaries(len(requests)))


def one_after_another(warm: WarmWorkers, asked: Sequence[Request]) -> dict[str, RunResult]:
    """The experiments, trained on one core without an executor."""
    results = asked[0].results_dir.with_name("alone")
    own = [dataclasses.replace(each, results_dir=results, known={}) for each in asked]
    warm.call(partial(train_alone, own))
    return {path.parent.name: read_run(path) for path in results.glob("*/*")}


def test_equal_to_seeds_one_after_another_on_one_core(tmp_path: Path, warm: WarmWorkers) -> None:
    asked = requests(tmp_path, {"a": [3, 0, 1], "b": [0, 1]})
    done: list[str] = []
    found = run_on(asked, diaries(2), two_workers(), lambda run: done.append(run.record.name))
    assert sorted(done) == ["a", "b"]
    expected = one_after_another(warm, asked)
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


@pytest.mark.usefixtures("warm")
def test_workers_that_tune_at_the_same_time_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, sent, told = RemoteRun.receive, list[Event](), list[Event]()

    def tuning(run: RemoteRun, event: Event) -> None:
        if isinstance(event, Compiled):
            sent.append(Tuning())
            receive(run, Tuning())
        receive(run, event)

    def note(_: Diary, event: Event) -> None:
        told.append(event)

    monkeypatch.setattr(RemoteRun, "receive", tuning)
    monkeypatch.setattr(Diary, "event", note)
    run_on(requests(tmp_path, {"a": [0, 1]}), diaries(1), two_workers())
    assert sent == [Tuning()] * 2
    assert [event for event in told if isinstance(event, Tuning)] == [Tuning()]


def test_a_killed_worker_loses_nothing(tmp_path: Path, warm: WarmWorkers) -> None:
    killed: list[str] = []

    def disturb(place: str) -> None:
        if place in {"a0.2", "a1.1"} and place not in killed:
            killed.append(place)
            for pid in warm.lent().pids:
                os.kill(pid, signal.SIGKILL)

    asked, told = requests(tmp_path, {"a": [0, 1]}), diaries(1, disturb)
    (found,) = run_on(asked, told, two_workers())
    assert killed
    assert numbers(found) == numbers(one_after_another(warm, asked)["a"])
    assert any("was killed (SIGKILL); seed" in note for note in told[0].notes)


class OnSeveralMachines:
    """Two workers as of several machines, which keep what they were given."""

    one_machine = False

    def __init__(self, warm: WarmWorkers) -> None:
        self._lent = warm.lent()
        self.tasks: list[list[tuple[int, int]]] = []  # experiment and seed

    def start(self, _: str) -> Any:
        """The workers."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lent, name)

    def submit(self, number: int, task: Any) -> None:
        """Queues a task."""
        if isinstance(task, SeedTask):
            self.tasks.append([(part.number, part.seed) for part in task.parts])
        self._lent.submit(number, task)


@pytest.mark.slow
def test_a_worker_trains_a_seed_of_all_experiments_by_turns(
    tmp_path: Path, warm: WarmWorkers
) -> None:
    on, killed = OnSeveralMachines(warm), list[str]()

    def disturb(place: str) -> None:
        if place == "b1.1" and not killed:  # again if its checkpoint had not arrived
            killed.append(place)
            for pid in on.pids:
                os.kill(pid, signal.SIGKILL)

    asked = requests(tmp_path, {"a": [0, 1, 2], "b": [0, 1, 2]})
    runs = run_on(asked, diaries(2, disturb), on)
    assert killed == ["b1.1"]
    assert on.tasks[:3] == [[(0, 0), (1, 0)], [(1, 1), (0, 1)], [(0, 2), (1, 2)]]
    again = on.tasks[3:]  # what is missing of a seed, also in one task
    assert len({seed for ((_, seed), *_) in again}) == len(again) > 0
    for task in again:
        whole = next(each for each in on.tasks if each[0][1] == task[0][1])
        assert task == whole[-len(task) :]
    expected = one_after_another(warm, asked)
    assert [numbers(run) for run in runs] == [numbers(expected[name]) for name in "ab"]


@pytest.mark.slow
@pytest.mark.parametrize("on", ["local:1", ""])
def test_an_interrupted_run_goes_on_with_workers_or_without(
    tmp_path: Path, warm: WarmWorkers, on: str
) -> None:
    def disturb(place: str) -> None:
        if place == "a1.2":
            raise KeyboardInterrupt

    asked = requests(tmp_path, {"a": [0, 1, 2]})
    told = diaries(1, disturb)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_on(asked, told, two_workers())
    assert "resume with: cnnbench run --resume" in caught.value.__notes__[0]
    (path,) = (tmp_path / "results").glob("*/*")
    assert read_run(path).record.status is Status.INTERRUPTED
    again = dataclasses.replace(asked[0], resume=path, path=path / "resolved.yaml", on=on, known={})
    if on:
        run_requests([again], diaries(1))
    else:
        warm.call(partial(train_alone, [again]))
    found = read_run(path)
    assert numbers(found) == numbers(one_after_another(warm, asked)["a"])
    assert len(found.record.resumed_at) == 1


@pytest.mark.slow
def test_nothing_starts_if_everything_is_finished(tmp_path: Path, warm: WarmWorkers) -> None:
    asked = requests(tmp_path, {"a": [0]})
    run_on(asked, diaries(1), two_workers())
    before = warm.started
    needed = [dataclasses.replace(asked[0], needed=True)]
    (found,) = run_on(needed, diaries(1), two_workers())
    assert len(found.epochs) == 3
    assert warm.started == before


class Quiet:
    """A watcher that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def look(self, text: str) -> None:
        self.lines.append(text)

    def running(self, text: str) -> None:
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_an_experiment_that_is_trained_twice(tmp_path: Path) -> None:
    asked = requests(tmp_path, {"a": [0, 1]})
    found = run_on([*asked, dataclasses.replace(asked[0])], diaries(2), two_workers())
    assert numbers(found[0]) == numbers(found[1])
    assert len({run.path for run in found}) == 2
    assert all(run.epochs[0].alone for run in found)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_one_seed_per_run_is_trained_on_all_workers(tmp_path: Path) -> None:
    found = run_on(requests(tmp_path, {"a": [0], "b": [0]}), diaries(2), two_workers())
    assert any(epoch.beside for run in found for epoch in run.epochs)


LOOKS = Looks((4, 5), (0.04, 0.03), 0.05, "unpaired", 1, "", "0", tuple(range(5)))


def look(asked: Sequence[Request], lines: Path) -> None:
    """Trains until the verdict is decided, and keeps the lines about the looks in a file."""
    watcher = Quiet()
    run_until_decided(asked, diaries(len(asked)), watcher, Criteria(metric=None))
    lines.write_text("\n".join(watcher.lines))


@pytest.mark.slow
def test_looks_decide_as_without_workers(tmp_path: Path, warm: WarmWorkers) -> None:
    for on in ("local:1", ""):
        folder = tmp_path / (on or "here")
        folder.mkdir()
        seeds = {name: list(range(5)) for name in "ab"}
        asked = requests(folder, seeds, on=on, looks=LOOKS)
        job = partial(look, asked, folder / "looks.txt")
        job() if on else warm.call(job)
    found, expected = (
        (
            [numbers(read_run(path)) for path in sorted(folder.glob("results/*/*"))],
            [read_run(path).record.looks for path in sorted(folder.glob("results/*/*"))],
            (folder / "looks.txt").read_text(),
        )
        for folder in (tmp_path / "local:1", tmp_path / "here")
    )
    assert found == expected
    base, other = found[1]
    assert base
    assert other
    assert (base.reason, base.p_values) == (other.reason, ())  # the others have those of their own
    assert other.p_values


MODEL = """\
name: c
task: classify
dataset: {name: mnist_5k, train_examples: 60}
model: {python: "net:Net"}
train: {epochs: 3, batch_size: 20}
seeds: [0, 1]
"""
WRONG = """\
from flax import nnx

class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.out = nnx.Linear(784, 9, rngs=rngs)

    def __call__(self, x):
        return self.out(x.reshape(len(x), -1))
"""


def with_python_model(folder: Path, source: str, others: Sequence[str]) -> list[Request]:
    (folder / "net.py").write_text(source)
    (folder / "c.yaml").write_text(MODEL)
    asked = requests(folder, {name: [0, 1] for name in others})
    return [*asked, dataclasses.replace(asked[0], path=folder / "c.yaml")]


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_run_that_fails_does_not_stop_two_others(tmp_path: Path) -> None:
    asked = with_python_model(tmp_path, WRONG, "ab")
    told, done = diaries(3), list[str]()
    with pytest.raises(UsageError) as caught:
        run_on(asked, told, two_workers(), lambda run: done.append(run.record.name))
    assert sorted(done) == ["a", "b"]
    assert "c.yaml:4:17: model.python: " in str(caught.value)
    assert "\n" not in str(caught.value)
    (path,) = (tmp_path / "results" / "c").iterdir()
    assert read_run(path).record.status is Status.FAILED
    assert sum("model.python" in note for each in told for note in each.notes) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_bug_in_a_worker_crashes_with_its_traceback(tmp_path: Path) -> None:
    wrong = WRONG.replace("return self", "raise ZeroDivisionError('bug'); return self")
    asked = with_python_model(tmp_path, wrong, "a")
    with pytest.raises(ZeroDivisionError) as caught:
        run_on(asked, diaries(2), two_workers())
    assert "in a worker process" in caught.value.__notes__[0]
    assert "Traceback" in caught.value.__notes__[0]


@pytest.mark.slow
def test_a_python_model_has_the_numbers_that_it_has_here(tmp_path: Path, warm: WarmWorkers) -> None:
    asked = with_python_model(tmp_path, WRONG.replace("784, 9", "784, 10"), "a")[1:]
    (found,) = run_on(asked, diaries(1), two_workers())
    assert numbers(found) == numbers(one_after_another(warm, asked)["c"])
    assert found.path
    assert (found.path / "model.py").read_text() == WRONG.replace("784, 9", "784, 10")
