"""Prepares values in a thread, ahead of the caller."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from cnnbench.errors import CnnbenchError

T = TypeVar("T")


class Ahead(Generic[T]):
    """An iterator that is run by a thread, until `close`.

    Args:
      values: opens the iterator; entered and left by the thread.
      size: number of values to prepare in advance.
    """

    def __init__(
        self, values: Callable[[], AbstractContextManager[Iterator[T]]], size: int
    ) -> None:
        self._made: queue.Queue[T | BaseException] = queue.Queue(size)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(values,), daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """True if the next value is prepared."""
        return not self._made.empty()

    def take(self) -> T:
        """The next value, once it is prepared.

        Raises:
          CnnbenchError: by the iterator.
        """
        value = self._made.get()
        if isinstance(value, BaseException):
            raise value
        return value

    def close(self) -> None:
        """Ends the thread, once the current value is prepared."""
        self._closed.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(0.05)
        self._drain()

    def _run(self, values: Callable[[], AbstractContextManager[Iterator[T]]]) -> None:
        try:
            with values() as found:
                for value in found:
                    self._put(value)
                    if self._closed.is_set():
                        return
        except (CnnbenchError, MemoryError, RuntimeError) as error:  # of JAX: RuntimeError
            self._put(error)
        finally:
            self._put(RuntimeError("the thread that prepares batches has ended"))

    def _put(self, value: T | BaseException) -> None:
        if not self._closed.is_set():
            self._made.put(value)

    def _drain(self) -> None:
        while self.ready:
            self._made.get_nowait()
