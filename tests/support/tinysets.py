"""Small generated datasets in the formats of the real ones."""

import gzip
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from numpy.typing import NDArray
from tensorflow_datasets.core import registered

FILENAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@dataclass(frozen=True)
class Tiny:
    """Training images, by default 60, and 12 test images of 28x28 pixels, in 10 classes."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def tiny(num_train: int = 60, seed: int = 7) -> Tiny:
    rng = np.random.default_rng(seed)
    shape = (28, 28, 1)
    return Tiny(
        rng.integers(0, 256, (num_train, *shape), np.uint8),
        rng.integers(0, 10, num_train, np.uint8),
        rng.integers(0, 256, (12, *shape), np.uint8),
        rng.integers(0, 10, 12, np.uint8),
    )


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


def write_idx_files(folder: Path) -> None:
    """The four files of an IDX dataset."""
    data = tiny()
    folder.mkdir(parents=True, exist_ok=True)
    for filename, array in zip(
        FILENAMES,
        (data.train_images[..., 0], data.train_labels, data.test_images[..., 0], data.test_labels),
        strict=True,
    ):
        (folder / filename).write_bytes(idx_bytes(array))


def looked(folder: Path, holds: str, stems: str | None = None) -> str:
    """Description of the folders searched for the files of `mnist`."""
    names = [name.removesuffix(".gz") for name in FILENAMES]
    return (
        f"Searched {folder} and its subfolders mnist/, MNIST/raw/, raw/, downloads/manual/ and "
        f"manual/ for {stems or ', '.join(names[:3]) + ' and ' + names[3]} (with or "
        "without .gz, or "
        f"named like {(stems or names[0]).split()[0].replace('-idx', '.idx')}). {folder} {holds}"
    )


def checksum_text(folder: Path, base: str, names: Sequence[str] = FILENAMES) -> str:
    """The files of `folder` under the URL `base`, in the format of tensorflow-datasets."""
    return "".join(
        f"{base}/{name}\t{len(content)}\t{hashlib.sha256(content).hexdigest()}\t{name}\n"
        for name, content in ((name, (folder / name).read_bytes()) for name in names)
    )


def register(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Replaces the files that tensorflow-datasets registers, for all datasets."""
    monkeypatch.setattr("cnnbench.data.published.downloads.checksum_text", lambda _: text)


def prepare_array_records(name: str, data_dir: Path, data: Tiny | None = None) -> None:
    """Prepare the tiny set with tensorflow-datasets itself, from PNG bytes."""
    data = data or tiny()
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )

    def examples(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Iterator[Any]:
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield key, {"image": _png(image), "label": int(label)}

    def split_generators(_self: Any, _manager: Any) -> dict[str, Any]:
        return {
            "train": examples(data.train_images, data.train_labels),
            "test": examples(data.test_images, data.test_labels),
        }

    with registered.skip_registration():
        builder_class = type(
            name.title().replace("_", ""),
            (tfds.core.GeneratorBasedBuilder,),
            {
                "VERSION": tfds.core.Version("3.0.1"),
                "_info": lambda self: tfds.core.DatasetInfo(
                    builder=self,
                    description="Made by a test.",
                    features=features,
                    supervised_keys=("image", "label"),
                ),
                "_split_generators": split_generators,
                "_generate_examples": lambda _self: iter(()),
                "__module__": __name__,
            },
        )
    builder_class(data_dir=data_dir, file_format="array_record").download_and_prepare()


def _png(image: NDArray[np.uint8]) -> io.BytesIO:
    content = io.BytesIO()
    PIL.Image.fromarray(image[..., 0]).save(content, "png")
    content.seek(0)
    return content


def write_pictures(folder: Path) -> None:
    """Writes two folders of 12 gray images of 6x5 pixels; those of the second class are lighter."""
    rng = np.random.default_rng(0)
    for label in range(2):
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 200, (6, 5), np.uint8) + np.uint8(20 * label)
            PIL.Image.fromarray(pixels).save(place / f"{number}.png")
