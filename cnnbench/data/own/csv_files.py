"""Reads images and labels of tables: CSV files, a row per image."""

import csv
import gzip
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, cast

import numpy as np

from cnnbench.data.own.stored import (
    LABEL_COLUMNS,
    MOST_BYTES,
    Raw,
    listed,
    no_such,
    reason,
    unreadable,
)
from cnnbench.errors import DataError, or_list
from cnnbench.system.arrays import Array


class _Lines:
    """Lines of a text file that are not blank; knows the number of the last one."""

    def __init__(self, path: Path, file: Iterable[str]) -> None:
        self.number = 0
        self._path, self._file, self._length = path, iter(file), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            line = next(self._file)
            self.number += 1
            self._length += len(line)
            if self._length > MOST_BYTES:
                most = f"{MOST_BYTES >> 30} GiB allowed"
                raise DataError(f"{self._path}: is larger than the {most}; save it as .npz")
            if line.strip():
                return line


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of a table.

    Args:
      label: index of the label.
      names: names of all columns; empty without a header.
    """

    label: int
    names: tuple[str, ...]

    @property
    def unused(self) -> tuple[int, ...]:
        """Indices that are not pixels: the label, and an index that pandas wrote without a name."""
        return (self.label, *(i for i, name in enumerate(self.names) if not name))


def read_table(path: Path, keys: Mapping[str, str]) -> dict[str, Raw]:
    """Pixels, float32 ``(n, pixels)``, and labels of a CSV file."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline=None) as file:
            return _table(path, _Lines(path, cast(IO[str], file)), keys)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise unreadable(path, "CSV", error) from error


def _table(path: Path, lines: _Lines, keys: Mapping[str, str]) -> dict[str, Raw]:
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count)
    cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
    columns = _columns(path, cells, keys.get("labels"))
    rest = lines if columns.names else chain([first], lines)
    codes: dict[str, int] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no rows, which is reported below
            table = np.loadtxt(
                rest,
                np.float32,
                comments=None,
                delimiter=delimiter,
                quotechar='"',
                ndmin=2,
                converters={columns.label: lambda text: codes.setdefault(text.strip(), len(codes))},
            )
    except ValueError as error:
        raise _bad_line(path, lines.number, error) from error
    if not codes:
        raise DataError(f"{path}: has no rows; check the file")
    texts = _numbers_if_all(list(codes))
    labels = texts[table[:, columns.label].astype(np.intp)]
    name = columns.names[columns.label] if columns.names else f"column {columns.label + 1}"
    return {
        "images": Raw(np.delete(table, columns.unused, axis=1), str(path)),
        "labels": Raw(labels, f"{path}: {name}"),
    }


def _columns(path: Path, cells: Sequence[str], named: str | None) -> _Columns:
    """Finds the label in the first line of a table, which may be a header or not."""
    words = [cell.lower() for cell in cells]
    known = next((name for name in LABEL_COLUMNS if name in words), None)
    counted = [cell for cell in cells if cell] == [str(i) for i in range(sum(map(bool, cells)))]
    mostly_text = not sum(map(_is_number, cells)) * 2 > len(cells)
    has_name = named in cells and not _is_number(named or "")
    names = tuple(cells) if known or has_name or counted or mostly_text else ()
    if named is not None and not names and re.fullmatch(r"-?\d+", named):
        if int(named) not in range(-len(cells), len(cells)):
            raise DataError(
                f"{path}: column {named} is out of range for {len(cells)} columns; use 0 to "
                f"{len(cells) - 1} for dataset.keys.labels"
            )
        return _Columns(int(named) % len(cells), ())
    if named is not None:
        if named not in names:
            raise no_such(path, "column", named, "labels", names)
        return _Columns(names.index(named), names)
    if known:
        return _Columns(words.index(known), names)
    if names and not counted:
        raise DataError(
            f"{path}: no column is named {or_list(LABEL_COLUMNS)}, only {listed(names)}; set "
            "dataset.keys: {labels: NAME}"
        )
    return _Columns(next((i for i, cell in enumerate(cells) if cell), 0), names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers_if_all(texts: Sequence[str]) -> Array:
    """Numbers, if all are in number format, such as 7 or 7.00e+00; else strings."""
    return np.array([float(t) for t in texts] if all(map(_is_number, texts)) else texts)


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
    return DataError(f"{path}:{number}: is not a line of numbers ({reason(error)}); correct it")
