"""An array as stored in a file, and the errors that all formats have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.errors import DataError, did_you_mean, quoted
from cnnbench.formatting import clean, enumeration, reason
from cnnbench.system.arrays import Array

MOST_BYTES = 2**32  # of one array as stored, to limit memory
LABEL_COLUMNS = ("label", "labels", "class", "target", "y", "digit", "fine_label")
NamesByKey = Mapping[str, str | tuple[str, ...]]  # `dataset.keys`
_SHOWN = 6  # names in messages


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Raw:
    """An array as stored, with its file and name for messages.

    Args:
      values: the array; its first axis is that of the images.
      where: its file and name.
      columns: names of its columns, in a table with a header; else empty.
      files: names of the images in messages; empty for numbers.
    """

    values: Array
    where: str
    columns: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def image(self, at: int) -> str:
        """An image in messages.

        >>> Raw(np.zeros(3), "y").image(1)
        'image 1'
        """
        return self.files[at] if self.files else f"image {at}"

    def name_of(self, column: int) -> str:
        """A column in messages.

        >>> Raw(np.zeros((3, 2)), "y").name_of(1)
        'column 1'
        """
        return quoted(self.columns[column]) if self.columns else f"column {column}"


def names_in(keys: NamesByKey, key: str) -> tuple[str, ...]:
    """Names of the columns of a key in ``dataset.keys``; empty if it is not given."""
    named = keys.get(key, ())
    return (named,) if isinstance(named, str) else named


def unequal(raw: Raw, first: Raw) -> DataError:
    """Error for images that have another shape than the first ones."""
    return DataError(
        f"{raw.where}: each image has shape {raw.values.shape[1:]}, but those of "
        f"{short(first.where)} have {first.values.shape[1:]}; use images of the same size"
    )


def short(where: str) -> str:
    """An array without its folder."""
    path, colon, name = where.partition(": ")
    return name if colon else Path(path).name


def described(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """Data type and shape of an array, for messages."""
    return f"{dtype} of shape {shape}"


def no_such(path: Path, what: str, name: str, key: str, names: Sequence[str]) -> DataError:
    """Error for a name in ``dataset.keys`` that a file does not have.

    Args:
      path: the file.
      what: ``array`` or ``column``.
      name: the name that the user gave.
      key: its key in ``dataset.keys``.
      names: those that the file has.
    """
    hint = did_you_mean(name, names) or f", only {listed(names)}"
    return DataError(f"{path}: has no {what} {quoted(name)}{hint}; change dataset.keys.{key}")


def listed(names: Sequence[str]) -> str:
    """The first names and the number of others, for messages."""
    more = len(names) - _SHOWN
    shown = names if more < 2 else [*names[:_SHOWN], f"{more} more"]
    return enumeration([clean(name) for name in shown]) or "none"


def unreadable(path: Path, kind: str, error: Exception) -> DataError:
    """Error for a file that cannot be opened, or is not of a format."""
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{path}: cannot be read: {reason(error)}; check its permissions")
    return DataError(f"{path}: is not a valid {kind} file ({reason(error)}); save it again")
