"""Every order in which messages of workers can arrive leaves the same runs behind."""

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.errors import UsageError
from cnnbench.executors.interface import Completed, Emitted, Lost, Message, WorkerTask
from cnnbench.runner.distributed import run_on
from cnnbench.runner.run import Request
from cnnbench.runner.seed_task import (
    Began,
    FirstEpochDone,
    FromSeed,
    Greeting,
    SeedPart,
    SeedTask,
    WarmUp,
    WorkerFound,
)
from cnnbench.runs.records import EpochRecord, Machine, RunResult, Status
from cnnbench.training.events import Checkpoint, Compiled, SeedDone, Trained
from tests.runner.test_distributed import diaries, numbers
from tests.runner.test_interleaving import SPEC

EPOCHS = 2  # of the specification
MOST_LOSSES = 3  # a seed that loses more workers ends the command


@dataclass
class Trainings:
    """What workers emit, trained once in this process and then repeated."""

    compiled: dict[str, Compiled] = field(default_factory=dict)
    known: dict[tuple[str, int, int], list[Any]] = field(default_factory=dict)
    found: list[Any] = field(default_factory=list)

    def greeting(self, task: Greeting) -> list[Any]:
        if not self.found:
            task(self.found.append)
        return self.found

    def machine(self) -> Machine:
        found = self.greeting(Greeting("auto"))
        (own,) = (each.environment for each in found if isinstance(each, WorkerFound))
        return own.machine

    def events(self, part: SeedPart) -> list[Any]:
        """The events of a part, without those of compilation."""
        key = part.arm.resolved, part.seed, part.epochs
        if key not in self.known:
            sent: list[Any] = []
            SeedTask((replace(part, number=0),))(sent.append)
            values = [each.value for each in sent if isinstance(each, FromSeed)]
            for value in values:
                if isinstance(value, Compiled):
                    self.compiled[part.arm.resolved] = value
            self.known[key] = [each for each in values if not isinstance(each, Compiled)]
        return self.known[key]


class Scripted:
    """An executor whose messages arrive in a random order, and whose workers die at random.

    Those that replace them may have other hardware, if there are several machines.

    Args:
      slots: number of workers.
      random: draws the order.
      trainings: what tasks emit.
    """

    def __init__(self, slots: int, random: Random, trainings: Trainings) -> None:
        self.slots, self._random, self._trainings = slots, random, trainings
        self.one_machine = random.random() < 0.5
        self._waiting: deque[tuple[int, WorkerTask]] = deque()
        self._running: list[tuple[int, Iterator[Any]] | None] = [None] * slots
        self._compiled: list[set[tuple[int, str]]] = [set() for _ in range(slots)]
        self.losses, self.kept = 0, set[int]()  # numbers of epochs that were continued
        self._machines = [self._machine() for _ in range(slots)]

    def _machine(self) -> Machine:
        own = self._trainings.machine()
        return own if self.one_machine or self._random.random() < 0.5 else other_kind(own)

    def _dies(self) -> bool:
        return self.losses < MOST_LOSSES and self._random.random() < 0.05

    def start(self, _: str) -> Any:
        return self

    def close(self) -> None:
        assert not self._waiting
        assert not any(self._running)

    def offer(self, *_: object) -> None:
        pass

    def submit(self, number: int, task: WorkerTask) -> None:
        self._waiting.append((number, task))

    def receive(self, _: float | None = None) -> Message | None:
        for place, running in enumerate(self._running):
            if running is None and self._waiting:
                number, task = self._waiting.popleft()
                self._running[place] = number, self._script(place, task)
        place = self._random.choice([p for p, each in enumerate(self._running) if each])
        running = self._running[place]
        assert running
        number, script = running
        if self._dies():
            self.losses += 1
            self._running[place] = None
            self._compiled[place].clear()
            self._machines[place] = self._machine()
            return Lost(number, "worker was killed")
        for value in script:
            return Emitted(number, value)
        self._running[place] = None
        return Completed(number)

    def _script(self, place: int, task: Any) -> Iterator[Any]:
        """What a task emits, value by value."""
        match task:
            case Greeting():
                yield from self._trainings.greeting(task)
            case WarmUp(parts=parts):
                for part in parts:
                    yield from self._compile(place, part)
            case SeedTask():
                yield from self._train(place, task)

    def _train(self, place: int, task: SeedTask) -> Iterator[Any]:
        own, parts = self._machines[place], task.parts
        yield Began(own)
        if task.machine and task.machine.changed(own):
            return
        for part in parts:  # all epochs of a seed have the same hardware
            assert part.machine == own or part.epochs in {0, EPOCHS}
            self.kept.add(part.epochs)
        rest = [
            deque(on_machine(self._trainings.events(part), trained_by(part, own))) for part in parts
        ]
        for part, left in zip(parts, rest, strict=True) if task.timed else ():
            yield from self._compile(place, part)
            yield from (FromSeed(part.number, part.seed, v) for v in first_epoch(left))
            yield FromSeed(part.number, part.seed, FirstEpochDone())
        for part, left in zip(parts, rest, strict=True):
            yield from self._compile(place, part)
            yield from (FromSeed(part.number, part.seed, value) for value in left)

    def _compile(self, place: int, part: SeedPart) -> Iterator[FromSeed]:
        self._trainings.events(part)
        key = part.number, part.arm.resolved
        if key not in self._compiled[place]:
            self._compiled[place].add(key)
            yield FromSeed(part.number, part.seed, self._trainings.compiled[part.arm.resolved])


