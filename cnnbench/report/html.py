"""Comparisons as one HTML page that needs no other file and runs no script."""

import textwrap
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from cnnbench.compare.comparison import Comparison
from cnnbench.compare.learning_curves import (
    bands_text,
    costs_text,
    curves,
    curves_text,
    last_rows,
    runs_of,
)
from cnnbench.compare.verdict import Verdict
from cnnbench.compare.verdict_text import sentence, size
from cnnbench.formatting import clean, enumeration, epochs_text
from cnnbench.report import page_parts
from cnnbench.report.comparison import cost_grid, every_verdict, grid, notes, warning_lines
from cnnbench.report.page_parts import Drawing, HtmlTable, Matrix, Plate
from cnnbench.report.plots import charts
from cnnbench.report.plots.charts import Chart, Shown
from cnnbench.report.plots.svg import inline_svg
from cnnbench.report.run_artifacts import Exhibit
from cnnbench.runs.records import RunResult
from cnnbench.spec.diff import differences
from cnnbench.spec.metrics import heading, metric_text, words


class RunSection(NamedTuple):
    """Section of the page on one run: pictures, mistakes, its file, what is missing.

    `changes` is what sets it apart from the first network that is drawn; None for that one.
    """

    label: str
    architecture: Drawing | None
    changes: Sequence[str] | None
    kernels: Sequence[Plate]
    matrix: Matrix | None
    mistakes: Sequence[Plate]
    reconstructions: Plate | None
    latent: Plate | None
    source: str
    judged: str
    remarks: Sequence[str]


class Pictures(NamedTuple):
    """The pictures of a comparison and the tables behind them."""

    differences: Drawing | None
    curves: Sequence[Drawing]
    curves_grid: HtmlTable
    costs: Sequence[Drawing]
    costs_grid: HtmlTable
    bands: str
    parts: Sequence[RunSection]
    seeds: HtmlTable
    environment: HtmlTable


class Section(NamedTuple):
    """One comparison on the page; `verdicts` are findings and sentences."""

    anchor: str
    heading: str
    verdicts: Sequence[tuple[str, str]]
    table: HtmlTable
    expenses: HtmlTable | None
    remarks: Sequence[str]
    doubts: Sequence[str]
    notes: Sequence[str]
    contradictions: Sequence[str]
    pictures: Pictures | None = None


def table_page(comparisons: Sequence[Comparison]) -> str:
    """Verdicts and tables.

    Args:
      comparisons: at least one.
    """
    return _render([_section(comparison, number) for number, comparison in enumerate(comparisons)])


def report_page(
    comparisons: Sequence[Comparison], runs: Sequence[RunResult], exhibits: Sequence[Exhibit]
) -> str:
    """Verdicts, tables, charts, and what there is to see of every run.

    Runs that stand beside others come first.

    Args:
      comparisons: at least one.
      runs: what they are made of.
      exhibits: of every run.
    """
    sections = []
    ordered = sorted(comparisons, key=lambda comparison: not comparison.verdicts)
    for number, comparison in enumerate(ordered):
        section = _section(comparison, number)
        pictures = _pictures(section.anchor, comparison, runs, exhibits)
        sections.append(section._replace(pictures=pictures))
    return _render(sections)


