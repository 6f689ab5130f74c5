"""The edge between the library and a terminal: standard output, and errors as exit codes."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from cnnbench.errors import CnnbenchError

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Prints what a user did wrong without a traceback, and exits with the error's code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except CnnbenchError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return wrapper


def stdout() -> "Console":
    """Standard output; 80 columns where it is no terminal, so that files look the same."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(80, console.width))
