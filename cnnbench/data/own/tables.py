"""A folder of images whose classes, targets or labels are in a table, a row per image.

The layout of `flow_from_dataframe` in Keras, `ImageDataLoaders.from_df` in fastai and
``metadata.csv`` of the Hugging Face Hub: images are in any subfolders.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.own.folder import ALL, FolderSource, ImageListing, split_folders, walk
from cnnbench.errors import DataError, did_you_mean, or_list, quoted
from cnnbench.formatting import is_number, reason

if TYPE_CHECKING:  # reading an experiment imports no NumPy
    from numpy.typing import NDArray

    from cnnbench.data.own.stored import NamesByKey

FILE_COLUMNS = (
    *("file", "filename", "file_name", "image", "images", "path", "filepath", "img", "image_id"),
    *("image_name", "id", "name"),
)
_KEYS = ("images", "labels")


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of a table.

    Args:
      files: the file name in each row.
      lines: the line number of each row.
      cells: the label cells of each row.
      names: names of their columns.
    """

    files: tuple[str, ...]
    lines: tuple[int, ...]
    cells: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableSource(FolderSource):
    """A dataset in a folder of images and a table.

    Args:
      table: a CSV file with a header.
      keys: as `dataset.keys`: the column of file names, and those of the labels.
    """

    table: Path = Path()
    keys: "tuple[tuple[str, str | tuple[str, ...]], ...]" = ()

    def info(self) -> DatasetInfo:
        """As `FolderSource.info`.

        Raises:
          DataError: the table does not fit the images.
        """
        return replace(self.folder_info(), labels=self.kind, title="images and a table")

    def listing(self) -> ImageListing:
        """Finds the images and their rows.

        Raises:
          DataError: no such folder or table, or an image or a row without the other.
        """
        self.require_folder()
        root, inside = self.path.resolve(), split_folders(self.path)
        pools = inside if "train" in inside else {ALL: ""}
        files = {
            pool: sorted(each.removeprefix("/") for each in walk(self.path / name, name, root))
            for pool, name in sorted(pools.items())
        }
        every = [file for own in files.values() for file in own]
        if not every:
            raise DataError(f"{self.path}: has no images; use the folder that contains them")
        names, labels = self._labels(every)
        classes = iter(labels.tolist() if self.kind == "class" else [0] * len(every))
        by_pool = {pool: [next(classes) for _ in own] for pool, own in files.items()}
        return ImageListing(names, files, by_pool)

    def label_array(self, listing: ImageListing) -> "NDArray[Any]":
        """Labels of all images, as in `dataset.Split`."""
        return self._labels(listing.every)[1]

    def _labels(self, files: Sequence[str]) -> "tuple[tuple[str, ...], NDArray[Any]]":
        """Names of the classes, targets or labels, and the labels of files."""
        import numpy as np

        from cnnbench.data.own.labels import to_labels
        from cnnbench.data.own.stored import Raw

        rows = read_rows(self.table, dict(self.keys))
        at = _matched(self.table, self.path, rows, files)
        cells = np.array([rows.cells[index] for index in at])
        where = f"{self.table}: {' and '.join(rows.names)}"
        single = len(rows.names) == 1 and self.kind != "targets"
        if not single and all(map(is_number, {cell for row in rows.cells for cell in row})):
            cells = cells.astype(np.float64)
        columns = () if single else rows.names
        raw = Raw(cells[:, 0] if single else cells, where, columns, tuple(files))
        found, names, number = to_labels({"train_labels": raw}, None, self.kind)
        return names or tuple(map(str, range(number))), found["train_labels"]


