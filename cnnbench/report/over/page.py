"""Comparisons at several values of a key as an HTML page: what they say together comes first."""

from collections.abc import Sequence

from cnnbench.comparisons.over.points import OverComparison, value_text
from cnnbench.comparisons.verdict import Finding
from cnnbench.formatting import clean
from cnnbench.report.html import (
    Drawing,
    HtmlTable,
    OverSection,
    Section,
    bare_section,
    rendered_page,
    report_section,
)
from cnnbench.report.over.picture import over_picture, over_title
from cnnbench.report.over.series import picture_words
from cnnbench.report.over.table import conclusions, datasets_grid, over_grid, over_notes
from cnnbench.report.plots.svg import inline_svg
from cnnbench.report.run_artifacts import RunArtifacts
from cnnbench.report.sweeps.section import SweepSection
from cnnbench.runs.over import DATASET
from cnnbench.runs.records import RunResult


def over_table_page(over: OverComparison) -> str:
    """Renders what the comparisons say together, and the tables at each value."""
    sections = [bare_section(each, number) for number, each in enumerate(over.comparisons)]
    return rendered_page(_named(sections, over), over=over_section(over))


def over_report_page(
    over: OverComparison,
    runs: Sequence[RunResult],
    artifacts: Sequence[RunArtifacts],
    *,
    title: str = "",
    author_notes: str = "",
    sweeps: Sequence[SweepSection] = (),
) -> str:
    """Renders what the comparisons say together, and the report at each value.

    Args:
      over: the comparisons.
      runs: the runs compared.
      artifacts: of every run.
      title: of the page; the networks and the key if empty.
      author_notes: HTML of the author's notes, which must be safe.
      sweeps: those that the runs were trained for.
    """
    sections = [
        report_section(each, number, runs, artifacts)
        for number, each in enumerate(over.comparisons)
    ]
    named = _named(sections, over)
    return rendered_page(named, title, author_notes, over_section(over), sweeps)


def _named(sections: Sequence[Section], over: OverComparison) -> list[Section]:
    """The sections with the value of the key in their headings, unless that is the dataset."""
    if over.key == DATASET:
        return list(sections)
    return [
        section._replace(heading=f"{over.short}={value_text(value)}: {section.heading}")
        for section, value in zip(sections, over.values, strict=True)
    ]


def over_section(over: OverComparison) -> OverSection:
    """What a page shows of the comparisons together."""
    said, found = conclusions(over), over.datasets
    judged = [sentence.removeprefix("Verdict: ") for sentence in said[: len(over.sentences)]]
    title = over_title(over)
    svg = inline_svg(over_picture(over, "svg", texts=False), "over", picture_words(over), 1.2)
    return OverSection(
        heading=title,
        verdicts=[
            (finding_over([row.verdict.finding for row in over.rows_of(label)]), sentence)
            for label, sentence in zip(over.labels, judged, strict=True)
        ],
        remarks=said[len(judged) :],
        picture=Drawing(svg, title),
        table=_table(f"Difference by {over.short}", over_grid(over)),
        datasets=_table("Ranks and mean differences over datasets", datasets_grid(over, found))
        if found
        else None,
        notes=over_notes(over),
    )


def _table(caption: str, grid: Sequence[Sequence[str]]) -> HtmlTable:
    headers, *rows = grid
    return HtmlTable(clean(caption), headers, rows)


def finding_over(findings: Sequence[Finding]) -> str:
    """The findings at all values in a few words.

    >>> finding_over([Finding.BETTER, Finding.BETTER]), finding_over([Finding.NONE])
    ('better', 'no difference detected')
    >>> finding_over([Finding.BETTER, Finding.WORSE, Finding.NONE])
    'the sign changes'
    >>> finding_over([Finding.BETTER, Finding.NONE, Finding.NONE])
    'better at 1 of 3'
    """
    kinds = dict.fromkeys(findings)
    if len(kinds) == 1:
        return str(findings[0])
    decided = [finding for finding in kinds if finding.differs]
    match decided:
        case []:
            return str(Finding.NONE)
        case [one]:
            return f"{one} at {findings.count(one)} of {len(findings)}"
    return "the sign changes"
