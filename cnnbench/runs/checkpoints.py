"""Checkpoints of a run: `checkpoints/seed-N/epoch-M.safetensors`.

Those within an epoch are `epoch-M-step-K.safetensors`: M epochs and K steps of the next one are
finished. The metadata of each file contain its SHA-256, the order of the images in the next epoch,
and the machine that trained.
"""

import json
import re
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.data.batches import epoch_order
from cnnbench.errors import StoreError
from cnnbench.runs.folder import RunFolder, disk
from cnnbench.runs.records import Machine
from cnnbench.system.array_files import DamagedFileError, decode, encode
from cnnbench.system.arrays import NamedArrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = "checkpoints"


class OrbaxCheckpointError(StoreError):
    """A checkpoint was written with Orbax, by a version of cnnbench before safetensors."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
      run: the folder.
      num_images: training images per epoch; their order is part of a checkpoint.
      keep: number of checkpoints to keep per seed.
    """

    run: RunFolder
    num_images: int
    keep: int = 1

    def save(
        self,
        seed: int,
        epoch: int,
        values: NamedArrays,
        step: int = 0,
        machine: Machine | None = None,
    ) -> None:
        """Writes the training state, and removes other checkpoints of the seed.

        Of those between epochs, the newest `keep` are kept; of those within one, only this one.
        Checkpoints of later epochs are removed as well: they are left over from a training that
        was restarted from an earlier epoch.

        Args:
          seed: the seed.
          epoch: number of finished epochs.
          values: the state.
          step: number of finished steps of the next epoch.
          machine: what trained the seed; None if unknown.

        Raises:
          StoreError: the disk refuses.
        """
        metadata = {"order": self._order(seed, epoch + 1)}
        if machine:
            metadata["machine"] = json.dumps(asdict(machine))
        self.run.write(_name(seed, epoch, step), *encode(values, metadata))
        whole = [(known, 0) for known in self.epochs(seed) if known <= epoch][-self.keep :]
        self._remove_others(seed, [*whole, (epoch, step)])

    def epochs(self, seed: int) -> list[int]:
        """Lists the epochs of a seed that have a checkpoint at their end, in order.

        Raises:
          StoreError: the folder cannot be read.
        """
        return [epoch for epoch, step in self.points(seed) if not step]

    def points(self, seed: int) -> list[tuple[int, int]]:
        """Lists the checkpoints of a seed, in order: finished epochs, and steps of the next one.

        Raises:
          StoreError: the folder cannot be read.
        """
        folder = self._folder(seed)
        with disk(folder, "read"):
            names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        # Orbax wrote folders, each with a JSON file next to it.
        form = re.compile(r"epoch-(\d{1,9})(?:-step-(\d{1,9}))?\.(?:safetensors|json)")
        found = map(form.fullmatch, names)
        return sorted({(int(match[1]), int(match[2] or 0)) for match in found if match})

    def load(self, seed: int, epoch: int, step: int = 0) -> "dict[str, NDArray[Any]]":
        """Loads and verifies a checkpoint.

        Args:
          seed: the seed.
          epoch: number of finished epochs.
          step: number of finished steps of the next epoch.

        Raises:
          OrbaxCheckpointError: an earlier version of cnnbench wrote it.
          StoreError: it cannot be read or is damaged, or the order of the images would differ.
        """
        path = self.run.path / _name(seed, epoch, step)
        if path.with_suffix(".json").exists() and not path.exists():
            raise OrbaxCheckpointError(_orbax(path.with_suffix("")))
        values, metadata = _decoded(path)
        if metadata.get("order") != self._order(seed, epoch + 1):
            raise _unusable(path, "this NumPy shuffles the images in another order")
        return values

    def machine(self, seed: int, epoch: int, step: int = 0) -> Machine | None:
        """What trained a seed up to a checkpoint; None if there is none, or an older version.

        Raises:
          StoreError: the checkpoint cannot be read or is damaged.
        """
        if not epoch and not step:
            return None
        _, metadata = _decoded(self.run.path / _name(seed, epoch, step))
        try:
            return Machine(**json.loads(metadata["machine"]))
        except (KeyError, TypeError):  # of a version with other fields
            return None

    def keep_last(self, seeds: Sequence[int]) -> None:
        """Removes all but the newest checkpoint of each seed, from which a run can be extended.

        Raises:
          StoreError: the folder cannot be read.
        """
        for seed in seeds:
            self._remove_others(seed, self.points(seed)[-1:])

    def forget(self, seed: int) -> None:
        """Removes all checkpoints of a seed, which is trained from scratch."""
        self._remove_others(seed, [])

    def clear(self) -> None:
        """Removes all checkpoints, once no training can continue from them."""
        # A file that cannot be removed does no harm.
        shutil.rmtree(self.run.path / FOLDER, ignore_errors=True)

    def _remove_others(self, seed: int, kept: Sequence[tuple[int, int]]) -> None:
        names = {Path(_name(seed, *point)).name for point in kept}
        with suppress(OSError):
            for path in [path for path in self._folder(seed).iterdir() if path.name not in names]:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()

    def _folder(self, seed: int) -> Path:
        return (self.run.path / _name(seed, 0, 0)).parent

    def _order(self, seed: int, epoch: int) -> str:
        """A checksum of the order of the images, and the generator that draws it."""
        crc = zlib.crc32(epoch_order(seed, epoch, self.num_images).astype("<i4").tobytes())
        return f"PCG64 [{seed}, {epoch}] crc32 {crc:08x}"


def _name(seed: int, epoch: int, step: int) -> str:
    within = f"-step-{step}" if step else ""
    return f"{FOLDER}/seed-{seed}/epoch-{epoch}{within}.safetensors"


def _decoded(path: Path) -> "tuple[dict[str, NDArray[Any]], dict[str, str]]":
    with disk(path, "read"):
        content = path.read_bytes()
    try:
        return decode(content)
    except DamagedFileError as error:
        raise _unusable(path, str(error)) from None


def _unusable(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path}: {reason}; the checkpoint before it is used.")


def _orbax(path: Path) -> str:
    return (
        f"{path}: an Orbax checkpoint, which this version of cnnbench does not read; resume with"
        " the version that wrote it, or the seed is trained again from its first epoch."
    )
