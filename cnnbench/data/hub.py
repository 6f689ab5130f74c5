"""Finds datasets in the caches of Hugging Face: of its hub, and of the package `datasets`."""

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cnnbench.data.catalog import KINDS, ArrayOptions, DatasetInfo
from cnnbench.data.file_digests import digest_of
from cnnbench.data.own.arrow_files import read_arrow_file
from cnnbench.data.own.roles import role_of
from cnnbench.data.published.downloads import published_files
from cnnbench.data.published.idx import FILENAMES, UNCOMPRESSED, encode_idx
from cnnbench.errors import DataError, Notify
from cnnbench.system import commands
from cnnbench.system.arrays import Array, NamedArrays
from cnnbench.system.cache import CacheEntry
from cnnbench.system.files import expand_home

# Repositories of each dataset, with the configuration; the second is its name before 2024.
REPOSITORIES: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType(
    {
        "mnist": (("ylecun/mnist", "mnist"), "mnist"),
        "fashion_mnist": (("zalando-datasets/fashion_mnist", "fashion_mnist"), "fashion_mnist"),
        "cifar10": (("uoft-cs/cifar10", "cifar10"), "plain_text"),
        "cifar100": (("uoft-cs/cifar100", "cifar100"), "cifar100"),
        "svhn_cropped": (("ufldl-stanford/svhn", "svhn"), "cropped_digits"),
    }
)
UNVERIFIED = " (only sizes and labels were checked; the order may not be the published one)"


@dataclass(frozen=True, slots=True)
class HubCopy:
    """Files of a dataset in a cache of Hugging Face.

    Args:
      info: the dataset.
      folder: the folder of the files.
      files: Parquet or Arrow files by ``train`` and ``test``.
    """

    info: DatasetInfo
    folder: Path
    files: Mapping[str, Sequence[Path]]

    @property
    def text(self) -> str:
        """One-line description of the source."""
        return f"the Hugging Face cache {self.folder}{'' if self._sums() else UNVERIFIED}"

    def key(self) -> str:
        """Cache key: the content of the files.

        Raises:
          DataError: a file cannot be read.
        """
        sums = [digest_of(file) for files in self.files.values() for file in files]
        return " ".join([f"{self.info.name} of Hugging Face", *sums])

    def read(self) -> CacheEntry:
        """Decodes the images, and compares them with the published ones if their hash is known.

        Raises:
          DataError: the files are damaged, or are not the dataset.
        """
        key = self.key()
        arrays: dict[str, Array] = {}
        for split, files in self.files.items():
            parts = [read_arrow_file(file, ArrayOptions()) for file in files]
            images, labels = (np.concatenate([p[kind].values for p in parts]) for kind in KINDS)
            arrays[f"{split}_images"] = images[..., None] if images.ndim == 3 else images
            arrays[f"{split}_labels"] = labels.astype(np.int32)
        self._require_right(arrays)
        return CacheEntry(arrays, self.text, key)

    def _require_right(self, arrays: NamedArrays) -> None:
        for role, sha256 in self._sums().items():
            if hashlib.sha256(encode_idx(arrays[role])).hexdigest() != sha256:
                raise self._wrong(f"its {role.replace('_', ' ')} are not the published ones")
        for split, num in (("train", self.info.num_train), ("test", self.info.num_test)):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            if images.shape[1:] != self.info.shape or images.dtype != np.uint8:
                raise self._wrong(f"it has images of shape {images.shape[1:]}")
            if not self._sums() and len(images) != num:
                raise self._wrong(f"it has {len(images):,} {split} images, not {num:,}")
            if not (labels.min() >= 0 and labels.max() < self.info.num_classes):
                raise self._wrong(f"it has labels from {labels.min()} to {labels.max()}")

    def _sums(self) -> dict[str, str]:
        """SHA-256 of the content of the published IDX files by role, where known."""
        if self.info.name not in {"mnist", "fashion_mnist"}:
            return {}
        files = published_files(self.info.name)
        return {
            role: UNCOMPRESSED[files[name].checksum]
            for role, name in FILENAMES.items()
            if files[name].checksum in UNCOMPRESSED
        }

    def _wrong(self, reason: str) -> DataError:
        return DataError(f"{self.folder}: is not '{self.info.name}': {reason}")


def find_hub_copy(info: DatasetInfo) -> HubCopy | None:
    """Finds a dataset in the caches of Hugging Face; the newest, if there are several."""
    repositories, config = REPOSITORIES.get(info.name, ((), ""))
    folders = [each for name in repositories for each in _folders(name, config)]
    for folder in sorted(folders, key=lambda each: each.stat().st_mtime, reverse=True):
        files = {split: _shards(folder, split) for split in ("train", "test")}
        if all(files.values()):
            return HubCopy(info, folder, files)
    return None


def read_hub_copy(copy: HubCopy, notify: Notify) -> CacheEntry | None:
    """Decodes a copy; None, which is reported with `notify`, if it cannot be used."""
    if importlib.util.find_spec("pyarrow") is None:
        install = commands.pip_install("cnnbench[parquet]")
        notify(f"{copy.folder}: reading '{copy.info.name}' from there requires pyarrow; {install}.")
        return None
    notify(f"Decoding '{copy.info.name}' from {copy.folder}.")
    try:
        return copy.read()
    except DataError as error:
        notify(f"{error}; ignoring it.")
        return None


def _folders(repository: str, config: str) -> Iterator[Path]:
    """Folders that can contain the files of a dataset."""
    home = _folder("HF_HOME", _folder("XDG_CACHE_HOME", Path("~/.cache")) / "huggingface")
    hub = _folder("HF_HUB_CACHE", _folder("HUGGINGFACE_HUB_CACHE", home / "hub"))
    prepared = _folder("HF_DATASETS_CACHE", home / "datasets")
    yield from hub.glob(f"datasets--{repository.replace('/', '--')}/snapshots/*/{config}")
    yield from prepared.glob(f"{repository.replace('/', '___')}/{config}/*/*/")


def _folder(variable: str, default: Path) -> Path:
    return expand_home(Path(os.environ.get(variable) or default))


def _shards(folder: Path, split: str) -> list[Path]:
    """All files of a split; none if one of them is missing."""
    found = sorted(
        path
        for path in folder.glob("*")
        if path.suffix in {".parquet", ".arrow"} and role_of(path.stem) == split and path.is_file()
    )
    numbers = {match[1] for path in found if (match := re.search(r"-of-(\d+)$", path.stem))}
    is_whole = not numbers or numbers == {f"{len(found):05}"}
    return found if is_whole else []
