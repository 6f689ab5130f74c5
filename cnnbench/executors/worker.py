"""A worker process of `executors.local`: runs tasks from standard input in sequence.

It ends with its parent: the end of its input kills it and its children, even in the middle of a
computation.
"""

import importlib
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cnnbench.executors import framing
from cnnbench.executors.cores import pin
from cnnbench.executors.failures import SentError, sent
from cnnbench.executors.interface import WorkerTask


class Kind(Enum):
    """Kind of a worker's message."""

    READY = "ready"  # it waits for tasks
    EMITTED = "emitted"
    COMPLETED = "completed"
    FAILED = "failed"
    ASKED = "asked"  # requests content; the next message to the worker is the answer


def serve(cores: Sequence[int], preload: str) -> None:
    """Runs tasks until the input ends.

    Args:
      cores: cores to run on.
      preload: module to import before the first task; empty for none.
    """
    pin(cores)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C
    source, sink = _own_pipes()
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(source, tasks), daemon=True).start()
    if preload:
        importlib.import_module(preload)
    framing.send(sink, (Kind.READY, -1, None))
    while True:
        number, task = pickle.loads(tasks.get())
        _link.append(_Link(number, tasks, sink))
        _run(number, task, sink)
        _link.clear()


@dataclass(frozen=True, slots=True)
class _Link:
    """A running task's link to the driver.

    Args:
      number: the task.
      received: messages to this worker.
      sink: pipe to the driver.
    """

    number: int
    received: "queue.SimpleQueue[bytes]"
    sink: int


_link: list[_Link] = []  # of the running task


def fetch(name: str) -> bytes | None:
    """Content that the driver offers under a name; None if there is none, and outside of workers.

    Raises:
      CnnbenchError: the driver cannot provide it.
    """
    if not _link:
        return None
    link = _link[0]
    framing.send(link.sink, (Kind.ASKED, link.number, name))
    _, answer = pickle.loads(link.received.get())
    if isinstance(answer, SentError):
        raise answer.error()
    found: bytes | None = answer
    return found


def _own_pipes() -> tuple[int, int]:
    """Moves the pipes away from the standard streams of tasks."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return source, sink


def _read_tasks(source: int, tasks: "queue.SimpleQueue[bytes]") -> None:
    """Forwards tasks; at the end of the input, kills this process and its children."""
    while (content := framing.receive(source)) is not None:
        tasks.put(content)
    os.killpg(0, signal.SIGKILL)  # it leads its own group


def _run(number: int, task: WorkerTask, sink: int) -> None:
    def emit(value: Any) -> None:
        framing.send(sink, (Kind.EMITTED, number, value))

    with _Ending(number, sink):
        task(emit)


class _Ending:
    """Reports how its body ended; the driver raises its errors.

    Args:
      number: the task.
      sink: pipe to the driver.
    """

    def __init__(self, number: int, sink: int) -> None:
        self._number, self._sink = number, sink

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is None:
            framing.send(self._sink, (Kind.COMPLETED, self._number, None))
        elif isinstance(error, Exception):
            framing.send(self._sink, (Kind.FAILED, self._number, sent(error)))
        return isinstance(error, Exception)


def main() -> None:
    """Serves with the cores and the module of the command line."""
    cores, preload = sys.argv[1:]
    serve(list(map(int, cores.split(","))), preload)
