"""Downloads from servers on this machine: resumed, mirrored, damaged, and to full disks."""

import base64
import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.resource import get_dl_fname

from cnnbench.data.published.downloads import (
    RegisteredFile,
    UnavailableError,
    fetch,
    fetched_path,
    published_files,
    registered_files,
    require_network,
)
from cnnbench.data.published.idx import IDX_DATASETS
from cnnbench.data.published.readers.medmnist import MEDMNIST
from cnnbench.data.published.sources import SOURCES
from cnnbench.errors import DataError
from tests.support.servers import Ranged, serving

CONTENT = np.random.default_rng(3).bytes(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOT_IT = "not the published file of dataset 'set/config' (expected SHA-256"


class _Server(Ranged):
    pass


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(_Server, "ranges", [])
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.bin").write_bytes(CONTENT)
    with serving(tmp_path / "served", _Server) as base:
        yield f"{base}/a.bin"


def _fetch(
    tmp_path: Path, url: str, size: int | None = len(CONTENT), checksum: str = SHA256
) -> Path:
    file = RegisteredFile(url, "a.bin", checksum, size)
    return fetch("set/config", [file], tmp_path / "sets", lambda _: None)["a.bin"]


def _part(tmp_path: Path, content: bytes) -> Path:
    part = tmp_path / "sets" / "downloads" / "set" / "a.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def test_downloads_a_file(url: str, tmp_path: Path) -> None:
    path = _fetch(tmp_path, url)
    assert path == tmp_path / "sets" / "downloads" / "set" / "a.bin"
    assert path.read_bytes() == CONTENT
    assert not path.with_name("a.bin.part").exists()
    file = RegisteredFile(url, "a.bin", SHA256)
    assert fetched_path(file, "set", tmp_path / "sets") == path
    assert _Server.ranges == [""]


def test_accepts_an_md5_and_an_unknown_size(url: str, tmp_path: Path) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()
    _part(tmp_path, CONTENT)  # complete, but not yet renamed when the process was killed
    assert _fetch(tmp_path, url, None, md5).read_bytes() == CONTENT


@pytest.mark.parametrize("done", [1, 40_000, 99_999])
def test_resumes_an_interrupted_download(done: int, url: str, tmp_path: Path) -> None:
    _part(tmp_path, CONTENT[:done])
    assert _fetch(tmp_path, url).read_bytes() == CONTENT
    assert _Server.ranges == [f"bytes={done}-"]


@pytest.mark.parametrize("part", [b"x" * 40_000, b"x" * 100_000, b"x" * 100_001])
def test_a_part_of_another_file_is_downloaded_again(part: bytes, url: str, tmp_path: Path) -> None:
    _part(tmp_path, part)
    assert _fetch(tmp_path, url).read_bytes() == CONTENT


def test_resumes_when_the_connection_breaks(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Server, "cut", 30_000)
    assert _fetch(tmp_path, url).read_bytes() == CONTENT
    assert _Server.ranges == ["", "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_a_connection_that_breaks_too_often_can_be_resumed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Server, "cut", 10_000)
    with pytest.raises(UnavailableError) as caught:
        _fetch(tmp_path, url)
    assert str(caught.value) == (
        "dataset 'set/config' is not available locally and cannot be downloaded (127.0.0.1: "
        "connection lost after 50,000 bytes; run again to resume)"
    )
    assert _fetch(tmp_path, url).read_bytes() == CONTENT


def test_the_users_mirrors_come_first(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = url.removesuffix("/a.bin")
    monkeypatch.setenv("CNNBENCH_MIRROR", f"{base}/nothing-here {base}/")
    assert _fetch(tmp_path, "http://127.0.0.1:9/a.bin").read_bytes() == CONTENT


def test_the_published_server_is_used_if_a_mirror_has_another_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served" / "old").mkdir()
    (tmp_path / "served" / "old" / "a.bin").write_bytes(CONTENT[::-1])
    monkeypatch.setenv("CNNBENCH_MIRROR", url.replace("a.bin", "old"))
    assert _fetch(tmp_path, url).read_bytes() == CONTENT


def test_a_file_with_another_checksum_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "served" / "a.bin").write_bytes(CONTENT[::-1])
    found = hashlib.sha256(CONTENT[::-1]).hexdigest()
    with pytest.raises(DataError) as caught:
        _fetch(tmp_path, url)
    assert str(caught.value) == (
        f"{url}: {NOT_IT} {SHA256}, found {found}); put the right file into"
        f" {tmp_path / 'sets'}, or set CNNBENCH_MIRROR to another server"
    )
    assert not list(tmp_path.glob("sets/downloads/set/a.bin*"))


def test_a_file_that_is_too_long_is_not_downloaded_to_its_end(url: str, tmp_path: Path) -> None:
    (tmp_path / "served" / "a.bin").write_bytes(b"0" * 5_000_000)
    with pytest.raises(UnavailableError, match="sent more than the expected 100,000 bytes"):
        _fetch(tmp_path, url)
    assert (tmp_path / "sets/downloads/set/a.bin.part").stat().st_size <= 100_000


def test_a_full_disk(url: str, tmp_path: Path) -> None:
    part = _part(tmp_path, b"")
    part.unlink()
    part.symlink_to("/dev/full")
    with pytest.raises(DataError) as caught:
        _fetch(tmp_path, url)
    assert str(caught.value) == (
        f"{part}: No space left on device; choose another folder with --data-dir or TFDS_DATA_DIR"
    )


def test_too_little_space_is_noticed_before_the_download(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_048))
    with pytest.raises(DataError) as caught:
        _fetch(tmp_path, url)
    assert str(caught.value) == (
        f"{tmp_path}/sets/downloads/set: the download needs 97.7 KiB, and 2.00 KiB are free; "
        "choose another folder with --data-dir or TFDS_DATA_DIR"
    )
    assert _Server.ranges == []


def test_of_two_at_once_one_downloads(url: str, tmp_path: Path) -> None:
    threads = [threading.Thread(target=_fetch, args=(tmp_path, url)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _Server.ranges == [""]


def test_one_of_several_servers_must_answer(url: str) -> None:
    require_network("set", "http://127.0.0.1:9/a.bin", url)
    with pytest.raises(UnavailableError) as caught:
        require_network("set", "http://127.0.0.1:9/a.bin", "http://localhost:9/a.bin")
    reasons = "127.0.0.1: no connection; localhost: no connection"
    assert str(caught.value).endswith(f"cannot be downloaded ({reasons})")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_published_files_are_those_of_the_builder(name: str, tmp_path: Path) -> None:
    builder = tfds.builder(name, data_dir=tmp_path)
    assert set(published_files(name).values()) == set(registered_files(builder))


def test_files_that_tensorflow_datasets_downloaded_are_found(tmp_path: Path) -> None:
    (file, *_) = published_files("mnist").values()
    path = tmp_path / "downloads" / "mnist" / get_dl_fname(file.url, file.checksum)
    path.parent.mkdir(parents=True)
    path.touch()
    assert fetched_path(file, "mnist", tmp_path) is None  # not complete
    path.with_name(f"{path.name}.INFO").touch()
    assert fetched_path(file, "mnist", tmp_path) == path
    assert base64.urlsafe_b64encode(bytes.fromhex(file.checksum)).decode()[:-1] in path.name


def test_a_version_that_does_not_know_the_dataset_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        published_files("gone")
    assert str(caught.value) == (
        f"tensorflow-datasets {tfds.__version__} has no checksums for 'gone', which cnnbench"
        " requires; run pip install tensorflow-datasets==4.9.10"
    )


def test_known_checksums_cost_no_import_of_tensorflow_datasets() -> None:
    code = (
        "import sys; from cnnbench.data.published.downloads import published_files;"
        "published_files('mnist');"
        "print({'jax', 'tensorflow_datasets', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", sorted({*SOURCES, *IDX_DATASETS} - set(MEDMNIST)))
def test_downloads_are_those_in_the_text_files_of_tensorflow_datasets(name: str) -> None:
    """URL, size and SHA-256 are columns of its own lines, read here by search."""
    package = Path(tfds.__file__).parent
    texts = [*package.glob("url_checksums/*.txt"), *package.glob("datasets/*/checksums.tsv")]
    lines = "\n".join(path.read_text() for path in texts)
    files = SOURCES[name]()[0].files if name in SOURCES else published_files(name).values()
    for file in files:
        assert f"{file.url}\t{file.size}\t{file.checksum}\t" in lines
