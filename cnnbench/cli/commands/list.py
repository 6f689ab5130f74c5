"""``cnnbench list``: lists runs."""

from pathlib import Path

from cnnbench.cli.options import ResultsDir
from cnnbench.cli.terminal import stdout, tell, warn
from cnnbench.report.comparison import list_table
from cnnbench.runs import find
from cnnbench.system import commands


def list_runs(results_dir: ResultsDir = Path("results")) -> None:
    """List runs, oldest first."""
    listing = find.list_runs(results_dir)
    warn(listing.warnings)
    if not listing.entries:
        start = commands.cnnbench("run", "standard", *commands.results_dir_option(results_dir))
        tell(f"no runs in {results_dir}; start one with: {start}", err=False)
        return
    console = stdout()
    curves = [entry.curve for entry in listing.entries]
    console.print(list_table(listing.entries, curves, console.encoding))
