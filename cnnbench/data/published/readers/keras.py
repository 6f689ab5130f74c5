"""MNIST and Fashion-MNIST, as Keras keeps them."""

from collections.abc import Sequence
from pathlib import Path

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.published.downloads import RegisteredFile, published_files
from cnnbench.data.published.forms import Source, to_classes
from cnnbench.data.published.idx import FILENAMES, decode_idx
from cnnbench.data.published.readers.medmnist import read_npz
from cnnbench.system.arrays import NamedArrays


def keras_mnist() -> tuple[Source, ...]:
    """The file of arrays of MNIST."""
    file = RegisteredFile(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "mnist.npz",
        "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    )
    return (Source((file,), _read_keras_mnist),)


def _read_keras_mnist(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    return read_npz(paths[0], {s: (f"x_{s}", f"y_{s}") for s in ("train", "test")}, info)


def keras_fashion_mnist() -> tuple[Source, ...]:
    """The published files of Fashion-MNIST, in a folder of their own."""
    files = published_files("fashion_mnist")
    in_order = tuple(files[name] for name in FILENAMES.values())
    return (Source(in_order, _read_idx, ("fashion-mnist",)),)


def _read_idx(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    arrays = {
        role: decode_idx(path.read_bytes(), str(path))
        for role, path in zip(FILENAMES, paths, strict=True)
    }
    return {
        role: array[..., None] if role.endswith("images") else to_classes(array, info, paths[0])
        for role, array in arrays.items()
    }
