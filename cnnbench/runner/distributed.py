"""Trains the seeds of experiments on workers and writes the run folders in this process.

Workers send trainer events to this process, the driver, which records them like events of local
training. The driver never initializes JAX.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count

from cnnbench.errors import CnnbenchError
from cnnbench.executors.choice import Where, parse_on
from cnnbench.executors.interface import (
    Completed,
    Emitted,
    Executor,
    Failed,
    Lost,
    WorkerTask,
)
from cnnbench.formatting import epochs_text
from cnnbench.runner.recorder import Listener
from cnnbench.runner.remote_run import RemoteRun
from cnnbench.runner.run import Request, opened_runs, run_by_turns
from cnnbench.runner.seed_task import (
    Began,
    FirstEpochDone,
    FromSeed,
    Greeting,
    Note,
    Refused,
    SeedTask,
    WarmUp,
    WorkerFound,
)
from cnnbench.runs.records import Environment, EpochRecord, Machine, RunResult
from cnnbench.system import signals
from cnnbench.system.host import load_per_cpu

PRELOAD = "cnnbench.runner.preload"
MOST_TIMED = 4  # experiments whose first epoch is timed alone
MOST_TOGETHER = 8  # experiments per task, one seed of each; more are a sweep
MOST_LOST = 3  # lost workers per seed
WAIT_S = 0.5


def run_requests(
    requests: Sequence[Request],
    listeners: Sequence[Listener],
    done: Callable[[RunResult], None] = lambda _: None,
) -> list[RunResult]:
    """Runs experiments on workers if requested, otherwise in this process.

    Args:
      requests: the experiments with their options.
      listeners: one for each.
      done: called with each result as soon as it is complete.

    Returns:
      The runs, in the order of the requests.

    Raises:
      CnnbenchError: as `run_on` or `run_by_turns`.
      KeyboardInterrupt: as `run_by_turns`.
    """
    first = requests[0]
    if not first.on:
        return run_by_turns(requests, listeners, done)
    on = parse_on(first.on, first.device, first.cpus, first.gpus)
    return run_on(requests, listeners, on, done)


def run_on(
    requests: Sequence[Request],
    listeners: Sequence[Listener],
    on: Where,
    done: Callable[[RunResult], None] = lambda _: None,
) -> list[RunResult]:
    """Trains the seeds of experiments on workers.

    Args:
      requests: the experiments with their options.
      listeners: one for each.
      on: where the workers are.
      done: called with each result as soon as it is complete.

    Returns:
      The runs, in the order of the requests.

    Raises:
      CnnbenchError: an experiment failed; if at least two others remain, they finish first.
      KeyboardInterrupt: as `run_by_turns`.
    """
    with remote_runs(requests, listeners, on) as (runs, executor):
        for run in runs:
            if not run.remaining:
                done(run.finish())
        Driver(executor, runs, requests[0].device, done).train()
        return [run.finish() for run in runs]


@contextmanager
def remote_runs(
    requests: Sequence[Request], listeners: Sequence[Listener], on: Where
) -> Iterator[tuple[list[RemoteRun], Callable[[], Executor]]]:
    """Opens runs, reads their images, and ends the workers on exit.

    Args:
      requests: the experiments with their options.
      listeners: one for each.
      on: where the workers are.

    Yields:
      The runs, and a function that returns the workers and starts them on first use.

    Raises:
      CnnbenchError: as `run_on`.
    """
    with opened_runs(requests, listeners, RemoteRun, here=False) as runs, ExitStack() as stack:

        @cache
        def executor() -> Executor:
            load_per_cpu()  # before the workers are busy
            started = on.start(PRELOAD)
            stack.callback(started.close)
            return started

        if not any(request.needed or request.resume for request in requests):
            executor()  # workers import JAX while this process reads the images
        for run in runs:
            run.read_data()
            run.look_for_result()
        yield runs, executor


@dataclass(slots=True, eq=False)
class _Task:
    """A submitted task.

    Args:
      task: the task.
      seeds: pairs of run number and seed.
      beside: most concurrent tasks since its last epoch.
    """

    task: WorkerTask
    seeds: list[tuple[int, int]]
    beside: int = 0


class Driver:
    """Submits seeds to workers and records their events.

    Args:
      executor: returns the workers.
      runs: the runs; finished runs are skipped.
      device: kind of device.
      done: called with each completed result; None if the caller finishes the runs.
    """

    def __init__(
        self,
        executor: Callable[[], Executor],
        runs: Sequence[RemoteRun],
        device: str,
        done: Callable[[RunResult], None] | None = None,
    ) -> None:
        self._start_workers, self._device, self._done = executor, device, done
        self._runs = [run for run in runs if run.remaining]
        self._executor: Executor
        self._numbers = count()
        self._tasks: dict[int, _Task] = {}
        self._waiting: list[tuple[int, int]] = []  # (run number, seed)
        self._untimed: set[int] = set()  # runs whose first epoch is to be timed alone
        self._found: Environment | None = None
        self._told: set[str] = set()
        self._losses: Counter[tuple[int, int]] = Counter()
        self._machines: dict[tuple[int, int], Machine] = {}  # hardware, if there are several
        self._ended: set[int] = set()  # runs
        self._error: Exception | None = None

    def train(self, number: int | None = None) -> None:
        """Trains seeds.

        Args:
          number: train the first `number` seeds of each run; None for all.

        Raises:
          CnnbenchError: a run cannot be trained, or the disk cannot be written.
        """
        if not any(run.remaining for run in self._runs):
            return
        begun = self._found is not None
        if not begun:
            self._start()
        self._waiting = list(units([run.first_waiting(number) for run in self._runs]))
        if not begun:
            self._train_first()
        while self._waiting or self._tasks:
            self._fill()
            self._receive()
        if self._error:
            raise self._error

    def _start(self) -> None:
        """Queries the workers' hardware and opens the run folders."""
        self._executor = self._start_workers()
        self._submit(Greeting(self._device))
        self._drain()
        assert self._found is not None
        for number, run in enumerate(self._runs):
            self._executor.offer(*run.offer)
            run.begin(self._found)
            if not self._executor.one_machine:
                self._machines |= {(number, seed): own for seed, own in run.machines.items()}
            self._finish(number)

    def _train_first(self) -> None:
        """Compiles on all workers, then times the first epoch of each run alone.

        The same worker then finishes these seeds. If that exceeds its share of the work, as in a
        sweep with one seed per trial, no epoch is timed alone.
        """
        slots = self._executor.slots
        if slots == 1 or len(self._runs) > MOST_TIMED:
            return
        live = [number for number, run in enumerate(self._runs) if run.waiting]
        parts = [self._runs[n].part(n, self._runs[n].waiting[0]) for n in live]
        for worker in range(min(slots, len(self._waiting))):
            turn = worker % len(parts)
            self._submit(WarmUp((*parts[turn:], *parts[:turn])))
        self._drain()
        timed = {n for n in live if not self._runs[n].failed and not self._runs[n].has_times}
        if len(timed) * slots > sum(len(run.waiting) for run in self._runs):
            return
        while first := next((unit for unit in self._waiting if unit[0] in timed), None):
            self._drain()
            block = self._with_seed(first[1])
            self._untimed = timed & {number for number, _ in block}
            timed -= self._untimed
            self._submit_seeds(block, timed=True)
            while self._untimed and self._tasks:
                self._receive()

    def _drain(self) -> None:
        while self._tasks:
            self._receive()

    def _fill(self) -> None:
        """Queues one waiting task per worker, so that no worker is idle."""
        while len(self._tasks) < 2 * self._executor.slots:
            ready = next((block for block in self._blocks() if self._are_ready(block)), None)
            if ready is None:
                return
            self._submit_seeds(ready)

    def _blocks(self) -> Iterator[list[tuple[int, int]]]:
        """Candidates for the next task: on several machines, a seed of all runs."""
        for unit in self._waiting:
            yield self._with_seed(unit[1]) if self._in_pairs else [unit]

    @property
    def _in_pairs(self) -> bool:
        """True if a task is one seed of all runs."""
        return not self._executor.one_machine and len(self._runs) <= MOST_TOGETHER

    def _with_seed(self, seed: int) -> list[tuple[int, int]]:
        return [unit for unit in self._waiting if unit[1] == seed]

    def _are_ready(self, block: Sequence[tuple[int, int]]) -> bool:
        return all(self._is_ready(number) for number, _ in block)

    def _is_ready(self, number: int) -> bool:
        """True if the run has a strategy, or no task is choosing one."""
        chooses = {n for task in self._tasks.values() for n, _ in task.seeds}
        return self._runs[number].engine is not None or number not in chooses

    def _submit_seeds(self, units_: Sequence[tuple[int, int]], *, timed: bool = False) -> None:
        for unit in units_:
            self._waiting.remove(unit)
        parts = tuple(self._runs[number].part(number, seed) for number, seed in units_)
        self._submit(SeedTask(parts, timed, self._machine_for(units_)), units_)

    def _submit(self, task: WorkerTask, seeds: Sequence[tuple[int, int]] = ()) -> None:
        number = next(self._numbers)
        self._tasks[number] = _Task(task, list(seeds))
        for other in self._tasks.values():
            other.beside = max(other.beside, self._beside())
        self._executor.submit(number, task)

    def _beside(self) -> int:
        """Number of tasks that run concurrently with each task."""
        return max(0, min(len(self._tasks), self._executor.slots) - 1)

    def _receive(self) -> None:
        """Handles one message from the workers.

        Raises:
          Exception: a bug in a worker, or all runs failed.
        """
        signals.raise_if_stopped()
        match self._executor.receive(WAIT_S):
            case Emitted(number=number, value=FromSeed() as sent):
                self._from_part(self._tasks[number], sent)
            case Emitted(number=number, value=Began(machine=machine)):
                self._began(self._tasks[number], machine)
            case Emitted(value=WorkerFound(environment=found)):
                self._found = found
            case Emitted(value=Note(text=text)):
                self._tell(self._runs[0], text)
            case Completed(number=number):
                del self._tasks[number]
                self._finish_pairs()
            case Failed(error=error):
                raise error
            case Lost(number=number, reason=reason):
                self._resubmit(self._tasks.pop(number), reason)
                self._finish_pairs()

    def _tell(self, run: RemoteRun, text: str) -> None:
        """Prints a note once, even if several workers send it."""
        if text not in self._told:
            self._told.add(text)
            run.note(text)

    def _from_part(self, task: _Task, sent: FromSeed) -> None:
        run = self._runs[sent.number]
        if run.failed:
            return
        match sent.value:
            case Note(text=text):
                self._tell(run, text)
            case FirstEpochDone():
                self._untimed.discard(sent.number)
            case Refused(error=error):
                self._refuse(sent.number, error.error())
            case EpochRecord() as record:
                run.receive(dataclasses.replace(record, beside=task.beside))
                task.beside = self._beside()
            case event:
                run.receive(event)
                self._finish(sent.number)

    def _finish(self, number: int) -> None:
        """Finishes a complete run, unless one of its seeds may have to start over."""
        run = self._runs[number]
        if self._done and run.complete and number not in self._ended and not self._waits(number):
            self._ended.add(number)
            self._done(run.finish())

    def _finish_pairs(self) -> None:
        """Finishes the runs that waited for a task."""
        for number in range(len(self._runs)) if self._in_pairs else ():
            self._finish(number)

    def _waits(self, number: int) -> bool:
        """True if another run is still training a seed of this run."""
        if not self._in_pairs:
            return False
        tasks = (seed for task in self._tasks.values() for _, seed in task.seeds)
        busy = {*tasks, *(seed for _, seed in self._waiting)}
        return any((number, seed) in self._machines for seed in busy)

    def _began(self, task: _Task, machine: Machine) -> None:
        """Records the machine of a task, or restarts seeds begun on different hardware."""
        assert isinstance(task.task, SeedTask)
        if self._executor.one_machine:
            return
        self._machines |= dict.fromkeys(task.seeds, machine)
        if (before := task.task.machine) and (changed := before.changed(machine)):
            self._start_over(task, changed)

    def _start_over(self, task: _Task, changed: str) -> None:
        """Restarts a seed that would continue on different hardware.

        All of its epochs, in all runs, then use the same hardware.
        """
        lost = self._pair(task.seeds[0])
        for number, seed in lost:
            del self._machines[number, seed]
            self._runs[number].start_over(seed)
            text = f"seed {seed} would continue with {changed}; it starts over there"
            self._runs[number].note(f"{text}, so that no pair has different hardware")
        task.seeds.clear()  # nothing left to train
        self._waiting = [*lost, *self._waiting]

    def _pair(self, unit: tuple[int, int]) -> list[tuple[int, int]]:
        """Units that have begun and must share a unit's hardware, itself included."""
        runs = range(len(self._runs)) if self._in_pairs else unit[:1]
        pair = ((number, unit[1]) for number in runs if not self._runs[number].failed)
        return [each for each in pair if each in self._machines]

    def _machine_for(self, block: Sequence[tuple[int, int]]) -> Machine | None:
        """Machine that trained part of a block or of its pair.

        None if no part is kept, or if only the test is missing, which any machine can run.
        """
        if not any(self._runs[number].lacks_epochs(seed) for number, seed in block):
            return None
        pair = self._pair(block[0])
        kept = (each for each in pair if self._runs[each[0]].has_part(each[1]))
        return next((self._machines[each] for each in kept), None)

    def _refuse(self, number: int, error: Exception) -> None:
        """Drops a failed run.

        Raises:
          Exception: the error, if fewer than two runs remain; for a trial of a sweep, if none
            remains.
        """
        error = self._runs[number].fail(error)
        self._untimed.discard(number)
        self._waiting = [unit for unit in self._waiting if unit[0] != number]
        least = 1 if self._runs[number].is_trial else 2
        if sum(not run.failed for run in self._runs) < least:
            raise error
        self._error = self._error or error
        self._runs[number].tell_failure(str(error))

    def _resubmit(self, task: _Task, reason: str) -> None:
        """Resubmits the seeds of a lost worker from their last checkpoints.

        Raises:
          CnnbenchError: a seed lost its worker too often.
        """
        if not isinstance(task.task, SeedTask):
            self._lose((-1, -1), reason)
            self._submit(task.task)
            return
        lost = [(n, seed) for n, seed in task.seeds if self._runs[n].is_missing(seed)]
        for number, seed in lost:
            self._lose((number, seed), reason)
            done = self._runs[number].cut_back(seed)
            after = f"from {epochs_text(done)}" if done else "from scratch"
            self._runs[number].note(f"{reason}; seed {seed} is trained {after}")
        self._waiting = [*lost, *self._waiting]
        self._untimed -= {number for number, _ in task.seeds}

    def _lose(self, unit: tuple[int, int], reason: str) -> None:
        self._losses[unit] += 1
        if self._losses[unit] > MOST_LOST:
            remedy = "workers may run out of memory; use fewer, such as --on local:1."
            raise CnnbenchError(f"--on: {reason}, {MOST_LOST + 1} times; {remedy}")


def units(seeds: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Pairs of run number and seed, alternating runs.

    Args:
      seeds: the seeds of each run.

    >>> list(units([[0, 1, 2], [0, 1]]))
    [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2)]
    """
    order = list(enumerate(seeds))
    for place in range(max(map(len, seeds), default=0)):
        yield from ((number, own[place]) for number, own in order if place < len(own))
        order.reverse()
