"""Subsets, imbalance and label noise of seeds that have training images of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.data.splits import RandomSplit, divide_at_random, least_of_each, size_of_validation
from cnnbench.errors import DataError
from cnnbench.spec.experiment import DatasetSpec

SIZES = (40, 31, 22, 13)
DIGEST = "sha256:7f5044aa7976ec2ac3f9f4501d20cee3e571f617964aa6d0f9953edf896d6dfd"
SPLITS: list[dict[str, Any]] = [{"validation": 0.2, "by_seed": True}, {"folds": 5}]


def load(path: Path, **keys: Any) -> Dataset:
    """Images with one pixel each, whose value is their number in the pool."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), SIZES))
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None]
    test, classes = images[:4] + 200, np.arange(4)
    np.savez(path / "a.npz", x_train=images, y_train=labels, x_test=test, y_test=classes)
    own = {"arrays": str(path / "a.npz"), "value_range": [0, 255], **keys}
    return dataset_of(DatasetSpec.model_validate(own), None, lambda _: None)


def numbers(images: Any) -> list[int]:
    return np.asarray(images).reshape(-1).tolist()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    "wanted",
    [
        {"subset": 20},
        {"subset": 0.5, "imbalance": 3, "label_noise": 0.3},
        {"subset": {"per_class": 6}, "label_noise": {"rate": 0.5, "kind": "pair"}},
        {"subset": {"per_class": {"1": 3}}, "imbalance": {"ratio": 2, "kind": "step"}},
        {"imbalance": {"ratio": 5, "order": [3, 2, 1, 0]}, "label_noise": 0.2},
        {"train_examples": 30, "label_noise": {"rate": 0.4, "to": {"0": 1}}},
    ],
)
def test_each_seed_draws_from_its_own_training_images(
    tmp_path: Path, split: dict[str, Any], wanted: dict[str, Any]
) -> None:
    plain, found = load(tmp_path, split=split), load(tmp_path, split=split, **wanted)
    true = np.zeros(256, np.int32)
    true[plain.pool.images.reshape(-1)] = plain.pool.labels  # type: ignore[union-attr]
    drawn: list[Any] = []
    for seed in range(12):
        one, all_ = found.of_seed(seed), plain.of_seed(seed)
        assert len(one.train) == len(found.train)
        assert set(numbers(one.train.images)) <= set(numbers(all_.train.images))
        assert numbers(one.validation.images) == numbers(all_.validation.images)
        assert (one.validation.labels == true[numbers(one.validation.images)]).all()
        assert numbers(one.test.images) == numbers(plain.test.images)
        wrong = np.count_nonzero(one.train.labels != true[numbers(one.train.images)])
        assert (wrong > 0) == ("label_noise" in wanted)
        labels = found.labels(seed)
        every = numbers(np.concatenate([part.images for part in found.stored]))
        rows = found.rows(seed)
        assert (labels[rows.train] == one.train.labels).all()
        assert [every[row] for row in rows.train] == numbers(one.train.images)
        others = np.delete(np.arange(len(labels) - 4), rows.train)
        assert (labels[others] == true[[every[row] for row in others]]).all()
        drawn.append((numbers(one.train.images), one.train.labels.tolist()))
    again = load(tmp_path, split=split, **wanted)
    assert again.digest == found.digest != plain.digest
    own = [again.of_seed(seed).train for seed in reversed(range(12))]
    assert [(numbers(o.images), o.labels.tolist()) for o in reversed(own)] == drawn
    assert len({str(each) for each in drawn}) == 12
    if "imbalance" in wanted:
        sizes = {tuple(np.bincount(true[images], minlength=4)) for images, _ in drawn}
        assert len(sizes) == 1


def raw(count: int, *entropy: int) -> NDArray[np.uint64]:
    return np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(count)


