"""Comparisons at several values of a key as a picture: differences, and ranks over datasets."""

import math
from typing import Any

from cnnbench.comparisons.over.datasets import DatasetSummary
from cnnbench.comparisons.over.points import OverComparison
from cnnbench.formatting import clean, enumeration
from cnnbench.report.over.series import Series, all_series, axis, unit_scale
from cnnbench.report.over.table import conclusions
from cnnbench.report.plots import rendered
from cnnbench.report.plots.charts import GRID, INK, MARKERS, SERIES
from cnnbench.report.plots.text import wrapped
from cnnbench.runs.records import Direction
from cnnbench.spec.metrics import words

_WIDTH, _PANEL = 7.2, 3.0  # inches
_LINE, _HEADING_LINE, _MARGIN = 0.19, 0.26, 0.15
_NOTE, _HEADING = 8.5, 14  # points


def over_picture(over: OverComparison, form: str, *, texts: bool = True) -> bytes:
    """The difference at each value with its interval, and what the verdicts say together.

    Filled markers are decided. Over datasets with three networks or more, a critical-difference
    diagram is below.

    Args:
      over: the comparison.
      form: ``svg`` or ``png``.
      texts: False without title and sentences, for a page that has them.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    title = over_title(over)
    room = _WIDTH - 2 * _MARGIN
    heads = wrapped(title, _HEADING, room, bold=True) if texts else []
    said = conclusions(over) if texts else ()
    notes = [line for note in said for line in wrapped(note, _NOTE, room)]
    ranked = over.datasets if over.datasets and over.datasets.critical else None
    head = (0.55 if texts else 0.35) + _HEADING_LINE * len(heads)
    ranks = _rank_height(ranked) if ranked else 0.0
    tall = head + _PANEL + 0.6 + ranks + _LINE * len(notes) + 0.2
    settings: Any = {"font.size": 9, "text.parse_math": False, "axes.edgecolor": INK}
    with mpl.rc_context(settings):
        face = "white" if texts else "none"
        figure = Figure(figsize=(_WIDTH, tall), dpi=150, facecolor=face)
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


def over_title(over: OverComparison) -> str:
    """The experiments and the key."""
    base = clean(over.rows[0].verdict.baseline)
    return f"{enumeration([*map(clean, over.labels)])} vs. {base} over {over.short}"


def _differences(axes: Any, over: OverComparison) -> None:
    """A line for each experiment, with the interval at each value."""
    scale, series, values = unit_scale(over.metric), all_series(over), axis(over)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(0, color=INK, linewidth=1)
    least = [scale * row.verdict.min_effect for row in over.rows_of(over.labels[0])]
    if any(least):
        ends = [-value for value in least]
        axes.fill_between(values.places, ends, least, color=INK, alpha=0.08, linewidth=0)
    for number, each in enumerate(series):
        look = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
        _draw(axes, each, *look, joined=values.ordered)
    axes.set_xticks(values.places, values.texts)
    axes.margins(x=0.12)
    axes.set_xlabel(values.title)
    better = "higher" if over.direction is Direction.HIGHER else "lower"
    unit = " (points)" if scale == 100 else ""
    text = f"{words(over.metric)} difference{unit}, {better} is better; filled: decided"
    axes.annotate(text, (0, 1), (-38, 9), xycoords="axes fraction", textcoords="offset points")
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8.5)


def _draw(axes: Any, series: Series, color: str, marker: str, *, joined: bool) -> None:
    values = [_number(point.value) for point in series.points]
    line: Any = {"color": color, "linewidth": 1 if joined else 0, "alpha": 0.6}
    axes.plot([point.x for point in series.points], values, **line)
    for point, value in zip(series.points, values, strict=True):
        ends = (_number(point.low), _number(point.high))
        axes.plot((point.x, point.x), ends, color=color, linewidth=2)
        face = color if point.decided else "white"
        axes.plot(point.x, value, marker, color=color, markerfacecolor=face, markersize=7)
    axes.plot([], [], marker=marker, color=color, label=series.label, linewidth=int(joined))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


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
