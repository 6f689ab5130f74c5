"""The linear probe of a code."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cnnbench.graph.autoencoder import code_layer
from cnnbench.training.linear_probe import probe_accuracy
from tests.support.oracles import make_plan

LAYERS: Mapping[str, Mapping[str, Any]] = {
    "a": {"op": "dense", "units": 8},
    "mean": {"op": "dense", "units": 3},
    "other": {"op": "dense", "units": 3, "inputs": "a"},
    "z": {"op": "sample", "inputs": ["mean", "other"]},
    "out": {"op": "dense", "units": 16},
}


def blobs(distance: float, number: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(number)
    labels = rng.integers(0, 3, number)
    centers = distance * np.eye(3, 4)
    return (centers[labels] + rng.normal(size=(number, 4))).astype(np.float32), labels


def test_accuracy_is_close_to_the_optimal_linear_classifier() -> None:
    """Classes are Gaussian with a common covariance, for which Fisher's rule is optimal."""
    train, labels = blobs(2.0, 3_000)
    test, test_labels = blobs(2.0, 2_999)
    best = LinearDiscriminantAnalysis().fit(train, labels).score(test, test_labels)
    assert 0.7 < best < 0.9
    assert abs(probe_accuracy(train, labels, test, test_labels) - best) < 0.01


def test_a_random_code_has_chance_accuracy() -> None:
    train, labels = blobs(0.0, 3_000)
    test, test_labels = blobs(0.0, 2_999)
    assert abs(probe_accuracy(train, labels, test, test_labels) - 1 / 3) < 0.05


def test_accuracy_is_invariant_to_shape_and_scale() -> None:
    train, labels = blobs(2.0, 500)
    test, test_labels = blobs(2.0, 499)
    plain = probe_accuracy(train, labels, test, test_labels)
    large = probe_accuracy(
        1e4 * train.reshape(500, 2, 2, 1), labels, 1e4 * test.reshape(499, 2, 2, 1), test_labels
    )
    assert large == pytest.approx(plain, abs=0.005)


def test_non_finite_codes_have_nan_accuracy() -> None:
    codes, labels = blobs(1.0, 30)
    codes[3, 1] = np.nan
    assert math.isnan(probe_accuracy(codes, labels, codes, labels))


def test_one_class_needs_no_classifier() -> None:
    codes, _ = blobs(1.0, 4)
    assert probe_accuracy(codes, np.full(4, 7), codes, np.array([7, 7, 1, 7])) == 0.75


def test_the_code_is_the_first_of_the_narrowest_layers() -> None:
    plan = make_plan(LAYERS, (4, 4, 1), (16,))
    assert code_layer(plan) == "mean"
    assert code_layer(plan, "a") == "a"
