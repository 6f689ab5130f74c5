"""Normalization of each image by itself, and scales."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Protocol

from pydantic import Field

from cnnbench.layers.base import (
    Box,
    Layer,
    LayerOutput,
    Owner,
    Rule,
    Shape,
    ShapeError,
    Site,
    image,
    whole_image,
)
from cnnbench.layers.fields import ADDED, Count, Positive
from cnnbench.layers.parameters import (
    OWN_WEIGHTS,
    TRAINABLE,
    TrainableKey,
    WeightsKey,
    sum_by_channel,
    wider,
)
from cnnbench.system.arrays import Array

SCALE, CENTER = "learn a scale per channel", "learn a bias per channel"


class LayerNorm(Layer):
    """Normalizes the channels of each pixel, or a vector (Ba et al. 2016).

    The default `epsilon` is that of Flax and of torchvision's ViT and ConvNeXt; PyTorch's own is
    1e-5, Keras' 1e-3.
    """

    op: Literal["layer_norm"]
    epsilon: Positive = Field(
        1e-6, description="term added to the variance; 1e-5 in PyTorch, 1e-3 in Keras"
    )
    scale: bool = Field(True, description=SCALE)
    center: bool = Field(True, description=CENTER)
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("LayerNormalization", "LayerNorm", "layer_normalization", "ln", "LayerNorm2d")

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape, with a scale and a bias per channel."""
        shape, channels = shapes[0], shapes[0][-1]
        if channels == 1:
            message = "layer_norm of a single channel normalizes each value to zero"
            whole = "use op: group_norm with groups: 1 to normalize whole images"
            raise ShapeError("", message, whole if math.prod(shape) > 1 else "remove the layer")
        return LayerOutput(shape, learned(self, channels))

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (23)."""
        return norm_rule(self.epsilon, weights, 1, by_pixel=True)

    def variations(self) -> list[str]:
        """Missing parameters."""
        return missing(self)


class GroupNorm(Layer):
    """Normalizes groups of channels over all positions of an image (Wu & He 2018).

    One group per channel is instance norm. The default `epsilon` is PyTorch's; Flax has 1e-6,
    Keras 1e-3.
    """

    op: Literal["group_norm"]
    groups: Count = Field(32, description="number of groups; as many as channels for instance norm")
    epsilon: Positive = Field(
        1e-5, description="term added to the variance; 1e-6 in Flax, 1e-3 in Keras"
    )
    scale: bool = Field(True, description=SCALE)
    center: bool = Field(True, description=CENTER)
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("GroupNormalization", "GroupNorm", "gn", "group_normalization")
    main_options = ("groups",)

    @property
    def channel_parts(self) -> int:
        """Number of groups."""
        return self.groups

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape, with a scale and a bias per channel."""
        channels = image(shapes[0], self.op)[2]
        if channels % self.groups:
            have = "1 channel" if channels == 1 else f"{channels} channels"
            message = f"{have} cannot be divided into {self.groups} groups"
            most = max(n for n in range(1, self.groups + 1) if channels % n == 0)
            remedy = f"use a divisor of {channels}, such as groups: {most}"
            raise ShapeError("groups", message, remedy)
        if math.prod(shapes[0]) == self.groups:
            message = "groups of a single value are normalized to zero"
            remedy = "use fewer groups" if channels > 1 else "remove the layer"
            raise ShapeError("groups", message, remedy)
        return LayerOutput(shapes[0], learned(self, channels))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The whole image."""
        return whole_image(shape)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (23)."""
        return norm_rule(self.epsilon, weights, self.groups, by_pixel=False)

    def variations(self) -> list[str]:
        """Missing parameters."""
        return missing(self)