def other_kind(machine: Machine) -> Machine:
    """Hardware of another kind."""
    return replace(machine, device="Other CPU", processor="Other CPU")


def trained_by(part: SeedPart, machine: Machine) -> Machine:
    """What a seed was trained by, once a machine has done the rest."""
    return part.machine if part.machine and part.epochs == EPOCHS else machine


def on_machine(events: Sequence[Any], machine: Machine) -> Iterator[Any]:
    """Events with results from a machine."""
    for each in events:
        match each:
            case SeedDone(summary=summary):
                yield replace(each, summary=replace(summary, machine=machine))
            case Checkpoint():
                yield replace(each, machine=machine)
            case _:
                yield each


def first_epoch(left: deque[Any]) -> Iterator[Any]:
    """Takes the events up to the second epoch, or the end of the seed."""
    begun = False
    while left and not isinstance(left[0], SeedDone | Trained):
        if begun and isinstance(left[0], EpochRecord):
            return
        begun |= isinstance(left[0], EpochRecord)
        yield left.popleft()


@pytest.fixture(scope="module")
def trainings() -> Trainings:
    return Trainings()


def requests(folder: Path, arms: int, seeds: int) -> list[Request]:
    paths = [folder / f"{name}.yaml" for name in "abc"[:arms]]
    for number, path in enumerate(paths, start=1):  # `--needed` finds equal experiments by content
        optimizer = f"batch_size: 10, optimizer: {{name: adam, learning_rate: 0.0{number}}}"
        text = SPEC.format(name=path.stem, seeds=list(range(seeds)))
        path.write_text(text.replace("batch_size: 10", optimizer))
    return [Request(path, results_dir=folder / "results", engine="direct") for path in paths]


def trained(folder: Path, sizes: tuple[int, int], workers: Scripted) -> list[RunResult]:
    """Trains on scripted workers; every run ends once, and every pair has one kind of hardware."""
    arms, seeds = sizes
    done: list[str] = []
    told = diaries(arms)
    folder.mkdir(exist_ok=True)
    asked = requests(folder, arms, seeds)
    found = run_on(asked, told, workers, lambda run: done.append(run.record.name))
    assert sorted(done) == list("abc"[:arms])
    assert all(run.record.status is Status.FINISHED for run in found)
    for seed in range(seeds):
        pair = [each for run in found for each in of_seed(run, seed)]
        assert len(pair) == arms
        assert len(set(pair)) == 1
    return found


def of_seed(run: RunResult, seed: int) -> list[Machine | None]:
    assert run.summary
    return [each.machine for each in run.summary.seeds if each.seed == seed]


