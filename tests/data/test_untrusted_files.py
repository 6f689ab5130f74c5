"""What folders, files and servers of others may not do: each is refused or survived in one line."""

import gzip
import os
import re
import tarfile
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from cnnbench.data.catalog import ImageForm, Shares
from cnnbench.data.own import csv_files
from cnnbench.data.own.array_files import read_array_files
from cnnbench.data.own.folder import FolderSource
from cnnbench.data.published import archives, downloads
from cnnbench.data.published.archives import read_tar
from cnnbench.data.published.downloads import RegisteredFile, UnavailableError, fetch
from cnnbench.errors import DataError
from tests.support.servers import Quiet, serving

FORM = ImageForm(None, "stretch", 3, (255, 255, 255))
REMEDY = "remove it or replace it with the right file"


def pictures(folder: Path, num: int = 4) -> Path:
    folder.mkdir(parents=True)
    for i in range(num):
        Image.new("L", (4, 4), i).save(folder / f"{i}.png")
    return folder


def listing(folder: Path) -> Any:
    return FolderSource(folder, FORM, Shares()).listing()


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(DataError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders


@pytest.mark.parametrize("at", ["b", "train", "b/deep"])
def test_folders_that_are_links_out_of_the_folder(at: str, tmp_path: Path) -> None:
    outside, root = pictures(tmp_path / "secret" / "b").parent, tmp_path / "pics"
    pictures(root / "a")
    link = root / at
    if at == "train":
        pictures(outside / "a")
        link.symlink_to(outside)
    else:
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(outside / "b")
    assert refusal(listing, root) == (
        f"{link}: is a symbolic link to {link.resolve()}, outside {root}; copy it into the folder"
    )


def test_a_link_to_a_folder_above_is_not_followed_forever(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pictures(tmp_path / name)
        for i in range(5):
            (tmp_path / name / f"loop{i}").symlink_to(tmp_path)
    started = time.monotonic()
    assert re.fullmatch(
        rf"{tmp_path}/a/loop\d: is a symbolic link to {tmp_path}, which contains it; remove it",
        refusal(listing, tmp_path),
    )
    assert time.monotonic() - started < 5


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pictures(tmp_path / name)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert refusal(listing, tmp_path) == (
        f"{tmp_path}/a/pipe.png: is not a regular file; remove it"
    )
    os.mkfifo(tmp_path / "x.npz")
    assert refusal(read_array_files, tmp_path / "x.npz") == (
        f"{tmp_path}/x.npz: no such file; check the path"
    )


def test_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, because an administrator may read everything."""

    def denied(path: Any = ".") -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    pictures(tmp_path / "a")
    message = f"{tmp_path}: cannot be read (permission denied); check its permissions"
    monkeypatch.setattr(os, "scandir", denied)
    monkeypatch.setattr(os, "listdir", denied)
    assert refusal(listing, tmp_path) == message
    assert refusal(read_array_files, tmp_path) == message


def test_array_files_that_are_links_out_of_the_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("label,a\n0,1\n1,2\n")
    (tmp_path / "sets").mkdir()
    link = tmp_path / "sets" / "train.csv"
    link.symlink_to(secret)
    assert refusal(read_array_files, tmp_path / "sets") == (
        f"{link}: is a symbolic link to {secret}, outside {tmp_path}/sets; copy it into the folder"
    )


def test_links_of_the_hugging_face_hub_are_followed(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "datasets--a--b" / "snapshots" / "01", tmp_path / "datasets--a--b"
    snapshot.mkdir(parents=True)
    (blobs / "blobs").mkdir()
    (blobs / "blobs" / "77").write_text("label,a\n0,1\n1,0\n")
    (snapshot / "train.csv").symlink_to("../../blobs/77")
    assert len(read_array_files(snapshot).arrays["train_images"]) == 2


# Files that grow


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of zeros in a file of a kilobyte."""
    monkeypatch.setattr(csv_files, "_LONGEST", 100_000)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"0" * 1_000_000))
    assert path.stat().st_size < 2_000
    assert refusal(read_array_files, path) == (
        f"{path}:1: has more than 100,000 characters; save it as .npz"
    )


def test_a_table_that_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "MOST_BYTES", 2**20)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"label,a\n" + b"0,1\n" * 500_000))
    assert (
        refusal(read_array_files, path)
        == f"{path}: is larger than the 0 GiB allowed; save it as .npz"
    )


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_an_archive_that_grow(
    kind: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tar reads headers of any size into the memory."""
    monkeypatch.setattr(archives, "_HEADERS", 10_000)
    path, header = tmp_path / "a.tar.gz", tarfile.TarInfo("x")
    header.type, header.size = kind, 50_000_000
    path.write_bytes(gzip.compress(header.tobuf() + bytes(50_000_000)))
    assert path.stat().st_size < 100_000
    assert refusal(read_tar, path, ["set/a.bin"], 1_000) == (
        f"{path}: exceeds the expected 1,000 bytes; {REMEDY}"
    )


# Servers


class _Odd(Quiet):
    """Answers as `kind` says."""

    kind: ClassVar[str] = ""

    def do_HEAD(self) -> None:  # noqa: N802 - named by the base class
        if self.kind == "loop":
            self.do_GET()
        else:
            self.send_response(200)
            self.end_headers()

    def do_GET(self) -> None:  # noqa: N802 - named by the base class
        if self.kind == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        body = b"<html>Please log in</html>" if self.kind == "login" else bytes(1_000)
        self.send_response(200)
        claimed = {"short": 2_000, "long": 500}.get(self.kind, len(body))
        self.send_header("Content-Length", str(claimed))
        self.end_headers()
        if self.kind == "endless":
            for _ in range(100):
                self.wfile.write(body)
            return
        if self.kind == "hangs":
            time.sleep(1)
        self.wfile.write(body)


@pytest.mark.parametrize(
    ("kind", "size", "reason"),
    [
        ("loop", 2_000, "too many redirects"),
        ("login", 2_000, "sent only 26 of 2,000 bytes"),
        ("short", 2_000, "no connection after 1,000 bytes; run again to resume"),
        ("long", 2_000, "sent only 500 of 2,000 bytes"),
        ("hangs", 2_000, "no answer within 0.3 s"),
        ("endless", None, "sent more than the expected 400 bytes"),
    ],
)
def test_servers(
    kind: str, size: int | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(_Odd, "kind", kind)
    monkeypatch.setattr(downloads, "STALL_LIMIT_S", 0.3)
    monkeypatch.setattr(downloads, "_MOST_BYTES", 400)
    with serving(tmp_path, _Odd) as base:
        file = RegisteredFile(f"{base}/a.bin", "a.bin", "0" * 64, size)
        with pytest.raises(UnavailableError) as caught:
            fetch("set", [file], tmp_path / "sets", lambda _: None)
    assert str(caught.value) == (
        f"dataset 'set' is not available locally and cannot be downloaded (127.0.0.1: {reason})"
    )
