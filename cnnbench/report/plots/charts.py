"""Charts of a comparison: curves, costs and differences, one panel or several with a title."""

import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, assert_never

from cnnbench.comparisons.comparison import Comparison, Row
from cnnbench.comparisons.learning_curves import (
    Curve,
    bands_text,
    course_metric,
    curves,
    ends,
    last_rows,
)
from cnnbench.comparisons.verdict import Finding, Verdict
from cnnbench.comparisons.verdict_text import verdict_lines
from cnnbench.formatting import clean, enumeration
from cnnbench.report.plots import rendered
from cnnbench.report.plots.spread import spread
from cnnbench.runs.records import Direction, RunResult
from cnnbench.spec.metrics import is_fraction, words

# Colours that the colour-blind tell apart, with 3:1 against white; marks and dashes differ too.
SERIES = ("#0072b2", "#c44e00", "#00805f", "#a8497d", "#7a6a00", "#4d4d4d")
INK, GRID = "#1c2126", "#d5d9de"
_MARKS, _DASHES = ("o", "s", "^", "D", "v", "P"), ("-", "--", ":", "-.")
LABEL_LINE, _LABEL_CHARACTERS = 0.178, 17  # inches
_STEPS = [1, 2, 5, 10]
# Inches: a panel, its margins, its title; a character of a label, a line of the note.
_WIDTH, _LEFT, _BOTTOM, _TOP, _TITLE = 4.8, 0.68, 0.5, 0.34, 0.28
_CHARACTER, _NOTE = 0.08, 0.19


class Chart(StrEnum):
    """What there is to draw, with its title."""

    EPOCHS = "Learning curves, by epoch"
    TIME = "Learning curves, by time of training"
    EPOCH_COST = "Cost: time of an epoch"
    PARAMETERS = "Cost: parameters"
    DIFFERENCES = "Differences, seed by seed"


@dataclass(frozen=True, slots=True)
class Shown:
    """What charts are drawn from.

    Args:
      comparison: the runs side by side.
      curves: their learning curves, in the same order.
    """

    comparison: Comparison
    curves: tuple[Curve, ...]

    def charts(self) -> tuple[Chart, ...]:
        """Those that have something to show."""
        several = len(self.curves) > 1
        has = {
            Chart.EPOCHS: True,
            Chart.TIME: all(curve.time_s for curve in self.curves),
            Chart.EPOCH_COST: several,
            Chart.PARAMETERS: several,
            Chart.DIFFERENCES: any(verdict.interval for verdict in self.comparison.verdicts),
        }
        return tuple(chart for chart, is_there in has.items() if is_there)


class _Look(NamedTuple):
    """How a run is told from the others."""

    color: str
    mark: str
    dash: str


def _look(number: int) -> _Look:
    """Of the run in that place: a colour with its mark, then the same with other dashes."""
    at, again = number % len(SERIES), number // len(SERIES)
    return _Look(SERIES[at], _MARKS[at], _DASHES[again % len(_DASHES)])


def picture(
    charts: Sequence[Chart], shown: Shown, form: str, *, title: str = "", notes: Sequence[str] = ()
) -> bytes:
    """Charts side by side; the same numbers, the same bytes.

    Args:
      charts: at least one.
      shown: what they are drawn from.
      form: ``svg``, which is transparent, or ``png``.
      title: above all of them; without one, the panels have no titles either.
      notes: below them, a paragraph each.
    """
    from matplotlib.figure import Figure

    columns, top = min(2, len(charts)), _TOP + (_TITLE if title else 0)
    rows = [charts[first : first + columns] for first in range(0, len(charts), columns)]
    heights = [top + _BOTTOM + max(_height(chart, shown) for chart in row) for row in rows]
    lines = [line for note in notes for line in textwrap.wrap(note, 68 * columns)]
    head, foot = (0.45 if title else 0.0), (_NOTE * len(lines) + 0.15 if lines else 0.0)
    tall = head + sum(heights) + foot
    with _style(form):
        figure = Figure(figsize=(_WIDTH * columns, tall), dpi=150)
        for number, row in enumerate(rows):
            above = head + sum(heights[:number]) + top
            for column, chart in enumerate(row):
                size = heights[number] - top - _BOTTOM
                axes = _axes(figure, column * _WIDTH + _LEFT, above, size, shown)
                draw_chart(axes, chart, shown)
                if title:
                    at = {"xycoords": "axes fraction", "textcoords": "offset points"}
                    axes.annotate(chart.value, (0, 1), (-38, 26), size=10.5, weight="bold", **at)
        x = 0.15 / figure.get_figwidth()
        figure.text(x, 1 - 0.35 / tall, clean(title), size=14, weight="bold")
        figure.text(x, 0.12 / tall, "\n".join(lines), size=8.5, linespacing=1.45)
        return rendered(figure, clean(title), form)


