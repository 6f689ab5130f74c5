"""Finds, downloads and verifies the source files of datasets.

tensorflow-datasets provides URLs and SHA-256 values, and its download manager fetches the files;
these parts work without TensorFlow.
"""

import contextlib
import hashlib
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cnnbench.data.catalog import private_api, quiet
from cnnbench.errors import DataError

# If a server does not answer within this time, the network is considered unavailable.
ANSWER_LIMIT_S = 3.0


class UnavailableError(DataError):
    """The data is not available locally and cannot be downloaded.

    Args:
      message: the missing data and the reason.
      searched: description of the searched folders and their content; may be empty.
    """

    def __init__(self, message: str, searched: str = "") -> None:
        super().__init__(message)
        self.searched = searched


@dataclass(frozen=True, slots=True)
class RegisteredFile:
    """A file as tensorflow-datasets registers it."""

    url: str
    filename: str
    sha256: str


def registered_files(builder: Any) -> tuple[RegisteredFile, ...]:
    """All files registered for a builder, for all of its configurations."""
    infos = builder.url_infos or {}
    return tuple(
        RegisteredFile(url, info.filename or Path(urlsplit(url).path).name, info.checksum)
        for url, info in infos.items()
    )


def manual_dirs(data_dir: Path) -> tuple[Path, ...]:
    """Folders for manually placed files, in order of precedence."""
    return (data_dir, data_dir / "downloads" / "manual", data_dir / "manual")


def manual_path(file: RegisteredFile, data_dir: Path) -> Path | None:
    """Path of a manually placed file, not yet verified; None if missing."""
    paths = (folder / file.filename for folder in manual_dirs(data_dir))
    return next((path for path in paths if path.is_file()), None)


def fetched_path(file: RegisteredFile, name: str, data_dir: Path) -> Path | None:
    """Path of a file previously downloaded by tensorflow-datasets, not yet verified; else None."""
    base = name.partition("/")[0]
    file_name = private_api("download.resource", "get_dl_fname")(file.url, file.sha256)
    path = data_dir / "downloads" / base / file_name
    return path if private_api("download.resource", "is_locally_cached")(path) else None


def verify_file(path: Path, file: RegisteredFile, name: str, uncompressed: str = "") -> None:
    """Verifies the SHA-256 of a file.

    tensorflow-datasets verifies new downloads and manually placed files, but not previously
    downloaded ones.

    Args:
      path: the file.
      file: registered URL and SHA-256.
      name: name of the dataset.
      uncompressed: also accepted SHA-256, of the uncompressed content.

    Raises:
      DataError: the SHA-256 is different, or the file cannot be read.
    """
    found = sha256_of(path)
    if found not in {file.sha256, uncompressed}:
        compressed = path.suffix == ".gz" or not uncompressed
        expected = file.sha256 if compressed else uncompressed
        raise DataError(_mismatch(str(path), name, expected, found))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits.

    Raises:
      DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error


def fetch(
    name: str,
    builder: Any,
    files: Iterable[RegisteredFile],
    data_dir: Path,
    notify: Callable[[str], None],
) -> dict[str, Path]:
    """Downloads files to ``data_dir/downloads``.

    Returns:
      Paths by file name.

    Raises:
      UnavailableError: no network, or the server does not provide a file.
      DataError: a file has the wrong SHA-256, or cannot be written.
    """
    import tensorflow_datasets as tfds

    names = {file.url: file.filename for file in files}
    require_network(name, next(iter(names)))
    count = "1 file" if len(names) == 1 else f"{len(names)} files"
    notify(f"Downloading {count} of '{name}' to {data_dir / 'downloads'}.")
    with quiet(), translated_errors(name):
        manager = tfds.download.DownloadManager(
            download_dir=data_dir / "downloads",
            url_infos=dict(builder.url_infos),
            dataset_name=name,
            force_checksums_validation=True,
        )
        paths = manager.download({url: url for url in names})
    return {names[url]: Path(path) for url, path in paths.items()}


@contextlib.contextmanager
def translated_errors(name: str) -> Iterator[None]:
    """Translates errors of the download manager of tensorflow-datasets.

    Raises:
      UnavailableError: the server does not provide a file.
      DataError: a file has the wrong SHA-256, or cannot be written.
    """
    import requests

    mismatch = private_api("download.download_manager", "NonMatchingChecksumError")
    download = private_api("download.util", "DownloadError")
    try:
        yield
    except mismatch as error:
        # The path and the checksums are only in the message of the error.
        place = str(error).partition("downloaded to ")[2].partition(", has wrong checksum")[0]
        expected, found = re.findall(r"checksum='([0-9a-f]{64})'", str(error))
        raise DataError(_mismatch(place, name, expected, found)) from error
    except (requests.RequestException, download) as error:
        raise UnavailableError(_unavailable(name, str(error).rstrip("."))) from error
    except OSError as error:
        raise DataError(
            f"{error.filename or 'the data folder'}: {error.strerror or error}; "
            "choose another folder with --data-dir or TFDS_DATA_DIR"
        ) from error


def require_network(name: str, url: str) -> None:
    """Sends a HEAD request, so that a missing network is detected within seconds.

    tensorflow-datasets would retry ten times without a timeout. Uses a thread because DNS lookups
    have no timeout.

    Raises:
      UnavailableError: timeout, no connection, or a server error (HTTP 5xx).
    """
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_fault(url)), daemon=True).start()
    try:
        fault = answers.get(timeout=ANSWER_LIMIT_S)
    except queue.Empty:
        fault = f"no answer within {ANSWER_LIMIT_S:g} s"
    if fault:
        raise UnavailableError(_unavailable(name, f"{urlsplit(url).hostname}: {fault}"))


def _fault(url: str) -> str:
    import requests

    try:
        status = requests.head(url, timeout=ANSWER_LIMIT_S, allow_redirects=True).status_code
    except requests.RequestException:
        return "no connection"
    return f"HTTP status {status}" if status >= 500 else ""


def _unavailable(name: str, reason: str) -> str:
    return f"dataset '{name}' is not available locally and cannot be downloaded ({reason})"


def _mismatch(place: str, name: str, expected: str, found: str) -> str:
    return (
        f"{place}: this is not the file of dataset '{name}' (expected SHA-256 {expected}, "
        f"found {found}); remove it or replace it with the right file"
    )
