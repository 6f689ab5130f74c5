"""Activation functions and their derivatives in NumPy: sigma and sigma' of the post.

The definitions are JAX's, including the derivative at kinks: relu'(0) is 0, and leaky_relu'(0)
is the derivative from the right.
"""

import math
from collections.abc import Mapping
from typing import Literal, assert_never, get_args

from pydantic import Field

from cnnbench.layers.base import Layer, LayerOutput, Owner, Rule, Shape, Site, identity
from cnnbench.layers.parameters import (
    OWN_WEIGHTS,
    TRAINABLE,
    TrainableKey,
    WeightsKey,
    sum_by_channel,
)
from cnnbench.system.arrays import Array

Activation = Literal[
    "linear",
    "relu",
    "tanh",
    "sigmoid",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "softplus",
    "relu6",
    "hard_sigmoid",
    "hard_silu",
    "mish",
    "selu",
    "gelu_exact",
]
ACTIVATION_NAMES: tuple[str, ...] = get_args(Activation)
# Where activations are not smooth (elu: its second derivative).
KINKS: Mapping[Activation, tuple[float, ...]] = {
    "relu": (0,),
    "leaky_relu": (0,),
    "elu": (0,),
    "selu": (0,),
    "relu6": (0, 6),
    "hard_sigmoid": (-3, 3),
    "hard_silu": (-3, 3),
}
_LEAK = 0.01
_SELU = 1.0507009873554805, 1.6732632423543772  # scale and alpha of Klambauer et al. 2017
_GELU = math.sqrt(2 / math.pi), 0.044715  # Hendrycks & Gimpel 2016, with tanh


