"""The edge between the library and a terminal: standard output, and errors as exit codes."""

import codecs
import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

import typer

from cnnbench.errors import CnnbenchError, UsageError, cannot_write, or_list
from cnnbench.formatting import visible
from cnnbench.system import ascii_forms
from cnnbench.system.files import write_atomic
from cnnbench.system.signals import CODES, Stopped

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
        choices = or_list(f".{form}" for form in forms)
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
            write_atomic(place, content)
    except OSError as error:
        raise cannot_write(f"{option} {file}", error, "name another") from error
    tell(f"wrote {file}")


def tell(text: str = "", *, err: bool = True) -> None:
    """Prints lines that may hold what a user wrote."""
    _write(f"{visible(text)}\n", err=err)


def print_document(text: str, form: str = "txt") -> None:
    """Prints the content of a file on standard output.

    JSON and HTML are UTF-8 by their standards. Where standard output is not, they are printed in
    ASCII with their own escapes, which mean the same.

    Args:
      text: the content, with its last line break.
      form: ``json``, ``html``, or another that has no escapes.
    """
    if codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8":
        escapes = {"json": ascii_forms.json_in_ascii, "html": ascii_forms.html_in_ascii}
        text = escapes.get(form, str)(text)
    _write(text, err=False)


def _write(text: str, *, err: bool) -> None:
    """Writes to a standard stream, in its own encoding: `click.echo` writes UTF-8 to ASCII."""
    stream = sys.stderr if err else sys.stdout
    stream.write(ascii_forms.spelled(text, stream.encoding or "utf-8"))
    stream.flush()


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
            tell("interrupted")
            code = stop.exit_code if isinstance(stop, Stopped) else CODES[0]
            raise typer.Exit(code) from None
        except OSError as error:
            if (issue := _outside_issue(error)) is None:
                raise
            tell(issue)
            raise typer.Exit(1) from None
        except MemoryError:
            tell("the memory is too small; close other programs, or ask for less")
            raise typer.Exit(1) from None

    return wrapper


def _outside_issue(error: OSError) -> str | None:
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
    from cnnbench.cli.console import LegibleConsole

    console = LegibleConsole()
    return console if console.is_terminal else LegibleConsole(width=max(80, console.width))


def stderr() -> "Console":
    """Standard error, for progress."""
    from cnnbench.cli.console import LegibleConsole

    return LegibleConsole(stderr=True)


def warn(warnings: Sequence[str]) -> None:
    """Prints warnings to standard error, where they are in no result's way."""
    for warning in warnings:
        tell(f"warning: {warning}")


def start_jax(device: str = "auto") -> None:
    """Imports JAX for a command that computes, once all that is quicker to check is checked.

    Args:
      device: of which kind there has to be one.

    Raises:
      UsageError: a variable has a value that JAX refuses, or names devices that are not there.
    """
    from cnnbench.system import settings

    settings.start(lambda text: warn([text]))
    from cnnbench.system.devices import pick_devices

    pick_devices(device)


@contextmanager
def computing() -> Iterator[None]:
    """Has JAX started and its settings pinned for all that a command computes.

    Raises:
      UsageError: as `start_jax`.
    """
    start_jax()
    from cnnbench.system.settings import pinned

    with pinned():
        yield


def open_streams() -> None:
    """Makes all standard streams usable.

    The null device takes the place of one that is closed, as by ``2>&-``. The next file to be
    opened would take its number, and what libraries write to standard error would end up in
    results. What libraries print that the encoding lacks is printed in ASCII.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ascii_forms.ERRORS)


def exit_at_once(code: int) -> NoReturn:
    """Ends the process without taking its modules apart.

    After an interrupt XLA's threads may still be compiling, and taking the
    runtime from under them ends in a segmentation fault.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
