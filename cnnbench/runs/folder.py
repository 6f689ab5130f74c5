"""Run folders: `RESULTS/NAME/RUN-ID/`, plain files that survive a crash.

Files are written under a temporary name and then moved, so a reader sees either the old content
or the new one. `epochs.jsonl` is append-only: each line is on disk before the next epoch starts.
"""

import contextlib
import errno
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.errors import Location, StoreError
from cnnbench.runs import codec
from cnnbench.runs.predictions import decode_predictions, encode_predictions
from cnnbench.runs.records import (
    EpochRecord,
    Facts,
    RunRecord,
    RunResult,
    Status,
    Summary,
    facts_of,
)
from cnnbench.runs.weights import Weights, decode_weights, encode_weights
from cnnbench.statistics.estimates import mean
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.files import append_durable, move, remove, sync_folder, write_atomic
from cnnbench.system.locks import is_held

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECORD_FILE, SUMMARY_FILE, EPOCHS_FILE = "run.json", "summary.json", "epochs.jsonl"
TABLES = ("table.md", "table.csv")
_PARTS = 16**4  # of a second, in run IDs
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
        self.write(SUMMARY_FILE, codec.encode_summary(summary))

    def write_tables(self, markdown: str, csv: str) -> None:
        """Writes `table.md` and `table.csv`, or replaces them."""
        for name, text in zip(TABLES, (markdown, csv), strict=True):
            self.write(name, _bytes(text))

    def write_weights(self, seed: int, weights: Weights) -> None:
        """Writes the trained weights of a seed."""
        self.write(weights_file(seed), encode_weights(weights))

    def write_predictions(self, seed: int, predictions: NamedArrays) -> None:
        """Writes the results of a seed for each image."""
        self.write(predictions_file(seed), *encode_predictions(predictions))

    def append_epoch(self, epoch: EpochRecord) -> None:
        """Appends a line to `epochs.jsonl`; it is on disk when this returns."""
        path = self.path / EPOCHS_FILE
        with disk(path, "write"):
            append_durable(path, codec.encode_epoch(epoch))

    def write_epochs(self, epochs: Sequence[EpochRecord]) -> None:
        """Replaces `epochs.jsonl`."""
        self.write(EPOCHS_FILE, b"".join(map(codec.encode_epoch, epochs)))

    def set_summary_aside(self, epoch: int) -> None:
        """Renames the summary of a run that is extended to `summary-epoch-N.json`.

        The tables, which contain nothing else, are removed.
        """
        kept = self.path / f"summary-epoch-{epoch}.json"
        with disk(kept, "write"):
            for name in TABLES:
                remove(self.path / name)
            with contextlib.suppress(FileNotFoundError):
                move(self.path / SUMMARY_FILE, kept)

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


class RunEntry:
    """A run without its epochs, as lists show it; what is not known yet is read when it is used.

    Args:
      path: its folder.
      record: configuration, status and environment; None to read them when they are used.
      summary: results; None if there are none, or without a record.
      facts: what an index knows of it; None to derive them from the record.
      curve: the headline metric after each epoch, as an index has it; None to read it.
    """

    __slots__ = ("_curve", "_facts", "_files", "path")

    def __init__(
        self,
        path: Path,
        record: RunRecord | None,
        summary: Summary | None,
        facts: Facts | None = None,
        curve: tuple[float, ...] | None = None,
    ) -> None:
        self.path, self._facts, self._curve = path, facts, curve
        self._files = None if record is None else (record, summary)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunEntry):
            return NotImplemented
        return (self.path, self.record, self.summary) == (other.path, other.record, other.summary)

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"<RunEntry {self.path}: {self.facts.status}>"

    @property
    def record(self) -> RunRecord:
        """Configuration, status and environment.

        Raises:
          StoreError: it is read now, and cannot be.
        """
        return self._read()[0]

    @property
    def summary(self) -> Summary | None:
        """Results; None unless the run finished.

        Raises:
          StoreError: it is read now, and cannot be.
        """
        return self._read()[1]

    @property
    def facts(self) -> Facts:
        """What lists and searches need to know."""
        if self._facts is None:
            self._facts = facts_of(*self._read())
        return self._facts

    @property
    def curve(self) -> tuple[float, ...]:
        """The headline metric after each epoch, mean over the seeds that have reached it.

        The training loss without validation images; empty if the epochs cannot be read. Long
        curves from an index have fewer points: means of neighbors.
        """
        if self._curve is None:
            self._curve = _curve(self.path, self.facts.headline)
        return self._curve

    @property
    def status(self) -> str:
        """The status; ``killed`` if the process of a running run is gone."""
        if self.facts.status is Status.RUNNING and not is_held(self.path):
            return "killed"
        return str(self.facts.status)

    def _read(self) -> tuple[RunRecord, Summary | None]:
        if self._files is None:
            self._files = _read_files(self.path)
        return self._files


