r"""Comparisons as LaTeX tables with the rules of booktabs.

A table has what a paper needs: a run per line with its parameters, the headline metric after the
last epoch as mean and standard deviation over the seeds, and the time of an epoch.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cnnbench.comparisons.comparability import TEST
from cnnbench.comparisons.comparison import CODE, Comparison, Row
from cnnbench.comparisons.learning_curves import last_rows
from cnnbench.comparisons.verdict import Finding, Verdict
from cnnbench.comparisons.verdict_text import sentence
from cnnbench.formatting import clean, seconds_text
from cnnbench.report.columns import PLAIN, TableOptions, estimate_text
from cnnbench.report.comparison import doubts, every_verdict
from cnnbench.runs.records import Direction
from cnnbench.spec.metrics import heading, is_fraction
from cnnbench.statistics.estimates import Estimate

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after \\ or a rule, an option would begin
    "*": "{*}",
    "±": r"$\pm$",
    "×": r"$\times$",  # noqa: RUF001 - the sign of multiplication
    "–": "--",  # noqa: RUF001 - the dash
}


def escape_latex(text: str) -> str:
    r"""Writes a text so that LaTeX prints it as it is.

    >>> escape_latex("50% of conv_1 & {2}"), escape_latex("a\\b^c")
    ('50\\% of conv\\_1 \\& \\{2\\}', 'a\\textbackslash{}b\\textasciicircum{}c')
    """
    return "".join(_SPECIAL.get(char, char) for char in clean(text))


class LatexColumn(NamedTuple):
    """A column of a table.

    Args:
      header: LaTeX above it.
      cell: LaTeX of a row, and whether it is bold.
      metric: of its values; empty if they are no metric.
      value: of a row, by which the best is found; NaN if unknown.
    """

    header: str
    cell: Callable[[Row, bool], str]
    metric: str = ""
    value: Callable[[Row], float] = lambda _: math.nan


def latex(comparisons: Sequence[Comparison], look: TableOptions = PLAIN) -> str:
    r"""Writes a table for each comparison, to be included with ``\input``.

    Args:
      comparisons: one table each, followed by its verdicts as comments.
      look: how they are shown.
    """
    tables = "\n".join(_latex_table(comparison, look) for comparison in comparisons)
    return f"% Requires \\usepackage{{booktabs}}.\n{tables}"


def _latex_table(comparison: Comparison, look: TableOptions) -> str:
    rows = last_rows(comparison)
    columns = _columns(comparison, rows, look)
    bold = _winners(comparison, rows, columns)
    body = (
        [column.cell(row, (column.metric, row.label) in bold) for column in columns] for row in rows
    )
    comments = [f"Verdict: {sentence(verdict)}" for verdict in every_verdict(comparison)]
    comments += doubts(comparison)
    lines = [
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{_caption(comparison, rows)}{_bold_note(comparison, bold)}}}",
        f"  \\label{{tab:{'-'.join(dict.fromkeys(row.run.name for row in rows))}}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"    \toprule",
        _line([column.header for column in columns]),
        r"    \midrule",
        *map(_line, body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
        *(f"% {comment}" for comment in comments),
    ]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _columns(comparison: Comparison, rows: Sequence[Row], look: TableOptions) -> list[LatexColumn]:
    metric, digits, times = comparison.metric, look.precision, [row.train_s.mean for row in rows]
    columns = [LatexColumn("Parameters", lambda row, _: f"{row.num_params:,}")]
    if comparison.validates:
        columns.append(_metric_column(metric, f"validation_{metric}", lambda row: row.value, look))
    columns.append(_metric_column(f"{TEST}{metric}", f"{TEST}{metric}", lambda row: row.test, look))
    if any(row.code for row in rows):
        columns.append(_metric_column(CODE, CODE, lambda row: row.code, look))
    columns.append(
        LatexColumn(
            "Time per epoch",
            lambda row, _: _quantity(seconds_text(row.train_s.mean, digits, times)),
        )
    )
    if look.only_changed:
        judged = comparison.verdicts[0].metric if comparison.verdicts else comparison.shown_metric
        columns = [
            column
            for column in columns
            if column.metric == judged or len({column.cell(row, False) for row in rows}) > 1
        ]
    return [LatexColumn("Network", lambda row, _: escape_latex(row.label)), *columns]


def _metric_column(
    metric: str, name: str, of: Callable[[Row], Estimate | None], look: TableOptions
) -> LatexColumn:
    """Makes the column of a metric.

    Args:
      metric: as verdicts name it.
      name: as the header names it.
      of: its values in a row; None if the run has none.
      look: how it is shown.
    """
    unit = r" (\%)" if is_fraction(metric) else ""

    def cell(row: Row, bold: bool) -> str:
        if (found := of(row)) is None:
            return "--"
        if math.isnan(found.mean):
            return escape_latex(row.lost or "NaN")
        return _number(estimate_text(metric, found, look.precision), bold=bold)

    def value(row: Row) -> float:
        return found.mean if (found := of(row)) else math.nan

    return LatexColumn(f"{heading(name)}{unit}", cell, metric, value)


def _number(text: str, *, bold: bool) -> str:
    r"""Typesets a number with its spread.

    >>> _number("95.58 ± 0.51%", bold=False), _number("1.2e-05 ± <0.1", bold=True)
    ('$95.58 \\pm 0.51$', '$\\mathbf{1.2 \\times 10^{-5} \\pm {<}0.1}$')
    """
    text = re.sub(r"e([+-])0*(\d+)", _power, text.removesuffix("%"))
    text = text.replace("±", r"\pm").replace("<", "{<}").replace(",", "{,}")
    return f"$\\mathbf{{{text}}}$" if bold else f"${text}$"


def _power(found: re.Match[str]) -> str:
    return f" \\times 10^{{{found[1].removeprefix('+')}{found[2]}}}"


def _quantity(text: str) -> str:
    """Puts a thin space between a number and its unit."""
    return escape_latex(text).replace(" ", r"\,")


def _winners(
    comparison: Comparison, rows: Sequence[Row], columns: Sequence[LatexColumn]
) -> set[tuple[str, str]]:
    """Finds what is bold: metric and label of the best means that verdicts confirm."""
    found = set()
    groups = (
        (comparison.verdicts, comparison.direction is Direction.HIGHER),
        (comparison.code_verdicts, True),
    )
    for verdicts, higher in groups:
        for column in (c for c in columns if verdicts and c.metric == verdicts[0].metric):
            values = {row.label: column.value(row) for row in rows}
            known = {label: value for label, value in values.items() if math.isfinite(value)}
            best = (max if higher else min)(known, key=known.__getitem__, default="")
            if _is_confirmed(best, verdicts):
                found.add((column.metric, best))
    return found


def _is_confirmed(best: str, verdicts: Sequence[Verdict]) -> bool:
    """Tests whether the best differs from the baseline, or as the baseline from all others."""
    if best == verdicts[0].baseline:
        return all(verdict.finding is Finding.WORSE for verdict in verdicts)
    return any(v.label == best and v.finding is Finding.BETTER for v in verdicts)


def _caption(comparison: Comparison, rows: Sequence[Row]) -> str:
    data = comparison.dataset
    held_out = f" {data.num_validation:,} validation" if comparison.validates else ""
    comma = "," if held_out else ""
    sizes = f"{data.num_train:,} training{comma}{held_out} and {data.num_test:,} test images"
    last = max(row.run.epochs for row in rows)
    epochs = "/".join(map(str, sorted({row.run.epochs for row in rows})))
    seeds = sorted({len(row.run.seeds) for row in rows})
    counts = "/".join(map(str, seeds))
    over = "one seed" if seeds == [1] else f"mean ± standard deviation over {counts} seeds"
    words = "epoch" if last == 1 else "epochs"
    most = "at most " if any(row.run.stop_metric for row in rows) else ""
    split = "; ".join(dict.fromkeys(row.run.split_text for row in rows if row.run.split_text))
    sizes += f"; {split}" if split else ""
    return escape_latex(f"{data.title}: {sizes}; {most}{epochs} {words}; {over}.")


def _bold_note(comparison: Comparison, bold: set[tuple[str, str]]) -> str:
    if not bold:
        return ""
    verdict = every_verdict(comparison)[0]
    if all(label == verdict.baseline for _, label in bold):
        text = "Bold: best mean; all others are significantly worse"
    else:
        text = f"Bold: best mean, significantly better than {verdict.baseline}"
    return f" {escape_latex(text)} ($p \\le {verdict.alpha:g}$)."
