"""Comparisons and lists of runs as tables in the terminal and in Markdown.

Tables round, and explain their columns in notes; `csv_json` has the raw values. The table of `run`
has the four columns of the blog post that this project implements; a `wide` table adds the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from cnnbench.comparisons.comparison import Comparison, CostRow, Row
from cnnbench.comparisons.labels import overrides
from cnnbench.comparisons.timing_warnings import COST_CAUSES, DETAILS, summary
from cnnbench.comparisons.verdict import Verdict
from cnnbench.comparisons.verdict_text import (
    how_lines,
    improvement_lines,
    sentence,
    verdict_lines,
)
from cnnbench.formatting import MISSING, clean, diverged_text, escape_markdown
from cnnbench.report.columns import (
    PLAIN,
    Column,
    R,
    TableOptions,
    cost_columns,
    epoch_columns,
    estimate_text,
)
from cnnbench.report.sparkline import sparkline
from cnnbench.report.table import WrappedTable, markdown_table, terminal_grid
from cnnbench.runs.folder import RunEntry
from cnnbench.runs.index.curves import CURVE_POINTS
from cnnbench.runs.index.values import Value
from cnnbench.runs.records import Facts
from cnnbench.spec.metrics import metric_text, words

if TYPE_CHECKING:
    from rich.console import Group

_WIDTH = 80  # of a terminal


def terminal_table(
    comparisons: Sequence[Comparison], *, wide: bool, look: TableOptions = PLAIN
) -> "Group":
    """Returns tables for a terminal, each with verdicts and notes.

    Args:
      comparisons: one table each, or two if they are wide.
      wide: add parameters, images per second, the test value, and a table of costs.
      look: display options.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[WrappedTable | Text] = []
    for comparison in comparisons:
        said = [*verdict_lines(every_verdict(comparison)), *map(clean, comparison.remarks)]
        columns = epoch_columns(comparison, wide=wide, look=look)
        first = map(clean, comparison.contradictions)
        parts += [Text(f"{line}\n", style="bold red") for line in first]
        parts.append(_rich_table(columns, comparison.rows, wide=wide, first=2))
        if costs := _cost_columns(comparison, wide=wide, look=look):
            parts += [Text(""), _rich_table(costs, comparison.costs, wide=True)]
        footer = "\n".join([*_footer(comparison, wide=wide, look=look), ""])
        below = [*(Text(line, style="bold") for line in said), Text(footer, style="dim")]
        for number, text in enumerate(below):
            # The box of a table that is not wide ends with an empty line.
            parts += [Text(""), text] if wide or number else [text]
    return Group(*parts)


def _cost_columns(
    comparison: Comparison, *, wide: bool, look: TableOptions
) -> list[Column[CostRow]]:
    """Returns the columns of the table of costs; empty if nothing was measured."""
    known = wide and any(row.cost or row.target for row in comparison.costs)
    columns = cost_columns(comparison, look) if known else []
    return columns if len(columns) > 1 else []


def markdown(comparisons: Sequence[Comparison], *, wide: bool, look: TableOptions = PLAIN) -> str:
    """Formats tables in Markdown, each with its notes as a list."""
    return "\n".join(_markdown(comparison, wide=wide, look=look) for comparison in comparisons)


