"""Pooling over windows, and global pooling."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

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
    shape_text,
    whole_image,
)
from cnnbench.layers.conv import conv_size, window_span
from cnnbench.layers.correlation import taps, window
from cnnbench.layers.fields import Size
from cnnbench.system.arrays import Array


class Pool(Layer):
    """Base class of pooling over windows."""

    keeps_range = True

    if TYPE_CHECKING:

        @property
        def size(self) -> tuple[int, int]:
            """Height and width of the window; a field of each subclass."""

        @property
        def stride(self) -> tuple[int, int] | None:
            """Step between windows; a field of each subclass."""

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """One value per window and channel."""
        height, width, channels = image(shapes[0], self.op)
        if self.size[0] > height or self.size[1] > width:
            message = (
                f"a {shape_text(self.size)} window is larger than the {shape_text(shapes[0])} input"
            )
            raise ShapeError("size", message, f"use at most {[height, width]}")
        stride = self.stride or self.size
        rows = conv_size(height, self.size[0], stride[0], (0, 0))
        columns = conv_size(width, self.size[1], stride[1], (0, 0))
        return LayerOutput((rows, columns, channels))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The windows of the region."""
        stride = self.stride or self.size
        rows, columns = (window_span(box[i], self.size[i], stride[i], 0) for i in (0, 1))
        return rows, columns

    def options(self) -> list[str]:
        """The window size."""
        return [shape_text(self.size)]

    def variations(self) -> list[str]:
        """The stride, if windows overlap or leave gaps."""
        usual = self.stride in (None, (1, 1), self.size)
        return [] if usual else [f"stride {shape_text(self.stride or ())}"]


class MaxPool(Pool):
    """Maximum over windows; rows and columns of incomplete windows are dropped."""

    op: Literal["max_pool"]
    size: Size = Field(description="height and width of the window")
    stride: Size | None = Field(None, description="stride of the windows; default: size")

    aliases = ("MaxPool2d", "MaxPooling2D", "max_pooling", "pool", "pooling", "pool2d")
    takes_largest = True

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (13)."""
        return max_pool_rule(self, site.out_shape)


class AvgPool(Pool):
    """Mean over windows; rows and columns of incomplete windows are dropped."""

    op: Literal["avg_pool"]
    size: Size = Field(description="height and width of the window")
    stride: Size | None = Field(None, description="stride of the windows; default: size")

    aliases = ("AvgPool2d", "AveragePooling2D", "average_pool", "avg_pooling", "mean_pool")

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (13)."""
        return avg_pool_rule(self, site.out_shape)


class GlobalPool(Layer):
    """Base class of global pooling."""

    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """One value per channel."""
        return LayerOutput((image(shapes[0], self.op)[2],))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The whole input."""
        return whole_image(shape)


class GlobalAvgPool(GlobalPool):
    """Mean of each channel over all positions."""

    op: Literal["global_avg_pool"]

    aliases = (
        "GlobalAveragePooling2D",
        "gap",
        "global_average_pooling",
        "AdaptiveAvgPool2d",
        "global_pool",
        "GlobalPoolLayer",
    )
    sums_places = True

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (13)."""
        return global_avg_pool_rule()


class GlobalMaxPool(GlobalPool):
    """Maximum of each channel over all positions."""

    op: Literal["global_max_pool"]

    aliases = ("GlobalMaxPooling2D", "gmp", "global_max_pooling", "AdaptiveMaxPool2d")
    takes_largest = True

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (13)."""
        return global_max_pool_rule()


def max_pool_rule(op: MaxPool, shape: Shape) -> Rule:
    """Equation (13): the error goes to the maximum of a window; in ties, to the first one.

    Args:
      op: window and stride.
      shape: output shape.
    """
    import numpy as np

    stride, count = op.stride or op.size, (shape[0], shape[1])

    def largest(a: Array) -> tuple[Array, Array]:
        value = a[window((0, 0), count, stride)]
        chosen = np.zeros(value.shape, int)
        for number, tap in enumerate(taps(op.size)):
            seen = a[window(tap, count, stride)]
            chosen = np.where(seen > value, number, chosen)
            value = np.maximum(seen, value)
        return value, chosen

    def backward(delta: Array, a: Array) -> tuple[Array]:
        error, chosen = np.zeros_like(a), largest(a)[1]
        for number, tap in enumerate(taps(op.size)):
            error[window(tap, count, stride)] += np.where(chosen == number, delta, 0)
        return (error,)

    return Rule(lambda a: largest(a)[0], backward, side=lambda a: largest(a)[1])


def avg_pool_rule(op: AvgPool, shape: Shape) -> Rule:
    """Equation (13): the error is distributed evenly over the window."""
    import numpy as np

    stride, count, share = op.stride or op.size, (shape[0], shape[1]), math.prod(op.size)

    def forward(a: Array) -> Array:
        total = sum(a[window(tap, count, stride)] for tap in taps(op.size))
        return np.asarray(total / share)

    def backward(delta: Array, a: Array) -> tuple[Array]:
        error = np.zeros_like(a)
        for tap in taps(op.size):
            error[window(tap, count, stride)] += delta / share
        return (error,)

    return Rule(forward, backward)


def global_avg_pool_rule() -> Rule:
    """Equation (13) with a single window, the whole image."""
    import numpy as np

    def backward(delta: Array, a: Array) -> tuple[Array]:
        share = delta[:, None, None, :] / math.prod(a.shape[1:3])
        return (np.broadcast_to(share, a.shape),)

    return Rule(lambda a: a.mean(axis=(1, 2)), backward)


def global_max_pool_rule() -> Rule:
    """Equation (13) with a single window: the first maximum, in row-major order, gets the error."""
    import numpy as np

    def flat(a: Array) -> Array:
        return a.reshape(len(a), -1, a.shape[-1])  # nhwc -> npc

    def backward(delta: Array, a: Array) -> tuple[Array]:
        error = np.zeros_like(flat(a))
        np.put_along_axis(error, flat(a).argmax(axis=1)[:, None], delta[:, None], axis=1)
        return (error.reshape(a.shape),)

    return Rule(lambda a: a.max(axis=(1, 2)), backward, side=lambda a: flat(a).argmax(axis=1))
