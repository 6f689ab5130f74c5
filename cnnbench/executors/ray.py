"""Workers on a Ray cluster.

Each worker is an actor with one process for the lifetime of the executor. Ray places the actors
and detects their deaths; it neither queues nor retries tasks.
"""

import contextlib
import os
import pickle
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from time import monotonic
from typing import Any

from cnnbench.errors import CnnbenchError, DataError, UsageError
from cnnbench.executors.cores import available_cores
from cnnbench.executors.failures import sent
from cnnbench.executors.interface import Completed, Emitted, Failed, Lost, Message, WorkerTask
from cnnbench.executors.offers import Offers
from cnnbench.executors.ray_folder import ray_folder
from cnnbench.executors.ray_worker import SETTINGS, Died, Hello, RayWorker, Wanted, versions
from cnnbench.executors.worker import Kind
from cnnbench.system import commands

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # its future default; Ray warns otherwise
    "RAY_DEDUP_LOGS": "0",
}
MOST_STORE = 256 << 20  # bytes of the object store of a local cluster
LOOK_S = 2.0  # between checks for new machines
END_S = 5.0  # for workers to end their processes
ALL_S = 20.0  # for all workers to start, if others use the cluster
FIRST_S = 300.0  # for the first worker
MOST_FAILED = 3  # workers that fail to start


