"""Finds, downloads and verifies the source files of datasets.

URLs, sizes and SHA-256 values are those of tensorflow-datasets. They are read from the text
files of its package, because importing it takes seconds.
"""

import base64
import contextlib
import importlib.util
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cnnbench.data.catalog import TESTED, private_api
from cnnbench.data.file_digests import HashAlgorithm, digest_of
from cnnbench.errors import DataError
from cnnbench.formatting import bytes_text
from cnnbench.system import commands
from cnnbench.system.progress import counted

# If a server does not answer within this time, the network is considered unavailable.
ANSWER_LIMIT_S = 3.0
STALL_LIMIT_S = 30.0  # without a byte, in a download
ATTEMPTS = 5  # per server, each of which resumes the previous one
MIRROR = "CNNBENCH_MIRROR"  # environment variable: URLs of folders with copies of the files
_BLOCK = 2**20
_MOST_BYTES = 2**32  # of a file of unknown size
REMEDY = "remove it or replace it with the right file"
_ELSEWHERE = "choose another folder with --data-dir or TFDS_DATA_DIR"


class UnavailableError(DataError):
    """The data is not available locally and cannot be downloaded.

    Args:
      message: the missing data and the reason.
      searched: description of the searched folders and their content; may be empty.
    """

    def __init__(self, message: str, searched: str = "") -> None:
        super().__init__(message)
        self.searched = searched


class _FaultError(DataError):
    """A server does not provide a file; the message is the reason."""


@dataclass(frozen=True, slots=True)
class RegisteredFile:
    """A published file.

    Args:
      url: its address.
      filename: its name.
      checksum: SHA-256 as 64 hex digits, or MD5 as 32.
      size: in bytes; None if unknown.
    """

    url: str
    filename: str
    checksum: str
    size: int | None = None


def registered_files(builder: Any) -> tuple[RegisteredFile, ...]:
    """All files registered for a builder, for all of its configurations."""
    infos = builder.url_infos or {}
    return tuple(
        RegisteredFile(url, info.filename or _basename(url), info.checksum, int(info.size))
        for url, info in infos.items()
    )


def published_files(name: str) -> dict[str, RegisteredFile]:
    """All files that tensorflow-datasets registers for a dataset, by file name.

    Does not import tensorflow-datasets.

    Raises:
      DataError: the installed version does not have the dataset.
    """
    rows = (line.split("\t") for line in checksum_text(name.partition("/")[0]).splitlines())
    files = (
        RegisteredFile(url, filename or _basename(url), checksum, int(size))
        for url, size, checksum, filename in rows
    )
    return {file.filename: file for file in files}


def checksum_text(name: str) -> str:
    """Text of the file of tensorflow-datasets with URL, size, SHA-256 and name of each download.

    Raises:
      DataError: the installed version does not have the dataset.
    """
    spec = importlib.util.find_spec("tensorflow_datasets")
    package = Path((spec and spec.origin) or "").parent
    paths = (
        package / "url_checksums" / f"{name}.txt",
        package / "datasets" / name / "checksums.tsv",
    )
    if path := next((path for path in paths if path.is_file()), None):
        return path.read_text()
    found = f"tensorflow-datasets {version('tensorflow-datasets')} has no checksums for '{name}'"
    remedy = f"run {commands.pip_install(f'tensorflow-datasets=={TESTED}')}"
    raise DataError(f"{found}, which cnnbench requires; {remedy}")


def _basename(url: str) -> str:
    return Path(urlsplit(url).path).name


def manual_dirs(data_dir: Path) -> tuple[Path, ...]:
    """Folders for manually placed files, in order of precedence."""
    return (data_dir, data_dir / "downloads" / "manual", data_dir / "manual")


def manual_path(file: RegisteredFile, data_dir: Path) -> Path | None:
    """Path of a manually placed file, not yet verified; None if missing."""
    paths = (folder / file.filename for folder in manual_dirs(data_dir))
    return next((path for path in paths if path.is_file()), None)


