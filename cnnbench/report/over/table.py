"""Comparisons at several values of a key as tables in the terminal and in Markdown."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnnbench.comparisons.over.datasets import DatasetSummary
from cnnbench.comparisons.over.points import OverComparison, PointRow, value_text
from cnnbench.comparisons.verdict_text import better_text, how_lines, interval_text, size
from cnnbench.formatting import MISSING, clean, enumeration, escape_markdown
from cnnbench.report.table import WrappedTable, markdown_table
from cnnbench.spec.metrics import is_fraction, metric_text, words

if TYPE_CHECKING:
    from rich.console import Group

Grid = Sequence[Sequence[str]]  # the first row has the headers


def terminal_over(over: OverComparison) -> "Group":
    """Returns tables for a terminal, with what the verdicts say together, and notes."""
    from rich.console import Group
    from rich.text import Text

    names = 2 if len(over.labels) > 1 else 1
    parts: list[WrappedTable | Text] = [_rich(over_grid(over), names)]
    if over.datasets:
        parts += [Text(""), _rich(datasets_grid(over, over.datasets))]
    said = [Text(line, style="bold") for line in conclusions(over)]
    parts += [part for line in said for part in (Text(""), line)]
    return Group(*parts, Text(""), Text("\n".join(over_notes(over)), style="dim"))


def markdown_over(over: OverComparison) -> str:
    """Formats the tables in Markdown, with what the verdicts say together, and notes as a list."""
    tables = [over_grid(over), *([datasets_grid(over, over.datasets)] if over.datasets else [])]
    said = "".join(f"{escape_markdown(line)}\n\n" for line in conclusions(over))
    notes = "".join(f"- {escape_markdown(line)}\n" for line in over_notes(over))
    return "\n".join([*map(_markdown, tables), f"{said}{notes}"])


def conclusions(over: OverComparison) -> tuple[str, ...]:
    """What the verdicts say together, and whether the difference depends on the key."""
    lines = [f"Verdict: {sentence}" for sentence in over.sentences]
    for label, p in zip(over.labels, over.changes, strict=True):
        if p is not None:
            depends = "depends" if p <= over.rows[0].verdict.alpha else "may or may not depend"
            whose = f" of {clean(label)}" if len(over.labels) > 1 else ""
            lines.append(
                f"The difference{whose} {depends} on {over.short} ({_p_text(p)}, Welch's test that"
                " it is the same everywhere)."
            )
    remarks = [
        f"{over.short}={value_text(value)}: {clean(remark)}"
        for value, comparison in zip(over.values, over.comparisons, strict=True)
        for remark in (*comparison.contradictions, *comparison.remarks)
    ]
    lines += _dataset_lines(over, over.datasets) if over.datasets else []
    return (*lines, *filter(None, [over.grounds]), *remarks)


def over_grid(over: OverComparison) -> Grid:
    """A row for each value and experiment but the baseline."""
    several = len(over.labels) > 1
    run = "Run" if several else clean(over.labels[0])
    base = clean(over.rows[0].verdict.baseline)
    headers = [over.short, *(["Type"] if several else []), base, run]
    headers += ["Difference", "CI", "p", "P(better)", "Finding"]
    return [headers, *(_cells(row, several=several) for row in over.rows)]


def _cells(row: PointRow, *, several: bool) -> list[str]:
    verdict = row.verdict
    finite = math.isfinite(verdict.difference)
    return [
        value_text(row.value),
        *([clean(verdict.label)] if several else []),
        *(metric_text(verdict.metric, each.mean) for each in (row.base, row.run)),
        size(verdict.metric, verdict.difference).split()[0] if finite else MISSING,
        interval_text(verdict.metric, verdict.interval) if finite else MISSING,
        MISSING if verdict.p is None else _p_value(verdict.p),
        better_text(row.improvement) if row.improvement else MISSING,
        str(verdict.finding),
    ]


def _p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def datasets_grid(over: OverComparison, summary: DatasetSummary) -> Grid:
    """A row for each experiment: its average rank, and its mean difference from the baseline."""
    tested = summary.friedman is not None
    headers = ["Type", "Rank", "Mean difference", "CI, these datasets", "CI, datasets like these"]
    rows = [[*headers, *(["p (ranks)"] if tested else [])]]
    for row in summary.rows:
        cells = [clean(row.label), f"{row.rank:.2f}"]
        pooled = row.pooled
        if pooled is None:
            cells += ["baseline", "", ""]
        else:
            found = (pooled.these, pooled.others)
            cells += [size(over.metric, pooled.mean).split()[0]]
            cells += [interval_text(over.metric, each) for each in found]
        rows.append([*cells, *([MISSING if row.p is None else _p_value(row.p)] if tested else [])])
    return rows


def _dataset_lines(over: OverComparison, summary: DatasetSummary) -> list[str]:
    lines = []
    if summary.friedman:
        statistic, p = summary.friedman
        differ = "differ" if p <= summary.alpha else "do not differ detectably"
        lines.append(
            f"The average ranks {differ} (Friedman's test: {statistic:.2f}, {_p_text(p)});"
            f" Nemenyi's critical difference is {summary.critical:.2f}."
        )
        groups = [enumeration([*map(clean, group)]) for group in summary.groups]
        if groups:
            lines.append(f"Not told apart by rank: {'; '.join(groups)}.")
    for row in summary.rows:
        if row.pooled and row.pooled.between is not None:
            spread = size(over.metric, row.pooled.between).lstrip("+")
            lines.append(
                f"The true difference of {clean(row.label)} varies over datasets by about {spread}"
                " (standard deviation, without the noise of the seeds)."
            )
    return lines


def over_notes(over: OverComparison) -> tuple[str, ...]:
    """Footnotes of the table."""
    first = over.comparisons[0]
    images = "test" if over.metric.startswith("test_") else first.dataset.judged_on
    seeds = sorted({len(row.run.values) for row in over.rows})
    count = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    how = how_lines([row.verdict for row in over.rows])
    unit = "; differences in points" if is_fraction(over.metric) else ""
    lines = [
        f"{words(over.metric).capitalize()} on the {images} images, mean over {count} seeds{unit}.",
        *(line for line in how if line.startswith("Verdicts:")),
        "P(better): probability that a random seed beats one of the baseline (Mann-Whitney;"
        f" {100 * (1 - over.rows[0].verdict.alpha):g}% interval by Newcombe's method).",
    ]
    if over.datasets:
        lines.append(
            "Datasets count the same. These datasets: only seeds are random; datasets like these:"
            " Student's t over the datasets' differences."
        )
        if over.datasets.friedman:
            adjusted = "Holm-adjusted, and at least Friedman's p"
            lines.append(f"p (ranks): Conover's test against the baseline, {adjusted}.")
    return tuple(lines)


def _rich(grid: Grid, names: int = 1) -> WrappedTable:
    """A terminal table whose first columns are names."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    headers, *rows = grid
    for header in headers[:names]:
        table.add_column(Text(header))
    for header, cells in zip(headers[names:], list(zip(*rows, strict=True))[names:], strict=True):
        whole = any(sign in cell for cell in cells for sign in "+%.")
        table.add_column(Text(header), justify="right", no_wrap=whole)
    for row in rows:
        table.add_row(*map(Text, row))
    return WrappedTable(table, names)


def _markdown(grid: Grid) -> str:
    headers, *rows = [[escape_markdown(cell) for cell in row] for row in grid]
    return markdown_table(headers, rows)
