"""Comparisons of runs: table rows, verdicts, costs, warnings and remarks."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations, starmap
from typing import NamedTuple

from cnnbench.comparisons import timing_warnings
from cnnbench.comparisons.comparability import (
    TEST,
    Finished,
    chosen_records,
    difference,
    finished_runs,
    machines,
    recipes,
    run_path,
    test_augments,
    value,
    values,
)
from cnnbench.comparisons.images import RunSpread, grounds, image_notes, run_spread, with_images
from cnnbench.comparisons.labels import is_sweep, run_labels
from cnnbench.comparisons.repetitions import contradiction, repeats
from cnnbench.comparisons.stopping import judge_runs
from cnnbench.comparisons.time_to_target import TimeToTarget, parse_target, time_to_target
from cnnbench.comparisons.timing_warnings import (
    Timed,
    TimingWarning,
    hardware_remark,
    timed_epochs,
    times_remarks,
    with_typical_times,
)
from cnnbench.comparisons.verdict import (
    ANY,
    Arm,
    Criteria,
    Verdict,
    find_baseline,
    judge_groups,
)
from cnnbench.errors import IncomparableError
from cnnbench.formatting import diverged_text, enumeration, epochs_text, named_seeds, seconds_text
from cnnbench.runs.cost import Cost
from cnnbench.runs.folder import RESOLVED_FILE
from cnnbench.runs.records import (
    DatasetRecord,
    Direction,
    EpochRecord,
    RunRecord,
    RunResult,
    timed_hardware,
    trained_elsewhere,
)
from cnnbench.runs.summary import lost_seeds, with_missing
from cnnbench.spec.metrics import words
from cnnbench.statistics.estimates import Estimate, estimate, mean
from cnnbench.system import commands

JUDGED = Criteria()
CODE = "code_accuracy"
_ON = "validation_"


@dataclass(frozen=True, slots=True)
class Row:
    """One run after one epoch.

    Args:
      run: the run's record.
      label: the experiment's title, with the overrides that differ if several runs share it.
      epoch: number of the epoch, from 1.
      value: the headline metric on the validation images, over seeds. Without validation images,
        on the test images, and the run has a row for its last epoch only.
      train_s: seconds of training in that epoch, over seeds.
      num_params: number of trainable parameters.
      images_per_s: training images per second, median over all epochs and seeds.
      test: the headline metric on the test images, over seeds; last epoch only, otherwise None.
      code: linear-probe accuracy of the latent code, over seeds; last epoch of autoencoders only,
        otherwise None.
      chosen: the epochs that the validation images chose, over seeds, to which `value`, `train_s`,
        `test` and `code` refer; last epoch only, None if they did not choose.
      data_wait: share of the time of all epochs in which the device waited for streamed images;
        None if they were in memory.
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
    chosen: Estimate | None = None
    data_wait: float | None = None

    @property
    def epoch_text(self) -> str:
        """The epoch, or the first and last of those that the validation images chose."""
        if self.chosen is None:
            return str(self.epoch)
        first, last = min(self.chosen.values), max(self.chosen.values)
        return f"{first:g}-{last:g}" if first < last else f"{first:g}"

    @property
    def lost(self) -> str:
        """Text on the seeds that have diverged by this epoch; empty if none have."""
        values = self.value.values
        return diverged_text(sum(not math.isfinite(value) for value in values), len(values))


