"""``cnnbench merge``: one run with the seeds of several, such as those of several machines."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.completion import complete_runs
from cnnbench.cli.options import ResultsDir
from cnnbench.cli.terminal import tell, warn
from cnnbench.runner.batches.gathering import merge_named
from cnnbench.system import commands


def merge(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Runs, or folders of results: of several machines, for example.",
            metavar="RUN|DIR...",
            show_default=False,
            autocompletion=complete_runs,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of results that gets the merged runs; default: --results-dir.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Merge the seeds of several runs of an experiment into one run."""
    target = output or results_dir
    merged, notes = merge_named(runs, results_dir, target)
    warn(notes)
    for run, parts, new in merged:
        seeds = len(run.record.seeds)
        text = f"{seeds} seeds of {parts} run{'s' * (parts > 1)}"
        tell(f"{run.path}: {text if new else f'has all {seeds} seeds already'}", err=False)
    where = commands.results_dir_option(target)
    names = [run.record.name for run, _, _ in merged]
    tell(f"Next:  {commands.cnnbench('compare', *names, *where)}", err=False)
