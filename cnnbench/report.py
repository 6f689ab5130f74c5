"""Comparisons and lists of runs as tables for people: terminal and Markdown.

Tables round, and say in notes below what they show; `export` has the raw
values. A run's own table has the four columns of the post that this tool
implements; a `wide` table adds what else tells architectures apart.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from cnnbench.compare import Comparison, Row
from cnnbench.phrases import (
    clean,
    count_text,
    is_fraction,
    metric_text,
    seconds_text,
    words,
)
from cnnbench.stats import Estimate, mean
from cnnbench.store import RunEntry
from cnnbench.verdict_report import how_lines, sentence, verdict_lines

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table; `heading` breaks the header over lines to keep numbers whole."""

    header: str
    cell: Callable[[Row], str]
    heading: str | None = None


def terminal_table(comparisons: Sequence[Comparison], *, wide: bool) -> "Group":
    """Tables for a terminal of 80 columns or more, each with its notes.

    Args:
      comparisons: one table each.
      wide: also parameters, images per second and the test value.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Table | Text] = []
    for comparison in comparisons:
        text = Text("\n".join(["", *notes(comparison, wide=wide), ""]), style="dim")
        verdicts = [Text(f"\n{line}", style="bold") for line in verdict_lines(comparison.verdicts)]
        parts += [_rich_table(comparison, wide=wide), *verdicts, text]
    return Group(*parts)


def markdown(comparisons: Sequence[Comparison], *, wide: bool) -> str:
    """Tables in Markdown, each with its notes as a list."""
    return "\n".join(_markdown(comparison, wide=wide) for comparison in comparisons)


def list_table(entries: Iterable[RunEntry]) -> "Table":
    """Runs for a terminal, one a line; the RUN-ID begins with the start in UTC."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("Run", no_wrap=True)
    table.add_column("Name", overflow="fold")
    table.add_column("Status", no_wrap=True)
    table.add_column("Dataset", overflow="fold")
    for header in ("Epochs", "Seeds", "Result"):
        table.add_column(header, justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(*(Text(cell) for cell in _list_cells(entry)))
    return table


def grid(comparison: Comparison, *, wide: bool) -> list[list[str]]:
    """The cells of a table; the first line is that of the headers."""
    columns = _columns(comparison, wide=wide)
    cells = [[column.cell(row) for column in columns] for row in comparison.rows]
    return [[column.header for column in columns], *cells]


def notes(comparison: Comparison, *, wide: bool) -> tuple[str, ...]:
    """What the numbers of a table mean and where they come from, a line each."""
    data, metric, rows = comparison.dataset, words(comparison.metric), comparison.rows
    over = "; mean over seeds" if _has_spread(comparison) else ""
    sizes = f"{data.num_train:,} training, {data.num_validation:,} validation"
    lines = [
        f"{metric.capitalize()}: validation images; {_over_seeds(comparison)}.",
        f"Time: training of one epoch without compilation or evaluation{over}.",
        _test_note(comparison),
        f"Data: {clean(data.title)}; {sizes} and {data.num_test:,} test images.",
        f"Device: {comparison.device_kind}, {clean(' and '.join(comparison.devices))}.",
    ]
    if wide:
        lines[2] = f"Test: after the last epoch{over}. Images/s: median over epochs."
        lines += dict.fromkeys(_run_note(row) for row in rows)
    lines += how_lines(comparison.verdicts)
    if lost := {row.run.dataset.stand_in_for for row in rows} - {None}:
        wanted = " and ".join(sorted(filter(None, lost)))
        lines.append(f"Stand-in: {data.name} was used, because {wanted} could not be had.")
    if len({row.run.epochs for row in rows}) > 1:
        lines.append("Epochs: the runs trained for different numbers, so last rows are not alike.")
    if len(comparison.devices) > 1:
        lines.append("Times: on different devices, so they differ for that reason too.")
    return tuple(lines)


def _run_note(row: Row) -> str:
    """Which run a label stands for, and what its command line changed."""
    words = row.run.environment.command
    changes = [word for word in words if "=" in word and not word.startswith("-")]
    for option in ("--dataset", "--epochs", "--seeds"):
        changes += [f"{option} {value}" for key, value in pairwise(words) if key == option]
    with_changes = f", with {' '.join(changes)}" if changes else ""
    return f"{clean(row.label)}: {row.run.name}/{row.run.run_id}{clean(with_changes)}."


def _test_note(comparison: Comparison) -> str:
    ends = ((row.label, row.test) for row in comparison.rows if row.test is not None)
    values = (f"{clean(label)} {_estimate(comparison.metric, test)}" for label, test in ends)
    return f"Test {words(comparison.metric)} after the last epoch: {', '.join(values)}."


def _has_spread(comparison: Comparison) -> bool:
    return any(len(row.run.seeds) > 1 for row in comparison.rows)


def _over_seeds(comparison: Comparison) -> str:
    match sorted({len(row.run.seeds) for row in comparison.rows}):
        case [1]:
            return "one seed, so its spread is unknown"
        case [number]:
            return f"mean ± standard deviation over {number} seeds"
    return "mean ± standard deviation over the seeds, unknown for one"


def _columns(comparison: Comparison, *, wide: bool) -> list[_Column]:
    metric = comparison.metric
    columns = [
        _Column("Type", lambda row: clean(row.label)),
        _Column("Epoch", lambda row: str(row.epoch)),
        _Column(words(metric).capitalize(), lambda row: _estimate(metric, row.value)),
        _Column("Time", lambda row: seconds_text(row.train_s.mean)),
    ]
    if _has_spread(comparison):
        columns.append(_Column("Seeds", lambda row: str(len(row.run.seeds))))
    if wide:
        columns += [
            _Column("Test", lambda row: metric_text(metric, row.test.mean) if row.test else ""),
            _Column("Parameters", lambda row: f"{row.num_params:,}", "Para-\nmeters"),
            _Column("Images/s", lambda row: count_text(row.images_per_s), "Images\n/s"),
        ]
    return columns


def _rich_table(comparison: Comparison, *, wide: bool) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = _columns(comparison, wide=wide)
    table = Table(box=box.MARKDOWN)
    if wide:  # no room for lines between so many columns
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(columns[0].header, overflow="fold")
    for column in columns[1:]:
        table.add_column(column.heading or column.header, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    return table


def _markdown(comparison: Comparison, *, wide: bool) -> str:
    table = [[_escape(cell) for cell in line] for line in grid(comparison, wide=wide)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    # The first column holds text and stands left, numbers stand right.
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in (table[0], rule, *table[1:])
    ]
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    verdicts = [f"**Verdict:** {_escape(s)}\n\n" for s in map(sentence, comparison.verdicts)]
    listed = [f"- {_escape(note)}\n" for note in notes(comparison, wide=wide)]
    return "".join([body, "\n", *verdicts, *listed])


def _list_cells(entry: RunEntry) -> tuple[str, ...]:
    record, summary, result = entry.record, entry.summary, "-"
    if summary is not None and summary.seeds:
        metric = summary.headline
        values = [seed.final[metric] for seed in summary.seeds if metric in seed.final]
        result = metric_text(metric, mean(values)) if values else result
    data = record.dataset
    dataset = f"{data.name} for {data.stand_in_for}" if data.stand_in_for else data.name
    counts = (str(record.epochs), str(len(record.seeds)), result)
    return (record.run_id, record.name, str(record.status), dataset, *counts)


def _estimate(metric: str, estimate: Estimate) -> str:
    """Mean and spread, such as `98.97 ± 0.05 %`."""
    value, std = metric_text(metric, estimate.mean), estimate.std
    if std is None or math.isnan(std):
        return value
    if is_fraction(metric):
        # A spread that rounds to zero would claim a certainty that is not there.
        spread = "<0.01" if 100 * std < 0.005 else f"{100 * std:.2f}"
        return f"{value.removesuffix(' %')} ± {spread} %"
    return f"{value} ± {std:#.2g}" if std else f"{value} ± 0"


def _escape(text: str) -> str:
    r"""Markdown that shows `text` as it is: no cells, tags, links or emphasis of its own.

    >>> print(_escape("A|B <i> <0.01"))
    A\|B \<i> <0.01
    """
    return re.sub(r"([\\`*\[|]|<(?=[a-zA-Z/!?]))", r"\\\1", text)
