"""A picture of a sweep: response curves or a heat map, and the expected best of k trials."""

import math
from typing import Any

from cnnbench.comparisons.sweeps.responses import cells
from cnnbench.comparisons.sweeps.results import SweepResult, SweepRow
from cnnbench.formatting import clean, is_number
from cnnbench.report.plots import rendered
from cnnbench.report.plots.charts import GRID, INK, MARKERS, SERIES
from cnnbench.runs.over import in_order
from cnnbench.spec.metrics import is_fraction, metric_text, words

_PANEL, _HEIGHT = 4.4, 3.6  # inches
_WIDE = 30.0  # ratio of the largest value to the smallest, from which an axis is logarithmic


def sweep_picture(result: SweepResult, form: str) -> bytes:
    """Draws a panel for each key, or a heat map of two keys, and one of the expected best.

    Args:
      result: the sweep, with a trained trial at least.
      form: ``svg``, which is transparent, or ``png``.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    texts: Any = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    texts |= {"axes.edgecolor": INK, "font.size": 9, "text.parse_math": False}
    with mpl.rc_context(texts | {"savefig.transparent": form == "svg"}):
        titles = [title for title in result.titles if result.of(title)]
        maps = titles if len(result.keys) == 2 else []
        number = len(maps or result.keys) + 1
        figure = Figure(figsize=(_PANEL * number, _HEIGHT), dpi=150, layout="constrained")
        *panels, last = figure.subplots(1, number, squeeze=False)[0]
        for place, panel in enumerate(panels):
            if maps:
                _heat_map(panel, result, maps[place])
            else:
                _response(panel, result, place)
        _expected(last, result)
        return rendered(figure, f"Sweep {result.plan.sweep}", form)


def _response(axes: Any, result: SweepResult, place: int) -> None:
    """Means and standard deviations of the trials by the value of a key."""
    scale = _scale(result)
    names = list(dict.fromkeys(row.values[place] for row in result.trained))
    numbers = all(map(is_number, names))
    order = in_order(names)
    for number, title in enumerate(result.titles):
        rows = [row for row in result.of(title) if math.isfinite(row.mean)]
        x = [_x(row, place, numbers, order) for row in rows]
        y = [scale * row.mean for row in rows]
        spread = [scale * (row.trial.value.std or 0.0) for row in rows]
        pairs = sorted(zip(x, y, spread, strict=True))
        line = {"linewidth": 1.6 if len(result.keys) == 1 else 0, "markersize": 5, "capsize": 3}
        color, marker = SERIES[number % 8], MARKERS[number % 8]
        if pairs:
            x, y, spread = map(list, zip(*pairs, strict=True))
            axes.errorbar(x, y, spread, color=color, marker=marker, label=clean(title), **line)
    if numbers:
        values = [float(name) for name in names]
        if min(values) > 0 and max(values) / min(values) >= _WIDE:
            _logarithmic(axes)
    else:
        axes.set_xticks(range(len(order)), [clean(name) for name in order])
    axes.set_xlabel(clean(result.keys[place]))
    _finish(axes, result)
    axes.set_title("Trials: mean ± standard deviation over seeds")


def _logarithmic(axes: Any) -> None:
    """Decades as plain numbers: without math, Matplotlib's own labels are its markup."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _x(row: SweepRow, place: int, numbers: bool, order: tuple[str, ...]) -> float:
    return float(row.values[place]) if numbers else float(order.index(row.values[place]))


def _heat_map(axes: Any, result: SweepResult, title: str) -> None:
    """The best mean of each pair of values, with its number; white where there is none."""
    import numpy as np

    down, across, values = cells(result, title)
    grid = np.array(values, float)
    shown = grid if result.higher else -grid
    rows, columns = (np.arange(n + 1) - 0.5 for n in grid.shape)
    axes.pcolormesh(columns, rows, np.ma.masked_invalid(shown), cmap="Blues")  # not an image
    axes.invert_yaxis()
    finite = shown[np.isfinite(shown)]
    dark = (finite.min() + finite.max()) / 2 if finite.size else 0.0
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value):
            color = "#f7fbff" if shown[i, j] > dark else "#0b2239"  # not those of the page
            text = metric_text(result.metric, float(value))
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(across)), [clean(g.label) for g in across], rotation=30, ha="right")
    axes.set_yticks(range(len(down)), [clean(g.label) for g in down])
    axes.set_ylabel(clean(result.keys[0]))
    axes.set_xlabel(clean(result.keys[1]))
    name = f"{clean(title)}: " if len(result.titles) > 1 else ""
    axes.set_title(f"{name}{words(result.metric)}")


def _expected(axes: Any, result: SweepResult) -> None:
    from matplotlib.ticker import MaxNLocator

    scale = _scale(result)
    for number, title in enumerate(result.titles):
        values = result.expected(title) if result.of(title) else ()
        style = {"color": SERIES[number % 8], "marker": MARKERS[number % 8], "markersize": 4}
        budgets = range(1, len(values) + 1)
        label = clean(title)
        axes.plot(budgets, [scale * v for v in values], linewidth=1.6, label=label, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("trials")
    axes.set_title("Expected best of k trials")
    _finish(axes, result)
    if len(result.titles) > 1:
        axes.legend(frameon=False, loc="lower right" if result.higher else "upper right")


def _finish(axes: Any, result: SweepResult) -> None:
    better = "higher" if result.higher else "lower"
    unit = " (%)" if is_fraction(result.metric) else ""
    axes.set_ylabel(f"{words(result.metric)}{unit}, {better} is better")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _scale(result: SweepResult) -> float:
    return 100.0 if is_fraction(result.metric) else 1.0