class RayExecutor:
    """Workers on a Ray cluster; see `interface.Executor`.

    Args:
      wanted: resources per worker.
      workers: number of workers; None for as many as fit, also on machines that join later.
      preload: module that workers import while they wait for their first task; empty for none.
      num_cpus: number of CPUs of a local cluster; None for those of this process.

    Raises:
      UsageError: Ray is not installed, there is no cluster, versions differ, or no machine has
        enough CPUs or GPUs.
    """

    one_machine = False  # others can join any time

    def __init__(
        self,
        wanted: Wanted = Wanted(),  # noqa: B008 - frozen
        workers: int | None = None,
        preload: str = "",
        num_cpus: int | None = None,
    ) -> None:
        self._wanted, self._most, self._preload = wanted, workers, preload
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._found: deque[Message] = deque()
        self._workers: list[_Worker] = []
        self._offers, self._stored = Offers(), dict[str, Any]()
        self._serials, self._names = count(), count()
        self._failed = self._refused = 0
        self._looked = 0.0
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._ray = stack.enter_context(_cluster(num_cpus))
            stack.callback(self._end_workers)
            self._actor = _actor(self._ray, wanted)
            self._require_room()
            self._start_workers()
            self._stack = stack.pop_all()

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slots(self) -> int:
        """Number of workers that run or that fit on the cluster."""
        return max(1, len(self._workers))

    def submit(self, number: int, task: WorkerTask) -> None:
        """Queues a task."""
        self._waiting.append((number, pickle.dumps(task, pickle.HIGHEST_PROTOCOL)))
        self._assign()

    def offer(self, name: str, make: Callable[[], bytes]) -> None:
        """Offers content that tasks get with `worker.fetch`."""
        self._offers.add(name, make)

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message of any task; None if none arrives within the timeout.

        Raises:
          CnnbenchError: workers do not start.
        """
        until = float("inf") if timeout_s is None else monotonic() + timeout_s
        while not self._found:
            left = until - monotonic()
            if left < 0:
                return None
            self._look(min(left, LOOK_S))
        return self._found.popleft()

    def cancel(self, number: int) -> None:
        """Drops a waiting task, or ends the process that runs it."""
        self._waiting = deque(item for item in self._waiting if item[0] != number)
        self._found = deque(item for item in self._found if item.number != number)
        for worker in self._workers:
            if worker.task == number:
                worker.stop()
        self._assign()

    def close(self) -> None:
        """Ends all workers, and the cluster if it is local."""
        self._waiting.clear()
        self._stack.close()

    def _end_workers(self) -> None:
        ending = [worker.actor.end.remote() for worker in self._workers if worker.ready]
        if ending:
            self._ray.wait(ending, num_returns=len(ending), timeout=END_S)
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers.clear()

    def _start_workers(self) -> None:
        """Waits for all workers, or only for some if others use the cluster.

        Raises:
          UsageError: a machine has different versions.
          CnnbenchError: no worker starts.
        """
        begun = monotonic()
        self._grow()
        while missing := [worker for worker in self._workers if not worker.ready]:
            spent = monotonic() - begun
            if spent > (ALL_S if len(missing) < len(self._workers) else FIRST_S):
                break
            self._look(LOOK_S, strict=True)
        if self._workers and not any(worker.ready for worker in self._workers):
            message = f"--on ray: the cluster has had no room for {_needs(self._wanted)}"
            raise CnnbenchError(f"{message} for {FIRST_S:.0f} s; see `ray status`, or wait.")

    def _look(self, timeout_s: float, *, strict: bool = False) -> None:
        """Handles messages of workers, and machines that join or leave."""
        if monotonic() - self._looked > LOOK_S:
            self._grow()
        by_ref = {worker.pending: worker for worker in self._workers}
        if not by_ref:
            signal.sigtimedwait([], timeout_s)
            return
        for ref in self._ray.wait(list(by_ref), timeout=timeout_s)[0]:
            self._take(by_ref[ref], ref, strict=strict)

    def _take(self, worker: "_Worker", ref: Any, *, strict: bool) -> None:
        try:
            value = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._lose(worker, error)
            return
        if isinstance(value, Hello):
            self._welcome(worker, value, strict=strict)
            return
        worker.poll()
        for each in value:
            self._sent(worker, each)
        self._assign()

    def _welcome(self, worker: "_Worker", hello: Hello, *, strict: bool) -> None:
        """Admits a worker.

        Raises:
          UsageError: its versions differ, and training has not begun.
        """
        if wrong := other_versions(hello, versions()):
            if strict:
                raise UsageError(wrong)
            self._workers.remove(worker)  # on a machine that joined later
            self._ray.kill(worker.actor)
            self._refused += 1
            return
        worker.hello, self._failed = hello, 0
        worker.poll()
        self._assign()

    def _sent(self, worker: "_Worker", sent: bytes | Died) -> None:
        """Handles a message of a worker.

        Raises:
          RuntimeError: its process does not start.
        """
        if isinstance(sent, Died):
            if not sent.ready:
                raise RuntimeError(f"{sent.reason} before it was ready")
            if sent.serial == worker.serial:
                self._end_task(worker, sent.reason)
            return
        kind, serial, value = pickle.loads(sent)
        number = worker.task
        if number is None or serial != worker.serial:
            return
        if kind is Kind.EMITTED:
            self._found.append(Emitted(number, value))
            return
        if kind is Kind.ASKED:
            worker.actor.answer.remote(serial, self._in_store(value))
            return
        worker.free()
        completed = kind is Kind.COMPLETED
        self._found.append(Completed(number) if completed else Failed(number, value.error()))

    def _in_store(self, name: str) -> Any:
        """Ray reference to an offered content, which is stored once."""
        if name not in self._stored:
            try:
                self._stored[name] = self._ray.put(self._offers.answer(name))
            except self._ray.exceptions.RayError as error:
                message = f"--on ray: no room in Ray's object store ({_last_line(error)})"
                remedy = "start the cluster with a larger --object-store-memory"
                return sent(DataError(f"{message}; {remedy}, or copy the images."))
        return self._stored[name]

    def _end_task(self, worker: "_Worker", reason: str) -> None:
        if worker.task is not None:
            self._found.append(Lost(worker.task, reason))
        worker.free()

    def _lose(self, worker: "_Worker", error: Exception) -> None:
        """Drops a worker that Ray lost.

        Raises:
          CnnbenchError: workers do not start.
        """
        self._workers.remove(worker)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.actor)  # it may only be unreachable
        if worker.hello is None:
            self._failed += 1
            if self._failed >= MOST_FAILED:
                raise CnnbenchError(_no_start(error))
        else:
            alive = any(node["NodeID"] == worker.hello.node for node in self._nodes())
            machine = "" if alive else " with its machine"
            self._end_task(worker, f"worker {worker.number + 1} died{machine}")
        self._grow()

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """Number of workers that fit on the machines."""
        return sum(workers_on(node["Resources"], self._wanted) for node in self._nodes())

    def _grow(self) -> None:
        """Starts workers on machines that joined."""
        self._looked = monotonic()
        room = self._room() - self._refused
        for _ in range(len(self._workers), min(room, self._most or room)):
            number = next(self._names)
            arguments = (number, self._wanted, self._preload, _settings())
            self._workers.append(_Worker(number, self._actor.remote(*arguments)))

    def _assign(self) -> None:
        for worker in self._workers:
            if self._waiting and worker.ready and worker.task is None:
                number, content = self._waiting.popleft()
                worker.run(next(self._serials), number, content)

    def _require_room(self) -> None:
        """Checks that tasks fit.

        Raises:
          UsageError: no machine is large enough, or the cluster fits fewer workers.
        """
        room = self._room()
        if room >= (self._most or 1):
            return
        most = {name: _most_of(self._nodes(), name) for name in ("CPU", "GPU")}
        have = f"{_counted(most['CPU'], 'CPU')} and {_counted(most['GPU'], 'GPU')}"
        if room:
            message = f"--on ray:{self._most}: the cluster has room for {_counted(room, 'worker')}"
            raise UsageError(f"{message} of {_needs(self._wanted)}; write --on ray:{room}.")
        message = f"--on ray: a task needs {_needs(self._wanted)}, but the largest machine has"
        raise UsageError(f"{message} {have}; reduce --cpus or --gpus, or add a machine.")


class _Worker:
    """The driver's handle of a worker.

    Args:
      number: its number, from 0.
      actor: Ray's handle.

    Attributes:
      hello: its introduction; None until it has started.
      pending: Ray reference to its next messages.
      task: the task that it runs; None if it is idle.
      serial: unique number of the task.
    """

    def __init__(self, number: int, actor: Any) -> None:
        self.number, self.actor = number, actor
        self.hello: Hello | None = None
        self.pending = actor.hello.remote()
        self.task: int | None = None
        self.serial: int | None = None
        self._dropped: int | None = None

    @property
    def ready(self) -> bool:
        """True once it has started."""
        return self.hello is not None

    def poll(self) -> None:
        """Requests its next messages."""
        self.pending = self.actor.messages.remote()

    def run(self, serial: int, number: int, content: bytes) -> None:
        """Sends a task."""
        self.task, self.serial = number, serial
        self.actor.run.remote(serial, content, self._dropped)

    def stop(self) -> None:
        """Ends its task and process."""
        self._dropped = self.serial
        self.free()
        self.actor.stop.remote(self._dropped)

    def free(self) -> None:
        """Clears its task."""
        self.task = self.serial = None


def require_ray() -> Any:
    """Ray, silenced.

    Raises:
      UsageError: it is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        message = "--on ray: Ray is not installed"
        install = commands.pip_install("cnnbench[ray]")
        raise UsageError(f"{message}; run {install}, or use --on local.") from None
    return ray


