"""Networks side by side: a column for each, and how it differs from the baseline."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cnnbench.comparisons.comparability import TEST
from cnnbench.comparisons.comparison import CODE, Comparison
from cnnbench.comparisons.learning_curves import last_rows
from cnnbench.comparisons.verdict import Finding
from cnnbench.comparisons.verdict_text import size
from cnnbench.report.columns import CellValue, Column, R, cost_columns, epoch_columns
from cnnbench.spec.metrics import heading
from cnnbench.statistics.estimates import Interval

MOST = 4  # networks that fit side by side on a screen
SAME = "same"
_IN_WORDS = {"type", "epoch", "seeds"}  # what the heading of the comparison says

# The row's name where there is room for more than the column's header.
_NAMES = {
    "time": "Time per epoch",
    "params": "Parameters",
    "forward": "Forward FLOPs per image",
    "backward": "Backward FLOPs per image",
    "memory": "Memory of a training step",
    "p50": "Latency p50",
    "images/s": "Images/s in training",
}


class SideCell(NamedTuple):
    """A network's value of a quantity.

    Args:
      text: the value.
      change: the difference from the baseline's; empty for the baseline, and where either is
        unknown.
      tone: `better` or `worse` where a verdict says so, `same` where nothing differs, else empty.
    """

    text: str
    change: str = ""
    tone: str = ""


class SideRow(NamedTuple):
    """A line of the table: its name, and a cell for each network."""

    name: str
    cells: Sequence[SideCell]


def side_by_side(comparison: Comparison) -> list[SideRow]:
    """Everything measured after the last epoch, a line for each quantity.

    Args:
      comparison: its networks are the columns, in its order.
    """
    rows = last_rows(comparison)
    costs = {row.label: row for row in comparison.costs}
    return [
        *_quantities(comparison, epoch_columns(comparison, wide=True), rows),
        *_quantities(comparison, cost_columns(comparison), [costs[row.label] for row in rows]),
    ]


def _quantities(
    comparison: Comparison, columns: Sequence[Column[R]], rows: Sequence[R]
) -> Iterator[SideRow]:
    for column in columns:
        if column.name not in _IN_WORDS and any(column.cell(row) for row in rows):
            names = {**_NAMES, "test": heading(f"{TEST}{comparison.metric}")}
            name = names.get(column.name, column.header)
            yield SideRow(name, list(_cells(comparison, column, rows)))


def _cells(comparison: Comparison, column: Column[R], rows: Sequence[R]) -> Iterator[SideCell]:
    verdicts = comparison.verdicts
    baseline = verdicts[0].baseline if verdicts else rows[0].label
    base = next(row for row in rows if row.label == baseline)
    metric = _metrics(comparison).get(column.name)
    for row in rows:
        if row is base:
            yield SideCell(column.cell(row))
        elif column.name == "time":
            own = next(verdict for verdict in verdicts if verdict.label == row.label)
            tone = "" if own.engines else _time_tone(own.time_interval)  # else an artifact
            yield SideCell(column.cell(row), _ratio(own.time_ratio), tone)
        else:
            text = _change(metric, column.name, column.value(base), column.value(row))
            tone = SAME if text == SAME else _tone(comparison, metric, row.label)
            yield SideCell(column.cell(row), text, tone)


def _metrics(comparison: Comparison) -> dict[str, str]:
    """The metric that verdicts name, by the column that shows it."""
    metric = comparison.metric
    return {metric: comparison.shown_metric, "test": f"{TEST}{metric}", "code": CODE}


def _change(metric: str | None, name: str, base: CellValue, value: CellValue) -> str:
    """A difference of metrics and epochs, a ratio of everything else."""
    if not isinstance(base, int | float) or not isinstance(value, int | float):
        return ""
    if not (math.isfinite(base) and math.isfinite(value)):
        return ""
    if value == base:
        return SAME
    if metric:
        return size(metric, value - base)
    if name == "best":
        return f"{value - base:+.1f}"
    return _ratio(value / base) if base else ""


def _ratio(ratio: float) -> str:
    """How many times as much.

    >>> _ratio(1.497), _ratio(0.0012), _ratio(1234.5), _ratio(math.nan)
    ('1.50x', '0.0012x', '1,234x', '')
    """
    if math.isnan(ratio):
        return ""
    if 0.01 <= ratio < 100:
        return f"{ratio:.2f}x"
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.2g}x"


def _tone(comparison: Comparison, metric: str | None, label: str) -> str:
    """The finding on a network by a metric; empty if there is none."""
    for verdict in (*comparison.verdicts, *comparison.code_verdicts):
        if (verdict.label, verdict.metric) == (label, metric) and verdict.finding.differs:
            return verdict.finding.value
    return ""


def _time_tone(interval: Interval | None) -> str:
    """Longer or shorter epochs, where the interval of the ratio says so."""
    if interval is None or interval.low <= 1 <= interval.high:
        return ""
    return Finding.WORSE.value if interval.low > 1 else Finding.BETTER.value
