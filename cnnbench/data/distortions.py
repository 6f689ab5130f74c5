"""Subsets, imbalance and label noise, drawn by a seed of their own.

Draws are nested: a smaller subset is part of a larger one with the same seed, and the labels
changed at a lower rate are part of those changed at a higher one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.adjustments import (
    Adjustments,
    Imbalance,
    LabelNoise,
    Subset,
    classes_text,
    subset_size,
)
from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.classes import class_name, new_labels, require_label
from cnnbench.errors import DataError
from cnnbench.system.arrays import NamedArrays

_Labels = NDArray[Any]  # int32, (n,)
_Indices = NDArray[np.intp]

_SUBSET, _OFFSET, _IMBALANCE, _NOISE, _WRONG = range(5)  # streams of random numbers
_ROUNDING = 1e-9  # 5000 * 100 ** -1 may be just below 50


def with_classes(arrays: NamedArrays, new: Mapping[int, int]) -> NamedArrays:
    """The images of some classes, with new labels.

    Args:
      arrays: images and labels of the splits, by ``SPLIT_images`` and ``SPLIT_labels``.
      new: new labels by the old ones; images with other labels are dropped.
    """
    table = np.full(max(new) + 1, -1, np.int32)
    table[list(new)] = list(new.values())
    found = dict(arrays)
    for key in (key for key in arrays if key.endswith("_labels")):
        old, images = arrays[key], key.removesuffix("labels") + "images"
        labels = np.where(old < len(table), table[np.minimum(old, len(table) - 1)], -1)
        kept = labels >= 0
        found |= {key: labels[kept].astype(np.int32), images: arrays[images][kept]}
    return found


def adjusted_classes(arrays: NamedArrays, info: DatasetInfo, classes: Any) -> NamedArrays:
    """The images of an experiment's classes, as `with_classes`.

    Raises:
      DataError: the dataset has no such class.
    """
    return (
        arrays
        if not classes or info.labels != "class"
        else with_classes(arrays, new_labels(info, classes))
    )


class Distorted(NamedTuple):
    """Training images and labels of an experiment.

    Args:
      kept: indices of the images, in ascending order; None for all.
      labels: their labels, (n,).
      changes: what was changed, a line each.
    """

    kept: _Indices | None
    labels: _Labels
    changes: tuple[str, ...]


class Draw(NamedTuple):
    """A draw from the training images of a seed, if each seed has its own.

    Args:
      seed: the seed of the run.
      least: number of images of each class that every seed has.
    """

    seed: int
    least: _Indices


def distorted(
    labels: _Labels, info: DatasetInfo, wanted: Adjustments, draw: Draw | None = None
) -> Distorted:
    """Takes a subset of the training images, makes their classes imbalanced, and adds label noise.

    Args:
      labels: true labels of the training images, (n,).
      info: the dataset, with the classes of the experiment.
      wanted: what to change.
      draw: the seed, if each has its own images; all seeds then have the same number of images.

    Raises:
      DataError: there are fewer images than requested, or no such class.
    """
    changes = [] if wanted.classes is None else [classes_text(wanted.classes)]
    kept: _Indices = np.arange(len(labels))
    if wanted.subset:
        kept = subset_indices(labels, info, wanted.subset, draw)
        number = f"{len(kept):,} of {len(labels):,} training images"
        changes.append(f"{wanted.subset}: {number}")
    if wanted.imbalance:
        left = draw and draw._replace(least=_least_left(draw.least, kept, labels, wanted.subset))
        chosen = imbalanced_indices(labels[kept], info, wanted.imbalance, left)
        sizes = np.bincount(labels[kept[chosen]])
        number = f"{len(chosen):,} of {len(kept):,} training images"
        changes.append(
            f"{wanted.imbalance}: {number}, {sizes.max():,} to {sizes.min():,} per class"
        )
        kept = kept[chosen]
    found = labels[kept]
    if wanted.label_noise and wanted.label_noise.rate:
        found = noisy_labels(found, info, wanted.label_noise, draw)
        changed = np.count_nonzero(found != labels[kept])
        number = f": {changed:,} of {len(found):,} training labels changed"
        changes.append(f"{wanted.label_noise}{'' if draw else number}")
    return Distorted(kept if len(kept) < len(labels) else None, found, tuple(changes))


def _least_left(
    least: _Indices, kept: _Indices, labels: _Labels, subset: Subset | None
) -> _Indices:
    """Number of images of each class that a subset of any seed's training images has at least."""
    if subset is None:
        return least
    if subset.per_class is not None:  # the same for all seeds
        return np.bincount(labels[kept], minlength=len(least))
    return least * len(kept) // len(labels)


