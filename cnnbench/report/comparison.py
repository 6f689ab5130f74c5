"""Comparisons and lists of runs as tables in the terminal and in Markdown.

Tables round, and explain their columns in notes; `csv_json` has the raw values. The table of `run`
has the four columns of the blog post that this project implements; a `wide` table adds the others.
"""

from collections.abc import Iterable, Sequence
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
from cnnbench.formatting import clean, escape_markdown
from cnnbench.report.columns import (
    PLAIN,
    Column,
    R,
    TableOptions,
    cost_columns,
    epoch_columns,
    estimate_text,
)
from cnnbench.report.table import WrappedTable, markdown_table, terminal_grid
from cnnbench.spec.metrics import words

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
        f"Device: {comparison.device_kind}, {clean(' and '.join(comparison.devices))}."
        + _engine_text(comparison),
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


def _engine_text(comparison: Comparison) -> str:
    """Returns the engine of all runs as a sentence; several are a column of a wide table."""
    forms = {row.run.engine.form if row.run.engine else "" for row in comparison.rows}
    return f" Engine: {forms.pop()}." if len(forms) == 1 and "" not in forms else ""


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
