"""Every order in which messages of workers can arrive leaves the same runs behind."""

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.executors.interface import Completed, Emitted, Lost, Message, WorkerTask
from cnnbench.runner.distributed import run_on
from cnnbench.runner.run import Request
from cnnbench.runner.seed_task import FirstEpochDone, FromSeed, Greeting, SeedPart, SeedTask, WarmUp
from cnnbench.runs.records import EpochRecord, RunResult, Status
from cnnbench.training.events import Compiled, SeedDone, Trained
from tests.runner.test_distributed import diaries, numbers
from tests.runner.test_interleaving import SPEC

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

    def events(self, part: SeedPart) -> list[Any]:
        """The events of a part, without those of compilation."""
        key = part.arm.resolved, part.seed, part.epochs
        if key not in self.known:
            sent: list[FromSeed] = []
            SeedTask((replace(part, number=0),))(sent.append)
            values = [each.value for each in sent]
            for value in values:
                if isinstance(value, Compiled):
                    self.compiled[part.arm.resolved] = value
            self.known[key] = [each for each in values if not isinstance(each, Compiled)]
        return self.known[key]


class Scripted:
    """An executor whose messages arrive in a random order, and whose workers die at random.

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
        self._losses = 0

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
        if self._losses < MOST_LOSSES and self._random.random() < 0.05:
            self._losses += 1
            self._running[place] = None
            self._compiled[place].clear()
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
            case SeedTask(parts=parts, timed=timed):
                rest = [deque(self._trainings.events(part)) for part in parts]
                for part, left in zip(parts, rest, strict=True) if timed else ():
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
    for path in paths:
        path.write_text(SPEC.format(name=path.stem, seeds=list(range(seeds))))
    return [Request(path, results_dir=folder / "results", engine="direct") for path in paths]


def trained(folder: str, sizes: Sequence[int], random: Random, known: Trainings) -> list[RunResult]:
    """Trains on scripted workers; every run ends once."""
    arms, seeds, slots = sizes
    done: list[str] = []
    asked = requests(Path(folder), arms, seeds)
    found = run_on(
        asked,
        diaries(arms),
        Scripted(slots, random, known),
        lambda run: done.append(run.record.name),
    )
    assert sorted(done) == list("abc"[:arms])
    assert all(run.record.status is Status.FINISHED for run in found)
    return found


class InOrder(Random):
    """The first worker first, and no losses."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def random(self) -> float:
        return 1.0


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
        expected = trained(one, (arms, seeds, 1), InOrder(), trainings)
        found = trained(other, (arms, seeds, slots), random, trainings)
    assert list(map(numbers, found)) == list(map(numbers, expected))
    assert all(run.summary and run.summary.num_params for run in found)
