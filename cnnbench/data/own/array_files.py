"""Reads labeled images from array files: ``.npz``, ``.npy``, CSV, Parquet and Arrow.

Nothing is ever unpickled. Images become uint8 ``(n, h, w, c)``; for labels, see `dataset.Split`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.data.catalog import (
    CLASS_NAMES,
    KINDS,
    ROLES,
    SPLITS,
    ArrayOptions,
    DatasetInfo,
    Shares,
    divide,
    random_order,
)
from cnnbench.data.decoded import decoded_files
from cnnbench.data.file_digests import digest_of
from cnnbench.data.own.arrow_files import read_arrow_file
from cnnbench.data.own.csv_files import read_table
from cnnbench.data.own.folder import require_inside
from cnnbench.data.own.labels import to_labels
from cnnbench.data.own.numpy_files import read_npy, read_npz
from cnnbench.data.own.pixels import require_count, to_pixels
from cnnbench.data.own.roles import in_split, role_of, split_of
from cnnbench.data.own.stored import NamesByKey, Raw, listed, unequal
from cnnbench.data.resizing import resized_splits
from cnnbench.errors import DataError, Notify, or_list
from cnnbench.formatting import enumeration, reason
from cnnbench.system.arrays import Array, NamedArrays
from cnnbench.system.cache import CacheEntry

TABLES = (".csv", ".tsv", ".txt")
ARROW = (".parquet", ".arrow", ".feather")
SUFFIXES = (".npz", ".npy", *TABLES, *ARROW)
DEFAULTS = ArrayOptions()


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class ArrayData:
    """Labeled images that were read from array files.

    Args:
      arrays: ``train_images``, uint8 ``(n, h, w, c)``; ``train_labels``, as in `dataset.Split`;
        the same of ``validation`` and ``test``, if the files have them.
      num_classes: number of classes, targets or labels.
      class_names: their names; empty if they have none.
      notes: how the arrays were converted, such as ``float32 in [0, 1]``.
    """

    arrays: NamedArrays
    num_classes: int
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def read_array_files(
    files: Path | Mapping[str, Path], options: ArrayOptions = DEFAULTS
) -> ArrayData:
    """Reads images and labels from array files.

    Args:
      files: a file (``.npz``, CSV, Parquet or Arrow), a folder of files named by split, files by
        ``train``, ``validation`` and ``test``, or ``.npy`` files by ``train_images``,
        ``train_labels`` and so on.
      options: what cannot be recognized.

    Raises:
      DataError: a file is missing, damaged or unsafe, or its arrays are not labeled images.
    """
    raw = _read_all(find_files(files), options)
    names = raw.pop(CLASS_NAMES, None)
    _require_pairs(raw, files)
    images = {role: each for role, each in raw.items() if role.endswith("images")}
    labels = {role: each for role, each in raw.items() if role.endswith("labels")}
    for role, each in images.items():
        require_count(each, labels[f"{split_of(role)}_labels"])
    own, class_names, num_classes = to_labels(labels, names, options.labels)
    pixels, notes = to_pixels(images, options)
    arrays: NamedArrays = {**resized_splits(pixels, options.form), **own}
    return ArrayData(
        {role: arrays[role] for role in ROLES if role in arrays}, num_classes, class_names, notes
    )


# A dataset of an experiment

_ABOUT = "about"  # name of the array of a cache entry that is the text of all but the arrays


@dataclass(frozen=True, slots=True)
class ArraySource:
    """A dataset in array files.

    Args:
      files: a file or folder, or files by role, as for `read_array_files`.
      options: what cannot be recognized.
      shares: of the splits that the files do not have.
    """

    files: Path | tuple[tuple[str, Path], ...]
    options: ArrayOptions
    shares: Shares

    @property
    def name(self) -> str:
        """Name of the file or folder, or of the folder of the first file."""
        path = self.files if isinstance(self.files, Path) else self.files[0][1].absolute().parent
        return path.name or str(path)

    @property
    def place(self) -> str:
        """The files, for messages."""
        paths = [self.files] if isinstance(self.files, Path) else [path for _, path in self.files]
        return listed([str(path) for path in paths])

    def info(self) -> DatasetInfo:
        """Shape, classes and sizes; reads the files, unless they are in the cache.

        Raises:
          DataError: as `read_array_files`, or there are no test images.
        """
        return _info(self, self.key())

    def key(self) -> str:
        """Cache key: the content and role of every file, and the options.

        Raises:
          DataError: a file is missing or cannot be read.
        """
        digest = hashlib.sha256(f"{self.options}\n".encode())
        for role, path in find_files(self._given()):
            digest.update(f"{role} {_suffix(path)} {digest_of(path)}\n".encode())
        return f"arrays {digest.hexdigest()}"

    def decode(self, key: str, notify: Notify) -> CacheEntry:
        """Reads the files.

        Raises:
          DataError: as `read_array_files`.
        """
        notify(f"Reading {self.place}.")
        data = read_array_files(self._given(), self.options)
        about = {"classes": data.class_names, "number": data.num_classes, "notes": data.notes}
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        return CacheEntry({**data.arrays, _ABOUT: text}, self.place, key)

    def split(self, decoded: CacheEntry, notify: Notify) -> CacheEntry:  # noqa: ARG002
        """Divides the training images into the splits that the files do not have."""
        arrays: dict[str, Array] = {}
        for split, (pool, indices) in self._divided(decoded.arrays).items():
            for kind in KINDS:
                arrays[f"{split}_{kind}"] = decoded.arrays[f"{pool}_{kind}"][indices]
        notes = "".join(f"; {note}" for note in _about(decoded.arrays)["notes"])
        return CacheEntry(arrays, f"{self.place}{notes}", decoded.key)

    def has_test(self, decoded: CacheEntry) -> bool:
        """Returns True if the files have test images."""
        return "test_labels" in decoded.arrays

    def _given(self) -> Path | dict[str, Path]:
        return self.files if isinstance(self.files, Path) else dict(self.files)

    def _divided(self, arrays: NamedArrays) -> dict[str, tuple[str, list[int]]]:
        """Pool and indices of the images of each split, in random order."""
        own = [split for split in SPLITS[1:] if f"{split}_labels" in arrays]
        shares = (("test", self.shares.test), ("validation", self.shares.validation))
        wanted = {split: share for split, share in shares if split not in own}
        labels = arrays["train_labels"]
        classes = labels.tolist() if labels.ndim == 1 else [0] * len(labels)  # not stratified
        parts = divide(_numbers(len(labels)), classes, wanted, self.shares)
        found = {split: ("train", indices) for split, indices in parts.items()}
        for split in own:
            keys = _numbers(len(arrays[f"{split}_labels"]))
            found[split] = (split, random_order(keys, self.shares.seed))
        return found


@lru_cache(maxsize=8)
def _info(source: ArraySource, key: str) -> DatasetInfo:
    """Metadata of a source whose files have the content of the key."""
    arrays = decoded_files(source, key, lambda _: None).arrays
    about = _about(arrays)
    sizes = {split: len(indices) for split, (_, indices) in source._divided(arrays).items()}
    if not sizes["test"]:
        raise DataError(
            f"{source.place}: there are no test images; increase dataset.split.test, or add "
            "test_images and test_labels"
        )
    return DatasetInfo(
        name=source.name,
        shape=arrays["train_images"].shape[1:],
        num_classes=about["number"],
        num_train=sizes["train"] + sizes["validation"],
        num_test=sizes["test"],
        title="images in array files",
        classes=tuple(about["classes"]),
        num_validation=sizes["validation"],
        labels=source.options.labels,
        own_test="test_labels" in arrays,
    )


def _about(arrays: NamedArrays) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(arrays[_ABOUT].tobytes())
    return about


def _numbers(num: int) -> list[str]:
    return list(map(str, range(num)))


# Files


def find_files(files: Path | Mapping[str, Path]) -> tuple[tuple[str, Path], ...]:
    """Files to read, each with its role: empty, a split, or one of `ROLES`.

    Args:
      files: as for `read_array_files`.

    Raises:
      DataError: a file or folder does not exist, or a folder has no files named by split.
    """
    if isinstance(files, Path) and files.is_dir():
        try:
            return _in_folder(files)
        except OSError as error:
            message = f"{files}: cannot be read ({reason(error)})"
            raise DataError(f"{message}; check its permissions") from error
    if isinstance(files, Path):
        return (("", _existing(files)),)
    return tuple((role, _existing(path)) for role, path in files.items())


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; specify a file in it")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    return path


def _in_folder(folder: Path) -> tuple[tuple[str, Path], ...]:
    """Files of a folder by the split in their names or that of their folder."""
    own = [(folder, ""), (folder / "data", "")]  # datasets on the Hugging Face Hub use data/
    below = [(each, f"{each.name} ") for each in sorted(folder.iterdir()) if role_of(each.name)]
    for places in (own[:1], own[1:], below):
        found = [
            (role_of(f"{name}{_stem(path)}"), path)
            for place, name in places
            for path in _array_files(place, folder)
        ]
        if roles := tuple((_role_in_folder(role, path), path) for role, path in found if role):
            return roles
    if (folder / "state.json").is_file():  # of Dataset.save_to_disk
        return tuple(("", path) for path in _array_files(folder, folder))
    raise DataError(
        f"{folder}: has no array files named after a split; use names such as train.csv and "
        "test.csv, x_train.npy and y_train.npy, or train-00000.parquet, or list the files in "
        "dataset.arrays"
    )


def _array_files(folder: Path, root: Path) -> list[Path]:
    """Array files in a folder, without the results that datasets caches there.

    Raises:
      DataError: a symbolic link leads out of the root.
    """
    found = sorted(
        path
        for path in folder.glob("*")
        if _suffix(path) in SUFFIXES and not path.name.startswith(("cache-", "."))
    )
    for path in found:
        if path.is_symlink() or folder.is_symlink():
            require_inside(path, _root(root))
    return found


def _root(folder: Path) -> Path:
    """The folder that links must not leave; a snapshot of the Hugging Face Hub links to blobs."""
    real = folder.resolve()
    snapshots = (each for each in real.parents if each.name == "snapshots")
    return next((each.parent for each in snapshots if (each.parent / "blobs").is_dir()), real)


def _role_in_folder(role: str, path: Path) -> str:
    return role if _suffix(path) == ".npy" else split_of(role)


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem


def _read_all(files: Iterable[tuple[str, Path]], options: ArrayOptions) -> dict[str, Raw]:
    """Arrays by role. Several files of a split are joined in the given order."""
    parts: dict[str, list[Raw]] = {}
    for role, path in files:
        for name, array in _read_file(role, path, options).items():
            parts.setdefault(name, []).append(array)
    return {name: _joined(name, arrays) for name, arrays in parts.items()}


def _joined(name: str, parts: Sequence[Raw]) -> Raw:
    first = parts[0]
    for other in parts[1:]:
        if name == CLASS_NAMES and not np.array_equal(other.values, first.values):
            raise DataError(
                f"{other.where}: has other class names than {first.where}; use the same"
            )
        if other.values.shape[1:] != first.values.shape[1:]:
            raise unequal(other, first)
    if name == CLASS_NAMES or len(parts) == 1:
        return first
    values = np.concatenate([part.values for part in parts])
    return Raw(values, first.where, first.columns)


def _read_file(role: str, path: Path, options: ArrayOptions) -> dict[str, Raw]:
    suffix, keys = _suffix(path), dict(options.keys)
    if role in ROLES or role in KINDS:
        if suffix != ".npy":
            raise DataError(
                f"{path}: is not an .npy file, which {role} requires; save it with np.save"
            )
        _require_keys(path, keys, ())
        return {role if role in ROLES else f"train_{role}": read_npy(path)}
    if suffix == ".npy":
        raise DataError(
            f"{path}: contains a single array, without labels; use arrays: "
            f"{{train_images: {path.name}, train_labels: ...}}"
        )
    if suffix != ".npz":
        _require_keys(path, keys, KINDS)
    if suffix == ".npz":
        found = read_npz(path, _single(path, keys), role)
    elif suffix in TABLES:
        found = read_table(path, keys, options.labels)
    elif suffix in ARROW:
        found = read_arrow_file(path, options)
    else:
        raise DataError(f"{path}: is not an array file; use one of {or_list(SUFFIXES)}")
    return {in_split(name, role or "train"): array for name, array in found.items()}


def _single(path: Path, keys: NamesByKey) -> dict[str, str]:
    """Names of arrays, which have all targets or labels of an image in a row."""
    for key, name in keys.items():
        if not isinstance(name, str):
            raise DataError(
                f"{path}: dataset.keys.{key} is a list, which is for columns of a table; save one"
                " array of shape (n, k)"
            )
    return {key: name for key, name in keys.items() if isinstance(name, str)}


def _require_keys(path: Path, keys: Iterable[str], known: Sequence[str]) -> None:
    """Raises DataError for a key that has no effect on a file."""
    for key in keys:
        if key not in known:
            remedy = f"use {or_list(known)}" if known else "remove it"
            kind = _suffix(path)
            raise DataError(f"{path}: dataset.keys.{key} has no effect on {kind} files; {remedy}")


def _require_pairs(raw: Mapping[str, object], files: Path | Mapping[str, Path]) -> None:
    where = files if isinstance(files, Path) else "dataset.arrays"
    for split in SPLITS:
        has = [f"{split}_{kind}" in raw for kind in KINDS]
        if has[0] != has[1] or (split == "train" and not has[0]):
            missing = [
                f"{split}_{kind}" for kind, given in zip(KINDS, has, strict=True) if not given
            ]
            raise DataError(
                f"{where}: has no {enumeration(missing)}; add {'them' if missing[1:] else 'it'}"
            )
