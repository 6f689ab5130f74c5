"""Whether the times of runs can be trusted, and what to do where they cannot.

The questions are those of pyperf and hyperfine: do the epochs differ from each other, was the
machine busy, was the very first epoch slow, do the runs share a machine and its mood? Latency and
peak are doubted likewise.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cnnbench.comparisons.statistics import mean, sample_std
from cnnbench.formatting import enumeration, epochs_text, percent_text
from cnnbench.runs.cost import Cost
from cnnbench.runs.records import EpochRecord, RunRecord

MOST_SPREAD = 0.1  # standard deviation over mean, as in pyperf
MOST_LOAD = 0.25  # for each CPU; an idle machine has a few hundredths
_AGAIN = "wait until it is idle, and run it again."
SLOW_FIRST = 1.5  # times the median of the other epochs


@dataclass(frozen=True, slots=True)
class Timed:
    """What is known of how a run was timed.

    Args:
      label: the run's.
      record: what it is.
      epochs: its epochs in the order of training.
      cost: what it costs; None where that was not measured.
      product_share: its arithmetic as a share of the fastest matrix product, likewise.
    """

    label: str
    record: RunRecord
    epochs: tuple[EpochRecord, ...]
    cost: Cost | None = None
    product_share: float | None = None


def warnings(runs: Sequence[Timed]) -> tuple[str, ...]:
    """What makes the times of runs doubtful, each with its remedy.

    What is true of several runs is said once, behind all of their labels.
    """
    labels: dict[str, list[str]] = {}
    for run in runs:
        for text in filter(
            None,
            (_unmeasured(run), _slow_first(run), _spread(run), _load(run), _costs(run), _peak(run)),
        ):
            labels.setdefault(text, []).append(run.label)
    own = (f"{'; '.join(names)}: {text}" for text, names in labels.items())
    return (*own, *filter(None, (_devices(runs), _turns(runs))))


def _seconds(run: Timed) -> tuple[float, ...]:
    """Of the epochs that were trained alone, in order."""
    return tuple(epoch.train_s for epoch in run.epochs if epoch.at_once == 1)


def _unmeasured(run: Timed) -> str | None:
    """Epochs that a coarse clock did not see pass."""
    seconds = _seconds(run)
    missed = sum(value == 0 for value in seconds)
    if not missed:
        return None
    return (
        f"{missed} of {epochs_text(len(seconds))} took 0 s, less than this machine's clock can"
        " measure; train on more images, or ignore the times."
    )


def _slow_first(run: Timed) -> str | None:
    first, *others = _seconds(run)
    if len(others) < 2:
        return None
    usual = statistics.median(others)
    if not usual or first <= SLOW_FIRST * usual:
        return None
    ratio = first / usual
    return (
        f"the very first epoch took {ratio:.1f}x the median of the others;"
        " look at later ones, or run it again now that the caches are warm."
    )


def _spread(run: Timed) -> str | None:
    """Of all epochs but the very first, which may be slow for a reason of its own."""
    seconds = _seconds(run)[1:]
    std = sample_std(seconds) if seconds else None
    if std is None or std <= MOST_SPREAD * mean(seconds):
        return None
    share = 100 * std / mean(seconds)
    return (
        f"the epochs' times have a standard deviation of {share:.0f}% of their mean;"
        " close other programs, or train more epochs or seeds."
    )


def _load(run: Timed) -> str | None:
    load = run.record.environment.load_per_cpu
    if load is None or load <= MOST_LOAD:
        return None
    return (
        f"the machine was busy when the run began (load {load:.2f} per CPU), which Time, Images/s,"
        f" Latency and Peak may show; {_AGAIN}"
    )


def _costs(run: Timed) -> str | None:
    """Columns of costs whose measurement was disturbed."""
    cost = run.cost
    latency, product = (cost.latency_spread, cost.product_spread) if cost else (None, None)
    doubtful = []
    if latency is not None and latency > MOST_SPREAD:
        doubtful.append(f"Latency (medians of equal rounds differ by {percent_text(latency)})")
    if product is not None and product > MOST_SPREAD:
        doubtful.append(f"Peak (equal matrix products differ by {percent_text(product)})")
    if not doubtful:
        return None
    found = enumeration(doubtful)
    return f"the machine was busy while costs were measured, which shows in {found}; {_AGAIN}"


def _peak(run: Timed) -> str | None:
    """A share that no share can be is never left without its reason."""
    if run.product_share is None or run.product_share <= 1:
        return None
    busy = "the machine was busy while its fastest matrix product was measured"
    if run.record.engine and run.record.engine.form == "fast":
        return (
            "Peak is above 100%: Winograd's algorithm needs fewer operations than are counted, or"
            f" {busy}; run it again with --engine direct on an idle machine to tell."
        )
    return f"Peak is above 100%, which cannot be: {busy}; {_AGAIN}"


def _devices(runs: Sequence[Timed]) -> str | None:
    models = dict.fromkeys(run.record.environment.device_model for run in runs)
    if len(models) < 2:
        return None
    return "The runs trained on different devices; compare their times on one."


def _turns(runs: Sequence[Timed]) -> str | None:
    """Runs of one command alternate seed by seed; those of two may meet different weather."""
    commands = {run.record.environment.command for run in runs}
    starts = [run.record.started_at for run in runs]
    ends = [run.record.finished_at or run.record.started_at for run in runs]
    # Where the clock was set back in between, the times do not tell.
    set_back = any(end < start for start, end in zip(starts, ends, strict=True))
    if len(runs) < 2 or (len(commands) == 1 and (set_back or max(starts) <= min(ends))):
        return None
    if len(commands) == 1 and all(len(run.record.seeds) == 1 for run in runs):
        return (
            "One seed of each leaves nothing to alternate; add --seeds 2 or more to compare times."
        )
    return (
        "The runs were not interleaved; train them with one command that names all of their"
        " files to compare times."
    )
