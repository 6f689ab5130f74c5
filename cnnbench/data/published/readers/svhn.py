"""SVHN in its MATLAB files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.published.archives import DAMAGED
from cnnbench.data.published.downloads import REMEDY, published_files
from cnnbench.data.published.forms import Source
from cnnbench.errors import DataError
from cnnbench.formatting import reason
from cnnbench.system.arrays import Array, NamedArrays, Pixels


def svhn_sources() -> tuple[Source, ...]:
    """The MATLAB files for training and testing; that of extra images is not needed."""
    files = published_files("svhn_cropped")
    both = (files["train_32x32.mat"], files["test_32x32.mat"])
    return (Source(both, _read_svhn, ("", "SVHN", "svhn")),)


def _read_svhn(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    arrays: dict[str, Array] = {}
    limits = (info.num_train or 0, info.num_test or 0)
    for split, path, limit in zip(("train", "test"), paths, limits, strict=True):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = read_svhn(path, limit)
    return arrays


def read_svhn(path: Path, limit: int) -> tuple[Pixels, Array]:
    """Reads a MATLAB file of SVHN, in which the label of the digit 0 is 10.

    Args:
      path: the file.
      limit: maximum number of images.

    Returns:
      Images, uint8 ``(n, 32, 32, 3)``, and labels, int32 ``(n,)``.

    Raises:
      DataError: not such a file, or it has too many images.
    """
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    damaged = (*DAMAGED, MatReadError, TypeError, LookupError, NotImplementedError, MemoryError)
    try:
        shapes = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        (*image, num), kind = shapes["X"]
        if image != [32, 32, 3] or kind != "uint8" or shapes["y"][0] != (num, 1):
            raise ValueError("X does not contain a 32x32x3 uint8 image per label in y")
        if num > limit:
            raise _too_many(path, num, limit)
        content = loadmat(path, variable_names=("X", "y"))
    except damaged as error:
        message = f"{path}: is not a MATLAB file of SVHN ({reason(error)})"
        raise DataError(f"{message}; {REMEDY}") from error
    labels = content["y"][:, 0]
    if not np.isin(labels, np.arange(1, 11)).all():
        raise DataError(f"{path}: has labels outside 1 to 10; {REMEDY}")
    return np.ascontiguousarray(np.moveaxis(content["X"], 3, 0)), (labels % 10).astype(np.int32)


def _too_many(path: Path, num: int, limit: int) -> DataError:
    return DataError(f"{path}: has {num:,} images, more than the {limit:,} expected; {REMEDY}")
