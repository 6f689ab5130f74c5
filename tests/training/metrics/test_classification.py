"""Metrics of classifiers over a whole split, against scikit-learn and sums written out."""

import math
import warnings
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics

from cnnbench.nn.result import Result
from cnnbench.spec.experiment import Task
from cnnbench.training.losses import per_image_metric
from cnnbench.training.metrics.classification import (
    Classified,
    balanced_accuracy,
    calibration_bins,
    class_counts,
    expected_calibration_error,
    macro_f1,
    predictions_of,
)
from cnnbench.training.metrics.split import gathered_of

FORMULAS = (balanced_accuracy, macro_f1, expected_calibration_error)
NUMBERS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.floats(1 / 7, 1)), min_size=1, max_size=60
)
"""Label, predicted class and confidence of images; most draws leave out some of seven classes."""


def predictions(images: list[tuple[int, int, float]]) -> Classified:
    labels, classes, confidences = zip(*images, strict=True)
    return Classified(
        np.array(labels, np.int32), np.array(classes, np.int32), np.array(confidences, np.float32)
    )


@given(NUMBERS)
def test_class_metrics_are_those_of_scikit_learn(images: list[tuple[int, int, float]]) -> None:
    split = predictions(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes that are predicted, but no label
        want = metrics.balanced_accuracy_score(split.labels, split.classes)
    assert balanced_accuracy(split) == pytest.approx(want, abs=1e-15)
    want = metrics.f1_score(split.labels, split.classes, average="macro", zero_division=0.0)
    assert macro_f1(split) == pytest.approx(want, abs=1e-15)


@given(NUMBERS)
def test_calibration_error_is_that_of_exact_arithmetic(
    images: list[tuple[int, int, float]],
) -> None:
    split = predictions(images)
    bins: dict[int, list[Fraction]] = {}
    for label, guess, confidence in zip(*(each.tolist() for each in split), strict=True):
        number = math.ceil(Fraction(confidence) * 15)
        bins.setdefault(number, []).append(int(label == guess) - Fraction(confidence))
    want = sum(abs(sum(gaps, Fraction())) for gaps in bins.values()) / len(images)
    assert expected_calibration_error(split) == pytest.approx(float(want), abs=1e-12)
    found = calibration_bins(split)
    assert {n + 1: count for n, count in enumerate(found.images) if count} == {
        number: len(gaps) for number, gaps in bins.items()
    }


@given(NUMBERS, st.randoms(use_true_random=False))
def test_the_order_of_images_and_the_numbers_of_classes_do_not_matter(
    images: list[tuple[int, int, float]], random: Any
) -> None:
    shuffled = random.sample(images, len(images))
    renamed = [(9 - label, 9 - guess, confidence) for label, guess, confidence in shuffled]
    for formula in FORMULAS:
        want = formula(predictions(images))
        assert 0 <= want <= 1
        assert formula(predictions(renamed)) == pytest.approx(want, abs=1e-12)


def test_a_confidence_at_the_edge_belongs_to_the_lower_bin() -> None:
    sure = [(0, 0, 1.0), (0, 1, 0.5), (0, 1, 0.25)]
    bins = calibration_bins(predictions(sure), bins=4)
    np.testing.assert_array_equal(bins.images, [1, 1, 0, 1])
    np.testing.assert_array_equal(bins.correct, [0, 0, 0, 1])
    np.testing.assert_allclose(bins.confidence, [0.25, 0.5, 0, 1])
    assert expected_calibration_error(predictions(sure[:1])) == 0


def test_counts_are_exact_beyond_the_integers_of_float32() -> None:
    number = 2**24 + 3
    labels = np.zeros(number, np.int32)
    labels[-1] = 1
    counts = class_counts(Classified(labels, np.zeros(number, np.int32), None))
    assert counts.images.tolist() == [number - 1, 1]
    assert counts.correct.tolist() == [number - 1, 0]
    assert counts.predicted.tolist() == [number, 0]


def test_predictions_are_the_largest_outputs_and_their_probabilities() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    logits[0] = 1.0  # a tie
    labels = np.arange(50, dtype=np.int32) % 4
    found = predictions_of(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.classes, logits.argmax(axis=1))
    np.testing.assert_allclose(
        found.confidences, special.softmax(logits, axis=1).max(axis=1), rtol=1e-6
    )


@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_image_whose_output_is_nan_is_wrong_as_in_the_accuracy(where: int) -> None:
    logits = 9 * jnp.eye(3)[jnp.array([0, 1, 2, 0])]
    logits, labels = logits.at[0, where].set(jnp.nan), jnp.array([0, 1, 2, 0])
    result = Result(logits, {}, {})
    split = Classified(*map(np.asarray, gathered_of(Task.CLASSIFY, result, labels)))
    right = per_image_metric("accuracy", result, labels, data_range=1.0)
    np.testing.assert_array_equal(split.labels == split.classes, right)
    assert balanced_accuracy(split) == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert macro_f1(split) == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert math.isnan(expected_calibration_error(split))
    lost = Classified(split.labels[:1], split.classes[:1], split.confidences[:1])
    assert (balanced_accuracy(lost), macro_f1(lost)) == (0, 0)


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_perfect_and_sure_classifier_and_its_opposite(formula: Any) -> None:
    perfect = predictions([(number, number, 1.0) for number in range(5)])
    opposite = predictions([(number, 4 - number, 1.0) for number in (0, 1, 3, 4)])
    values = (formula(perfect), formula(opposite))
    assert values == ((0, 1) if formula is expected_calibration_error else (1, 0))
