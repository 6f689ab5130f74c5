"""Run folders: `RESULTS/NAME/RUN-ID/`, plain files that survive a crash.

Files are written under a temporary name and then moved, so a reader sees either the old content
or the new one. `epochs.jsonl` is append-only: each line is on disk before the next epoch starts.
"""

import contextlib
import errno
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.errors import Location, StoreError
from cnnbench.runs import codec
from cnnbench.runs.predictions import decode_predictions, encode_predictions
from cnnbench.runs.records import EpochRecord, RunRecord, RunResult, Status, Summary
from cnnbench.runs.weights import Weights, decode_weights, encode_weights
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.files import append_durable, move, remove, sync_folder, write_atomic
from cnnbench.system.locks import is_held

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECORD_FILE, _SUMMARY, _EPOCHS = "run.json", "summary.json", "epochs.jsonl"
TABLES = ("table.md", "table.csv")
RESOLVED_FILE, WEIGHTS, PREDICTIONS = "resolved.yaml", "weights", "predictions"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run that is being written.

    Every method raises StoreError if writing fails.
    """

    path: Path

    @property
    def run_id(self) -> str:
        """The name of the run, which sorts by its start."""
        return self.path.name

    def write_spec(self, content: bytes) -> None:
        """Writes the experiment file as it was given."""
        self.write("spec.yaml", content)

    def write_resolved(self, text: str) -> None:
        """Writes the experiment after `extends` and overrides."""
        self.write(RESOLVED_FILE, _bytes(text))

    def write_record(self, record: RunRecord) -> None:
        """Writes `run.json`, or replaces it."""
        self.write(RECORD_FILE, codec.encode_record(record))

    def write_summary(self, summary: Summary) -> None:
        """Writes `summary.json`, or replaces it."""
        self.write(_SUMMARY, codec.encode_summary(summary))

    def write_tables(self, markdown: str, csv: str) -> None:
        """Writes `table.md` and `table.csv`, or replaces them."""
        for name, text in zip(TABLES, (markdown, csv), strict=True):
            self.write(name, _bytes(text))

    def write_weights(self, seed: int, weights: Weights) -> None:
        """Writes the trained weights of a seed."""
        self.write(_weights_file(seed), encode_weights(weights))

    def write_predictions(self, seed: int, predictions: NamedArrays) -> None:
        """Writes the results of a seed for each image."""
        self.write(predictions_file(seed), *encode_predictions(predictions))

    def append_epoch(self, epoch: EpochRecord) -> None:
        """Appends a line to `epochs.jsonl`; it is on disk when this returns."""
        path = self.path / _EPOCHS
        with disk(path, "write"):
            append_durable(path, codec.encode_epoch(epoch))

    def write_epochs(self, epochs: Sequence[EpochRecord]) -> None:
        """Replaces `epochs.jsonl`."""
        self.write(_EPOCHS, b"".join(map(codec.encode_epoch, epochs)))

    def set_summary_aside(self, epoch: int) -> None:
        """Renames the summary of a run that is extended to `summary-epoch-N.json`.

        The tables, which contain nothing else, are removed.
        """
        kept = self.path / f"summary-epoch-{epoch}.json"
        with disk(kept, "write"):
            for name in TABLES:
                remove(self.path / name)
            with contextlib.suppress(FileNotFoundError):
                move(self.path / _SUMMARY, kept)

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        """Writes a file of the run atomically."""
        path = self.path / name
        with disk(path, "write"):
            self._make_folder(path.parent)
            write_atomic(path, *parts)

    def _make_folder(self, folder: Path) -> None:
        # The run's own folder is not created again if it was removed.
        if folder != self.path and not folder.exists():
            self._make_folder(folder.parent)
            folder.mkdir()
            sync_folder(folder.parent)


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run without its epochs, as lists show it."""

    path: Path
    record: RunRecord
    summary: Summary | None

    @property
    def status(self) -> str:
        """The status; ``killed`` if the process of a running run is gone."""
        if self.record.status is Status.RUNNING and not is_held(self.path):
            return "killed"
        return str(self.record.status)


