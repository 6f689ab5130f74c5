"""Confirms the winner of a sweep on fresh seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from cnnbench.comparisons.comparability import TEST, finished_runs, values
from cnnbench.comparisons.sweeps.results import SweepResult, SweepRow
from cnnbench.comparisons.verdict_text import size
from cnnbench.errors import UsageError
from cnnbench.report.sweeps.table import best_label
from cnnbench.runner.run import Request
from cnnbench.runner.sweeps.planning import point_label, titled
from cnnbench.runner.tuning import own_command
from cnnbench.runs.records import RunResult
from cnnbench.runs.sweeps.plans import SweepPlan
from cnnbench.spec.metrics import metric_text, words
from cnnbench.spec.shipped import find_file

FIRST_SEED = 5000
SEEDS = 6
WRITTEN = "written"

Make = Callable[[Path, Sequence[str]], Request]
"""Makes the request of an experiment from its file and overrides."""


def fresh_seeds(plan: SweepPlan, number: int) -> tuple[int, ...]:
    """Seeds that no trial of a sweep used."""
    used = {seed for trial in plan.trials for run in trial.runs for seed in run.seeds}
    return tuple(islice((seed for seed in count(FIRST_SEED) if seed not in used), number))


def confirming_requests(
    result: SweepResult, against: str, seeds: Sequence[int], make: Make
) -> list[Request]:
    """Requests for the baseline and the winner on fresh seeds.

    Args:
      result: the sweep.
      against: the baseline: a trial number, or `written` for the unchanged file.
      seeds: the seeds.
      make: makes a request.

    Raises:
      UsageError: there is no winner or no such trial, or the baseline is the winner.
      SpecError: the experiment is no longer valid.
    """
    plan, best = result.plan, result.best
    if best is None:
        raise UsageError(f"sweep {plan.sweep} has no trial to confirm; train it again.")
    place = next(i for i, run in enumerate(plan.trials[0].runs) if run.title == best.title)
    path = find_file(plan.specs[place]) or Path(plan.specs[place])
    chosen = f"seeds=[{','.join(map(str, seeds))}]"
    kept = [text for text in plan.overrides if not text.startswith("seeds=")]
    base = _values(result, against, place)
    winner = _values(result, str(best.number), place)
    pair = [make(path, [*kept, *changes, chosen]) for changes in (base, winner)]
    digests = {request.load().experiment.digest() for request in pair}
    if len(digests) == 1:
        raise UsageError(_same(result, against, best))
    session = f"confirm-{plan.sweep}-{against}"
    return [
        replace(request, command=own_command(request), needed=True, session=session)
        for request in pair
    ]


def _values(result: SweepResult, against: str, place: int) -> list[str]:
    if against == WRITTEN:
        return []
    trials = result.plan.trials
    if not against.isdecimal() or not 1 <= int(against) <= len(trials):
        message = f"--against: '{against}' is not a trial of sweep {result.plan.sweep}"
        raise UsageError(f"{message}; write a number from 1 to {len(trials)}, or {WRITTEN}.")
    point = trials[int(against) - 1].values
    changes = [f"{key}={value}" for key, value in point.items()]
    title = f"{trials[0].runs[place].title} {point_label(point, result.plan.keys)}"
    return [*changes, titled(title)]


def _same(result: SweepResult, against: str, best: SweepRow) -> str:
    what = "the file as written" if against == WRITTEN else f"trial {best.number} itself"
    message = f"--against: the best trial, {best_label(result)}, is {what}"
    other = next((row.number for row in result.ranked if row is not best and row.scores), 1)
    return f"{message}; name another trial: --against {other}."


def judged_metric(result: SweepResult) -> str:
    """Metric of the verdict, on the test images."""
    return f"{TEST}{result.metric.removeprefix(TEST)}"


def optimism_text(result: SweepResult, winner: RunResult) -> str:
    """Compares the winner's selection metric with that on fresh seeds."""
    best = result.best
    assert best
    (finished,) = finished_runs([winner], result.metric, images=False)
    fresh = list(values(finished, result.metric).values())
    if not all(map(math.isfinite, fresh)):
        return "The winner diverged on a fresh seed."
    mean = math.fsum(fresh) / len(fresh)
    images = "test" if result.by_test else "validation"
    name = f"{images} {words(result.metric.removeprefix(TEST))}"
    before, now = (metric_text(result.metric, value) for value in (best.mean, mean))
    change = size(result.metric, mean - best.mean)
    number = len(result.trained)
    return (
        f"The winner's {name}: {before} as the best of {number}, {now} on fresh seeds ({change})."
    )
