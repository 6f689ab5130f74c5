"""STL-10: column-major planes, and labels from 1; the unlabeled images are not needed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.published.archives import read_tar
from cnnbench.data.published.downloads import REMEDY, RegisteredFile, published_files
from cnnbench.data.published.forms import Source, size_limit, to_classes
from cnnbench.errors import DataError
from cnnbench.system.arrays import Array, NamedArrays

_STL10 = "stl10_binary"

_STL10_MD5 = {  # as in torchvision
    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "train_y.bin": "5a34089d4802c674881badbb80307741",
    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
}

_UNLABELED = 100_000


def stl10_sources() -> tuple[Source, ...]:
    """The archive, and the folder that torchvision extracts."""
    archive = tuple(published_files("stl10").values())
    files = tuple(RegisteredFile("", name, md5) for name, md5 in _STL10_MD5.items())
    return (Source(archive, _read_stl10_archive), Source(files, _read_stl10_folder, (_STL10,)))


def _read_stl10_archive(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    limit = size_limit(info) + _UNLABELED * int(np.prod(info.shape))
    content = read_tar(paths[0], [f"{_STL10}/{name}" for name in _STL10_MD5], limit)
    return _decoded_stl10([content[f"{_STL10}/{name}"] for name in _STL10_MD5], info, paths[0])


def _read_stl10_folder(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    return _decoded_stl10([path.read_bytes() for path in paths], info, paths[0].parent)


def _decoded_stl10(contents: Sequence[bytes], info: DatasetInfo, path: Path) -> NamedArrays:
    train, train_labels, test, test_labels = (np.frombuffer(each, np.uint8) for each in contents)
    arrays: dict[str, Array] = {}
    for split, pixels, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if not len(labels) or len(pixels) != len(labels) * int(np.prod(info.shape)):
            raise DataError(f"{path}: has no 96x96x3 images with one label each; {REMEDY}")
        images = pixels.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        arrays[f"{split}_images"] = np.ascontiguousarray(images)
        arrays[f"{split}_labels"] = to_classes(labels.astype(np.int32) - 1, info, path)
    return arrays