def fetched_path(file: RegisteredFile, name: str, data_dir: Path) -> Path | None:
    """Path of a previously downloaded file, not yet verified; else None.

    tensorflow-datasets appends the SHA-256 to the names of its downloads, in base 64, and writes a
    second file when they are complete.
    """
    folder = data_dir / "downloads" / name.partition("/")[0]
    if (own := folder / file.filename).is_file():
        return own
    code = base64.urlsafe_b64encode(bytes.fromhex(file.checksum)).decode().rstrip("=")
    theirs = (path for path in folder.glob(f"*{code}*") if path.suffix != ".INFO")
    return next((path for path in theirs if Path(f"{path}.INFO").exists()), None)


def verify_file(path: Path, file: RegisteredFile, name: str, uncompressed: str = "") -> None:
    """Verifies the checksum of a file.

    Args:
      path: the file.
      file: registered URL and checksum.
      name: name of the dataset.
      uncompressed: also accepted checksum, of the uncompressed content.

    Raises:
      DataError: the checksum is different, or the file cannot be read.
    """
    found = checksum_of(path, file)
    if found not in {file.checksum, uncompressed}:
        compressed = path.suffix == ".gz" or not uncompressed
        expected = file.checksum if compressed else uncompressed
        raise DataError(_mismatch(str(path), name, expected, found))


def checksum_of(path: Path, file: RegisteredFile) -> str:
    """Checksum of a file on the disk, of the same kind as that of the registered file."""
    return digest_of(path, _algorithm(file.checksum))


def _algorithm(checksum: str) -> HashAlgorithm:
    return "md5" if len(checksum) == 32 else "sha256"


def fetch(
    name: str, files: Iterable[RegisteredFile], data_dir: Path, notify: Callable[[str], None]
) -> dict[str, Path]:
    """Downloads files to ``data_dir/downloads/NAME``.

    Resumes interrupted downloads, and tries each mirror. Of several processes, one downloads.

    Returns:
      Paths by file name.

    Raises:
      UnavailableError: no network, or no server provides a file.
      DataError: a file has the wrong checksum, or cannot be written.
    """
    files = tuple(files)
    require_network(name, *_urls(files[0]))
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    size = bytes_text(sum(file.size or 0 for file in files))
    total = f" ({size})" if all(file.size for file in files) else ""
    notify(f"Downloading {count} of '{name}'{total} to {data_dir / 'downloads'}.")
    return {file.filename: _download(name, file, data_dir) for file in files}


def _urls(file: RegisteredFile) -> tuple[str, ...]:
    """Addresses of a file, those of the user's mirrors first."""
    mirrors = os.environ.get(MIRROR, "").split()
    own = [f"{mirror.rstrip('/')}/{file.filename}" for mirror in mirrors]
    return (*own, file.url)


def _download(name: str, file: RegisteredFile, data_dir: Path) -> Path:
    from filelock import FileLock

    folder = data_dir / "downloads" / name.partition("/")[0]
    target, part = folder / file.filename, folder / f"{file.filename}.part"
    with _writing(part):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        with FileLock(folder / f".{file.filename}.lock"):
            if not target.exists():  # another process may have downloaded it meanwhile
                _require_space(part, file.size)
                _receive_verified(name, file, part, data_dir)
                part.replace(target)
    return target


def _receive_verified(name: str, file: RegisteredFile, part: Path, data_dir: Path) -> None:
    """Downloads a file from the first server that has it."""
    reasons, wrong = list[str](), ""
    for url in _urls(file):
        resumed = _size(part) > 0
        while True:
            try:
                _receive(url, part, file.size)
            except _FaultError as fault:
                reasons.append(f"{urlsplit(url).hostname}: {fault}")
                break
            if (found := checksum_of(part, file)) == file.checksum:
                return
            part.unlink()
            if not resumed:
                place = f"put the right file into {data_dir}, or set {MIRROR} to another server"
                wrong = _mismatch(url, name, file.checksum, found, place)
                break
            resumed = False  # the part may be of another server or version: again from the start
    if wrong:
        raise DataError(wrong)
    raise UnavailableError(_unavailable(name, "; ".join(reasons)))