@dataclass(frozen=True, slots=True)
class CostRow:
    """Cost of one run.

    Args:
      run: the run's record.
      label: as in its `Row`.
      cost: measured cost; None in runs of older versions.
      images_per_s: training images per second, median over all epochs and seeds.
      target: time to the target metric; None if no target was given.
      best_epoch: epoch with the best validation value (the first if tied), over seeds; NaN
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
        """Training FLOP/s as a fraction of the device's fastest matrix product."""
        return self.cost.product_share(self.images_per_s) if self.cost else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparable runs: same task, data and kind of device.

    Args:
      task: the task, as in `run.json`.
      metric: the headline metric.
      direction: whether higher or lower values are better.
      dataset: the dataset.
      device_kind: `cpu`, `gpu` or `tpu`.
      devices: model names of the devices, without duplicates.
      rows: the first and the last epoch of each run, in the order of the runs.
      verdicts: one for each run except the baseline.
      code_verdicts: the same by `Row.code`; empty if any run has no code.
      costs: cost of each run, in the order of the runs.
      warnings: reasons to doubt the times, with remedies.
      remarks: further remarks on the runs.
      contradictions: runs that should have identical numbers but do not; reported first.
      spreads: the spread over seeds of each run whose results for each image are known.
      image_notes: footnotes on spreads and images.
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
    spreads: tuple[RunSpread, ...] = ()
    image_notes: tuple[str, ...] = ()

    @property
    def end(self) -> str:
        """The time of the last rows, in words."""
        chosen = any(row.chosen for row in self.rows)
        return "after the last or the chosen epoch" if chosen else "after the last epoch"

    @property
    def validates(self) -> bool:
        """True if values are measured on validation images, False if on the test images."""
        return self.dataset.num_validation > 0

    @property
    def shown_metric(self) -> str:
        """The metric of the values, with the prefix `test_` if there are no validation images."""
        return self.metric if self.validates else f"{TEST}{self.metric}"


def compare(
    runs: Sequence[RunResult], criteria: Criteria = JUDGED, *, steps: bool = True
) -> Comparison:
    """Compare the given runs, in that order.

    Args:
      runs: at least one.
      criteria: settings of the comparison.
      steps: True to refuse different numbers of training steps, as of a tuned batch size.

    Raises:
      IncomparableError: there are no runs, one is unfinished, or their numbers
        do not measure the same thing.
      UsageError: a run does not have the metric, or no run matches the baseline.
    """
    finished = _best_first(_comparable(runs, criteria, steps=steps), criteria)
    return _comparison(finished, arms_of(finished), criteria=criteria)


class Judgement(NamedTuple):
    """The verdicts of a comparison without anything else.

    Args:
      metric: the metric that is judged.
      arms: the per-seed measurements of the runs.
      verdicts: one for each run except the baseline, without what the images add.
    """

    metric: str
    arms: tuple[Arm, ...]
    verdicts: tuple[Verdict, ...]


def judgement(runs: Sequence[RunResult], criteria: Criteria = JUDGED) -> Judgement:
    """The verdicts of `compare`, which are cheap without costs, images, warnings and remarks.

    Raises:
      IncomparableError, UsageError: as `compare`.
    """
    finished = _comparable(runs, criteria, images=False)
    arms, first = arms_of(finished), finished[0]
    higher = first.summary.metrics[first.metric] is Direction.HIGHER
    verdicts = judge_runs(finished, arms, criteria, higher=higher)
    return Judgement(first.judged_by, arms, verdicts)


class PointComparison(NamedTuple):
    """The same experiments at one setting of several.

    Args:
      comparison: their comparison, without remarks on other images.
      arms: the per-seed measurements of the runs.
      others: the verdicts on the test images, if validation images judge, or the reverse; empty
        without validation images.
    """

    comparison: Comparison
    arms: tuple[Arm, ...]
    others: tuple[Verdict, ...]


def compare_points(
    groups: Sequence[Sequence[RunResult]], criteria: Criteria = JUDGED
) -> tuple[PointComparison, ...]:
    """Compare each group of runs; the verdicts of all groups are adjusted for one another.

    Args:
      groups: at least one, each with the runs of the same experiments at another setting.
      criteria: settings of the comparisons.

    Raises:
      IncomparableError: a run is unfinished, or the runs of a group are not comparable.
      UsageError: a run does not have the metric, or no run matches the baseline.
    """
    finished = [_comparable(group, criteria) for group in groups]
    arms = [arms_of(runs) for runs in finished]
    judged = _judge_points(finished, arms, finished[0][0].judged_by, criteria)
    compared = map(partial(_comparison, criteria=criteria), finished, arms, judged)
    others: Sequence[tuple[Verdict, ...]] = [()] * len(finished)
    if all(runs[0].record.dataset.num_validation for runs in finished):
        other = _other_images(finished[0][0])
        changed = [_with_metric(runs, own, other) for runs, own in zip(finished, arms, strict=True)]
        others = _judge_points(finished, changed, other, criteria)
    return tuple(map(PointComparison, compared, arms, others))


