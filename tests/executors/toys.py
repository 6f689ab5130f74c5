"""Tasks for executors that need no JAX."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cnnbench.errors import ModelError
from cnnbench.executors.interface import Emit
from cnnbench.executors.worker import fetch
from tests.support.limits import PATIENCE_S


@dataclass(frozen=True)
class Count:
    """Emits numbers."""

    number: int

    def __call__(self, emit: Emit) -> None:
        for value in range(self.number):
            emit(value)


@dataclass(frozen=True)
class Where:
    """Emits the process, its cores, and the group that its children would have."""

    def __call__(self, emit: Emit) -> None:
        emit((os.getpid(), sorted(os.sched_getaffinity(0)), os.getpgrp()))


@dataclass(frozen=True)
class Meet:
    """Ends once the tasks of several workers have started."""

    folder: Path
    number: int

    def __call__(self, emit: Emit) -> None:
        (self.folder / str(os.getpid())).touch()
        until = time.monotonic() + PATIENCE_S
        while len(list(self.folder.iterdir())) < self.number:
            assert time.monotonic() < until, "the others have not started"
            time.sleep(0.01)
        emit(os.getpid())


@dataclass(frozen=True)
class Devices:
    """Emits variables of its environment while the tasks of several workers run."""

    meet: Meet
    names: tuple[str, ...]

    def __call__(self, emit: Emit) -> None:
        self.meet(lambda _: None)
        emit(tuple(os.environ.get(name) for name in self.names))


@dataclass(frozen=True)
class Die:
    """Emits a value, then its worker is killed, unless it was before."""

    mark: Path

    def __call__(self, emit: Emit) -> None:
        emit("alive")
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        emit("alive again")


@dataclass(frozen=True)
class Mistake:
    """Raises an error that a user can cause."""

    def __call__(self, emit: Emit) -> None:
        emit("before")
        raise ModelError("python", "no module named 'net'", "install it")


@dataclass(frozen=True)
class Bug:
    """Raises an error that nobody expects."""

    def __call__(self, _: Emit) -> None:
        dict[str, int]()["missing"]


class OddError(Exception):
    """An error whose constructor takes other arguments than `args` has."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} is not {other}")


@dataclass(frozen=True)
class OddBug:
    """Raises an error that does not survive pickling."""

    def __call__(self, _: Emit) -> None:
        raise OddError(1, 2)


@dataclass(frozen=True)
class Unpicklable:
    """Emits a value that cannot be sent."""

    def __call__(self, emit: Emit) -> None:
        emit(lambda: None)


@dataclass(frozen=True)
class Prints:
    """Prints, reads, and emits."""

    def __call__(self, emit: Emit) -> None:
        print("not a message", flush=True)  # noqa: T201
        emit(sys.stdin.read())


@dataclass(frozen=True)
class Sleep:
    """Starts a child process, emits both processes, and sleeps."""

    seconds: float = 600.0

    def __call__(self, emit: Emit) -> None:
        code = f"import time; time.sleep({self.seconds})"
        child = subprocess.Popen([sys.executable, "-S", "-c", code])
        emit((os.getpid(), child.pid))
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Large:
    """Emits as many bytes as it was sent."""

    content: bytes

    def __call__(self, emit: Emit) -> None:
        emit(self.content[::-1])


@dataclass(frozen=True)
class Fetch:
    """Emits contents that the driver offers."""

    names: tuple[str, ...]

    def __call__(self, emit: Emit) -> None:
        for name in self.names:
            emit(fetch(name))
