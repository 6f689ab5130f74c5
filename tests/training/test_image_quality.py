"""PSNR and SSIM against scikit-image."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cnnbench.training.image_quality import BRIGHTEST, psnr, ssim
from cnnbench.training.losses import per_image_metric

SIZES = [(28, 28, 1), (11, 15, 1), (32, 32, 3)]


def pair(size: tuple[int, ...], scale: float) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    one = rng.integers(0, BRIGHTEST + 1, (4, *size)).astype(np.float64)
    other = np.clip(
        one + rng.normal(0, [[[[5]]], [[[20]]], [[[60]]], [[[200]]]], one.shape), 0, 255
    )
    return one / scale, other / scale


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_both_are_scikit_images(size: tuple[int, ...], scale: float) -> None:
    targets, outputs = pair(size, scale)
    data_range = BRIGHTEST / scale
    expected = [
        structural_similarity(
            x,
            y,
            data_range=data_range,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in zip(targets, outputs, strict=True)
    ]
    got = ssim(jnp.asarray(outputs), jnp.asarray(targets), data_range)
    np.testing.assert_allclose(got, expected, atol=3e-6)  # float32
    ratios = [
        peak_signal_noise_ratio(x, y, data_range=data_range)
        for x, y in zip(targets, outputs, strict=True)
    ]
    got = psnr(jnp.asarray(outputs), jnp.asarray(targets), data_range)
    np.testing.assert_allclose(got, ratios, rtol=1e-5)


@pytest.mark.parametrize("contrast", [1e-1, 1e-2, 1e-3])
def test_bright_even_images_keep_their_digits(contrast: float) -> None:
    rng = np.random.default_rng(2)
    x, y = (0.95 + contrast * rng.standard_normal((2, 28, 28))).astype(np.float32)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    want = structural_similarity(
        x.astype(np.float64), y.astype(np.float64), data_range=1.0, **options
    )
    got = ssim(jnp.asarray(x)[None, ..., None], jnp.asarray(y)[None, ..., None], 1.0)
    np.testing.assert_allclose(got, [want], rtol=2e-6)


def test_an_image_is_most_like_itself() -> None:
    image = jnp.asarray(pair((28, 28, 1), 256.0)[0])
    np.testing.assert_allclose(ssim(image, image, 1.0), 1.0, atol=1e-5)
    np.testing.assert_allclose(psnr(image, image, 1.0), 100.0)


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_metrics_know_the_range_of_the_pixels(name: str) -> None:
    targets, outputs = pair((28, 28, 1), 1.0)
    one = per_image_metric(name, 255.0)(jnp.asarray(outputs), jnp.asarray(targets))
    other = per_image_metric(name, 1.0)(jnp.asarray(outputs / 255), jnp.asarray(targets / 255))
    np.testing.assert_allclose(one, other, rtol=2e-4)
