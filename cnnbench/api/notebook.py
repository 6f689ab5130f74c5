"""Comparisons as HTML for notebooks."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.verdict_text import sentence
from cnnbench.formatting import clean
from cnnbench.report.comparison import cost_grid, every_verdict, grid, notes, warning_lines


def comparisons_html(comparisons: Iterable[Comparison], *, wide: bool) -> str:
    """Builds an HTML fragment: tables, verdicts, remarks, and notes to unfold.

    Args:
      comparisons: what is shown, one after another.
      wide: also parameters, test values, images per second and costs.
    """
    return "".join(part for each in comparisons for part in _parts(each, wide=wide))


def _parts(comparison: Comparison, *, wide: bool) -> Iterator[str]:
    for text in comparison.contradictions:
        yield f"<p><strong>{escape(clean(text))}</strong></p>"
    yield _table(grid(comparison, wide=wide))
    if wide and (costs := cost_grid(comparison)):
        yield _table(costs)
    for verdict in every_verdict(comparison):
        yield f"<p><strong>Verdict:</strong> {escape(sentence(verdict))}</p>"
    for text in comparison.remarks:
        yield f"<p>{escape(clean(text))}</p>"
    for text in warning_lines(comparison, wide=wide, verbose=False, details=""):
        yield f"<p>{escape(text)}</p>"
    items = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison, wide=wide))
    yield f"<details><summary>Notes</summary><ul>{items}</ul></details>"


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = lines
    aligned = zip(("left", *["right"] * len(header)), header, strict=False)
    head = "".join(f'<th style="text-align: {side}">{escape(cell)}</th>' for side, cell in aligned)
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: Sequence[str]) -> Iterator[str]:
    first, *others = map(escape, row)
    yield f'<th style="text-align: left">{first}</th>'
    yield from (f'<td style="text-align: right">{cell}</td>' for cell in others)