def _judge_points(
    groups: Sequence[Sequence[Finished]],
    arms: Sequence[Sequence[Arm]],
    metric: str,
    criteria: Criteria,
) -> Sequence[tuple[Verdict, ...]]:
    """Verdicts of all groups in one family: by Holm, or with looks by Bonferroni."""
    first = groups[0][0]
    higher = first.summary.metrics[first.metric] is Direction.HIGHER
    if not any(run.record.looks for runs in groups for run in runs):
        return judge_groups(arms, metric, criteria, higher=higher)
    share = replace(criteria, alpha=criteria.alpha / len(groups))
    return [
        judge_runs(runs, own, share, higher=higher, metric=metric)
        for runs, own in zip(groups, arms, strict=True)
    ]


def _comparable(
    runs: Sequence[RunResult], criteria: Criteria, *, steps: bool = True, images: bool = True
) -> list[Finished]:
    finished = finished_runs(runs, criteria.metric, images=images)
    for other in finished[1:]:
        if reason := difference(finished[0], other, steps=steps):
            these = enumeration([run_path(run.record) for run in (finished[0], other)])
            raise IncomparableError(f"{reason} (compared: {these}; choose other runs by RUN-ID)")
    return finished


def run_values(
    runs: Sequence[RunResult], metric: str | None
) -> list[tuple[str, list[float], float]]:
    """Label of each run, its values after the last epoch, one per seed, and their overlap.

    Args:
      runs: at least one.
      metric: the metric; None for the median seconds per epoch of seeds trained one at a time.

    Raises:
      IncomparableError: a run is unfinished.
      UsageError: a run does not have the metric.
    """
    arms = arms_of(finished_runs(runs, metric))
    if metric is None:  # times do not depend on the images
        return [(arm.names[0], list(arm.epoch_s.values()), 0.0) for arm in arms]
    return [(arm.names[0], list(arm.values.values()), arm.overlap) for arm in arms]


def compare_groups(
    runs: Sequence[RunResult], criteria: Criteria = JUDGED
) -> tuple[Comparison, ...]:
    """Group runs into comparable ones and compare each group.

    Args:
      runs: at least one.
      criteria: settings of the comparisons; the baseline applies to the groups that contain it.

    Raises:
      IncomparableError: there are no runs, or one is unfinished.
      UsageError: a run does not have the metric, or no run matches the baseline.
    """
    groups: list[list[Finished]] = []
    for run in finished_runs(runs, criteria.metric):
        group = next((g for g in groups if difference(g[0], run) is None), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    groups = [_best_first(group, criteria) for group in groups]
    arms = [arms_of(group) for group in groups]
    every = [arm for group in arms for arm in group]
    chosen = every[find_baseline(every, criteria.baseline)]
    known = [any(s is chosen or criteria.baseline in s.names for s in group) for group in arms]
    first = replace(criteria, baseline=None)
    return tuple(
        _comparison(group, own, criteria=criteria if k else first)
        for group, own, k in zip(groups, arms, known, strict=True)
    )


def _comparison(
    runs: Sequence[Finished],
    arms: Sequence[Arm],
    judged: tuple[Verdict, ...] | None = None,
    *,
    criteria: Criteria,
) -> Comparison:
    record, metric = runs[0].record, runs[0].metric
    direction = runs[0].summary.metrics[metric]
    devices = dict.fromkeys(run.record.environment.device_model for run in runs)
    labels = [arm.names[0] for arm in arms]
    named = list(zip(labels, runs, strict=True))
    unequal = _contradictions(named)
    costs = tuple(map(partial(_cost_row, criteria), runs, labels))
    higher = direction is Direction.HIGHER
    verdicts = judge_runs(runs, arms, criteria, higher=higher) if judged is None else judged
    place = find_baseline(arms, criteria.baseline)
    others = [run for number, run in enumerate(runs) if number != place]
    verdicts = with_images(runs[place], others, verdicts)
    spreads = tuple(filter(None, starmap(run_spread, named)))
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
            *_sweep(named, criteria),
            *_diverged(named),
            *_recipes(named),
            *_machines(named),
            *_timed_hardware(named),
            *_test_augments(named),
            *chain.from_iterable(starmap(selection, named)),
            *_total_times(named),
            *times_remarks([(label, run.epochs) for label, run in named]),
            *(_grounds(runs, arms, verdicts, criteria) if judged is None else ()),
            *_same(named, unequal),
        ),
        contradictions=tuple(unequal.values()),
        spreads=spreads,
        image_notes=tuple(image_notes(spreads, verdicts, dict(named))),
    )


