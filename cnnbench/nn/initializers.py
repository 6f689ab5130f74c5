"""Kernel initializers in NumPy.

The distributions are those of `jax.nn.initializers`. JAX would compile a program per kernel
shape, which takes longer than the first epochs of a small network. NumPy needs no compilation,
and gives the same values on every device.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.layers.base import Shape

Float32Array = NDArray[np.float32]
TRUNCATION = 2.0  # standard deviations
# Standard deviation of the truncated normal distribution; dividing by it restores unit variance.
_TRUNCATED_STD = 0.87962566103423978


def initial_kernel(init: str, shape: Shape, rng: np.random.Generator) -> Float32Array:
    """The initial kernel of a layer.

    Args:
      init: name of the initializer.
      shape: (..., in, out); the leading axes are kernel taps, counted in fan-in and fan-out.
      rng: random generator.

    References:
      Glorot and Bengio, 2010; He et al., 2015; LeCun et al., 1998; Saxe et al., 2013.

    >>> kernel = initial_kernel("glorot_uniform", (5, 5, 1, 32), np.random.default_rng(0))
    >>> kernel.shape, bool(abs(kernel).max() <= (6 / (25 + 800)) ** 0.5)
    ((5, 5, 1, 32), True)
    """
    if init == "zeros":
        return np.zeros(shape, np.float32)
    if init == "orthogonal":
        return _orthogonal(shape, rng)
    family, _, distribution = init.partition("_")
    taps = math.prod(shape[:-2])
    fan_in, fan_out = taps * shape[-2], taps * shape[-1]
    variance = {
        "glorot": 2 / (fan_in + fan_out),
        "he": 2 / fan_in,
        "lecun": 1 / fan_in,
    }[family]
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape).astype(np.float32)
    return (_truncated_normal(shape, rng) * math.sqrt(variance)).astype(np.float32)


def _truncated_normal(shape: Shape, rng: np.random.Generator) -> NDArray[Any]:
    """Truncated normal values of variance one, by inverse transform sampling."""
    from scipy.special import ndtr, ndtri

    tail = float(ndtr(-TRUNCATION))
    values: NDArray[Any] = ndtri(rng.uniform(tail, 1 - tail, shape)) / _TRUNCATED_STD
    return values


def _orthogonal(shape: Shape, rng: np.random.Generator) -> Float32Array:
    """Matrix with orthonormal columns, or rows if there are fewer of them."""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    tall = rng.normal(size=(max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(tall)
    basis *= np.sign(np.diagonal(triangle))  # for a uniform (Haar) distribution
    matrix = basis if rows >= columns else basis.T
    return matrix.reshape(shape).astype(np.float32)
