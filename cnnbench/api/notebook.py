"""Comparisons as HTML for notebooks."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from cnnbench.api.messages import in_python
from cnnbench.cli.tuned_text import best_heading, chosen_lines, expected_grid, trial_grid
from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.over.points import OverComparison
from cnnbench.comparisons.sweeps.results import SweepResult
from cnnbench.comparisons.tuning import TunedComparison, crossings, edge_warnings
from cnnbench.comparisons.verdict_text import sentence
from cnnbench.formatting import clean
from cnnbench.report.comparison import cost_grid, every_verdict, grid, notes, warning_lines
from cnnbench.report.over.picture import over_picture
from cnnbench.report.over.series import picture_words
from cnnbench.report.over.table import conclusions, datasets_grid, over_grid, over_notes
from cnnbench.report.plots.tuning import tuning_picture
from cnnbench.report.sweeps.picture import sweep_picture
from cnnbench.report.sweeps.table import expected_grid as sweep_expected
from cnnbench.report.sweeps.table import failures as sweep_failures
from cnnbench.report.sweeps.table import notes as sweep_notes
from cnnbench.report.sweeps.table import sweep_grid


def comparisons_html(comparisons: Iterable[Comparison], *, wide: bool) -> str:
    """Builds an HTML fragment: tables, verdicts, remarks, and notes to unfold.

    Args:
      comparisons: what is shown, one after another.
      wide: also parameters, test values, images per second and costs.
    """
    return "".join(part for each in comparisons for part in _parts(each, wide=wide))


def over_html(over: OverComparison) -> str:
    """Builds an HTML fragment: sentences, picture, tables, and notes to unfold."""
    said = (f"<p>{escape(line)}</p>" for line in conclusions(over))
    tables = [over_grid(over), *([datasets_grid(over, over.datasets)] if over.datasets else [])]
    shown = _picture(over_picture(over, "svg", texts=False), picture_words(over))
    return "".join([*said, shown, *map(_table, tables), _notes(over_notes(over))])


def tuning_html(tuned: TunedComparison) -> str:
    """Builds an HTML fragment: headlines, trials with their picture, and both verdicts."""
    tuning = tuned.tuning
    first = (f"<p><strong>{escape(line)}</strong></p>" for line in tuned.headlines)
    words = f"Trials by {clean(tuning.keys)}, and the expected best of k trials."
    shown = _picture(tuning_picture(tuning, "svg"), words)
    said = [*chosen_lines(tuning), *crossings(tuning)]
    said += [in_python(f"Warning: {warning}.") for warning in edge_warnings(tuning)]
    parts = [*first, shown, _table(trial_grid(tuning)), _table(expected_grid(tuning))]
    parts += [f"<p>{escape(line)}</p>" for line in said]
    if tuned.written:
        parts += ["<h4>As written</h4>", comparisons_html([tuned.written], wide=False)]
    if tuned.best:
        title = escape(clean(best_heading(tuned)))
        parts += [f"<h4>{title}</h4>", comparisons_html([tuned.best], wide=False)]
    return "".join(parts)


def sweep_html(result: SweepResult) -> str:
    """Builds an HTML fragment: picture, trials, expected best of k, and notes to unfold."""
    words = f"Response curves of {clean(' and '.join(result.keys))}, and the expected best of k."
    shown = _picture(sweep_picture(result, "svg"), words)
    tables = _table(sweep_grid(result)), _table(sweep_expected(result))
    said = (f"<p>{escape(line)}</p>" for line in sweep_failures(result))
    return "".join([shown, *tables, *said, _notes(sweep_notes(result))])


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
    yield _notes(notes(comparison, wide=wide))


def _picture(svg: bytes, words: str) -> str:
    """An image, on white, since its text is dark in a dark notebook, too."""
    uri = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return f'<img src="{uri}" alt="{escape(words)}" style="background: white; max-width: 100%">'


def _notes(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<details><summary>Notes</summary><ul>{items}</ul></details>"


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
