"""Imagenette in its archives: JPEG files of various sizes, in a folder per WordNet synset."""

import hashlib
import io
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np

from cnnbench.data.catalog import DatasetInfo, ImageForm
from cnnbench.data.published.archives import tar_files
from cnnbench.data.published.downloads import REMEDY, published_files
from cnnbench.data.published.forms import Source
from cnnbench.data.resizing import require_memory, resized
from cnnbench.errors import DataError
from cnnbench.formatting import reason
from cnnbench.system.arrays import Array, NamedArrays, Pixels
from cnnbench.system.host import num_cpus

# The classes of the catalog, in the same order
SYNSETS = (
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
)
ARCHIVES = MappingProxyType(
    {
        "imagenette": "imagenette2-160",
        "imagenette/160px-v2": "imagenette2-160",
        "imagenette/320px-v2": "imagenette2-320",
        "imagenette/full-size-v2": "imagenette2",
        "imagenette/160px": "imagenette-160",
        "imagenette/320px": "imagenette-320",
        "imagenette/full-size": "imagenette",
    }
)
_SPLITS = MappingProxyType({"train": "train", "val": "test"})  # by folder
_SALTS = MappingProxyType({"train": "train", "test": "validation"})  # names in tensorflow-datasets
_MOST_BYTES = 2**31  # of the largest archive, extracted
_AT_ONCE = 256  # images decoded at a time, to limit memory


def imagenette_sources(name: str) -> tuple[Source, ...]:
    """The archive of a version and size."""
    folder = ARCHIVES[name]
    file = published_files("imagenette")[f"{folder}.tgz"]
    return (Source((file,), partial(_read_imagenette, folder)),)


def _read_imagenette(folder: str, paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    (path,) = paths
    assert info.form is not None, "checked when the experiment was read"
    pattern = re.compile(rf"{folder}/(train|val)/({'|'.join(SYNSETS)})/[^/]+\.JPEG")
    found = [name for name, _ in tar_files(path, _MOST_BYTES, pattern.fullmatch, read=False)]
    arrays: dict[str, Array] = {}
    places: dict[str, tuple[str, int]] = {}
    for part, split in _SPLITS.items():
        names = _in_order([name for name in found if name.startswith(f"{folder}/{part}/")], split)
        if not names:
            raise DataError(f"{path}: has no JPEG files in {folder}/{part}; {REMEDY}")
        require_memory(len(names), info.shape)
        labels = [SYNSETS.index(PurePosixPath(name).parent.name) for name in names]
        arrays[f"{split}_images"] = np.empty((len(names), *info.shape), np.uint8)
        arrays[f"{split}_labels"] = np.array(labels, np.int32)
        places |= {name: (f"{split}_images", at) for at, name in enumerate(names)}
    files = tar_files(path, _MOST_BYTES, places.__contains__)
    with ThreadPoolExecutor(num_cpus()) as pool:
        while batch := list(islice(files, _AT_ONCE)):
            decoded = pool.map(partial(_decoded, path, info.form), batch)
            for (name, _), pixels in zip(batch, decoded, strict=True):
                role, at = places[name]
                arrays[role][at] = pixels
    return arrays


def _in_order(names: Sequence[str], split: str) -> list[str]:
    """The order of tensorflow-datasets: by the hash of the file name, so that classes are mixed."""
    salt = _SALTS[split]
    return sorted(
        names, key=lambda name: hashlib.md5(f"{salt}{PurePosixPath(name).name}".encode()).digest()
    )


def _decoded(path: Path, form: ImageForm, file: tuple[str, bytes]) -> Pixels:
    """Decodes a JPEG file as torchvision's `Imagenette` does, and scales it."""
    from PIL import Image

    name, content = file
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            color = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {name} cannot be decoded ({reason(error)}); {REMEDY}") from error
    return np.asarray(resized(color, form.size, form) if form.size else color)