def subset_indices(
    labels: _Labels, info: DatasetInfo, wanted: Subset, draw: Draw | None = None
) -> _Indices:
    """Indices of a random subset of the training images, in ascending order.

    Args:
      labels: true labels, (n,).
      info: the dataset, with the classes of the experiment.
      wanted: size of the subset.
      draw: as for `distorted`.

    Raises:
      DataError: there are fewer images than requested.
    """
    if wanted.per_class is not None:
        available = np.bincount(labels, minlength=info.num_classes) if draw is None else draw.least
        numbers = _numbers(available.tolist(), info, wanted.per_class)
        return first_of_classes(labels, numbers, _seeds(wanted.seed, draw), _SUBSET)
    total = len(labels)
    number = subset_size(wanted.size or 0, total)
    if number > total:
        raise DataError(
            f"dataset '{info.name}': subset: {number} is out of range for {total} training images;"
            f" use 1 to {total}"
        )
    has_classes = labels.ndim == 1  # not several labels or numbers
    kinds = labels if wanted.stratified and has_classes else np.zeros(total, np.int32)
    return np.sort(stratified_order(kinds, *_seeds(wanted.seed, draw))[:number])


def _seeds(seed: int, draw: Draw | None) -> tuple[int, ...]:
    """Seeds of the random numbers of a draw; zeros at the end would have no effect."""
    return (seed,) if draw is None else (seed, draw.seed + 1)


def stratified_order(labels: _Labels, *seeds: int) -> _Indices:
    """All indices in a random order whose first `n` have the proportions of the classes, for any n.

    Image r of the m images of a class is at (r + u) / m of the order, with a random offset u of the
    class (systematic sampling). So the first n images have a class's share of n, rounded up or
    down. The method of largest remainders would not be nested (the Alabama paradox).

    Args:
      labels: the class of each image, (n,).
      *seeds: of the random order.

    >>> labels = np.array([0, 0, 0, 0, 1, 1], np.int32)
    >>> np.bincount(labels[stratified_order(labels, 0)[:3]]).tolist()
    [2, 1]
    """
    keys, sizes = _random(len(labels), seeds, _SUBSET), np.bincount(labels)
    offsets = (_random(len(sizes), seeds, _OFFSET) >> np.uint64(11)) / 2**53
    return np.lexsort((keys, (_ranks(labels, keys) + offsets[labels]) / sizes[labels]))


def first_of_classes(
    labels: _Labels, numbers: Sequence[int], seeds: Sequence[int], stream: int
) -> _Indices:
    """Indices of the first images of each class in a random order, in ascending order.

    Args:
      labels: the class of each image, (n,).
      numbers: number of images by class.
      seeds: of the random order.
      stream: number of the random order with these seeds.
    """
    ranks = _ranks(labels, _random(len(labels), seeds, stream))
    return np.flatnonzero(ranks < np.asarray(numbers)[labels])


