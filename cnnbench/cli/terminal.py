"""Standard streams of the command line, and errors as exit codes."""

import codecs
import errno
import functools
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

from cnnbench.errors import CnnbenchError, UsageError, cannot_write, or_list
from cnnbench.formatting import escape_controls
from cnnbench.system import ascii_forms
from cnnbench.system.files import write_atomic
from cnnbench.system.signals import CODES, Stopped

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

PICTURES = ("svg", "png")  # formats of pictures
_NO_BREAK = "\0"  # instead of a space; texts have no control codes


def file_form(option: str, file: "Path", forms: Sequence[str]) -> str:
    """Returns the format of a picture from the extension of its file.

    Args:
      option: the option that names the file.
      file: the file.
      forms: the formats to choose from, such as ``svg``.

    Raises:
      UsageError: the file has another extension.
    """
    form = file.suffix.removeprefix(".")
    if form not in forms:
        choices = or_list(f".{form}" for form in forms)
        raise UsageError(f"{option}: unsupported file type '{file}'; use {choices}.")
    return form


def write_file(option: str, file: "Path", content: "bytes | memoryview") -> None:
    """Writes the file of an option, and prints its name.

    Raises:
      StoreError: the disk cannot be written; an existing file is unchanged.
    """
    try:
        place = file.resolve()  # keeps a symbolic link
        if place.exists() and not place.is_file():
            place.write_bytes(content)  # a device or a pipe
        else:
            write_atomic(place, content)
    except OSError as error:
        raise cannot_write(f"{option} {file}", error, "name another") from error
    tell(f"wrote {file}")


def tell(text: str = "", *, err: bool = True) -> None:
    """Prints text, with control codes made visible; on a terminal, lines break between words."""
    text = escape_controls(text)
    if (sys.stderr if err else sys.stdout).isatty():
        text = wrapped(text, shutil.get_terminal_size().columns)
    _write(f"{text}\n", err=err)


def wrapped(text: str, width: int) -> str:
    """Breaks long lines between words, except within a command in backticks or an indented one.

    Args:
      text: lines of text.
      width: of the terminal, in columns.

    >>> print(wrapped("use train, test or all; see `cnnbench run --help`.", 30))
    use train, test or all; see
    `cnnbench run --help`.
    """
    return "\n".join(_broken(line, width) for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    if len(line) <= width or line.startswith("    "):
        return line
    kept = re.sub("`[^`]*`", lambda found: found[0].replace(" ", _NO_BREAK), line)
    indent = line[: len(line) - len(line.lstrip())]
    options: Any = {"break_long_words": False, "break_on_hyphens": False}
    lines = textwrap.wrap(kept, width, subsequent_indent=indent, **options)
    return "\n".join(lines).replace(_NO_BREAK, " ")


def print_document(text: str, form: str = "txt") -> None:
    """Prints a document on standard output.

    JSON and HTML are UTF-8 by their standards. If standard output has another encoding, they are
    printed in ASCII with their own escapes, which are equivalent.

    Args:
      text: the document, with its last line break.
      form: ``json``, ``html``, or another format without escapes.
    """
    if codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8":
        escapes = {"json": ascii_forms.json_in_ascii, "html": ascii_forms.html_in_ascii}
        text = escapes.get(form, str)(text)
    _write(text, err=False)


def _write(text: str, *, err: bool) -> None:
    """Writes to a standard stream in its own encoding; `click.echo` writes UTF-8 to any."""
    stream = sys.stderr if err else sys.stdout
    stream.write(ascii_forms.in_encoding(text, stream.encoding or "utf-8"))
    stream.flush()


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Prints errors of users without a traceback, and exits with their exit codes."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except CnnbenchError as error:
            tell(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as stop:
            if not getattr(stop, "__notes__", ()):  # else the run said so, and how to resume it
                tell("interrupted")
            code = stop.exit_code if isinstance(stop, Stopped) else CODES[0]
            raise typer.Exit(code) from None
        except OSError as error:
            if (issue := _outside_issue(error)) is None:
                raise
            tell(issue)
            raise typer.Exit(1) from None
        except MemoryError:
            tell("out of memory; close other programs, or use smaller batches")
            raise typer.Exit(1) from None

    return wrapper


def _outside_issue(error: OSError) -> str | None:
    """Describes an error of the machine, with a remedy; None if it is a bug of ours."""
    if error.errno == errno.ENOSPC:
        return f"cannot write: {error.strerror}; free some space"
    try:
        os.getcwd()  # noqa: PTH109 - a test whether it exists
    except FileNotFoundError:
        return "the working directory was deleted; change to another one"
    return None


def stdout() -> "Console":
    """Returns standard output; at least 80 columns wide unless it is a terminal."""
    from cnnbench.cli.console import LegibleConsole

    console = LegibleConsole()
    return console if console.is_terminal else LegibleConsole(width=max(80, console.width))


def stderr() -> "Console":
    """Returns standard error, for progress."""
    from cnnbench.cli.console import LegibleConsole

    return LegibleConsole(stderr=True)


def warn(warnings: Sequence[str]) -> None:
    """Prints warnings on standard error, apart from results."""
    for warning in warnings:
        tell(f"warning: {warning}")


@contextmanager
def continued_by(again: str) -> Iterator[None]:
    """Says how to continue after an interrupt, unless a run that was stopped has said it.

    Args:
      again: the command line.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if not getattr(stop, "__notes__", ()):
            stop.add_note(again)
            tell(f"interrupted; continue with: {again}")
        raise


def start_jax(device: str = "auto", *, all_cores: bool = False) -> None:
    """Imports JAX for a command that computes; call it after all cheaper checks.

    Args:
      device: the kind of device that is required.
      all_cores: True for a command that trains in this process, with a device for each core.

    Raises:
      UsageError: JAX rejects an environment variable, or there is no such device.
    """
    from cnnbench.system import settings

    settings.start(lambda text: warn([text]))
    from cnnbench.system.devices import pick_devices, use_all_cores

    if all_cores:
        use_all_cores(lambda text: warn([text]))
    pick_devices(device)


@contextmanager
def computing() -> Iterator[None]:
    """Starts JAX and pins its settings while a command computes.

    Raises:
      UsageError: as `start_jax`.
    """
    start_jax()
    from cnnbench.system.settings import pinned

    with pinned():
        yield


def open_streams() -> None:
    """Makes all standard streams usable.

    The null device replaces a closed stream, as by ``2>&-``; otherwise the next file would get its
    number, and messages of libraries on standard error would end up in results. Characters that
    the encoding lacks are printed in ASCII.
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
    """Ends the process without unloading modules.

    After an interrupt, threads of XLA may still be compiling, and unloading the runtime would end
    in a segmentation fault.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
