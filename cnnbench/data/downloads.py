"""The files that a dataset is made from: found on this machine, fetched, verified.

tensorflow-datasets knows their addresses and their SHA-256, and its download
manager fetches them; that much of it works without TensorFlow.
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

from cnnbench.data.catalog import private, quiet
from cnnbench.errors import DataError

# How long a server may take to answer before the network counts as absent.
ANSWER_LIMIT_S = 3.0


class UnavailableError(DataError):
    """The data is not on this machine and cannot be fetched now.

    Args:
      message: what could not be had, and why.
      looked: where it was looked for and what is there, in sentences; empty if not told.
    """

    def __init__(self, message: str, looked: str = "") -> None:
        super().__init__(message)
        self.looked = looked


@dataclass(frozen=True, slots=True)
class RegisteredFile:
    """A file as tensorflow-datasets registers it."""

    url: str
    filename: str
    sha256: str


def registered_files(builder: Any) -> tuple[RegisteredFile, ...]:
    """All files registered for a builder, which may be more than one configuration needs."""
    infos = builder.url_infos or {}
    return tuple(
        RegisteredFile(url, info.filename or Path(urlsplit(url).path).name, info.checksum)
        for url, info in infos.items()
    )


def manual_dirs(data_dir: Path) -> tuple[Path, ...]:
    """Where a user may have put files by hand, the nearest place first."""
    return (data_dir, data_dir / "downloads" / "manual", data_dir / "manual")


def manual_path(file: RegisteredFile, data_dir: Path) -> Path | None:
    """The file as put there by hand, not yet verified."""
    paths = (folder / file.filename for folder in manual_dirs(data_dir))
    return next((path for path in paths if path.is_file()), None)


def fetched_path(file: RegisteredFile, name: str, data_dir: Path) -> Path | None:
    """The file as tensorflow-datasets fetched it earlier, not yet verified."""
    base = name.partition("/")[0]
    file_name = private("download.resource", "get_dl_fname")(file.url, file.sha256)
    path = data_dir / "downloads" / base / file_name
    return path if private("download.resource", "is_locally_cached")(path) else None


def verify_file(path: Path, file: RegisteredFile, name: str, uncompressed: str = "") -> None:
    """Hold a file against its registered SHA-256.

    tensorflow-datasets does this for what it downloads and for files put there by
    hand, but not for what it downloaded earlier.

    Args:
      path: the file.
      file: as it is registered.
      name: of the dataset.
      uncompressed: the SHA-256 that it may have instead, after gzip was undone.

    Raises:
      DataError: it is another file, or cannot be read.
    """
    found = sha256_of(path)
    if found not in {file.sha256, uncompressed}:
        compressed = path.suffix == ".gz" or not uncompressed
        expected = file.sha256 if compressed else uncompressed
        raise DataError(_mismatch(str(path), name, expected, found))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hex digits.

    Raises:
      DataError: it cannot be read.
    """
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its rights") from error


def fetch(
    name: str,
    builder: Any,
    files: Iterable[RegisteredFile],
    data_dir: Path,
    notify: Callable[[str], None],
) -> dict[str, Path]:
    """Download files into ``data_dir/downloads``; their paths by file name.

    Raises:
      UnavailableError: no network, or the server does not give the file.
      DataError: what came is not the registered file, or cannot be written.
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
    """Errors of tensorflow-datasets' download manager as ours.

    Raises:
      UnavailableError: the server does not give a file.
      DataError: what came is not the registered file, or cannot be written.
    """
    import requests

    mismatch = private("download.download_manager", "NonMatchingChecksumError")
    download = private("download.util", "DownloadError")
    try:
        yield
    except mismatch as error:
        # Where it lies and the sums stand only in the text of that error.
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
    """Ask the server for one answer, so that an absent network costs seconds.

    tensorflow-datasets itself tries ten times and waits without limit. The question
    goes through a thread because looking up a name obeys no time limit.

    Raises:
      UnavailableError: no answer in time, or the server reports a fault of its own.
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
    return f"dataset '{name}' is not on this machine and cannot be downloaded ({reason})"


def _mismatch(place: str, name: str, expected: str, found: str) -> str:
    return (
        f"{place}: this is not the file that '{name}' needs (expected SHA-256 {expected}, "
        f"found {found}); remove it or put the right file in its place"
    )
