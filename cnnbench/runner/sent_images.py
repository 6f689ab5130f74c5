"""Images that the driver sends to machines that do not have them, by their digest."""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np

from cnnbench.data.dataset import Dataset, dataset_digest
from cnnbench.data.decoded import cache_file, keep
from cnnbench.data.splits import Split, split_of
from cnnbench.errors import DataError, Notify
from cnnbench.executors.worker import fetch
from cnnbench.formatting import bytes_text
from cnnbench.system.array_files import DamagedFileError, decode, encode
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.cache import CacheEntry, read_entry
from cnnbench.system.locks import in_turn

MOST_SENT = 2**30  # bytes
_COPY = "copy them to the same path on all machines, or use a shared folder"


def without_images(dataset: Dataset) -> bytes:
    """Everything of a dataset but its images and labels, pickled."""
    train, validation, test = map(_blank, (dataset.train, dataset.validation, dataset.test))
    pool = None if dataset.pool is None else _blank(dataset.pool)
    return pickle.dumps(replace(dataset, train=train, validation=validation, test=test, pool=pool))


def packed(dataset: Dataset) -> bytes:
    """The images and labels of a dataset.

    Raises:
      DataError: they are streamed, or too large.
    """
    size = sum(split.images.nbytes + split.labels.nbytes for split in dataset.stored)
    if dataset.streamed or size > MOST_SENT:
        what = f"{bytes_text(size)} of {'streamed ' * dataset.streamed}images"
        limit = f"only images in memory, of up to {bytes_text(MOST_SENT, 0)}, are sent"
        raise DataError(f"a machine does not have the {what}, and {limit}; {_COPY}")
    return b"".join(encode(_arrays(dataset), {}))


def kept(rest: bytes, digest: str, notify: Notify) -> Dataset | None:
    """A dataset that this machine got before; None without one.

    Args:
      rest: result of `without_images`.
      digest: the digest of the dataset.
      notify: receives messages for the user.
    """
    entry = read_entry(cache_file(_key(digest)), _key(digest), notify)
    return unpacked(rest, entry.arrays) if entry else None


def received(rest: bytes, digest: str, notify: Notify, *, own: bool) -> Dataset | None:
    """A dataset from the driver, once for all workers of this machine; None if it has none.

    Args:
      rest: result of `without_images`.
      digest: the digest of the dataset.
      notify: receives messages for the user.
      own: True for the user's own files.

    Raises:
      DataError: the driver cannot send it, or it was damaged.
    """
    with in_turn(cache_file(_key(digest)), lambda: None):
        if found := kept(rest, digest, notify):
            return found
        content = fetch(digest)
        if content is None:
            return None
        dataset = unpacked(rest, _decoded(content))
        if dataset_digest(dataset, own=own) != digest:
            raise DataError("the images from the driver are not those of the run; run it again.")
        name = dataset.info.name
        keep(name, CacheEntry(_arrays(dataset), "the driver", _key(digest)), notify)
    notify(f"a machine without '{name}' got its images from this one ({bytes_text(len(content))})")
    return dataset


def unpacked(rest: bytes, arrays: NamedArrays) -> Dataset:
    """The dataset of `without_images` and the arrays of `packed`."""
    blank: Dataset = pickle.loads(rest)
    test = split_of(arrays, "test")
    if blank.pool is None:
        train, validation = split_of(arrays, "train"), split_of(arrays, "validation")
        return replace(blank, train=train, validation=validation, test=test)
    pool = split_of(arrays, "pool")
    train, validation = pool.first(len(blank.train)), pool.last(len(blank.validation))
    return replace(blank, pool=pool, train=train, validation=validation, test=test)


def _key(digest: str) -> str:
    return f"sent {digest}"


def _decoded(content: bytes) -> NamedArrays:
    try:
        return decode(content)[0]
    except DamagedFileError as error:
        raise DataError(f"the images from the driver: {error}; run the command again.") from None


def _arrays(dataset: Dataset) -> dict[str, Any]:
    names = ("train", "validation", "test") if dataset.pool is None else ("pool", "test")
    return {
        f"{name}_{part}": getattr(split, part)
        for name, split in zip(names, dataset.stored, strict=True)
        for part in ("images", "labels")
    }


def _blank(split: Split) -> Split:
    """A split of the same length without images and labels."""
    return Split(np.empty((len(split), 0), np.uint8), np.empty((len(split), 0), np.uint8))
