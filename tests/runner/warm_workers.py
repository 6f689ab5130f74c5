"""Two workers that many tests share: starting JAX takes seconds each."""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from cnnbench.executors import choice
from cnnbench.executors.choice import On
from cnnbench.executors.cores import available_cores
from cnnbench.executors.interface import Completed, Emit, Executor, Failed, Message, WorkerTask
from cnnbench.executors.local import LocalExecutor, WorkerPlace
from cnnbench.runner.distributed import PRELOAD
from tests.support.limits import PATIENCE_S

CORE = available_cores()[:1]


def two_workers() -> On:
    """Two workers, on the same core if there is only one."""
    return On("local:2", (WorkerPlace(CORE), WorkerPlace(available_cores()[-1:])))


@dataclass(frozen=True)
class Call:
    """A task that calls a function, such as a training without workers on the worker's core."""

    function: Callable[[], Any]

    def __call__(self, _: Emit) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.function()


class WarmWorkers:
    """Lends the same workers to one driver after another.

    Args:
      workers: the workers.
    """

    def __init__(self, workers: Executor) -> None:
        self.workers = workers
        self._numbers = count()
        self.started = 0  # number of drivers

    def lent(self, *_: object) -> "_Lent":
        """The workers for one driver."""
        self.started += 1
        return _Lent(self.workers, self._numbers)

    def call(self, function: Callable[[], Any]) -> None:
        """Calls a picklable function on a worker, which has one core.

        Raises:
          Exception: that of the function.
        """
        own = self.lent()
        own.submit(0, Call(function))
        match own.receive(PATIENCE_S):
            case Completed():
                return
            case Failed(error=error):
                raise error
            case other:
                pytest.fail(f"{other} of {function}")


class _Lent:
    """Workers whose tasks have numbers of their own, and end with the driver.

    Args:
      workers: the workers.
      numbers: numbers of tasks.
    """

    def __init__(self, workers: Executor, numbers: Iterator[int]) -> None:
        self._workers, self._numbers = workers, numbers
        self._own: dict[int, int] = {}  # number of the driver by number of the task

    @property
    def slots(self) -> int:
        return self._workers.slots

    @property
    def pids(self) -> Sequence[int]:
        assert isinstance(self._workers, LocalExecutor)
        return self._workers.pids

    @property
    def one_machine(self) -> bool:
        return self._workers.one_machine

    def offer(self, name: str, make: Callable[[], bytes]) -> None:
        self._workers.offer(name, make)

    def submit(self, number: int, task: WorkerTask) -> None:
        known = next(self._numbers)
        self._own[known] = number
        self._workers.submit(known, task)

    def receive(self, timeout_s: float | None = None) -> Message | None:
        found = self._workers.receive(timeout_s)
        if found is None:
            return None
        number = self._own[found.number]
        if isinstance(found, Completed | Failed):
            del self._own[found.number]
        return type(found)(number, *(getattr(found, name) for name in found.__slots__[1:]))

    def close(self) -> None:
        for known in self._own:
            self._workers.cancel(known)


@contextmanager
def warm_workers() -> Iterator[WarmWorkers]:
    """Starts two workers."""
    with LocalExecutor(two_workers().places, PRELOAD) as started:
        yield WarmWorkers(started)


def lend(warm: WarmWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lends workers to everything that would start some on this machine."""
    monkeypatch.setattr(choice, "LocalExecutor", warm.lent)
