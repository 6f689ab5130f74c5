"""Charts of a comparison as files: one panel, or several with a title."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cnnbench.compare.comparison import Comparison
from cnnbench.compare.learning_curves import bands_text, curves
from cnnbench.compare.verdict_text import verdict_lines
from cnnbench.formatting import clean, enumeration
from cnnbench.report.plots.panels import GRID, INK, LABEL_LINE, Chart, Shown, draw, label_lines
from cnnbench.runs.records import RunResult

# Inches: a panel, its margins, its title; a character of a label, a line of the note.
_WIDTH, _LEFT, _BOTTOM, _TOP, _TITLE = 4.8, 0.68, 0.5, 0.34, 0.28
_CHARACTER, _NOTE = 0.08, 0.19


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
                draw(axes, chart, shown)
                if title:
                    at = {"xycoords": "axes fraction", "textcoords": "offset points"}
                    axes.annotate(chart.value, (0, 1), (-38, 26), size=10.5, weight="bold", **at)
        x = 0.15 / figure.get_figwidth()
        figure.text(x, 1 - 0.35 / tall, clean(title), size=14, weight="bold")
        figure.text(x, 0.12 / tall, "\n".join(lines), size=8.5, linespacing=1.45)
        buffer = io.BytesIO()
        metadata = {"svg": {"Date": None, "Title": clean(title)}, "png": {"Software": None}}
        figure.savefig(buffer, format=form, metadata=metadata[form])
    return buffer.getvalue()


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
    """Text stays text, so that it can be found and read aloud; ids that never change."""
    import matplotlib as mpl

    texts = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    settings: Any = {  # of another type in each release
        **texts,
        "axes.edgecolor": INK,
        "font.size": 9,
        "savefig.transparent": form == "svg",
        "svg.fonttype": "none",
        "svg.hashsalt": "cnnbench",
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
