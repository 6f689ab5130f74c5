"""Estimates the cost of a sweep from earlier runs of its experiments."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median

from cnnbench.executors.choice import num_workers
from cnnbench.runner.batches.left import Left, left_of
from cnnbench.runner.run import Request
from cnnbench.runner.sweeps.planning import PlannedSweep
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunEntry
from cnnbench.runs.records import Status
from cnnbench.system.stopwatch import Timing

_NEWEST = 5  # runs per estimate


@dataclass(frozen=True, slots=True)
class SweepCost:
    """Cost of a sweep.

    Args:
      runs: number of runs.
      seeds: number of seeds per run; None if it varies.
      known: number of finished runs.
      seconds: estimated training time; None without earlier runs.
    """

    runs: int
    seeds: int | None
    known: int
    seconds: float | None

    def text(self, *, needed: bool) -> str:
        """The cost in words.

        >>> SweepCost(12, 6, 4, 850.0).text(needed=True)
        '12 runs x 6 seeds, about 14 min; 4 of 12 are finished'
        >>> SweepCost(12, 1, 4, None).text(needed=False)
        '12 runs x 1 seed; 4 of 12 are finished, and --needed skips them'
        """
        seeds = f"{self.seeds} seed{'s' * (self.seeds != 1)}" if self.seeds else "the seeds of each"
        time = "" if self.seconds is None else f", about {duration_text(self.seconds)}"
        skips = "" if needed else ", and --needed skips them"
        there = f"; {self.known} of {self.runs} are finished{skips}" if self.known else ""
        return f"{self.runs} run{'s' * (self.runs != 1)} x {seeds}{time}{there}"


def duration_text(seconds: float) -> str:
    """A time in words.

    >>> duration_text(34.2), duration_text(850), duration_text(20000)
    ('34 s', '14 min', '5.6 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def sweep_cost(sweep: PlannedSweep, *, needed: bool) -> SweepCost:
    """Estimates the cost of a sweep.

    Args:
      sweep: the trials.
      needed: True if finished runs are skipped.

    Raises:
      StoreError: the folder of results cannot be read.
    """
    entries = list_runs(sweep.results_dir).entries
    lefts = [left for own in left_of_trials(sweep, entries) for left in own]
    requests = [request for trial in sweep.trials for request in trial.requests]
    for _ in range(len(sweep.plan.trials), sweep.number):  # proposed later
        requests += sweep.trials[0].requests
        lefts += [Left(r.load().experiment.seeds) for r in sweep.trials[0].requests]
    rates = _rates(sweep, entries)
    total, known = 0.0, sum(not left.seeds for left in lefts)
    for left, request in zip(lefts, requests, strict=True):
        spec = request.load().experiment
        number = len(left.seeds if needed else spec.seeds)
        if spec.name in rates and number:
            fixed, each = rates[spec.name]
            total += fixed + each * number * spec.train.epochs
    seeds = {len(request.load().experiment.seeds) for request in requests}
    same = seeds.pop() if len(seeds) == 1 else None
    seconds = total / _at_a_time(requests[0]) if rates and total else None
    return SweepCost(len(requests), same, known, seconds)


def _at_a_time(request: Request) -> int:
    """Number of concurrent runs; 1 if unknown."""
    if not request.on:
        return 1
    return num_workers(request.on, request.device, request.cpus, request.gpus) or 1


def left_of_trials(sweep: PlannedSweep, entries: Iterable[RunEntry]) -> list[tuple[Left, ...]]:
    """Work that `--needed` leaves for the runs of each planned trial.

    Args:
      sweep: the trials.
      entries: all runs, oldest first.

    Raises:
      StoreError: a run cannot be read.
    """
    by_digest: dict[str, list[RunEntry]] = {}
    planned = sweep.plan.trials
    for entry in entries:
        by_digest.setdefault(entry.facts.spec_digest, []).append(entry)
    return [
        tuple(
            left_of(replace(request, needed=True), by_digest.get(run.spec_digest, ()))
            for request, run in zip(trial.requests, planned[trial.number - 1].runs, strict=True)
        )
        for trial in sweep.trials
    ]


def _rates(sweep: PlannedSweep, entries: Sequence[RunEntry]) -> dict[str, tuple[float, float]]:
    """Seconds per run and per epoch of a seed, for each experiment with earlier runs."""
    newest = {name: list(islice(_timed(name, entries), _NEWEST)) for name in sweep.plan.names}
    return {name: _rate(found) for name, found in newest.items() if found}


def _timed(name: str, entries: Sequence[RunEntry]) -> Iterator[RunEntry]:
    """Finished runs of an experiment that recorded times, newest first; read lazily."""
    for entry in reversed(entries):
        facts = entry.facts
        if facts.status is Status.FINISHED and facts.name == name and entry.record.timing:
            yield entry


def _fixed(command: Sequence[str], timing: Timing) -> float:
    """Seconds of a run without its epochs; on workers, the total includes other runs."""
    if any(word.partition("=")[0] == "--on" for word in command):
        return timing.data_s + timing.compile_s
    return max(0.0, timing.total_s - timing.train_s - timing.eval_s)


def _rate(entries: Sequence[RunEntry]) -> tuple[float, float]:
    fixed, each = [], []
    for entry in entries:
        record, timing = entry.record, entry.record.timing
        assert timing
        trained = timing.train_s + timing.eval_s
        fixed.append(_fixed(record.environment.command, timing))
        each.append(trained / max(1, record.epochs * len(record.seeds)))
    return median(fixed), median(each)
