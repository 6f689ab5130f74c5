"""One process at a time for a folder."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import pytest

from cnnbench.system.locks import LOCK_FILE, hold, is_held

HOLDER = """
import sys, time
from pathlib import Path
from cnnbench.system.locks import hold
with hold(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    """A process that holds the lock, as soon as this returns."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_a_lock_of_a_dead_process_is_released(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert is_held(tmp_path)
        with hold(tmp_path) as mine:
            assert not mine
        process.kill()
    assert (tmp_path / LOCK_FILE).exists()
    assert not is_held(tmp_path)
    with hold(tmp_path) as mine:
        assert mine


def test_a_lock_that_can_only_be_read_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with holder(tmp_path) as process:
        monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
        assert is_held(tmp_path)
        process.kill()
    assert not is_held(tmp_path)


def test_asking_makes_no_file(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not is_held(tmp_path / "absent")


def test_a_folder_can_be_held_again(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path) as mine:
            assert mine
        assert not is_held(tmp_path)
