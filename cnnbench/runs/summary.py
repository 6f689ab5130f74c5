"""Summary of a seed from its epochs."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from cnnbench.runs.records import (
    BestValue,
    Direction,
    EpochRecord,
    Machine,
    SeedSummary,
    Summary,
)


def summarize_seed(
    epochs: Iterable[EpochRecord],
    *,
    metrics: Mapping[str, Direction],
    test: Mapping[str, float],
    compile_s: float,
    code_accuracy: float | None = None,
    chosen: int | None = None,
    machine: Machine | None = None,
) -> SeedSummary:
    """Summarizes one seed.

    Args:
      epochs: at least one record of the seed, in the order of the epochs.
      metrics: every metric with its direction of improvement.
      test: value of each metric on the test images.
      compile_s: seconds of compilation for this seed.
      code_accuracy: test accuracy of a linear classifier on the code; None without a code.
      chosen: the epoch that the validation images chose; None if they do not choose.
      machine: what trained it; None if unknown.

    >>> epoch = EpochRecord(0, 1, 0.9, 0.5, {"accuracy": 0.8}, 2.0, 1.0, 25.0)
    >>> later = EpochRecord(0, 2, 0.7, 0.6, {"accuracy": 0.9}, 2.0, 1.0, 25.0)
    >>> metrics = {"accuracy": Direction.HIGHER, "loss": Direction.LOWER}
    >>> summary = summarize_seed([epoch, later], metrics=metrics, test={}, compile_s=3.0)
    >>> summary.best["loss"], summary.final["loss"], summary.train_s
    (BestValue(value=0.5, epoch=1), 0.6, 4.0)
    """
    epochs = tuple(epochs)
    validated = metrics if epochs[-1].validated else {}
    last = next((epoch for epoch in epochs if epoch.epoch == chosen), epochs[-1])
    return SeedSummary(
        seed=epochs[0].seed,
        final={name: last.validation(name) for name in validated},
        best={name: best_value(epochs, name, direction) for name, direction in validated.items()},
        test=dict(test),
        compile_s=compile_s,
        train_s=sum(epoch.train_s for epoch in epochs),
        eval_s=sum(epoch.eval_s for epoch in epochs),
        diverged=next((e.epoch for e in epochs if not e.finite), _lost_at_end(epochs[-1], test)),
        code_accuracy=code_accuracy,
        num_epochs=len(epochs) if chosen else None,
        chosen_epoch=chosen,
        machine=machine,
    )


def with_missing(
    epochs: Iterable[EpochRecord], last: int, summary: Summary | None = None
) -> dict[tuple[int, int], EpochRecord]:
    """Indexes the epochs of a run, and fills those after a seed ended.

    After a seed diverged, its values are NaN; after it stopped early, those of its last epoch.

    Args:
      epochs: records of all seeds, in order within each seed.
      last: number of the last epoch.
      summary: summary of a finished run, which says where seeds stopped early.

    Returns:
      The records by seed and epoch.

    >>> lost = EpochRecord(7, 1, math.inf, 0.5, {"accuracy": 0.8}, 2.0, 1.0, 25.0)
    >>> with_missing([lost], 2)[7, 2].metrics
    {'accuracy': nan}
    """
    found = {(epoch.seed, epoch.epoch): epoch for epoch in epochs}
    ends = {epoch.seed: epoch for epoch in found.values()}
    stopped = {(s.seed, s.num_epochs) for s in summary.seeds} if summary else set()
    for seed, end in ends.items():
        whole = end.finite and (seed, end.epoch) not in stopped
        for number in () if whole else range(end.epoch + 1, last + 1):
            found[seed, number] = _after(end, number)
    return found


def _after(end: EpochRecord, number: int) -> EpochRecord:
    """An epoch after the end of a seed, which took no time."""
    untimed = dataclasses.replace(
        end, epoch=number, train_s=math.nan, eval_s=math.nan, samples_per_s=math.nan
    )
    if end.finite:
        return untimed
    return dataclasses.replace(
        untimed,
        train_loss=math.nan,
        validation_loss=math.nan if end.validated else None,
        metrics=dict.fromkeys(end.metrics, math.nan),
    )


def lost_seeds(epochs: Iterable[EpochRecord], summary: Summary | None = None) -> list[int]:
    """Lists the seeds of a run that diverged.

    Args:
      epochs: records of all seeds.
      summary: summary of a finished run; without validation images, only the test loss shows that
        the last step diverged.
    """
    ended = [s.seed for s in summary.seeds if s.diverged is not None] if summary else []
    return list(dict.fromkeys([*(e.seed for e in epochs if not e.finite), *ended]))


def _lost_at_end(last: EpochRecord, test: Mapping[str, float]) -> int | None:
    """The last epoch if only the test loss shows that the seed diverged."""
    return None if last.validated or math.isfinite(test.get("loss", 0.0)) else last.epoch


def best_value(epochs: Sequence[EpochRecord], metric: str, direction: Direction) -> BestValue:
    """The best validation value of a metric, and the first epoch that reached it."""

    def badness(epoch: EpochRecord) -> tuple[bool, float]:
        value = epoch.validation(metric)
        # Comparisons with NaN are always false, so NaN is explicitly the worst.
        return math.isnan(value), -value if direction is Direction.HIGHER else value

    best = min(epochs, key=badness)
    return BestValue(best.validation(metric), best.epoch)
