"""How like its original a reconstruction looks: PSNR and SSIM, for each image."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from cnnbench.spec.experiment import SSIM_WINDOW as WINDOW

BRIGHTEST = 255  # of a pixel in a dataset
SIGMA = 1.5  # pixels: standard deviation of the weights of a window of SSIM
K1, K2 = 0.01, 0.03
_LEAST_ERROR = 1e-10  # of a perfect reconstruction: 100 dB where the data range is 1


def psnr(outputs: jax.Array, targets: jax.Array, data_range: float) -> jax.Array:
    """Peak signal-to-noise ratio in decibels, (n,), from images (n, h, w, c).

    Args:
      outputs: reconstructions.
      targets: originals.
      data_range: from the darkest possible pixel to the brightest.

    >>> bool(psnr(jnp.full((1, 2, 2, 1), 0.1), jnp.zeros((1, 2, 2, 1)), 1.0).round(3) == 20)
    True
    """
    error = ((outputs - targets) ** 2).reshape(len(outputs), -1).mean(axis=1)
    return 10 * jnp.log10(data_range**2 / jnp.maximum(error, _LEAST_ERROR))


def ssim(outputs: jax.Array, targets: jax.Array, data_range: float) -> jax.Array:
    """Structural similarity, (n,), from images (n, h, w, c): 1 for the same image.

    Wang, Bovik, Sheikh and Simoncelli 2004: Gaussian windows of 11 by 11 pixels that lie
    inside the image, mean over all of them and the channels.

    Args:
      outputs: reconstructions.
      targets: originals, at least as large as a window.
      data_range: from the darkest possible pixel to the brightest.
    """
    nothing = jnp.zeros_like(outputs)
    local = _Local(outputs, targets, nothing, nothing, nothing)
    for axis in (1, 2):
        local = _weighted(local, axis)
    mean_x, mean_y, variance_x, variance_y, covariance = local
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    scale = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (likeness / scale).mean(axis=(1, 2, 3))


class _Local(NamedTuple):
    """Weighted means, variances and covariance about a pixel."""

    mean_x: jax.Array
    mean_y: jax.Array
    variance_x: jax.Array
    variance_y: jax.Array
    covariance: jax.Array


def _weighted(local: _Local, axis: int) -> _Local:
    """Windows along an axis: parts with means and variances of their own are merged.

    E[x^2] - E[x]^2 would leave nothing of the variance where an image is bright and even.
    """
    count = local.mean_x.shape[axis] - WINDOW + 1
    taps = [
        _Local(*(lax.slice_in_dim(values, start, start + count, axis=axis) for values in local))
        for start in range(WINDOW)
    ]
    pairs = list(zip(_weights().tolist(), taps, strict=True))
    mean_x = _sum(w * tap.mean_x for w, tap in pairs)
    mean_y = _sum(w * tap.mean_y for w, tap in pairs)
    apart = [(w, tap, tap.mean_x - mean_x, tap.mean_y - mean_y) for w, tap in pairs]
    return _Local(
        mean_x,
        mean_y,
        _sum(w * (tap.variance_x + x * x) for w, tap, x, _ in apart),
        _sum(w * (tap.variance_y + y * y) for w, tap, _, y in apart),
        _sum(w * (tap.covariance + x * y) for w, tap, x, y in apart),
    )


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    first, *others = terms
    return sum(others, first)


def _weights() -> NDArray[Any]:
    """Of the pixels of a window along an axis, (WINDOW,)."""
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    return np.asarray(weights / weights.sum())