def _curve(path: Path, headline: str) -> tuple[float, ...]:
    """The curve of `RunEntry`; what cannot be read has none."""
    try:
        *lines, _ = (_read_if_there(path / EPOCHS_FILE) or b"").split(b"\n")
    except StoreError:
        return ()
    try:
        epochs = json.loads(b"[%s]" % b",".join(lines))
        name = "validation_loss" if headline == "loss" else codec.EPOCH_PREFIX + headline
        if not headline or len({(each["seed"], each["epoch"]) for each in epochs}) != len(lines):
            return _careful_curve(path, headline)
        values: dict[int, list[float]] = {}
        for each in epochs:
            course = "train_loss" if each["validation_loss"] is None else name
            if course in each:
                values.setdefault(each["epoch"], []).append(float(each[course]))
        return tuple(mean(values[number]) for number in sorted(values))
    except (ValueError, TypeError, KeyError, RecursionError):
        return _careful_curve(path, headline)


def _careful_curve(path: Path, headline: str) -> tuple[float, ...]:
    """The curve from epochs whose every field is checked, which takes ten times as long."""
    try:
        epochs, _ = read_epochs(path)
    except StoreError:
        return ()
    metric = headline or (next(iter(epochs[0].metrics), "loss") if epochs else "loss")
    values: dict[int, list[float]] = {}
    for epoch in epochs:
        if metric == "loss" or metric in epoch.metrics or not epoch.validated:
            values.setdefault(epoch.epoch, []).append(epoch.course(metric))
    return tuple(mean(values[number]) for number in sorted(values))


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
        path = _make_unique(parent, now.astimezone(UTC))
        sync_folder(parent)
    return RunFolder(path)


def read_run_entry(path: Path) -> RunEntry:
    """Reads a run folder without its epochs.

    Raises:
      StoreError: a file cannot be read, or this version cannot have written it.
    """
    return RunEntry(path, *_read_files(path))


def _read_files(path: Path) -> tuple[RunRecord, Summary | None]:
    record = codec.decode_record(_read(path / RECORD_FILE), str(path / RECORD_FILE))
    summary = path / SUMMARY_FILE
    content = _read_if_there(summary)
    decoded = None if content is None else codec.decode_summary(content, str(summary))
    return record, decoded


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
    file = path / weights_file(seed)
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


def weights_file(seed: int) -> str:
    """Name of the weights of a seed in the folder of a run."""
    return f"{WEIGHTS}/seed-{seed}.safetensors"


def read_epochs(folder: Path) -> tuple[tuple[EpochRecord, ...], tuple[str, ...]]:
    """Reads the epochs of a run folder.

    Returns:
      The epochs, and warnings about their file.

    Raises:
      StoreError: it cannot be read, or this version cannot have written a line.
    """
    path = folder / EPOCHS_FILE
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


def _make_unique(parent: Path, start: datetime) -> Path:
    """Creates a folder whose name sorts by the start of the run, also within a second."""
    part = start.microsecond * _PARTS // 1_000_000
    while True:
        path = parent / f"{start:%Y%m%dT%H%M%SZ}-{part:04x}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
        part = (part + 1) % _PARTS


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
