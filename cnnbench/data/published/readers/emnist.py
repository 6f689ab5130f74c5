"""EMNIST in its archive of IDX files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.published.archives import gunzip, read_zip
from cnnbench.data.published.downloads import REMEDY, published_files
from cnnbench.data.published.forms import Source, to_classes
from cnnbench.data.published.idx import decode_idx
from cnnbench.errors import DataError
from cnnbench.system.arrays import Array, NamedArrays, Pixels

_IDX_HEADER = 16  # bytes, at most


def emnist_sources(name: str) -> tuple[Source, ...]:
    """The archive of all splits, also where torchvision puts it."""
    files = tuple(published_files("emnist").values())
    return (Source(files, partial(_read_emnist, name), ("", "EMNIST/raw")),)


def _read_emnist(name: str, paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    (path,) = paths
    arrays: dict[str, Array] = {}
    config = name.partition("/")[2] or "byclass"
    for split, num in (("train", info.num_train), ("test", info.num_test)):
        stem, limit = f"gzip/emnist-{config}-{split}", (num or 0) * 784 + _IDX_HEADER
        images, labels = (
            decode_idx(gunzip(read_zip(path, member, limit), path, member, limit), str(path))
            for member in (f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz")
        )
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise DataError(f"{path}: has no 28x28 images with one label each; {REMEDY}")
        pixels, classes = as_read(images[..., None], labels.astype(np.int32), name)
        arrays |= {f"{split}_images": pixels, f"{split}_labels": to_classes(classes, info, path)}
    return arrays


def as_read(images: Pixels, labels: Array, name: str) -> tuple[Pixels, Array]:
    """Images of EMNIST as one reads them, which are stored transposed, and labels from 0.

    Args:
      images: ``(n, 28, 28, 1)``, as stored.
      labels: as stored; those of letters start at 1.
      name: name of the dataset.
    """
    upright = np.ascontiguousarray(images.swapaxes(1, 2))
    return upright, labels - 1 if name == "emnist/letters" else labels
