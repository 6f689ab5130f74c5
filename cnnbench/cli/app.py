"""The command line: parse, call one library function, render, translate errors to exit codes."""

from typing import Annotated

import typer

from cnnbench._version import __version__
from cnnbench.cli.commands.bench import bench
from cnnbench.cli.commands.check import check
from cnnbench.cli.commands.compare import compare
from cnnbench.cli.commands.data import data_app
from cnnbench.cli.commands.export import export_model
from cnnbench.cli.commands.gradcheck import gradcheck
from cnnbench.cli.commands.inspect import inspect
from cnnbench.cli.commands.latent import latent
from cnnbench.cli.commands.list import list_runs
from cnnbench.cli.commands.new import new, schema
from cnnbench.cli.commands.predict import predict
from cnnbench.cli.commands.report import draw_plot, write_report
from cnnbench.cli.commands.run import run
from cnnbench.cli.commands.show import show
from cnnbench.cli.commands.watch import watch
from cnnbench.cli.parser import App
from cnnbench.cli.terminal import exit_at_once, open_streams, reports_errors, tell
from cnnbench.system.signals import CODES

app = App(
    name="cnnbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")


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


app.command()(reports_errors(run))
app.command()(reports_errors(show))
app.command()(reports_errors(new))
app.command()(reports_errors(watch))
app.command()(reports_errors(schema))
app.command(name="list")(reports_errors(list_runs))
app.command()(reports_errors(compare))
app.command(name="plot")(reports_errors(draw_plot))
app.command(name="report")(reports_errors(write_report))
app.command()(reports_errors(bench))
app.command()(reports_errors(inspect))
app.command()(reports_errors(gradcheck))
app.command()(reports_errors(latent))
app.command()(reports_errors(predict))
app.command(name="export")(reports_errors(export_model))
app.command()(reports_errors(check))


def main() -> None:
    """Entry point of the `cnnbench` command."""
    open_streams()
    try:
        app(prog_name="cnnbench")
    except SystemExit as end:
        if end.code in CODES:
            exit_at_once(end.code)
        raise
