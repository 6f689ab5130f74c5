"""Warnings about timings: noisy epochs, a loaded system, runs that were not interleaved.

The checks are those of pyperf and hyperfine. Every warning has a remedy, and a cause short enough
for `summary` to fold all warnings into one line. They concern timings only: neither accuracy nor
loss depends on how long an epoch takes.
"""

import math
import statistics
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from cnnbench.formatting import enumeration, epochs_text, named_seeds, percent_text, ratio_text
from cnnbench.runs.cost import Cost
from cnnbench.runs.records import (
    EpochRecord,
    RunRecord,
    SeedSummary,
    timed_hardware,
    trained_elsewhere,
)
from cnnbench.statistics.estimates import mean, sample_std

MAX_SPREAD = 0.1  # standard deviation over mean, as in pyperf
MAX_LOAD = 0.25  # per CPU; an idle machine has a few hundredths
MAX_FIRST = 1.5  # first epoch over the median of the others
_AGAIN = "re-run on an idle machine."
DETAILS = "--verbose for details"


class Cause(Enum):
    """Causes of warnings; the value is the short form, with a place for a number."""

    CLOCK = "clock too coarse"
    FIRST_EPOCH = "first epoch {} the median"
    SPREAD = "epoch times vary by {:.0%}"
    LOAD = "load {:.2g} per CPU"
    LATENCY = "latency varies by {:.0%}"
    PRODUCT = "peak matmul throughput varies by {:.0%}"
    MFU = "MFU of {:.0%}"
    DEVICES = "different devices"
    ENGINES = "different engines"
    ORDER = "runs not interleaved"


# Short forms of large spreads, whose percentages say little; formatted with `TimingWarning.ratio`.
_LARGE = {
    Cause.SPREAD: "slowest epoch {} the fastest",
    Cause.LATENCY: "slowest latency {} the fastest",
    Cause.PRODUCT: "usual matmul {} the fastest",
}
COST_CAUSES = frozenset({Cause.LATENCY, Cause.PRODUCT, Cause.MFU})
"""Causes that concern the table of costs only."""
_COMPARABILITY = frozenset({Cause.DEVICES, Cause.ENGINES, Cause.ORDER})


@dataclass(frozen=True, slots=True)
class TimingWarning:
    """A reason to distrust timings.

    Args:
      cause: the kind of reason.
      text: the finding and its remedy, with the labels of the runs.
      value: how bad it is, in the unit of the cause.
      ratio: the same as a ratio of times, of causes that show it; otherwise 0.
    """

    cause: Cause
    text: str
    value: float = 0.0
    ratio: float = 0.0

    @property
    def short(self) -> str:
        """The cause in a few words."""
        if not self.ratio:
            return self.cause.value.format(self.value)
        return _LARGE.get(self.cause, self.cause.value).format(ratio_text(self.ratio))


@dataclass(frozen=True, slots=True)
class Timed:
    """A run and its timings.

    Args:
      label: the run's label in tables.
      record: the run's record.
      epochs: its epochs in the order of training.
      cost: measured costs; None if there are none.
      mfu: model FLOPs utilization, from 0; None if unknown.
      models: hardware that trained the seeds; empty if only that of the record is known.
    """

    label: str
    record: RunRecord
    epochs: tuple[EpochRecord, ...]
    cost: Cost | None = None
    mfu: float | None = None
    models: frozenset[str] = frozenset()


def warnings(runs: Sequence[Timed]) -> tuple[TimingWarning, ...]:
    """Finds every reason to distrust the timings of runs.

    A warning that holds for several runs appears once, with all of their labels.
    """
    labels: dict[TimingWarning, list[str]] = {}
    for run in runs:
        for found in _own_warnings(run):
            labels.setdefault(found, []).append(run.label)
    own = (
        replace(found, text=f"{', '.join(names)}: {found.text}") for found, names in labels.items()
    )
    return (*own, *_between(runs))


