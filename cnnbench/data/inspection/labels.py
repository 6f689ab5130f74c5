"""Distributions of regression targets, and of several labels per image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 12


@dataclass(frozen=True, slots=True)
class TargetDistribution:
    """The values of a target in a split.

    Args:
      number: number of images.
      mean: their mean.
      std: their standard deviation.
      low: the smallest value.
      high: the largest value.
      histogram: images in `BINS` bins of equal width, the same bins in all splits.
    """

    number: int
    mean: float
    std: float
    low: float
    high: float
    histogram: tuple[int, ...]


def target_distributions(
    splits: Mapping[str, NDArray[np.float32]], target: int
) -> dict[str, TargetDistribution]:
    """Distribution of a target, by split; without splits that have no images.

    Args:
      splits: targets by split, (n, k).
      target: the column.

    >>> found = target_distributions({"train": np.array([[0.0], [1.0], [12.0]])}, 0)["train"]
    >>> found.histogram[:2], found.histogram[-1], found.high
    ((1, 1), 1, 12.0)
    """
    columns = {
        name: values[:, target].astype(np.float64) for name, values in splits.items() if len(values)
    }
    every = np.concatenate(list(columns.values()))
    reach: Any = (every.min(), every.max())
    return {
        name: TargetDistribution(
            len(values),
            float(values.mean()),
            float(values.std()),
            float(values.min()),
            float(values.max()),
            tuple(np.histogram(values, BINS, reach)[0].tolist()),
        )
        for name, values in columns.items()
    }


@dataclass(frozen=True, slots=True)
class LabelDistribution:
    """Labels of the images in a split.

    Args:
      number: number of images.
      counts: images with each label.
      without: images without a label.
      cardinality: mean number of labels of an image (Tsoumakas and Katakis 2007).
      most: largest number of labels of an image.
      pairs: pairs of labels that images have together, and their number, the most frequent first.
    """

    number: int
    counts: tuple[int, ...]
    without: int
    cardinality: float
    most: int
    pairs: tuple[tuple[int, int, int], ...]


def label_distribution(labels: NDArray[np.uint8]) -> LabelDistribution:
    """Labels of the images in a split.

    Args:
      labels: 1 for the labels of an image, else 0, (n, k).

    >>> found = label_distribution(np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1]], np.uint8))
    >>> found.counts, found.without, found.pairs
    ((2, 2, 1), 1, ((0, 1, 2), (0, 2, 1), (1, 2, 1)))
    """
    wide = labels.astype(np.int64)
    together, sizes = wide.T @ wide, wide.sum(axis=1)
    pairs = [(a, b, int(together[a, b])) for a, b in combinations(range(wide.shape[1]), 2)]
    return LabelDistribution(
        number=len(wide),
        counts=tuple(wide.sum(axis=0).tolist()),
        without=int((sizes == 0).sum()),
        cardinality=float(sizes.mean()) if len(sizes) else 0.0,
        most=int(sizes.max(initial=0)),
        pairs=tuple(sorted((pair for pair in pairs if pair[2]), key=lambda pair: -pair[2])),
    )


def extremes(targets: NDArray[np.float32], target: int, number: int) -> tuple[Sequence[int], ...]:
    """Indices of the images with the smallest and with the largest values of a target.

    Args:
      targets: (n, k).
      target: the column.
      number: of images each.

    >>> extremes(np.array([[3.0], [1.0], [2.0]]), 0, 2)
    ([1, 2], [0, 2])
    """
    order = np.argsort(targets[:, target], kind="stable")
    return order[:number].tolist(), order[::-1][:number].tolist()
