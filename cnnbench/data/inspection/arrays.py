"""Looks at the images of a loaded dataset: duplicates, mean and standard deviation."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.dataset import Dataset
from cnnbench.data.inspection.folder import DRAWN, SameImages
from cnnbench.data.inspection.labels import extremes
from cnnbench.data.scaling import channel_statistics
from cnnbench.data.splits import Split
from cnnbench.errors import DataError
from cnnbench.system.arrays import Pixels


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class ArrayInspection:
    """What is in a dataset of images of one size.

    Args:
      counts: number of images of each class or label, by split; empty for targets.
      duplicates: groups of equal images, as numbers in their splits, such as ``train 12``.
      statistics: mean and standard deviation of each channel of the training images, from 0 to 1;
        None if a channel is constant.
      samples: the first training images of each class or label; of each target, those with its
        smallest values, and those with its largest.
    """

    counts: Mapping[str, Sequence[int]]
    duplicates: tuple[SameImages, ...]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None
    samples: tuple[Pixels, ...]


def inspect_dataset(dataset: Dataset) -> ArrayInspection:
    """Looks at all images of a dataset."""
    train = dataset.train
    splits = {"train": train, "validation": dataset.validation, "test": dataset.test}
    groups: dict[bytes, list[tuple[str, str]]] = {}
    for name, split in splits.items():
        for index, image in enumerate(split.images):
            digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
            groups.setdefault(digest, []).append((f"{name} {index}", name))
    try:
        statistics = channel_statistics(train.images)
    except DataError:  # its message is about an experiment
        statistics = None
    return ArrayInspection(
        {name: _counts(split, dataset.info) for name, split in splits.items()},
        tuple(tuple(group) for group in groups.values() if len(group) > 1),
        statistics,
        tuple(_images(train, indices) for indices in _shown(train, dataset.info)),
    )


def _counts(split: Split, info: DatasetInfo) -> list[int]:
    match info.labels:
        case "targets":
            return []
        case "multilabel":
            found = split.labels.sum(axis=0, dtype=np.int64)
        case _:
            found = np.bincount(split.labels, minlength=info.num_classes)
    counts: list[int] = found.tolist()
    return counts


def _shown(train: Split, info: DatasetInfo) -> Iterator[Sequence[int]]:
    """Indices of the images of each class or label, or of both ends of each target."""
    for number in range(info.num_classes):
        match info.labels:
            case "targets":
                yield from extremes(train.labels, number, DRAWN)
            case "multilabel":
                yield np.flatnonzero(train.labels[:, number])[:DRAWN].tolist()
            case _:
                yield np.flatnonzero(train.labels == number)[:DRAWN].tolist()


def _images(train: Split, indices: Sequence[int]) -> Pixels:
    shape = (0, *train.images.shape[1:])
    return np.stack([train.images[n] for n in indices]) if indices else np.zeros(shape, np.uint8)
