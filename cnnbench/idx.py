"""MNIST and its relatives in the IDX format that they are published in."""

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnbench.cache import Entry
from cnnbench.catalog import open_builder
from cnnbench.downloads import (
    RegisteredFile,
    fetch,
    fetched_path,
    manual_path,
    registered_files,
    verify_file,
)
from cnnbench.errors import DataError

# Sets whose four files have these names.
IDX_DATASETS = ("mnist", "fashion_mnist", "kmnist")
FILENAMES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def load_idx_dataset(name: str, data_dir: Path, notify: Callable[[str], None]) -> Entry:
    """The arrays of an IDX dataset: files put there by hand, fetched earlier, or fetched now.

    Every file is read only if it has the SHA-256 that tensorflow-datasets registers.

    Returns:
      Images of type uint8 and shape ``(n, height, width, 1)``, labels int32 ``(n,)``,
      in the order of the files.

    Raises:
      UnavailableError: a file is missing and cannot be downloaded.
      DataError: a file is not the registered one.
    """
    builder = open_builder(name, data_dir)
    files = {file.filename: file for file in registered_files(builder)}
    paths, source = _find(name, files, data_dir)
    # What is here is verified before the network is asked for the rest, so that
    # a wrong file is reported and not passed over for a stand-in.
    for each, path in paths.items():
        verify_file(path, files[each], name)
    if missing := [files[each] for each in FILENAMES.values() if each not in paths]:
        paths |= fetch(name, builder, missing, data_dir, notify)
    arrays = {
        key: decode_idx(paths[each].read_bytes(), str(paths[each]))
        for key, each in FILENAMES.items()
    }
    return Entry(
        {
            key: array[..., None] if key.endswith("images") else array.astype(np.int32)
            for key, array in arrays.items()
        },
        source,
    )


def decode_idx(content: bytes, place: str) -> NDArray[np.uint8]:
    """The array in a gzipped IDX file of unsigned bytes.

    Args:
      content: the file's bytes.
      place: the file's name, for errors.

    Raises:
      DataError: the content is not that.

    References:
      Y. LeCun, C. Cortes, C. J. C. Burges, *The MNIST database of handwritten
      digits*: the format is described at the foot of its page.

    >>> decode_idx(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1])), "labels.gz")
    array([7, 2, 1], dtype=uint8)
    """
    remedy = "remove it or put the right file in its place"
    try:
        raw = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place}: not a whole gzip file ({error}); {remedy}") from error
    num_axes = raw[3] if len(raw) > 4 and raw[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * num_axes
    shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4)]
    if num_axes not in {1, 3} or len(raw) != start + math.prod(shape):
        raise DataError(f"{place}: not a whole IDX file of labels or images; {remedy}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _find(
    name: str, files: dict[str, RegisteredFile], data_dir: Path
) -> tuple[dict[str, Path], str]:
    manual = {each: manual_path(files[each], data_dir) for each in FILENAMES.values()}
    paths = {each: manual[each] or fetched_path(files[each], name, data_dir) for each in manual}
    source = "manual files" if all(manual.values()) else "tensorflow-datasets download"
    return {each: path for each, path in paths.items() if path}, source
