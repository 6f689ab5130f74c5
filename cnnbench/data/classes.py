"""The classes of an experiment: all classes of its dataset, some of them, or merged ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cnnbench.data.catalog import DatasetInfo
from cnnbench.errors import DataError, did_you_mean, or_list, quoted

ClassRef = str | int  # a class by its name, or by its number
Classes = Sequence[ClassRef] | Mapping[str, Sequence[ClassRef]]
MOST_LISTED = 20  # names in a message


def label_of(ref: ClassRef, info: DatasetInfo) -> int | None:
    """The label of a class; None if the dataset has no such class.

    Numbers refer to labels unless names of classes are numbers, as those of digits.

    Args:
      ref: name or number of the class.
      info: the dataset.

    >>> from cnnbench.data.catalog import describe
    >>> label_of("cat", describe("cifar10")), label_of(3, describe("cifar10"))
    (3, 3)
    """
    text = str(ref)
    if text in info.classes:
        return info.classes.index(text)
    if not text.isdecimal() or any(name.isdecimal() for name in info.classes):
        return None
    return int(text) if int(text) < info.num_classes else None


def require_label(ref: ClassRef, info: DatasetInfo) -> int:
    """The label of a class.

    Raises:
      DataError: the dataset has no such class.
    """
    if (label := label_of(ref, info)) is None:
        message, remedy = unknown_class(ref, info)
        raise DataError(f"{message}; {remedy}")
    return label


def unknown_class(ref: ClassRef, info: DatasetInfo) -> tuple[str, str]:
    """What is wrong with a class that a dataset does not have, and what to write instead."""
    near = did_you_mean(str(ref), info.classes)
    numbers = f"a number from 0 to {info.num_classes - 1}"
    if any(name.isdecimal() for name in info.classes):
        numbers = ""
    few = 0 < len(info.classes) <= MOST_LISTED
    names = or_list(info.classes) if few else "one of its class names" if info.classes else ""
    remedy = or_list(filter(None, ("" if few else numbers, names)))
    return f"{info.name} has no class {quoted(ref)}{near}", f"use {remedy}"


def class_name(label: int, info: DatasetInfo) -> str:
    """Name of a class; its number if the dataset names none."""
    return info.classes[label] if info.classes else str(label)


def members(classes: Classes) -> list[tuple[ClassRef, ...]]:
    """The dataset's classes that make up each class of an experiment.

    >>> members(["cat", "dog"]), members({"pet": ["cat", "dog"]})
    ([('cat',), ('dog',)], [('cat', 'dog')])
    """
    groups = classes.values() if isinstance(classes, Mapping) else [(ref,) for ref in classes]
    return [tuple(group) for group in groups]


def narrowed(info: DatasetInfo, classes: Classes | None) -> DatasetInfo:
    """A dataset with the classes of an experiment, whose sizes are not known before reading it.

    Args:
      info: the dataset.
      classes: classes to keep, or classes to merge by the name of the merged class; None for all.

    >>> from cnnbench.data.catalog import describe
    >>> narrowed(describe("cifar10"), {"pet": [3, 5], "car": ["automobile"]}).classes
    ('pet', 'car')
    """
    if classes is None:
        return info
    return replace(
        info,
        num_classes=len(classes),
        classes=tuple(_names(info, classes)),
        num_train=None,
        num_test=None,
        num_validation=info.num_validation and None,  # none remain none
    )


def _names(info: DatasetInfo, classes: Classes) -> Iterator[str]:
    if isinstance(classes, Mapping):
        yield from classes
        return
    for ref in classes:
        label = label_of(ref, info)
        yield str(ref) if label is None else class_name(label, info)


def new_labels(info: DatasetInfo, classes: Classes) -> dict[int, int]:
    """Labels in the experiment by the labels of its dataset; those of other classes are missing.

    Args:
      info: the dataset, with all of its classes.
      classes: as in `narrowed`.

    Raises:
      DataError: the dataset has no such class, or a class is listed twice.

    >>> from cnnbench.data.catalog import describe
    >>> new_labels(describe("cifar10"), {"pet": ["dog", "cat"], "car": ["automobile"]})
    {5: 0, 3: 0, 1: 1}
    """
    found: dict[int, int] = {}
    for new, group in enumerate(members(classes)):
        for ref in group:
            label = require_label(ref, info)
            if label in found:
                message = f"{info.name}: class {quoted(ref)} is listed twice"
                raise DataError(f"{message}; list it once")
            found[label] = new
    return found
