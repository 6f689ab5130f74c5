"""Worker processes on this machine, each on its own cores."""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from cnnbench.executors import framing
from cnnbench.executors.interface import (
    Completed,
    Emitted,
    Failed,
    Lost,
    Message,
    WorkerTask,
)
from cnnbench.executors.offers import Content, Offers
from cnnbench.executors.worker import Kind
from cnnbench.system.host import kept_memory

# Workers find the driver's modules from any folder; -P omits the current folder.
_START = "import sys; sys.path[:] = {path!r}; from cnnbench.executors.worker import main; main()"
END_S = 5.0  # seconds for a killed process to disappear


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Place of a worker.

    Args:
      cores: its cores.
      variables: environment variables, such as the device that it sees.
    """

    cores: tuple[int, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


class LocalExecutor:
    """Worker processes on this machine; see `interface.Executor`.

    Workers are fresh interpreters (JAX must not be forked), start at once, and are replaced if
    they die.

    Args:
      places: one for each worker.
      preload: module that workers import while they wait for their first task; empty for none.
    """

    one_machine = True

    def __init__(self, places: Sequence[WorkerPlace], preload: str = "") -> None:
        self._preload = preload
        self._received: queue.Queue[tuple[WorkerProcess, bytes | None]] = queue.Queue()
        self._waiting: deque[tuple[int, WorkerTask]] = deque()
        self._workers: list[WorkerProcess] = []
        self._offers = Offers()
        for number, place in enumerate(places):
            self._workers.append(self._started(number, place))

    def __enter__(self) -> "LocalExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slots(self) -> int:
        """Number of workers."""
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """Process IDs of the workers."""
        return [worker.process.pid for worker in self._workers]

    def submit(self, number: int, task: WorkerTask) -> None:
        """Queues a task."""
        self._waiting.append((number, task))
        self._assign()

    def offer(self, name: str, make: Callable[[], bytes]) -> None:
        """Offers content that tasks get with `worker.fetch`."""
        self._offers.add(name, make)

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message of any task; None if none arrives within the timeout.

        Raises:
          RuntimeError: workers do not start.
        """
        until = None if timeout_s is None else monotonic() + timeout_s
        while True:
            left = None if until is None else max(0.0, until - monotonic())
            try:
                worker, content = self._received.get(timeout=left)
            except queue.Empty:
                return None
            if worker.dropped:
                continue
            message = self._lost(worker) if content is None else self._message(worker, content)
            if message:
                return message

    def cancel(self, number: int) -> None:
        """Drops a waiting task, or replaces the worker that runs it."""
        self._waiting = deque(item for item in self._waiting if item[0] != number)
        for worker in self._workers:
            if worker.task == number:
                self._replace(worker)

    def close(self) -> None:
        """Kills all workers and their children."""
        self._waiting.clear()
        for worker in self._workers:
            worker.end()

    def _started(self, number: int, place: WorkerPlace) -> "WorkerProcess":
        worker = WorkerProcess(number, place, self._preload)
        threading.Thread(target=worker.read, args=(self._received,), daemon=True).start()
        return worker

    def _replace(self, worker: "WorkerProcess") -> None:
        worker.end()
        self._workers[worker.number] = self._started(worker.number, worker.place)
        self._assign()

    def _assign(self) -> None:
        for worker in self._workers:
            if worker.task is None and self._waiting:
                number, task = self._waiting.popleft()
                worker.run(number, task)

    def _message(self, worker: "WorkerProcess", content: bytes) -> Message | None:
        kind, number, value = pickle.loads(content)
        if kind is Kind.READY:
            worker.ready = True
            return None
        if kind is Kind.ASKED:
            worker.answer(self._offers.answer(value))
            return None
        if kind is Kind.EMITTED:
            return Emitted(number, value)
        worker.task = None
        self._assign()
        return Completed(number) if kind is Kind.COMPLETED else Failed(number, value.error())

    def _lost(self, worker: "WorkerProcess") -> Message | None:
        """Replaces a dead worker.

        Raises:
          RuntimeError: the worker died before it was ready; a new one would, too.
        """
        reason = worker.death()
        if not worker.ready:
            raise RuntimeError(f"{reason} before it was ready")
        number = worker.task
        self._replace(worker)
        return None if number is None else Lost(number, reason)


class WorkerProcess:
    """The driver's handle to a worker process.

    Args:
      number: its number, from 0.
      place: its place.
      preload: module that it imports.

    Attributes:
      task: the task that it runs; None if it is idle.
      ready: True once it has waited for a task.
      dropped: True once it was ended; its messages are then ignored.
    """

    def __init__(self, number: int, place: WorkerPlace, preload: str) -> None:
        self.number, self.place = number, place
        self.task: int | None = None
        self.ready = self.dropped = False
        cores = ",".join(map(str, place.cores))
        start = _START.format(path=[entry or os.getcwd() for entry in sys.path])  # noqa: PTH109
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", start, cores, preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **kept_memory(os.environ), **place.variables},
            start_new_session=True,  # so that its children can be killed with it
            bufsize=0,
        )

    def run(self, number: int, task: WorkerTask) -> None:
        """Sends a task."""
        self.task = number
        self._send((number, task))

    def answer(self, answer: Content) -> None:
        """Sends content that its task requested."""
        self._send((self.task, answer))

    def _send(self, value: Any) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died, and `read` notices
            framing.send(self.process.stdin.fileno(), value)

    def read(self, received: "queue.Queue[tuple[WorkerProcess, bytes | None]]") -> None:
        """Forwards its messages, then None when it has ended; runs in its own thread."""
        assert self.process.stdout is not None
        content: bytes | None = b""
        while content is not None:
            content = framing.receive(self.process.stdout.fileno())
            received.put((self, content))
        self.process.stdout.close()

    def death(self) -> str:
        """Describes how the process ended."""
        code = self.process.wait(END_S)
        name = f"worker {self.number + 1}"
        if code < 0:
            return f"{name} was killed ({signal.Signals(-code).name})"
        return f"{name} exited with code {code}"

    def end(self) -> None:
        """Kills it and its children."""
        self.dropped = True
        assert self.process.stdin is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(END_S)
        self.process.stdin.close()