def list_table(
    entries: Sequence[RunEntry],
    curves: Iterable[Sequence[float]],
    encoding: str,
    columns: Mapping[str, Sequence[Value]] | None = None,
) -> WrappedTable:
    """Returns a table of runs for a terminal; the RUN-ID begins with the start time in UTC.

    Args:
      entries: the runs.
      curves: the headline metric of each run by epoch.
      encoding: encoding of the terminal.
      columns: values to show instead of epochs, seeds and curve, by name; None or empty for none.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("Run", no_wrap=True)
    table.add_column("Name")
    table.add_column("Dataset")
    for header in columns or ("Epochs", "Seeds"):
        table.add_column(Text(_short(header)), justify="right", no_wrap=True)
    if not columns:
        table.add_column("Curve", no_wrap=True)
    table.add_column("Result", justify="right", no_wrap=True)
    others = [list(map(_value_cell, values)) for values in (columns or {}).values()]
    for number, (entry, curve) in enumerate(zip(entries, curves, strict=True)):
        line = sparkline(curve, encoding, CURVE_POINTS)
        middle = [cells[number] for cells in others] if columns else [*_counts(entry), line]
        table.add_row(*map(Text, _list_cells(entry, middle)))
    return WrappedTable(table)


def grid(comparison: Comparison, *, wide: bool) -> list[list[str]]:
    """Returns the cells of a table; the first row has the headers."""
    return _grid(epoch_columns(comparison, wide=wide, look=PLAIN), comparison.rows)


def cost_grid(comparison: Comparison) -> list[list[str]]:
    """Returns the cells of the table of costs, headers first; empty if nothing was measured."""
    columns = _cost_columns(comparison, wide=True, look=PLAIN)
    return _grid(columns, comparison.costs) if columns else []


def _grid(columns: Sequence[Column[R]], rows: Sequence[R]) -> list[list[str]]:
    cells = [[column.cell(row) for column in columns] for row in rows]
    return [[column.header for column in columns], *cells]


def notes(comparison: Comparison, *, wide: bool, look: TableOptions = PLAIN) -> tuple[str, ...]:
    """Returns footnotes of a table: meaning and origin of its numbers, without warnings."""
    data, rows = comparison.dataset, comparison.rows
    held_out = f"{data.num_validation:,}" if data.num_validation else "no"
    sizes = f"{data.num_train:,} training, {held_out} validation"
    split = "".join(f"; {text}" for text in _split_texts(rows))
    columns = epoch_columns(comparison, wide=wide)
    lines = _packed(column.note for column in columns if not column.note_last)
    if not (wide and comparison.validates):  # there is no column of test values
        lines.insert(2, _test_note(comparison, look))
    if wide:
        lines[3:3] = _packed(column.note for column in cost_columns(comparison))
    lines += [
        f"Data: {clean(data.title)}; {sizes} and {data.num_test:,} test images{split}.",
        *(f"Changes: {clean('; '.join(each))}." for each in [data.changes] if each),
        f"Source: {clean('; '.join(dict.fromkeys(row.run.dataset.source for row in rows)))}.",
        f"Device: {comparison.device_kind}, {clean(' and '.join(comparison.devices))}.",
    ]
    if wide:
        lines += dict.fromkeys(_run_note(row) for row in rows)
    lines += _packed(column.note for column in columns if column.note_last)
    lines += [*how_lines(comparison.verdicts), *comparison.image_notes]
    shown = (v for v in comparison.verdicts if look.verbose or v.p is not None)
    lines += improvement_lines(list(shown))
    if lost := {row.run.dataset.stand_in_for for row in rows} - {None}:
        wanted = " and ".join(sorted(filter(None, lost)))
        lines.append(f"Note: {wanted} is not available offline; trained on {data.name} instead.")
    return tuple(lines)


def _split_texts(rows: Sequence[Row]) -> list[str]:
    """Returns the random splits of the runs, which may differ in their repeats."""
    return list(dict.fromkeys(row.run.split_text for row in rows if row.run.split_text))


def _footer(comparison: Comparison, *, wide: bool, look: TableOptions) -> tuple[str, ...]:
    """Returns footnotes and warnings of a table, a line each."""
    if look.brief:  # how to see details depends on the command
        return warning_lines(comparison, wide=wide, verbose=False, details="")
    warned = warning_lines(comparison, wide=wide, verbose=look.verbose)
    return (*notes(comparison, wide=wide, look=look), *warned)


def every_verdict(comparison: Comparison) -> tuple[Verdict, ...]:
    """Returns the verdicts by the headline metric, then those by the linear probe."""
    return (*comparison.verdicts, *comparison.code_verdicts)


def doubts(comparison: Comparison, *, verbose: bool = True) -> tuple[str, ...]:
    """Returns remarks and warnings, a line each.

    Args:
      comparison: the comparison.
      verbose: list every timing warning instead of one line.
    """
    said = (*comparison.contradictions, *comparison.remarks)
    return (*map(clean, said), *warning_lines(comparison, verbose=verbose))


def warning_lines(
    comparison: Comparison, *, wide: bool = True, verbose: bool = True, details: str = DETAILS
) -> tuple[str, ...]:
    """Returns timing warnings, a line each, or folded into one line.

    Args:
      comparison: the comparison.
      wide: True if the table of costs is shown, so that its warnings matter.
      verbose: list every warning instead of one line.
      details: how to see every warning, for that line.
    """
    if verbose:
        found = [w for w in comparison.warnings if wide or w.cause not in COST_CAUSES]
        return tuple(f"Warning: {clean(warning.text)}" for warning in found)
    metric = words(comparison.shown_metric)
    folded = summary(comparison.warnings, metric, costs=wide, details=details)
    return (f"Warning: {folded}.",) if folded else ()


def _packed(notes: Iterable[str]) -> list[str]:
    """Joins notes to lines of a terminal.

    >>> _packed(["Memory: of a training step.", "", "Latency: one image.", "Code: " + 40 * "x"])[0]
    'Memory: of a training step. Latency: one image.'
    """
    lines: list[str] = []
    for note in filter(None, notes):
        if lines and len(lines[-1]) + 1 + len(note) <= _WIDTH:
            lines[-1] += f" {note}"
        else:
            lines.append(note)
    return lines


def _run_note(row: Row) -> str:
    """Names the run of a label, and the overrides of its command line."""
    changes = [each.text for each in overrides(row.run)]
    with_changes = f", with {' '.join(changes)}" if changes else ""
    return f"{clean(row.label)}: {row.run.name}/{row.run.run_id}{clean(with_changes)}."


def _test_note(comparison: Comparison, look: TableOptions) -> str:
    if not comparison.validates:
        judged = " Verdicts use the test set." if comparison.verdicts else ""
        metric = words(comparison.shown_metric)
        return (
            f"No validation set: tested after the last epoch.{judged} The {metric} is optimistic"
            " if it was used for model selection."
        )
    ends = ((row.label, row.test) for row in comparison.rows if row.test is not None)
    metric, digits = comparison.metric, look.precision
    values = (f"{clean(label)} {estimate_text(metric, test, digits)}" for label, test in ends)
    return f"Test {words(metric)} {comparison.end}: {', '.join(values)}."


def _rich_table(
    columns: Sequence[Column[R]], rows: Sequence[R], *, wide: bool, first: int = 1
) -> WrappedTable:
    header = [columns[0].header, *(column.heading or column.header for column in columns[1:])]
    cells = ([column.cell(row) for column in columns] for row in rows)
    return terminal_grid(header, cells, wide=wide, first=first)


def _markdown(comparison: Comparison, *, wide: bool, look: TableOptions) -> str:
    columns = epoch_columns(comparison, wide=wide, look=look)
    body = _markdown_table(columns, comparison.rows)
    if costs := _cost_columns(comparison, wide=wide, look=look):
        body += "\n" + _markdown_table(costs, comparison.costs)
    judged = map(sentence, every_verdict(comparison))
    verdicts = [f"**Verdict:** {escape_markdown(s)}\n\n" for s in judged]
    first, remarks = (
        [f"{escape_markdown(clean(remark))}\n\n" for remark in said]
        for said in (comparison.contradictions, comparison.remarks)
    )
    lines = _footer(comparison, wide=wide, look=look)
    listed = [f"- {escape_markdown(line)}\n" for line in lines]
    return "".join([*first, body, "\n", *verdicts, *remarks, *listed])


def _markdown_table(columns: Sequence[Column[R]], rows: Sequence[R]) -> str:
    table = [[escape_markdown(cell) for cell in line] for line in _grid(columns, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    # The first column is text and left-aligned; numbers are right-aligned.
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    header, *lines = (
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in table
    )
    return markdown_table(header, lines, f"| {' | '.join(rule)} |")


def _list_cells(entry: RunEntry, middle: Sequence[str]) -> tuple[str, ...]:
    """Returns the cells of a run; the last one is its result, or why there is none."""
    facts = entry.facts
    dataset = f"{facts.dataset} for {facts.stand_in_for}" if facts.stand_in_for else facts.dataset
    name = facts.name + facts.tags_text
    return (facts.run_id, name, dataset, *middle, _result(facts) or entry.status)


def _counts(entry: RunEntry) -> tuple[str, str]:
    return str(entry.facts.epochs), str(len(entry.facts.seeds))


def _short(name: str) -> str:
    """The end of a dotted name."""
    return name.rpartition(".")[2] if name.startswith(("train.", "dataset.")) else name


def _value_cell(value: Value) -> str:
    """Formats any value of a run.

    >>> [_value_cell(value) for value in (0.98765, 1e-4, 12.0, ("a", "b"), True)]
    ['0.9877', '0.0001', '12', 'a, b', 'true']
    """
    match value:
        case None:
            return MISSING
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.4g}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case tuple():
            return ", ".join(value)
    return str(value)


def _result(facts: Facts) -> str:
    """Returns the headline metric, or that seeds diverged; empty without results."""
    if facts.result is None:
        return ""
    name, value = facts.result
    views = f" (TTA {facts.test_augment})" if facts.test_augment else ""
    on_test = "test " if name.startswith("test_") else ""
    text = f"{on_test}{metric_text(facts.headline, value)}{views}"
    return diverged_text(facts.num_diverged, len(facts.seeds)) or text
