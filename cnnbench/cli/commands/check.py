"""``cnnbench check``: verifies the files of runs."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.completion import complete_runs
from cnnbench.cli.options import ResultsDir
from cnnbench.cli.terminal import tell, warn
from cnnbench.runs.find import find_run, run_folders
from cnnbench.runs.verify import check_run
from cnnbench.system.locks import is_held


def check(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|NAME|PATH",
            help="Runs to verify; default: all.",
            show_default=False,
            autocompletion=complete_runs,
        ),
    ] = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Verify the files of runs; exit code 1 if one is damaged."""
    paths = [find_run(run, results_dir)[0] for run in runs] if runs else run_folders(results_dir)
    if not paths:
        warn([f"there are no runs in {results_dir}"])
    sound = True
    for path in paths:
        if is_held(path):
            tell(f"{path}: is being trained; check it again when it has finished", err=False)
            continue
        problems = check_run(path)
        sound = sound and not problems
        tell(f"{path}: {'ok' if not problems else 'damaged'}", err=False)
        for problem in problems:
            tell(f"  {problem}", err=False)
    if not sound:
        raise typer.Exit(1)
