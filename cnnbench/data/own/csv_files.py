"""Reads images and labels of tables: CSV files, a row per image."""

import csv
import gzip
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.catalog import SPLITS, LabelKind
from cnnbench.data.own.roles import in_split, role_of
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
from cnnbench.errors import DataError, or_list, quoted
from cnnbench.formatting import is_number, reason
from cnnbench.system.arrays import Array
from cnnbench.system.progress import counted

PIXEL_COLUMNS = ("pixels", "image", "img", "images")  # all pixels of an image in a cell
_LINES = 100  # between two updates of the progress
_LONGEST = 2**26  # characters of a line, to limit memory
_SPLIT_COLUMNS = ("usage", "split", "subset", "partition", "set")
_SPLITS = {"publictest": "validation", "privatetest": "test"}  # of FER-2013


class _Lines:
    """Lines of a text file that are not blank; knows the number of the last one."""

    def __init__(self, path: Path, file: TextIO, progress: Callable[[], None]) -> None:
        self.number = 0
        self._path, self._file, self._length = path, file, 0
        self._progress = progress

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            line = self._file.readline(_LONGEST + 1)
            if not line:
                raise StopIteration
            self.number += 1
            if len(line) > _LONGEST:
                where = f"{self._path}:{self.number}"
                raise DataError(f"{where}: has more than {_LONGEST:,} characters; save it as .npz")
            self._length += len(line)
            if self._length > MOST_BYTES:
                most = f"{MOST_BYTES >> 30} GiB allowed"
                raise DataError(f"{self._path}: is larger than the {most}; save it as .npz")
            if not self.number % _LINES:
                self._progress()
            if line.strip():
                return line


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of a table.

    Args:
      labels: indices of the class, the targets, or the labels.
      names: names of all columns; empty without a header.
      split: index of the split of each image; None without one.
      pixels: index of the column with all pixels of an image, separated by spaces; None if there
        is a column per pixel.
    """

    labels: tuple[int, ...]
    names: tuple[str, ...]
    split: int | None = None
    pixels: int | None = None

    @property
    def unused(self) -> tuple[int, ...]:
        """Indices that are not pixels: labels, the split, and indices without a name."""
        own = self.labels if self.split is None else (*self.labels, self.split)
        return (*own, *(i for i, name in enumerate(self.names) if not name))  # pandas' index

    def where(self, path: Path, *indices: int) -> str:
        """Columns, for messages."""
        names = [self.names[i] if self.names else f"column {i + 1}" for i in indices]
        return f"{path}: {listed(names)}"


def read_table(path: Path, keys: NamesByKey, kind: LabelKind) -> dict[str, Raw]:
    """Pixels, float32 ``(n, pixels)``, and labels of a CSV file, by split if it has them."""
    packed = path.name.lower().endswith(".gz")
    try:
        with (
            counted("read", path.stat().st_size, "bytes") as count,
            path.open("rb") as raw,
            TextIOWrapper(gzip.open(raw) if packed else raw, encoding="utf-8-sig") as file,
        ):
            return _table(path, _Lines(path, file, lambda: count(raw.tell())), keys, kind)
    except UnicodeDecodeError as error:
        message = f"{path}: is not a CSV file in UTF-8 ({error.reason})"
        raise DataError(f"{message}; save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, "CSV", error) from error


def _table(path: Path, lines: _Lines, keys: NamesByKey, kind: LabelKind) -> dict[str, Raw]:
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count)
    cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
    columns = _columns(path, cells, keys)
    texts: dict[int, list[str]] = {label: [] for label in columns.labels}  # of other columns
    if columns.split is not None:
        texts[columns.split] = []
    images = _images(path, lines, [] if columns.names else [first], delimiter, columns, texts)
    if not len(images):
        raise DataError(f"{path}: has no rows; check the file")
    labels = _label_array(path, columns, [texts[label] for label in columns.labels], kind)
    arrays = {"images": Raw(images, str(path)), "labels": labels}
    if columns.split is None:
        return arrays
    return _by_split(arrays, texts[columns.split], columns.where(path, columns.split))


def _label_array(
    path: Path, columns: _Columns, texts: Sequence[Sequence[str]], kind: LabelKind
) -> Raw:
    """Labels from the cells of their columns."""
    where = columns.where(path, *columns.labels)
    if len(texts) == 1 and kind == "multilabel":
        return Raw(np.array(texts[0]), where)  # names of labels
    if len(texts) == 1 and kind == "class":
        return Raw(_numbers_if_all(texts[0]), where)
    values = np.array(texts).T
    if all(map(is_number, {text for cells in texts for text in cells})):
        values = values.astype(np.float64)
    names = tuple(columns.names[label] for label in columns.labels) if columns.names else ()
    return Raw(values, where, names)


def _images(
    path: Path,
    lines: _Lines,
    first: Sequence[str],
    delimiter: str,
    columns: _Columns,
    texts: Mapping[int, list[str]],
) -> Array:
    """Pixels of all rows; adds the cells of other columns to `texts`."""
    rows: list[NDArray[np.float32]] = []
    readers: dict[int | str, Callable[[str], Any]] = {
        at: _collector(cells) for at, cells in texts.items()
    }
    used = None  # all columns
    if columns.pixels is not None:
        used = [*texts, columns.pixels]
        readers[columns.pixels] = lambda text: _add_row(text, rows, f"{path}:{lines.number}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no rows, which is reported later
            table = np.loadtxt(
                chain(first, lines),
                np.float32,
                comments=None,
                delimiter=delimiter,
                quotechar='"',
                ndmin=2,
                converters=readers,
                usecols=used,
            )
    except ValueError as error:
        if isinstance(error.__cause__, DataError):  # of a converter
            raise error.__cause__ from None
        raise _bad_line(path, lines.number, error) from error
    if rows or not len(table):
        return np.stack(rows) if rows else table
    if columns.names and table.shape[1] != len(columns.names):
        raise DataError(
            f"{path}: the header has {len(columns.names)} columns, but the lines below have"
            f" {table.shape[1]}; add a name for each"
        )
    return np.delete(table, columns.unused, axis=1)


def _collector(cells: list[str]) -> Callable[[str], float]:
    """A converter that keeps texts instead of converting them."""

    def collect(text: str) -> float:
        cells.append(text.strip())
        return 0.0

    return collect


def _add_row(text: str, rows: list[NDArray[np.float32]], where: str) -> float:
    """Adds the pixels in a cell, which are separated by spaces."""
    words = text.split()
    try:
        rows.append(np.array(words, np.float32))
    except ValueError as error:
        wrong = quoted(next(word for word in words if not is_number(word)))
        raise DataError(f"{where}: pixel {wrong} is not a number; use 0 to 255") from error
    if len(words) != len(rows[0]):
        raise DataError(
            f"{where}: the number of pixels is {len(words)}, but {len(rows[0])} in the lines above;"
            " use images of the same size"
        )
    return 0.0


def _by_split(arrays: Mapping[str, Raw], splits: Sequence[str], where: str) -> dict[str, Raw]:
    """Arrays by role, from the split of each image."""
    known = {text: _split(text, where) for text in set(splits)}
    of_image = np.array([known[text] for text in splits])
    return {
        in_split(kind, split): Raw(raw.values[of_image == split], raw.where, raw.columns)
        for split in set(known.values())
        for kind, raw in arrays.items()
    }


def _split(text: str, where: str) -> str:
    """The split that a cell denotes."""
    split = _SPLITS.get(text.lower()) or role_of(text)
    if split not in SPLITS:
        raise DataError(f"{where}: {quoted(text)} is not a split; use {or_list(SPLITS)}")
    return split


def _columns(path: Path, cells: Sequence[str], keys: NamesByKey) -> _Columns:
    """Finds the columns in the first line of a table, which may be a header or not."""
    words = [cell.lower() for cell in cells]
    counted = [cell for cell in cells if cell] == [str(i) for i in range(sum(map(bool, cells)))]
    names = tuple(cells) if counted or _is_header(cells, words, keys) else ()
    pixels = _find(path, names, words, keys, "images", PIXEL_COLUMNS)
    split = next((words.index(name) for name in _SPLIT_COLUMNS if names and name in words), None)
    if wanted := names_in(keys, "labels"):
        return _Columns(_chosen(path, cells, names, wanted), names, split, pixels)
    label = _find(path, names, words, keys, "labels", LABEL_COLUMNS)
    others = [i for i, name in enumerate(names) if name and i not in (pixels, split)]
    if label is None and pixels is not None and len(others) == 1:
        label = others[0]
    if label is None and names and not counted:
        raise DataError(
            f"{path}: no column is named {or_list(LABEL_COLUMNS)}, only {listed(names)}; set "
            "dataset.keys: {labels: NAME}"
        )
    if label is None:
        label = next((i for i, cell in enumerate(cells) if cell), 0)
    return _Columns((label,), names, split, pixels)


def _chosen(
    path: Path, cells: Sequence[str], names: Sequence[str], wanted: Sequence[str]
) -> tuple[int, ...]:
    """Indices of the labels that the user names, or numbers in a table without a header."""
    found = []
    for name in wanted:
        label = None if names else _numbered_label(path, cells, name)
        if label is None:
            label = _find(path, names, (), {"labels": name}, "labels", ())
        assert label is not None, name
        found.append(label)
    return tuple(found)


def _is_header(cells: Sequence[str], words: Sequence[str], keys: NamesByKey) -> bool:
    """True if the first line has names of columns: known or given ones, or few numbers."""
    known = any(name in words for name in (*LABEL_COLUMNS, *PIXEL_COLUMNS))
    own = [name for key in keys for name in names_in(keys, key)]
    given = any(name in cells and not is_number(name) for name in own)
    return known or given or sum(map(is_number, cells)) * 2 <= len(cells)


def _find(
    path: Path,
    names: Sequence[str],
    words: Sequence[str],
    keys: NamesByKey,
    key: str,
    known: Sequence[str],
) -> int | None:
    """Index of a column, as the user says or by its name."""
    if own := names_in(keys, key):
        given = own[0]
        if not names:
            remedy = "use the number of a column" if key == "labels" else "remove the key"
            raise DataError(f"{path}: has no header for dataset.keys.{key}: {given}; {remedy}")
        if given not in names:
            raise no_such(path, "column", given, key, names)
        return names.index(given)
    return next((words.index(name) for name in known if names and name in words), None)


def _numbered_label(path: Path, cells: Sequence[str], given: str) -> int | None:
    """Index of a label that is given as a number, in a table without a header."""
    if not re.fullmatch(r"-?\d+", given):
        return None
    if int(given) not in range(-len(cells), len(cells)):
        raise DataError(
            f"{path}: column {given} is out of range for {len(cells)} columns; use 0 to "
            f"{len(cells) - 1} for dataset.keys.labels"
        )
    return int(given) % len(cells)


def _numbers_if_all(texts: Sequence[str]) -> Array:
    """Numbers, if all are in number format, such as 7 or 7.00e+00; else strings."""
    return np.array([*map(float, texts)] if all(map(is_number, set(texts))) else texts)


def _bad_line(path: Path, number: int, error: ValueError) -> DataError:
    found = re.search(
        r"could not convert string (.*) to float32 at row \d+, column (\d+)", str(error)
    )
    if found:
        text, column = found.groups()
        what = "is empty" if text == "''" else f"{text} is not a number"
        return DataError(f"{path}:{number}: column {column}: {what}; use 0 to 255")
    if found := re.search(r"columns changed from (\d+) to (\d+)", str(error)):
        before, now = found.groups()
        return DataError(
            f"{path}:{number}: has {now} columns, but the lines above have {before}; use one "
            "column per pixel and one for the label"
        )
    if found := re.search(r"invalid column index (\d+) at row \d+ with (\d+) columns", str(error)):
        wanted, now = map(int, found.groups())
        return DataError(f"{path}:{number}: has {now} columns, but needs {wanted + 1}; correct it")
    return DataError(f"{path}:{number}: is not a line of numbers ({reason(error)}); correct it")
