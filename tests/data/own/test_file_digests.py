"""SHA-256 of files, remembered until they change."""

import hashlib
import os
from pathlib import Path

import pytest

from cnnbench.data.own import file_digests
from cnnbench.data.own.file_digests import digests
from cnnbench.errors import DataError

LONG_AGO = 1_000_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    inside = tmp_path / "pics"
    inside.mkdir()
    for name in ("a", "b"):
        (inside / name).write_bytes(name.encode())
        os.utime(inside / name, (LONG_AGO, LONG_AGO))
    return inside


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files whose content is read."""
    names: list[str] = []
    real = file_digests.sha256_of_file

    def counting(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(file_digests, "sha256_of_file", counting)
    return names


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_unchanged_files_are_read_once(folder: Path, read: list[str]) -> None:
    for _ in range(2):
        assert list(digests(folder, ["b", "a"], remember=True)) == [sha256("b"), sha256("a")]
    assert sorted(read) == ["a", "b"]
    assert list(digests(folder, ["a"])) == [sha256("a")]
    assert sorted(read) == ["a", "a", "b"]


def test_a_file_with_another_size_or_time_is_read_again(folder: Path, read: list[str]) -> None:
    list(digests(folder, ["a", "b"], remember=True))
    (folder / "a").write_bytes(b"longer")
    os.utime(folder / "a", (LONG_AGO, LONG_AGO))
    (folder / "b").write_bytes(b"c")
    os.utime(folder / "b", (LONG_AGO + 1, LONG_AGO + 1))
    assert list(digests(folder, ["a", "b"], remember=True)) == [sha256("longer"), sha256("c")]
    assert len(read) == 4


def test_a_file_that_has_just_changed_is_not_remembered(folder: Path, read: list[str]) -> None:
    (folder / "a").write_bytes(b"x")  # now
    state = (folder / "a").stat().st_mtime_ns
    list(digests(folder, ["a"], remember=True))
    (folder / "a").write_bytes(b"y")
    os.utime(folder / "a", ns=(state, state))  # within the resolution of the clock
    assert list(digests(folder, ["a"], remember=True)) == [sha256("y")]
    assert read == ["a", "a"]


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_damaged_memory_is_replaced(folder: Path, read: list[str], content: bytes) -> None:
    list(digests(folder, ["a"], remember=True))
    file_digests._file(folder).write_bytes(content)
    for _ in range(2):
        assert list(digests(folder, ["a"], remember=True)) == [sha256("a")]
    assert read == ["a", "a"]


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    for remember in (False, True):
        with pytest.raises(DataError) as caught:
            list(digests(folder, ["c"], remember=remember))
        message = f"{folder}/c: cannot be read (no such file or directory); check its permissions"
        assert str(caught.value) == message
