"""The part of `executors.ray` that runs on the machines of the cluster."""

import os
import pickle
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from cnnbench._version import __version__
from cnnbench.executors.core_locks import ClaimedCores
from cnnbench.executors.interface import Emit
from cnnbench.executors.local import WorkerPlace, WorkerProcess
from cnnbench.executors.offers import Content

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")  # they affect the results
SETTINGS = ("JAX_", "XLA_", "FLAX_", "NNX_", "TF_", "OMP_NUM_THREADS")
MEMORY = 0.8  # of a GPU, for JAX; the rest is for the CUDA contexts


@dataclass(frozen=True, slots=True)
class Packed:
    """A task that is unpickled only by its worker process.

    Args:
      content: the pickled task.
    """

    content: bytes

    def __call__(self, emit: Emit) -> None:
        """Runs the task."""
        pickle.loads(self.content)(emit)


@dataclass(frozen=True, slots=True)
class Died:
    """The process of a worker died.

    Args:
      serial: its last task; None if none.
      reason: how it ended.
      ready: False if it failed to start, as another process would.
    """

    serial: int | None
    reason: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Hello:
    """Introduction of a worker to the driver.

    Args:
      node: Ray's ID of its machine.
      address: the machine, for messages.
      versions: package versions by name.
    """

    node: str
    address: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Resources of a worker.

    Args:
      cpus: number of cores.
      gpus: number of GPUs, or a fraction of one.
    """

    cpus: int = 1
    gpus: float = 0


class RayWorker:
    """An actor that owns one worker process.

    The process is that of `executors.local`: it is pinned before JAX is imported, keeps compiled
    programs, and ends with this actor, together with its children.

    Args:
      number: its number, from 0.
      wanted: its resources.
      preload: module that the process imports while it waits.
      settings: the driver's JAX settings.
    """

    def __init__(
        self, number: int, wanted: Wanted, preload: str, settings: Mapping[str, str]
    ) -> None:
        for name in [name for name in os.environ if name.startswith(SETTINGS)]:
            del os.environ[name]  # also OMP_NUM_THREADS, which Ray sets
        os.environ.update({**_device(wanted), **settings})
        self._cores = ClaimedCores(wanted.cpus)
        self._number, self._preload = number, preload
        self._received: queue.Queue[tuple[WorkerProcess, bytes | None]] = queue.Queue()
        self._lock = threading.Lock()
        self._serial: int | None = None
        self._process = self._started()

    def hello(self) -> Hello:
        """Introduces this worker."""
        import ray

        context = ray.get_runtime_context()
        return Hello(context.get_node_id(), ray.util.get_node_ip_address(), versions())

    def run(self, serial: int, content: bytes, dropped: int | None) -> None:
        """Starts a task.

        Args:
          serial: unique number of the task.
          content: the pickled task.
          dropped: as in `stop`.
        """
        with self._lock:
            self._stop(dropped)
            self._serial = serial
            self._process.run(serial, Packed(content))

    def answer(self, serial: int, answer: Content) -> None:
        """Passes requested content to a task, unless it has ended.

        Args:
          serial: number of the task.
          answer: a content from Ray's object store, which has one copy per machine, or an error,
            or None.
        """
        with self._lock:
            if self._serial == serial:
                self._process.answer(answer)

    def stop(self, dropped: int) -> None:
        """Ends a task and its process, unless another task has begun since."""
        with self._lock:
            self._stop(dropped)

    def end(self) -> None:
        """Kills the process and its children."""
        with self._lock:
            self._process.end()

    def messages(self) -> list[bytes | Died]:
        """Waits for messages of the process, each pickled."""
        found: list[bytes | Died] = []
        while not found or not self._received.empty():
            process, content = self._received.get()
            if content is None:
                found += self._died(process)
            elif not process.dropped:
                process.ready = True
                found.append(content)
        return found

    def _started(self) -> WorkerProcess:
        process = WorkerProcess(self._number, WorkerPlace(self._cores.cores), self._preload)
        threading.Thread(target=process.read, args=(self._received,), daemon=True).start()
        return process

    def _stop(self, dropped: int | None) -> None:
        if dropped is not None and self._serial == dropped:
            self._replace()

    def _replace(self) -> None:
        self._process.end()
        self._serial = None
        self._process = self._started()

    def _died(self, process: WorkerProcess) -> list[Died]:
        with self._lock:
            if process.dropped:
                return []
            died = Died(self._serial, process.death(), process.ready)
            if process.ready:
                self._replace()
            return [died]


def versions() -> dict[str, str]:
    """Versions of the packages that affect the results, by name."""
    found = {"python": python_version(), "cnnbench": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _device(wanted: Wanted) -> dict[str, str]:
    """Environment variables for the devices of a worker; Ray selects its GPUs.

    >>> _device(Wanted(gpus=0.25))
    {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.2'}
    """
    if not wanted.gpus:  # Ray hides no GPU from workers without any
        return {"JAX_PLATFORMS": "cpu"}
    if wanted.gpus < 1:  # JAX takes 75 % of a GPU otherwise
        return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{wanted.gpus * MEMORY:.3g}"}
    return {}
