"""Handles Ctrl-C and SIGTERM: the first waits for pending writes, the second exits immediately."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CODES = tuple(128 + number for number in SIGNALS)


class Stopped(KeyboardInterrupt):
    """Raised by SIGINT or SIGTERM.

    Args:
      number: the signal number.

    >>> Stopped(signal.SIGTERM).exit_code
    143
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


class _State:
    """The received signal, and the number of pending writes."""

    received: int | None = None
    writing: int = 0


@contextmanager
def handle_signals() -> Iterator[None]:
    """Raises `Stopped` on SIGINT or SIGTERM, unless a write is pending.

    The signal is also recorded, because Python drops exceptions raised inside callbacks, such as
    JAX's; `raise_if_stopped` raises it again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _receive) for number in SIGNALS}
    try:
        yield
        raise_if_stopped()
    finally:
        _State.received = None
        for number, handler in before.items():
            signal.signal(number, handler)


def _receive(number: int, _frame: object) -> None:
    if _State.received is not None:
        os._exit(128 + number)
    _State.received = number
    if not _State.writing:
        raise Stopped(number)


def raise_if_stopped() -> None:
    """Raises `Stopped` if a signal was received."""
    if _State.received is not None:
        raise Stopped(_State.received)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defers signals until its body ends; the caller then calls `raise_if_stopped`."""
    _State.writing += 1
    try:
        yield
    finally:
        _State.writing -= 1
