"""Scaling and normalization of pixels, against NumPy and torchvision's formula."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from cnnbench.data.scaling import CHUNK, Scaling, balanced_weights, channel_statistics
from cnnbench.errors import DataError


def test_statistics_are_those_of_numpy_in_any_order() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, [10, 256, 100], (2 * CHUNK + 7, 3, 2, 3), np.uint8)
    mean, std = channel_statistics(images)
    unit = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, unit.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, unit.std(axis=(0, 1, 2)), rtol=1e-12)
    assert channel_statistics(rng.permutation(images)) == (mean, std)


def test_a_constant_channel_has_no_normalization() -> None:
    images = np.stack([np.arange(6), np.full(6, 7)], axis=-1).astype(np.uint8).reshape(1, 2, 3, 2)
    with pytest.raises(DataError) as caught:
        channel_statistics(images)
    assert str(caught.value) == (
        "dataset.normalize: channel 1 of the training images is constant;"
        " write {mean: [...], std: [...]} instead of auto."
    )


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.25,)), ((0.1, 0.2), (0.3, 0.4))])
def test_pixels_are_normalized_by_channel(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 2), np.uint8)
    scaling = Scaling(256.0, mean, std)
    want = (images / 255 - np.array(mean)) / np.array(std)
    got = scaling.apply(images.astype(np.float32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaling.of_unit(images / 255), want)


def test_without_normalization_pixels_are_divided() -> None:
    pixels = np.arange(256, dtype=np.float32)
    np.testing.assert_array_equal(Scaling(3.0).apply(pixels), pixels / np.float32(3.0))
    np.testing.assert_allclose(Scaling(3.0).of_unit(pixels / 255), pixels / 3.0)


def test_balanced_class_weights_are_those_of_scikit_learn() -> None:
    labels = np.random.default_rng(0).choice(4, 50, p=[0.7, 0.1, 0.1, 0.1]).astype(np.int32)
    want = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 4), want, rtol=1e-12)


def test_a_class_without_images_has_no_balanced_weight() -> None:
    with pytest.raises(DataError) as caught:
        balanced_weights(np.array([0, 2], np.int32), 4)
    assert str(caught.value) == (
        "train.class_weights: class 1 has no training images;"
        " write a list of weights instead of balanced."
    )
