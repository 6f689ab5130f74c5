"""Regression targets, and several labels per image, from arrays and columns of the user.

Targets become float32 ``(n, k)``; several labels become 0 or 1, uint8 ``(n, k)``.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.own.stored import Raw
from cnnbench.errors import DataError, did_you_mean, quoted
from cnnbench.formatting import is_number
from cnnbench.system.arrays import Array, NamedArrays

SEPARATOR = "|"  # of labels in a cell, if any has it; else white space


def to_targets(
    labels: Mapping[str, Raw], names: Sequence[str] = ()
) -> tuple[NamedArrays, tuple[str, ...]]:
    """Regression targets and their names, which are empty if unknown.

    Args:
      labels: by role, such as ``train_labels``: numbers, (n,) or (n, k).
      names: of the targets; empty for those of the columns.

    Raises:
      DataError: a target is not a finite number, all are 0 or 1, or one has the same value in all
        training images.
    """
    found = {role: _numbers(each) for role, each in labels.items()}
    first, train = labels["train_labels"], found["train_labels"]
    for role, values in found.items():
        _require_width(labels[role], values, train.shape[1], "targets")
    if np.isin(train, (0, 1)).all():
        tasks = "task: multilabel, or task: classify" if train.shape[1] > 1 else "task: classify"
        raise DataError(f"{first.where}: all targets are 0 or 1; use {tasks}")
    same = (train == train[0]).all(axis=0)
    if same.any():
        at = int(np.argmax(same))
        which = f"target {first.name_of(at)}" if train.shape[1] > 1 else "the target"
        raise DataError(
            f"{first.where}: {which} is {train[0, at]:g} for all training images; remove it"
        )
    return found, _names(names, first, train.shape[1], "targets")


def to_multi_hot(
    labels: Mapping[str, Raw], names: Sequence[str] = ()
) -> tuple[NamedArrays, tuple[str, ...]]:
    """Several labels per image as rows of 0 and 1, and their names, which are empty if unknown.

    Args:
      labels: by role, such as ``train_labels``: 0 or 1, (n, k), or strings of names, (n,).
      names: of the labels; empty for those of the columns, or all in the training images, sorted.

    Raises:
      DataError: a value is neither 0 nor 1, a name is unknown, or each image has one label.
    """
    first = labels["train_labels"]
    if first.values.dtype.kind in "US" and not _is_column_of_digits(first):
        return _from_texts(labels, names)
    found = {role: _zeros_and_ones(each) for role, each in labels.items()}
    train = found["train_labels"]
    for role, values in found.items():
        _require_width(labels[role], values, train.shape[1], "labels")
    _require_several(first.where, train)
    return found, _names(names, first, train.shape[1], "labels")


def split_names(cells: Sequence[str]) -> list[list[str]]:
    """Names of labels in each cell, separated by `|` if any cell has it, else by white space.

    >>> split_names(["cat dog", "", "dog"]), split_names(["red car|dog", "dog"])
    ([['cat', 'dog'], [], ['dog']], [['red car', 'dog'], ['dog']])
    """
    separator = SEPARATOR if any(SEPARATOR in cell for cell in cells) else None
    return [[name.strip() for name in cell.split(separator) if name.strip()] for cell in cells]


def _numbers(raw: Raw) -> NDArray[np.float32]:
    """Finite numbers, (n, k)."""
    values = _columns(raw, "targets")
    if values.dtype.kind == "b":
        raise DataError(f"{raw.where}: has dtype bool; use task: classify or task: multilabel")
    try:
        numbers = values.astype(np.float32)
    except (ValueError, UnicodeDecodeError):
        at, column = (
            int(index)
            for index in np.argwhere(~np.vectorize(lambda v: is_number(_text(v)))(values))[0]
        )
        text = _text(values[at, column])
        what = f"{quoted(text)} of {raw.image(at)} is not a number"
        if not text:
            which = f"target {raw.name_of(column)}" if values.shape[1] > 1 else "the target"
            what = f"{which} of {raw.image(at)} is empty"
        raise DataError(f"{raw.where}: {what}; use numbers, or task: classify") from None
    finite = np.isfinite(numbers)
    if not finite.all():
        at, column = (int(index) for index in np.argwhere(~finite)[0])
        which = f"target {raw.name_of(column)}" if values.shape[1] > 1 else "target"
        raise DataError(
            f"{raw.where}: {which} of {raw.image(at)} is {_text(values[at, column])}, not a finite"
            " number; correct it, or remove the image"
        )
    return numbers


def _columns(raw: Raw, what: str) -> Array:
    """Values of shape (n, k)."""
    values = raw.values[:, None] if raw.values.ndim == 1 else raw.values
    if values.ndim != 2 or not values.shape[1]:
        raise DataError(f"{raw.where}: has shape {raw.values.shape}; use (n, number of {what})")
    if values.dtype.kind not in "buifUS":
        raise DataError(f"{raw.where}: has dtype {values.dtype}; use numbers")
    return values


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _require_width(raw: Raw, values: Array, wanted: int, what: str) -> None:
    if values.shape[1] != wanted:
        raise DataError(
            f"{raw.where}: has {values.shape[1]} {what} per image, but the training images have"
            f" {wanted}; use the same"
        )


def _names(names: Sequence[str], raw: Raw, number: int, what: str) -> tuple[str, ...]:
    if names and len(names) != number:
        raise DataError(f"{raw.where}: has {number} {what}, but {len(names)} names; use the same")
    return tuple(names) or raw.columns


def _is_column_of_digits(raw: Raw) -> bool:
    return raw.values.ndim == 2


def _zeros_and_ones(raw: Raw) -> NDArray[np.uint8]:
    if raw.values.ndim == 1 or raw.values.shape[1:] == (1,):
        raise DataError(f"{raw.where}: has one label per image; use task: classify")
    values = _columns(raw, "labels")
    if values.dtype.kind in "US":
        raise DataError(f"{raw.where}: has dtype {values.dtype}; use 0 and 1")
    wrong = (values != 0) & (values != 1)  # true of NaN
    if wrong.any():
        at, column = (int(index) for index in np.argwhere(wrong)[0])
        raise DataError(
            f"{raw.where}: label {raw.name_of(column)} of {raw.image(at)} is"
            f" {values[at, column]:g}; use 0 or 1"
        )
    return np.asarray(values, np.uint8)


def _require_several(where: str, train: NDArray[np.uint8]) -> None:
    if (train.sum(axis=1) == 1).all():
        raise DataError(f"{where}: each training image has exactly one label; use task: classify")


def _from_texts(
    labels: Mapping[str, Raw], names: Sequence[str]
) -> tuple[NamedArrays, tuple[str, ...]]:
    """Rows of 0 and 1 from names in cells."""
    cells = {role: [_text(cell) for cell in each.values.tolist()] for role, each in labels.items()}
    every = split_names([cell for role in cells for cell in cells[role]])
    lists, start = {}, 0
    for role, own in cells.items():
        lists[role] = every[start : start + len(own)]
        start += len(own)
    known = list(names) or _sorted({name for each in lists["train_labels"] for name in each})
    found = {role: _hot(labels[role], each, known) for role, each in lists.items()}
    _require_several(labels["train_labels"].where, found["train_labels"])
    return found, tuple(known)


def _sorted(names: set[str]) -> list[str]:
    """Sorted, by value if all are integers."""
    number = all(re.fullmatch(r"\d{1,18}", name) for name in names)
    return sorted(names, key=int) if number else sorted(names)


def _hot(raw: Raw, lists: Sequence[Sequence[str]], known: Sequence[str]) -> NDArray[np.uint8]:
    column = {name: i for i, name in enumerate(known)}
    rows = np.zeros((len(lists), len(known)), np.uint8)
    for at, each in enumerate(lists):
        for name in each:
            if name not in column:
                near = did_you_mean(name, known)
                raise DataError(
                    f"{raw.where}: no training image has the label {quoted(name)} of"
                    f" {raw.image(at)}{near};"
                    " correct or remove it"
                )
            rows[at, column[name]] = 1
    return rows
