"""Subsets, imbalance and label noise, against published numbers, NumPy and SciPy."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedShuffleSplit

from cnnbench.data.adjustments import Adjustments, Imbalance, LabelNoise, Subset
from cnnbench.data.catalog import DatasetInfo, describe
from cnnbench.data.distortions import (
    class_sizes,
    distorted,
    imbalanced_indices,
    noisy_labels,
    stratified_order,
    subset_indices,
    with_classes,
)
from cnnbench.errors import DataError

CIFAR10 = describe("cifar10")
BALANCED = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.int32), 5_000))


def info(num_classes: int, names: tuple[str, ...] = ()) -> DatasetInfo:
    return DatasetInfo("pics", (8, 8, 1), num_classes, None, None, "", names)


def some_labels(sizes: list[int], seed: int) -> NDArray[np.int32]:
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return np.random.default_rng(seed).permutation(labels)


SIZES = st.lists(st.integers(1, 40), min_size=2, max_size=6)
SEEDS = st.integers(0, 2**32 - 1)


@given(sizes=SIZES, seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_subsets_of_every_size_are_nested_and_have_the_class_mix(
    sizes: list[int], seed: int
) -> None:
    labels = some_labels(sizes, seed)
    total, before = len(labels), set[int]()
    for number in range(1, total + 1):
        chosen = subset_indices(labels, info(len(sizes)), Subset(number, seed=seed))
        assert len(chosen) == number
        assert (np.diff(chosen) > 0).all()
        assert before < set(chosen.tolist())
        before = set(chosen.tolist())
        found = np.bincount(labels[chosen], minlength=len(sizes))
        # Some share of all classes, each rounded up or down:
        assert ((found - 1) / sizes).max() < ((found + 1) / sizes).min()
    assert before == set(range(total))


def test_a_stratified_subset_has_the_class_counts_of_scikit_learn() -> None:
    labels = some_labels([500, 300, 150, 50], 0)
    for number in (20, 100, 500):
        split = StratifiedShuffleSplit(1, train_size=number, random_state=0)
        theirs = np.bincount(labels[next(iter(split.split(labels, labels)))[0]])
        ours = labels[subset_indices(labels, info(4), Subset(number))]
        assert np.bincount(ours).tolist() == theirs.tolist()


def test_a_share_of_the_images_is_rounded_half_up_and_never_empty() -> None:
    labels = some_labels([5, 5], 0)
    sizes = [
        len(subset_indices(labels, info(2), Subset(share))) for share in (0.01, 0.25, 0.5, 1.0)
    ]
    assert sizes == [1, 3, 5, 10]


def test_a_subset_that_is_not_stratified_is_uniform_over_images() -> None:
    labels = some_labels([90, 10], 0)
    counts = np.zeros(100)
    for seed in range(400):
        wanted = Subset(10, stratified=False, seed=seed)
        counts[subset_indices(labels, info(2), wanted)] += 1
    assert stats.chisquare(counts).pvalue > 1e-3
    rare = [
        int((labels[subset_indices(labels, info(2), Subset(10, stratified=False, seed=s))]).sum())
        for s in range(500)
    ]
    assert np.var(rare) == pytest.approx(stats.hypergeom(100, 10, 10).var(), rel=0.2)


def test_a_stratified_subset_is_uniform_over_the_images_of_a_class() -> None:
    labels = some_labels([40, 20], 1)
    counts = np.zeros(60)
    for seed in range(400):
        counts[subset_indices(labels, info(2), Subset(15, seed=seed))] += 1
    assert counts[labels == 0].sum() == 400 * 10
    for label in (0, 1):
        assert stats.chisquare(counts[labels == label]).pvalue > 1e-3


def test_a_class_of_one_image_is_as_likely_as_its_share() -> None:
    labels = some_labels([16, 1, 1, 1, 1], 1)
    counts = sum(
        np.bincount(labels[subset_indices(labels, info(5), Subset(5, seed=seed))], minlength=5)
        for seed in range(400)
    )
    assert np.asarray(counts) / 400 == pytest.approx([4, 0.25, 0.25, 0.25, 0.25], abs=0.1)


def test_images_per_class() -> None:
    labels = some_labels([30, 20, 10], 0)
    few = subset_indices(labels, info(3), Subset(per_class=4))
    more = subset_indices(labels, info(3), Subset(per_class=10))
    assert np.bincount(labels[few]).tolist() == [4, 4, 4]
    assert set(few) < set(more)
    named = info(3, ("cat", "dog", "owl"))
    own = subset_indices(labels, named, Subset(per_class={"cat": 3, "owl": 1}))
    assert np.bincount(labels[own]).tolist() == [3, 20, 1]


def test_more_images_than_there_are() -> None:
    labels = some_labels([30, 20, 10], 0)
    with pytest.raises(DataError) as caught:
        subset_indices(labels, info(3), Subset(61))
    assert str(caught.value) == (
        "dataset 'pics': subset: 61 is out of range for 60 training images; use 1 to 60"
    )
    with pytest.raises(DataError) as caught:
        subset_indices(labels, info(3, ("cat", "dog", "owl")), Subset(per_class=11))
    assert str(caught.value) == (
        "dataset 'pics': subset.per_class: 11 exceeds the 10 training images of class 'owl'; use at"
        " most 10"
    )


def test_draws_never_change() -> None:
    """Results of experiments depend on them: a change needs a new kind, or a new key."""
    labels = np.arange(20, dtype=np.int32) % 4
    assert stratified_order(labels, 0)[:8].tolist() == [2, 8, 11, 13, 18, 0, 3, 1]
    assert imbalanced_indices(labels, info(4), Imbalance(5)).tolist() == [
        0,
        1,
        4,
        6,
        7,
        8,
        9,
        12,
        16,
    ]
    assert noisy_labels(labels, info(4), LabelNoise(0.4)).tolist() == [
        3,
        3,
        2,
        3,
        2,
        1,
        1,
        0,
        0,
        3,
        1,
        3,
        0,
        1,
        2,
        3,
        0,
        1,
        2,
        1,
    ]


def test_class_sizes_of_cifar_10_lt() -> None:
    """Cui et al. 2019, as in the lists of LDAM and its successors."""
    assert class_sizes([5000] * 10, 100, "long_tailed") == [
        *(5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    ]
    assert class_sizes([5000] * 10, 50, "long_tailed") == [
        *(5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100)
    ]
    assert class_sizes([5000] * 10, 10, "long_tailed") == [
        *(5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500)
    ]
    assert sum(class_sizes([500] * 100, 100, "long_tailed")) == 10_847  # CIFAR-100-LT
    assert class_sizes([5000] * 10, 10, "step") == [5000] * 5 + [500] * 5


@pytest.mark.parametrize("kind", ["long_tailed", "step"])
@given(sizes=SIZES, ratio=st.floats(1, 50))
@settings(max_examples=100, deadline=None)
def test_class_sizes_decrease_by_the_ratio(kind: str, sizes: list[int], ratio: float) -> None:
    found = class_sizes(sizes, ratio, kind)
    assert all(0 <= number <= most for number, most in zip(found, sizes, strict=True))
    assert all(one >= other for one, other in pairwise(found))
    count, largest = len(sizes), found[0]
    if kind == "step":
        wanted = [largest if i < count // 2 else largest / ratio for i in range(count)]
    else:  # img_max * imb_factor ** (cls_idx / (cls_num - 1)) in LDAM's imbalance_cifar.py
        wanted = [largest * (1 / ratio) ** (i / (count - 1)) for i in range(count)]
    assert found == [int(number + 1e-6) for number in wanted]


def test_imbalanced_images() -> None:
    found = imbalanced_indices(BALANCED, CIFAR10, Imbalance(100))
    counts = np.bincount(BALANCED[found])
    assert counts.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert (np.diff(found) > 0).all()
    milder = imbalanced_indices(BALANCED, CIFAR10, Imbalance(50))
    assert set(found.tolist()) < set(milder.tolist())
    other = imbalanced_indices(BALANCED, CIFAR10, Imbalance(100, seed=1))
    assert set(found.tolist()) != set(other.tolist())


def test_the_order_of_imbalanced_classes() -> None:
    order = tuple(reversed(CIFAR10.classes))
    found = imbalanced_indices(BALANCED, CIFAR10, Imbalance(10, "step", order))
    assert np.bincount(BALANCED[found]).tolist() == [500] * 5 + [5000] * 5
    mixed = (9, "cat", 0, 1, 2, 4, 5, 6, 7, 8)
    counts = np.bincount(
        BALANCED[imbalanced_indices(BALANCED, CIFAR10, Imbalance(10, order=mixed))]
    )
    assert counts.argsort()[::-1].tolist() == [9, 3, 0, 1, 2, 4, 5, 6, 7, 8]


def test_a_ratio_that_leaves_a_class_without_images() -> None:
    labels = some_labels([20, 20, 20], 0)
    with pytest.raises(DataError) as caught:
        imbalanced_indices(labels, info(3, ("cat", "dog", "owl")), Imbalance(21))
    assert str(caught.value) == (
        "dataset 'pics': imbalance: ratio 21 leaves no images of class 'owl'; use at most 20"
    )
    assert len(imbalanced_indices(labels, info(3), Imbalance(20))) == 20 + 4 + 1


@pytest.mark.parametrize("kind", ["symmetric", "pair"])
@given(sizes=SIZES, rate=st.floats(0, 1), seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_noise_changes_the_same_share_of_every_class(
    kind: str, sizes: list[int], rate: float, seed: int
) -> None:
    labels = some_labels(sizes, seed)
    noise = LabelNoise(rate, "pair" if kind == "pair" else None, seed=seed)
    found = noisy_labels(labels, info(len(sizes)), noise)
    table = confusion_matrix(labels, found, labels=range(len(sizes)))
    kept = np.diag(table)
    assert np.abs(table.sum(1) - kept - rate * table.sum(1)).max() <= 0.5 + 1e-6
    if kind == "pair":
        following = np.roll(np.diag(table.sum(1) - kept), 1, axis=1)
        assert (table == np.diag(kept) + following).all()
    assert found.dtype == np.int32


def test_symmetric_noise_is_uniform_over_the_other_classes() -> None:
    found = noisy_labels(BALANCED, CIFAR10, LabelNoise(0.5))
    table = confusion_matrix(BALANCED, found)
    assert np.diag(table).tolist() == [2500] * 10
    for label in range(10):
        others = np.delete(table[label], label)
        assert stats.chisquare(others).pvalue > 1e-3
    assert stats.chisquare(table[~np.eye(10, dtype=bool)]).pvalue > 1e-3


def test_noise_is_nested_and_independent_of_the_position_of_other_images() -> None:
    low = noisy_labels(BALANCED, CIFAR10, LabelNoise(0.1))
    high = noisy_labels(BALANCED, CIFAR10, LabelNoise(0.4))
    changed = low != BALANCED
    assert (low[changed] == high[changed]).all()
    assert (noisy_labels(BALANCED, CIFAR10, LabelNoise(0.1)) == low).all()
    other = noisy_labels(BALANCED, CIFAR10, LabelNoise(0.1, seed=1))
    both = np.count_nonzero(changed & (other != BALANCED))
    assert both == pytest.approx(0.1 * 0.1 * len(BALANCED), rel=0.2)


def test_changed_images_are_uniform_over_a_class() -> None:
    labels = some_labels([30, 30], 0)
    counts = np.zeros(60)
    for seed in range(400):
        counts += noisy_labels(labels, info(2), LabelNoise(0.2, seed=seed)) != labels
    assert stats.chisquare(counts).pvalue > 1e-3


def test_noise_between_named_classes() -> None:
    """The asymmetric noise of Patrini et al. 2017 on CIFAR-10."""
    to = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
    found = noisy_labels(BALANCED, CIFAR10, LabelNoise(0.4, to=dict(to)))
    wanted = np.diag([5000] * 10)
    for one, other in to.items():
        row, column = CIFAR10.classes.index(one), CIFAR10.classes.index(other)
        wanted[row, row], wanted[row, column] = 3000, 2000
    assert confusion_matrix(BALANCED, found).tolist() == wanted.tolist()


def test_classes_are_kept_or_merged_in_all_splits() -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 50), ("test", 20)):
        arrays[f"{split}_labels"] = rng.integers(0, 5, number, np.int32)
        arrays[f"{split}_images"] = rng.integers(0, 255, (number, 2, 2, 1), np.uint8)
    found = with_classes(arrays, {3: 0, 1: 1, 0: 1})
    assert found.keys() == arrays.keys()
    for split in ("train", "test"):
        old = arrays[f"{split}_labels"]
        kept = np.isin(old, [0, 1, 3])
        assert (found[f"{split}_images"] == arrays[f"{split}_images"][kept]).all()
        assert (found[f"{split}_labels"] == np.where(old[kept] == 3, 0, 1)).all()
        assert found[f"{split}_labels"].dtype == np.int32


def test_everything_at_once_and_what_is_said_about_it() -> None:
    wanted = Adjustments(
        ("cat", "dog", "horse"), Subset(900), Imbalance(10), LabelNoise(0.2, seed=3)
    )
    three = DatasetInfo("cifar10", (8, 8, 1), 3, None, None, "", ("cat", "dog", "horse"))
    found = distorted(BALANCED[BALANCED < 3], three, wanted)
    assert found.kept is not None
    true = BALANCED[BALANCED < 3][found.kept]
    assert np.bincount(true).tolist() == [300, 94, 30]
    assert np.count_nonzero(true != found.labels) == 60 + 19 + 6
    assert found.changes == (
        "classes cat, dog and horse",
        "subset of 900: 900 of 15,000 training images",
        "long-tailed, ratio 10: 424 of 900 training images, 300 to 30 per class",
        "label noise 20%, symmetric, seed 3: 85 of 424 training labels changed",
    )


def test_nothing_changes_without_adjustments() -> None:
    found = distorted(BALANCED, CIFAR10, Adjustments(label_noise=LabelNoise(0.0)))
    assert found.kept is None
    assert found.changes == ()
    assert (found.labels == BALANCED).all()


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (Subset(1_000), "subset of 1,000"),
        (Subset(0.125, seed=2), "subset of 12.5%, seed 2"),
        (Subset(1_000, stratified=False), "subset of 1,000, not stratified"),
        (Subset(per_class=50), "subset of 50 per class"),
        (Subset(per_class={"cat": 50, "dog": 5}), "subset of 50 of cat and 5 of dog"),
        (Imbalance(100), "long-tailed, ratio 100"),
        (Imbalance(2.5, "step", seed=1), "step imbalance, ratio 2.5, seed 1"),
        (LabelNoise(0.2), "label noise 20%, symmetric"),
        (LabelNoise(0.05, "pair"), "label noise 5%, pair"),
        (LabelNoise(0.4, to={"cat": "dog", "dog": 3}), "label noise 40%, cat to dog and dog to 3"),
    ],
)
def test_texts(setting: object, text: str) -> None:
    assert str(setting) == text
