"""Converts stored arrays to the labels of a dataset, and finds their names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.catalog import LabelKind
from cnnbench.data.own.stored import Raw, described
from cnnbench.data.own.targets import to_multi_hot, to_targets
from cnnbench.errors import DataError, quoted
from cnnbench.system.arrays import Array, NamedArrays

_MANY_CLASSES = 1_000


def to_labels(
    labels: Mapping[str, Raw], names: Raw | None, kind: LabelKind
) -> tuple[NamedArrays, tuple[str, ...], int]:
    """Labels, as in `dataset.Split`, names of the classes, targets or labels, and their number.

    Args:
      labels: by role, such as ``train_labels``.
      names: given names; None without.
      kind: what the images are labeled with.

    Raises:
      DataError: the labels are not of this kind.
    """
    if kind == "class":
        return _to_classes(labels, names)
    known = _class_names(names) if names else ()
    found, known = (to_targets if kind == "targets" else to_multi_hot)(labels, known)
    return found, known, found["train_labels"].shape[1]


def _to_classes(
    labels: Mapping[str, Raw], names: Raw | None
) -> tuple[dict[str, NDArray[np.int32]], tuple[str, ...], int]:
    """Classes from 0, their names, and how many there are."""
    flat = {role: _flat(each) for role, each in labels.items()}
    first = flat["train_labels"]
    if names is not None:
        known = _class_names(names)
        texts = first.values.dtype.kind == "U"
        values = np.array(known) if texts else np.arange(len(known))
        of = f"the {len(known)} class names"
    elif first.one_hot:
        values, known, of = np.arange(first.one_hot), (), f"the {first.one_hot} classes"
    else:
        values, of = np.unique(first.values), "the training labels"
        known = () if _counts_up(values) else tuple(map(str, values))
    _require_classes(first.where, values, len(first.values))
    return {role: _numbered(each, values, of) for role, each in flat.items()}, known, len(values)


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class _Labels:
    """Labels, integers or strings of shape ``(n,)``; `one_hot` is the number of columns, or 0."""

    values: Array
    where: str
    one_hot: int = 0


def _counts_up(values: Array) -> bool:
    return values.dtype.kind in "iu" and bool((values == np.arange(len(values))).all())


def _require_classes(where: str, values: Array, num: int) -> None:
    if len(values) < 2:
        raise DataError(f"{where}: has only one class, {values[0]}; use two or more")
    if len(values) > max(_MANY_CLASSES, num // 2):
        raise DataError(
            f"{where}: has {len(values):,} classes for {num:,} images; use class labels, not "
            "image indices"
        )


def _numbered(labels: _Labels, values: Array, of: str) -> NDArray[np.int32]:
    """Index of each label in `values`."""
    same = (labels.values.dtype.kind == "U") == (values.dtype.kind == "U")
    unknown = ~np.isin(labels.values, values) if same else np.ones(len(labels.values), bool)
    if unknown.any():
        at = int(np.argmax(unknown))
        label = quoted(labels.values[at].item())
        raise DataError(
            f"{labels.where}: label {label} of image {at} is not one of {of}; correct it"
        )
    order = np.argsort(values)
    return order[np.searchsorted(values, labels.values, sorter=order)].astype(np.int32)


def _class_names(raw: Raw) -> tuple[str, ...]:
    if raw.values.ndim != 1 or raw.values.dtype.kind not in "US":
        kind = described(raw.values.shape, raw.values.dtype)
        raise DataError(f"{raw.where}: is {kind}, not one name per class; save a list of strings")
    names = tuple(map(str, _text_values(raw)))
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{raw.where}: two classes are named {quoted(twice)}; rename one")
    return names


def _text_values(raw: Raw) -> Array:
    if raw.values.dtype.kind == "U":
        return raw.values
    try:
        return np.char.decode(raw.values, "utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{raw.where}: has bytes that are not UTF-8; save strings") from None


def _flat(raw: Raw) -> _Labels:
    """One label per image from a column, an array, or one-hot rows."""
    values, where = raw.values, raw.where
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "buif":
        return _Labels(_from_one_hot(values, where), where, values.shape[1])
    if values.ndim != 1:
        raise DataError(f"{where}: has shape {values.shape}; use one label per image, (n,)")
    match values.dtype.kind:
        case "i" | "u":
            return _Labels(values, where)
        case "b":
            return _Labels(values.astype(np.int64), where)
        case "f":
            return _Labels(_integral(values, where), where)
        case "U" | "S":
            return _Labels(_integers_if_all(_text_values(Raw(values, where))), where)
        case _:
            raise DataError(f"{where}: has dtype {values.dtype}; use integers or strings")


def _from_one_hot(values: Array, where: str) -> NDArray[np.int64]:
    wrong = ~(((values == 0) | (values == 1)).all(axis=1) & (values.sum(axis=1) == 1))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(
            f"{where}: has shape {values.shape}, and row {at} is not one-hot; use one class per "
            "image"
        )
    return np.asarray(values.argmax(axis=1), np.int64)


def _integral(values: Array, where: str) -> NDArray[np.int64]:
    wrong = values != np.round(values)  # true of NaN
    if (wrong := wrong | ~np.isfinite(values)).any():
        at = int(np.argmax(wrong))
        raise DataError(
            f"{where}: label {values[at]:g} of image {at} is not an integer; correct it"
        )
    return np.asarray(values, np.int64)


def _integers_if_all(texts: Array) -> Array:
    """Integers, if all strings are written like them."""
    number = all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in np.unique(texts))
    return texts.astype(np.int64) if number else texts
