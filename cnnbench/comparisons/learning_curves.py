"""Learning curves over seeds, and text descriptions of a comparison's charts."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from cnnbench.comparisons.comparison import Comparison, Row
from cnnbench.comparisons.timing_warnings import with_typical_times
from cnnbench.formatting import clean, diverged_text, epochs_text, seconds_text
from cnnbench.runs.records import RunResult, trained_elsewhere
from cnnbench.runs.summary import lost_seeds, with_missing
from cnnbench.spec.metrics import heading, metric_text
from cnnbench.statistics.estimates import Estimate, estimate, mean


@dataclass(frozen=True, slots=True)
class Curve:
    """Learning curve of a run: validation metric (or training loss) after each epoch.

    Args:
      label: label of the run, as in tables.
      values: metric after each epoch, over seeds.
      time_s: cumulative seconds of training after each epoch, mean over the seeds trained one at
        a time; None if an epoch has none.
      num_lost: number of diverged seeds.
    """

    label: str
    values: tuple[Estimate, ...]
    time_s: tuple[float, ...] | None
    num_lost: int = 0

    @property
    def num_seeds(self) -> int:
        """Number of seeds."""
        return len(self.values[0].values)

    @property
    def lost(self) -> str:
        """Text on the diverged seeds; empty if none diverged."""
        return diverged_text(self.num_lost, self.num_seeds)


def last_rows(comparison: Comparison) -> tuple[Row, ...]:
    """The last epoch of each run."""
    return tuple(row for row in comparison.rows if row.test is not None)


def runs_of(comparison: Comparison, runs: Sequence[RunResult]) -> tuple[tuple[Row, RunResult], ...]:
    """The last row of each run, with the run.

    Args:
      comparison: a comparison of some of the runs.
      runs: all runs.
    """
    by_id = {(run.record.name, run.record.run_id): run for run in runs}
    rows = last_rows(comparison)
    return tuple((row, by_id[row.run.name, row.run.run_id]) for row in rows)


def curves(comparison: Comparison, runs: Sequence[RunResult]) -> tuple[Curve, ...]:
    """The learning curve of each run, in the order of the comparison.

    Args:
      comparison: a comparison of some of the runs.
      runs: all runs.
    """
    pairs = runs_of(comparison, runs)
    return tuple(_curve(row.label, run, comparison.metric) for row, run in pairs)


def _curve(label: str, run: RunResult, metric: str) -> Curve:
    numbers = range(1, run.record.epochs + 1)
    seeds = run.summary.seeds if run.summary else ()
    timed = with_typical_times(run.epochs, trained_elsewhere(run.record, seeds))
    found = with_missing(timed, run.record.epochs, run.summary)
    by_epoch = [[found[seed, number] for seed in run.record.seeds] for number in numbers]
    values = tuple(estimate(e.course(metric) for e in epochs) for epochs in by_epoch)
    sequential = [[e.train_s for e in epochs if e.at_once == 1] for epochs in by_epoch]
    known = [[value for value in times if math.isfinite(value)] for times in sequential]
    time_s = tuple(itertools.accumulate(map(mean, known))) if all(known) else None
    lost = lost_seeds(run.epochs, run.summary)
    return Curve(clean(label), values, time_s, len(lost))


def ends(value: Estimate) -> tuple[float, float]:
    """Minimum and maximum over seeds; NaN if any value is not finite.

    >>> ends(estimate([0.98, 0.99, 0.97]))
    (0.97, 0.99)
    """
    if not all(map(math.isfinite, value.values)):
        return math.nan, math.nan
    return min(value.values), max(value.values)


def value_text(metric: str, value: Estimate) -> str:
    """Mean, followed by the range over seeds if there are several.

    >>> value_text("accuracy", estimate([0.98, 0.99]))
    '98.50% (98.00 to 99.00%)'
    """
    middle = metric_text(metric, value.mean)
    if len(value.values) == 1:
        return middle
    low, high = (metric_text(metric, end) for end in ends(value))
    return f"{middle} ({low.removesuffix('%')} to {high})"


def course_metric(comparison: Comparison) -> str:
    """The metric of the curves."""
    return comparison.metric if comparison.validates else "train_loss"


def course_title(comparison: Comparison) -> str:
    """Title of the curves: the metric and the images it is measured on."""
    images = "validation" if comparison.validates else "training"
    return (
        f"{heading(comparison.metric if comparison.validates else 'loss')} on the {images} images"
    )


def curves_text(shown: Sequence[Curve], comparison: Comparison, *, by_time: bool) -> str:
    """Alternative text of a chart of learning curves."""
    against, metric = "seconds of training" if by_time else "epoch", course_metric(comparison)
    sentences = [f"{course_title(comparison)} vs. {against}."]
    for curve in shown:
        first, last = curve.values[0], curve.values[-1]
        end = f"{value_text(metric, last)} after {epochs_text(len(curve.values))}"
        if by_time and curve.time_s:
            end += f" and {seconds_text(curve.time_s[-1])}"
        start = "" if len(curve.values) == 1 else f"from {value_text(metric, first)} to "
        lost = f"; {curve.lost}" if curve.lost else ""
        sentences.append(f"{curve.label}: {start}{end}{lost}.")
    return " ".join(sentences)


def costs_text(comparison: Comparison, *, by_time: bool) -> str:
    """Alternative text of a chart of metric vs. cost."""
    against = "seconds per epoch" if by_time else "number of parameters"
    metric, rows = comparison.metric, last_rows(comparison)
    images = comparison.dataset.judged_on
    sentences = [f"{heading(metric)} on the {images} images vs. {against}."]
    for row in rows:
        cost = seconds_text(row.train_s.mean) if by_time else f"{row.num_params:,} parameters"
        sentences.append(f"{clean(row.label)}: {value_text(metric, row.value)} at {cost}.")
    return " ".join(sentences)


def bands_text(shown: Sequence[Curve]) -> str:
    """Legend of the lines and bands."""
    match sorted({curve.num_seeds for curve in shown}):
        case [1]:
            return "Lines: one seed."
        case [number]:
            return f"Lines: mean over {number} seeds. Bands: minimum to maximum over seeds."
    return "Lines: mean over seeds. Bands: minimum to maximum over seeds."
