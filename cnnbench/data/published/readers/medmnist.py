"""MedMNIST in its ``.npz`` files, with MD5 as in medmnist 3.0.2."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.published.archives import decode_npy, read_zip
from cnnbench.data.published.downloads import REMEDY, RegisteredFile
from cnnbench.data.published.forms import Source, size_limit, to_classes
from cnnbench.errors import DataError
from cnnbench.system.arrays import Array, NamedArrays

MEDMNIST = MappingProxyType(
    {
        "chestmnist": "02c8a6516a18b556561a56cbdd36c4a8",
        "pathmnist": "a8b06965200029087d5bd730944a56c1",
        "dermamnist": "0744692d530f8e62ec473284d019b0c7",
        "octmnist": "c68d92d5b585d8d81f7112f81e2d0842",
        "pneumoniamnist": "28209eda62fecd6e6a2d98b1501bb15f",
        "retinamnist": "bd4c0672f1bba3e3a89f0e4e876791e4",
        "breastmnist": "750601b1f35ba3300ea97c75c52ff8f6",
        "bloodmnist": "7053d0359d879ad8a5505303e11de1dc",
        "tissuemnist": "ebe78ee8b05294063de985d821c1c34b",
        "organamnist": "68e3f8846a6bd62f0c9bf841c0d9eacc",
        "organcmnist": "b9ceb9546e10131b32923c5bbeaea2b1",
        "organsmnist": "9ab87b696fb54e2a387ebe992d6ed5f1",
    }
)

_ZENODO = "https://zenodo.org/records/10519652/files"


def medmnist_sources(name: str) -> tuple[Source, ...]:
    """The file of arrays, which has training, validation and test images."""
    url = f"{_ZENODO}/{name}.npz?download=1"
    return (Source((RegisteredFile(url, f"{name}.npz", MEDMNIST[name]),), _read_medmnist),)


def _read_medmnist(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    names = {"train": "train", "validation": "val", "test": "test"}
    members = {split: (f"{name}_images", f"{name}_labels") for split, name in names.items()}
    return read_npz(paths[0], members, info)


def read_npz(path: Path, names: Mapping[str, tuple[str, str]], info: DatasetInfo) -> NamedArrays:
    """Reads images and labels of an ``.npz`` file.

    Args:
      path: the file.
      names: names of the images and labels of each split.
      info: the dataset.

    Returns:
      Images, uint8 ``(n, height, width, channels)``, and labels, as in `dataset.Split`, by split.

    Raises:
      DataError: not such a file.
    """
    arrays: dict[str, Array] = {}
    for split, members in names.items():
        images, labels = (
            decode_npy(read_zip(path, f"{member}.npy", size_limit(info)), f"{path}: {member}")
            for member in members
        )
        labels = labels[:, 0] if labels.shape[1:] == (1,) else labels
        images = images if info.shape[2] > 1 else images[..., None]
        several = info.labels == "multilabel"
        own = labels.shape[1:] == ((info.num_classes,) if several else ())
        if images.shape != (len(labels), *info.shape) or images.dtype != np.uint8 or not own:
            size = "x".join(map(str, info.shape))
            number = f"{info.num_classes} labels" if several else "one label"
            message = f"{path}: has no uint8 images of {size} with {number} each"
            raise DataError(f"{message}; {REMEDY}")
        arrays[f"{split}_images"] = images
        read = _to_multi_hot if several else to_classes
        arrays[f"{split}_labels"] = read(labels, info, path)
    return arrays


def _to_multi_hot(labels: Array, info: DatasetInfo, path: Path) -> Array:
    """Rows of 0 and 1, uint8."""
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"{path}: has labels of '{info.name}' that are not 0 or 1; {REMEDY}")
    return labels.astype(np.uint8)
