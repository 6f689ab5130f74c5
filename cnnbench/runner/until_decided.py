"""Trains seeds until verdicts are decided: `--until-decided` and `--anytime`."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from cnnbench.comparisons.comparability import run_path
from cnnbench.comparisons.comparison import Judgement, judgement
from cnnbench.comparisons.merge import merged
from cnnbench.comparisons.stopping import is_futile, reason_to_stop
from cnnbench.comparisons.verdict import Criteria
from cnnbench.comparisons.verdict_text import look_line, running_text
from cnnbench.executors.choice import parse_on
from cnnbench.runner.distributed import Driver, remote_runs
from cnnbench.runner.recorder import Listener
from cnnbench.runner.run import Request, TrainingRun, opened_runs
from cnnbench.runs.records import RunResult
from cnnbench.statistics.looks import Looks, Reason


class Watcher(Protocol):
    """Receives the results so far."""

    def look(self, text: str) -> None:
        """Called with a line per look."""

    def running(self, text: str) -> None:
        """Called with the difference and its interval after each seed."""


@dataclass(frozen=True, slots=True)
class Saved:
    """Savings from early stopping.

    Args:
      seeds: number of untrained seeds of all runs.
      planned: number of planned seeds.
      seconds: estimated time saved.
    """

    seeds: int
    planned: int
    seconds: float


def run_until_decided(
    requests: Sequence[Request],
    listeners: Sequence[Listener],
    watcher: Watcher,
    criteria: Criteria,
    done: Callable[[RunResult], None] = lambda _: None,
) -> list[RunResult]:
    """Runs experiments interleaved by seed until each is decided against the first.

    Args:
      requests: the experiments, baseline first, with equal `looks` and all planned seeds.
      listeners: one for each.
      watcher: receives the results so far.
      criteria: settings of the verdicts.
      done: called with each result as soon as it is complete.

    Returns:
      The runs, in the order of the requests.

    Raises:
      CnnbenchError: as `run_by_turns`.
      KeyboardInterrupt: as `run_by_turns`.
    """
    with _opened(requests, listeners) as (runs, train):
        looks = requests[0].looks
        assert looks is not None
        base, *others = runs
        known = [run.earlier() if looks.anytime else [] for run in runs]
        arms = [
            _Arm((base, run), looks, criteria, watcher, (known[0], known[number]))
            for number, run in enumerate(others, start=1)
        ]
        _train(base, arms, train, done)
        reasons = [arm.reason for arm in arms]
        reason = Reason.LAST if Reason.LAST in reasons else reasons[-1]
        base.stop_at(replace(looks, reason=reason))
        done(base.finish())
        return [run.finish() for run in runs]


_TrainMore = Callable[[Sequence[TrainingRun]], None]  # at least a seed each, up to the next look


@contextmanager
def _opened(
    requests: Sequence[Request], listeners: Sequence[Listener]
) -> Iterator[tuple[Sequence[TrainingRun], _TrainMore]]:
    """Opens runs, reads their images, and yields a function that trains more seeds."""
    first, looks = requests[0], requests[0].looks
    assert looks is not None
    if not first.on:
        with opened_runs(requests, listeners, TrainingRun) as runs:
            for run in runs:
                run.read_data()
            yield runs, _ByTurns(runs).train
        return
    on = parse_on(first.on, first.device, first.cpus, first.gpus)
    with remote_runs(requests, listeners, on) as (remote, executor):
        driver = Driver(executor, remote, first.device)

        def train(active: Sequence[TrainingRun]) -> None:
            least = min(run.num_seeds for run in active)
            driver.train(next(stop for stop in looks.stops if stop > least))

        yield remote, train


class _ByTurns:
    """Trains the next seed of runs in this process.

    Args:
      runs: all runs, in the order of their first turn.
    """

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self._order = list(runs)

    def train(self, active: Sequence[TrainingRun]) -> None:
        """Trains one seed of the runs with the fewest."""
        least = min(run.num_seeds for run in active)
        for run in self._order:
            if run in active and run.num_seeds == least and run.remaining:
                run.train(run.remaining[0])
        self._order.reverse()


def _train(
    base: TrainingRun,
    arms: "Sequence[_Arm]",
    train: _TrainMore,
    done: Callable[[RunResult], None],
) -> None:
    """Trains the baseline and all undecided runs."""
    while waiting := [arm for arm in arms if not arm.reason]:
        train([base, *(arm.run for arm in waiting)])
        for arm in waiting:
            arm.judge(several=len(arms) > 1)
            if arm.reason:
                done(arm.run.finish())


class _Arm:
    """A run that is compared with the baseline at each look.

    Args:
      pair: the baseline and the run.
      looks: stopping rule.
      criteria: settings of the verdicts.
      watcher: receives the results so far.
      earlier: finished runs of both; their seeds count, too.

    Attributes:
      reason: reason to stop; None while training continues.
    """

    def __init__(
        self,
        pair: tuple[TrainingRun, TrainingRun],
        looks: Looks,
        criteria: Criteria,
        watcher: Watcher,
        earlier: tuple[Sequence[RunResult], Sequence[RunResult]],
    ) -> None:
        self.base, self.run = pair
        self.looks, self.criteria, self.watcher, self.earlier = looks, criteria, watcher, earlier
        self.reason: Reason | None = None
        self._place = 0  # number of looks so far

    def judge(self, *, several: bool) -> None:
        """Judges at each look that both runs have reached.

        Args:
          several: True if other runs are judged, too.
        """
        number, stops = min(self.base.num_seeds, self.run.num_seeds), self.looks.stops
        while not self.reason and self._place < len(stops) and stops[self._place] <= number:
            self._look(stops[self._place], several=several)
        if not self.reason and number not in stops:
            (verdict,) = self._judgement(number).verdicts
            self.watcher.running(running_text(verdict))
        if self.reason:
            self.run.stop_at(replace(self.looks, reason=self.reason))

    def _look(self, number: int, *, several: bool) -> None:
        self._place += 1
        found = self._judgement(number)
        (verdict,) = found.verdicts
        p = math.nan if verdict.p is None else verdict.p
        self.looks = replace(self.looks, p_values=(*self.looks.p_values, p))
        self.reason = reason_to_stop(verdict, self.looks, number)
        if not self.reason and not self.looks.anytime and self._is_futile(found, number):
            self.reason = Reason.FUTILE
        self.watcher.running(running_text(verdict))
        if not self.looks.anytime or self.reason:
            self.watcher.look(look_line(verdict, self._place, self.reason, several=several))

    def _judgement(self, number: int) -> Judgement:
        pair = self._pair(number)
        return judgement(pair, replace(self.criteria, baseline=run_path(pair[0].record)))

    def _pair(self, number: int) -> list[RunResult]:
        return [
            merged([*known, run.so_far(number)])
            for run, known in zip((self.base, self.run), self.earlier, strict=True)
        ]

    def _is_futile(self, found: Judgement, number: int) -> bool:
        base, other = found.arms
        return is_futile((base, other), found.metric, self.criteria, self.looks, number)


def saved(results: Sequence[RunResult]) -> Saved | None:
    """Savings from early stopping, from the times of trained seeds; None without looks."""
    missing, planned, seconds = 0, 0, 0.0
    for result in results:
        if (looks := result.record.looks) is None or result.summary is None:
            return None
        own = result.summary.seeds
        spent = [seed.train_s + seed.eval_s for seed in own]
        left = len(looks.planned) - len(own)
        missing, planned = missing + left, planned + len(looks.planned)
        seconds += left * sum(spent) / max(1, len(spent))
    return Saved(missing, planned, seconds)