def comparison_picture(comparison: Comparison, runs: Sequence[RunResult], form: str) -> bytes:
    """All that there is to draw of a comparison, with its verdicts below.

    Args:
      comparison: the runs side by side.
      runs: what it is made of.
      form: ``svg`` or ``png``.
    """
    shown = Shown(comparison, curves(comparison, runs))
    title = f"{enumeration([curve.label for curve in shown.curves])} on {comparison.dataset.name}"
    note = [bands_text(shown.curves), *verdict_lines(comparison.verdicts)]
    return picture(shown.charts(), shown, form, title=title, notes=note)


@contextmanager
def _style(form: str) -> Iterator[None]:
    """Ink, sizes and background; titles are text, not formulas."""
    import matplotlib as mpl

    texts = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    settings: Any = {  # of another type in each release
        **texts,
        "axes.edgecolor": INK,
        "font.size": 9,
        "savefig.transparent": form == "svg",
        "text.parse_math": False,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A viewer may have the characters that this machine's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def _height(chart: Chart, shown: Shown) -> float:
    """Of the axes, in inches, so that every label has its place."""
    lines = LABEL_LINE * sum(len(label_lines(c.label, c.lost)) for c in shown.curves)
    if chart is Chart.DIFFERENCES:
        return max(lines, 0.15 + 0.5 * len(shown.comparison.verdicts))
    return max(lines, 2.2)


def _axes(figure: Any, left: float, above: float, height: float, shown: Shown) -> Any:
    """Axes with room for the labels on their right; places and sizes are in inches."""
    longest = max(len(line) for c in shown.curves for line in label_lines(c.label, c.lost))
    width = _WIDTH - _LEFT - 0.32 - _CHARACTER * longest
    wide, tall = figure.get_size_inches()
    axes = figure.add_axes((left / wide, 1 - (above + height) / tall, width / wide, height / tall))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def draw_chart(axes: Any, chart: Chart, shown: Shown) -> None:
    """One chart into its axes."""
    match chart:
        case Chart.EPOCHS | Chart.TIME:
            _curves(axes, shown, by_time=chart is Chart.TIME)
        case Chart.EPOCH_COST | Chart.PARAMETERS:
            _costs(axes, shown, by_time=chart is Chart.EPOCH_COST)
        case Chart.DIFFERENCES:
            _differences(axes, shown.comparison)
        case _:
            assert_never(chart)


def _curves(axes: Any, shown: Shown, *, by_time: bool) -> None:
    for number, curve in enumerate(shown.curves):
        color, mark, dash = _look(number)
        x = curve.time_s if by_time and curve.time_s else range(1, len(curve.values) + 1)
        means = [_finite(value.mean) for value in curve.values]
        every = math.ceil(len(means) / 10)
        marks = {"marker": mark, "markersize": 4, "markevery": ((len(means) - 1) % every, every)}
        axes.plot(x, means, color=color, linestyle=dash, linewidth=1.6, **marks)
        if curve.num_seeds > 1:
            low, high = zip(*(map(_finite, ends(value)) for value in curve.values), strict=True)
            # A band over one epoch has no width but that of its edge.
            edge = 6 if len(means) == 1 else 0
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=edge)
    _count_axis(axes, by_time=by_time)
    better = shown.comparison.direction if shown.comparison.validates else Direction.LOWER
    _value_axis(axes, course_metric(shown.comparison), better)
    _label_lines(axes, shown, [curve.values[-1].mean for curve in shown.curves])


def _count_axis(axes: Any, *, by_time: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("seconds of training" if by_time else "epoch")
    if by_time:
        axes.set_xlim(left=0)
    # Without a least number of ticks there are none between epochs, however few there are.
    whole = {} if by_time else {"integer": True, "min_n_ticks": 1}
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, **whole))


def _costs(axes: Any, shown: Shown, *, by_time: bool) -> None:
    """Every run a mark, with lines from the lowest seed to the highest."""
    rows = last_rows(shown.comparison)
    for number, row in enumerate(rows):
        color, mark, _ = _look(number)
        x, y = _cost(row, by_time=by_time), _finite(row.value.mean)
        line = {"color": color, "linewidth": 1.4, "alpha": 0.7}
        axes.plot((x, x), [_finite(end) for end in ends(row.value)], **line)
        if by_time:
            axes.plot(ends(row.train_s), (y, y), **line)
        axes.plot(x, y, mark, color=color, markersize=8)
    axes.margins(0.12)
    _cost_axis(axes, [_cost(row, by_time=by_time) for row in rows], by_time=by_time)
    _value_axis(axes, shown.comparison.shown_metric, shown.comparison.direction)
    _label_lines(axes, shown, [row.value.mean for row in rows])