class InOrder(Random):
    """The first worker first, and no losses."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def random(self) -> float:
        return 1.0


def test_workers_with_gpus_that_jax_does_not_find(trainings: Trainings, tmp_path: Path) -> None:
    asked = [replace(each, gpus=0.5) for each in requests(tmp_path, 1, 1)]
    with pytest.raises(UsageError) as caught:
        run_on(asked, diaries(1), Scripted(1, InOrder(), trainings))
    assert str(caught.value) == (
        "--gpus 0.5: JAX finds no GPU on a worker of the cluster; install JAX for CUDA there, or"
        " leave out --gpus."
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@settings(max_examples=6)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_the_order_of_messages_does_not_matter(
    trainings: Trainings, arms: int, seeds: int, slots: int, random: Random
) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        expected = trained(Path(one), (arms, seeds), Scripted(1, InOrder(), trainings))
        found = trained(Path(other), (arms, seeds), Scripted(slots, random, trainings))
    assert list(map(numbers, found)) == list(map(numbers, expected))
    assert all(run.summary and run.summary.num_params for run in found)


class DiesOnce(Scripted):
    """A worker of a cluster that dies before one of its messages; its successor differs.

    Args:
      trainings: what tasks emit.
      at: number of messages before it dies.
      moves: True if the successor has other hardware.
    """

    def __init__(self, trainings: Trainings, at: int, *, moves: bool) -> None:
        self.at, self._moves = at, moves
        self.tasks: list[SeedTask] = []
        super().__init__(1, InOrder(), trainings)
        self.one_machine = False

    def _machine(self) -> Machine:
        own = self._trainings.machine()
        return other_kind(own) if self._moves and self.losses else own

    def _dies(self) -> bool:
        self.at -= 1
        return self.at == -1

    def close(self) -> None:
        """Interrupted drivers leave tasks behind."""

    def submit(self, number: int, task: WorkerTask) -> None:
        if isinstance(task, SeedTask):
            self.tasks.append(task)
        super().submit(number, task)


@pytest.mark.slow
@pytest.mark.parametrize("moves", [False, True])
def test_a_pair_has_one_hardware_wherever_its_worker_dies(
    trainings: Trainings, tmp_path: Path, moves: bool
) -> None:
    expected = trained(tmp_path / "whole", (2, 2), Scripted(1, InOrder(), trainings))
    kept = set[int]()
    for at in count():
        workers = DiesOnce(trainings, at, moves=moves)
        found = trained(tmp_path / str(at), (2, 2), workers)
        assert list(map(numbers, found)) == list(map(numbers, expected))
        if not workers.losses:
            break
        kept |= workers.kept
    assert at > 20
    assert kept == ({0, EPOCHS} if moves else {0, 1, EPOCHS})


def test_a_pair_starts_over_on_other_hardware(trainings: Trainings, tmp_path: Path) -> None:
    workers = DiesOnce(trainings, 1000, moves=True)

    def disturb(place: str) -> None:
        if place == "b0.1" and not workers.losses:
            workers.at = 0

    told = diaries(2, disturb)
    run_on(requests(tmp_path, 2, 1), told, workers)
    first, stayed, whole = workers.tasks
    own = trainings.machine()
    assert [len(first.parts), len(stayed.parts), len(whole.parts)] == [2, 1, 2]
    assert (first.machine, stayed.machine, whole.machine) == (None, own, None)
    assert [part.epochs for part in whole.parts] == [0, 0]
    text = f"seed 0 would continue with device Other CPU instead of {own.device}; it starts over"
    for each in told:
        assert f"{text} there, so that no pair has different hardware" in each.notes


@pytest.mark.parametrize("moves", [False, True])
def test_an_interrupted_pair_goes_on_with_its_hardware_or_starts_over(
    trainings: Trainings, tmp_path: Path, moves: bool
) -> None:
    expected = trained(tmp_path / "whole", (2, 2), Scripted(1, InOrder(), trainings))

    def disturb(place: str) -> None:
        if place == "a1.1":  # the last of four trainings
            raise KeyboardInterrupt

    asked = requests(tmp_path, 2, 2)
    with pytest.raises(KeyboardInterrupt):
        run_on(asked, diaries(2, disturb), DiesOnce(trainings, -1, moves=False))
    workers, told = DiesOnce(trainings, -1, moves=False), diaries(2)
    own = trainings.machine()
    now = other_kind(own) if moves else own
    workers._machines = [now]
    found = run_on([replace(each, needed=True) for each in asked], told, workers)
    assert list(map(numbers, found)) == list(map(numbers, expected))
    for run in found:  # seed 0 is only tested again
        assert [of_seed(run, seed) for seed in (0, 1)] == [[own], [now]]
    notes = [note for each in told for note in each.notes if "it starts over there" in note]
    assert [note.partition(" would")[0] for note in notes] == ["seed 1", "seed 1"] * moves
