"""The command line: parse, call one library function, render, translate errors to exit codes."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import typer

from cnnbench._version import __version__
from cnnbench.cli.parser import App, LazyCommand, LazyGroup
from cnnbench.cli.terminal import exit_at_once, open_streams, tell
from cnnbench.system.signals import CODES


class Commands(LazyGroup):
    """The commands in the order of the help."""

    lazy_commands: ClassVar[Mapping[str, LazyCommand]] = {
        "run": LazyCommand(
            "cnnbench.cli.commands.run:run",
            "Train each experiment and end with a table of accuracy and time.",
        ),
        "show": LazyCommand(
            "cnnbench.cli.commands.show:show",
            "Check experiment files; print layers or submodules, shapes, costs and differences.",
        ),
        "new": LazyCommand(
            "cnnbench.cli.commands.new:new",
            "Start an experiment that extends another one.",
        ),
        "watch": LazyCommand(
            "cnnbench.cli.commands.watch:watch",
            "Check and show a file as it is saved; Enter compares it with the one it extends.",
        ),
        "schema": LazyCommand(
            "cnnbench.cli.commands.new:schema",
            "Print the JSON Schema of experiment files, with which editors complete and check"
            " them.",
        ),
        "list": LazyCommand(
            "cnnbench.cli.commands.list:list_runs",
            "List runs, oldest first.",
        ),
        "compare": LazyCommand(
            "cnnbench.cli.commands.compare:compare",
            "Compare runs: a table, and a verdict on each beside the baseline.",
        ),
        "plot": LazyCommand(
            "cnnbench.cli.commands.report:draw_plot",
            "Draw learning curves, costs and differences of runs into one picture.",
        ),
        "report": LazyCommand(
            "cnnbench.cli.commands.report:write_report",
            "Write a page with verdicts, tables, charts and mistakes, which needs no other file.",
        ),
        "bench": LazyCommand(
            "cnnbench.cli.commands.bench:bench",
            "Train each experiment in several frameworks by turns and compare their speed.",
        ),
        "inspect": LazyCommand(
            "cnnbench.cli.commands.inspect:inspect",
            "Look into a trained network: layers, filters, and what excites units.",
        ),
        "gradcheck": LazyCommand(
            "cnnbench.cli.commands.gradcheck:gradcheck",
            "Check gradients: by hand, by jax.grad, by differences; exit 3 if a layer's is wrong.",
        ),
        "latent": LazyCommand(
            "cnnbench.cli.commands.latent:latent",
            "Look at the code of an autoencoder: its numbers, and what is decoded from it.",
        ),
        "predict": LazyCommand(
            "cnnbench.cli.commands.predict:predict",
            "Classify or reconstruct images of one's own with a run's networks, and show what"
            " they see.",
        ),
        "export": LazyCommand(
            "cnnbench.cli.commands.export:export_model",
            "Export a trained network to StableHLO, ONNX or safetensors, verified in its own"
            " runtime.",
        ),
        "check": LazyCommand(
            "cnnbench.cli.commands.check:check",
            "Verify runs: epochs, seeds, times, digests, weights; exit 1 if one is damaged.",
        ),
        "data": LazyCommand(
            "cnnbench.cli.commands.data:data_app",
            "Datasets: what there is, fetching one, where they are kept.",
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
    """Prints the version and ends."""
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
    """Describe a network in YAML, train it, and read an honest verdict."""


def main() -> None:
    """Entry point of the `cnnbench` command."""
    open_streams()
    try:
        app(prog_name="cnnbench")
    except SystemExit as end:
        if end.code in CODES:
            exit_at_once(end.code)
        raise