def summary(
    found: Sequence[TimingWarning], metric: str, *, costs: bool, details: str = DETAILS
) -> str:
    """Folds warnings into one line; empty if there are none.

    Args:
      found: the warnings.
      metric: the name of the metric, in words, that does not depend on timings.
      costs: True if the table of costs is shown too.
      details: how to see all warnings; empty if there is no way.

    >>> busy = TimingWarning(Cause.LOAD, "A: the system was under load ...", 0.5)
    >>> summary([busy], "accuracy", costs=False).partition("; ")[0]
    'timings are noisy on this machine (load 0.5 per CPU)'
    """
    worst = {each.cause: each for each in sorted(found, key=lambda each: each.value)}
    shown = [cause for cause in Cause if cause in worst and (costs or cause not in COST_CAUSES)]
    if not shown:
        return ""
    causes = {cause: worst[cause].short for cause in shown}
    noisy = ", ".join(text for cause, text in causes.items() if cause not in _COMPARABILITY)
    apart = ", ".join(text for cause, text in causes.items() if cause in _COMPARABILITY)
    what = [f"noisy on this machine ({noisy})"] if noisy else []
    what += [f"not comparable ({apart})"] if apart else []
    unaffected = "" if Cause.DEVICES in shown else f"{metric} is not affected"
    return "; ".join(filter(None, [f"timings are {enumeration(what)}", unaffected, details]))


def timed_epochs(epochs: Sequence[EpochRecord]) -> tuple[EpochRecord, ...]:
    """The epochs whose times tables show: those that were trained alone.

    Of a run that has none, such as a trial of a sweep on workers, those that trained one seed.

    Args:
      epochs: the epochs of a run.
    """
    alone = tuple(epoch for epoch in epochs if epoch.alone)
    return alone or tuple(epoch for epoch in epochs if epoch.at_once == 1)


def hardware_remark(label: str, record: RunRecord, seeds: Sequence[SeedSummary]) -> str:
    """Says which seeds the times of a run come from; empty if one hardware trained all.

    Args:
      label: its label in tables.
      record: the record of the run.
      seeds: the summaries of its seeds.
    """
    other = trained_elsewhere(record, seeds)
    if not other:
        return ""
    own = len(seeds) - len(other)
    lost = "; ".join(
        f"{named_seeds([seed for seed in other if other[seed] == model])}, on {model}"
        for model in dict.fromkeys(other.values())
    )
    return (
        f"{label}: times are those of {own} of {len(seeds)} seeds, trained on"
        f" {timed_hardware(record, seeds)}; without {lost}."
    )


def with_typical_times(
    epochs: Sequence[EpochRecord], elsewhere: Collection[int] = ()
) -> tuple[EpochRecord, ...]:
    """The epochs of a run, with the median time of those that were trained alone for all others.

    Epochs that were trained together by one program keep their times, which nothing replaces.

    Args:
      epochs: the epochs of a run.
      elsewhere: seeds of other hardware, whose times do not count.

    >>> first = EpochRecord(0, 1, 0.5, 0.25, {}, 2.0, 0.5, 2000.0)
    >>> other = EpochRecord(1, 1, 0.5, 0.25, {}, 3.0, 0.5, 1333.0, beside=1)
    >>> [epoch.train_s for epoch in with_typical_times([first, other])]
    [2.0, 2.0]
    """
    times = [e.train_s for e in epochs if e.alone and e.seed not in elsewhere]
    if not times:
        return tuple(epochs)
    usual = statistics.median(times)
    return tuple(
        replace(e, train_s=usual, beside=0) if e.beside or e.seed in elsewhere else e
        for e in epochs
    )


def times_remarks(named: Sequence[tuple[str, Sequence[EpochRecord]]]) -> tuple[str, ...]:
    """Says which epochs the times of runs come from, unless all were trained alone.

    Args:
      named: for each run, its label in tables and its epochs.

    Returns:
      At most one sentence for the runs that have epochs trained alone, and one for the others.

    >>> first = EpochRecord(0, 1, 0.5, 0.25, {}, 2.0, 0.5, 2000.0)
    >>> other = EpochRecord(1, 1, 0.5, 0.25, {}, 3.0, 0.5, 1333.0, beside=1)
    >>> times_remarks([("A", [first, other])])[0]
    'A: times are those of 1 of 2 epochs, trained alone; the others ran beside 1 other training.'
    >>> times_remarks([("A", [first, other]), ("B", [first, other])])[0].partition(", trained")[0]
    'A and B: times are those of 1 of 2 epochs each'
    >>> times_remarks([("A", [other])])[0]
    'A: times are those of epochs beside 1 other training, so they are not of an idle machine.'
    """
    busy = [(label, epochs) for label, epochs in named if _most_beside([epochs])]
    timed = [(label, epochs) for label, epochs in busy if any(e.alone for e in epochs)]
    untimed = [pair for pair in busy if pair not in timed]
    return (*_timed_alone(timed), *_never_alone(untimed))