class Activate(Layer):
    """Activation as a separate layer."""

    op: Literal["activation"]
    activation: Activation = Field(description="activation function")

    aliases = ("nonlinearity", "NonlinearityLayer")
    elementwise = keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape."""
        return LayerOutput(shapes[0])

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """The identity; `gradcheck.backprop` applies equation (3)."""
        return identity()

    def variations(self) -> list[str]:
        """The activation."""
        return activation_words(self.activation)


class Softmax(Layer):
    """Softmax over the channels of each pixel, or over a vector.

    For attention maps and gates; the output of a classifier stays linear, because the loss applies
    a softmax.
    """

    op: Literal["softmax"]

    aliases = ("Softmax2d", "softmax_layer")

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape."""
        return LayerOutput(shapes[0])

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (21)."""
        return softmax_rule()


class PReLU(Layer):
    """Leaky relu with a learned slope for negative values (He et al. 2015).

    The derivative at 0 is 1, as in Flax; it is the slope in PyTorch, and 0 in Keras.
    """

    op: Literal["prelu"]
    init: float = Field(0.25, description="initial slope; 0 in Keras, 0.01 in Flax")
    per_channel: bool = Field(
        False, description="learn a slope per channel; false for a single one"
    )
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("PReLU", "ParametricReLU", "parametric_relu")
    elementwise = keeps_range = True
    takes_largest = True  # of a and slope * a

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape, with one slope or a slope per channel."""
        return LayerOutput(shapes[0], {"slope": shapes[0][-1:] if self.per_channel else (1,)})

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (24)."""
        return prelu_rule(weights["slope"])

    def variations(self) -> list[str]:
        """Slopes per channel, and an initial slope other than 0.25."""
        start = [] if self.init == 0.25 else [f"init {self.init:g}"]
        return ["per channel", *start] if self.per_channel else start


def activation_words(activation: Activation) -> list[str]:
    """An activation formatted for `summary`; empty for linear."""
    return [] if activation == "linear" else [activation]


def sigma(name: Activation, z: Array) -> Array:
    """Equation (3): the activation of each z.

    >>> import numpy as np
    >>> sigma("relu", np.array([-2.0, 3.0])).tolist()
    [0.0, 3.0]
    """
    import numpy as np

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
        case "relu6":
            return np.asarray(np.clip(z, 0, 6))
        case "hard_sigmoid":
            return np.asarray(np.clip(z + 3, 0, 6) / 6)
        case "hard_silu":
            return np.asarray(z * np.clip(z + 3, 0, 6) / 6)
        case "mish":
            return np.asarray(z * np.tanh(np.logaddexp(z, 0)))
        case "selu":
            scale, alpha = _SELU
            return scale * np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))
        case "gelu_exact":
            return np.asarray(z * _normal_cdf(z))
        case _:
            assert_never(name)


def sigma_prime(name: Activation, z: Array) -> Array:
    """The derivative sigma'(z) of each value, for equations (9) and (S3).

    >>> import numpy as np
    >>> sigma_prime("relu", np.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 1.0]
    """
    import numpy as np

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
        case "relu6":
            return ((z > 0) & (z < 6)).astype(z.dtype)
        case "hard_sigmoid":
            return ((z > -3) & (z < 3)).astype(z.dtype) / 6
        case "hard_silu":
            return np.where(z < 3, np.where(z > -3, z / 3 + 0.5, 0), 1).astype(z.dtype)
        case "mish":
            t = np.tanh(np.logaddexp(z, 0))
            return np.asarray(t + z * (1 - t**2) * _logistic(z))
        case "selu":
            scale, alpha = _SELU
            return scale * np.where(z > 0, 1, alpha * np.exp(np.minimum(z, 0)))
        case "gelu_exact":
            density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
            return np.asarray(_normal_cdf(z) + z * density)
        case _:
            assert_never(name)


def _normal_cdf(z: Array) -> Array:
    from scipy.special import ndtr

    cdf: Array = ndtr(z)
    return cdf


def _logistic(z: Array) -> Array:
    """1 / (1 + exp(-z)), in a form that never overflows."""
    import numpy as np

    return (1 + np.tanh(z / 2)) / 2


def _gelu_inner(z: Array) -> Array:
    scale, cubic = _GELU
    return scale * (z + cubic * z**3)


def prelu_rule(slopes: Array) -> Rule:
    """Equation (24): negative values and their errors are multiplied by learned slopes.

    Args:
      slopes: (c,), or (1,) for a single slope.
    """
    import numpy as np

    def gradient(delta: Array, a: Array) -> dict[str, Array]:
        products = sum_by_channel(delta * np.minimum(a, 0))
        return {"slope": products if len(slopes) > 1 else products.sum(keepdims=True)}

    return Rule(
        lambda a: np.where(a >= 0, a, slopes * a),
        lambda delta, a: (np.where(a >= 0, delta, slopes * delta),),
        gradient,
        side=lambda a: a >= 0,
    )


def softmax_rule() -> Rule:
    """Equation (21): each error is relative to the mean error, weighted by the softmax."""
    return Rule(softmax, lambda delta, a: (softmax_error(softmax(a), delta),))


def softmax_error(shares: Array, delta: Array) -> Array:
    """Equation (21): the error of the inputs of a softmax along the last axis.

    Args:
      shares: its outputs.
      delta: their errors.
    """
    import numpy as np

    mean: Array = (shares * delta).sum(axis=-1, keepdims=True)
    return np.asarray(shares * (delta - mean))


def softmax(z: Array) -> Array:
    """Shares of the last axis that sum to 1; also the class probabilities of the loss.

    >>> import numpy as np
    >>> softmax(np.array([[0.0, 0.0, -np.inf]])).tolist()
    [[0.5, 0.5, 0.0]]
    """
    import numpy as np

    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def log_softmax(z: Array) -> Array:
    """Logarithm of `softmax`; finite even if a probability underflows.

    >>> import numpy as np
    >>> log_softmax(np.array([0.0, -1000.0])).tolist()
    [0.0, -1000.0]
    """
    import numpy as np

    shifted = z - z.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
