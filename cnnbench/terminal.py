"""The edge between the library and a terminal: standard output, and errors as exit codes."""

import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

import typer

from cnnbench.errors import CnnbenchError, StoreError, UsageError, listing
from cnnbench.files import write_whole
from cnnbench.interrupts import CODES, Stopped
from cnnbench.phrases import visible

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

PICTURES = ("svg", "png")  # forms that matplotlib draws here


def file_form(option: str, file: "Path", forms: Sequence[str]) -> str:
    """The form of a picture by its file's name.

    Args:
      option: that names the file.
      file: the file.
      forms: those there are, as in ``svg``.

    Raises:
      UsageError: it is another.
    """
    form = file.suffix.removeprefix(".")
    if form not in forms:
        choices = listing(f".{form}" for form in forms)
        raise UsageError(f"{option}: '{file}' is no {choices} file; name one that is.")
    return form


def write_file(option: str, file: "Path", content: "bytes | memoryview") -> None:
    """Writes a file that an option names, and says so.

    Raises:
      StoreError: the disk refuses; a file that was there is as it was.
    """
    try:
        place = file.resolve()  # a link stays one
        if place.exists() and not place.is_file():
            place.write_bytes(content)  # a device or a pipe
        else:
            write_whole(place, content)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StoreError(f"{option} {file}: cannot be written: {reason}; name another.") from error
    tell(f"wrote {file}")


def tell(text: str, *, err: bool = True) -> None:
    """Prints lines that may hold what a user wrote."""
    typer.echo(visible(text), err=err)


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Prints what a user did wrong without a traceback, and exits with the error's code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except CnnbenchError as error:
            tell(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as stop:
            typer.echo("interrupted", err=True)
            code = stop.exit_code if isinstance(stop, Stopped) else CODES[0]
            raise typer.Exit(code) from None
        except OSError as error:
            if (flaw := _outside_flaw(error)) is None:
                raise
            typer.echo(flaw, err=True)
            raise typer.Exit(1) from None
        except MemoryError:
            typer.echo("the memory is too small; close other programs, or ask for less", err=True)
            raise typer.Exit(1) from None

    return wrapper


def _outside_flaw(error: OSError) -> str | None:
    """What is wrong with the machine rather than with us, and what to do."""
    if error.errno == errno.ENOSPC:
        return f"cannot write: {error.strerror}; free some space"
    try:
        os.getcwd()  # noqa: PTH109 - only whether it is there
    except FileNotFoundError:
        return "the working directory is gone; change into another"
    return None


def stdout() -> "Console":
    """Standard output; 80 columns where it is no terminal, so that files look the same."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(80, console.width))


def warn(warnings: Sequence[str]) -> None:
    """Prints warnings to standard error, where they are in no result's way."""
    for warning in warnings:
        tell(f"warning: {warning}")


def open_streams() -> None:
    """Puts the null device where a standard stream is closed, as by ``2>&-``.

    The next file to be opened would take its number, and what libraries write to
    standard error would end up in results.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def exit_at_once(code: int) -> NoReturn:
    """Ends the process without taking its modules apart.

    After an interrupt XLA's threads may still be compiling, and taking the
    runtime from under them ends in a segmentation fault.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
