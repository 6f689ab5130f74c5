"""CIFAR-10, CIFAR-100 and CIFAR-10.1 (another test set): binary, pickled or as arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cnnbench.data.catalog import DatasetInfo, describe
from cnnbench.data.published.archives import decode_npy, read_tar
from cnnbench.data.published.downloads import REMEDY, RegisteredFile, published_files
from cnnbench.data.published.forms import Reader, Source, size_limit, to_classes
from cnnbench.data.published.pickles import PickledArray, read_pickle
from cnnbench.errors import DataError
from cnnbench.system.arrays import Array, NamedArrays, Pixels


@dataclass(frozen=True, slots=True)
class _Cifar:
    """Names in the files of CIFAR.

    Args:
      binary: members of the binary archive, by split.
      pickles: pickled files by split, with their MD5 as in torchvision.
      folder: their folder.
      archive: the archive of the folder, with its SHA-256 as in Keras.
      labels: key of the labels in the pickles.
      label_bytes: bytes of labels before each image in the binary files; the last one is used.
    """

    binary: Mapping[str, Sequence[str]]
    pickles: Mapping[str, Mapping[str, str]]
    folder: str
    archive: RegisteredFile
    labels: str
    label_bytes: int


CIFAR: Mapping[str, _Cifar] = MappingProxyType(
    {
        "cifar10": _Cifar(
            {
                "train": [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)],
                "test": ["cifar-10-batches-bin/test_batch.bin"],
            },
            {
                "train": {
                    "data_batch_1": "c99cafc152244af753f735de768cd75f",
                    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                    "data_batch_4": "634d18415352ddfa80567beed471001a",
                    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                },
                "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
            },
            "cifar-10-batches-py",
            RegisteredFile(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "cifar-10-python.tar.gz",
                "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
            "labels",
            1,
        ),
        "cifar100": _Cifar(
            {"train": ["cifar-100-binary/train.bin"], "test": ["cifar-100-binary/test.bin"]},
            {
                "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
                "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            },
            "cifar-100-python",
            RegisteredFile(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                "cifar-100-python.tar.gz",
                "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ),
            "fine_labels",
            2,
        ),
    }
)


def cifar_sources(name: str) -> tuple[Source, ...]:
    """The binary archive, then the pickles: extracted by torchvision or Keras, and archived."""
    form = CIFAR[name]
    (archive,) = published_files(name).values()
    binary = partial(_read_cifar, form.binary, partial(decode_cifar, form.label_bytes))
    batches = {file: md5 for each in form.pickles.values() for file, md5 in each.items()}
    members = {
        split: [f"{form.folder}/{file}" for file in files] for split, files in form.pickles.items()
    }
    pickled = partial(_read_cifar, members, partial(_unpickled_cifar, form.labels))
    folders = (form.folder, f"{form.folder}-target/{form.folder}")
    files = tuple(RegisteredFile("", file, md5) for file, md5 in batches.items())
    return (
        Source((archive,), binary),
        Source(files, pickled, folders),
        Source((form.archive,), pickled),
    )


def _read_cifar(
    members: Mapping[str, Sequence[str]],
    decode: Callable[[bytes, str], tuple[Pixels, Array]],
    paths: Sequence[Path],
    info: DatasetInfo,
) -> NamedArrays:
    """Reads the members of an archive by split, or the same files in a folder."""
    names = [name for each in members.values() for name in each]
    if len(paths) == 1:
        content = read_tar(paths[0], names, size_limit(info))
        places = {name: f"{paths[0]}: {name}" for name in names}
    else:
        content = {name: path.read_bytes() for name, path in zip(names, paths, strict=True)}
        places = {name: str(path) for name, path in zip(names, paths, strict=True)}
    arrays: dict[str, Array] = {}
    for split, each in members.items():
        parts = [decode(content[name], places[name]) for name in each]
        labels = [
            to_classes(own, info, places[name]) for (_, own), name in zip(parts, each, strict=True)
        ]
        arrays[f"{split}_images"] = np.concatenate([images for images, _ in parts])
        arrays[f"{split}_labels"] = np.concatenate(labels)
    return arrays


def decode_cifar(label_bytes: int, content: bytes, place: str) -> tuple[Pixels, Array]:
    """Decodes a binary file of CIFAR: rows of labels, then the planes of an image.

    Args:
      label_bytes: labels per image: 1, or 2 for coarse and fine ones.
      content: content of the file.
      place: file name, for errors.

    Returns:
      Images, uint8 ``(n, 32, 32, 3)``, and their last labels, uint8 ``(n,)``.

    Raises:
      DataError: not a multiple of the size of an image.
    """
    row = label_bytes + 3_072
    if not content or len(content) % row:
        raise DataError(f"{place}: has {len(content):,} bytes, not {row:,} per image; {REMEDY}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    return _from_planes(rows[:, label_bytes:]), rows[:, label_bytes - 1]


def _unpickled_cifar(key: str, content: bytes, place: str) -> tuple[Pixels, Array]:
    """Images and labels, by their key, of a pickled batch whose rows are the planes of an image."""
    batch = read_pickle(content, place)
    data, labels = batch.get("data"), batch.get(key)
    rows: Array = data.values if isinstance(data, PickledArray) else np.zeros(0)
    is_list = isinstance(labels, list) and all(isinstance(label, int) for label in labels)
    if rows.dtype != np.uint8 or not is_list or rows.shape != (len(labels or ()), 3_072):
        message = f"has no 'data' with 3,072 bytes per image and matching '{key}'"
        raise DataError(f"{place}: {message}; {REMEDY}")
    return _from_planes(rows), np.asarray(labels)


def _from_planes(rows: Pixels) -> Pixels:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def cifar10_1_sources(name: str) -> tuple[Source, ...]:
    """CIFAR-10 in any of its forms for training, with the arrays of a version for testing."""
    files, config = published_files("cifar10_1"), name.partition("/")[2] or "v4"
    test = tuple(files[f"cifar10.1_{config}_{kind}.npy"] for kind in ("data", "labels"))
    return tuple(
        Source(
            (*source.files, *test),
            partial(_read_cifar10_1, source.read),
            (*source.folders, "", "downloads/cifar10"),
        )
        for source in cifar_sources("cifar10")
    )


def _read_cifar10_1(read: Reader, paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    *train, images, labels = paths
    arrays = read(train, describe("cifar10"))
    pixels, classes = (decode_npy(path.read_bytes(), str(path)) for path in (images, labels))
    if pixels.shape != (*classes.shape, *info.shape) or pixels.dtype != np.uint8:
        raise DataError(f"{images}: has no 32x32x3 images with one label each; {REMEDY}")
    return {**arrays, "test_images": pixels, "test_labels": to_classes(classes, info, labels)}
