"""Initializers in NumPy.

The distributions are those of `jax.nn.initializers`. JAX would compile a program per kernel
shape, which takes longer than the first epochs of a small network. NumPy needs no compilation,
and gives the same values on every device.
"""

import math
from typing import Any, assert_never

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cnnbench.layers.base import Shape
from cnnbench.layers.parameters import (
    BiasInit,
    ConstantValue,
    Init,
    Normal,
    TruncatedNormal,
    VarianceScaling,
)

Float32Array = NDArray[np.float32]
WHITENING_IMAGES = 5000  # the first ones of the training set
TRUNCATION = 2.0  # standard deviations
_MOST_VALUES = 60_000_000  # of patches: 5,000 images of 32x32x3 with kernels of 2x2
_VALUES_AT_ONCE = 2**24
_SMALLEST_VARIANCE = 5e-4  # of the source, added to the eigenvalues
# Standard deviation of the truncated normal distribution; dividing by it restores unit variance.
_TRUNCATED_STD = 0.87962566103423978


def initial_kernel(
    init: Init, shape: Shape, rng: np.random.Generator, groups: int = 1
) -> Float32Array:
    """The initial kernel of a layer.

    Args:
      init: initializer.
      shape: (..., in, out); the leading axes are kernel taps, counted in fan-in and fan-out.
      rng: random generator.
      groups: number of groups of a convolution; each has its own identity in `dirac`.

    References:
      Glorot and Bengio, 2010; He et al., 2015; LeCun et al., 1998; Saxe et al., 2013.

    >>> kernel = initial_kernel("glorot_uniform", (5, 5, 1, 32), np.random.default_rng(0))
    >>> kernel.shape, bool(abs(kernel).max() <= (6 / (25 + 800)) ** 0.5)
    ((5, 5, 1, 32), True)
    """
    match init:
        case "zeros":
            return np.zeros(shape, np.float32)
        case "orthogonal" | "whitening":  # `whitening_kernel` replaces it
            return _orthogonal(shape, rng)
        case "dirac":
            return _dirac(shape, groups)
        case str():
            family, _, distribution = init.partition("_")
            variance = _variance(*_FAMILIES[family], _fans(shape))
            return _scaled(_DISTRIBUTIONS[distribution], variance, shape, rng)
        case _:
            return _drawn(init, shape, _fans(shape), rng)


def initial_bias(
    init: BiasInit, size: int, kernel: Shape, rng: np.random.Generator
) -> Float32Array:
    """The initial bias of a layer.

    Args:
      init: initializer.
      size: number of values.
      kernel: shape of the kernel, (..., in, out), for its fans.
      rng: random generator.
    """
    if init == "zeros":
        return np.zeros(size, np.float32)
    return _drawn(init, (size,), _fans(kernel), rng)


def num_whitening_images(image: Shape, size: tuple[int, int]) -> int:
    """Number of images, the first of the training set, that `whitening_kernel` uses.

    Args:
      image: height, width and channels of the images.
      size: height and width of the kernel.

    >>> num_whitening_images((32, 32, 3), (2, 2)), num_whitening_images((256, 256, 3), (2, 2))
    (5000, 76)
    """
    shape, places = _patches(image, size)
    return min(WHITENING_IMAGES, max(1, _MOST_VALUES // (places * math.prod(shape))))


def _patches(image: Shape, size: tuple[int, int]) -> tuple[Shape, int]:
    """Shape of the patches of an image, and their number."""
    height, width, channels = image
    return (*size, channels), (height - size[0] + 1) * (width - size[1] + 1)


def whitening_kernel(images: Float32Array, size: tuple[int, int]) -> Float32Array:
    """Kernel whose outputs for patches of images are uncorrelated and of about equal size.

    The filters are the eigenvectors of the patches' second moments, divided by the square roots of
    their eigenvalues, and the same with the opposite sign.

    Args:
      images: scaled images, (n, height, width, channels).
      size: height and width of the kernel.

    Returns:
      (height, width, channels, 2 * height * width * channels).

    References:
      Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3.2.
    """
    shape, places = _patches(images.shape[1:], size)
    used = images[: num_whitening_images(images.shape[1:], size)]
    chunk = max(1, _VALUES_AT_ONCE // (places * math.prod(shape)))
    moments = np.zeros((math.prod(shape),) * 2)
    for i in range(0, len(used), chunk):
        windows = sliding_window_view(used[i : i + chunk], size, axis=(1, 2))
        patches = np.moveaxis(windows, 3, 5).reshape(-1, math.prod(shape)).astype(np.float64)
        moments += patches.T @ patches
    values, vectors = np.linalg.eigh(moments / (len(used) * places))
    filters = (vectors / np.sqrt(values + _SMALLEST_VARIANCE))[:, ::-1]
    return np.concatenate([filters, -filters], axis=1).reshape(*shape, -1).astype(np.float32)


def _fans(kernel: Shape) -> tuple[int, int]:
    """Number of inputs of an output, and of outputs of an input (as in PyTorch, of all groups)."""
    taps = math.prod(kernel[:-2])
    return taps * kernel[-2], taps * kernel[-1]


_FAMILIES = {"glorot": (1.0, "fan_avg"), "he": (2.0, "fan_in"), "lecun": (1.0, "fan_in")}
_DISTRIBUTIONS = {"uniform": "uniform", "normal": "truncated_normal"}


def _variance(scale: float, mode: str, fans: tuple[int, int]) -> float:
    return scale / {"fan_in": fans[0], "fan_out": fans[1], "fan_avg": sum(fans) / 2}[mode]


def _drawn(
    init: Normal | TruncatedNormal | ConstantValue | VarianceScaling,
    shape: Shape,
    fans: tuple[int, int],
    rng: np.random.Generator,
) -> Float32Array:
    """Independent values of a distribution."""
    match init:
        case Normal(stddev=stddev):
            return rng.normal(0, stddev, shape).astype(np.float32)
        case TruncatedNormal(stddev=stddev):
            return (_truncated_normal(shape, rng) * (stddev * _TRUNCATED_STD)).astype(np.float32)
        case ConstantValue(value=value):
            return np.full(shape, value, np.float32)
        case VarianceScaling():
            variance = _variance(init.scale, init.mode, fans)
            return _scaled(init.distribution, variance, shape, rng)
        case _:
            assert_never(init)


def _scaled(
    distribution: str, variance: float, shape: Shape, rng: np.random.Generator
) -> Float32Array:
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape).astype(np.float32)
    if distribution == "normal":
        return rng.normal(0, math.sqrt(variance), shape).astype(np.float32)
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


def _dirac(shape: Shape, groups: int) -> Float32Array:
    """Kernel that copies the input channels of each group to its first output channels."""
    kernel = np.zeros(shape, np.float32)
    center = tuple(taps // 2 for taps in shape[:-2])
    outputs = shape[-1] // groups
    for group in range(groups):
        for channel in range(min(outputs, shape[-2])):
            kernel[(*center, channel, group * outputs + channel)] = 1
    return kernel