def read_rows(table: Path, keys: "NamesByKey") -> TableRows:
    """Reads the file names and label cells of a table.

    Args:
      table: a CSV file with a header.
      keys: as `dataset.keys`.

    Raises:
      DataError: no such file, not a table, or it has no such columns.
    """
    for key in keys:
        if key not in _KEYS:
            raise DataError(
                f"{table}: dataset.keys.{key} has no effect on a table; use {or_list(_KEYS)}"
            )
    try:
        state = table.stat()
        return _rows(table, tuple(keys.items()), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise DataError(
            f"{table}: cannot be read ({reason(error)}); check dataset.labels"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: is not a CSV file ({reason(error)}); save it as UTF-8") from None


@lru_cache(maxsize=8)
def _rows(table: Path, keys: tuple[tuple[str, Any], ...], *_: int) -> TableRows:
    with table.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        delimiter = max(",;\t", key=first.count)
        header = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
        reader = csv.reader(file, delimiter=delimiter)
        found = [(reader.line_num + 1, row) for row in reader if any(map(str.strip, row))]
    at_file, at_labels = _columns(table, header, dict(keys))
    for line, row in found:
        if len(row) != len(header):
            number = f"{len(row)} column{'s' * (len(row) != 1)}"
            raise DataError(f"{table}:{line}: has {number}, but the header has {len(header)}")
    if not found:
        raise DataError(f"{table}: has no rows; check the file")
    return TableRows(
        tuple(row[at_file].strip() for _, row in found),
        tuple(line for line, _ in found),
        tuple(tuple(row[at].strip() for at in at_labels) for _, row in found),
        tuple(header[at] for at in at_labels),
    )


def _columns(table: Path, header: Sequence[str], keys: "NamesByKey") -> tuple[int, tuple[int, ...]]:
    """Indices of the column of file names, and of those of the labels."""
    from cnnbench.data.own.stored import LABEL_COLUMNS, listed, names_in, no_such

    for key in _KEYS:
        for name in names_in(keys, key):
            if name not in header:
                raise no_such(table, "column", name, key, header)
    words = [name.lower() for name in header]
    named = names_in(keys, "labels")
    free = [i for i, name in enumerate(header) if name and name not in named]
    files = [header.index(name) for name in names_in(keys, "images")]
    files += [words.index(name) for name in FILE_COLUMNS if name in [words[i] for i in free]]
    if not files:
        raise DataError(
            f"{table}: no column of file names among {listed(header)}; set"
            " dataset.keys: {images: NAME}"
        )
    others = [i for i in free if i != files[0]]
    if named:
        return files[0], tuple(header.index(name) for name in named)
    known = [i for i in others if words[i] in LABEL_COLUMNS]
    if len(known) == 1 or len(others) == 1:
        return files[0], tuple(known if len(known) == 1 else others)
    names = listed([header[i] for i in others])
    raise DataError(
        f"{table}: has several columns that may be labels, {names}; set dataset.keys:"
        " {labels: [NAME]}"
    )


def _matched(table: Path, folder: Path, rows: TableRows, files: Sequence[str]) -> list[int]:
    """Index of the row of each file; a row has its path, its name, or that without a suffix."""
    twice = [file for file, count in Counter(rows.files).items() if count > 1]
    if twice:
        lines = [rows.lines[i] for i, file in enumerate(rows.files) if file == twice[0]]
        raise DataError(
            f"{table}:{lines[1]}: {quoted(twice[0])} is in line {lines[0]}, too; remove one"
        )
    place = {file: i for i, file in enumerate(rows.files)}
    unique = _unique_forms(files)
    found, unmatched = {}, []
    for file in files:
        forms = [form for form in _forms(file) if unique[form] == 1 or form == file]
        index = next((place[form] for form in forms if form in place), None)
        if index is None:
            unmatched.append(file)
        else:
            found[file] = index
    taken = set(found.values())
    rest = next((i for i in range(len(rows.files)) if i not in taken), None)
    if rest is not None:
        name = rows.files[rest]
        near = did_you_mean(name, unmatched) if len(unmatched) < 1000 else ""
        raise DataError(
            f"{table}:{rows.lines[rest]}: {folder} has no image {quoted(name)}{near}; correct or"
            " remove the row"
        )
    if unmatched:
        more = f" and {len(unmatched) - 1:,} more" if unmatched[1:] else ""
        raise DataError(
            f"{table}: has no row for {unmatched[0]}{more}; add one, or remove the image"
        )
    return [found[file] for file in files]


def _forms(file: str) -> Iterator[str]:
    """Names of a file in a table, the most specific first."""
    path = PurePosixPath(file)
    yield file
    yield str(path.with_suffix(""))
    yield path.name
    yield path.stem


def _unique_forms(files: Sequence[str]) -> Mapping[str, int]:
    """Numbers of files by name in a table."""
    return Counter(form for file in files for form in set(_forms(file)))
