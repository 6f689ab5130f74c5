"""Checks that runs are comparable: same task, data, number of steps and device."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from cnnbench.errors import IncomparableError, UsageError, or_list
from cnnbench.formatting import clean, enumeration, epochs_text, named_seeds
from cnnbench.runs.folder import read_predictions
from cnnbench.runs.records import (
    DatasetRecord,
    Direction,
    EpochRecord,
    Machine,
    RunRecord,
    RunResult,
    Status,
    Summary,
)
from cnnbench.runs.summary import lost_seeds, with_missing
from cnnbench.spec.metrics import names_of
from cnnbench.spec.vocabulary import METRIC
from cnnbench.system import commands
from cnnbench.system.arrays import NamedArrays

_TAKES = "takes"  # a number of steps
TEST = "test_"  # prefix of a metric's name: its value on the test images


@dataclass(frozen=True, slots=True)
class Finished:
    """A complete run.

    Args:
      record: the run's record.
      summary: its summary.
      epochs: its epochs.
      judged_by: the metric that verdicts compare, such as `accuracy` or `test_loss`.
      path: its folder; None if it was not read from one.
      predictions: results for each image by seed, as of `read_predictions`; without the seeds that
        have none.
    """

    record: RunRecord
    summary: Summary
    epochs: tuple[EpochRecord, ...]
    judged_by: str
    path: Path | None = None
    predictions: Mapping[int, NamedArrays] = field(default_factory=dict, compare=False, repr=False)

    @property
    def metric(self) -> str:
        """`judged_by` without the prefix for test images."""
        return self.judged_by.removeprefix(TEST)


def value(epoch: EpochRecord, metric: str) -> float:
    """The metric on the validation images; NaN for a diverged seed, whatever it predicts."""
    return epoch.validation(metric) if epoch.finite else math.nan


def values(run: Finished, judged_by: str) -> dict[int, float]:
    """A metric after the last or the chosen epoch, by seed; NaN for a diverged seed.

    Args:
      run: the run.
      judged_by: the metric; with the prefix `TEST`, on the test images.
    """
    if judged_by.startswith(TEST):
        lost, metric = lost_seeds(run.epochs, run.summary), judged_by.removeprefix(TEST)
        tests = {seed.seed: seed.test[metric] for seed in run.summary.seeds}
        return {seed: math.nan if seed in lost else tests[seed] for seed in run.record.seeds}
    return {seed: value(epoch, judged_by) for seed, epoch in chosen_records(run).items()}


def chosen_records(run: Finished) -> dict[int, EpochRecord]:
    """The epoch whose weights are stored, by seed: the last, unless validation images chose."""
    records = with_missing(run.epochs, run.record.epochs, run.summary)
    chosen = {seed.seed: seed.chosen_epoch or run.record.epochs for seed in run.summary.seeds}
    return {seed: records[seed, chosen[seed]] for seed in run.record.seeds}


def finished_runs(
    runs: Sequence[RunResult], metric: str | None, *, images: bool = True
) -> list[Finished]:
    """Check that every run is finished and complete.

    Args:
      runs: at least one.
      metric: the metric to compare; if None, the headline metric of each run: on the validation
        images for classification, on the test images for reconstruction. Runs without
        validation images are always compared on the test images.
      images: True to read the results for each image, too.

    Raises:
      IncomparableError: there are no runs, or one is unfinished or incomplete.
      UsageError: a run does not have the metric.
      StoreError: a file of predictions is damaged.
    """
    if not runs:
        raise IncomparableError("no finished run to compare")
    return [_finished(run, metric, images=images) for run in runs]


def _finished(run: RunResult, metric: str | None, *, images: bool) -> Finished:
    record, summary = run.record, run.summary
    again = f"re-run it with: {commands.command_line(record.command)}"
    folder = run.path or commands.RESULTS_DIR / run_path(record)
    resume = f"resume it with: {record.how_to_resume(folder)}"
    if record.status is not Status.FINISHED:
        cause = f" ({record.error})" if record.error else ""
        raise IncomparableError(
            f"{run_path(record)} is {record.status}{cause}, not finished; {resume}"
        )
    if summary is None:
        raise IncomparableError(f"{run_path(record)} has no summary.json; {again}")
    known = judgeable(summary)
    if metric is not None and metric not in known:
        raise UsageError(_no_such_metric(metric, record, known))
    judged_by = metric or summary.headline
    by_test = not record.dataset.num_validation or (not metric and record.task == "reconstruct")
    judged_by = f"{TEST}{judged_by.removeprefix(TEST)}" if by_test else judged_by
    found = _predictions(run) if images else {}
    finished = Finished(record, summary, run.epochs, judged_by, run.path, found)
    if missing := next(_missing(finished), None):
        raise IncomparableError(f"{run_path(record)} is incomplete: no {missing}; {again}")
    return finished


def _predictions(run: RunResult) -> dict[int, NamedArrays]:
    """Results for each image, by seed."""
    folders = {seed: path for seed in run.record.seeds if (path := run.folder(seed))}
    found = {seed: read_predictions(path, seed) for seed, path in folders.items()}
    return {seed: each for seed, each in found.items() if each is not None}


def _no_such_metric(metric: str, record: RunRecord, known: Mapping[str, Direction]) -> str:
    """Message for a metric that a run does not have, perhaps because it was not requested."""
    message = f"--metric: {run_path(record)} has no '{metric}'"
    name = METRIC.find_alias(metric.removeprefix(TEST), names_of(record.task))
    if name and name not in known:
        return f"{message}; add {name} to train.metrics and rerun it, or write {or_list(known)}."
    return f"{message}{METRIC.hint(metric, known)}; write {or_list(known)}."


def judgeable(summary: Summary) -> dict[str, Direction]:
    """The metrics a run can be compared by, on validation and test images, with directions."""
    own = dict(summary.metrics)
    return own | {f"{TEST}{name}": better for name, better in own.items()}


def _missing(run: Finished) -> Iterator[str]:
    """Missing values, lazily: a damaged record may claim any number of seeds and epochs."""
    metric = run.metric
    if not run.record.seeds or run.record.epochs < 1:
        yield "seeds or epochs in run.json"
    if metric not in run.summary.metrics:
        yield f"direction of {metric} in summary.json"
    tests = {seed.seed: seed.test for seed in run.summary.seeds}
    records = with_missing(run.epochs, run.record.epochs, run.summary).values()
    chosen = {seed.seed: seed.chosen_epoch for seed in run.summary.seeds}
    validates = run.record.dataset.num_validation > 0
    found = {
        (e.seed, e.epoch)
        for e in records
        if not validates or (e.validated and (metric == "loss" or metric in e.metrics))
    }
    for seed in run.record.seeds:
        if metric not in tests.get(seed, {}):
            yield f"test {metric} of seed {seed} in summary.json"
        for epoch in chain(range(1, run.record.epochs + 1), [chosen.get(seed) or 1]):
            if (seed, epoch) not in found:
                yield f"{metric} of seed {seed}, epoch {epoch} in epochs.jsonl"
    sequential = {epoch.epoch for epoch in records if epoch.at_once == 1}
    for epoch in (1, run.record.epochs):
        if epoch not in sequential:
            yield f"seed trained on its own in epoch {epoch} of epochs.jsonl"


@dataclass(frozen=True, slots=True)
class _Fact:
    """A property that comparable runs share: its value, its description and the remedy.

    A value of None is comparable with any other.
    """

    verb: str
    identity: object
    words: str
    remedy: str


def _facts(run: Finished) -> tuple[_Fact, ...]:
    record, data = run.record, run.record.dataset
    substitute = f" (in place of {data.stand_in_for})" if data.stand_in_for else ""
    splits = (data.num_train, data.num_validation, data.num_test)
    sizes = " / ".join(f"{size:,}" for size in splits)
    measure = f"{record.loss} loss" if run.metric == "loss" else run.metric
    steps = None if record.stop_metric else record.num_steps
    kind = record.environment.device_kind
    changes = [change.partition(":")[0] for change in data.changes]
    changed = f"with {'; '.join(changes)}" if changes else f"on the unchanged {data.name}"
    split = _split_words(data)
    same_data = "run both on the same data, for example with --dataset mnist_5k"
    return (
        _Fact("has", record.task, f"the task {record.task}", "compare runs of the same task"),
        _Fact("ran", data.name, f"on {data.name}{substitute}", same_data),
        _Fact(
            "ran",
            changes,
            clean(changed),
            "give both the same classes, subset, imbalance and label_noise",
        ),
        _Fact("has", (split,), split, "give both the same dataset.split"),
        _Fact("has", splits, f"splits of {sizes} images", "give both the same dataset sizes"),
        _Fact("ran", data.digest, f"on {data.name} with digest {data.digest}", same_data),
        _Fact(
            _TAKES,
            steps,
            f"{record.num_steps:,} step{'s' * (record.num_steps != 1)}",
            "give both the same epochs, batch size and drop_last",
        ),
        _Fact(
            "is",
            measure,
            f"compared by {measure}",
            f"train both with the same loss, or choose another --metric{_another(run)}",
        ),
        _Fact("ran", kind, f"on {kind}", "run both with the same --device"),
    )


def _split_words(data: DatasetRecord) -> str:
    """The random split in words; without one, the validation images are the same anyway."""
    if data.split is None:
        return "the same validation images for all seeds"
    return f"{data.split.text}{f' (split seed {data.split.seed})' if data.split.seed else ''}"


def _another(run: Finished) -> str:
    """A metric that does not depend on the training loss, on the same images."""
    images = run.judged_by.removesuffix(run.metric)
    others = [name for name in run.summary.metrics if name != "loss"]
    return f", such as {images}{others[0]}" if others else ""


def difference(first: Finished, other: Finished, *, steps: bool = True) -> str | None:
    """The reason why two runs cannot be compared, with a remedy; None if they can.

    Args:
      first: a run.
      other: another one.
      steps: True if they must have the same number of training steps.
    """
    one, two = first.record.name, other.record.name
    if one == two:
        one, two = run_path(first.record), run_path(other.record)
    for a, b in zip(_facts(first), _facts(other), strict=True):
        if a.verb == _TAKES and not steps:
            continue
        if a.identity != b.identity and None not in (a.identity, b.identity):
            return f"'{one}' {a.verb} {a.words}, '{two}' {b.words}; {a.remedy}"
    return None


def recipes(runs: Sequence[tuple[str, RunRecord]]) -> str | None:
    """A remark on runs with equal numbers of steps but different epochs or batch sizes.

    Args:
      runs: the records with their labels.

    >>> recipes([])
    """
    labels: dict[tuple[int, int], list[str]] = {}
    for label, record in runs:
        if record.stop_metric:
            continue
        labels.setdefault((record.epochs, record.batch_size), []).append(label)
    if len(labels) < 2:
        return None
    groups = [
        f"{enumeration(list(map(clean, names)))}: {epochs_text(epochs)}, batch size {size:,}"
        for (epochs, size), names in labels.items()
    ]
    same = "take the same number of steps but see different numbers of images"
    if len({record.num_steps for _, record in runs}) > 1:
        same = "see the same images but take different numbers of steps"
    return (
        f"Different training recipes: {'; '.join(groups)}. All {same}, so a difference may come"
        " from the recipe rather than the network; train all with the same epochs and batch size"
        " to rule that out."
    )


def machines(runs: Sequence[tuple[str, Summary]]) -> str | None:
    """A remark on runs whose seeds were trained on different hardware or versions of JAX.

    Args:
      runs: the summaries with their labels; seeds of older versions, whose machine is unknown, are
        left out.

    >>> machines([])
    """
    groups: dict[str, dict[str, list[str]]] = {}
    for label, summary in runs:
        for seed in summary.seeds:
            if seed.machine is not None:
                where = groups.setdefault(machine_text(seed.machine), {})
                where.setdefault(clean(label), []).append(str(seed.seed))
    if len(groups) < 2:
        return None
    parts = [
        f"{where}: {', '.join(f'{label} {named_seeds(own)}' for label, own in found.items())}"
        for where, found in groups.items()
    ]
    effect = _effect([summary for _, summary in runs])
    return f"Different hardware or versions of JAX: {'; '.join(parts)}. {effect}"


def machine_text(machine: Machine) -> str:
    """What decides rounding and speed: the hardware and the version of JAX."""
    return f"{clean(machine.model)} with jax {machine.jax}"


def _effect(runs: Sequence[Summary]) -> str:
    """What different hardware means for a comparison of runs."""
    own = [{s.seed: machine_text(s.machine) for s in run.seeds if s.machine} for run in runs]
    apart = sorted(
        seed
        for seed in set().union(*own)
        if len({places[seed] for places in own if seed in places}) > 1
    )
    advice = "train each seed of all experiments on the same machine and cores, as --shard does."
    if apart:
        seeds = named_seeds([str(seed) for seed in apart])
        return (
            f"The runs of {seeds} used different hardware, so a difference may come from rounding,"
            f" and their times cannot be compared; {advice}"
        )
    if len({frozenset(places.values()) for places in own if places}) > 1:
        return f"A difference may come from rounding, and their times cannot be compared; {advice}"
    pooled = "times of different hardware are not pooled."
    if len(runs) > 1:
        return f"All runs of a seed are from the same hardware, so rounding favors none; {pooled}"
    return f"Rounding differs; {pooled}"


def test_augments(runs: Sequence[tuple[str, RunRecord]]) -> str | None:
    """A remark on runs with test-time augmentation.

    Args:
      runs: the records with their labels.

    >>> test_augments([])
    """
    labels: dict[str, list[str]] = {}
    for label, record in runs:
        labels.setdefault(record.test_augment, []).append(label)
    if not any(labels):
        return None
    if len(labels) == 1:
        return f"Validation and test values are with test-time augmentation ({next(iter(labels))})."
    groups = [
        f"{enumeration(list(map(clean, names)))}: {augment or 'none'}"
        for augment, names in labels.items()
    ]
    return (
        f"Different test-time augmentation: {'; '.join(groups)}. A difference may come from the"
        " evaluation rather than the network; evaluate all in the same way to rule that out."
    )


def run_path(record: RunRecord) -> str:
    """The run's folder relative to the results folder."""
    return f"{record.name}/{record.run_id}"
