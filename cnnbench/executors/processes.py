"""Processes that train one network together, over `jax.distributed`.

The first process, the leader, makes all decisions and sends them through the key-value store of
JAX's coordination service, in the same order to all processes. Numbers are exchanged by the
collectives of the compiled programs: gloo between CPUs, NCCL between GPUs.
"""

import ctypes
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cnnbench.errors import Notify, UsageError

T = TypeVar("T")

COORDINATOR = "CNNBENCH_COORDINATOR", "JAX_COORDINATOR_ADDRESS"
NUMBER = "CNNBENCH_NUM_PROCESSES", "JAX_NUM_PROCESSES"
PLACE = "CNNBENCH_PROCESS_ID", "JAX_PROCESS_ID"
PARENT = "CNNBENCH_PARENT_PROCESS"  # variable with the launcher's process ID
LOST = "another process of this training has ended"
HEARTBEAT_S = 30  # a process silent for this long is considered dead
_START_S = 300  # until all processes have started
_END_S = 10  # until all processes have ended
_POLL_MS = 60_000
_MEET_MS = 24 * 3600 * 1000  # heartbeats detect dead processes


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Processes that train together.

    Args:
      number: number of processes.
      place: number of this process, from 0; 0 is the leader.
      coordinator: `host:port` of the leader; empty if JAX finds it, as in a SLURM step.
      origin: source of these values, such as `SLURM_NTASKS=4`.
    """

    number: int
    place: int
    coordinator: str
    origin: str


class _State:
    """The group to join, the joined group, and the number of messages so far."""

    expected: ProcessGroup | None = None
    group: ProcessGroup | None = None
    messages: int = 0


def group_of(environ: Mapping[str, str]) -> ProcessGroup | None:
    """The group that environment variables describe; None for a single process.

    Reads variables of cnnbench, JAX, SLURM (in a step of `srun`) and Open MPI.

    Args:
      environ: the environment variables.

    Raises:
      UsageError: a variable is missing or invalid.

    >>> group_of({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"})
    ProcessGroup(number=2, place=1, coordinator='', origin='SLURM_NTASKS=2')
    """
    if address := _first(COORDINATOR, environ):
        number, place = (_count(names, environ, address) for names in (NUMBER, PLACE))
        return _checked(
            ProcessGroup(number, place, environ[address], f"{address}={environ[address]}")
        )
    for count, place_name, sign in _LAUNCHERS:
        if sign in environ and environ.get(count, "1") != "1" and place_name in environ:
            number, place = (_whole(name, environ) for name in (count, place_name))
            return _checked(ProcessGroup(number, place, "", f"{count}={number}"))
    return None


# Launcher variables: number of processes, number of this process, and one set only in its jobs.
_LAUNCHERS = (
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_MCA_orte_hnp_uri"),
)


def _first(names: tuple[str, ...], environ: Mapping[str, str]) -> str:
    return next((name for name in names if environ.get(name)), "")


def _count(names: tuple[str, ...], environ: Mapping[str, str], address: str) -> int:
    if name := _first(names, environ):
        return _whole(name, environ)
    raise UsageError(f"{address} is set, but {names[0]} is not; set it, or unset {address}.")


def _whole(name: str, environ: Mapping[str, str]) -> int:
    if not environ[name].isdecimal():
        raise UsageError(f"{name}={environ[name]!r} is not a whole number; correct or unset it.")
    return int(environ[name])


def _checked(group: ProcessGroup) -> ProcessGroup | None:
    """The group, unless it is a single process.

    Raises:
      UsageError: the number of this process or the address is invalid.
    """
    if group.place >= max(1, group.number):
        message = f"{group.origin}: process {group.place} is not one of {group.number} processes"
        raise UsageError(f"{message}; number them from 0 to {max(0, group.number - 1)}.")
    if group.coordinator and not group.coordinator.rpartition(":")[2].isdecimal():
        raise UsageError(f"{group.origin}: no port; write HOST:PORT of process 0.")
    return group if group.number > 1 else None


def join(group: ProcessGroup, notify: Notify) -> None:
    """Joins a group: waits for all of its processes, and finds their devices.

    JAX must not have been used. Standard output is redirected to a copy, because gloo writes to
    the original.

    Args:
      group: the processes.
      notify: receives a message if an environment variable requests another number of devices.

    Raises:
      UsageError: the processes cannot connect.
    """
    import jax

    from cnnbench.system.devices import use_all_cores

    use_all_cores(notify)
    _quiet()
    _initialize(group)
    _State.group = group
    jax.devices()  # waits for the others, so it must come first


def _initialize(group: ProcessGroup) -> None:
    import jax

    local = group.coordinator.startswith(("127.0.0.1:", "localhost:"))
    jax.config.update("jax_enable_preemption_service", False)  # it would intercept SIGTERM
    if jax.config.values["jax_cpu_collectives_implementation"] is None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if local:  # bypass proxies
        jax.config.update("jax_check_proxy_envs", False)
    own: dict[str, Any] = {}
    if group.coordinator:
        own = {"coordinator_address": group.coordinator, "num_processes": group.number}
        own |= {"process_id": group.place, "cluster_detection_method": "deactivate"}
    if local:
        own["coordinator_bind_address"] = group.coordinator
    try:
        jax.distributed.initialize(
            **own,
            initialization_timeout=_START_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=_END_S,
        )
    except (RuntimeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        message = f"{group.origin}: the {group.number} processes did not find each other"
        raise UsageError(f"{message} ({first}); start all of them, or use --processes 1.") from None


def end_with(parent: int, number: int) -> None:
    """Makes the kernel signal this process when its parent ends (Linux; prctl(2)).

    Args:
      parent: process id of the parent, which may have ended already.
      number: the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), number)


def _quiet() -> None:
    """Redirects standard output to a copy and discards the output of C++ libraries."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    before = sys.stdout
    options: dict[str, Any] = {"encoding": before.encoding, "errors": before.errors}
    sys.stdout = os.fdopen(kept, "w", buffering=1, **options)


def expect(group: ProcessGroup) -> None:
    """Sets the group that the leader joins once it needs JAX."""
    _State.expected = group


def expected() -> ProcessGroup | None:
    """Returns and clears the group that is still to be joined."""
    group, _State.expected = _State.expected, None
    return group


def leave() -> None:
    """Disconnects from the group."""
    if _State.group:
        import jax

        _State.group, _State.messages = None, 0
        jax.distributed.shutdown()


def num_processes() -> int:
    """Number of processes that train together; 1 for a single process."""
    return _State.group.number if _State.group else 1


def leads() -> bool:
    """True for a leader, and for a single process."""
    return _State.group is None or _State.group.place == 0


def publish(value: object) -> None:
    """Sends a picklable value from the leader to all others."""
    _client().key_value_set_bytes(_key(), pickle.dumps(value))


def receive() -> Any:
    """The next value that the leader publishes; waits for it."""
    import jax

    key = _key()
    while True:
        try:
            return pickle.loads(_client().blocking_key_value_get_bytes(key, _POLL_MS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def shared(make: Callable[[], T]) -> T:
    """Makes a value on the leader and sends it to all processes."""
    if _State.group is None:
        return make()
    if not leads():
        found: T = receive()
        return found
    publish(value := make())
    return value


def meet() -> None:
    """Synchronizes all processes, so that measured times include no waiting."""
    if _State.group is not None:
        _client().wait_at_barrier(_key(), _MEET_MS)


def _client() -> Any:
    from jax._src.distributed import global_state

    return global_state.client


def _key() -> str:
    _State.messages += 1
    return f"cnnbench/{_State.messages}"
