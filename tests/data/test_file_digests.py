"""Digests of files, remembered until they change. hashlib is the oracle."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnnbench.data import file_digests
from cnnbench.data.file_digests import digest_of, sha256_in
from cnnbench.errors import DataError

MINUTE_NS = 60_000_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two files that have not changed for a minute."""
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(file_digests, "_LARGE", 0)
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + MINUTE_NS)
    inside = tmp_path / "pics"
    inside.mkdir()
    for name in ("a", "b"):
        (inside / name).write_bytes(name.encode())
    return inside


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files whose content is read."""
    names: list[str] = []
    real = file_digests._read

    def counting(path: Path, algorithm: file_digests.HashAlgorithm = "sha256") -> str:
        names.append(path.name)
        return real(path, algorithm)

    monkeypatch.setattr(file_digests, "_read", counting)
    return names


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def of_folder(folder: Path) -> str:
    (own,) = sha256_in(folder, ["a"])  # to the end
    return own


def of_file(folder: Path) -> str:
    file_digests._known_digest.cache_clear()  # as in another process
    return digest_of(folder / "a")


BOTH = pytest.mark.parametrize("digest", [of_folder, of_file])


def test_unchanged_files_are_read_once(folder: Path, read: list[str]) -> None:
    for _ in range(2):
        assert list(sha256_in(folder, ["b", "a"])) == [sha256("b"), sha256("a")]
    assert sorted(read) == ["a", "b"]
    (folder / "c").write_bytes(b"c")
    assert list(sha256_in(folder, ["a", "c"])) == [sha256("a"), sha256("c")]
    assert read[2:] == ["c"]


def test_each_algorithm_is_remembered(folder: Path, read: list[str]) -> None:
    for _ in range(2):
        assert of_file(folder) == sha256("a")
        assert digest_of(folder / "a", "md5") == hashlib.md5(b"a").hexdigest()
    assert read == ["a", "a"]


def test_small_files_are_remembered_by_the_process_alone(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_digests, "_LARGE", 2)
    for _ in range(2):
        assert digest_of(folder / "a") == sha256("a")
    assert read == ["a"]
    assert not (folder.parent / "cache").exists()
    assert of_file(folder) == sha256("a")
    assert read == ["a", "a"]


def overwritten(file: Path) -> None:
    file.write_bytes(b"x")


def replaced(file: Path) -> None:
    file.with_name("new").write_bytes(b"x")
    file.with_name("new").replace(file)


def with_the_old_time(file: Path) -> None:
    """As `cp --preserve` and `touch --reference` do."""
    before = file.stat()
    file.write_bytes(b"x")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def swapped(file: Path) -> None:
    other = file.with_name("b")
    other.write_bytes(b"x")
    shutil.copystat(file, other)
    other.replace(file)


@BOTH
@pytest.mark.parametrize("tamper", [overwritten, replaced, with_the_old_time, swapped])
def test_a_change_of_the_same_size_is_noticed(
    folder: Path, digest: Callable[[Path], str], tamper: Callable[[Path], None]
) -> None:
    assert digest(folder) == sha256("a")
    tamper(folder / "a")
    assert digest(folder) == sha256("x")


@BOTH
def test_a_file_that_has_just_changed_is_not_remembered(
    folder: Path, digest: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change can have the same time; all of them are the same here."""
    real = Path.stat
    frozen = real(folder / "a")

    def stat(path: Path, **options: Any) -> os.stat_result:
        return frozen if path.name == "a" else real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    latest = max(frozen.st_mtime_ns, frozen.st_ctime_ns)
    for after_ns, noticed in ((0, True), (1_999_999_999, True), (2_000_000_001, False)):
        monkeypatch.setattr(time, "time_ns", lambda after_ns=after_ns: latest + after_ns)
        (folder / "a").write_bytes(b"a")
        assert digest(folder) == sha256("a")
        (folder / "a").write_bytes(b"x")
        assert digest(folder) == sha256("x" if noticed else "a"), after_ns


@BOTH
def test_a_file_that_changes_while_it_is_read_is_read_again(
    folder: Path, digest: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = file_digests._read

    def slow(path: Path, algorithm: file_digests.HashAlgorithm = "sha256") -> str:
        found = real(path, algorithm)
        path.write_bytes(b"x")
        return found

    monkeypatch.setattr(file_digests, "_read", slow)
    assert digest(folder) == sha256("a")
    assert digest(folder) == sha256("x")


@BOTH
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"a": 1}', b'{"a": [1], "sha256": [1, 2, 3, 4, 5]}']
)
def test_damaged_memory_is_replaced(
    folder: Path, read: list[str], digest: Callable[[Path], str], content: bytes
) -> None:
    digest(folder)
    (place,) = (folder.parent / "cache" / "digests").iterdir()
    place.write_bytes(content)
    for _ in range(2):
        assert digest(folder) == sha256("a")
    assert read == ["a", "a"]


@BOTH
def test_without_a_cache_files_are_read(
    folder: Path, read: list[str], digest: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(folder / "file"))
    for _ in range(2):
        assert digest(folder) == sha256("a")
    assert read == ["a", "a"]


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    message = f"{folder}/c: cannot be read (no such file or directory); check its permissions"
    with pytest.raises(DataError) as caught:
        list(sha256_in(folder, ["c"]))
    assert str(caught.value) == message
    with pytest.raises(DataError) as caught:
        digest_of(folder / "c")
    assert str(caught.value) == message