def create_run(results_dir: Path, name: str, now: datetime) -> RunFolder:
    """Creates a new, empty run folder for this process alone.

    Args:
      results_dir: folder of all results; created if missing.
      name: name of the experiment, which becomes a folder name.
      now: start of the run, with its time zone.

    Raises:
      StoreError: writing fails, or `name` is not a folder name.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise StoreError(
            f"{results_dir}: {name!r} is not a valid folder name; rename the experiment."
        )
    parent = results_dir / name
    with disk(parent, "create"):
        parent.mkdir(parents=True, exist_ok=True)
        path = _make_unique(parent, now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ"))
        sync_folder(parent)
    return RunFolder(path)


def read_run_entry(path: Path) -> RunEntry:
    """Reads a run folder without its epochs.

    Raises:
      StoreError: a file cannot be read, or this version cannot have written it.
    """
    record = codec.decode_record(_read(path / RECORD_FILE), str(path / RECORD_FILE))
    summary = path / _SUMMARY
    content = _read_if_there(summary)
    decoded = None if content is None else codec.decode_summary(content, str(summary))
    return RunEntry(path, record, decoded)


def read_run(path: Path) -> RunResult:
    """Reads a run folder.

    Raises:
      StoreError: a file cannot be read, or this version cannot have written it. An incomplete
        last line of `epochs.jsonl` is only a warning.
    """
    entry = read_run_entry(path)
    epochs, warnings = read_epochs(path)
    return RunResult(entry.record, entry.summary, epochs, warnings, path)


def kept_seeds(path: Path) -> tuple[int, ...]:
    """Lists the seeds whose weights are in a run folder, in order; none in older versions.

    Raises:
      StoreError: the folder cannot be read.
    """
    folder = path / WEIGHTS
    with disk(folder, "read"):
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    found = (re.fullmatch(r"seed-(\d+)\.safetensors", name) for name in names)
    return tuple(sorted(int(match[1]) for match in found if match))


def read_weights(path: Path, seed: int) -> "dict[str, NDArray[Any]]":
    """Reads the trained weights of a seed, by name.

    Raises:
      StoreError: the file cannot be read, or is damaged.
    """
    file = path / _weights_file(seed)
    return decode_weights(_read(file), str(file))


def read_predictions(path: Path, seed: int) -> "dict[str, NDArray[Any]] | None":
    """Reads the results of a seed for each image, by names such as `test_accuracy`.

    Returns:
      The arrays, (n,) each; None if there are none, as in runs of older versions.

    Raises:
      StoreError: the file cannot be read, or is damaged.
    """
    file = path / predictions_file(seed)
    content = _read_if_there(file)
    return None if content is None else decode_predictions(content, str(file))


def predictions_file(seed: int) -> str:
    """The file of a seed's predictions in a run folder."""
    return f"{PREDICTIONS}/seed-{seed}.safetensors"


def _weights_file(seed: int) -> str:
    return f"{WEIGHTS}/seed-{seed}.safetensors"


def read_epochs(folder: Path) -> tuple[tuple[EpochRecord, ...], tuple[str, ...]]:
    """Reads the epochs of a run folder.

    Returns:
      The epochs, and warnings about their file.

    Raises:
      StoreError: it cannot be read, or this version cannot have written a line.
    """
    path = folder / _EPOCHS
    *lines, torn = (_read_if_there(path) or b"").split(b"\n")
    epochs: dict[tuple[int, int], EpochRecord] = {}
    for number, line in enumerate(lines, start=1):
        epoch = codec.decode_epoch(line, Location(str(path), number))
        if epochs.setdefault((epoch.seed, epoch.epoch), epoch) is not epoch:
            twice = f"duplicate line for seed {epoch.seed}, epoch {epoch.epoch}"
            raise StoreError(f"{path}:{number}: {twice}; remove one of the two.")
    if not torn:
        return tuple(epochs.values()), ()
    cut = f"{path}:{len(lines) + 1}: ignored the last line, which is incomplete"
    return tuple(epochs.values()), (f"{cut}; the run was killed, or is writing it now.",)


def _bytes(text: str) -> bytes:
    # A title may contain characters that UTF-8 cannot encode; a run must not fail for that.
    return text.encode(errors="backslashreplace")


def _read(path: Path) -> bytes:
    with disk(path, "read"):
        return path.read_bytes()


def _read_if_there(path: Path) -> bytes | None:
    with disk(path, "read"), contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _make_unique(parent: Path, stamp: str) -> Path:
    while True:
        path = parent / f"{stamp}-{secrets.token_hex(2)}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path


_REMEDIES = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
    errno.EROFS: "choose another folder with --results-dir",
    errno.EACCES: "change its permissions, or choose another folder with --results-dir",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "restore the run folder, or remove the rest of it",
}


@contextlib.contextmanager
def disk(path: Path, action: str) -> Iterator[None]:
    """Converts an OSError of the body to an error that names the file and a remedy.

    Raises:
      StoreError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another folder with --results-dir")
        reason = (error.strerror or str(error)).lower()
        raise StoreError(f"{path}: cannot {action}: {reason}; {remedy}.") from error