def _best_first(runs: list[Finished], criteria: Criteria) -> list[Finished]:
    """A sweep from its best run to its worst, so that the best is the baseline; else unchanged."""
    if criteria.baseline is not None or not is_sweep([run.record for run in runs]):
        return runs
    sign = 1 if runs[0].summary.metrics[runs[0].metric] is Direction.HIGHER else -1

    def quality(run: Finished) -> float:
        value = sign * mean(list(values(run, run.judged_by).values()))
        return -math.inf if math.isnan(value) else value

    return sorted(runs, key=quality, reverse=True)


def _sweep(runs: Sequence[tuple[str, Finished]], criteria: Criteria) -> Iterator[str]:
    """Remark on a baseline that was chosen for its result."""
    if criteria.baseline is not None or not is_sweep([run.record for _, run in runs]):
        return
    label, best = runs[0]
    metric = words(best.judged_by if best.judged_by.startswith(TEST) else f"{_ON}{best.judged_by}")
    remark = f"{label} is the baseline because it has the best {metric} of the {len(runs)}"
    remark += f" runs of {best.record.title}"
    optimistic = "; as the winner of a sweep, it is optimistic"
    if best.path is None:
        yield f"{remark}{optimistic}: confirm it on fresh seeds."
        return
    first = max(seed for _, run in runs for seed in run.record.seeds) + 1
    seeds = ",".join(str(first + place) for place in range(len(best.record.seeds)))
    seeds += "," * (len(best.record.seeds) == 1)
    spec = best.path / RESOLVED_FILE
    line = commands.cnnbench("run", spec, *best.record.overrides, "--seeds", seeds)
    yield f"{remark}{optimistic}. Confirm it on fresh seeds with: {line}"


def _timed(run: Finished, cost: CostRow) -> Timed:
    models = frozenset(seed.machine.model for seed in run.summary.seeds if seed.machine)
    epochs = tuple(_here(run.epochs, run))
    return Timed(cost.label, run.record, epochs, cost.cost, cost.product_share, models)


def _cost_row(criteria: Criteria, run: Finished, label: str) -> CostRow:
    target = None
    if criteria.target is not None:
        value = parse_target(criteria.target, run.metric)
        direction = run.summary.metrics[run.metric]
        tests = values(run, f"{TEST}{run.metric}")
        timed = with_typical_times(run.epochs, _elsewhere(run))
        target = time_to_target(timed, run.metric, value, direction, tests)
    speed, best = _images_per_s(run), _best_epoch(run)
    return CostRow(run.record, label, run.summary.cost, speed, target, best)


def _best_epoch(run: Finished) -> Estimate | None:
    best = [seed.best[run.metric] for seed in run.summary.seeds if run.metric in seed.best]
    return estimate(math.nan if math.isnan(b.value) else b.epoch for b in best) if best else None


