"""Time to a target metric, with censoring for seeds that never reach it."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from cnnbench.errors import UsageError
from cnnbench.runs.records import Direction, EpochRecord
from cnnbench.spec.metrics import is_fraction, words

_NUMBER = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)\s*(%?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TimeToTarget:
    """Seconds of training until the validation metric reached a target, over seeds.

    Without validation images, only the value after the last epoch is known.

    Args:
      target: the target value.
      reached: number of seeds that reached it.
      seeds: number of seeds trained one at a time.
      median_s: Kaplan-Meier median, which treats seeds that stopped short as censored; None if
        fewer than half of the seeds reached the target.
      longest_s: the longest training.
    """

    target: float
    reached: int
    seeds: int
    median_s: float | None
    longest_s: float


def parse_target(text: str, metric: str, option: str = "--target") -> float:
    """Parse a value of a metric; fractions may be given in percent.

    Args:
      text: the value.
      metric: name of the metric.
      option: option name for the error message.

    Raises:
      UsageError: `text` is not a value of the metric.

    >>> parse_target("97.05%", "accuracy"), parse_target("0.03", "loss")
    (0.9705, 0.03)
    """
    found = _NUMBER.fullmatch(text.strip())
    fraction = is_fraction(metric)
    # Decimal: 97.05 / 100 is not the same float as 0.9705, and a metric may equal the target.
    value = float(Decimal(found[1]) / (100 if found[2] else 1)) if found else math.nan
    if found and (fraction or not found[2]) and not (fraction and not 0 <= value <= 1):
        return value
    like = "0.98 or 98%" if fraction else "0.03"
    message = f"{option}: '{text}' is not a value of {words(metric)}"
    raise UsageError(f"{message}; write, for example, {like}.")


def time_to_target(
    epochs: Iterable[EpochRecord],
    metric: str,
    target: float,
    direction: Direction,
    tests: Mapping[int, float] | None = None,
) -> TimeToTarget:
    """Time to a target over the seeds trained one at a time (others share their time).

    Args:
      epochs: the epochs of a run, in order for each seed.
      metric: the metric, on the validation images.
      target: the target value.
      direction: whether higher or lower values are better.
      tests: the metric on the test images after the last epoch, by seed; used if there are no
        validation images.
    """
    by_seed: dict[int, list[EpochRecord]] = {}
    for epoch in epochs:
        if epoch.at_once == 1:
            by_seed.setdefault(epoch.seed, []).append(epoch)
    ends = []
    for seed, own in by_seed.items():
        values = [epoch.validation(metric) for epoch in own]
        if tests and not own[-1].validated:
            values[-1] = tests[seed]
        ends.append(_end(own, values, target, direction))
    return TimeToTarget(
        target,
        sum(reached for _, reached in ends),
        len(ends),
        median_time(ends),
        max(filter(math.isfinite, map(_seconds, by_seed.values())), default=math.nan),
    )


def _seconds(epochs: Sequence[EpochRecord]) -> float:
    return sum(epoch.train_s for epoch in epochs)


def _end(
    epochs: Sequence[EpochRecord], values: Sequence[float], target: float, direction: Direction
) -> tuple[float, bool]:
    """Seconds until the target or the end of training, and whether the target was reached."""
    seconds = 0.0
    for epoch, value in zip(epochs, values, strict=True):
        seconds += epoch.train_s
        if value >= target if direction is Direction.HIGHER else value <= target:
            return seconds, True
    return seconds, False


def median_time(ends: Sequence[tuple[float, bool]]) -> float | None:
    """Median of right-censored times (Kaplan & Meier 1958).

    Args:
      ends: seconds, and True if the target was reached or False if training stopped (censored);
        unmeasured times (NaN) are ignored.

    >>> median_time([(3.0, True), (4.0, False), (5.0, True)])
    5.0
    >>> median_time([(4.0, False), (4.5, False), (5.0, True)]) is None
    True
    """
    ends = [end for end in ends if math.isfinite(end[0])]
    if 2 * sum(reached for _, reached in ends) < len(ends):
        return None  # with early censoring, the median would rest on a few seeds
    not_yet = 1.0
    for time in sorted({seconds for seconds, reached in ends if reached}):
        at_risk = sum(seconds >= time for seconds, _ in ends)
        not_yet *= 1 - ends.count((time, True)) / at_risk
        if not_yet <= 0.5 + 1e-12:
            return time
    return None


def target_title(metric: str, target: float) -> str:
    """The target as text.

    >>> target_title("accuracy", 0.98), target_title("loss", 0.03)
    ('98%', '0.03')
    """
    return f"{100 * target:.6g}%" if is_fraction(metric) else f"{target:.6g}"
