"""Files that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from cnnbench.system import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_parts_are_written_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_atomic(path, b"one ", memoryview(b"two"), b"")
    assert path.read_bytes() == b"one two"
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_a_system_that_writes_a_byte_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """write(2) may take less than it is given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, bytes(content)[:1]))
    files.write_atomic(tmp_path / "a", b"content")
    files.append_durable(tmp_path / "b", b"line\n")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert (tmp_path / "b").read_bytes() == b"line\n"


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_refused_file_is_as_it_was(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="No space"):
            files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "lines", os.write
    files.append_durable(path, b"first\n")

    def half(file: int, content: bytes) -> int:
        write(file, bytes(content)[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            files.append_durable(path, b"second\n")
    assert path.read_bytes() == b"first\n"
    files.append_durable(path, b"third\n")
    assert path.read_bytes() == b"first\nthird\n"


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    parts = (".run.json.0a1b2c3d.partial", "weights/.seed-0.safetensors.0a1b2c3d.partial")
    for name in (*parts, "run.json", ".lock", "weights/seed-0.safetensors"):
        (tmp_path / name).write_text("x")
    files.remove_partial(tmp_path)
    assert names(tmp_path) == [".lock", "run.json", "weights"]
    assert names(tmp_path / "weights") == ["seed-0.safetensors"]
    files.remove_partial(tmp_path / "absent")
