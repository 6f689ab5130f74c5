"""Downloads from servers on this machine: resumed, mirrored, damaged, and to full disks."""

import base64
import gzip
import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

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
from tests.support.environments import without
from tests.support.servers import Quiet, Ranged, serving

CONTENT = np.random.default_rng(3).bytes(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOT_IT = "not the published file of dataset 'set/config' (expected SHA-256"


class _Server(Ranged):
    """Serves ranges, those that follow byte `shift` of the wanted ones.

    Args:
      paths: requested so far.
      shift: bytes.
    """

    paths: ClassVar[list[str]] = []
    shift: ClassVar[int] = 0

    def do_GET(self) -> None:  # noqa: N802 - named by the base class
        self.paths.append(self.path)
        if not Path(self.translate_path(self.path)).exists():
            return self.send_error(404)
        if self.shift and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.headers.replace_header("Range", f"bytes={start + self.shift}-")
        return super().do_GET()


class _Compressing(Quiet):
    """Compresses what it serves, if the client accepts that."""

    def do_GET(self) -> None:  # noqa: N802 - named by the base class
        packs = "gzip" in self.headers.get("Accept-Encoding", "")
        content = Path(self.translate_path(self.path)).read_bytes()
        body = gzip.compress(content) if packs else content
        self.send_response(200)
        if packs:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
    part.parent.mkdir(parents=True, exist_ok=True)
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


def test_a_complete_part_is_not_requested_again(url: str, tmp_path: Path) -> None:
    _part(tmp_path, CONTENT)
    assert _fetch(tmp_path, url).read_bytes() == CONTENT
    assert _Server.ranges == []


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


def test_a_server_that_sends_other_bytes_is_not_resumed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Server, "shift", 7)
    part = _part(tmp_path, CONTENT[:1000])
    with pytest.raises(UnavailableError) as caught:
        _fetch(tmp_path, url)
    sent = "sent bytes bytes 1007-99999/100000 instead of 1000-"
    assert str(caught.value).endswith(f"cannot be downloaded (127.0.0.1: {sent})")
    assert part.read_bytes() == CONTENT[:1000]


def test_files_are_not_compressed_on_the_way(tmp_path: Path, url: str) -> None:
    del url  # for its folder
    with serving(tmp_path / "served", _Compressing) as base:
        assert _fetch(tmp_path, f"{base}/a.bin").read_bytes() == CONTENT


def test_the_users_mirrors_come_first(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = url.removesuffix("/a.bin")
    monkeypatch.setenv("CNNBENCH_MIRROR", f"{base}/nothing-here {base}/")
    for published in ("http://127.0.0.1:9/a.bin", f"{base}/published/a.bin"):
        monkeypatch.setattr(_Server, "paths", [])
        assert _fetch(tmp_path, published).read_bytes() == CONTENT
        assert _Server.paths == ["/nothing-here/a.bin", "/a.bin"]
        shutil.rmtree(tmp_path / "sets")


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
    _part(tmp_path, CONTENT[:98_000])  # the rest is 2,000 bytes
    assert _fetch(tmp_path, url).read_bytes() == CONTENT


_PROGRAM = """
import sys
from pathlib import Path
from cnnbench.data.published.downloads import RegisteredFile, fetch

url, checksum, size, folder = sys.argv[1:]
fetch("set", [RegisteredFile(url, "a.bin", checksum, int(size))], Path(folder), print)
"""


class _Stops(Ranged):
    """Sends the first 2.5 MiB to its first client, and no more."""

    released: ClassVar[threading.Event]

    def do_GET(self) -> None:  # noqa: N802 - named by the base class
        is_first = not self.ranges
        if not is_first:
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        self.ranges.append("")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: 5 * 2**19])
        self.wfile.flush()
        self.released.wait(60)
        return None


def test_a_process_that_is_killed_in_a_download_is_continued_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = np.random.default_rng(4).bytes(4 * 2**20)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.bin").write_bytes(content)
    monkeypatch.setattr(_Stops, "ranges", [])
    monkeypatch.setattr(_Stops, "released", threading.Event(), raising=False)
    part = tmp_path / "sets" / "downloads" / "set" / "a.bin.part"
    with serving(tmp_path / "served", _Stops) as base:
        words = [f"{base}/a.bin", hashlib.sha256(content).hexdigest(), str(len(content))]
        command = [sys.executable, "-uc", _PROGRAM, *words, str(tmp_path / "sets")]
        environment = without("XLA_FLAGS") | {"NO_PROXY": "127.0.0.1"}
        with ExitStack() as stack:
            stack.callback(_Stops.released.set)

            def started() -> "subprocess.Popen[bytes]":
                process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
                stack.enter_context(process)
                stack.callback(process.kill)
                return process

            first = started()
            _wait_for(lambda: part.exists() and part.stat().st_size == 2**21)
            others = [started(), started()]
            for other in others:
                assert other.stdout is not None
                assert other.stdout.readline().startswith(b"Downloading 1 file of 'set'")
            assert _Stops.ranges == [""]
            first.kill()
            assert [other.wait(60) for other in others] == [0, 0]
    assert _Stops.ranges == ["", f"bytes={2**21}-"]
    assert part.with_suffix("").read_bytes() == content
    assert not part.exists()


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


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
