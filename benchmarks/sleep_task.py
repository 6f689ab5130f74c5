"""A task for workers, in a module that they can import; those of `__main__` are unknown to them."""

import time
from dataclasses import dataclass

from cnnbench.executors.interface import Emit


@dataclass(frozen=True)
class Sleep:
    """Sleeps, and emits a value of the size of an epoch's record."""

    seconds: float

    def __call__(self, emit: Emit) -> None:
        """Runs the task."""
        time.sleep(self.seconds)
        emit("x" * 300)