@contextlib.contextmanager
def _cluster(num_cpus: int | None) -> Iterator[Any]:
    """Connects to the cluster of RAY_ADDRESS or of the calling program, or starts one."""
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS", "")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if address and address != "local":
            _connect(ray, address, quiet)
        else:
            folder = stack.enter_context(ray_folder())
            own: dict[str, Any] = {
                "num_cpus": num_cpus or len(available_cores()),
                "_temp_dir": str(folder),
            }
            own |= {"object_store_memory": MOST_STORE, "include_dashboard": False}
            own |= {"_system_config": {"worker_niceness": 0}}  # as local workers; 15 otherwise
            with _own_signals():
                ray.init("local", **own, **quiet)
        stack.callback(ray.shutdown)
        yield ray


def _connect(ray: Any, address: str, quiet: Mapping[str, Any]) -> None:
    """Connects to a cluster.

    Raises:
      UsageError: no cluster, or a different version of Ray or Python.
    """
    try:
        with _own_signals():
            ray.init(address, **quiet)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        message = f"--on ray: no connection to RAY_ADDRESS={address} ({reason})"
        raise UsageError(f"{message}; start it with `ray start`, or unset RAY_ADDRESS.") from None


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps the signal handlers that `ray.init` replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _actor(ray: Any, wanted: Wanted) -> Any:
    return ray.remote(
        num_cpus=wanted.cpus,
        num_gpus=wanted.gpus,
        max_restarts=0,  # the driver resubmits lost tasks, from their checkpoints
        max_task_retries=0,
        max_concurrency=4,  # `messages` blocks while other methods run
    )(RayWorker)


def _settings() -> dict[str, str]:
    """JAX environment variables for workers, except those that choose devices."""
    found = {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}
    found.pop("JAX_PLATFORMS", None)
    return found


def workers_on(resources: Mapping[str, float], wanted: Wanted) -> int:
    """Number of workers that fit on a machine.

    Args:
      resources: amount of each resource of the machine.
      wanted: resources per worker.

    >>> workers_on({"CPU": 8, "GPU": 2}, Wanted(cpus=1, gpus=0.5))
    4
    >>> workers_on({"CPU": 8, "GPU": 2}, Wanted(cpus=3))
    2
    """
    room = int(resources.get("CPU", 0)) // wanted.cpus
    if not wanted.gpus:
        return room
    gpus = int(resources.get("GPU", 0))
    fit = int(gpus // wanted.gpus) if wanted.gpus >= 1 else gpus * int(1 / wanted.gpus + 1e-9)
    return min(room, fit)


def _most_of(nodes: list[dict[str, Any]], name: str) -> float:
    return max((node["Resources"].get(name, 0.0) for node in nodes), default=0.0)


def _needs(wanted: Wanted) -> str:
    """Resources in words.

    >>> _needs(Wanted(2, 0.5))
    '2 CPUs and 0.5 GPUs'
    """
    cpus = _counted(wanted.cpus, "CPU")
    return f"{cpus} and {_counted(wanted.gpus, 'GPU')}" if wanted.gpus else cpus


def _counted(number: float, name: str) -> str:
    return f"{number:g} {name}{'s' * (number != 1)}"


def other_versions(hello: Hello, own: Mapping[str, str]) -> str:
    """Message about a machine with different versions; empty if they are equal.

    Args:
      hello: the machine.
      own: versions of this process.
    """
    names = [name for name in own if hello.versions.get(name) != own[name]]
    if not names:
        return ""
    there = ", ".join(f"{name} {hello.versions.get(name, 'none')}" for name in names)
    here = ", ".join(f"{name} {own[name]}" for name in names)
    message = f"--on ray: machine {hello.address} has {there}, this one {here}"
    return f"{message}; install the same versions on all machines, for comparable numbers."


def _no_start(error: Exception) -> str:
    """Message about workers that do not start."""
    text = " ".join(str(error).split())
    if "No module named 'cnnbench" in text:
        message = "--on ray: cnnbench is not installed on a machine of the cluster"
        return f"{message}; install the same version on all machines."
    message = f"--on ray: workers do not start ({_last_line(error)})"
    return f"{message}; see the logs of Ray in its session folder."


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip().rstrip(".")
