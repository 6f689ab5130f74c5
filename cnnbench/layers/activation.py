"""Activation functions and their derivatives in NumPy: sigma and sigma' of the post.

The definitions are JAX's, also where a function has a kink: relu'(0) is 0, and the slope of
leaky_relu at 0 is that of the right side.
"""

import math
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from cnnbench.layers import Activation

Array = NDArray[Any]

KINKED = frozenset({"relu", "leaky_relu", "elu"})  # not smooth at 0, elu in its second derivative
_LEAK = 0.01
_GELU = math.sqrt(2 / math.pi), 0.044715  # Hendrycks & Gimpel 2016, with tanh


def sigma(name: Activation, z: Array) -> Array:
    """Equation (3): the activation of each z.

    >>> sigma("relu", np.array([-2.0, 3.0])).tolist()
    [0.0, 3.0]
    """
    match name:
        case "linear":
            return z
        case "relu":
            return np.maximum(z, 0)
        case "tanh":
            return np.tanh(z)
        case "sigmoid":
            return _logistic(z)
        case "leaky_relu":
            return np.where(z >= 0, z, _LEAK * z)
        case "elu":
            return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
        case "gelu":
            return np.asarray(z * (1 + np.tanh(_gelu_inner(z))) / 2)
        case "silu":
            return z * _logistic(z)
        case "softplus":
            return np.logaddexp(z, 0)
        case _:
            assert_never(name)


def sigma_prime(name: Activation, z: Array) -> Array:
    """The derivative sigma'(z) of each value, as equations (9) and (S3) want it.

    >>> sigma_prime("relu", np.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 1.0]
    """
    match name:
        case "linear":
            return np.ones_like(z)
        case "relu":
            return (z > 0).astype(z.dtype)
        case "tanh":
            return 1 - np.tanh(z) ** 2
        case "sigmoid":
            return _logistic(z) * _logistic(-z)
        case "leaky_relu":
            return np.where(z >= 0, 1, _LEAK).astype(z.dtype)
        case "elu":
            return np.exp(np.minimum(z, 0))
        case "gelu":
            t, (scale, cubic) = np.tanh(_gelu_inner(z)), _GELU
            bend = z / 2 * (1 - t**2) * scale * (1 + 3 * cubic * z**2)
            return np.asarray((1 + t) / 2 + bend)
        case "silu":
            return np.asarray(_logistic(z) * (1 + z * _logistic(-z)))
        case "softplus":
            return _logistic(z)
        case _:
            assert_never(name)


def _logistic(z: Array) -> Array:
    """1 / (1 + exp(-z)), which overflows nowhere in this form."""
    return (1 + np.tanh(z / 2)) / 2


def _gelu_inner(z: Array) -> Array:
    scale, cubic = _GELU
    return scale * (z + cubic * z**3)