def _cost(row: Row, *, by_time: bool) -> float:
    return row.train_s.mean if by_time else row.num_params


def _cost_axis(axes: Any, costs: Sequence[float], *, by_time: bool) -> None:
    """Logarithmic where some runs cost many times what others do."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel("seconds of an epoch" if by_time else "parameters")
    if min(costs) > 0 and max(costs) > 4 * min(costs):
        axes.set_xscale("log")
        left, right = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right < 30 * left else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain if by_time else EngFormatter(sep=""))


def _differences(axes: Any, comparison: Comparison) -> None:
    """Every verdict's mean with its interval, and below it a mark for each seed."""
    verdicts, metric = comparison.verdicts, comparison.verdicts[0].metric
    scale = 100 if is_fraction(metric) else 1
    numbers = [_number(comparison, verdict) for verdict in verdicts]
    for place, (number, verdict) in enumerate(zip(numbers, verdicts, strict=True)):
        color, mark, _ = _look(number)
        marks = [scale * _finite(difference) for difference in verdict.differences]
        axes.plot(marks, [place + 0.3] * len(marks), mark, color=color, markersize=4, alpha=0.6)
        if verdict.interval:
            interval = [
                scale * _finite(end) for end in (verdict.interval.low, verdict.interval.high)
            ]
            axes.plot(interval, (place, place), color=color, linewidth=2.2)
            axes.plot(scale * _finite(verdict.difference), place, mark, color=color, markersize=8)
    if least := scale * verdicts[0].min_effect:
        axes.axvspan(-least, least, color=INK, alpha=0.08, linewidth=0)
    axes.axvline(0, color=INK, linewidth=1)
    level = f"{100 * (1 - verdicts[0].alpha):g}%"
    _above(axes, f"mean with {level} interval, and each seed")
    axes.set_yticks([])
    axes.set_ylim(len(verdicts) - 0.45, -0.55)
    axes.spines["left"].set_visible(False)
    base = textwrap.shorten(clean(verdicts[0].baseline), 28, placeholder="...")
    points = ", points" if scale == 100 else ""
    axes.set_xlabel(f"{words(metric)} minus that of {base}{points}")
    labels = [label_lines(clean(v.label), _lost(v)) for v in verdicts]
    _label(axes, labels, range(len(verdicts)), numbers)


def _lost(verdict: Verdict) -> str:
    return "diverged" if verdict.finding is Finding.DIVERGED else ""


def _number(comparison: Comparison, verdict: Verdict) -> int:
    """The place of the run that a verdict is on."""
    return [row.label for row in last_rows(comparison)].index(verdict.label)


def _value_axis(axes: Any, metric: str, direction: Direction) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter, ScalarFormatter

    percent = is_fraction(metric)
    better = "higher" if direction is Direction.HIGHER else "lower"
    _above(axes, f"{words(metric)} ({better} is better)")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
    plain = ScalarFormatter(useOffset=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1) if percent else plain)


def _above(axes: Any, text: str) -> None:
    """What stands on the axis, lying, so that it is read without turning one's head."""
    axes.annotate(text, (0, 1), (-38, 9), xycoords="axes fraction", textcoords="offset points")


def _label_lines(axes: Any, shown: Shown, values: Sequence[float]) -> None:
    labels = [label_lines(curve.label, curve.lost) for curve in shown.curves]
    _label(axes, labels, values, range(len(labels)))


def _label(
    axes: Any, texts: Sequence[list[str]], values: Sequence[float], numbers: Sequence[int]
) -> None:
    """Names on the right, each beside its value or as near as the others leave room."""
    bottom, top = axes.get_ylim()
    width, height = axes.get_position().size * axes.figure.get_size_inches()
    wanted = [(v - bottom) / (top - bottom) if math.isfinite(v) else 0.5 for v in values]
    places = spread(wanted, [LABEL_LINE * len(lines) / height for lines in texts])
    for number, lines, place in zip(numbers, texts, places, strict=True):
        color, mark, _ = _look(number)
        at = {"transform": axes.transAxes, "clip_on": False}
        axes.plot(1 + 0.14 / width, place, mark, color=color, markersize=6, **at)
        text = "\n".join(lines)
        axes.text(1 + 0.25 / width, place, text, va="center", linespacing=1.1, **at)


def label_lines(label: str, lost: str) -> list[str]:
    """A label in one or two lines, where what does not fit ends in dots, and what else is said.

    >>> label_lines("Convolutional autoencoder with noise", "diverged")
    ['Convolutional', 'autoencoder ...', 'diverged']
    """
    lines = textwrap.wrap(label, _LABEL_CHARACTERS, max_lines=2, placeholder=" ...") or [""]
    return [*lines, lost] if lost else lines


def _finite(value: float) -> float:
    """Infinity would stretch an axis without end."""
    return value if math.isfinite(value) else math.nan
