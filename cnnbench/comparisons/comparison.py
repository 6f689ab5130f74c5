"""Runs side by side: the first and the last epoch of each, or the reason why not."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

from cnnbench.comparisons import timing_warnings
from cnnbench.comparisons.comparability import (
    TEST,
    Finished,
    difference,
    finished_runs,
    recipes,
    run_path,
    value,
    values,
)
from cnnbench.comparisons.labels import run_labels
from cnnbench.comparisons.repetitions import contradiction, repeats
from cnnbench.comparisons.statistics import Estimate, estimate
from cnnbench.comparisons.time_to_target import TimeToTarget, parse_target, time_to_target
from cnnbench.comparisons.timing_warnings import Timed, TimingWarning
from cnnbench.comparisons.verdict import ANY, Arm, Criteria, Finding, Verdict, find_baseline, judge
from cnnbench.comparisons.verdict_text import sentence
from cnnbench.errors import IncomparableError
from cnnbench.formatting import enumeration, lost_text
from cnnbench.runs.cost import Cost
from cnnbench.runs.records import DatasetRecord, Direction, EpochRecord, RunRecord, RunResult
from cnnbench.runs.summary import lost_seeds, with_missing

JUDGED = Criteria()
CODE = "code_accuracy"
_SETTLED = {Finding.BETTER, Finding.WORSE, Finding.NOISE, Finding.NONE}


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment after one epoch.

    Args:
      run: the run's record.
      label: the experiment's title, with the overrides that differ if several runs share it.
      epoch: number of the epoch, from 1.
      value: the headline metric on the validation images, over seeds; on the test images where
        no others validate, and then there is no row but that of the last epoch.
      train_s: seconds of training in that epoch, over seeds.
      num_params: number of trainable parameters.
      images_per_s: training images per second, median over all epochs and seeds.
      test: the headline metric on the test images, over seeds; None but in the last epoch.
      code: accuracy of a linear classifier on the code, over seeds, where there is one; likewise.
    """

    run: RunRecord
    label: str
    epoch: int
    value: Estimate
    train_s: Estimate
    num_params: int
    images_per_s: float
    test: Estimate | None
    code: Estimate | None = None

    @property
    def lost(self) -> str:
        """What is said of the seeds that have diverged by then; nothing where none has."""
        values = self.value.values
        return lost_text(sum(not math.isfinite(value) for value in values), len(values))


