"""``cnnbench sweep`` shows the trials of a sweep; ``cnnbench confirm`` trains its winner again."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.options import (
    AllowPython,
    Alpha,
    DataDir,
    Device,
    DeviceOption,
    Engine,
    EngineOption,
    Format,
    MetricOption,
    MinEffect,
    Quiet,
    ResultsDir,
)
from cnnbench.cli.parser import App
from cnnbench.cli.terminal import (
    PICTURES,
    file_form,
    print_document,
    reports_errors,
    stderr,
    stdout,
    tell,
    write_file,
)
from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.sweeps.results import SweepResult, read_sweep, sorted_by
from cnnbench.comparisons.verdict import Criteria
from cnnbench.comparisons.verdict_text import parse_effect
from cnnbench.report.comparison import terminal_table
from cnnbench.report.sweeps.charts import terminal_charts
from cnnbench.report.sweeps.files import csv_sweep, json_sweep, latex_sweep, markdown_sweep
from cnnbench.report.sweeps.page import sweep_page
from cnnbench.report.sweeps.table import failures, next_steps, terminal_sweep
from cnnbench.report.table import terminal_grid
from cnnbench.runs.find import list_runs
from cnnbench.runs.sweeps.plans import find_plan, read_plans, trained_runs

sweep_app = App(help="List sweeps, and show their trials ranked.", no_args_is_help=True)

SweepName = Annotated[
    str | None,
    typer.Argument(
        help="Id of a sweep, or an experiment's name for its newest; default: the newest of all.",
        metavar="SWEEP|NAME",
        show_default=False,
    ),
]


@sweep_app.command(name="list")
@reports_errors
def sweep_list(results_dir: ResultsDir = Path("results")) -> None:
    """List sweeps, oldest first."""
    plans = read_plans(results_dir)
    if not plans:
        tell(f"no sweeps in {results_dir}")
        return
    rows, entries = [], list_runs(results_dir).entries
    for plan in plans:
        found = [entry for row in trained_runs(plan, entries) for entry in row]
        done = f"{sum(entry is not None for entry in found)} of {len(found)}"
        at = f"{plan.created_at:%Y-%m-%d %H:%M}"
        rows.append([plan.sweep, at, done, " ".join(plan.names), " ".join(plan.short_keys)])
    header = ["Sweep", "Started", "Trained", "Experiments", "Keys"]
    stdout().print(terminal_grid(header, rows))


@sweep_app.command(name="show")
@reports_errors
def sweep_show(
    sweep: SweepName = None,
    metric: MetricOption = None,
    sort_by: Annotated[
        str | None,
        typer.Option(
            help="Sort by a column: trial, time, or a key such as learning_rate; default: the"
            " best trial first.",
            metavar="COLUMN",
            show_default=False,
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="Output format.")] = Format.TABLE,  # noqa: A002
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write a picture (.svg, .png) or a page (.html) instead.",
            metavar="FILE",
        ),
    ] = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Show the trials of a sweep: table, expected best, response curves and heat map."""
    plan = find_plan(sweep, results_dir)
    result = read_sweep(plan, results_dir, metric)
    if sort_by is not None:
        result = sorted_by(result, sort_by)
    if output is not None:
        write_file("--output", output, _drawn(result, output, results_dir))
        return
    _print(result, format, results_dir)
    if format is Format.TABLE:
        for line in below_table(result, results_dir):
            tell(line, err=False)


def below_table(result: SweepResult, results_dir: Path) -> Iterator[str]:
    """Lines below the tables of a sweep: charts, trials that failed, and what to do next."""
    yield ""
    yield from terminal_charts(result)
    yield from failures(result)
    yield from next_steps(result, results_dir)


def _drawn(result: SweepResult, output: Path, results_dir: Path) -> bytes:
    form = file_form("--output", output, (*PICTURES, "html"))
    if form == "html":
        return sweep_page(result, results_dir).encode()
    from cnnbench.report.sweeps.picture import sweep_picture

    return sweep_picture(result, form)


def _print(result: SweepResult, form: Format, results_dir: Path) -> None:
    match form:
        case Format.TABLE:
            for part in terminal_sweep(result):
                stdout().print(part)
        case Format.MD:
            print_document(markdown_sweep(result))
        case Format.CSV:
            print_document(csv_sweep(result))
        case Format.JSON:
            print_document(json_sweep(result), "json")
        case Format.LATEX:
            print_document(latex_sweep(result))
        case Format.HTML:
            print_document(sweep_page(result, results_dir), "html")


@reports_errors
def confirm(  # noqa: PLR0913, PLR0917 - one parameter per option
    sweep: SweepName = None,
    against: Annotated[
        str,
        typer.Option(
            help="Baseline: the number of a trial, or written for the file as it is.",
            metavar="TRIAL|written",
        ),
    ] = "written",
    seeds: Annotated[
        int, typer.Option(help="Number of fresh seeds.", metavar="N", min=2, max=1000)
    ] = 6,
    metric: MetricOption = None,
    alpha: Alpha = 0.05,
    min_effect: MinEffect = "0",
    device: DeviceOption = Device.AUTO,
    engine: EngineOption = Engine.AUTO,
    results_dir: ResultsDir = Path("results"),
    data_dir: DataDir = None,
    allow_python: AllowPython = False,
    quiet: Quiet = False,
) -> None:
    """Train the winner of a sweep and a baseline on seeds that it never saw, and judge."""
    from cnnbench.cli.progress import listening
    from cnnbench.runner.distributed import run_requests
    from cnnbench.runner.run import Request, check_all
    from cnnbench.runner.sweeps.confirming import (
        confirming_requests,
        fresh_seeds,
        judged_metric,
        optimism_text,
    )
    from cnnbench.system.signals import handle_signals

    effect = parse_effect(min_effect)
    plan = find_plan(sweep, results_dir)
    result = read_sweep(plan, results_dir, metric)
    make = partial(
        Request,
        results_dir=results_dir,
        data_dir=data_dir,
        device=device.value,
        engine=engine.value,
        allow_python=allow_python,
        again=["cnnbench", *sys.argv[1:]],
    )
    requests = confirming_requests(result, against, fresh_seeds(plan, seeds), make)
    check_all(requests)
    with handle_signals(), listening(stderr(), 2, quiet=quiet, tables=False) as listeners:
        runs = run_requests(requests, listeners)
    criteria = Criteria(metric=judged_metric(result), alpha=alpha, min_effect=effect)
    stdout().print(terminal_table([compare(runs, criteria)], wide=False))
    tell(optimism_text(result, runs[1]), err=False)
    if result.by_test:
        doubt = "The test images chose the winner, so that they may favor it even on fresh seeds."
        tell(f"{doubt} Set dataset.splits.validation.", err=False)
