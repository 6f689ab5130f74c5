"""`run --processes`: the part of this process among several that train together."""

import atexit
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import typer

from cnnbench.cli.terminal import tell
from cnnbench.errors import UsageError
from cnnbench.executors import processes
from cnnbench.executors.core_locks import kept_to
from cnnbench.executors.processes import PARENT, ProcessGroup, end_with, group_of
from cnnbench.formatting import enumeration
from cnnbench.runner.processes.messages import End


class _State:
    """The group that this process leads."""

    group: ProcessGroup | None = None


def limit_cores(number: int | None, processes: int | None = None, on: str | None = None) -> None:
    """Restricts the command, and what it starts, to cores of its own, before JAX counts them.

    Args:
      number: `--cores`; None to use all that there are.
      processes: `--processes`, which divide the cores.
      on: `--on`, whose workers on this machine divide the cores.

    Raises:
      UsageError: there are fewer cores, or something else chooses them.
    """
    if number is None or PARENT in os.environ:  # its parent has divided its own
        return
    if on and not on.startswith("local"):
        message = f"--cores: is for processes of this machine, and not for --on {on}"
        raise UsageError(f"{message}; {_CORES_OF.get(on.partition(':')[0], 'remove one of them')}.")
    if group := None if processes == 1 else group_of(os.environ):
        message = f"--cores: {group.origin} has started {group.number} processes on cores of theirs"
        raise UsageError(f"{message}; leave --cores out, or use --processes 1.")
    held = ExitStack()
    claimed = held.enter_context(kept_to(number))
    atexit.register(held.close)
    if shared := claimed.shared:
        cores = "core" if len(shared) == 1 else "cores"
        names = enumeration([str(core) for core in shared])
        tell(f"other runs with --cores have claimed {cores} {names}, too, so both are slower")


# What limits the cores of workers elsewhere.
_CORES_OF = {
    "ray": "give each worker some with --cpus",
    "slurm": "give each task some with --sbatch --cpus-per-task=N",
}


def take_part(number: int | None, on: str | None = None) -> None:
    """Starts processes that train together, or follows the leader of some; returns if it is this.

    Args:
      number: `--processes`.
      on: `--on`, whose workers train alone.

    Raises:
      CnnbenchError: the processes do not fit together, or this one has other files.
      typer.Exit: the part of this process is done.
    """
    if on:
        if number and number > 1:
            message = "--processes: trains one seed on several processes, and --on several seeds"
            raise UsageError(f"{message} at a time; remove one of them.")
        return
    _State.group = group = None if number == 1 else group_of(os.environ)
    if group is None:
        if number and number > 1:
            from cnnbench.runner.processes.launch import launch

            raise typer.Exit(launch(number, tell))
        return
    _end_with_parent(group)
    if number and number != group.number:
        message = f"--processes {number}: {group.origin} has started {group.number}"
        raise UsageError(f"{message}; leave --processes out, or use --processes 1.")
    if group.place:
        from cnnbench.runner.processes.follow import follow

        follow(group)
        raise typer.Exit


def _end_with_parent(group: ProcessGroup) -> None:
    """Ends this process if the one that launched it dies."""
    if parent := os.environ.get(PARENT):
        end_with(int(parent), signal.SIGKILL if group.place else signal.SIGTERM)


@contextmanager
def leading_others() -> Iterator[None]:
    """Leads the group of this process, if there is one, while its body runs."""
    if _State.group is None:
        yield
        return
    processes.expect(_State.group)
    yield
    if group := processes.expected():  # so that the others learn that there is nothing to do
        processes.join(group, tell)
    processes.publish(End())
    processes.leave()
