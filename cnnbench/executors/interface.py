"""Tasks, messages from their workers, and the executor interface."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Emit = Callable[[Any], None]
WorkerTask = Callable[[Emit], None]
"""A picklable callable that runs in a worker. It sends picklable values to the driver through its
argument, raises `CnnbenchError` for user errors, and ends when it returns."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """A value sent by a running task.

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
    """A task raised an error, and would raise it again.

    Args:
      number: the task.
      error: the error. Any other than a `CnnbenchError` is a bug, with the worker's traceback as a
        note.
    """

    number: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker or machine of a task died; the task can be resubmitted.

    Args:
      number: the task.
      reason: what happened, such as `worker 2 was killed (SIGKILL)`.
    """

    number: int
    reason: str


Message = Emitted | Completed | Failed | Lost


class Executor(Protocol):
    """Runs tasks in worker processes; a context manager that ends all workers on exit.

    Tasks start in the order of submission. Messages of one task arrive in order.
    """

    @property
    def slots(self) -> int:
        """Number of concurrent tasks; it can change when machines join or leave."""

    @property
    def one_machine(self) -> bool:
        """True if all tasks run on this machine, and so on the same hardware."""

    def submit(self, number: int, task: WorkerTask) -> None:
        """Queues a task.

        Args:
          number: its number, unique among running and waiting tasks.
          task: the task.
        """

    def offer(self, name: str, make: Callable[[], bytes]) -> None:
        """Offers content that tasks get with `worker.fetch`; see `offers.Offers.add`."""

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message of any task; None if none arrives within the timeout."""

    def cancel(self, number: int) -> None:
        """Drops a waiting task, or stops a running task; none of its messages arrive after that."""

    def close(self) -> None:
        """Ends all workers. No process survives, even if this process is killed."""
