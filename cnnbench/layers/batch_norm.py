"""Batch normalization."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from cnnbench.layers.base import Layer, LayerOutput, Owner, Rule, Shape, Site
from cnnbench.layers.fields import ADDED, Fraction, Positive
from cnnbench.layers.norm import CENTER, SCALE, learned, missing
from cnnbench.layers.parameters import OWN_WEIGHTS, TrainableKey, WeightsKey, sum_by_channel, wider
from cnnbench.system.arrays import Array


class BatchNorm(Layer):
    """Normalizes each channel over the batch (Ioffe & Szegedy 2015)."""

    op: Literal["batch_norm"]
    momentum: Fraction = Field(
        0.9,
        description="decay rate of the running mean and variance (1 minus PyTorch's momentum)",
    )
    epsilon: Positive = Field(
        1e-5, description="term added to the variance for numerical stability"
    )
    scale: Annotated[bool, ADDED] = Field(True, description=SCALE)
    center: Annotated[bool, ADDED] = Field(True, description=CENTER)
    trainable: TrainableKey = Field(
        True,
        description="false to freeze all parameters and normalize with the initial running"
        " statistics, as in Keras",
    )
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("BatchNorm2d", "BatchNormalization", "bn", "batch_normalization")
    elementwise = True

    @property
    def uses_batch(self) -> bool:
        """True unless frozen."""
        return self.trainable

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape, with a scale and a bias per channel."""
        return LayerOutput(shapes[0], learned(self, shapes[0][-1]))

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (16)."""
        return batch_norm_rule(self.epsilon, weights)

    def variations(self) -> list[str]:
        """Missing parameters."""
        return missing(self)


def batch_norm_rule(epsilon: float, weights: Mapping[str, Array]) -> Rule:
    """Equation (16): in training, mean and variance of a channel depend on each of its values.

    Channels are summed in a wider data type.
    """
    import numpy as np

    scale, bias = weights.get("scale", 1.0), weights.get("bias", 0.0)

    def mean(a: Array) -> Array:
        return np.asarray(a.mean(axis=tuple(range(a.ndim - 1)), dtype=wider(a)))

    def normal(a: Array) -> tuple[Array, Array]:
        apart = (a - mean(a)).astype(a.dtype)
        spread = np.sqrt(mean(apart**2) + epsilon).astype(a.dtype)
        return apart / spread, spread

    def backward(delta: Array, a: Array) -> tuple[Array]:
        unit, spread = normal(a)
        centered = (delta - mean(delta) - unit * mean(delta * unit)).astype(a.dtype)
        return (scale / spread * centered,)

    def gradient(delta: Array, a: Array) -> dict[str, Array]:
        unit, _ = normal(a)
        sums = {"scale": delta * unit, "bias": delta}
        return {name: sum_by_channel(sums[name]) for name in weights}

    return Rule(lambda a: normal(a)[0] * scale + bias, backward, gradient)
