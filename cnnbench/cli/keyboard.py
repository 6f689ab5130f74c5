"""Keys of a terminal as they are pressed, without Enter and without an echo."""

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

END = "\x04"  # Ctrl-D, and what stands for the end of the input


class Keyboard:
    """Standard input in a mode for keys, until the `with` block ends. It is a terminal."""

    def __init__(self) -> None:
        self.descriptor = sys.stdin.fileno()

    def __enter__(self) -> Self:
        self.usual = termios.tcgetattr(self.descriptor)
        tty.setcbreak(self.descriptor, termios.TCSANOW)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self.usual)

    def key(self, seconds: float) -> str:
        """The next key; empty where none is pressed in so many seconds."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return ""
        return os.read(self.descriptor, 1).decode(errors="replace") or END

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Gives the terminal back for as long; keys that are pressed meanwhile do not count.

        A second Ctrl-C ends the process at once, and must not leave a terminal without an echo.
        """
        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self.usual)
        try:
            yield
        finally:
            tty.setcbreak(self.descriptor, termios.TCSAFLUSH)
