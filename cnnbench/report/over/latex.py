r"""Comparisons at several values of a key as LaTeX tables with the rules of booktabs."""

import re
from collections.abc import Iterator, Sequence

from cnnbench.comparisons.over.points import OverComparison, PointRow
from cnnbench.formatting import clean, enumeration
from cnnbench.report.latex import escape_latex
from cnnbench.report.over.table import Grid, conclusions, datasets_grid, over_grid
from cnnbench.spec.metrics import is_fraction, words

_SIGNED = re.compile(r"(?<!\S)[+-]\d[\d.,]*(?:e([+-]?\d+))?(?!\S)")
_OMITTED = "Finding"  # in bold instead


def latex_over(over: OverComparison) -> str:
    r"""Writes the tables, to be included with ``\input``, with what they say as comments."""
    bold = [row.verdict.finding.differs for row in over.rows]
    tables = [_table(_without(over_grid(over), _OMITTED), _caption(over), _label(over), bold)]
    if over.datasets:
        caption = f"Average ranks and mean differences over {over.datasets.datasets} datasets."
        grid = datasets_grid(over, over.datasets)
        tables.append(_table(grid, escape_latex(caption), f"{_label(over)}-ranks", ()))
    comments = "".join(f"% {line}\n" for line in conclusions(over))
    first = "% Requires \\usepackage{booktabs}.\n"
    return "\n".join([first + tables[0], *tables[1:]]) + comments


def _without(grid: Grid, header: str) -> Grid:
    place = list(grid[0]).index(header)
    return [[cell for number, cell in enumerate(row) if number != place] for row in grid]


def _label(over: OverComparison) -> str:
    names = dict.fromkeys(row.run.name for row in over.comparisons[0].rows)
    return f"tab:{'-'.join(names)}-over-{over.short.replace('_', '-').replace('.', '-')}"


def _caption(over: OverComparison) -> str:
    base = clean(over.rows[0].verdict.baseline)
    text = f"{words(over.metric)} of {enumeration([*map(clean, over.labels)])} and {base} by"
    seeds = sorted({len(row.run.values) for row in over.rows})
    count = "/".join(map(str, seeds))
    unit = " in points" if is_fraction(over.metric) else ""
    how = f"differences{unit} with confidence intervals, p-values adjusted for all rows"
    caption = escape_latex(f"{text} {over.short}; mean over {count} seeds; {how}.")
    return f"{caption[0].upper()}{caption[1:]}{_bold_note(over.rows)}"


def _bold_note(rows: Sequence[PointRow]) -> str:
    if not any(row.verdict.finding.differs for row in rows):
        return ""
    return f" Bold: significant ($p \\le {rows[0].verdict.alpha:g}$)."


def _table(grid: Grid, caption: str, label: str, bold: Sequence[bool]) -> str:
    headers, *rows = grid
    place = headers.index("Difference") if bold else -1
    names = headers.index("Type") + 1 if "Type" in headers else 1
    marks = [*bold] or [False] * len(rows)
    lines = [
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{caption}}}",
        f"  \\label{{{label}}}",
        f"  \\begin{{tabular}}{{{'l' * names}{'r' * (len(headers) - names)}}}",
        r"    \toprule",
        _line(map(escape_latex, headers)),
        r"    \midrule",
        *(_line(_cells(row, place if mark else -1)) for row, mark in zip(rows, marks, strict=True)),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _line(cells: Iterator[str] | Sequence[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _cells(row: Sequence[str], bold: int) -> Iterator[str]:
    first, *others = row
    yield escape_latex(first)
    for number, cell in enumerate(others, start=1):
        yield _cell(cell, bold=number == bold)


def _cell(text: str, *, bold: bool = False) -> str:
    r"""Typesets signed numbers as mathematics.

    >>> _cell("-1.00 to +2.00"), _cell("+15.10", bold=True), _cell("<0.001"), _cell("99.10%")
    ('$-1.00$ to $+2.00$', '$\\mathbf{+15.10}$', '$<0.001$', '99.10\\%')
    """
    if text.startswith("<"):
        return f"${text}$"
    numbers = _SIGNED.sub(lambda found: f"${_power(found[0])}$", text)
    if bold:
        return re.sub(r"\$([^$]+)\$", r"$\\mathbf{\1}$", numbers)
    return numbers if numbers != text else escape_latex(text)


def _power(number: str) -> str:
    r"""Writes an exponent as a power of ten.

    >>> _power("-1.2e-05"), _power("+0.5")
    ('-1.2 \\times 10^{-5}', '+0.5')
    """
    base, _, exponent = number.partition("e")
    return f"{base} \\times 10^{{{int(exponent)}}}" if exponent else base
