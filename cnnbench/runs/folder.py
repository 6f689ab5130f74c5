"""Run folders: `RESULTS/NAME/RUN-ID/`, plain files that survive a crash.

A file is written beside its place and moved there, so a reader sees the old
content or the new one. `epochs.jsonl` only grows, a line at a time, each on
the disk before the next epoch begins.
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
from cnnbench.runs.records import EpochRecord, RunRecord, RunResult, Status, Summary
from cnnbench.runs.weights import Weights, decode_weights, encode_weights
from cnnbench.system.files import append_durable, move, remove, sync_folder, write_atomic
from cnnbench.system.locks import is_held

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECORD_FILE, _SUMMARY, _EPOCHS = "run.json", "summary.json", "epochs.jsonl"
TABLES = ("table.md", "table.csv")
RESOLVED_FILE, WEIGHTS = "resolved.yaml", "weights"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run that is being written.

    Every method raises StoreError when the disk refuses.
    """

    path: Path

    @property
    def run_id(self) -> str:
        """Name of the run; sorts by its start."""
        return self.path.name

    def write_spec(self, content: bytes) -> None:
        """Keep the experiment file as it was given."""
        self.write("spec.yaml", content)

    def write_resolved(self, text: str) -> None:
        """Keep the experiment as it was run, after `extends` and overrides."""
        self.write(RESOLVED_FILE, _bytes(text))

    def write_record(self, record: RunRecord) -> None:
        """Write `run.json`, or replace it."""
        self.write(RECORD_FILE, codec.encode_record(record))

    def write_summary(self, summary: Summary) -> None:
        """Write `summary.json`, or replace it."""
        self.write(_SUMMARY, codec.encode_summary(summary))

    def write_tables(self, markdown: str, csv: str) -> None:
        """Write `table.md` and `table.csv`, or replace them."""
        for name, text in zip(TABLES, (markdown, csv), strict=True):
            self.write(name, _bytes(text))

    def write_weights(self, seed: int, weights: Weights) -> None:
        """Keep what a seed has learnt."""
        self.write(_weights_file(seed), encode_weights(weights))

    def append_epoch(self, epoch: EpochRecord) -> None:
        """Add a line to `epochs.jsonl`; it is on the disk when this returns."""
        path = self.path / _EPOCHS
        with disk(path, "write"):
            append_durable(path, codec.encode_epoch(epoch))

    def write_epochs(self, epochs: Sequence[EpochRecord]) -> None:
        """Replace `epochs.jsonl`."""
        self.write(_EPOCHS, b"".join(map(codec.encode_epoch, epochs)))

    def set_summary_aside(self, epoch: int) -> None:
        """Keep the summary of a run that is trained further as `summary-epoch-N.json`.

        Its tables, which say no more, are removed.
        """
        kept = self.path / f"summary-epoch-{epoch}.json"
        with disk(kept, "write"):
            for name in TABLES:
                remove(self.path / name)
            with contextlib.suppress(FileNotFoundError):
                move(self.path / _SUMMARY, kept)

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        """Write a file of the run whole or not at all."""
        path = self.path / name
        with disk(path, "write"):
            self._make_folder(path.parent)
            write_atomic(path, *parts)

    def _make_folder(self, folder: Path) -> None:
        # The run's own folder is not made anew.
        if folder != self.path and not folder.exists():
            self._make_folder(folder.parent)
            folder.mkdir()
            sync_folder(folder.parent)


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run as a list shows it: everything but its epochs."""

    path: Path
    record: RunRecord
    summary: Summary | None

    @property
    def status(self) -> str:
        """How far it has come; ``killed`` where no process is left that could go on with it."""
        if self.record.status is Status.RUNNING and not is_held(self.path):
            return "killed"
        return str(self.record.status)


def create_run(results_dir: Path, name: str, now: datetime) -> RunFolder:
    """Make a new, empty run folder that no other process has.

    Args:
      results_dir: folder of all results; made when missing.
      name: name of the experiment, one folder name.
      now: start of the run, with its time zone.

    Raises:
      StoreError: the disk refuses or `name` is no folder name.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise StoreError(
            f"{results_dir}: {name!r} cannot be a folder's name; rename the experiment."
        )
    parent = results_dir / name
    with disk(parent, "create"):
        parent.mkdir(parents=True, exist_ok=True)
        path = _make_unique(parent, now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ"))
        sync_folder(parent)
    return RunFolder(path)


def read_run_entry(path: Path) -> RunEntry:
    """What a run folder says about its run, without the epochs.

    Raises:
      StoreError: a file cannot be read, or is not what this version writes.
    """
    record = codec.decode_record(_read(path / RECORD_FILE), str(path / RECORD_FILE))
    summary = path / _SUMMARY
    content = _read_if_there(summary)
    decoded = None if content is None else codec.decode_summary(content, str(summary))
    return RunEntry(path, record, decoded)


def read_run(path: Path) -> RunResult:
    """Everything in a run folder.

    Raises:
      StoreError: a file cannot be read, or is not what this version writes; a
        torn last line of `epochs.jsonl` is a warning.
    """
    entry = read_run_entry(path)
    epochs, warnings = read_epochs(path)
    return RunResult(entry.record, entry.summary, epochs, warnings, path)


def kept_seeds(path: Path) -> tuple[int, ...]:
    """The seeds whose weights are in a run folder, in order; none in one of an older version.

    Raises:
      StoreError: the folder cannot be read.
    """
    folder = path / WEIGHTS
    with disk(folder, "read"):
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    found = (re.fullmatch(r"seed-(\d+)\.safetensors", name) for name in names)
    return tuple(sorted(int(match[1]) for match in found if match))


def read_weights(path: Path, seed: int) -> "dict[str, NDArray[Any]]":
    """What a seed of a run has learnt, by name.

    Raises:
      StoreError: the file cannot be read, or is damaged.
    """
    file = path / _weights_file(seed)
    return decode_weights(_read(file), str(file))


def _weights_file(seed: int) -> str:
    return f"{WEIGHTS}/seed-{seed}.safetensors"


def read_epochs(folder: Path) -> tuple[tuple[EpochRecord, ...], tuple[str, ...]]:
    """The epochs in a run folder, and what is odd about their file.

    Raises:
      StoreError: it cannot be read, or a line is not what this version writes.
    """
    path = folder / _EPOCHS
    *lines, torn = (_read_if_there(path) or b"").split(b"\n")
    epochs: dict[tuple[int, int], EpochRecord] = {}
    for number, line in enumerate(lines, start=1):
        epoch = codec.decode_epoch(line, Location(str(path), number))
        if epochs.setdefault((epoch.seed, epoch.epoch), epoch) is not epoch:
            twice = f"seed {epoch.seed}, epoch {epoch.epoch} stands twice"
            raise StoreError(f"{path}:{number}: {twice}; remove one of the two lines.")
    if not torn:
        return tuple(epochs.values()), ()
    cut = f"{path}:{len(lines) + 1}: the last line is cut off and was ignored"
    return tuple(epochs.values()), (f"{cut}; the run was stopped, or is writing it now.",)


def _bytes(text: str) -> bytes:
    # A title may hold characters that UTF-8 cannot; they must not cost a run its tables.
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
    errno.EACCES: "give yourself access, or choose another folder with --results-dir",
    errno.ENAMETOOLONG: "write a shorter name",
    errno.ENOENT: "put the run's folder back, or remove what is left of it",
}


@contextlib.contextmanager
def disk(path: Path, action: str) -> Iterator[None]:
    """Say which file the operating system refused, and what to do about it.

    Raises:
      StoreError: instead of an OSError in the body.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another folder with --results-dir")
        reason = (error.strerror or str(error)).lower()
        raise StoreError(f"{path}: cannot {action}: {reason}; {remedy}.") from error
