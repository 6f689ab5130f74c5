"""Reads images and labels of Parquet and Arrow files in the layout of the Hugging Face Hub."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cnnbench.data.catalog import CLASS_NAMES, ArrayOptions, ImageForm, LabelKind
from cnnbench.data.own.pillow_files import flattened, opened, quiet
from cnnbench.data.own.stored import (
    LABEL_COLUMNS,
    MOST_BYTES,
    NamesByKey,
    Raw,
    listed,
    names_in,
    no_such,
    unreadable,
)
from cnnbench.data.own.targets import SEPARATOR
from cnnbench.data.resizing import resized
from cnnbench.errors import DataError, or_list, quoted
from cnnbench.system import commands
from cnnbench.system.arrays import Array, Pixels
from cnnbench.system.host import num_cpus
from cnnbench.system.progress import counted

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE_COLUMNS = ("image", "img", "images", "x")
_AS_IT_IS = ImageForm(None, "stretch", 3, (255, 255, 255))  # also gray, if all images are
_GRAY_MODES = ("1", "L", "LA", "I")
_NUMBERS = (int, float, bool)
_AT_ONCE = 256  # rows


@dataclass(frozen=True, slots=True)
class _Table:
    """An opened file.

    Args:
      names: names of its columns.
      metadata: of its schema.
      batches: reads columns, some rows after the other.
      rows: number of rows; None if it is not known before they are read.
    """

    names: Sequence[str]
    metadata: Mapping[bytes, bytes]
    batches: Callable[[list[str]], Iterable[Any]]
    rows: int | None = None


def read_arrow_file(path: Path, options: ArrayOptions) -> dict[str, Raw]:
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
            return _columns(path, table, options)
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
            names, metadata = file.schema_arrow.names, file.schema_arrow.metadata or {}
            yield _Table(names, metadata, read, file.metadata.num_rows)
        return
    with pa.OSFile(str(path)) as source:
        is_stream = source.read(6) != b"ARROW1"
        source.seek(0)
        reader = pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)
        batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
        yield _Table(reader.schema.names, reader.schema.metadata or {}, lambda _: batches)


def _columns(path: Path, table: _Table, options: ArrayOptions) -> dict[str, Raw]:
    keys, kind = dict(options.keys), options.labels
    image = _column(path, table.names, keys, "images", _IMAGE_COLUMNS)
    wanted = names_in(keys, "labels") or (None,)
    labels: dict[str, list[object]] = {
        _column(path, table.names, {"labels": name} if name else {}, "labels", LABEL_COLUMNS): []
        for name in wanted
    }
    images = _Images(f"{path}: {image}", options.form or _AS_IT_IS)
    with counted("decoded", table.rows) as count:
        for batch in table.batches([image, *labels]):
            images.add(_checked(batch, image))
            for label, values in labels.items():
                values.extend(_checked(batch, label).to_pylist())
            count(images.number)
    known, where = _hub_names(table.metadata, next(iter(labels))), f"{path}: {listed([*labels])}"
    columns = {
        label: _label_values(f"{path}: {label}", values, kind, known)
        for label, values in labels.items()
    }
    raw = {"images": Raw(images.joined(), images.where), "labels": _side_by_side(columns, where)}
    return raw | ({CLASS_NAMES: Raw(np.array(known), where)} if known else {})


def _checked(batch: Any, name: str) -> Any:
    """A column whose offsets do not lead out of the file: pyarrow itself does not check them."""
    column = batch.column(batch.schema.get_field_index(name))
    column.validate(full=True)
    return column


def _side_by_side(columns: Mapping[str, Array], where: str) -> Raw:
    """Columns of a table as one array."""
    first, *others = columns.values()
    if not others:
        named = first.ndim == 1 and first.dtype.kind in "buif"
        return Raw(first, where, tuple(columns) if named else ())
    for name, column in columns.items():
        if column.ndim > 1 or column.dtype.kind not in "buif":
            raise DataError(f"{where}: {quoted(name)} is not a column of numbers; use numbers")
    return Raw(np.stack([first, *others], axis=1), where, tuple(columns))


def _column(
    path: Path, names: Sequence[str], keys: NamesByKey, key: str, known: Sequence[str]
) -> str:
    named = next(iter(names_in(keys, key)), None)
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
        own = features[label]
        own = own.get("feature", own)  # of the elements of a list
        return tuple(map(str, own.get("names", ())))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def _label_values(
    where: str, values: Sequence[object], kind: LabelKind, names: Sequence[str]
) -> Array:
    if None in values:
        raise DataError(f"{where}: image {values.index(None)} has no label; remove it")
    if kind == "multilabel" and all(isinstance(each, list) for each in values):
        return _label_lists(cast(Sequence[list[object]], values), names)
    try:
        return np.array(values)
    except ValueError:  # lists of different lengths
        remedy = "the same number for each image" if kind == "targets" else "one"
        raise DataError(f"{where}: has several labels per image; use {remedy}") from None


def _label_lists(values: Sequence[Sequence[object]], names: Sequence[str]) -> Array:
    """Rows of 0 and 1, or the names or numbers of the labels of each image as a text."""
    flat = list(chain.from_iterable(values))
    if len({len(each) for each in values}) == 1 and all(type(one) in _NUMBERS for one in flat):
        rows = np.array(values)
        if np.isin(rows, (0, 1)).all() and len(names) in {0, rows.shape[1]}:
            return rows
    known = dict(enumerate(names))

    def text(label: object) -> str:
        return str(known.get(label, label) if type(label) is int else label)

    return np.array([SEPARATOR.join([*map(text, each), ""]) for each in values])


class _Images:
    """Images in a column, of which some rows are added at a time."""

    def __init__(self, where: str, form: ImageForm) -> None:
        self.where = where
        self._form = form
        self._parts: list[Array] = []  # of one image each if they were decoded, else of several
        self.number, self._bytes, self._are_decoded = 0, 0, True

    def add(self, column: Any) -> None:
        """Adds image files, or nested lists of pixels."""
        import pyarrow as pa

        column = column.storage if isinstance(column, pa.ExtensionArray) else column
        self._are_decoded = not _is_list(column.type)
        new = self._decoded(column.to_pylist()) if self._are_decoded else [self._unnested(column)]
        self._parts += new
        self.number += len(column)
        self._bytes += sum(part.nbytes for part in new)
        if self._bytes > MOST_BYTES:
            raise DataError(
                f"{self.where}: images need more memory than the {MOST_BYTES >> 30} GiB allowed;"
                " use fewer or smaller images"
            )

    def joined(self) -> Array:
        """All images, grayscale, ``(n, h, w)``, if all are, else ``(n, h, w, c)``."""
        if not self.number:
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
        places = [f"{self.where}: image {self.number + i}" for i in range(len(cells))]
        with quiet(), ThreadPoolExecutor(num_cpus()) as pool:
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
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise DataError(
            f"{where}: contains no image bytes; embed the images, as Dataset.to_parquet of the "
            "datasets package does"
        )
    with opened(content, where) as image:
        channels = 1 if _is_gray(image, form.background) else 3
        plain = flattened(content, image, channels, form.background)
        return np.asarray(resized(plain, form.size, form) if form.size else plain)


def _is_gray(image: "Image", background: tuple[int, int, int]) -> bool:
    """True if an image has no color on a background."""
    gray = image.mode in _GRAY_MODES or image.mode.startswith("I;16")
    return gray and (len(set(background)) == 1 or not image.has_transparency_data)
