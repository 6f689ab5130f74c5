"""Seeds that share training images: false alarms of cross-validation and of random splits.

Two classifiers with one feature each, which are equally good on average: each assigns an image to
the class with the nearer mean. Every set of images favors one of them by chance, and its seeds
divide the same set.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from benchmarks.calibration.tables import ALPHA, generator, rate, section, table
from cnnbench.data.splits import RandomSplit, divide_at_random, size_of_validation
from cnnbench.statistics.resampled import corrected_p

IMAGES = 200


class SeedSplits(NamedTuple):
    """A way to divide the images of each seed, and the number of seeds."""

    name: str
    split: RandomSplit
    seeds: int


SPLITS = (
    SeedSplits("`folds: 5`", RandomSplit(folds=5), 5),
    SeedSplits("`folds: 10`", RandomSplit(folds=10), 10),
    SeedSplits("`folds: 5`, 10 repeats", RandomSplit(folds=5), 50),
    SeedSplits("`validation: 0.1, by_seed: true`", RandomSplit(0.1, by_seed=True), 10),
    SeedSplits("`validation: 0.2, by_seed: true`", RandomSplit(0.2, by_seed=True), 10),
    SeedSplits("`validation: 0.2, by_seed: true`", RandomSplit(0.2, by_seed=True), 30),
)


def accuracy(x: Any, y: Any, train: Any, validation: Any) -> float:
    """Of a classifier with one feature."""
    means = [x[train][y[train] == kind].mean() for kind in (0, 1)]
    nearer = np.abs(x[validation] - means[1]) < np.abs(x[validation] - means[0])
    return float(np.mean(nearer == y[validation]))


def alarms(splits: SeedSplits, sets: int) -> tuple[int, int]:
    """Number of sets of images in which the classifiers seem to differ at the level of 5%.

    Returns:
      By the corrected resampled t-test, and by the t-test for independent values.
    """
    y, rng = np.arange(IMAGES) % 2, generator(f"overlap {splits.name} {splits.seeds}")
    number = size_of_validation(splits.split, len(y))
    parts = _parts(splits, number)
    found = [0, 0]
    for _ in range(sets):
        x = rng.normal(y, 1.0, (2, len(y)))
        one, other = ([accuracy(each, y, *part) for part in parts] for each in x)
        differences = [b - a for a, b in zip(one, other, strict=True)]
        for place, overlap in enumerate((number / (len(y) - number), 0.0)):
            found[place] += corrected_p(differences, overlap) <= ALPHA
    return found[0], found[1]


@lru_cache
def _parts(splits: SeedSplits, number: int) -> list[Any]:
    """The training and validation images of each seed."""
    y = np.arange(IMAGES) % 2
    return [divide_at_random(y, splits.split, number, seed) for seed in range(splits.seeds)]


@section("overlap")
def overlap(simulations: int) -> str:
    """False alarms of the corrected test, and of the t-test for independent values."""
    rows = []
    for splits in SPLITS:
        corrected, independent = alarms(splits, simulations)
        rates = rate(corrected, simulations), rate(independent, simulations)
        rows.append([splits.name, str(splits.seeds), *rates])
    return table(["Split", "Seeds", "corrected", "t-test for independent values"], rows)
