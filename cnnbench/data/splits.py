"""Splits of a dataset: by size, at random, at random for each seed, and for cross-validation.

A random split holds out validation images of the training set; test images are never divided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnbench.data.catalog import split_sizes
from cnnbench.errors import DataError, Notify
from cnnbench.system.arrays import NamedArrays

if TYPE_CHECKING:  # reading an experiment imports no NumPy
    import numpy as np
    from numpy.typing import NDArray

    _Indices = NDArray[np.int32]
    _Labels = NDArray[Any]

_STREAM = 20  # keeps these random numbers apart from those of `batches`, which have two seeds


@dataclass(frozen=True, slots=True)
class RandomSplit:
    """A random split of the training images into training and validation images.

    Args:
      validation: fraction of the images for validation; not used with `folds`.
      stratified: give both parts the same proportions of classes.
      seed: seed of the split.
      by_seed: another split for each seed of the run.
      folds: number of folds of a cross-validation, in which seed `s` validates on fold `s` modulo
        `folds`; None for none.
    """

    validation: float = 0.15
    stratified: bool = True
    seed: int = 0
    by_seed: bool = False
    folds: int | None = None

    @property
    def varies(self) -> bool:
        """True if the seeds of a run have different splits."""
        return self.by_seed or self.folds is not None

    def fold(self, seed: int) -> int | None:
        """The fold that a seed validates on, from 0; None without cross-validation.

        >>> [RandomSplit(folds=3).fold(seed) for seed in range(4)]
        [0, 1, 2, 0]
        """
        return None if self.folds is None else seed % self.folds

    @property
    def text(self) -> str:
        """Description in words.

        >>> RandomSplit(0.2, by_seed=True).text
        '20% of the training images, stratified, another split for each seed'
        >>> RandomSplit(folds=5, stratified=False).text
        '5-fold cross-validation'
        """
        kind = ", stratified" if self.stratified else ""
        if self.folds is not None:
            return f"{self.folds}-fold cross-validation{kind}"
        each = ", another split for each seed" if self.by_seed else ", at random"
        return f"{100 * self.validation:g}% of the training images{kind}{each}"


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Split:
    """Images with labels.

    Args:
      images: uint8, shape ``(n, height, width, channels)``; in a streamed dataset,
        `StreamedImages`.
      labels: classes, int32, shape ``(n,)``; targets, float32, shape ``(n, k)``; or for several
        labels per image 0 or 1, uint8, shape ``(n, k)``.
    """

    images: "NDArray[np.uint8]"
    labels: "_Labels"

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, num: int) -> "Split":
        """The first `num` images."""
        return Split(self.images[:num], self.labels[:num])

    def last(self, num: int) -> "Split":
        """The last `num` images."""
        return Split(self.images[len(self) - num :], self.labels[len(self) - num :])

    def at(self, indices: "_Indices") -> "Split":
        """The images at these indices, (n,)."""
        return Split(self.images[indices], self.labels[indices])


class Rows(NamedTuple):
    """Indices of the images of each split among all images of a dataset, (n,) each."""

    train: "_Indices"
    validation: "_Indices"
    test: "_Indices"


def size_of_validation(split: RandomSplit, pool: int, every: int | None = None) -> int:
    """Number of images held out for validation; the largest fold if folds differ.

    Args:
      split: the split.
      pool: number of images that are divided.
      every: number of images that the fraction refers to; `pool` if None.

    >>> size_of_validation(RandomSplit(0.1), 60_000), size_of_validation(RandomSplit(folds=7), 100)
    (6000, 15)
    """
    if split.folds is not None:
        return -(-pool // split.folds)
    return int((pool if every is None else every) * split.validation + 0.5)


def divide_at_random(
    labels: "_Labels", split: RandomSplit, number: int, seed: int = 0
) -> "tuple[_Indices, _Indices]":
    """Indices of training and validation images, each in random order.

    Folds are those of scikit-learn's `StratifiedKFold` up to the random order: they are disjoint,
    contain all images, and differ by at most one image in total and in each class. Where they
    differ in size, training sets leave out one image, so that all have the same size. Without
    folds, numbers of images per class are rounded by the largest remainder.

    Args:
      labels: labels of the images, (n,); integers are classes.
      split: the split.
      number: size of the validation set, from `size_of_validation`.
      seed: seed of the run.

    >>> import numpy as np
    >>> train, validation = divide_at_random(np.array([0, 0, 1, 1]), RandomSplit(0.5), 2)
    >>> sorted(np.array([0, 0, 1, 1])[validation].tolist())
    [0, 1]
    """
    import numpy as np

    round_ = seed // split.folds if split.folds else seed if split.by_seed else 0
    order = np.random.default_rng([split.seed, round_, _STREAM]).permutation(len(labels))
    kinds = _classes_of(labels) if split.stratified else np.zeros(len(labels), np.intp)
    by_class = order[np.argsort(kinds[order], kind="stable")]
    if split.folds is not None:
        held = np.arange(len(labels)) % split.folds == split.fold(seed)
    else:
        held = _first_of_each(np.bincount(kinds), number)
    is_held = np.zeros(len(labels), bool)
    is_held[by_class[held]] = True
    train, validation = order[~is_held[order]], order[is_held[order]]
    return train[: len(labels) - number].astype(np.int32), validation.astype(np.int32)


def _classes_of(labels: "_Labels") -> "NDArray[np.intp]":
    """Classes numbered from 0 without gaps; one for all labels that are no classes."""
    import numpy as np

    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        return np.zeros(len(labels), np.intp)
    return np.unique(labels, return_inverse=True)[1].astype(np.intp)


def _first_of_each(sizes: "NDArray[np.intp]", number: int) -> "NDArray[np.bool_]":
    """True for the first images of each class, of images sorted by class."""
    import numpy as np

    ranks = np.concatenate([np.arange(size) for size in sizes])
    return np.asarray(ranks < np.repeat(_quotas(sizes, number), sizes))


def _quotas(sizes: "NDArray[np.intp]", number: int) -> "NDArray[np.intp]":
    """A number of images divided among classes in proportion, by the largest remainder.

    At least one image of each class is left.
    """
    import numpy as np

    quotas, rest = np.divmod(number * sizes, sizes.sum())
    order = np.argsort(-rest, kind="stable")
    free = order[(quotas < sizes - 1)[order]]
    quotas[free[: number - quotas.sum()]] += 1
    return quotas


def least_of_each(labels: "_Labels", split: RandomSplit, number: int) -> "NDArray[np.intp]":
    """Number of training images of each class that every seed has, in a stratified split.

    Args:
      labels: labels of the images, (n,), from 0.
      split: the split.
      number: size of the validation set, from `size_of_validation`.

    >>> import numpy as np
    >>> least_of_each(np.array([0, 0, 0, 1, 1, 1, 1]), RandomSplit(folds=3), 3)  # of 2, 3 or 4
    array([1, 1])
    """
    import numpy as np

    kinds = _classes_of(labels)
    sizes = np.bincount(kinds)
    if split.folds is None:
        held, left_out = _quotas(sizes, number), 0
    else:
        by_class = np.sort(kinds)
        folds = np.arange(len(labels)) % split.folds
        counts = [
            np.bincount(by_class[folds == f], minlength=len(sizes)) for f in range(split.folds)
        ]
        held, left_out = np.max(counts, axis=0), int(len(labels) % split.folds > 0)
    least = np.zeros(int(labels.max(initial=-1)) + 1, np.intp)
    least[np.unique(labels)] = np.maximum(sizes - held - left_out, 0)
    return least


def require_divisible(
    name: str, labels: "_Labels", split: RandomSplit, number: int, notify: Notify
) -> None:
    """Checks that a split leaves images for training and validation.

    Args:
      name: name of the dataset.
      labels: labels of the images.
      split: the split.
      number: size of the validation set.
      notify: called if a class has fewer images than there are folds.

    Raises:
      DataError: it does not.
    """
    import numpy as np

    where, have = f"dataset '{name}': split", f"{len(labels):,} training images"
    if split.folds is not None:
        if split.folds > len(labels):
            message = f"{where}.folds: {split.folds} folds are too many for {have}"
            raise DataError(f"{message}; use at most {len(labels)}")
        counts = np.bincount(_classes_of(labels))
        if split.stratified and counts.min() < split.folds:
            notify(
                f"The smallest class of '{name}' has {counts.min()} images, fewer than the"
                f" {split.folds} folds, so that some folds have none of it."
            )
    elif number >= len(labels) or (number < 1 and split.validation):
        least, most = 1 / len(labels), 1 - 1 / len(labels)
        kind = "validation" if number < 1 else "training"
        message = f"{where}.validation: {split.validation:g} of {have} leaves none for {kind}"
        raise DataError(f"{message}; use {least:.2g} to {most:.4g}")


def first_test_images(name: str, arrays: NamedArrays, splits: Mapping[str, int]) -> Split:
    """The first test images, as many as are wanted.

    Raises:
      DataError: there are fewer.
    """
    test = split_of(arrays, "test")
    number = splits.get("test", len(test))
    require_within(f"dataset '{name}': splits.test", number, len(test))
    return test.first(number)


def divide_by_size(
    name: str, arrays: NamedArrays, splits: Mapping[str, int]
) -> tuple[Split, Split, Split]:
    """The first images for training, the last ones of the training set for validation.

    Args:
      name: name of the dataset.
      arrays: images and labels of ``train``, ``test`` and perhaps ``validation``.
      splits: numbers of images; for defaults, see `catalog.split_sizes`.

    Raises:
      DataError: there are fewer images.
    """
    pool = split_of(arrays, "train")
    own = "validation_labels" in arrays
    held_out = split_of(arrays, "validation") if own else pool
    num_train, num_validation = split_sizes(splits, len(pool), len(held_out) if own else None)
    where = f"dataset '{name}': splits"
    if "train" in splits or own:
        require_within(f"{where}.train", num_train, len(pool))
    if "validation" in splits or own:
        require_within(f"{where}.validation", num_validation, len(held_out), least=0)
    elif num_validation < 1:
        raise DataError(
            f"{where}.train: {num_train} images leave none of {len(pool)} for validation; use "
            f"validation: 0 to train without validation images, or train: {max(1, len(pool) - 1)} "
            "or less"
        )
    if num_train < 1:
        raise DataError(
            f"{where}.validation: {num_validation} images leave none of {len(pool)} for training; "
            f"use {len(pool) - 1} or less"
        )
    if not own and num_train + num_validation > len(pool):
        raise DataError(
            f"{where}: train {num_train} and validation {num_validation} overlap, with only "
            f"{len(pool)} training images; use sizes that add up to at most {len(pool)}"
        )
    return (
        pool.first(num_train),
        held_out.last(num_validation),
        first_test_images(name, arrays, splits),
    )


def split_of(arrays: NamedArrays, split: str) -> Split:
    """The images of one split among arrays such as ``train_images`` and ``train_labels``."""
    return Split(arrays[f"{split}_images"], arrays[f"{split}_labels"])


def require_within(where: str, num: int, available: int, least: int = 1) -> None:
    """Checks a number of images.

    Raises:
      DataError: it is smaller than `least`, or larger than the number available.
    """
    if not least <= num <= available:
        raise DataError(
            f"{where}: {num} is out of range for {available} images; use {least} to {available}"
        )


def joined(splits: Sequence[Split]) -> Split:
    """The images of several splits, one after another."""
    import numpy as np

    from cnnbench.data.streaming.images import concatenated

    images = concatenated([split.images for split in splits])
    return Split(images, np.concatenate([split.labels for split in splits]))
