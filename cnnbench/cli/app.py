"""The command line: parse arguments, call a library function, print, map errors to exit codes."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from cnnbench._version import __version__
from cnnbench.cli.file_progress import file_display
from cnnbench.cli.parser import App, LazyCommand, LazyGroup
from cnnbench.cli.terminal import exit_at_once, open_streams, tell
from cnnbench.executors.processes import num_processes
from cnnbench.system.host import kept_memory
from cnnbench.system.progress import shown_by
from cnnbench.system.signals import CODES


class Commands(LazyGroup):
    """Commands, in the order of the help."""

    lazy_commands: ClassVar[Mapping[str, LazyCommand]] = {
        "run": LazyCommand(
            "cnnbench.cli.commands.run:run",
            "Train experiments over several seeds and compare them.",
        ),
        "show": LazyCommand(
            "cnnbench.cli.commands.show:show",
            "Check experiments and print their layers, shapes and costs.",
        ),
        "new": LazyCommand(
            "cnnbench.cli.commands.new:new",
            "Create an experiment file that extends another one, or that fits a dataset.",
        ),
        "watch": LazyCommand(
            "cnnbench.cli.commands.watch:watch",
            "Check a file on every save; press Enter for a quick comparison.",
        ),
        "schema": LazyCommand(
            "cnnbench.cli.commands.new:schema",
            "Print the JSON Schema of experiment files, for editors.",
        ),
        "list": LazyCommand(
            "cnnbench.cli.commands.list:list_runs",
            "List runs, oldest first; or search, sort and export them.",
        ),
        "compare": LazyCommand(
            "cnnbench.cli.commands.compare:compare",
            "Compare runs: accuracy, time, cost, and a verdict.",
        ),
        "plot": LazyCommand(
            "cnnbench.cli.commands.report:draw_plot",
            "Plot learning curves, costs and differences of runs.",
        ),
        "report": LazyCommand(
            "cnnbench.cli.commands.report:write_report",
            "Write a self-contained HTML report of runs.",
        ),
        "sweep": LazyCommand(
            "cnnbench.cli.sweeps.commands:sweep_app",
            "List sweeps, and show their trials ranked.",
        ),
        "confirm": LazyCommand(
            "cnnbench.cli.sweeps.commands:confirm",
            "Train the winner of a sweep and a baseline on seeds that it never saw, and judge.",
        ),
        "bench": LazyCommand(
            "cnnbench.cli.commands.bench:bench",
            "Benchmark training speed against PyTorch, Keras and plain Flax.",
        ),
        "inspect": LazyCommand(
            "cnnbench.cli.commands.inspect:inspect",
            "Inspect activations and filters of a trained network.",
        ),
        "gradcheck": LazyCommand(
            "cnnbench.cli.commands.gradcheck:gradcheck",
            "Check gradients against jax.grad; exit code 3 if one is wrong.",
        ),
        "latent": LazyCommand(
            "cnnbench.cli.commands.latent:latent",
            "Evaluate and visualize the latent code of an autoencoder.",
        ),
        "predict": LazyCommand(
            "cnnbench.cli.commands.predict:predict",
            "Run a trained network on your own images.",
        ),
        "export": LazyCommand(
            "cnnbench.cli.commands.export:export_model",
            "Export a trained network, verified in its target runtime; or a table of all runs.",
        ),
        "merge": LazyCommand(
            "cnnbench.cli.batches.merge:merge",
            "Merge the seeds of several runs of an experiment into one run.",
        ),
        "check": LazyCommand(
            "cnnbench.cli.commands.check:check",
            "Verify the files of runs; exit code 1 if one is damaged.",
        ),
        "data": LazyCommand(
            "cnnbench.cli.commands.data:data_app",
            "List, prepare, inspect and export datasets.",
        ),
    }


app = App(
    Commands,
    name="cnnbench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(value: bool) -> None:
    """Prints the version and exits."""
    if value:
        tell(f"cnnbench {__version__}", err=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Describe a CNN in YAML, train it over several seeds, and find out whether it is better."""


def _keep_memory(words: Sequence[str]) -> None:
    """Re-executes a training command with another malloc, or settings that are read at startup."""
    if words[:1] not in (["run"], ["watch"], ["confirm"]) and "--by-layer" not in words:
        return
    place = len(sys.orig_argv) - len(words)
    # Not a program that calls `main`, whose own code would run twice.
    ours = sys.orig_argv[place:] == words and Path(sys.orig_argv[place - 1]).name == "cnnbench"
    variables = kept_memory(os.environ) if ours and sys.executable else {}
    if variables and sys.gettrace() is None:  # a debugger would lose its breakpoints
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | variables)


def main() -> None:
    """Entry point of the `cnnbench` command."""
    _keep_memory(sys.argv[1:])
    open_streams()
    try:
        with shown_by(file_display()):
            app(prog_name="cnnbench")
    except SystemExit as end:
        if end.code in CODES or (end.code and num_processes() > 1):  # others wait, or are lost
            exit_at_once(int(end.code))
        raise
