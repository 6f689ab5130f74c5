"""Checkpoints of a run: `checkpoints/seed-N/epoch-M/`, written by Orbax.

Beside each stands `epoch-M.json` with the SHA-256 of its files and the order of
the images that comes next. It is written last, so that a checkpoint without one is
not whole and is not looked at.
"""

import hashlib
import json
import logging
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.data.batches import epoch_order
from cnnbench.errors import StoreError
from cnnbench.runs.folder import RunFolder, disk

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = "checkpoints"
Values = Mapping[str, "NDArray[Any]"]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
      run: the folder.
      num_images: training images of an epoch, whose order is a checkpoint's too.
      keep: how many of each seed are kept.
    """

    run: RunFolder
    num_images: int
    keep: int = 1

    def save(self, seed: int, epoch: int, values: Values) -> None:
        """Writes what training goes on from after an epoch, and removes older ones.

        Raises:
          StoreError: the disk refuses.
        """
        path = self._path(seed, epoch)
        with disk(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, values)
        mark = {"order": self._order(seed, epoch + 1), "digest": _digest(path)}
        self.run.write(f"{_name(seed, epoch)}.json", json.dumps(mark).encode() + b"\n")
        for old in self.epochs(seed)[: -self.keep]:
            self._remove(seed, old)

    def epochs(self, seed: int) -> list[int]:
        """Epochs of a seed after which there is a whole checkpoint, in order.

        Raises:
          StoreError: the folder cannot be read.
        """
        folder = self.run.path / FOLDER / f"seed-{seed}"
        with disk(folder, "read"):
            names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        found = (re.fullmatch(r"epoch-(\d{1,9})\.json", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def load(self, seed: int, epoch: int) -> "dict[str, NDArray[Any]]":
        """What was saved, verified.

        Raises:
          StoreError: it cannot be read or is damaged, or the images would come in another order.
        """
        path = self._path(seed, epoch)
        with disk(path, "read"):
            content = path.with_suffix(".json").read_bytes()
        try:
            mark = json.loads(content)
            found = mark["digest"], mark["order"]
        except (ValueError, TypeError, KeyError):
            raise _damaged(path.with_suffix(".json"), "is no record of a checkpoint") from None
        # Orbax would leave threads behind where it fails.
        if found[0] != _digest(path):
            raise _damaged(path, "the SHA-256 does not match")
        if found[1] != self._order(seed, epoch + 1):
            raise _damaged(path, "this NumPy shuffles the images in another order")
        return _read(path)

    def keep_last(self, seeds: Sequence[int]) -> None:
        """Removes all but the newest of each seed, which a finished run is extended from.

        Raises:
          StoreError: the folder cannot be read.
        """
        for seed in seeds:
            for old in self.epochs(seed)[:-1]:
                self._remove(seed, old)

    def clear(self) -> None:
        """Removes all of them, where nothing can be trained from them any more."""
        # A file that cannot be removed is in nobody's way.
        shutil.rmtree(self.run.path / FOLDER, ignore_errors=True)

    def _remove(self, seed: int, epoch: int) -> None:
        path = self._path(seed, epoch)
        with suppress(OSError):
            path.with_suffix(".json").unlink()
            shutil.rmtree(path)

    def _path(self, seed: int, epoch: int) -> Path:
        return self.run.path / _name(seed, epoch)

    def _order(self, seed: int, epoch: int) -> str:
        """Which order of the images comes next, and how it is drawn."""
        crc = zlib.crc32(epoch_order(seed, epoch, self.num_images).astype("<i4").tobytes())
        return f"PCG64 [{seed}, {epoch}] crc32 {crc:08x}"


def _name(seed: int, epoch: int) -> str:
    return f"{FOLDER}/seed-{seed}/epoch-{epoch}"


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files below a folder."""
    state = hashlib.sha256()
    with disk(folder, "read"):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = file.read_bytes()
            state.update(f"{file.relative_to(folder)} {len(content)}\n".encode() + content)
    return "sha256:" + state.hexdigest()


def _write(path: Path, values: Values) -> None:
    try:
        with disk(path, "write"):
            _save(path, values)
    except ValueError as error:  # TensorStore's, for what the operating system refuses
        remedy = "free some disk space, or choose another folder with --results-dir"
        raise StoreError(f"{path}: cannot write: {_reason(error)}; {remedy}.") from error


def _save(path: Path, values: Values) -> None:
    import orbax.checkpoint as ocp

    with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), dict(values), force=True)


def _read(path: Path) -> "dict[str, NDArray[Any]]":
    import numpy as np
    import orbax.checkpoint as ocp

    try:
        with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
            found = checkpointer.restore(path.absolute())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, _reason(error)) from error
    return {str(name): np.asarray(value) for name, value in found.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """What fails is told once, by the error, and not by each thread of Orbax and TensorStore."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    sys.unraisablehook = _without_threads
    try:
        yield
    finally:
        log.setLevel(level)


def _without_threads(
    unraisable: "sys.UnraisableHookArgs", told: Callable[..., object] = sys.unraisablehook
) -> None:
    """Leaves out what threads say that outlive a save which failed; nobody can use it."""
    if str(unraisable.exc_value) != "Event loop is closed":
        told(unraisable)


def _reason(error: Exception) -> str:
    """What the operating system says, or the first line of what Orbax does, which can be long."""
    if found := re.search(r"([^:]+) \[os_error_code=", str(error)):
        return found[1].strip().lower()
    return str(error).strip().splitlines()[0][:200].rstrip(".") if str(error).strip() else "unknown"


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path}: {reason}; the checkpoint before it is used.")
