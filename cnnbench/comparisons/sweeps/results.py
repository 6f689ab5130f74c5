"""The trials of a sweep with the metric of each seed, ranked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cnnbench.comparisons.comparability import TEST, finished_runs, run_path, values
from cnnbench.comparisons.labels import short_setting
from cnnbench.comparisons.tuning import Trial, TunedArm
from cnnbench.errors import UsageError, did_you_mean, or_list, quoted
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunEntry, read_run
from cnnbench.runs.over import in_order
from cnnbench.runs.records import Direction, RunResult
from cnnbench.runs.sweeps.plans import SweepPlan, failed_runs, known_plan, trained_runs
from cnnbench.statistics.best_of import expected_best


@dataclass(frozen=True, slots=True)
class SweepRow:
    """A trial of one experiment.

    Args:
      number: of the trial, from 1.
      title: the experiment's title.
      values: the value of each key, as in an override.
      scores: the metric for each seed; NaN for a seed that diverged. Empty if it is not trained.
      seeds: the seeds.
      run: its folder in the results.
      seconds: training and evaluation, over all seeds.
      error: why it failed; empty if it is trained, or was not started.
    """

    number: int
    title: str
    values: tuple[str, ...]
    scores: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    run: str = ""
    seconds: float = 0.0
    error: str = ""

    @property
    def trial(self) -> Trial:
        """The trial in the form used for tuning."""
        return Trial((), self.values, written=False, values=self.scores, run=self.run)

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN if a seed diverged or none is trained."""
        return self.trial.value.mean if self.scores else math.nan


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The results of a sweep.

    Args:
      plan: what was to be trained.
      metric: the metric that ranks, on the validation images, or with `test_` on the test images.
      higher: True if higher values are better.
      rows: the trials, those of one experiment after those of another.
      order: the trials in the order of the table; empty for the best first.
    """

    plan: SweepPlan
    metric: str
    higher: bool
    rows: tuple[SweepRow, ...]
    order: tuple[SweepRow, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Short names of the keys."""
        return tuple(short_setting(key, self.plan.keys) for key in self.plan.keys)

    @property
    def titles(self) -> tuple[str, ...]:
        """Titles of the experiments."""
        return tuple(dict.fromkeys(row.title for row in self.rows))

    @property
    def trained(self) -> tuple[SweepRow, ...]:
        """The trials with results."""
        return tuple(row for row in self.rows if row.scores)

    @property
    def ranked(self) -> tuple[SweepRow, ...]:
        """The trials from best to worst, then those that diverged and those without results."""
        sign = -1 if self.higher else 1

        def key(row: SweepRow) -> tuple[int, float]:
            lost = not math.isfinite(row.mean)
            return (lost + (not row.scores), 0.0 if lost else sign * row.mean)

        return tuple(sorted(self.rows, key=key))

    @property
    def shown(self) -> tuple[SweepRow, ...]:
        """The trials in the order of the table."""
        return self.order or self.ranked

    @property
    def best(self) -> SweepRow | None:
        """The best trial; None if all diverged or none is trained."""
        first = self.ranked[0]
        return first if math.isfinite(first.mean) else None

    @property
    def by_test(self) -> bool:
        """True if trials are ranked on the test images, since there are no validation images."""
        return self.metric.startswith(TEST)

    def with_errors(self, reasons: Mapping[int, str]) -> "SweepResult":
        """The sweep with the errors of trials that have no results, by number."""
        rows = (
            row if row.scores else replace(row, error=reasons.get(row.number, row.error))
            for row in self.rows
        )
        return replace(self, rows=tuple(rows))

    def of(self, title: str) -> tuple[SweepRow, ...]:
        """The trials of one experiment that are trained."""
        return tuple(row for row in self.trained if row.title == title)

    def expected(self, title: str) -> tuple[float, ...]:
        """Expected best mean of k trials of an experiment, for each k."""
        return expected_best([row.mean for row in self.of(title)], higher=self.higher)

    def arm(self, title: str) -> TunedArm:
        """The trials of one experiment in the form used for tuning."""
        return TunedArm(title, tuple(row.trial for row in self.of(title)), self.higher)


