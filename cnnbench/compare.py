"""Runs side by side: the first and the last epoch of each, or the reason why not."""

import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cnnbench.errors import IncomparableError, UsageError, did_you_mean, listing
from cnnbench.results import (
    DatasetRecord,
    Direction,
    EpochRecord,
    RunRecord,
    RunResult,
    Status,
    Summary,
)
from cnnbench.stats import Estimate, estimate
from cnnbench.verdict import Rules, Sample, Verdict, find_baseline, judge

JUDGED = Rules()


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment after one epoch.

    Args:
      run: the run's record.
      label: the experiment's title, numbered when several runs share it.
      epoch: number of the epoch, from 1.
      value: the headline metric on the validation images, over seeds.
      train_s: seconds of training in that epoch, over seeds.
      num_params: number of trainable parameters.
      images_per_s: training images per second, median over all epochs and seeds.
      test: the headline metric on the test images, over seeds; None but in the last epoch.
    """

    run: RunRecord
    label: str
    epoch: int
    value: Estimate
    train_s: Estimate
    num_params: int
    images_per_s: float
    test: Estimate | None


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
    """

    task: str
    metric: str
    direction: Direction
    dataset: DatasetRecord
    device_kind: str
    devices: tuple[str, ...]
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True, slots=True)
class _Finished:
    """A run that has all that a comparison reads, and the metric that it is judged by."""

    record: RunRecord
    summary: Summary
    epochs: tuple[EpochRecord, ...]
    metric: str


def compare(runs: Sequence[RunResult], rules: Rules = JUDGED) -> Comparison:
    """Runs that the user named, in that order.

    Args:
      runs: at least one.
      rules: how they are judged.

    Raises:
      IncomparableError: there are none, one has not finished, or their numbers
        do not measure the same thing.
      UsageError: one has no such metric, or none is called like the baseline.
    """
    finished = _finished_runs(runs, rules.metric)
    for other in finished[1:]:
        if reason := _difference(finished[0], other):
            raise IncomparableError(reason)
    return _comparison(finished, _samples(finished), rules)