def _timed_alone(named: Sequence[tuple[str, Sequence[EpochRecord]]]) -> Iterator[str]:
    if named:
        labels, runs = zip(*named, strict=True)
        counts = [(sum(e.alone for e in epochs), len(epochs)) for epochs in runs]
        shown = counts[:1] if len(set(counts)) == 1 else counts
        which = [f"{alone} of {number}" for alone, number in shown]
        noun = "epochs each" if len(which) == 1 < len(runs) else "epochs"
        yield (
            f"{enumeration(labels)}: times are those of {enumeration(which)} {noun}, trained"
            f" alone; the others ran beside {_trainings(_most_beside(runs))}."
        )


def _never_alone(named: Sequence[tuple[str, Sequence[EpochRecord]]]) -> Iterator[str]:
    if named:
        labels, runs = zip(*named, strict=True)
        yield (
            f"{enumeration(labels)}: times are those of epochs beside"
            f" {_trainings(_most_beside(runs))}, so they are not of an idle machine."
        )


def _most_beside(runs: Sequence[Sequence[EpochRecord]]) -> int:
    return max((epoch.beside for epochs in runs for epoch in epochs), default=0)


def _trainings(most: int) -> str:
    return "1 other training" if most == 1 else f"up to {most} other trainings"


def _own_warnings(run: Timed) -> Iterator[TimingWarning]:
    yield from _clock(run)
    yield from _first_epoch(run)
    yield from _spread(run)
    yield from _load(run)
    yield from _costs(run)
    yield from _mfu(run)


def _between(runs: Sequence[Timed]) -> Iterator[TimingWarning]:
    yield from _devices(runs)
    yield from _engines(runs)
    yield from _order(runs)


def _seconds(run: Timed) -> tuple[float, ...]:
    """Training times of the epochs that trained one seed at a time, in order."""
    return tuple(epoch.train_s for epoch in timed_epochs(run.epochs))


def _clock(run: Timed) -> Iterator[TimingWarning]:
    """Warns of epochs that took less than a tick of the clock."""
    seconds = _seconds(run)
    if missed := sum(value == 0 for value in seconds):
        yield TimingWarning(
            Cause.CLOCK,
            f"{missed} of {epochs_text(len(seconds))} took 0 s, below the resolution of this"
            " machine's clock; train on more images, or ignore the timings.",
        )


def _first_epoch(run: Timed) -> Iterator[TimingWarning]:
    first, *others = _seconds(run)
    if len(others) < 2:
        return
    usual = statistics.median(others)
    if not usual or not first > MAX_FIRST * usual:  # NaN is no slow epoch
        return
    yield TimingWarning(
        Cause.FIRST_EPOCH,
        f"the first epoch took {ratio_text(first / usual)} the median of the others; look at later"
        " epochs, or re-run with warm caches.",
        first / usual,
        first / usual,
    )


def _spread(run: Timed) -> Iterator[TimingWarning]:
    """Warns of epochs that differ; the first one has a check of its own."""
    seconds = _seconds(run)[1:]
    std = sample_std(seconds) if seconds else None
    if std is None or not std > MAX_SPREAD * mean(seconds):
        return
    share = std / mean(seconds)
    found, ratio = f"the standard deviation of epoch times is {share:.0%} of their mean", 0.0
    if share > 1:
        ratio = max(seconds) / min(seconds) if min(seconds) else math.inf
        found = f"the slowest epoch took {ratio_text(ratio)} as long as the fastest"
    remedy = "close other programs, or train more epochs or seeds."
    yield TimingWarning(Cause.SPREAD, f"{found}; {remedy}", share, ratio)


