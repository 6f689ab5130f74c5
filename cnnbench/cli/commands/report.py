"""``cnnbench plot`` and ``cnnbench report``: comparisons as charts and as an HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.commands.compare import side_by_side
from cnnbench.cli.options import (
    All,
    Alpha,
    Baseline,
    DataDir,
    MetricOption,
    MinEffect,
    OverOption,
    ResultsDir,
    Runs,
    TestOption,
    Verbose,
    test_name,
)
from cnnbench.cli.over import judged_over, refuse_with_over, selected_over
from cnnbench.cli.terminal import PICTURES, computing, file_form, stderr, warn, write_file
from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.learning_curves import runs_of
from cnnbench.comparisons.sweeps.results import sweeps_of
from cnnbench.comparisons.verdict import Criteria
from cnnbench.comparisons.verdict_text import parse_effect
from cnnbench.data.splits import Split
from cnnbench.errors import UsageError
from cnnbench.formatting import clean
from cnnbench.report.author_notes import read_notes
from cnnbench.report.comparison import doubts
from cnnbench.report.html import report_page
from cnnbench.report.over.page import over_report_page
from cnnbench.report.over.picture import over_picture
from cnnbench.report.plots.charts import comparison_picture
from cnnbench.report.run_artifacts import RunArtifacts, read_artifacts
from cnnbench.report.sweeps.section import SweepSection, sweep_section
from cnnbench.runs.find import Selection


def draw_plot(  # noqa: PLR0913, PLR0917 - one parameter per option
    runs: Runs = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Image file to write, .svg or .png.", metavar="FILE"),
    ] = Path("comparison.svg"),
    baseline: Baseline = None,
    metric: MetricOption = None,
    alpha: Alpha = 0.05,
    min_effect: MinEffect = "0",
    test: TestOption = None,
    over: OverOption = None,
    verbose: Verbose = False,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Plot learning curves, costs and differences of runs."""
    form = file_form("--output", output, PICTURES)
    criteria = Criteria(baseline, metric, alpha, parse_effect(min_effect), test=test_name(test))
    if over is not None and len(runs or ()) != 1:
        found = judged_over(runs, over, criteria, results_dir)
        write_file("--output", output, over_picture(found, form))
        return
    comparisons, selection = side_by_side(runs, criteria, results_dir, over=over)
    warn(selection.warnings)
    (comparison,) = comparisons
    for line in doubts(comparison, verbose=verbose):
        stderr().print(line, markup=False, highlight=False)
    write_file("--output", output, comparison_picture(comparison, selection.runs, form))


def write_report(  # noqa: PLR0913, PLR0917 - one parameter per option
    runs: Runs = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="HTML file to write.", metavar="FILE")
    ] = Path("report.html"),
    title: Annotated[
        str | None,
        typer.Option(
            help="Title of the page; default: the networks and the dataset.",
            metavar="TEXT",
            show_default=False,
        ),
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option(
            help="Markdown file to include below the verdict, with its images.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    baseline: Baseline = None,
    metric: MetricOption = None,
    alpha: Alpha = 0.05,
    min_effect: MinEffect = "0",
    test: TestOption = None,
    over: OverOption = None,
    every: All = False,
    results_dir: ResultsDir = Path("results"),
    data_dir: DataDir = None,
) -> None:
    """Write a self-contained HTML report of runs."""
    if title is not None and not clean(title):
        raise UsageError("--title: is empty; write a title, or omit the option.")
    author_notes = read_notes(notes) if notes else ""
    criteria = Criteria(baseline, metric, alpha, parse_effect(min_effect), test=test_name(test))
    options = {"title": title or "", "author_notes": author_notes}
    if over is not None and len(runs or ()) != 1:
        refuse_with_over({"--all": every})
        together, selection = selected_over(runs, over, criteria, results_dir)
        with computing():
            artifacts = _artifacts(together.comparisons, selection, data_dir)
        page = over_report_page(
            together,
            selection.runs,
            artifacts,
            sweeps=_sweeps(selection, results_dir, metric),
            **options,
        )
    else:
        comparisons, selection = side_by_side(
            runs, criteria, results_dir, every=every, command="report", over=over
        )
        warn(selection.warnings)
        with computing():
            artifacts = _artifacts(comparisons, selection, data_dir)
        page = report_page(
            comparisons,
            selection.runs,
            artifacts,
            sweeps=_sweeps(selection, results_dir, metric),
            **options,
        )
    write_file("--output", output, page.encode("utf-8", "backslashreplace"))


def _sweeps(selection: Selection, results_dir: Path, metric: str | None) -> list[SweepSection]:
    """A section for each sweep that the runs were trained for."""
    found = sweeps_of(selection.runs, results_dir, metric)
    gone = [name for name, result in found.items() if result is None]
    warn([f"the report does not show sweep {name}: its plan was deleted" for name in gone])
    return [sweep_section(result, results_dir) for result in found.values() if result]


def _artifacts(
    comparisons: Sequence[Comparison], selection: Selection, data_dir: Path | None
) -> list[RunArtifacts]:
    """Collects the artifacts of every run."""
    folders = {
        (run.record.name, run.record.run_id): path
        for run, path in zip(selection.runs, selection.paths, strict=True)
    }
    tests: dict[str, Split] = {}
    return [
        read_artifacts(run, row.label, folders[run.record.name, run.record.run_id], data_dir, tests)
        for comparison in comparisons
        for row, run in runs_of(comparison, selection.runs)
    ]
