"""The forms in which datasets are published, and what their readers have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.published.downloads import REMEDY, RegisteredFile
from cnnbench.errors import DataError
from cnnbench.system.arrays import Array, NamedArrays

# Reads files, in the order of `Source.files`: images, uint8 ``(n, height, width, channels)``, and
# labels, int32 ``(n,)``, by split.

Reader = Callable[[Sequence[Path], DatasetInfo], NamedArrays]

_DOCUMENTS = 2**20  # bytes of an archive that are not images

_MOST_PER_PIXEL = 1.25  # bytes of an archive, including labels and file names


@dataclass(frozen=True, slots=True)
class Source:
    """One form in which a dataset is published.

    Args:
      files: the files that make it up.
      read: reads them.
      folders: subfolders in which other programs put them.
    """

    files: tuple[RegisteredFile, ...]
    read: Reader
    folders: tuple[str, ...] = ()

    def key(self, info: DatasetInfo) -> str:
        """Cache key of a dataset: the content of its files, and the form of decoded images."""
        form = [f"as {info.form}"] if info.form else []
        return " ".join([f"{info.name} of", *(file.checksum for file in self.files), *form])


def size_limit(info: DatasetInfo) -> int:
    """Maximum size of a dataset in bytes, uncompressed."""
    pixels = ((info.num_train or 0) + (info.num_test or 0)) * int(np.prod(info.shape))
    return int(pixels * _MOST_PER_PIXEL) + _DOCUMENTS


def to_classes(labels: Array, info: DatasetInfo, place: Path | str) -> Array:
    """Labels as int32.

    Args:
      labels: integers, ``(n,)``.
      info: the dataset.
      place: their file, for errors.

    Raises:
      DataError: a label is not one of the classes.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < info.num_classes:
        wrong = int(labels.max()) if labels.max() >= info.num_classes else int(labels.min())
        message = f"has label {wrong}, but labels of '{info.name}' are 0 to {info.num_classes - 1}"
        raise DataError(f"{place}: {message}; {REMEDY}")
    return labels.astype(np.int32)
