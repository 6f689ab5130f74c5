"""Charts of a comparison: learning curves, costs, differences between runs, calibration."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from cnnbench.comparisons.comparison import Comparison, Row
from cnnbench.comparisons.learning_curves import (
    Curve,
    bands_text,
    course_metric,
    curves,
    ends,
    last_rows,
)
from cnnbench.comparisons.verdict_text import interval_name, verdict_lines
from cnnbench.formatting import clean, enumeration
from cnnbench.report.plots import rendered
from cnnbench.report.plots.spread import spread
from cnnbench.report.plots.text import distinct, wrapped
from cnnbench.runs.records import Direction, RunResult
from cnnbench.spec.metrics import heading, is_fraction, words

if TYPE_CHECKING:
    from cnnbench.training.metrics.classification import CalibrationBins

# Color-blind people can tell all eight apart, on white and (in report.css) on black: at least 20 in
# CIELAB for normal color vision, protanopia and deuteranopia, and a contrast of 3:1.
SERIES = (
    "#0072b2", "#c44e00", "#00805f", "#700a5c", "#7a85ff", "#662914", "#0099ad", "#003399",
)  # fmt: skip
INK, GRID = "#1c2126", "#d5d9de"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", ":", "-.")
LABEL_LINE, _LABEL_LINES, _LABEL_CHARACTERS = 0.178, 2, 20  # inches; of a label
_STEPS = [1, 2, 5, 10]
_MARGIN = 0.15  # inches beside titles and notes
# Inches: a panel, its margins, its title; a character of a label.
_WIDTH, _LEFT, _BOTTOM, _TOP, _TITLE = 4.8, 0.68, 0.5, 0.34, 0.28
_CHARACTER = 0.078
_HEADING, _TITLE_LINES, _NOTE = 14, 2, 8.5  # points of the title, its lines, points of the notes
_HEADING_LINE, _NOTE_LINE = 0.26, 0.19  # inches


class Chart(StrEnum):
    """A chart, with its title, in which ``{}`` is the metric."""

    EPOCHS = "Learning curves by epoch"
    TIME = "Learning curves by training time"
    EPOCH_COST = "{} vs. time per epoch"
    PARAMETERS = "{} vs. parameters"
    DIFFERENCES = "Differences per seed"
    CALIBRATION = "Reliability diagram"


@dataclass(frozen=True, slots=True)
class Shown:
    """The data of the charts.

    Args:
      comparison: of the runs.
      curves: their learning curves, in the same order.
      calibration: their test images in bins by confidence, over all seeds, in the same order; None
        for a run of which they are unknown; empty for no chart of them.
    """

    comparison: Comparison
    curves: tuple[Curve, ...]
    calibration: "tuple[CalibrationBins | None, ...]" = ()

    def charts(self) -> tuple[Chart, ...]:
        """The charts that have data."""
        several = len(self.curves) > 1
        has = {
            Chart.EPOCHS: True,
            Chart.TIME: all(curve.time_s for curve in self.curves),
            Chart.EPOCH_COST: several,
            Chart.PARAMETERS: several,
            Chart.DIFFERENCES: any(verdict.interval for verdict in self.comparison.verdicts),
            Chart.CALIBRATION: any(self.calibration),
        }
        return tuple(chart for chart, is_there in has.items() if is_there)

    def title(self, chart: Chart) -> str:
        """Title of a chart.

        Args:
          chart: one of those that have data.
        """
        return chart.value.format(heading(self.comparison.shown_metric))


class _Style(NamedTuple):
    """Color, marker and dashes of a run."""

    color: str
    marker: str
    dash: str


def _style(number: int) -> _Style:
    """Style of the run in a place: a color with its marker, then the same with other dashes."""
    at, again = number % len(SERIES), number // len(SERIES)
    return _Style(SERIES[at], MARKERS[at], _DASHES[again % len(_DASHES)])


def picture(
    charts: Sequence[Chart], shown: Shown, form: str, *, title: str = "", notes: Sequence[str] = ()
) -> bytes:
    """Charts side by side; equal data give equal bytes.

    Args:
      charts: at least one.
      shown: their data.
      form: ``svg``, which is transparent, or ``png``.
      title: above the charts, in as many lines as it needs; the charts have their own titles only
        if there is one.
      notes: below the charts, one paragraph each.
    """
    from matplotlib.figure import Figure

    columns, top = min(2, len(charts)), _TOP + (_TITLE if title else 0)
    rows = [charts[first : first + columns] for first in range(0, len(charts), columns)]
    heights = [top + _BOTTOM + max(_height(chart, shown) for chart in row) for row in rows]
    room = _WIDTH * columns - 2 * _MARGIN
    lines = [line for note in notes for line in wrapped(note, _NOTE, room)]
    titles = wrapped(title, _HEADING, room, bold=True)
    head = 0.2 + _HEADING_LINE * len(titles) if titles else 0.0
    tall = head + sum(heights) + (_NOTE_LINE * len(lines) + 0.15 if lines else 0.0)
    with _settings(form):
        figure = Figure(figsize=(_WIDTH * columns, tall), dpi=150)
        for number, row in enumerate(rows):
            above = head + sum(heights[:number]) + top
            for column, chart in enumerate(row):
                size = heights[number] - top - _BOTTOM
                axes = _axes(figure, column * _WIDTH + _LEFT, above, size, shown)
                draw_chart(axes, chart, shown)
                if title:
                    at = {"xycoords": "axes fraction", "textcoords": "offset points"}
                    axes.annotate(
                        shown.title(chart), (0, 1), (-38, 26), size=10.5, weight="bold", **at
                    )
        x = _MARGIN / figure.get_figwidth()
        bold: Any = {"size": _HEADING, "weight": "bold", "va": "top"}
        figure.text(x, 1 - 0.15 / tall, "\n".join(titles), **bold)
        figure.text(x, 0.12 / tall, "\n".join(lines), size=_NOTE, linespacing=1.45)
        return rendered(figure, clean(title), form)


def comparison_picture(comparison: Comparison, runs: Sequence[RunResult], form: str) -> bytes:
    """All charts of a comparison, with its verdicts below them.

    Args:
      comparison: of the runs.
      runs: all runs in it.
      form: ``svg`` or ``png``.
    """
    shown = Shown(comparison, curves(comparison, runs))
    title = _title([curve.label for curve in shown.curves], comparison.dataset.name)
    note = [bands_text(shown.curves), *verdict_lines(comparison.verdicts)]
    return picture(shown.charts(), shown, form, title=title, notes=note)


def _title(labels: Sequence[str], dataset: str) -> str:
    """The runs by their labels, or their number if there is no room for all of them."""
    if common := _common_title(labels):
        return f"{common}: {len(labels)} runs on {dataset}"
    title = f"{enumeration(labels)} on {dataset}"
    room = 2 * (_WIDTH - _MARGIN)
    if len(wrapped(title, _HEADING, room, bold=True)) <= _TITLE_LINES:
        return title
    return f"{labels[0]} and {len(labels) - 1} other runs on {dataset}"


@contextmanager
def _settings(form: str) -> Iterator[None]:
    """Colors, sizes and background; titles are text, not formulas."""
    import matplotlib as mpl

    texts = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    settings: Any = {  # of another type in each release
        **texts,
        "axes.edgecolor": INK,
        "font.size": 9,
        "savefig.transparent": form == "svg",
        "text.parse_math": False,
    }
    with mpl.rc_context(settings):
        yield


def _height(chart: Chart, shown: Shown) -> float:
    """Height of the axes, in inches, with room for all labels."""
    lines = LABEL_LINE * sum(map(len, _labels(shown)))
    if chart is Chart.DIFFERENCES:
        return max(lines, 0.15 + 0.5 * len(shown.comparison.verdicts))
    return max(lines, 2.2)


def _axes(figure: Any, left: float, above: float, height: float, shown: Shown) -> Any:
    """Axes with room for the labels on their right; positions and sizes are in inches."""
    longest = max(len(line) for lines in _labels(shown) for line in lines)
    width = _WIDTH - _LEFT - 0.32 - _CHARACTER * longest
    wide, tall = figure.get_size_inches()
    axes = figure.add_axes((left / wide, 1 - (above + height) / tall, width / wide, height / tall))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def draw_chart(axes: Any, chart: Chart, shown: Shown) -> None:
    """Draws a chart.

    Args:
      axes: where it is drawn.
      chart: one of those that have data.
      shown: the data.
    """
    match chart:
        case Chart.EPOCHS | Chart.TIME:
            _curves(axes, shown, by_time=chart is Chart.TIME)
        case Chart.EPOCH_COST | Chart.PARAMETERS:
            _costs(axes, shown, by_time=chart is Chart.EPOCH_COST)
        case Chart.DIFFERENCES:
            _differences(axes, shown)
        case Chart.CALIBRATION:
            _calibration(axes, shown)
        case _:
            assert_never(chart)


def _curves(axes: Any, shown: Shown, *, by_time: bool) -> None:
    for number, curve in enumerate(shown.curves):
        color, marker, dash = _style(number)
        x = curve.time_s if by_time and curve.time_s else range(1, len(curve.values) + 1)
        means = [_finite(value.mean) for value in curve.values]
        every = math.ceil(len(means) / 10)
        marks = {"marker": marker, "markersize": 4, "markevery": ((len(means) - 1) % every, every)}
        axes.plot(x, means, color=color, linestyle=dash, linewidth=1.6, **marks)
        if curve.num_seeds > 1:
            low, high = zip(*(map(_finite, ends(value)) for value in curve.values), strict=True)
            # A band over one epoch is only as wide as its edge.
            edge = 6 if len(means) == 1 else 0
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=edge)
    _count_axis(axes, by_time=by_time)
    better = shown.comparison.direction if shown.comparison.validates else Direction.LOWER
    _value_axis(axes, course_metric(shown.comparison), better)
    _label_lines(axes, shown, [curve.values[-1].mean for curve in shown.curves])


def _count_axis(axes: Any, *, by_time: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("training time (s)" if by_time else "epoch")
    if by_time:
        axes.set_xlim(left=0)
    # With at least one tick required, no tick falls between two epochs.
    whole = {} if by_time else {"integer": True, "min_n_ticks": 1}
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, **whole))


def _costs(axes: Any, shown: Shown, *, by_time: bool) -> None:
    """A marker for each run, with lines from the lowest seed to the highest."""
    rows = last_rows(shown.comparison)
    for number, row in enumerate(rows):
        color, marker, _ = _style(number)
        x, y = _cost(row, by_time=by_time), _finite(row.value.mean)
        line = {"color": color, "linewidth": 1.4, "alpha": 0.7}
        axes.plot((x, x), [_finite(end) for end in ends(row.value)], **line)
        if by_time:
            axes.plot(ends(row.train_s), (y, y), **line)
        axes.plot(x, y, marker, color=color, markersize=8)
    axes.margins(0.12)
    _cost_axis(axes, [_cost(row, by_time=by_time) for row in rows], by_time=by_time)
    _value_axis(axes, shown.comparison.shown_metric, shown.comparison.direction)
    _label_lines(axes, shown, [row.value.mean for row in rows])


def _cost(row: Row, *, by_time: bool) -> float:
    return row.train_s.mean if by_time else row.num_params


def _cost_axis(axes: Any, costs: Sequence[float], *, by_time: bool) -> None:
    """Logarithmic if some runs cost many times as much as others."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel("seconds per epoch" if by_time else "parameters")
    if min(costs) > 0 and max(costs) > 4 * min(costs):
        axes.set_xscale("log")
        left, right = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right < 30 * left else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        # From zero, so that distances are in proportion to costs.
        axes.set_xlim(0, 1.12 * axes.dataLim.x1 or 1)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain if by_time else EngFormatter(sep=""))