def _load(run: Timed) -> Iterator[TimingWarning]:
    load = run.record.environment.load_per_cpu
    if load is not None and load > MAX_LOAD:
        yield TimingWarning(
            Cause.LOAD,
            f"the system was under load when the run started ({load:.2f} per CPU); {_AGAIN}",
            load,
        )


def _costs(run: Timed) -> Iterator[TimingWarning]:
    latency, product = (
        (run.cost.latency_spread, run.cost.product_spread) if run.cost else (None, None)
    )
    if latency is not None and latency > MAX_SPREAD:
        found, ratio = f"latency varied by {percent_text(latency)} between equal rounds", 0.0
        if latency > 1:
            ratio = 1 + latency
            times = ratio_text(ratio)
            found = f"latency in the slowest of equal rounds was {times} that of the fastest"
        yield TimingWarning(Cause.LATENCY, f"{found}; {_AGAIN}", latency, ratio)
    if product is not None and product > MAX_SPREAD:
        what, ratio = "the peak matmul throughput, which MFU is relative to", 0.0
        found = f"{what}, varied by {percent_text(product)}"
        if product > 1:
            ratio = 1 + product
            found = f"{what}, is of the fastest matmul; most took {ratio_text(ratio)} as long"
        yield TimingWarning(Cause.PRODUCT, f"{found}; {_AGAIN}", product, ratio)


def _mfu(run: Timed) -> Iterator[TimingWarning]:
    """Warns of an impossible MFU; with Winograd's algorithm it is possible."""
    fewer = run.record.engine is not None and run.record.engine.multiplies_less
    if run.mfu is not None and run.mfu > 1 and not fewer:
        yield TimingWarning(
            Cause.MFU,
            "MFU is above 100%, so the peak matmul throughput was measured on a busy machine;"
            f" {_AGAIN}",
            run.mfu,
        )


def _devices(runs: Sequence[Timed]) -> Iterator[TimingWarning]:
    recorded = {run.record.environment.device_model for run in runs}
    if len(recorded) > 1 or len(frozenset[str]().union(*(run.models for run in runs))) > 1:
        yield TimingWarning(
            Cause.DEVICES,
            "The runs trained on different devices; train them on one to compare times.",
        )
    if len({run.record.environment.num_processes for run in runs}) > 1:
        yield TimingWarning(
            Cause.DEVICES,
            "The runs trained on different numbers of processes; use one number to compare times.",
        )


def _engines(runs: Sequence[Timed]) -> Iterator[TimingWarning]:
    """Warns of runs with different algorithms, whose times do not compare the networks."""
    labels: dict[str, list[str]] = {}
    for run in runs:
        if run.record.engine:
            labels.setdefault(run.record.engine.form, []).append(run.label)
    if len(labels) > 1:
        named = "; ".join(f"{form}: {enumeration(own)}" for form, own in labels.items())
        yield TimingWarning(
            Cause.ENGINES,
            f"The runs trained with different engines ({named}), so a difference in time is an"
            " artifact; train all of them with one --engine to compare times.",
        )


def _order(runs: Sequence[Timed]) -> Iterator[TimingWarning]:
    """Warns of runs that did not alternate, so that load may have slowed one of them only."""
    records = [run.record for run in runs]
    commands = {record.session or record.environment.command for record in records}
    starts = [run.record.started_at for run in runs]
    ends = [run.record.finished_at or run.record.started_at for run in runs]
    # A clock that was set back in between says nothing about the order.
    set_back = any(end < start for start, end in zip(starts, ends, strict=True))
    if len(runs) < 2 or (len(commands) == 1 and (set_back or max(starts) <= min(ends))):
        return
    if len(commands) == 1 and all(len(run.record.seeds) == 1 for run in runs):
        text = "Runs of one seed cannot be interleaved; use --seeds 2 or more to compare times."
    else:
        text = "The runs were not interleaved; train all of them with one command to compare times."
    yield TimingWarning(Cause.ORDER, text)
