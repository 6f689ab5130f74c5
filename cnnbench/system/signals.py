"""Ctrl-C and SIGTERM: what is being written is finished first, and a second signal ends at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CODES = tuple(128 + number for number in SIGNALS)


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end.

    Args:
      number: the signal's.

    >>> Stopped(signal.SIGTERM).exit_code
    143
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


class _State:
    """What came while signals are caught, and how many writes are in hand."""

    received: int | None = None
    writing: int = 0


@contextmanager
def handle_signals() -> Iterator[None]:
    """Turns SIGINT and SIGTERM into one `Stopped`, where nothing is being written.

    A signal is remembered too, because Python drops an exception that is raised inside
    a callback, and JAX runs some; `raise_if_stopped` raises it anew.
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
    """Raises `Stopped` if a signal came while they are caught."""
    if _State.received is not None:
        raise Stopped(_State.received)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Lets its body end before a signal is heard; the caller checks afterwards."""
    _State.writing += 1
    try:
        yield
    finally:
        _State.writing -= 1
