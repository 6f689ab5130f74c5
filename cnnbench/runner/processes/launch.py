"""Starts and stops processes that train together on this machine."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import IO, Any

from cnnbench.executors.processes import COORDINATOR, NUMBER, PARENT, PLACE
from cnnbench.system import commands

POLL_S = 0.05
PATIENCE_S = 20.0  # for the first process to report its end
MOST_LINES = 10  # of the output of a process that ended early


def launch(number: int, note: Callable[[str], None]) -> int:
    """Runs this command line in several processes, on disjoint cores.

    The first process prints and writes as usual. If another ends early, all end.

    Args:
      number: number of processes.
      note: called with messages for the user.

    Returns:
      The exit code.
    """
    cores = _cores()
    if number > len(cores):
        note(f"{number} processes share {len(cores)} cores, so they are slower than {len(cores)}")
    with ExitStack() as files:
        said = [files.enter_context(tempfile.TemporaryFile()) for _ in range(1, number)]
        group = _start(number, cores, said)
        try:
            return watched(group, said, note)
        finally:
            for each in group:
                _end(each, signal.SIGKILL)


def shares(cores: Sequence[int], number: int) -> list[list[int]]:
    """Divides cores evenly among processes, in order; shared if there are too few.

    >>> shares([0, 1, 2, 3, 4], 2), shares([0, 1], 3)
    ([[0, 1], [2, 3]], [[0], [1], [0]])
    """
    size = len(cores) // number
    if not size:
        return [[cores[place % len(cores)]] for place in range(number)]
    return [list(cores[place * size : (place + 1) * size]) for place in range(number)]


def _start(
    number: int, cores: Sequence[int], said: Sequence[IO[bytes]]
) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "cnnbench", *sys.argv[1:]]
    found = []
    for place, own in enumerate(shares(cores, number)):
        values = {COORDINATOR[0]: address, NUMBER[0]: str(number), PLACE[0]: str(place)}
        environ = {**os.environ, **values, PARENT: str(os.getpid())}
        _use(own)  # inherited, so set before JAX counts the cores
        if place:  # own group: Ctrl-C goes to the first process only, which saves
            options: Any = {"stdout": subprocess.DEVNULL, "process_group": 0}
            options["stderr"] = said[place - 1]
            found.append(
                subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, **options)
            )
        else:
            found.append(subprocess.Popen(command, env=environ))
    _use(cores)
    return found


def _cores() -> list[int]:
    """Cores that this process may use."""
    known = getattr(os, "sched_getaffinity", None)  # Linux only
    return sorted(known(0)) if known else list(range(os.cpu_count() or 1))


def _use(cores: Sequence[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def watched(
    group: Sequence[subprocess.Popen[bytes]], said: Sequence[IO[bytes]], note: Callable[[str], None]
) -> int:
    """Waits for the first process, or ends all if another ends early.

    Args:
      group: the processes.
      said: standard error of each, except the first.
      note: called with messages for the user.

    Returns:
      The exit code.
    """
    leader, *others = group
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT,)}
    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda *_: _end(leader, signal.SIGTERM))
    try:
        while leader.poll() is None:
            if lost := _lost(others):
                return _ended_early(group, lost, said, note)
            time.sleep(POLL_S)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if leader.returncode < 0:
        note(f"{_death(group, leader)}; {_advice()}")
    elif leader.returncode and (lost := _lost(others)) and lost.returncode < 0:
        note(_death(group, lost))  # the leader only noticed the loss
    return _code(leader.returncode)


def _lost(others: Sequence[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes] | None:
    """A failed process; killed processes come before those that noticed the loss."""
    failed = [each for each in others if each.poll()]
    return min(failed, key=lambda each: each.returncode, default=None)


def _ended_early(
    group: Sequence[subprocess.Popen[bytes]],
    lost: subprocess.Popen[bytes],
    said: Sequence[IO[bytes]],
    note: Callable[[str], None],
) -> int:
    """Ends all processes after one has ended; the first may report what is left.

    A user error ends all processes alike, and the first process reports it. Otherwise, the output
    of the ended process has the reason.
    """
    leader, by_itself, number = group[0], False, None
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number:
            _end(leader, number)
        with suppress(subprocess.TimeoutExpired):
            leader.wait(PATIENCE_S / 2)
            by_itself = number != signal.SIGKILL
            break
    note(_death(group, lost) if by_itself else f"{_death(group, lost)}; {_advice()}")
    if number or leader.returncode != lost.returncode:
        for line in _last_lines(said[group.index(lost) - 1]):
            note(f"    {line}")
    return max(1, _code(leader.returncode))


def _last_lines(said: IO[bytes]) -> list[str]:
    said.seek(0)
    return said.read().decode(errors="replace").rstrip().splitlines()[-MOST_LINES:]


def _death(group: Sequence[subprocess.Popen[bytes]], lost: subprocess.Popen[bytes]) -> str:
    """Describes how a process ended; no other process reports it."""
    code = lost.returncode
    how = f"killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    was = "was " if code < 0 else ""
    return f"process {group.index(lost)} of {len(group)} {was}{how}"


def _advice() -> str:
    again = commands.with_needed(["cnnbench", *sys.argv[1:]])
    return f"continue with: {commands.command_line(again)}"


def _code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def _end(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()