def sweep_result(
    plan: SweepPlan, runs: Sequence[Sequence[RunResult | None]], metric: str | None = None
) -> SweepResult:
    """The results of a sweep from its runs.

    Args:
      plan: the sweep.
      runs: the run of each experiment for each trial; None where there is none.
      metric: the metric that ranks; None for the headline metric.

    Raises:
      CnnbenchError: a run is damaged, or does not have the metric.
    """
    name, higher, rows = metric or "", True, []
    for place, own in enumerate(zip(*runs, strict=True)):
        for number, (run, trial) in enumerate(zip(own, plan.trials, strict=True), start=1):
            row = SweepRow(number, trial.runs[place].title, tuple(trial.values.values()))
            if run is not None:
                row, name, higher = _row(row, run, metric)
            rows.append(row)
    return SweepResult(plan, name, higher, tuple(rows))


def _row(row: SweepRow, run: RunResult, metric: str | None) -> tuple[SweepRow, str, bool]:
    (finished,) = finished_runs([run], metric, images=False)
    found = values(finished, finished.metric)
    spent = sum(epoch.train_s + epoch.eval_s for epoch in run.epochs)
    name = finished.metric.removeprefix(TEST)
    higher = finished.summary.metrics.get(name) is Direction.HIGHER
    trained = SweepRow(
        row.number,
        row.title,
        row.values,
        tuple(found.values()),
        tuple(found),
        run_path(run.record),
        spent,
    )
    return trained, finished.metric, higher


def read_sweep(plan: SweepPlan, results_dir: Path, metric: str | None = None) -> SweepResult:
    """Reads the results of a sweep.

    Raises:
      CnnbenchError: as `sweep_result`.
    """
    return _read_sweep(plan, list_runs(results_dir).entries, metric)


def _read_sweep(plan: SweepPlan, entries: Sequence[RunEntry], metric: str | None) -> SweepResult:
    trained = trained_runs(plan, entries)
    runs = [[read_run(entry.path) if entry else None for entry in row] for row in trained]
    result = sweep_result(plan, runs, metric)
    if all(map(all, trained)):
        return result
    return _with_errors(result, failed_runs(plan, entries))


def sweeps_of(
    runs: Sequence[RunResult], results_dir: Path, metric: str | None = None
) -> dict[str, SweepResult | None]:
    """The sweeps that runs were trained for, by their ids; None where the plan no longer exists.

    Args:
      runs: the runs.
      results_dir: folder of all results.
      metric: the metric that ranks; None for the headline metric.

    Raises:
      CnnbenchError: as `read_sweep`, or a plan is damaged.
    """
    names = dict.fromkeys(run.record.sweep.sweep for run in runs if run.record.sweep)
    plans = {name: known_plan(name, results_dir) for name in names}
    entries = list_runs(results_dir).entries if any(plans.values()) else ()
    return {
        name: _read_sweep(plan, entries, metric) if plan else None for name, plan in plans.items()
    }


def _with_errors(result: SweepResult, errors: Mapping[tuple[str, str], str]) -> SweepResult:
    """The sweep with the errors of its trials that are not trained."""
    arms = range(len(result.plan.names))
    runs = [trial.runs[place] for place in arms for trial in result.plan.trials]
    rows = (
        row if row.scores else replace(row, error=errors.get((run.name, run.spec_digest), ""))
        for row, run in zip(result.rows, runs, strict=True)
    )
    return replace(result, rows=tuple(rows))


SORTS = ("trial", "time")


def sorted_by(result: SweepResult, column: str) -> SweepResult:
    """The sweep with its table in the order of a column.

    Args:
      result: the sweep.
      column: `trial`, `time`, or a key.

    Raises:
      UsageError: there is no such column.
    """
    columns = (*SORTS, *result.keys)
    name = dict(zip(result.plan.keys, result.keys, strict=True)).get(column, column).lower()
    if name not in columns:
        hint = did_you_mean(column, columns)
        message = f"--sort-by: no column {quoted(column)}{hint}"
        raise UsageError(f"{message}; write {or_list(columns)}.")
    if name == "trial":
        order = sorted(result.rows, key=lambda row: row.number)
    elif name == "time":
        order = sorted(result.rows, key=lambda row: row.seconds)
    else:
        place = result.keys.index(name)
        names = list(dict.fromkeys(row.values[place] for row in result.rows))
        places = {value: number for number, value in enumerate(in_order(names))}
        order = sorted(result.ranked, key=lambda row: places[row.values[place]])
    return replace(result, order=tuple(order))
