"""Which runs may stand side by side, and why others may not."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnbench.errors import IncomparableError, UsageError, or_list
from cnnbench.formatting import clean, enumeration, epochs_text
from cnnbench.runs.records import Direction, EpochRecord, RunRecord, RunResult, Status, Summary
from cnnbench.runs.summary import lost_seeds, with_missing
from cnnbench.spec.vocabulary import METRIC
from cnnbench.system import commands

TEST = "test_"  # before a metric's name, says that its value on the test images is meant


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that has all that a comparison reads.

    Args:
      record: the run's record.
      summary: its summary.
      epochs: its epochs.
      judged_by: the metric that a verdict rests on, such as `accuracy` or `test_loss`.
    """

    record: RunRecord
    summary: Summary
    epochs: tuple[EpochRecord, ...]
    judged_by: str

    @property
    def metric(self) -> str:
        """The same without the images that it is taken on."""
        return self.judged_by.removeprefix(TEST)


def value(epoch: EpochRecord, metric: str) -> float:
    """On the validation images; NaN for a seed that diverged, whatever it still predicts."""
    return epoch.validation(metric) if epoch.finite else math.nan


def values(run: Finished, judged_by: str) -> dict[int, float]:
    """A metric after the last epoch, by seed; likewise.

    Args:
      run: the run.
      judged_by: the metric; with `TEST` before it, on the test images.
    """
    if judged_by.startswith(TEST):
        lost, metric = lost_seeds(run.epochs, run.summary), judged_by.removeprefix(TEST)
        tests = {seed.seed: seed.test[metric] for seed in run.summary.seeds}
        return {seed: math.nan if seed in lost else tests[seed] for seed in run.record.seeds}
    last = run.record.epochs
    records = with_missing(run.epochs, last)
    return {seed: value(records[seed, last], judged_by) for seed in run.record.seeds}


def finished_runs(runs: Sequence[RunResult], metric: str | None) -> list[Finished]:
    """The runs, each with all that a comparison reads.

    Args:
      runs: at least one.
      metric: what they are judged by; if None, each by its headline metric, on the validation
        images for a class and on the test images for a reconstruction. Without validation
        images, on the test images in any case.

    Raises:
      IncomparableError: there are none, one has not finished, or its files lack something.
      UsageError: one has no such metric.
    """
    if not runs:
        raise IncomparableError("no finished run to compare")
    return [_finished(run, metric) for run in runs]


def _finished(run: RunResult, metric: str | None) -> Finished:
    record, summary = run.record, run.summary
    again = f"run it again with: {commands.command_line(record.command)}"
    folder = run.path or commands.RESULTS_DIR / run_path(record)
    resume = f"resume it with: {commands.resume(record.environment.command, folder)}"
    if record.status is not Status.FINISHED:
        cause = f" ({record.error})" if record.error else ""
        raise IncomparableError(
            f"{run_path(record)} is {record.status}{cause}, not finished; {resume}"
        )
    if summary is None:
        raise IncomparableError(f"{run_path(record)} has no summary.json; {again}")
    known = judgeable(summary)
    if metric is not None and metric not in known:
        message = f"--metric: {run_path(record)} has no '{metric}'{METRIC.hint(metric, known)}"
        raise UsageError(f"{message}; write {or_list(known)}.")
    judged_by = metric or summary.headline
    by_test = not record.dataset.num_validation or (not metric and record.task == "reconstruct")
    judged_by = f"{TEST}{judged_by.removeprefix(TEST)}" if by_test else judged_by
    finished = Finished(record, summary, run.epochs, judged_by)
    if lack := next(_lacks(finished), None):
        raise IncomparableError(f"{run_path(record)} is incomplete: no {lack}; {again}")
    return finished


def judgeable(summary: Summary) -> dict[str, Direction]:
    """What a run can be judged by, and which values are better: its metrics, on either images."""
    own = dict(summary.metrics)
    return own | {f"{TEST}{name}": better for name, better in own.items()}


def _lacks(run: Finished) -> Iterator[str]:
    """What a comparison would look for in vain, lazily: a damaged file may ask for anything."""
    metric = run.metric
    if not run.record.seeds or run.record.epochs < 1:
        yield "seeds or epochs in run.json"
    if metric not in run.summary.metrics:
        yield f"direction of {metric} in summary.json"
    tests = {seed.seed: seed.test for seed in run.summary.seeds}
    records = with_missing(run.epochs, run.record.epochs).values()
    validates = run.record.dataset.num_validation > 0
    found = {
        (e.seed, e.epoch)
        for e in records
        if not validates or (e.validated and (metric == "loss" or metric in e.metrics))
    }
    for seed in run.record.seeds:
        if metric not in tests.get(seed, {}):
            yield f"test {metric} of seed {seed} in summary.json"
        for epoch in range(1, run.record.epochs + 1):
            if (seed, epoch) not in found:
                yield f"{metric} of seed {seed}, epoch {epoch} in epochs.jsonl"
    alone = {epoch.epoch for epoch in records if epoch.at_once == 1}
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


def _facts(run: Finished) -> tuple[_Fact, ...]:
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
        _Fact(
            "takes",
            steps,
            f"{steps:,} step{'s' * (steps != 1)}",
            "give both the same epochs and batch size",
        ),
        _Fact(
            "is",
            measure,
            f"judged by {measure}",
            f"give both the same loss, or name another --metric{_another(run)}",
        ),
        _Fact("ran", kind, f"on {kind}", "run both with the same --device"),
    )


def _another(run: Finished) -> str:
    """A metric that does not depend on what was minimised, on the same images."""
    images = run.judged_by.removesuffix(run.metric)
    others = [name for name in run.summary.metrics if name != "loss"]
    return f", such as {images}{others[0]}" if others else ""


def difference(first: Finished, other: Finished) -> str | None:
    """Why the two cannot be compared, and what to do; None if they can."""
    one, two = first.record.name, other.record.name
    if one == two:
        one, two = run_path(first.record), run_path(other.record)
    for a, b in zip(_facts(first), _facts(other), strict=True):
        if a.identity != b.identity:
            return f"'{one}' {a.verb} {a.words}, '{two}' {b.words}; {a.remedy}"
    return None


def recipes(runs: Sequence[tuple[str, RunRecord]]) -> str | None:
    """What to know of runs that take the same steps with other epochs or batches.

    Args:
      runs: each with its label.

    >>> recipes([])
    """
    labels: dict[tuple[int, int], list[str]] = {}
    for label, record in runs:
        labels.setdefault((record.epochs, record.batch_size), []).append(label)
    if len(labels) < 2:
        return None
    told = [
        f"{enumeration(list(map(clean, names)))} for {epochs_text(epochs)} in batches of {size:,}"
        for (epochs, size), names in labels.items()
    ]
    return (
        f"Different recipes: {'; '.join(told)}. The steps are as many, but not the images seen, so"
        " a difference may come from the recipe and not from the network; give all of them the"
        " same epochs and batch size to tell."
    )


def run_path(record: RunRecord) -> str:
    """The run's folder below that of all results."""
    return f"{record.name}/{record.run_id}"