def class_sizes(available: Sequence[int], ratio: float, kind: str) -> list[int]:
    """Numbers of images of imbalanced classes, from the largest to the smallest.

    Long-tailed classes have ``n * ratio ** (-i / (classes - 1))`` images, rounded down (Cui et al.
    2019, Cao et al. 2019). With steps, the first half of the classes has n images and the rest,
    which has one more if their number is odd, ``n / ratio``. In both, n is the largest number for
    which no class has fewer images.

    Args:
      available: number of images of each class.
      ratio: size of the largest class relative to the smallest, at least 1.
      kind: ``long_tailed`` or ``step``.

    >>> class_sizes([5000] * 10, 100, "long_tailed")  # CIFAR-10-LT
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    >>> class_sizes([5000, 4000, 5000], 10, "step")
    [5000, 500, 500]
    """
    last = len(available) - 1
    if kind == "step":
        shares = [1.0 if i < len(available) // 2 else 1 / ratio for i in range(len(available))]
    else:
        shares = [ratio ** (-i / max(last, 1)) for i in range(len(available))]
    most = min(
        int(number / share + _ROUNDING) for number, share in zip(available, shares, strict=True)
    )
    return [int(most * share + _ROUNDING) for share in shares]


def imbalanced_indices(
    labels: _Labels, info: DatasetInfo, wanted: Imbalance, draw: Draw | None = None
) -> _Indices:
    """Indices of the training images of imbalanced classes, in ascending order.

    Args:
      labels: true labels, (n,).
      info: the dataset, with the classes of the experiment.
      wanted: ratio and kind.
      draw: as for `distorted`.

    Raises:
      DataError: the order is not of all classes, or a class would have no images.
    """
    order = list(range(info.num_classes))
    if wanted.order is not None:
        order = [require_label(ref, info) for ref in wanted.order]
    available = np.bincount(labels, minlength=info.num_classes) if draw is None else draw.least
    sizes = class_sizes(available[order].tolist(), wanted.ratio, wanted.kind)
    if min(sizes) < 1:
        raise DataError(
            f"dataset '{info.name}': imbalance: ratio {wanted.ratio:g} leaves no images of class"
            f" '{class_name(order[sizes.index(0)], info)}'; use at most {max(sizes)}"
        )
    numbers = np.zeros(info.num_classes, np.intp)
    numbers[order] = sizes
    return first_of_classes(labels, numbers.tolist(), _seeds(wanted.seed, draw), _IMBALANCE)


def noisy_labels(
    labels: _Labels, info: DatasetInfo, noise: LabelNoise, draw: Draw | None = None
) -> _Labels:
    """Labels of which a fraction is wrong: in each class, ``round(rate * n)`` labels are changed.

    Symmetric noise changes a label to one of the other classes, each with the same probability
    (Patrini et al. 2017); pair noise to the next class, the last to the first (Han et al. 2018).

    Args:
      labels: the true labels, (n,).
      info: the dataset, for the names of its classes.
      noise: rate and kind.
      draw: as for `distorted`.

    Raises:
      DataError: the dataset has no such class.
    """
    count = info.num_classes
    sizes = np.bincount(labels, minlength=count)
    numbers = [int(noise.rate * number + 0.5 + _ROUNDING) for number in sizes.tolist()]
    wrong = (np.arange(count) + 1) % count
    if noise.to is not None:
        pairs = {
            require_label(one, info): require_label(two, info) for one, two in noise.to.items()
        }
        numbers = [number if label in pairs else 0 for label, number in enumerate(numbers)]
        wrong[list(pairs)] = list(pairs.values())
    seeds = _seeds(noise.seed, draw)
    chosen = first_of_classes(labels, numbers, seeds, _NOISE)
    found = labels.copy()
    found[chosen] = wrong[labels[chosen]]
    if noise.to is None and noise.kind != "pair":
        steps = _below(count - 1, len(labels), seeds)
        found[chosen] = (labels[chosen] + 1 + steps[chosen]) % count
    return found


def _numbers(
    available: Sequence[int], info: DatasetInfo, per_class: int | Mapping[str, int]
) -> list[int]:
    """Number of images of each class in a subset; raises DataError if there are fewer."""
    if isinstance(per_class, int):
        numbers = [per_class] * info.num_classes
    else:
        wanted = {require_label(ref, info): number for ref, number in per_class.items()}
        numbers = [wanted.get(label, number) for label, number in enumerate(available)]
    for label, (number, most) in enumerate(zip(numbers, available, strict=True)):
        if number > most:
            raise DataError(
                f"dataset '{info.name}': subset.per_class: {number} exceeds the {most} training"
                f" images of class '{class_name(label, info)}'; use at most {most}"
            )
    return numbers


def _ranks(labels: _Labels, keys: NDArray[np.uint64]) -> _Indices:
    """Rank of each image among those of its class, in the order of the keys."""
    order = np.lexsort((keys, labels))
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels))])
    ranks = np.empty(len(labels), np.intp)
    ranks[order] = np.arange(len(labels)) - starts[labels[order]]
    return ranks


def _random(number: int, seeds: Sequence[int], stream: int) -> NDArray[np.uint64]:
    """Random 64-bit integers, of which the first do not depend on their number.

    The raw output of a bit generator is the only stream that NumPy guarantees not to change.
    """
    generator = np.random.PCG64(np.random.SeedSequence([stream, *seeds]))
    return np.asarray(generator.random_raw(number), np.uint64)


def _below(limit: int, number: int, seeds: Sequence[int]) -> NDArray[np.int64]:
    """Random integers from 0 to `limit` - 1, uniform up to a bias of limit / 2**32."""
    high = _random(number, seeds, _WRONG) >> np.uint64(32)
    return (high * np.uint64(limit) >> np.uint64(32)).astype(np.int64)
