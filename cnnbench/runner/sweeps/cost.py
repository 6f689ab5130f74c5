"""What a sweep will cost, from earlier runs of the same experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from cnnbench.runner.sweeps.planning import PlannedSweep
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunEntry
from cnnbench.runs.records import Status
from cnnbench.runs.sweeps.plans import trained_runs

_NEWEST = 5  # runs that an estimate is from


@dataclass(frozen=True, slots=True)
class SweepCost:
    """What is to be trained.

    Args:
      runs: number of trainings.
      seeds: number of seeds of each, if it is the same for all; else None.
      known: number of trainings that are finished already.
      seconds: estimated time of those that are trained; None if no experiment was trained before.
    """

    runs: int
    seeds: int | None
    known: int
    seconds: float | None

    def text(self, *, needed: bool) -> str:
        """The cost in words.

        >>> SweepCost(12, 6, 4, 850.0).text(needed=True)
        '12 trainings x 6 seeds, about 14 min; 4 of 12 are there already'
        >>> SweepCost(12, 1, 4, None).text(needed=False)
        '12 trainings x 1 seed; 4 of 12 are there already, and --needed skips them'
        """
        seeds = f"{self.seeds} seed{'s' * (self.seeds != 1)}" if self.seeds else "the seeds of each"
        time = "" if self.seconds is None else f", about {duration_text(self.seconds)}"
        skips = "" if needed else ", and --needed skips them"
        there = f"; {self.known} of {self.runs} are there already{skips}" if self.known else ""
        return f"{self.runs} trainings x {seeds}{time}{there}"


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
    found = [entry for row in trained_runs(sweep.plan, sweep.results_dir) for entry in row]
    requests = [request for trial in sweep.trials for request in trial.requests]
    for _ in range(len(sweep.trials), sweep.number):  # proposed later
        requests += sweep.trials[0].requests
    found += [None] * (len(requests) - len(found))
    rates = _rates(sweep)
    total, known = 0.0, sum(entry is not None for entry in found)
    for entry, request in zip(found, requests, strict=True):
        spec = request.load().experiment
        if spec.name in rates and not (needed and entry):
            fixed, each = rates[spec.name]
            total += fixed + each * len(spec.seeds) * spec.train.epochs
    seeds = {len(request.load().experiment.seeds) for request in requests}
    same = seeds.pop() if len(seeds) == 1 else None
    return SweepCost(len(requests), same, known, total if rates and total else None)


def _rates(sweep: PlannedSweep) -> dict[str, tuple[float, float]]:
    """For each experiment with earlier runs: seconds of a run, and of an epoch of a seed."""
    done = [e for e in list_runs(sweep.results_dir).entries if e.facts.status is Status.FINISHED]
    entries = [e for e in done if e.facts.name in sweep.plan.names and e.record.timing]
    own = {name: [e for e in entries if e.facts.name == name] for name in sweep.plan.names}
    return {name: _rate(found[-_NEWEST:]) for name, found in own.items() if found}


def _rate(entries: Sequence[RunEntry]) -> tuple[float, float]:
    fixed, each = [], []
    for entry in entries:
        record, timing = entry.record, entry.record.timing
        assert timing
        trained = timing.train_s + timing.eval_s
        fixed.append(max(0.0, timing.total_s - trained))
        each.append(trained / max(1, record.epochs * len(record.seeds)))
    return median(fixed), median(each)
