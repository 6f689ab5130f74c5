"""Reads images and labels of Parquet files in the layout of the Hugging Face Hub."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnbench.data.catalog import CLASS_NAMES, ImageForm
from cnnbench.data.own.decoding import resized
from cnnbench.data.own.image_files import BROKEN, MAX_PIXELS
from cnnbench.data.own.stored import LABEL_COLUMNS, Raw, listed, no_such, unreadable
from cnnbench.errors import DataError, or_list
from cnnbench.system import commands
from cnnbench.system.arrays import Array, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE_COLUMNS = ("image", "img", "images", "x")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_AS_IT_IS = ImageForm(None, "stretch", 3, (255, 255, 255))  # also gray, if all images are
_GRAY_MODES = ("1", "L")


def read_parquet(path: Path, keys: Mapping[str, str], form: ImageForm | None) -> dict[str, Raw]:
    """Decoded images, labels and class names of a file in the layout of the Hugging Face Hub."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        install = commands.pip_install("cnnbench[parquet]")
        raise DataError(f"{path}: Parquet files require pyarrow; {install}") from error
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            image = _parquet_column(path, names, keys, "images", _IMAGE_COLUMNS)
            label = _parquet_column(path, names, keys, "labels", LABEL_COLUMNS)
            known = _hub_names(file.schema_arrow.metadata or {}, label)
            table = file.read([image, label])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, "Parquet", error) from error
    where = f"{path}: {image}"
    images = _decoded(where, table[image].to_pylist(), form or _AS_IT_IS)
    labels = _label_values(f"{path}: {label}", table[label].to_pylist())
    raw = {"images": Raw(images, where), "labels": Raw(labels, f"{path}: {label}")}
    return raw | ({CLASS_NAMES: Raw(np.array(known), f"{path}: {label}")} if known else {})


def _parquet_column(
    path: Path, names: Sequence[str], keys: Mapping[str, str], key: str, known: Sequence[str]
) -> str:
    if (named := keys.get(key)) is not None:
        if named not in names:
            raise no_such(path, "column", named, key, names)
        return named
    found = next((name for name in known if name in names), None)
    if found is None:
        raise DataError(
            f"{path}: no column is named {or_list(known)}, only {listed(names)}; set "
            f"dataset.keys: {{{key}: NAME}}"
        )
    return found


def _hub_names(metadata: Mapping[bytes, bytes], label: str) -> tuple[str, ...]:
    """Names of classes, which the package datasets adds to the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(map(str, features[label].get("names", ())))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def _label_values(where: str, values: Sequence[object]) -> Array:
    if None in values:
        raise DataError(f"{where}: image {values.index(None)} has no label; remove it")
    try:
        return np.array(values)
    except ValueError:  # lists of different lengths
        raise DataError(f"{where}: has several labels per image; use one") from None


def _decoded(where: str, cells: Sequence[object], form: ImageForm) -> Pixels:
    """Decodes images of one size: grayscale, ``(n, h, w)``, if all are, else RGB."""
    if not cells:
        raise DataError(f"{where}: has no images; check the file")
    images = [_decode(f"{where}: image {i}", cell, form) for i, cell in enumerate(cells)]
    first = images[0].shape[:2]
    for i, image in enumerate(images):
        if image.shape[:2] != first:
            sizes = f"is {_size(image.shape)}, but image 0 is {_size(first)}"
            raise DataError(
                f"{where}: image {i} {sizes} pixels; set dataset.resize: {{size: {list(first)}}}"
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images)
    return np.stack([np.stack([i] * 3, axis=-1) if i.ndim == 2 else i for i in images])


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _decode(where: str, cell: object, form: ImageForm) -> Pixels:
    """Decodes an image file, (h, w) or (h, w, 3)."""
    from PIL import Image

    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise DataError(
            f"{where}: contains no image bytes; embed the images, as Dataset.to_parquet of the "
            "datasets package does"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see MAX_PIXELS
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _too_large(where)
                plain = _plain(image, form.background)
                return np.asarray(resized(plain, form.size, form) if form.size else plain)
    except Image.DecompressionBombError:
        raise _too_large(where) from None
    except BROKEN as error:
        raise DataError(f"{where}: is not a readable image file; remove or replace it") from error


def _too_large(where: str) -> DataError:
    return DataError(f"{where}: has more than {MAX_PIXELS // 1_000_000} million pixels; resize it")


def _plain(image: "Image", background: tuple[int, int, int]) -> "Image":
    """The image upright on a background, with mode ``L`` if it has no color, else ``RGB``."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits
        return Image.fromarray((np.asarray(upright) / 257).round().astype(np.uint8))
    gray = upright.mode in _GRAY_MODES
    if upright.has_transparency_data:
        gray = (gray or upright.mode == "LA") and len(set(background)) == 1
        upright = upright.convert("RGBA")
        ground = Image.new("RGBA", upright.size, (*background, 255))
        upright = Image.alpha_composite(ground, upright)
    return upright.convert("L" if gray else "RGB")
