"""Looks at the images of a loaded dataset: duplicates, mean and standard deviation."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnnbench.data.dataset import Dataset
from cnnbench.data.inspection.folder import DRAWN, SameImages
from cnnbench.data.scaling import channel_statistics
from cnnbench.errors import DataError
from cnnbench.system.arrays import Pixels


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class ArrayInspection:
    """What is in a dataset of images of one size.

    Args:
      counts: number of images of each class, by split.
      duplicates: groups of equal images, as numbers in their splits, such as ``train 12``.
      statistics: mean and standard deviation of each channel of the training images, from 0 to 1;
        None if a channel is constant.
      samples: the first training images of each class.
    """

    counts: Mapping[str, Sequence[int]]
    duplicates: tuple[SameImages, ...]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None
    samples: tuple[Pixels, ...]


def inspect_dataset(dataset: Dataset) -> ArrayInspection:
    """Looks at all images of a dataset."""
    number, train = dataset.info.num_classes, dataset.train
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
        {name: np.bincount(s.labels, minlength=number).tolist() for name, s in splits.items()},
        tuple(tuple(group) for group in groups.values() if len(group) > 1),
        statistics,
        tuple(train.images[np.flatnonzero(train.labels == n)[:DRAWN]] for n in range(number)),
    )