def _machines(runs: Sequence[tuple[str, Finished]]) -> Iterator[str]:
    if found := machines([(label, run.summary) for label, run in runs]):
        yield found


def _timed_hardware(runs: Sequence[tuple[str, Finished]]) -> Iterator[str]:
    """Which seeds times come from, and why there is no ratio of some."""
    for label, run in runs:
        if found := hardware_remark(label, run.record, run.summary.seeds):
            yield found
    if len({_hardware(run) for _, run in runs}) > 1:
        yield (
            "Times of different hardware have no ratio; train the runs on the same to compare them."
        )


def _recipes(runs: Sequence[tuple[str, Finished]]) -> Iterator[str]:
    if found := recipes([(label, run.record) for label, run in runs]):
        yield found


def _test_augments(runs: Sequence[tuple[str, Finished]]) -> Iterator[str]:
    if found := test_augments([(label, run.record) for label, run in runs]):
        yield found


def selection(label: str, run: Finished) -> Iterator[str]:
    """Remark on a recipe that chooses its epochs by the validation images.

    Args:
      label: label of the run.
      run: the run.
    """
    record, seeds = run.record, run.summary.seeds
    if record.stop_metric:
        counts = [seed.num_epochs or record.epochs for seed in seeds]
        yield (
            f"{label} stops early by validation {words(record.stop_metric)}: it trained"
            f" {_range(counts)} of {epochs_text(record.epochs)}."
        )
    if record.best_metric:
        name = words(record.best_metric)
        remark = f"{label} keeps the epoch with the best validation {name} of each seed"
        optimistic = f", so its validation {name} is optimistic"
        judged = run.judged_by.startswith(TEST)
        advice = "" if judged else f"; judge it by --metric {TEST}{run.metric}"
        chosen = _range([seed.chosen_epoch or record.epochs for seed in seeds])
        yield f"{remark}, {chosen}{optimistic}{advice}."


def _total_times(runs: Sequence[tuple[str, Finished]]) -> Iterator[str]:
    """Training times of networks trained for different numbers of epochs."""
    if len(runs) < 2 or not any(run.record.stop_metric for _, run in runs):
        return
    times = [_total_s(run) for _, run in runs]
    words = [f"{label} {seconds_text(time)}" for (label, _), time in zip(runs, times, strict=True)]
    yield f"Training time of all epochs, mean over seeds: {', '.join(words)}."


def _total_s(run: Finished) -> float:
    """Seconds of training of a seed, mean over the seeds that the hardware of the times trained."""
    other = _elsewhere(run)
    return statistics.mean(s.train_s for s in run.summary.seeds if s.seed not in other)


def _range(numbers: Sequence[int]) -> str:
    """The smallest and largest number, and the mean.

    >>> _range([3, 3]), _range([3, 4])
    ('3', '3 to 4 (mean 3.5)')
    """
    first, last = min(numbers), max(numbers)
    return (
        str(first) if first == last else f"{first} to {last} (mean {statistics.mean(numbers):.1f})"
    )


def _contradictions(runs: Sequence[tuple[str, Finished]]) -> dict[tuple[str, str], str]:
    """Pairs of runs that should have identical numbers but do not: their labels and a sentence."""
    found = {
        (label, other_label): contradiction(run, other, (label, other_label))
        for (label, run), (other_label, other) in combinations(runs, 2)
        if repeats(run.record, other.record)
    }
    return {labels: text for labels, text in found.items() if text}


