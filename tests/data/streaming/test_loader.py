"""Worker processes: the order of their results, errors, memory, and that they always end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cnnbench.data.streaming import loader
from cnnbench.data.streaming.loader import TaskResult, results
from cnnbench.errors import DataError
from tests.support.paths import ROOT

SEGMENTS = "psm_*"  # of shared memory


@dataclass(frozen=True)
class Count:
    """Items that name their process; the one numbered `broken` cannot be read."""

    number: int
    broken: int = -1

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, number: int) -> TaskResult:
        if number == self.broken:
            raise DataError(f"b\udcffd.png: item {number} is broken; save it again")
        known = [name for name in ("jax", "tensorflow") if sys.modules.get(name)]
        return {"number": np.array([number, os.getpid(), len(known)]), "empty": np.zeros((0, 3))}


def segments() -> set[Path]:
    return set(loader.SHARED_MEMORY.glob(SEGMENTS))


def left_since(before: set[Path]) -> set[Path]:
    """New segments that no other program uses, such as tests that run at the same time."""
    used = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            used += maps.read_text() if maps.parent.name != str(os.getpid()) else ""
    return {path for path in segments() - before if str(path) not in used}


def test_results_come_in_order_from_processes_without_jax() -> None:
    before, main = segments(), sys.modules["__main__"]
    with results(Count(12), workers=2, item_bytes=100, start=3) as found:
        rows = np.stack([item["number"] for item in found])
    assert rows[:, 0].tolist() == list(range(3, 12))
    assert len(set(rows[:, 1])) == 2
    assert os.getpid() not in rows[:, 1]
    assert not rows[:, 2].any()
    assert multiprocessing.active_children() == []
    assert sys.modules["__main__"] is main
    assert left_since(before) == set()


def test_an_error_keeps_its_message_and_ends_the_processes() -> None:
    with (
        pytest.raises(DataError, match=r"b\udcffd\.png: item 2 is broken; save"),
        results(Count(9, broken=2), workers=1, item_bytes=100) as found,
    ):
        list(found)
    assert multiprocessing.active_children() == []


def test_a_killed_process_is_reported_without_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loader, "SHARED_MEMORY", tmp_path / "none")  # not Linux
    assert loader._has_shared_memory(2**60)
    monkeypatch.setattr(loader, "SHARED_MEMORY", tmp_path)
    assert not loader._has_shared_memory(2**60)
    with results(Count(10_000), workers=1, item_bytes=2**60) as found:
        pid = int(next(found)["number"][1])
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(DataError) as caught:
            list(found)
    assert str(caught.value) == (
        "streaming: worker process was terminated unexpectedly with exit code -9; it may have run"
        " out of memory, use fewer --workers"
    )


def test_grain_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(DataError) as caught:
        loader.require_grain("dataset.streaming")
    assert str(caught.value) == (
        "dataset.streaming requires grain; pip install 'cnnbench[streaming]'"
    )


# A program without `if __name__ == "__main__"`, as users write them.
PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs of a shell
from tests.data.streaming.test_loader import Count
from cnnbench.data.streaming.loader import results

with results(Count(10_000), workers=2, item_bytes=100) as found:
    for item in found:
        print(item["number"][1], flush=True)
        time.sleep(0.01)
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.sampled(1)
def test_no_process_survives_the_program(
    program: "subprocess.Popen[str]", number: signal.Signals
) -> None:
    assert program.stdout is not None
    workers = {int(program.stdout.readline()) for _ in range(4)}
    assert len(workers) == 2
    if number == signal.SIGINT:
        os.killpg(program.pid, number)  # as a terminal does: to all processes
    else:
        program.kill()
    _, errors = program.communicate(timeout=60)
    assert errors.count("Traceback") == (number == signal.SIGINT)  # of the program alone
    end = time.monotonic() + 30
    while time.monotonic() < end and _is_alive(program.pid):
        time.sleep(0.05)
    assert not _is_alive(program.pid)


def _is_alive(group: int) -> bool:
    """True if any process of a group is running."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
