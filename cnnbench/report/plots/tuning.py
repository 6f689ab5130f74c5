"""A picture of a tuning: the metric of each trial by value, and the expected best by budget."""

import math
from collections.abc import Sequence
from typing import Any

from cnnbench.comparisons.tuning import TunedArm, TunedAxis, TuningResult
from cnnbench.formatting import clean
from cnnbench.report.plots import rendered
from cnnbench.report.plots.charts import GRID, INK, MARKERS, SERIES
from cnnbench.spec.metrics import is_fraction, words

_PANEL, _HEIGHT = 4.4, 3.6  # inches


def tuning_picture(tuning: TuningResult, form: str) -> bytes:
    """Draws a panel for each tuned key, and one of the expected best; equal data, equal bytes.

    With several keys, a panel shows the best trial with each value of its key. A trial that
    diverged is a cross at the bottom.

    Args:
      tuning: the tuning.
      form: ``svg``, which is transparent, or ``png``.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    texts: Any = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    texts |= {"axes.edgecolor": INK, "font.size": 9, "text.parse_math": False}
    with mpl.rc_context(texts | {"savefig.transparent": form == "svg"}):
        number = len(tuning.axes) + 1
        figure = Figure(figsize=(_PANEL * number, _HEIGHT), dpi=150, layout="constrained")
        panels = figure.subplots(1, number, sharey=True)
        for place, axis in enumerate(tuning.axes):
            _values(panels[place], tuning, axis, place)
        _expected(panels[-1], tuning)
        _finish(panels, tuning)
        return rendered(figure, f"Tuning of {clean(tuning.keys)}", form)


def _values(axes: Any, tuning: TuningResult, axis: TunedAxis, place: int) -> None:
    scale = _scale(tuning)
    for number, arm in enumerate(tuning.arms):
        points = [_best_at(arm, place, i) for i in range(len(axis.points))]
        means = [scale * mean for mean, _ in points]
        spreads = [scale * std for _, std in points]
        style = {"color": SERIES[number % 8], "marker": MARKERS[number % 8], "markersize": 5}
        axes.errorbar(range(len(points)), means, spreads, capsize=3, linewidth=1.6, **style)
        lost = [i for i, mean in enumerate(means) if math.isnan(mean)]
        at = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        shift = 0.12 * (number - (len(tuning.arms) - 1) / 2)
        axes.plot([i + shift for i in lost], [0.03] * len(lost), "x", color=style["color"], **at)
    axes.set_xticks(range(len(axis.points)), axis.points)
    axes.set_xlim(-0.4, len(axis.points) - 0.6)
    lost_text = " (cross: diverged)" if _any_lost(tuning) else ""
    axes.set_xlabel(f"{clean(axis.key)}{lost_text}")
    seeds = len(tuning.seeds)
    axes.set_title(f"Trials: mean ± standard deviation of {seeds} seeds" if seeds > 1 else "Trials")


def _any_lost(tuning: TuningResult) -> bool:
    return any(math.isnan(t.value.mean) for arm in tuning.arms for t in arm.trials)


def _best_at(arm: TunedArm, place: int, point: int) -> tuple[float, float]:
    """Mean and standard deviation of the best trial with a value of a key; NaN if all diverged."""
    found = [t.value for t in arm.trials if t.point[place] == point]
    finite = [value for value in found if math.isfinite(value.mean)]
    if not finite:
        return math.nan, math.nan
    best = (max if arm.higher else min)(finite, key=lambda value: value.mean)
    return best.mean, best.std or 0.0


def _expected(axes: Any, tuning: TuningResult) -> None:
    scale = _scale(tuning)
    for number, arm in enumerate(tuning.arms):
        budgets = range(1, len(arm.expected) + 1)
        style = {"color": SERIES[number % 8], "marker": MARKERS[number % 8], "markersize": 5}
        label = clean(arm.label)
        axes.plot(budgets, [scale * v for v in arm.expected], linewidth=1.6, label=label, **style)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.7, len(tuning.arms[0].trials) + 0.3)
    axes.set_xlabel("trials")
    axes.set_title("Expected best of k trials")
    axes.legend(frameon=False, loc="lower right" if tuning.arms[0].higher else "upper right")


def _finish(panels: Sequence[Any], tuning: TuningResult) -> None:
    better = "higher" if tuning.arms[0].higher else "lower"
    unit = " (%)" if is_fraction(tuning.metric) else ""
    panels[0].set_ylabel(f"validation {words(tuning.metric)}{unit}, {better} is better")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)


def _scale(tuning: TuningResult) -> float:
    return 100.0 if is_fraction(tuning.metric) else 1.0