def _differences(axes: Any, shown: Shown) -> None:
    """The mean of each verdict with its interval, and below it a marker for each seed."""
    comparison = shown.comparison
    verdicts, metric = comparison.verdicts, comparison.verdicts[0].metric
    scale = 100 if is_fraction(metric) else 1
    numbers = [_number(comparison, verdict.label) for verdict in verdicts]
    for place, (number, verdict) in enumerate(zip(numbers, verdicts, strict=True)):
        color, marker, _ = _style(number)
        marks = [scale * _finite(difference) for difference in verdict.differences]
        axes.plot(marks, [place + 0.3] * len(marks), marker, color=color, markersize=4, alpha=0.6)
        if verdict.interval:
            interval = [
                scale * _finite(end) for end in (verdict.interval.low, verdict.interval.high)
            ]
            axes.plot(interval, (place, place), color=color, linewidth=2.2)
            axes.plot(scale * _finite(verdict.difference), place, marker, color=color, markersize=8)
    if least := scale * verdicts[0].min_effect:
        axes.axvspan(-least, least, color=INK, alpha=0.08, linewidth=0)
    axes.axvline(0, color=INK, linewidth=1)
    names = enumeration(list(dict.fromkeys(map(interval_name, verdicts))))
    _above(axes, f"mean with {names}, and pairs of seeds")
    axes.set_yticks([])
    axes.set_ylim(len(verdicts) - 0.45, -0.55)
    axes.spines["left"].set_visible(False)
    unit = " (points)" if scale == 100 else ""
    base = _short_labels(shown)[_number(comparison, verdicts[0].baseline)]
    base = base if len(base) <= _LABEL_CHARACTERS else "the baseline"
    axes.set_xlabel(f"{words(metric)} difference vs. {base}{unit}")
    labels = _labels(shown)
    _label(axes, [labels[number] for number in numbers], range(len(verdicts)), numbers)