class Scale(Layer):
    """Multiplies by a learned factor per channel, by a single learned factor, or by a constant.

    Learned factors that begin near zero are the layer scale of Touvron et al. 2021 and the gamma of
    ConvNeXt; a single one that begins at zero is that of ReZero (Bachlechner et al. 2021) and
    SkipInit (De & Smith 2020).
    """

    op: Literal["scale"]
    value: float = Field(description="initial value of the factors, or the constant")
    trainable: bool = Field(True, description="learn the factors; false for a constant")
    per: Annotated[Literal["channel", "all"], ADDED] = Field(
        "channel", description="learn a factor per channel, or a single one"
    )
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("LayerScale", "layer_scale", "Rescaling", "gamma", "mul_constant")
    elementwise = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape, with a factor per channel, one for all, or none."""
        if not self.trainable:
            if self.per == "all":
                raise ShapeError("per", "a constant is the same for all channels", "remove it")
            return LayerOutput(shapes[0])
        return LayerOutput(shapes[0], {"scale": shapes[0][-1:] if self.per == "channel" else (1,)})

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (20) with factors for an input."""
        return scale_rule(weights.get("scale", self.value))

    @property
    def is_trained(self) -> bool:
        """Always true: a constant has no parameters that could be frozen."""
        return True

    def options(self) -> list[str]:
        """The initial value."""
        return [f"{self.value:g}"]

    def variations(self) -> list[str]:
        """Distinguishes constants and single factors from factors per channel."""
        if not self.trainable:
            return ["constant"]
        return [] if self.per == "channel" else ["one factor"]


class Learns(Protocol):
    """A normalization with optional parameters."""

    @property
    def scale(self) -> bool:
        """True to learn a scale."""

    @property
    def center(self) -> bool:
        """True to learn a bias."""


def learned(op: Learns, channels: int) -> dict[str, Shape]:
    """Shapes of scale and bias."""
    used = {"scale": op.scale, "bias": op.center}
    return {name: (channels,) for name, uses in used.items() if uses}


def missing(op: Learns) -> list[str]:
    """Parameters that a layer lacks, formatted for `summary`."""
    return [*([] if op.scale else ["no scale"]), *([] if op.center else ["no bias"])]


def norm_rule(epsilon: float, weights: Mapping[str, Array], groups: int, *, by_pixel: bool) -> Rule:
    """Equation (23): as for batch norm, but mean and deviation are those of a part of an image.

    Args:
      epsilon: term added to the variance.
      weights: scale and bias, (c,) each, if there are any.
      groups: number of groups of channels.
      by_pixel: True to normalize each pixel or vector by itself, False for whole images.
    """
    import numpy as np

    scale, bias = weights.get("scale", 1.0), weights.get("bias", 0.0)

    def parts(a: Array) -> Array:
        """(parts, values, groups, channels of a group)."""
        count = a.size // a.shape[-1] if by_pixel else len(a)
        return a.reshape(count, -1, groups, a.shape[-1] // groups)

    def mean(a: Array) -> Array:
        return np.asarray(a.mean(axis=(1, 3), keepdims=True, dtype=wider(a)))

    def normal(a: Array) -> tuple[Array, Array]:
        apart = (parts(a) - mean(parts(a))).astype(a.dtype)
        spread = np.sqrt(mean(apart**2) + epsilon).astype(a.dtype)
        return apart / spread, spread

    def backward(delta: Array, a: Array) -> tuple[Array]:
        (unit, spread), error = normal(a), parts(delta * scale)
        centered = (error - mean(error) - unit * mean(error * unit)).astype(a.dtype)
        return ((centered / spread).reshape(a.shape),)

    def gradient(delta: Array, a: Array) -> dict[str, Array]:
        sums = {"scale": delta * normal(a)[0].reshape(a.shape), "bias": delta}
        return {name: sum_by_channel(sums[name]) for name in weights}

    return Rule(lambda a: normal(a)[0].reshape(a.shape) * scale + bias, backward, gradient)


def scale_rule(factors: Array | float) -> Rule:
    """Equation (20) with constant or learned factors.

    Args:
      factors: (c,), (1,) for one factor, or a constant.
    """

    def gradient(delta: Array, a: Array) -> dict[str, Array]:
        if isinstance(factors, float):
            return {}
        products = sum_by_channel(delta * a)
        return {"scale": products if len(factors) > 1 else products.sum(keepdims=True)}

    backward: Callable[..., tuple[Array, ...]] = lambda delta, _: (delta * factors,)  # noqa: E731
    return Rule(lambda a: a * factors, backward, gradient)