@pytest.mark.parametrize("split", SPLITS)
def test_draws_are_those_of_their_definition(tmp_path: Path, split: dict[str, Any]) -> None:
    """In plain loops: of each class, the images with the smallest random numbers."""
    wanted = {"subset": {"per_class": 8, "seed": 5}, "label_noise": {"rate": 0.25, "seed": 7}}
    plain, found = load(tmp_path, split=split), load(tmp_path, split=split, **wanted)
    for seed in (0, 1, 9):
        given = plain.of_seed(seed).train
        images, labels = numbers(given.images), given.labels.tolist()
        keys = raw(len(labels), 0, 5, seed + 1).tolist()
        kept: list[int] = []
        for label in range(4):
            own = [i for i, each in enumerate(labels) if each == label]
            kept += sorted(own, key=lambda i: keys[i])[:8]
        kept.sort()
        want = [labels[i] for i in kept]
        keys, steps = raw(32, 3, 7, seed + 1).tolist(), raw(32, 4, 7, seed + 1).tolist()
        for label in range(4):
            own = [i for i, k in enumerate(kept) if labels[k] == label]
            for i in sorted(own, key=lambda i: keys[i])[:2]:
                want[i] = (label + 1 + ((steps[i] >> 32) * 3 >> 32)) % 4
        one = found.of_seed(seed).train
        assert numbers(one.images) == [images[i] for i in kept]
        assert one.labels.tolist() == want


@pytest.mark.parametrize("total", [60, 61, 64])
@pytest.mark.parametrize("split", [RandomSplit(0.3, by_seed=True), RandomSplit(folds=4)])
def test_no_seed_has_fewer_images_of_a_class(total: int, split: RandomSplit) -> None:
    rng = np.random.default_rng(total)
    labels = rng.choice(5, total, p=[0.4, 0.3, 0.2, 0.07, 0.03]).astype(np.int32)
    number = size_of_validation(split, total)
    counts = [
        np.bincount(labels[divide_at_random(labels, split, number, seed)[0]], minlength=5)
        for seed in range(300)
    ]
    least = least_of_each(labels, split, number)
    found = np.min(counts, axis=0)[: len(least)]
    assert (least <= found).all()
    assert (found - least <= (0 if split.folds is None or total % 4 == 0 else 1)).all()


def test_what_is_changed_is_said_for_each_seed(tmp_path: Path) -> None:
    wanted = {"classes": [0, 1, 2], "subset": {"per_class": 10}, "imbalance": 5, "label_noise": 0.2}
    found = load(tmp_path, split={"folds": 5}, **wanted)
    assert found.changes == (
        "classes 0, 1 and 2",
        "subset of 10 per class: 30 of 74 training images, for each seed",
        "long-tailed, ratio 5: 16 of 30 training images, 10 to 2 per class, for each seed",
        "label noise 20%, symmetric, for each seed",
    )


def test_weights_of_classes_are_those_of_the_images_that_every_seed_has(tmp_path: Path) -> None:
    wanted = {"imbalance": 5, "label_noise": 0.5}
    found = load(tmp_path, split={"validation": 0.2, "by_seed": True}, **wanted)
    plain = load(tmp_path, split={"validation": 0.2, "by_seed": True})
    assert plain.pool is not None
    assert np.bincount(plain.typical_labels).tolist() == np.bincount(plain.pool.labels).tolist()
    clean = load(tmp_path, split={"validation": 0.2, "by_seed": True}, imbalance=5)
    sizes = np.bincount(clean.of_seed(3).train.labels).tolist()
    assert np.bincount(found.typical_labels).tolist() == sizes
    assert sizes[0] > 4 * sizes[3] > 0


def test_more_images_than_every_seed_has(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, split={"folds": 5}, subset={"per_class": 11})
    assert str(caught.value) == (
        "dataset 'a.npz': subset.per_class: 11 exceeds the 9 training images of class '3'; use at"
        " most 9"
    )


def test_digests_of_splits_without_draws_do_not_change(tmp_path: Path) -> None:
    """Runs on them are found again."""
    found = load(tmp_path, split={"folds": 5})
    assert found.digest == DIGEST
