"""``cnnbench merge``: one run with the seeds of several, such as those of several machines."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.completion import complete_runs
from cnnbench.cli.options import ResultsDir
from cnnbench.cli.terminal import tell, warn
from cnnbench.errors import UsageError
from cnnbench.runner.batches.merging import merge_runs, runs_below
from cnnbench.runs.find import find_run
from cnnbench.runs.folder import RECORD_FILE, read_run
from cnnbench.runs.records import RunResult
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
            help="Folder of results that gets the united runs; default: --results-dir.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Unite the seeds of several runs of an experiment in one run."""
    found = _by_name([run for each in dict.fromkeys(runs) for run in _found(each, results_dir)])
    target = output or results_dir
    if all(len(own) < 2 for own in found.values()):
        names = ", ".join(found)
        raise UsageError(f"merge: only one run of {names} is named; name two or more.")
    written = {name: merge_runs(own, target) for name, own in found.items()}
    for name, (path, new) in written.items():
        seeds, parts = len(read_run(path).record.seeds), len(found[name])
        text = f"{seeds} seeds of {parts} run{'s' * (parts > 1)}"
        tell(f"{path}: {text if new else f'has all {seeds} seeds already'}", err=False)
    where = commands.results_dir_option(target)
    tell(f"Next:  {commands.cnnbench('compare', *written, *where)}", err=False)


def _found(argument: str, results_dir: Path) -> list[RunResult]:
    """The runs that an argument names: one, or the finished ones in a folder."""
    folder = Path(argument)
    inside = results_dir / argument
    for place in (folder, inside):
        if place.is_dir() and not (place / RECORD_FILE).is_file():
            return runs_below(place)
    path, warnings = find_run(argument, results_dir)
    warn(warnings)
    return [read_run(path)]


def _by_name(runs: list[RunResult]) -> dict[str, list[RunResult]]:
    """The runs of each experiment, oldest first, each once."""
    once = {run.path.resolve(): run for run in runs if run.path}
    found: dict[str, list[RunResult]] = {}
    for run in sorted(once.values(), key=lambda each: each.record.run_id):
        found.setdefault(run.record.name, []).append(run)
    return found