def _render(sections: Sequence[Section]) -> str:
    import jinja2

    from cnnbench._version import __version__

    def read(name: str) -> str:
        return (files("cnnbench.report") / "templates" / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,  # titles come from users' files
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = "; ".join(section.heading for section in sections)
    return environment.get_template("report.html.j2").render(
        title=textwrap.shorten(title, 120, placeholder=" ..."),
        sections=sections,
        version=__version__,
    )


def _section(comparison: Comparison, number: int) -> Section:
    headers, *rows = grid(comparison, wide=True)
    doubts = warning_lines(comparison)
    expenses = (found[0], found[1:]) if (found := cost_grid(comparison)) else None
    labels = [clean(row.label) for row in last_rows(comparison)]
    some = f"{len(labels)} networks" if len(labels) > 3 else enumeration(labels)
    metric = heading(comparison.shown_metric)
    return Section(
        anchor=f"c{number + 1}",
        heading=f"{some} on {comparison.dataset.name}",
        verdicts=_verdicts(comparison),
        table=HtmlTable(f"{metric} and time", headers, rows),
        expenses=HtmlTable("Costs", *expenses) if expenses else None,
        remarks=[clean(remark) for remark in comparison.remarks],
        doubts=doubts,
        notes=[note for note in notes(comparison, wide=True) if note not in doubts],
        contradictions=[*map(clean, comparison.contradictions)],
    )


def _verdicts(comparison: Comparison) -> list[tuple[str, str]]:
    """What was found, in a word or two, and its sentence."""
    if judged := every_verdict(comparison):
        return [(verdict.finding.value, sentence(verdict)) for verdict in judged]
    row = last_rows(comparison)[0]
    value = metric_text(comparison.metric, row.value.mean)
    reached = f"{clean(row.label)} reaches {words(comparison.shown_metric)} {value}"
    return [
        (
            "one run",
            f"{reached} after {epochs_text(row.epoch)}; there is nothing to judge it beside.",
        )
    ]


def _pictures(
    anchor: str,
    comparison: Comparison,
    runs: Sequence[RunResult],
    exhibits: Sequence[Exhibit],
) -> Pictures:
    shown = Shown(comparison, curves(comparison, runs))
    drawings = {chart: _chart(chart, shown, anchor) for chart in shown.charts()}
    labelled = [(row.label, run) for row, run in runs_of(comparison, runs)]
    known = {(e.label, e.run.record.name, e.run.record.run_id): e for e in exhibits}
    own = [known[label, run.record.name, run.record.run_id] for label, run in labelled]
    return Pictures(
        differences=drawings.get(Chart.DIFFERENCES),
        curves=[drawings[c] for c in (Chart.EPOCHS, Chart.TIME) if c in drawings],
        curves_grid=page_parts.curves_grid(shown.curves, comparison),
        costs=[drawings[c] for c in (Chart.EPOCH_COST, Chart.PARAMETERS) if c in drawings],
        costs_grid=page_parts.costs_grid(comparison),
        bands=bands_text(shown.curves),
        parts=_parts(own, anchor, comparison),
        seeds=page_parts.seeds_grid(labelled, comparison.metric),
        environment=page_parts.environment_grid(labelled),
    )


def _chart(chart: Chart, shown: Shown, anchor: str) -> Drawing:
    name = f"{anchor}-{chart.name.lower().replace('_', '-')}"
    svg = inline_svg(charts.picture([chart], shown, "svg"), name, _words_of(chart, shown), 1.2)
    if chart is Chart.DIFFERENCES:
        return Drawing(svg, chart.value, page_parts.differences_grid(shown.comparison))
    return Drawing(svg, chart.value)


def _words_of(chart: Chart, shown: Shown) -> str:
    """What a chart shows."""
    match chart:
        case Chart.EPOCHS | Chart.TIME:
            return curves_text(shown.curves, shown.comparison, by_time=chart is Chart.TIME)
        case Chart.EPOCH_COST | Chart.PARAMETERS:
            return costs_text(shown.comparison, by_time=chart is Chart.EPOCH_COST)
        case Chart.DIFFERENCES:
            return " ".join(map(_differences_text, shown.comparison.verdicts))


def _differences_text(verdict: Verdict) -> str:
    each = [size(verdict.metric, difference).split()[0] for difference in verdict.differences]
    seeds = f"seed by seed {enumeration(each)}" if each else "no seed in common"
    mean = size(verdict.metric, verdict.difference)
    pair = f"{clean(verdict.label)} minus {clean(verdict.baseline)}"
    return f"{pair}: {words(verdict.metric)} {mean} in the mean, {seeds}."


def _parts(own: Sequence[Exhibit], anchor: str, comparison: Comparison) -> list[RunSection]:
    """The baseline's network is drawn; of the others it is said what differs from it."""
    baseline = comparison.verdicts[0].baseline if comparison.verdicts else None
    drawn = sorted((e for e in own if e.loaded), key=lambda e: e.label != baseline)
    base = drawn[0] if drawn else None
    return [_part(e, f"{anchor}-n{i}", base) for i, e in enumerate(own)]


def _part(shown: Exhibit, name: str, base: Exhibit | None) -> RunSection:
    picture, found = shown.reconstructions, None
    if base and base.loaded and shown.loaded and shown is not base:
        found = differences(base.loaded, shown.loaded)
    marks = found.marks if found else {}
    judged = shown.judged[0] if shown.judged else shown.seed
    return RunSection(
        label=clean(shown.label),
        architecture=page_parts.architecture(shown, name, marks),
        changes=(found.lines or ("nothing",)) if found else None,
        kernels=[page_parts.kernels_plate(shown, kernels) for kernels in shown.kernels],
        matrix=page_parts.matrix(shown),
        mistakes=[page_parts.mistake_plate(mistake) for mistake in shown.mistakes],
        reconstructions=page_parts.reconstructions_plate(shown, picture) if picture else None,
        latent=page_parts.latent_plate(shown, shown.latent) if shown.latent else None,
        source=shown.loaded.text.decode("utf-8", "replace") if shown.loaded else "",
        judged=f"{len(shown.judged)} seeds" if shown.judged[1:] else f"seed {judged}",
        remarks=shown.remarks,
    )
