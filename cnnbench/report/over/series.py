"""What the picture of comparisons at several values shows, as numbers and in words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnbench.comparisons.over.points import OverComparison, PointRow, value_text
from cnnbench.comparisons.verdict_text import interval_text, size
from cnnbench.formatting import clean, is_number
from cnnbench.spec.metrics import is_fraction, words

_SPREAD = 4  # a largest value this many times the smallest has a logarithmic axis
_DODGE = 0.06  # of the axis, between networks at one value


@dataclass(frozen=True, slots=True)
class PlotPoint:
    """The difference at one value.

    Args:
      x: place on the axis.
      value: the difference, in points or in the metric's unit; None if a seed diverged.
      low: lower end of its interval; None if there is none.
      high: upper end.
      decided: True if a difference was found.
    """

    x: float
    value: float | None
    low: float | None
    high: float | None
    decided: bool


@dataclass(frozen=True, slots=True)
class Series:
    """The differences of one experiment from the baseline.

    Args:
      label: its label.
      points: one at each value.
    """

    label: str
    points: tuple[PlotPoint, ...]


@dataclass(frozen=True, slots=True)
class ValueAxis:
    """The axis of the values.

    Args:
      places: where the values are.
      texts: the values.
      title: the key.
      ordered: True for numbers, between which a line makes sense.
    """

    places: tuple[float, ...]
    texts: tuple[str, ...]
    title: str
    ordered: bool


def axis(over: OverComparison) -> ValueAxis:
    """The axis of the values."""
    places, logarithmic = places_of(over.values)
    title = f"{over.short} (logarithmic)" if logarithmic else over.short
    texts, ordered = tuple(map(value_text, over.values)), all(map(is_number, over.values))
    return ValueAxis(tuple(places), texts, title, ordered)


def all_series(over: OverComparison) -> tuple[Series, ...]:
    """A series for each experiment but the baseline, side by side at each value."""
    places = axis(over).places
    width = (max(places) - min(places)) or 1
    middle = (len(over.labels) - 1) / 2
    return tuple(
        Series(clean(label), tuple(_points(over.rows_of(label), places, shift)))
        for number, label in enumerate(over.labels)
        for shift in [(number - middle) * _DODGE * width]
    )


def _points(rows: Sequence[PointRow], places: Sequence[float], shift: float) -> Iterator[PlotPoint]:
    for place, row in zip(places, rows, strict=True):
        verdict = row.verdict
        scale, ends = unit_scale(verdict.metric), verdict.interval
        low, high = (ends.low, ends.high) if ends else (math.nan, math.nan)
        yield PlotPoint(
            place + shift,
            _finite(scale * verdict.difference),
            _finite(scale * low),
            _finite(scale * high),
            verdict.finding.differs,
        )


def unit_scale(metric: str) -> int:
    """100 for a metric in points, otherwise 1."""
    return 100 if is_fraction(metric) else 1


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def places_of(values: Sequence[str]) -> tuple[list[float], bool]:
    """Where values are on the axis, and True if it is logarithmic; categories are equally far.

    >>> places_of(["1000", "2000"]), places_of(["mnist", "svhn"])
    (([1000.0, 2000.0], False), ([0.0, 1.0], False))
    >>> [round(place, 2) for place in places_of(["1", "10"])[0]]
    [0.0, 1.0]
    """
    if not all(map(is_number, values)):
        return [float(place) for place in range(len(values))], False
    numbers = [float(value) for value in values]
    if min(numbers) > 0 and max(numbers) > _SPREAD * min(numbers):
        return [math.log10(number) for number in numbers], True
    return numbers, False


def picture_words(over: OverComparison) -> str:
    """The picture in words, for screen readers."""
    metric, base = words(over.metric), clean(over.rows[0].verdict.baseline)
    parts = [
        f"{clean(label)} minus {base}: {'; '.join(map(_point_words, over.rows_of(label)))}."
        for label in over.labels
    ]
    return f"Difference in {metric} by {over.short}. {' '.join(parts)}"


def _point_words(row: PointRow) -> str:
    verdict = row.verdict
    ends = interval_text(verdict.metric, verdict.interval)
    known = f"{size(verdict.metric, verdict.difference)} ({ends})"
    found = known if math.isfinite(verdict.difference) else "diverged"
    return f"{value_text(row.value)}, {found}{', decided' if verdict.finding.differs else ''}"
