"""Reads images and labels of Parquet and Arrow files in the layout of the Hugging Face Hub."""

import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnbench.data.catalog import CLASS_NAMES, ImageForm
from cnnbench.data.own.decoding import FORMATS
from cnnbench.data.own.image_files import BROKEN, MAX_PIXELS
from cnnbench.data.own.stored import (
    LABEL_COLUMNS,
    MOST_BYTES,
    Raw,
    listed,
    no_such,
    unreadable,
)
from cnnbench.data.resizing import resized
from cnnbench.errors import DataError, or_list, quoted
from cnnbench.system import commands
from cnnbench.system.arrays import Array, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE_COLUMNS = ("image", "img", "images", "x")
_AS_IT_IS = ImageForm(None, "stretch", 3, (255, 255, 255))  # also gray, if all images are
_GRAY_MODES = ("1", "L")
_AT_ONCE = 256  # rows


@dataclass(frozen=True, slots=True)
class _Table:
    """An opened file.

    Args:
      names: names of its columns.
      metadata: of its schema.
      batches: reads columns, some rows after the other.
    """

    names: Sequence[str]
    metadata: Mapping[bytes, bytes]
    batches: Callable[[list[str]], Iterable[Any]]


def read_arrow_file(path: Path, keys: Mapping[str, str], form: ImageForm | None) -> dict[str, Raw]:
    """Images, labels and class names of a Parquet or Arrow file.

    Images are decoded from image files, or are nested lists of numbers.

    Raises:
      DataError: pyarrow is not installed, or not such a file.
    """
    kind = path.suffix.lower().removeprefix(".").capitalize()
    try:
        import pyarrow as pa
    except ImportError as error:
        install = commands.pip_install("cnnbench[parquet]")
        raise DataError(f"{path}: {kind} files require pyarrow; {install}") from error
    try:
        with _opened(path) as table:
            return _columns(path, table, keys, form or _AS_IT_IS)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, kind, error) from error


@contextmanager
def _opened(path: Path) -> Iterator[_Table]:
    """A Parquet file, or an Arrow file: as a stream, as of datasets, or with random access."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == ".parquet":
        with pq.ParquetFile(path) as file:
            read = partial(file.iter_batches, _AT_ONCE, None)
            yield _Table(file.schema_arrow.names, file.schema_arrow.metadata or {}, read)
        return
    with pa.OSFile(str(path)) as source:
        is_stream = source.read(6) != b"ARROW1"
        source.seek(0)
        reader = pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)
        batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
        yield _Table(reader.schema.names, reader.schema.metadata or {}, lambda _: batches)


def _columns(path: Path, table: _Table, keys: Mapping[str, str], form: ImageForm) -> dict[str, Raw]:
    image = _column(path, table.names, keys, "images", _IMAGE_COLUMNS)
    label = _column(path, table.names, keys, "labels", LABEL_COLUMNS)
    known, where = _hub_names(table.metadata, label), f"{path}: {label}"
    images, labels = _Images(f"{path}: {image}", form), list[object]()
    for batch in table.batches([image, label]):
        images.add(batch.column(batch.schema.get_field_index(image)))
        labels += batch.column(batch.schema.get_field_index(label)).to_pylist()
    raw = {
        "images": Raw(images.joined(), images.where),
        "labels": Raw(_label_values(where, labels), where),
    }
    return raw | ({CLASS_NAMES: Raw(np.array(known), where)} if known else {})


def _column(
    path: Path, names: Sequence[str], keys: Mapping[str, str], key: str, known: Sequence[str]
) -> str:
    named = keys.get(key)
    if named is not None and named not in names:
        raise no_such(path, "column", named, key, names)
    found = named or next((name for name in known if name in names), None)
    if found is None:
        raise DataError(
            f"{path}: no column is named {or_list(known)}, only {listed(names)}; set "
            f"dataset.keys: {{{key}: NAME}}"
        )
    if names.count(found) > 1:
        raise DataError(f"{path}: has several columns named {quoted(found)}; rename them")
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


class _Images:
    """Images in a column, of which some rows are added at a time."""

    def __init__(self, where: str, form: ImageForm) -> None:
        self.where = where
        self._form = form
        self._parts: list[Array] = []  # of one image each if they were decoded, else of several
        self._num, self._bytes, self._are_decoded = 0, 0, True

    def add(self, column: Any) -> None:
        """Adds image files, or nested lists of pixels."""
        import pyarrow as pa

        column = column.storage if isinstance(column, pa.ExtensionArray) else column
        self._are_decoded = not _is_list(column.type)
        new = self._decoded(column.to_pylist()) if self._are_decoded else [self._unnested(column)]
        self._parts += new
        self._num += len(column)
        self._bytes += sum(part.nbytes for part in new)
        if self._bytes > MOST_BYTES:
            raise DataError(
                f"{self.where}: images need more memory than the {MOST_BYTES >> 30} GiB allowed;"
                " use fewer or smaller images"
            )

    def joined(self) -> Array:
        """All images, grayscale, ``(n, h, w)``, if all are, else ``(n, h, w, c)``."""
        if not self._num:
            raise DataError(f"{self.where}: has no images; check the file")
        shape = self._parts[0].shape
        for i, part in enumerate(self._parts):
            if self._are_decoded and part.shape[:2] != shape[:2]:
                sizes = f"is {_size(part.shape)}, but image 0 is {_size(shape)}"
                raise DataError(
                    f"{self.where}: image {i} {sizes} pixels; "
                    f"set dataset.resize: {{size: {list(shape[:2])}}}"
                )
            if not self._are_decoded and part.shape[1:] != shape[1:]:
                raise self._ragged()
        if not self._are_decoded:
            return np.concatenate(self._parts)
        if all(part.ndim == 2 for part in self._parts):
            return np.stack(self._parts)
        return np.stack([_with_colors(part) for part in self._parts])

    def _decoded(self, cells: Sequence[object]) -> list[Array]:
        from PIL import Image

        places = [f"{self.where}: image {self._num + i}" for i in range(len(cells))]
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see MAX_PIXELS
            return list(pool.map(_decode, places, cells, [self._form] * len(cells)))

    def _unnested(self, column: Any) -> Array:
        """An array of nested lists of the same lengths."""
        import pyarrow.compute as pc

        shape = [len(column)]
        while _is_list(column.type):
            lengths = pc.list_value_length(column).unique().to_pylist()
            if len(lengths) > 1 or None in lengths:
                raise self._ragged()
            shape.append(lengths[0] if lengths else 0)
            column = column.flatten()
        values: Array = column.to_numpy(zero_copy_only=False)
        return values.reshape(shape)

    def _ragged(self) -> DataError:
        return DataError(f"{self.where}: images differ in size; use images of the same size")


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return any(of(kind) for of in (types.is_list, types.is_large_list, types.is_fixed_size_list))


def _with_colors(image: Array) -> Array:
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else image


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
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
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