@dataclass(frozen=True, slots=True)
class CostRow:
    """What an experiment costs.

    Args:
      run: the run's record.
      label: as in its `Row`.
      cost: what was measured; None in runs of older versions.
      images_per_s: training images per second, median over all epochs and seeds.
      target: how long it took to the target; None where none was asked for.
      best_epoch: the epoch with the best validation value, the first of equals, over seeds; NaN
        for a seed without a value, None without validation images.
    """

    run: RunRecord
    label: str
    cost: Cost | None
    images_per_s: float
    target: TimeToTarget | None
    best_epoch: Estimate | None

    @property
    def product_share(self) -> float | None:
        """The arithmetic of training as a share of the device's fastest matrix product."""
        return self.cost.product_share(self.images_per_s) if self.cost else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparable runs: one task, one set of images, one kind of device.

    Args:
      task: `classify` or `reconstruct`.
      metric: the headline metric.
      direction: which of its values are better.
      dataset: the images.
      device_kind: `cpu`, `gpu` or `tpu`.
      devices: model names of the devices, each once.
      rows: the first and the last epoch of each run, in the order of the runs.
      verdicts: on every run but the baseline.
      code_verdicts: likewise, by `Row.code`; empty where one has none.
      costs: what each run costs, in their order.
      warnings: reasons to distrust the timings, with remedies.
      remarks: what else to know about the runs.
      contradictions: runs that should have the same numbers and do not; said before all else.
    """

    task: str
    metric: str
    direction: Direction
    dataset: DatasetRecord
    device_kind: str
    devices: tuple[str, ...]
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...] = ()
    code_verdicts: tuple[Verdict, ...] = ()
    costs: tuple[CostRow, ...] = ()
    warnings: tuple[TimingWarning, ...] = ()
    remarks: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()

    @property
    def validates(self) -> bool:
        """True if values are taken on validation images, False if on the test images."""
        return self.dataset.num_validation > 0

    @property
    def shown_metric(self) -> str:
        """The metric of the values, `test_` before it where no images validate."""
        return self.metric if self.validates else f"{TEST}{self.metric}"


def compare(runs: Sequence[RunResult], criteria: Criteria = JUDGED) -> Comparison:
    """Runs that the user named, in that order.

    Args:
      runs: at least one.
      criteria: how they are judged.

    Raises:
      IncomparableError: there are none, one has not finished, or their numbers
        do not measure the same thing.
      UsageError: one has no such metric, or none is called like the baseline.
    """
    finished = finished_runs(runs, criteria.metric)
    for other in finished[1:]:
        if reason := difference(finished[0], other):
            these = enumeration([run_path(run.record) for run in (finished[0], other)])
            raise IncomparableError(f"{reason} (these are {these}; a RUN-ID names another)")
    return _comparison(finished, _arms(finished), criteria)


def compare_groups(
    runs: Sequence[RunResult], criteria: Criteria = JUDGED
) -> tuple[Comparison, ...]:
    """Runs that nobody chose, each beside those that it can be compared with.

    Args:
      runs: at least one.
      criteria: how they are judged; the baseline is that of the runs beside it.

    Raises:
      IncomparableError: there are none, or one has not finished.
      UsageError: one has no such metric, or none is called like the baseline.
    """
    groups: list[list[Finished]] = []
    for run in finished_runs(runs, criteria.metric):
        group = next((g for g in groups if difference(g[0], run) is None), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    arms = [_arms(group) for group in groups]
    every = [arm for group in arms for arm in group]
    chosen = every[find_baseline(every, criteria.baseline)]
    known = [any(s is chosen or criteria.baseline in s.names for s in group) for group in arms]
    first = replace(criteria, baseline=None)
    return tuple(map(_comparison, groups, arms, (criteria if k else first for k in known)))


def _comparison(runs: Sequence[Finished], arms: Sequence[Arm], criteria: Criteria) -> Comparison:
    record, metric = runs[0].record, runs[0].metric
    direction = runs[0].summary.metrics[metric]
    devices = dict.fromkeys(run.record.environment.device_model for run in runs)
    labels = [arm.names[0] for arm in arms]
    named = list(zip(labels, runs, strict=True))
    unequal = _contradictions(named)
    costs = tuple(map(partial(_cost_row, criteria), runs, labels))
    verdicts = judge(arms, runs[0].judged_by, criteria, higher=direction is Direction.HIGHER)
    return Comparison(
        task=record.task,
        metric=metric,
        direction=direction,
        dataset=record.dataset,
        device_kind=record.environment.device_kind,
        devices=tuple(devices),
        rows=tuple(row for label, run in named for row in _rows(run, label)),
        verdicts=verdicts,
        code_verdicts=code_verdicts(runs, arms, criteria),
        costs=costs,
        warnings=timing_warnings.warnings(list(map(_timed, runs, costs))),
        remarks=(
            *_diverged(named),
            *_recipes(named),
            *disagreements(runs, arms, verdicts, criteria),
            *_same(named, unequal),
        ),
        contradictions=tuple(unequal.values()),
    )


def _timed(run: Finished, cost: CostRow) -> Timed:
    return Timed(cost.label, run.record, run.epochs, cost.cost, cost.product_share)


def _cost_row(criteria: Criteria, run: Finished, label: str) -> CostRow:
    target = None
    if criteria.target is not None:
        value = parse_target(criteria.target, run.metric)
        direction = run.summary.metrics[run.metric]
        tests = values(run, f"{TEST}{run.metric}")
        target = time_to_target(run.epochs, run.metric, value, direction, tests)
    speed, best = _images_per_s(run), _best_epoch(run)
    return CostRow(run.record, label, run.summary.cost, speed, target, best)


def _best_epoch(run: Finished) -> Estimate | None:
    best = [seed.best[run.metric] for seed in run.summary.seeds if run.metric in seed.best]
    return estimate(math.nan if math.isnan(b.value) else b.epoch for b in best) if best else None


def _recipes(runs: Sequence[tuple[str, Finished]]) -> Iterator[str]:
    if found := recipes([(label, run.record) for label, run in runs]):
        yield found


def _contradictions(runs: Sequence[tuple[str, Finished]]) -> dict[tuple[str, str], str]:
    """A sentence on every two runs that should have the same numbers and do not, by labels."""
    found = {
        (label, other_label): contradiction(run, other, (label, other_label))
        for (label, run), (other_label, other) in combinations(runs, 2)
        if repeats(run.record, other.record)
    }
    return {labels: text for labels, text in found.items() if text}


def _same(
    runs: Sequence[tuple[str, Finished]], unequal: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    """Runs of one experiment show what the machine adds; a run beside itself shows nothing."""
    for (label, run), (other_label, other) in combinations(runs, 2):
        if (label, other_label) in unequal:
            continue
        if run_path(run.record) == run_path(other.record):
            yield (
                f"A/A: {label} and {other_label} are one and the same run; to see this machine's"
                " noise, train it twice with one command that names its file twice."
            )
        elif _twins(run.record, other.record):
            yield (
                f"A/A: {label} and {other_label} are the same experiment with the same seeds; what"
                " differs between their times is this machine's noise, and smaller differences of"
                " time mean nothing."
            )


def _twins(one: RunRecord, other: RunRecord) -> bool:
    forms = {record.engine.form for record in (one, other) if record.engine}
    same = (one.spec_digest, one.seeds) == (other.spec_digest, other.seeds)
    return same and len(forms) < 2


def _arms(runs: Sequence[Finished]) -> tuple[Arm, ...]:
    """What runs that stand side by side are judged by, in their order."""
    labels = run_labels([run.record for run in runs])
    return tuple(_arm(run, label) for run, label in zip(runs, labels, strict=True))


def _diverged(runs: Sequence[tuple[str, Finished]]) -> Iterator[str]:
    """Seeds whose loss is not finite; a network that knows nothing still has an accuracy."""
    for label, run in runs:
        if lost := lost_seeds(run.epochs, run.summary):
            seeds = ", ".join(map(str, lost))
            yield f"Warning: {label} diverged with seed {seeds}: the loss is not finite."


def _arm(run: Finished, label: str) -> Arm:
    """What a run is judged by: its last epoch, and the times of those trained alone."""
    record = run.record
    tags = (name for tag in record.tags for name in (tag, f"{record.name}@{tag}"))
    names = label, record.name, run_path(record), *tags
    return Arm(names, values(run, run.judged_by), _epoch_s(run))


def _epoch_s(run: Finished) -> dict[int, float]:
    """Seconds of training in an epoch, median over all, by seed that was trained alone."""
    alone = [epoch for epoch in run.epochs if epoch.at_once == 1]
    return {
        seed: statistics.median(epoch.train_s for epoch in alone if epoch.seed == seed)
        for seed in dict.fromkeys(epoch.seed for epoch in alone)
    }


def _images_per_s(run: Finished) -> float:
    """Median; seeds that were trained at once do not tell how long an epoch takes."""
    return statistics.median(e.samples_per_s for e in run.epochs if e.at_once == 1)


def _times(epochs: Sequence[EpochRecord]) -> list[float]:
    """Seconds of training of seeds that were trained alone, and not given up before."""
    alone = [epoch.train_s for epoch in epochs if epoch.at_once == 1]
    return [value for value in alone if math.isfinite(value)] or [math.nan]


def _rows(run: Finished, label: str) -> Iterator[Row]:
    last, validates = run.record.epochs, run.record.dataset.num_validation > 0
    records = with_missing(run.epochs, last)
    test = estimate(values(run, f"{TEST}{run.metric}").values())
    for number in dict.fromkeys((1, last) if validates else (last,)):
        epochs = [records[seed, number] for seed in run.record.seeds]
        yield Row(
            run=run.record,
            label=label,
            epoch=number,
            value=estimate(value(epoch, run.metric) for epoch in epochs) if validates else test,
            train_s=estimate(_times(epochs)),
            num_params=run.summary.num_params,
            images_per_s=_images_per_s(run),
            test=test if number == last else None,
            code=code_estimate(run) if number == last else None,
        )


def code_estimate(run: Finished) -> Estimate | None:
    """Accuracy of a linear classifier on the code, over seeds; None where there is no code."""
    accuracies = _code_accuracies(run)
    return estimate(accuracies.values()) if accuracies else None


def code_verdicts(
    runs: Sequence[Finished], arms: Sequence[Arm], criteria: Criteria
) -> tuple[Verdict, ...]:
    """A verdict on the code of each run but the baseline; none where one of them has no code.

    Args:
      runs: those that stand side by side.
      arms: what else each of them is judged by.
      criteria: how; a least effect in the unit of a loss means nothing here.
    """
    accuracies = list(map(_code_accuracies, runs))
    if not all(accuracies):
        return ()
    codes = [
        arm._replace(values=own, epoch_s={}) for arm, own in zip(arms, accuracies, strict=True)
    ]
    effect = criteria.min_effect if criteria.min_effect.kind == "relative" else ANY
    return judge(codes, CODE, replace(criteria, min_effect=effect), higher=True)


def _code_accuracies(run: Finished) -> Mapping[int, float]:
    """By seed; empty unless all are known."""
    known = {
        seed.seed: seed.code_accuracy
        for seed in run.summary.seeds
        if seed.code_accuracy is not None
    }
    return known if len(known) == len(run.summary.seeds) else {}


def disagreements(
    runs: Sequence[Finished], arms: Sequence[Arm], verdicts: Sequence[Verdict], criteria: Criteria
) -> Iterator[str]:
    """What is said where validation and test images come to different findings.

    An interval over seeds does not hold for other images: a few hundred of them favour one
    network by chance, in every seed alike.

    Args:
      runs: those that stand side by side.
      arms: what else each of them is judged by.
      verdicts: on every run but the baseline.
      criteria: how they were judged.
    """
    metric, data = runs[0].metric, runs[0].record.dataset
    if not data.num_validation:
        return
    by_test = runs[0].judged_by != metric
    other = metric if by_test else f"{TEST}{metric}"
    others = [
        arm._replace(values=values(run, other), epoch_s={})
        for arm, run in zip(arms, runs, strict=True)
    ]
    higher = runs[0].summary.metrics[metric] is Direction.HIGHER
    images = "validation" if by_test else "test"
    for one, two in zip(verdicts, judge(others, other, criteria, higher=higher), strict=True):
        if one.finding != two.finding and {one.finding, two.finding} <= _SETTLED:
            yield (
                f"By the {images} images: {sentence(two)} Intervals are over seeds, not over images"
                f" ({data.num_validation:,} validate, {data.num_test:,} test), so a difference that"
                " only some of them show may be theirs."
            )
