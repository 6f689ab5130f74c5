"""Comparisons at several values of a key as a picture: differences, and ranks over datasets."""

import math
from collections.abc import Sequence
from typing import Any

from cnnbench.comparisons.over.datasets import DatasetSummary
from cnnbench.comparisons.over.points import OverComparison, PointRow, value_text
from cnnbench.formatting import clean, enumeration, is_number
from cnnbench.report.over.table import conclusions
from cnnbench.report.plots import rendered
from cnnbench.report.plots.charts import GRID, INK, MARKERS, SERIES
from cnnbench.report.plots.text import wrapped
from cnnbench.runs.records import Direction
from cnnbench.spec.metrics import is_fraction, words

_WIDTH, _PANEL = 7.2, 3.0  # inches
_LINE, _HEADING_LINE, _MARGIN = 0.19, 0.26, 0.15
_NOTE, _HEADING = 8.5, 14  # points
_SPREAD = 4  # a largest value this many times the smallest has a logarithmic axis
_DODGE = 0.06  # of the axis, between networks at one value


def over_picture(over: OverComparison, form: str) -> bytes:
    """The difference at each value with its interval, and what the verdicts say together.

    Filled markers are decided. Over datasets with three networks or more, a critical-difference
    diagram is below.

    Args:
      over: the comparison.
      form: ``svg`` or ``png``.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    base = clean(over.rows[0].verdict.baseline)
    title = f"{enumeration([*map(clean, over.labels)])} vs. {base} over {over.short}"
    room = _WIDTH - 2 * _MARGIN
    heads = wrapped(title, _HEADING, room, bold=True)
    notes = [line for note in conclusions(over) for line in wrapped(note, _NOTE, room)]
    ranked = over.datasets if over.datasets and over.datasets.critical else None
    head = 0.55 + _HEADING_LINE * len(heads)
    ranks = _rank_height(ranked) if ranked else 0.0
    tall = head + _PANEL + 0.6 + ranks + _LINE * len(notes) + 0.2
    settings: Any = {"font.size": 9, "text.parse_math": False, "axes.edgecolor": INK}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(_WIDTH, tall), dpi=150, facecolor="white")
        place = (0.75 / _WIDTH, 1 - (head + _PANEL) / tall, 1 - 0.95 / _WIDTH, _PANEL / tall)
        _differences(figure.add_axes(place), over)
        if ranked:
            bottom = 1 - (head + _PANEL + 0.6 + ranks) / tall
            _ranks(figure.add_axes((0.03, bottom, 0.94, ranks / tall)), ranked)
        x = _MARGIN / _WIDTH
        bold: Any = {"size": _HEADING, "weight": "bold", "va": "top"}
        figure.text(x, 1 - 0.15 / tall, "\n".join(heads), **bold)
        figure.text(x, 0.1 / tall, "\n".join(notes), size=_NOTE, linespacing=1.45)
        return rendered(figure, title, form)


def _differences(axes: Any, over: OverComparison) -> None:
    """A line for each experiment, with the interval at each value."""
    places, logarithmic = _places(over.values)
    scale = 100 if is_fraction(over.metric) else 1
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(0, color=INK, linewidth=1)
    if least := scale * over.rows[0].verdict.min_effect:
        axes.axhspan(-least, least, color=INK, alpha=0.08, linewidth=0)
    width = (max(places) - min(places)) or 1
    for number, label in enumerate(over.labels):
        shift = (number - (len(over.labels) - 1) / 2) * _DODGE * width
        x = [place + shift for place in places]
        _series(axes, over.rows_of(label), x, scale, number)
    _value_axis(axes, over, places, logarithmic=logarithmic)
    better = "higher" if over.direction is Direction.HIGHER else "lower"
    unit = " (points)" if scale == 100 else ""
    text = f"{words(over.metric)} difference{unit}, {better} is better; filled: decided"
    axes.annotate(text, (0, 1), (-38, 9), xycoords="axes fraction", textcoords="offset points")
    if len(over.labels) > 1:
        axes.legend(frameon=False, fontsize=8.5)


def _series(
    axes: Any, rows: Sequence[PointRow], x: Sequence[float], scale: float, number: int
) -> None:
    color, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
    y = [scale * row.verdict.difference for row in rows]
    known = [value if math.isfinite(value) else math.nan for value in y]
    label = clean(rows[0].verdict.label)
    axes.plot(x, known, color=color, linewidth=1, alpha=0.6)
    for place, value, row in zip(x, known, rows, strict=True):
        if row.verdict.interval:
            ends = [scale * end for end in (row.verdict.interval.low, row.verdict.interval.high)]
            finite = [end if math.isfinite(end) else math.nan for end in ends]
            axes.plot((place, place), finite, color=color, linewidth=2)
        decided = str(row.verdict.finding) in {"better", "worse"}
        face = color if decided else "white"
        axes.plot(place, value, marker, color=color, markerfacecolor=face, markersize=7)
    axes.plot([], [], marker=marker, color=color, label=label)


def _places(values: Sequence[str]) -> tuple[list[float], bool]:
    """Where values are on the axis, and True if it is logarithmic; categories are equally far.

    >>> _places(["1000", "2000"]), _places(["mnist", "svhn"])
    (([1000.0, 2000.0], False), ([0.0, 1.0], False))
    >>> [round(place, 2) for place in _places(["1", "10"])[0]]
    [0.0, 1.0]
    """
    if not all(map(is_number, values)):
        return [float(place) for place in range(len(values))], False
    numbers = [float(value) for value in values]
    if min(numbers) > 0 and max(numbers) > _SPREAD * min(numbers):
        return [math.log10(number) for number in numbers], True
    return numbers, False


def _value_axis(
    axes: Any, over: OverComparison, places: Sequence[float], *, logarithmic: bool
) -> None:
    """Ticks at the values themselves."""
    axes.set_xticks(places, [value_text(value) for value in over.values])
    axes.margins(x=0.12)
    axes.set_xlabel(f"{over.short} (logarithmic)" if logarithmic else over.short)


def _rank_height(summary: DatasetSummary) -> float:
    """Inches of the critical-difference diagram."""
    sides = (len(summary.rows) + 1) // 2
    return 0.95 + 0.22 * sides + 0.12 * len(summary.groups)


def _ranks(axes: Any, summary: DatasetSummary) -> None:
    """Demsar's diagram: average ranks on a line; bars join those that are not told apart."""
    arms, tall = len(summary.rows), _rank_height(summary)
    axes.set(xlim=(1 - 0.75 * arms, arms + 0.75 * arms), ylim=(-(tall - 0.55), 0.55))
    axes.axis("off")
    axes.plot((1, arms), (0, 0), color=INK, linewidth=1)
    for tick in range(1, arms + 1):
        axes.plot((tick, tick), (0, 0.07), color=INK, linewidth=1)
        axes.text(tick, 0.1, str(tick), ha="center", va="bottom")
    axes.text(1 - 0.73 * arms, 0.1, "average rank (1 is best)", ha="left", va="bottom")
    _critical(axes, summary, arms)
    bars = {label: row.rank for label, row in zip(_labels(summary), summary.rows, strict=True)}
    for number, group in enumerate(summary.groups):
        ranks = [bars[clean(label)] for label in group]
        y = -0.12 - 0.12 * number
        ends = (min(ranks) - 0.04, max(ranks) + 0.04)
        axes.plot(ends, (y, y), color=INK, linewidth=4, solid_capstyle="butt")
    order = sorted(bars, key=bars.__getitem__)
    left = (arms + 1) // 2
    for place, label in enumerate(order):
        line = place if place < left else arms - 1 - place
        y = -0.28 - 0.12 * len(summary.groups) - 0.22 * line
        best = place < left
        end = 1 - 0.1 * arms if best else arms + 0.1 * arms
        axes.plot((bars[label], bars[label], end), (0, y, y), color=INK, linewidth=0.8)
        text = f"{label}  {bars[label]:.2f}"
        axes.text(
            end, y, f"{text} " if best else f" {text}", ha="right" if best else "left", va="center"
        )


def _critical(axes: Any, summary: DatasetSummary, arms: int) -> None:
    """The critical difference, above the line."""
    critical = summary.critical or 0.0
    end = min(arms + 0.7 * arms, 1 + critical)
    axes.plot((1, end), (0.36, 0.36), color=INK, linewidth=1)
    for x in (1, end):
        axes.plot((x, x), (0.32, 0.4), color=INK, linewidth=1)
    axes.text(end, 0.36, f"  critical difference {critical:.2f}", ha="left", va="center")


def _labels(summary: DatasetSummary) -> list[str]:
    return [clean(row.label) for row in summary.rows]
