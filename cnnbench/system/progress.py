"""Progress of slow work on files, for whoever shows it to the user.

Files are read deep below the command that knows whether there is a terminal, so the display is a
context variable.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from cnnbench.formatting import bytes_text

SECONDS = 5.0  # between two lines of progress

CountDone = Callable[[int], None]  # called with the amount that is done


@dataclass(frozen=True, slots=True)
class FileWork:
    """Slow work on files.

    Args:
      verb: a past participle, such as ``decoded``.
      total: amount; None if it is unknown.
      unit: plural noun; ``bytes`` are shown in larger units.
    """

    verb: str
    total: int | None
    unit: str = "images"

    def text(self, done: int) -> str:
        """What is done.

        >>> FileWork("decoded", 20_000).text(1_200), FileWork("read", None).text(9)
        ('decoded 1,200 of 20,000 images', 'read 9 images')
        >>> FileWork("downloaded", 170_498_071, "bytes").text(2**20)
        'downloaded 1 of 163 MiB'
        """
        if self.unit != "bytes":
            of = "" if self.total is None else f" of {self.total:,}"
            return f"{self.verb} {done:,}{of} {self.unit}"
        if not self.total:
            return f"{self.verb} {bytes_text(done)}"
        whole = bytes_text(self.total)
        amount, unit = whole.split()
        share = float(amount.replace(",", "")) * min(done / self.total, 1)
        return f"{self.verb} {share:.{len(amount.partition('.')[2])}f} of {amount} {unit}"


class Display(Protocol):
    """Shows the progress of work while it is done."""

    def showing(self, work: FileWork) -> AbstractContextManager[CountDone]:
        """Shows it within a context, to which it gives the function to count with."""


class ProgressLines:
    """A line every few seconds.

    Args:
      notify: called with each line.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify

    @contextmanager
    def showing(self, work: FileWork) -> Iterator[CountDone]:
        """Shows the progress of work."""
        due = monotonic() + SECONDS

        def count(done: int) -> None:
            nonlocal due
            if monotonic() >= due:
                due = monotonic() + SECONDS
                text = work.text(done)
                self._notify(f"{text[0].upper()}{text[1:]}.")

        yield count


_display: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def shown_by(display: Display | None) -> Iterator[None]:
    """Shows the progress of all work in the context; None for no display."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


@contextmanager
def counted(verb: str, total: int | None, unit: str = "images") -> Iterator[CountDone]:
    """Shows the progress of work on the display, if there is one.

    Args:
      verb: as of `FileWork`.
      total: as of `FileWork`.
      unit: as of `FileWork`.

    Yields:
      The function to call with the amount that is done.
    """
    if (display := _display.get()) is None:
        yield lambda _: None
    else:
        with display.showing(FileWork(verb, total, unit)) as count:
            yield count