def _same(
    runs: Sequence[tuple[str, Finished]], unequal: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    """Remarks on A/A comparisons: repeated runs measure noise, a run with itself nothing."""
    for (label, run), (other_label, other) in combinations(runs, 2):
        if (label, other_label) in unequal:
            continue
        if run_path(run.record) == run_path(other.record):
            yield (
                f"A/A: {label} and {other_label} are the same run; to measure this machine's"
                " noise, pass the experiment file twice to one `run` command."
            )
        elif _twins(run.record, other.record):
            yield (
                f"A/A: {label} and {other_label} are the same experiment with the same seeds; the"
                " difference of their times is this machine's noise, and smaller time differences"
                " are not meaningful."
            )


def _twins(one: RunRecord, other: RunRecord) -> bool:
    forms = {record.engine.form for record in (one, other) if record.engine}
    same = (one.spec_digest, one.seeds) == (other.spec_digest, other.seeds)
    return same and len(forms) < 2


def arms_of(runs: Sequence[Finished]) -> tuple[Arm, ...]:
    """Per-seed measurements of the runs, in order."""
    labels = run_labels([run.record for run in runs], [run.path for run in runs])
    return tuple(_arm(run, label) for run, label in zip(runs, labels, strict=True))


def _diverged(runs: Sequence[tuple[str, Finished]]) -> Iterator[str]:
    """Warnings on seeds with a non-finite loss, which their accuracy would not show."""
    for label, run in runs:
        if lost := lost_seeds(run.epochs, run.summary):
            yield f"Warning: {label} diverged with {named_seeds(lost)} (non-finite loss)."


def _arm(run: Finished, label: str) -> Arm:
    """Metric after the last epoch, and epoch times of the seeds trained one at a time."""
    record = run.record
    tags = (name for tag in record.tags for name in (tag, f"{record.name}@{tag}"))
    names = label, record.name, run_path(record), *tags
    data = record.dataset
    folds = (data.split.folds if data.split else None) or 0
    tested, times = values(run, run.judged_by), _epoch_s(run)
    engine = record.engine.form if record.engine else ""
    return Arm(names, tested, times, data.overlap, folds, _hardware(run), engine)


def _hardware(run: Finished) -> str:
    return timed_hardware(run.record, run.summary.seeds)


def _elsewhere(run: Finished) -> Mapping[int, str]:
    return trained_elsewhere(run.record, run.summary.seeds)


def _timed_epochs(run: Finished) -> tuple[EpochRecord, ...]:
    """The epochs whose times tables show, all of the same hardware."""
    return timed_epochs(_here(run.epochs, run))


def _here(epochs: Sequence[EpochRecord], run: Finished) -> list[EpochRecord]:
    """The epochs that the hardware of the run's times trained."""
    other = _elsewhere(run)
    return [epoch for epoch in epochs if epoch.seed not in other]


def _epoch_s(run: Finished) -> dict[int, float]:
    """Median seconds of training per epoch, by seed, for seeds trained one at a time."""
    sequential = _timed_epochs(run)
    return {
        seed: statistics.median(epoch.train_s for epoch in sequential if epoch.seed == seed)
        for seed in dict.fromkeys(epoch.seed for epoch in sequential)
    }


def _images_per_s(run: Finished) -> float:
    """Median over epochs; seeds trained in parallel do not measure the time of one."""
    return statistics.median(epoch.samples_per_s for epoch in _timed_epochs(run))


def _data_wait(run: Finished) -> float | None:
    """Share of the time of all epochs in which the device waited; None unless images stream."""
    epochs = _here(run.epochs, run)
    spent = sum(epoch.train_s + epoch.eval_s for epoch in epochs)
    waited = sum(epoch.data_s for epoch in epochs)
    return waited / spent if run.record.dataset.streamed and spent else None


def _times(epochs: Sequence[EpochRecord], run: Finished) -> list[float]:
    """Seconds of training of seeds trained one at a time that had not diverged before.

    Args:
      epochs: an epoch of each seed. If none of them was trained alone, all epochs of the run count.
      run: the run.
    """
    found = [e.train_s for e in _here(epochs, run) if e.alone and math.isfinite(e.train_s)]
    if not found and any(epoch.beside for epoch in run.epochs):
        found = [epoch.train_s for epoch in _timed_epochs(run)]
    return found or [math.nan]


def _rows(run: Finished, label: str) -> Iterator[Row]:
    last, validates = run.record.epochs, run.record.dataset.num_validation > 0
    records, chosen = with_missing(run.epochs, last, run.summary), chosen_records(run)
    ends = [seed.chosen_epoch for seed in run.summary.seeds if seed.chosen_epoch]
    overlap = run.record.dataset.overlap
    test = estimate(values(run, f"{TEST}{run.metric}").values(), overlap)
    # The first epoch, and the last or the chosen one, which may be the first of every seed.
    for number in dict.fromkeys((1, last) if validates and {*ends} != {1} else (last,)):
        ended = number == last
        epochs = [chosen[s] if ended else records[s, number] for s in run.record.seeds]
        yield Row(
            run=run.record,
            label=label,
            epoch=number,
            value=estimate((value(epoch, run.metric) for epoch in epochs), overlap)
            if validates
            else test,
            train_s=estimate(_times(epochs, run)),
            num_params=run.summary.num_params,
            images_per_s=_images_per_s(run),
            test=test if ended else None,
            code=code_estimate(run) if ended else None,
            chosen=estimate(ends) if ended and ends else None,
            data_wait=_data_wait(run),
        )


def code_estimate(run: Finished) -> Estimate | None:
    """Linear-probe accuracy of the latent code, over seeds; None without a code."""
    accuracies = _code_accuracies(run)
    return estimate(accuracies.values(), run.record.dataset.overlap) if accuracies else None


def code_verdicts(
    runs: Sequence[Finished], arms: Sequence[Arm], criteria: Criteria
) -> tuple[Verdict, ...]:
    """Verdicts on the linear-probe accuracy of the code; empty if any run has no code.

    Args:
      runs: the runs being compared.
      arms: their per-seed measurements.
      criteria: settings; an absolute `min_effect` is ignored because its unit is the loss's.
    """
    accuracies = list(map(_code_accuracies, runs))
    if not all(accuracies):
        return ()
    codes = [
        arm._replace(values=own, epoch_s={}) for arm, own in zip(arms, accuracies, strict=True)
    ]
    effect = criteria.min_effect if criteria.min_effect.kind == "relative" else ANY
    own = replace(criteria, min_effect=effect)
    return judge_runs(runs, codes, own, higher=True, metric=CODE)


def _code_accuracies(run: Finished) -> Mapping[int, float]:
    """Linear-probe accuracy by seed; empty unless every seed has one."""
    known = {
        seed.seed: seed.code_accuracy
        for seed in run.summary.seeds
        if seed.code_accuracy is not None
    }
    return known if len(known) == len(run.summary.seeds) else {}


def _grounds(
    runs: Sequence[Finished], arms: Sequence[Arm], verdicts: Sequence[Verdict], criteria: Criteria
) -> Iterator[str]:
    """The images that verdicts rest on, and the findings on the other images.

    Args:
      runs: the runs being compared.
      arms: their per-seed measurements.
      verdicts: one for each run except the baseline.
      criteria: settings of the comparison.
    """
    metric = runs[0].metric
    if not runs[0].record.dataset.num_validation:
        return
    other = _other_images(runs[0])
    changed = _with_metric(runs, arms, other)
    higher = runs[0].summary.metrics[metric] is Direction.HIGHER
    place = find_baseline(arms, criteria.baseline)
    rest = [run for number, run in enumerate(runs) if number != place]
    found = judge_runs(runs, changed, criteria, higher=higher, metric=other)
    checked = with_images(runs[place], rest, found)
    for run, one, two in zip(rest, verdicts, checked, strict=True):
        if text := grounds(run, one, two, several=len(rest) > 1):
            yield text


def _other_images(run: Finished) -> str:
    """The metric on the test images, if validation images judge, or the reverse."""
    return run.metric if run.judged_by != run.metric else f"{TEST}{run.metric}"


def _with_metric(runs: Sequence[Finished], arms: Sequence[Arm], metric: str) -> list[Arm]:
    """The measurements with the values of another metric, without times."""
    return [
        arm._replace(values=values(run, metric), epoch_s={})
        for arm, run in zip(arms, runs, strict=True)
    ]