def compare_groups(runs: Sequence[RunResult], rules: Rules = JUDGED) -> tuple[Comparison, ...]:
    """Runs that nobody chose, each beside those that it can be compared with.

    Args:
      runs: at least one.
      rules: how they are judged; the baseline is that of the runs beside it.

    Raises:
      IncomparableError: there are none, or one has not finished.
      UsageError: one has no such metric, or none is called like the baseline.
    """
    groups: list[list[_Finished]] = []
    for run in _finished_runs(runs, rules.metric):
        group = next((g for g in groups if _difference(g[0], run) is None), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    samples = [_samples(group) for group in groups]
    find_baseline([sample for group in samples for sample in group], rules.baseline)
    known = [any(rules.baseline in sample.names for sample in group) for group in samples]
    first = replace(rules, baseline=None)
    return tuple(map(_comparison, groups, samples, (rules if k else first for k in known)))


def _finished_runs(runs: Sequence[RunResult], metric: str | None) -> list[_Finished]:
    if not runs:
        raise IncomparableError("no finished run to compare; start one with: cnnbench run SPEC")
    return [_finished(run, metric) for run in runs]


def _finished(run: RunResult, metric: str | None) -> _Finished:
    record, summary = run.record, run.summary
    again = f"run it again with: {shlex.join(record.environment.command)}"
    if record.status is not Status.FINISHED:
        cause = f" ({record.error})" if record.error else ""
        raise IncomparableError(f"{_path(record)} is {record.status}{cause}, not finished; {again}")
    if summary is None:
        raise IncomparableError(f"{_path(record)} has no summary.json; {again}")
    if metric is not None and metric not in summary.metrics:
        hint = did_you_mean(metric, summary.metrics)
        message = f"--metric: {_path(record)} has no '{metric}'{hint}"
        raise UsageError(f"{message}; write {listing(summary.metrics)}.")
    finished = _Finished(record, summary, run.epochs, metric or summary.headline)
    if lack := next(_lacks(finished), None):
        raise IncomparableError(f"{_path(record)} is incomplete: no {lack}; {again}")
    return finished


def _lacks(run: _Finished) -> Iterator[str]:
    """What a comparison would look for in vain, lazily: a damaged file may ask for anything."""
    metric = run.metric
    if not run.record.seeds or run.record.epochs < 1:
        yield "seeds or epochs in run.json"
    if metric not in run.summary.metrics:
        yield f"direction of {metric} in summary.json"
    tests = {seed.seed: seed.test for seed in run.summary.seeds}
    found = {(e.seed, e.epoch) for e in run.epochs if metric == "loss" or metric in e.metrics}
    for seed in run.record.seeds:
        if metric not in tests.get(seed, {}):
            yield f"test {metric} of seed {seed} in summary.json"
        for epoch in range(1, run.record.epochs + 1):
            if (seed, epoch) not in found:
                yield f"{metric} of seed {seed}, epoch {epoch} in epochs.jsonl"
    alone = {epoch.epoch for epoch in run.epochs if epoch.at_once == 1}
    for epoch in (1, run.record.epochs):
        if epoch not in alone:
            yield f"seed trained alone in epoch {epoch} of epochs.jsonl"


@dataclass(frozen=True, slots=True)
class _Fact:
    """Something that must be equal: its identity, its words after the verb, what to do."""

    verb: str
    identity: object
    words: str
    remedy: str


def _facts(run: _Finished) -> tuple[_Fact, ...]:
    record, data = run.record, run.record.dataset
    stand_in = f" (stand-in for {data.stand_in_for})" if data.stand_in_for else ""
    splits = (data.num_train, data.num_validation, data.num_test)
    sizes = " / ".join(f"{size:,}" for size in splits)
    measure = f"{record.loss} loss" if run.metric == "loss" else run.metric
    steps = record.epochs * max(1, data.num_train // record.batch_size)
    kind = record.environment.device_kind
    same_data = "run both on the same data, for example with --dataset mnist_5k"
    return (
        _Fact("has", record.task, f"the task {record.task}", "compare experiments of one task"),
        _Fact("ran", data.name, f"on {data.name}{stand_in}", same_data),
        _Fact("has", splits, f"splits of {sizes} images", "give both the same dataset sizes"),
        _Fact("ran", data.digest, f"on {data.name} with digest {data.digest}", same_data),
        _Fact("takes", steps, f"{steps:,} steps", "give both the same epochs and batch size"),
        _Fact("is", measure, f"judged by {measure}", "give both the same loss"),
        _Fact("ran", kind, f"on {kind}", "run both with the same --device"),
    )


def _difference(first: _Finished, other: _Finished) -> str | None:
    """Why the two cannot be compared, and what to do; None if they can."""
    one, two = first.record.name, other.record.name
    if one == two:
        one, two = _path(first.record), _path(other.record)
    for a, b in zip(_facts(first), _facts(other), strict=True):
        if a.identity != b.identity:
            return f"'{one}' {a.verb} {a.words}, '{two}' {b.words}; {a.remedy}"
    return None


def _comparison(runs: Sequence[_Finished], samples: Sequence[Sample], rules: Rules) -> Comparison:
    record, metric = runs[0].record, runs[0].metric
    direction = runs[0].summary.metrics[metric]
    devices = dict.fromkeys(run.record.environment.device_model for run in runs)
    rows = (
        row
        for run, sample in zip(runs, samples, strict=True)
        for row in _rows(run, sample.names[0])
    )
    return Comparison(
        task=record.task,
        metric=metric,
        direction=direction,
        dataset=record.dataset,
        device_kind=record.environment.device_kind,
        devices=tuple(devices),
        rows=tuple(rows),
        verdicts=judge(samples, metric, rules, higher=direction is Direction.HIGHER),
    )


def _samples(runs: Sequence[_Finished]) -> tuple[Sample, ...]:
    """What runs that stand side by side are judged by, in their order."""
    labels = _labels([run.record.title for run in runs])
    return tuple(_sample(run, label) for run, label in zip(runs, labels, strict=True))


def _sample(run: _Finished, label: str) -> Sample:
    """What a run is judged by: its last epoch, and the times of those trained alone."""
    last = run.record.epochs
    values = {e.seed: e.validation(run.metric) for e in run.epochs if e.epoch == last}
    return Sample(
        (label, run.record.name, _path(run.record)),
        {seed: values[seed] for seed in run.record.seeds},
        _epoch_s(run),
    )


def _epoch_s(run: _Finished) -> dict[int, float]:
    """Seconds of training in an epoch, median over all, by seed that was trained alone."""
    alone = [epoch for epoch in run.epochs if epoch.at_once == 1]
    return {
        seed: statistics.median(epoch.train_s for epoch in alone if epoch.seed == seed)
        for seed in dict.fromkeys(epoch.seed for epoch in alone)
    }


def _labels(titles: Sequence[str]) -> list[str]:
    """The titles, numbered where the same one comes again.

    >>> _labels(["A", "B", "A"])
    ['A #1', 'B', 'A #2']
    """
    return [
        f"{title} #{titles[: i + 1].count(title)}" if titles.count(title) > 1 else title
        for i, title in enumerate(titles)
    ]


def _rows(run: _Finished, label: str) -> Iterator[Row]:
    last = run.record.epochs
    records = {(epoch.seed, epoch.epoch): epoch for epoch in run.epochs}
    metric = run.metric
    tests = {seed.seed: seed.test[metric] for seed in run.summary.seeds}
    # Seeds that were trained at once do not tell how long an epoch takes.
    images_per_s = statistics.median(e.samples_per_s for e in run.epochs if e.at_once == 1)
    for number in dict.fromkeys((1, last)):
        epochs = [records[seed, number] for seed in run.record.seeds]
        yield Row(
            run=run.record,
            label=label,
            epoch=number,
            value=estimate(epoch.validation(metric) for epoch in epochs),
            train_s=estimate(epoch.train_s for epoch in epochs if epoch.at_once == 1),
            num_params=run.summary.num_params,
            images_per_s=images_per_s,
            test=estimate(tests[s] for s in run.record.seeds) if number == last else None,
        )


def _path(record: RunRecord) -> str:
    return f"{record.name}/{record.run_id}"