def _receive(url: str, part: Path, size: int | None) -> None:
    """Downloads a file to `part`, after the bytes that are there.

    Raises:
      _FaultError: the server does not provide the file.
    """
    import requests
    import urllib3

    for _ in range(ATTEMPTS):
        before = _size(part)
        if size and before == size:
            return
        try:
            _transfer(url, part, size)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if _size(part) <= before:
                lost = f" after {before:,} bytes; run again to resume" if before else ""
                raise _FaultError(f"{_reason(error, STALL_LIMIT_S)}{lost}") from error
        else:
            if not size or _size(part) >= size:
                return
            if _size(part) <= before:  # an error page, or the start of the file
                raise _FaultError(f"sent only {_size(part):,} of {size:,} bytes")
    raise _FaultError(f"connection lost after {_size(part):,} bytes; run again to resume")


def _transfer(url: str, part: Path, size: int | None) -> None:
    import requests

    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    limits = (ANSWER_LIMIT_S, STALL_LIMIT_S)
    with requests.get(url, stream=True, timeout=limits, headers=headers) as answer:
        if answer.status_code == 416:  # nothing follows, so the checksum decides
            return
        if answer.status_code not in {200, 206}:
            raise _FaultError(f"HTTP status {answer.status_code}")
        place = answer.headers.get("Content-Range", "")
        resumes = answer.status_code == 206 and place.startswith(f"bytes {start}-")
        if answer.status_code == 206 and not resumes:
            raise _FaultError(f"sent bytes {place or 'at an unknown offset'} instead of {start}-")
        with (
            part.open("ab" if resumes else "wb") as file,
            counted("downloaded", size, "bytes") as count,
        ):
            for block in answer.raw.stream(_BLOCK, decode_content=False):
                if file.tell() + len(block) > (most := size or _MOST_BYTES):
                    raise _FaultError(f"sent more than the expected {most:,} bytes")
                file.write(block)
                count(file.tell())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _require_space(part: Path, size: int | None) -> None:
    needed, free = (size or 0) - _size(part), shutil.disk_usage(part.parent).free
    if needed > free:
        reason = f"the download needs {bytes_text(needed)}, and {bytes_text(free)} are free"
        raise DataError(f"{part.parent}: {reason}; {_ELSEWHERE}")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Translates errors of the disk.

    Raises:
      DataError: the file or its folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise DataError(f"{place}: {error.strerror or error}; {_ELSEWHERE}") from error


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
        place = error.filename or "the data folder"
        raise DataError(f"{place}: {error.strerror or error}; {_ELSEWHERE}") from error


def require_network(name: str, *urls: str) -> None:
    """Sends a HEAD request, so that a missing network is detected within seconds.

    Uses a thread because DNS lookups have no timeout.

    Args:
      name: name of the dataset.
      *urls: addresses, of which one must answer.

    Raises:
      UnavailableError: timeout, no connection, or a server error (HTTP 5xx).
    """
    faults = list[str]()
    for url in urls:
        answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_put_fault, args=(url, answers), daemon=True).start()
        try:
            fault = answers.get(timeout=ANSWER_LIMIT_S)
        except queue.Empty:
            fault = f"no answer within {ANSWER_LIMIT_S:g} s"
        if not fault:
            return
        faults.append(f"{urlsplit(url).hostname}: {fault}")
    raise UnavailableError(_unavailable(name, "; ".join(faults)))


def _put_fault(url: str, answers: queue.SimpleQueue[str]) -> None:
    answers.put(_fault(url))


def _fault(url: str) -> str:
    import requests

    try:
        status = requests.head(url, timeout=ANSWER_LIMIT_S, allow_redirects=True).status_code
    except requests.RequestException as error:
        return _reason(error, ANSWER_LIMIT_S)
    return f"HTTP status {status}" if status >= 500 else ""


def _reason(error: Exception, limit_s: float) -> str:
    """Why a server did not answer."""
    import requests
    import urllib3

    if isinstance(error, requests.TooManyRedirects):
        return "too many redirects"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"no answer within {limit_s:g} s"
    return "no connection"


def _unavailable(name: str, reason: str) -> str:
    return f"dataset '{name}' is not available locally and cannot be downloaded ({reason})"


def _mismatch(place: str, name: str, expected: str, found: str, remedy: str = REMEDY) -> str:
    kind = "MD5" if _algorithm(expected) == "md5" else "SHA-256"
    return (
        f"{place}: not the published file of dataset '{name}' (expected {kind} {expected}, "
        f"found {found}); {remedy}"
    )