def _calibration(axes: Any, shown: Shown) -> None:
    """Accuracy against confidence by bin; the area of a marker is the share of its images."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle=(0, (4, 3)))
    known = {n: bins for n, bins in enumerate(shown.calibration) if bins is not None}
    last = []
    for number, bins in known.items():
        color, marker, dash = _style(number)
        full = bins.images > 0
        images = bins.images[full]
        x, y = bins.confidence[full] / images, bins.correct[full] / images
        axes.plot(x, y, color=color, linestyle=dash, linewidth=1.6)
        sizes = 12 + 100 * images / images.sum()
        axes.scatter(x, y, sizes, color=color, marker=marker, zorder=3, clip_on=False)
        last.append(float(y[-1]))
    axes.set_xlabel("confidence (probability of the prediction)")
    _above(axes, "accuracy")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=_STEPS))
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    labels = _labels(shown)
    _label(axes, [labels[number] for number in known], last, list(known))


def _number(comparison: Comparison, label: str) -> int:
    """The place of the run with a label."""
    return [row.label for row in last_rows(comparison)].index(label)


def _value_axis(axes: Any, metric: str, direction: Direction) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter, ScalarFormatter

    percent = is_fraction(metric)
    better = "higher" if direction is Direction.HIGHER else "lower"
    _above(axes, f"{words(metric)} ({better} is better)")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
    plain = ScalarFormatter(useOffset=False)
    percents = PercentFormatter(1, decimals=_percent_decimals(axes.get_yticks()))
    axes.yaxis.set_major_formatter(percents if percent else plain)


def _percent_decimals(ticks: Sequence[float]) -> int:
    """Decimals that tell percentages at equal distances apart.

    >>> _percent_decimals([0.4, 0.5]), _percent_decimals([0.99, 0.995])
    (0, 1)
    """
    step = 100 * (ticks[1] - ticks[0])
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _above(axes: Any, text: str) -> None:
    """A horizontal label at the upper end of the vertical axis."""
    axes.annotate(text, (0, 1), (-38, 9), xycoords="axes fraction", textcoords="offset points")


def _label_lines(axes: Any, shown: Shown, values: Sequence[float]) -> None:
    labels = _labels(shown)
    _label(axes, labels, values, range(len(labels)))


def _labels(shown: Shown) -> list[list[str]]:
    """The label of each run in lines that fit, with the number of seeds that diverged."""
    cut = distinct(_short_labels(shown), _LABEL_LINES, _LABEL_CHARACTERS)
    ends = ([curve.lost] if curve.lost else [] for curve in shown.curves)
    return [[*lines, *end] for lines, end in zip(cut, ends, strict=True)]


def _short_labels(shown: Shown) -> list[str]:
    """Labels of the runs, without a title that all of them have."""
    labels = [curve.label for curve in shown.curves]
    common = _common_title(labels)
    return [
        label.removeprefix(f"{common} (").removesuffix(")") if common else label for label in labels
    ]


def _common_title(labels: Sequence[str]) -> str:
    """The title of all runs if their labels differ only in overrides; empty if not.

    >>> _common_title(["CNN (rate=0.1)", "CNN (rate=0.2)"]), _common_title(["CNN", "MLP"])
    ('CNN', '')
    """
    parts = [label.rpartition(" (") for label in labels]
    titles = {title for title, _, _ in parts}
    all_have = len(labels) > 1 and all("=" in end and end.endswith(")") for _, _, end in parts)
    return titles.pop() if all_have and len(titles) == 1 else ""


def _label(
    axes: Any, texts: Sequence[list[str]], values: Sequence[float], numbers: Sequence[int]
) -> None:
    """Labels on the right, each next to its value or as close as the others allow."""
    bottom, top = axes.get_ylim()
    width, height = axes.get_position().size * axes.figure.get_size_inches()
    wanted = [(v - bottom) / (top - bottom) if math.isfinite(v) else 0.5 for v in values]
    places = spread(wanted, [LABEL_LINE * len(lines) / height for lines in texts])
    for number, lines, place in zip(numbers, texts, places, strict=True):
        color, marker, _ = _style(number)
        at = {"transform": axes.transAxes, "clip_on": False}
        axes.plot(1 + 0.14 / width, place, marker, color=color, markersize=6, **at)
        text = "\n".join(lines)
        axes.text(1 + 0.25 / width, place, text, va="center", linespacing=1.1, **at)


def _finite(value: float) -> float:
    """The value, or NaN for an infinite one, which no axis can show."""
    return value if math.isfinite(value) else math.nan
