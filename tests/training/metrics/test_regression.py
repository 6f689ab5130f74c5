"""Metrics of regression, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import root_mean_squared_error

from cnnbench.training.metrics.regression import Regressed, rmse


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_rmse(images: int, targets: int, seed: int) -> None:
    one, other = np.random.default_rng(seed).normal(100, 30, (2, images, targets))
    theirs = root_mean_squared_error(one, other)
    assert rmse(Regressed(other, one)) == pytest.approx(theirs, rel=1e-12)


def test_rmse_of_a_diverged_network() -> None:
    assert np.isnan(rmse(Regressed(np.array([[np.nan]]), np.array([[1.0]]))))
