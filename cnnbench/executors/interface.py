"""Tasks, what their workers send back, and the interface of every executor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Emit = Callable[[Any], None]
WorkerTask = Callable[[Emit], None]
"""A picklable callable that runs in a worker. It passes picklable values to the driver with its
argument, raises `CnnbenchError` for a mistake of the user, and ends when it returns."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """A value that a running task sends.

    Args:
      number: the task.
      value: the value.
    """

    number: int
    value: Any


@dataclass(frozen=True, slots=True)
class Completed:
    """A task returned, after all of its values.

    Args:
      number: the task.
    """

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A task raised an error; it would raise it again.

    Args:
      number: the task.
      error: the error. Anything but a `CnnbenchError` is a bug; it has a note with the traceback of
        the worker.
    """

    number: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker of a task died, or its machine; the task can be submitted again.

    Args:
      number: the task.
      reason: what happened, such as `worker 2 was killed (SIGKILL)`.
    """

    number: int
    reason: str


Message = Emitted | Completed | Failed | Lost


class Executor(Protocol):
    """Runs tasks in worker processes; a context manager that ends all of them when it closes.

    Tasks start in the order in which they are submitted. Messages of one task arrive in order.
    """

    @property
    def slots(self) -> int:
        """Number of tasks that run at the same time; it can change when machines come and go."""

    @property
    def one_machine(self) -> bool:
        """True if all tasks run on this machine, so that their hardware is the same."""

    def submit(self, number: int, task: WorkerTask) -> None:
        """Queues a task.

        Args:
          number: its number, which is not that of a task that runs or waits.
          task: the task.
        """

    def offer(self, name: str, make: Callable[[], bytes]) -> None:
        """Offers a content that tasks get with `worker.fetch`; see `offers.Offers.add`."""

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message of any task; None if none arrives within the timeout."""

    def cancel(self, number: int) -> None:
        """Drops a task that waits, or stops one that runs; no further message of it arrives."""

    def close(self) -> None:
        """Ends all workers. No process survives, also if this process is killed."""
