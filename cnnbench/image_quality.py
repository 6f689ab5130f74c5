"""How like its original a reconstruction looks: PSNR and SSIM, for each image."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from cnnbench.spec import SSIM_WINDOW as WINDOW

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
    rows, columns = (jnp.asarray(_windows(size), outputs.dtype) for size in outputs.shape[1:3])

    def local(values: jax.Array) -> jax.Array:
        return jnp.einsum("rh,nhwc,sw->nrsc", rows, values, columns)

    mean_x, mean_y = local(outputs), local(targets)
    variance_x = local(outputs**2) - mean_x**2
    variance_y = local(targets**2) - mean_y**2
    covariance = local(outputs * targets) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    scale = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (likeness / scale).mean(axis=(1, 2, 3))


def _windows(size: int) -> NDArray[Any]:
    """The weights of each window along an axis, (size - WINDOW + 1, size)."""
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    found = np.zeros((size - WINDOW + 1, size))
    for place, line in enumerate(found):
        line[place : place + WINDOW] = weights / weights.sum()
    return found
