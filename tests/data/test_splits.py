"""Random splits: scikit-learn's properties, sizes, and messages."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold, StratifiedShuffleSplit

from cnnbench.data.dataset import Dataset, load_dataset
from cnnbench.data.splits import (
    RandomSplit,
    divide_at_random,
    require_divisible,
    size_of_validation,
)
from cnnbench.errors import DataError

Labels = NDArray[Any]


def halves(labels: Labels, split: RandomSplit, seed: int = 0) -> tuple[Labels, Labels]:
    return divide_at_random(labels, split, size_of_validation(split, len(labels)), seed)


@st.composite
def many_labels(draw: Any) -> Labels:
    """Labels of 2 to 4 classes with 5 to 40 images each, in any order."""
    sizes = draw(st.lists(st.integers(5, 40), min_size=2, max_size=4))
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


@given(many_labels(), st.integers(2, 5), st.integers(0, 3))
def test_folds_have_the_sizes_of_scikit_learns(labels: Labels, folds: int, seed: int) -> None:
    split = RandomSplit(folds=folds, seed=seed)
    found = [halves(labels, split, number)[1] for number in range(folds)]
    oracle = StratifiedKFold(folds, shuffle=True, random_state=seed)
    wanted = [validation for _, validation in oracle.split(labels, labels)]
    assert sorted(np.concatenate(found)) == list(range(len(labels)))
    counts, others = (
        np.array([np.bincount(labels[each], minlength=10) for each in parts])
        for parts in (found, wanted)
    )
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.array_equal(np.sort(counts, axis=0), np.sort(others, axis=0))
    assert sorted(counts.sum(axis=1)) == sorted(others.sum(axis=1))


@given(many_labels(), st.integers(2, 5), st.integers(0, 20))
def test_training_sets_of_folds_are_the_other_folds(labels: Labels, folds: int, seed: int) -> None:
    train, validation = halves(labels, RandomSplit(folds=folds), seed)
    assert not set(train) & set(validation)
    assert len(train) == len(labels) - -(-len(labels) // folds)
    assert len(labels) - len(train) - len(validation) in {0, 1}


def test_folds_without_classes_have_the_sizes_of_scikit_learns() -> None:
    labels = np.zeros(23, int)
    found = [len(halves(labels, RandomSplit(folds=4, stratified=False), s)[1]) for s in range(4)]
    assert found == [len(validation) for _, validation in KFold(4).split(labels)]


def test_seeds_repeat_the_cross_validation_with_other_folds() -> None:
    labels = np.arange(40) % 4
    folds = [frozenset(halves(labels, RandomSplit(folds=5), s)[1].tolist()) for s in range(10)]
    assert len(set(folds)) == 10
    for repeat in (folds[:5], folds[5:]):
        assert frozenset.union(*repeat) == set(range(40))
        assert all(a.isdisjoint(b) for a, b in combinations(repeat, 2))


@given(many_labels(), st.floats(0.25, 0.75), st.integers(0, 5))
def test_a_stratified_split_has_scikit_learns_class_counts(
    labels: Labels, fraction: float, seed: int
) -> None:
    split = RandomSplit(fraction, by_seed=True)
    train, validation = halves(labels, split, seed)
    number = len(validation)
    assert number == int(fraction * len(labels) + 0.5)
    assert sorted(np.r_[train, validation]) == list(range(len(labels)))
    exact = fraction * np.bincount(labels)
    assert np.abs(np.bincount(labels[validation], minlength=len(exact)) - exact).max() < 1.5
    oracle = StratifiedShuffleSplit(1, test_size=number, random_state=seed)
    _, wanted = next(oracle.split(labels, labels))
    pairs = [np.bincount(labels[each], minlength=10) for each in (validation, wanted)]
    assert np.abs(pairs[0] - pairs[1]).max() <= 1  # ties are broken at random there


def test_a_split_depends_on_the_seed_only_by_seed() -> None:
    labels = np.arange(100) % 10
    same, other = RandomSplit(0.2), RandomSplit(0.2, by_seed=True)
    assert np.array_equal(halves(labels, same, 1)[1], halves(labels, same, 2)[1])
    assert not np.array_equal(halves(labels, other, 1)[1], halves(labels, other, 2)[1])
    assert not np.array_equal(halves(labels, same)[1], halves(labels, RandomSplit(0.2, seed=1))[1])


def test_every_class_keeps_a_training_image() -> None:
    labels = np.array([0] * 8 + [1, 2])
    for seed in range(20):
        train, validation = halves(labels, RandomSplit(0.5, by_seed=True), seed)
        assert set(labels[train]) == {0, 1, 2}
        assert len(validation) == 5


def test_labels_that_are_no_classes_are_split_without_them() -> None:
    targets = np.linspace(0, 1, 30)
    for labels in (targets, np.stack([targets > 0.5, targets > 0.7], 1)):
        train, validation = halves(labels, RandomSplit(0.2))
        assert sorted(np.r_[train, validation]) == list(range(30))


# Datasets.


def loaded(**options: Any) -> Dataset:
    return load_dataset("mnist_5k", notify=pytest.fail, **options)


def test_a_split_of_a_named_dataset() -> None:
    own, plain = loaded(), loaded(split=RandomSplit(0.2))
    assert (len(plain.train), len(plain.validation), len(plain.test)) == (3_600, 900, 500)
    assert plain.pool is None
    assert np.bincount(plain.validation.labels).tolist() == [90] * 10
    assert np.array_equal(plain.test.images, own.test.images)
    every = np.concatenate([own.train.images, own.validation.images])
    parts = np.concatenate([plain.train.images, plain.validation.images])
    assert sorted(map(bytes, every)) == sorted(map(bytes, parts))
    assert plain.of_seed(3) is plain
    assert plain.rows(0).train.tolist() == list(range(3_600))


@pytest.mark.parametrize("split", [RandomSplit(0.2, by_seed=True), RandomSplit(folds=7)])
def test_each_seed_has_its_own_images(split: RandomSplit) -> None:
    dataset, images = loaded(split=split), {}
    every = np.concatenate([part.images for part in dataset.stored])
    for seed in range(3):
        own, rows = dataset.of_seed(seed), dataset.rows(seed)
        for name in ("train", "validation", "test"):
            assert np.array_equal(getattr(own, name).images, every[getattr(rows, name)])
        assert len(own.train) == len(dataset.train)
        assert len(dataset.validation) - len(own.validation) in {0, 1}
        found = {bytes(image) for image in own.validation.images}
        assert found.isdisjoint(map(bytes, own.train.images))
        images[seed] = found
    assert images[0] != images[1] != images[2]
    assert np.array_equal(dataset.of_seed(0).test.images, loaded().test.images)


def test_seed_zero_has_the_split_of_all_seeds() -> None:
    fixed, own = loaded(split=RandomSplit(0.1)), loaded(split=RandomSplit(0.1, by_seed=True))
    assert np.array_equal(fixed.train.images, own.of_seed(0).train.images)


def test_train_examples_are_the_first_of_each_seed() -> None:
    few = loaded(split=RandomSplit(0.1, by_seed=True), train_examples=100)
    all_ = loaded(split=RandomSplit(0.1, by_seed=True))
    assert len(few.train) == len(few.rows(1).train) == 100
    assert np.array_equal(few.of_seed(1).train.images, all_.of_seed(1).train.images[:100])
    assert len(few.of_seed(1).validation) == 450


def test_digests_tell_splits_apart() -> None:
    splits = [
        None,
        RandomSplit(0.2),
        RandomSplit(0.2, seed=1),
        RandomSplit(0.2, stratified=False),
        RandomSplit(0.2, by_seed=True),
        RandomSplit(0.1, by_seed=True),
        RandomSplit(folds=5),
        RandomSplit(folds=6),
        RandomSplit(folds=5, seed=1),
    ]
    digests = [loaded(split=split).digest for split in splits]
    assert len(set(digests)) == len(splits)
    assert loaded(split=splits[-1]).digest == digests[-1]


@pytest.mark.parametrize(
    ("split", "number", "message"),
    [
        (
            RandomSplit(folds=9),
            1,
            "dataset 'x': split.folds: 9 folds are too many for 8 training images; use at most 8",
        ),
        (
            RandomSplit(0.01),
            0,
            "dataset 'x': split.validation: 0.01 of 8 training images leaves none for validation;"
            " use 0.12 to 0.875",
        ),
        (
            RandomSplit(0.99),
            8,
            "dataset 'x': split.validation: 0.99 of 8 training images leaves none for training; use"
            " 0.12 to 0.875",
        ),
    ],
)
def test_splits_that_leave_nothing(split: RandomSplit, number: int, message: str) -> None:
    with pytest.raises(DataError) as caught:
        require_divisible("x", np.arange(8) % 2, split, number, pytest.fail)
    assert str(caught.value) == message


def test_a_class_smaller_than_the_number_of_folds() -> None:
    notes: list[str] = []
    labels = np.array([0] * 8 + [1] * 3)
    require_divisible("x", labels, RandomSplit(folds=5), 3, notes.append)
    assert notes == [
        "The smallest class of 'x' has 3 images, fewer than the 5 folds, so that some folds have"
        " none of it."
    ]
