"""Pooling over windows, and global pooling."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

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
from cnnbench.layers.conv import conv_size, same_pad, window_span
from cnnbench.layers.correlation import Pads, taps, window
from cnnbench.layers.fields import ADDED, Padding, Size
from cnnbench.layers.parameters import wider
from cnnbench.system.arrays import Array, Pair


class Pool(Layer):
    """Base class of pooling over windows."""

    if TYPE_CHECKING:

        @property
        def size(self) -> Pair:
            """Height and width of the window; a field of each subclass."""

        @property
        def stride(self) -> Pair | None:
            """Step between windows; a field of each subclass."""

        @property
        def padding(self) -> str | Pair:
            """Padding at the edges; a field of each subclass."""

        @property
        def ceil_mode(self) -> bool:
            """True to keep incomplete windows; a field of each subclass."""

    @property
    def steps(self) -> Pair:
        """Vertical and horizontal step between windows."""
        return self.stride or self.size

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """One value per window and channel."""
        height, width, channels = image(shapes[0], self.op)
        if isinstance(self.padding, tuple) and any(
            2 * pad > size for pad, size in zip(self.padding, self.size, strict=True)
        ):
            window_text = shape_text(self.size)
            message = f"padding {list(self.padding)} is more than half of a {window_text} window"
            most = [size // 2 for size in self.size]
            raise ShapeError("padding", message, f"use {most} or less")
        pads = self.pads(shapes[0])
        padded = [height + sum(pads[0]), width + sum(pads[1])]
        if self.size[0] > padded[0] or self.size[1] > padded[1]:
            message = (
                f"a {shape_text(self.size)} window is larger than the {shape_text(shapes[0])} input"
            )
            raise ShapeError("size", message, f"use {padded} or less")
        return LayerOutput((*self.places(shapes[0]), channels))

    def pads(self, shape: Shape) -> Pads:
        """Padding before and after the rows and columns of an image."""
        match self.padding:
            case (int(height), int(width)):
                return (height, height), (width, width)
            case "same":
                rows, columns = (same_pad(shape[i], self.size[i], self.steps[i]) for i in (0, 1))
                return rows, columns
            case _:
                return (0, 0), (0, 0)

    def places(self, shape: Shape) -> Pair:
        """Number of windows vertically and horizontally."""
        pads = self.pads(shape)
        rows, columns = (self._along(i, shape[i], pads[i]) for i in (0, 1))
        return rows, columns

    def _along(self, axis: int, length: int, pad: Pair) -> int:
        """Number of windows along an axis."""
        kernel, step = self.size[axis], self.steps[axis]
        if not self.ceil_mode:
            return conv_size(length, kernel, step, pad)
        number = math.ceil((length + sum(pad) - kernel) / step) + 1
        # As in PyTorch, no window starts in the padding at the end.
        return number - 1 if (number - 1) * step >= length + pad[0] else number

    def reach(self, shape: Shape) -> Pads:
        """Rows and columns to add before and after the image, so that all windows are complete."""
        pads, places = self.pads(shape), self.places(shape)
        rows, columns = (
            (before, max(0, (number - 1) * step + kernel - before - length))
            for (before, _), number, step, kernel, length in zip(
                pads, places, self.steps, self.size, shape[:2], strict=True
            )
        )
        return rows, columns

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The windows of the region."""
        pads = self.pads(shape)
        rows, columns = (
            window_span(box[i], self.size[i], self.steps[i], pads[i][0]) for i in (0, 1)
        )
        return rows, columns

    def options(self) -> list[str]:
        """The window size."""
        return [shape_text(self.size)]

    def variations(self) -> list[str]:
        """The stride, if windows overlap or leave gaps, and padding."""
        usual = self.stride in (None, (1, 1), self.size)
        stride = [] if usual else [f"stride {shape_text(self.stride or ())}"]
        padding = [] if self.padding == "valid" else [_pad_text(self.padding)]
        return [*stride, *padding, *(["ceil"] if self.ceil_mode else [])]


class MaxPool(Pool):
    """Maximum over windows; incomplete windows are dropped without `ceil_mode`."""

    op: Literal["max_pool"]
    size: Size = Field(description="height and width of the window")
    stride: Size | None = Field(None, description="stride of the windows; default: size")
    padding: Annotated[Padding, ADDED] = Field(
        "valid", description="valid, same, or rows and columns added on each side"
    )
    ceil_mode: Annotated[bool, ADDED] = Field(
        False, description="keep incomplete windows at the end, as in PyTorch"
    )

    aliases = ("MaxPool2d", "MaxPooling2D", "max_pooling", "pool", "pooling", "pool2d")
    keeps_range = takes_largest = True

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (13)."""
        return max_pool_rule(self, site.in_shapes[0])


class AvgPool(Pool):
    """Mean over windows; incomplete windows are dropped without `ceil_mode`."""

    op: Literal["avg_pool"]
    size: Size = Field(description="height and width of the window")
    stride: Size | None = Field(None, description="stride of the windows; default: size")
    padding: Annotated[Padding, ADDED] = Field(
        "valid", description="valid, same, or zeros added on each side"
    )
    ceil_mode: Annotated[bool, ADDED] = Field(
        False, description="keep incomplete windows at the end, as in PyTorch"
    )
    count_include_pad: Annotated[bool, ADDED] = Field(
        True,
        description="count padding in the mean, as in PyTorch; Keras and TensorFlow do not",
    )

    aliases = ("AvgPool2d", "AveragePooling2D", "average_pool", "avg_pooling", "mean_pool")
    keeps_range = True

    def shares(self, shape: Shape) -> Array | None:
        """Size of a window divided by the number of values in its mean, (rows, columns).

        None if it is 1 everywhere.
        """
        import numpy as np

        pads, places = self.pads(shape), self.places(shape)
        counts = [self._counts(i, shape[i], pads[i], places[i]) for i in (0, 1)]
        values = np.outer(*counts)
        return None if (values == math.prod(self.size)).all() else math.prod(self.size) / values

    def _counts(self, axis: int, length: int, pad: Pair, number: int) -> Array:
        """Values in the mean of each window along an axis."""
        import numpy as np

        starts = np.arange(number) * self.steps[axis] - pad[0]
        low, high = (-pad[0], length + pad[1]) if self.count_include_pad else (0, length)
        return np.minimum(starts + self.size[axis], high) - np.maximum(starts, low)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (13)."""
        return avg_pool_rule(self, site.in_shapes[0])

    def variations(self) -> list[str]:
        """Also, whether padding counts."""
        return [*super().variations(), *([] if self.count_include_pad else ["pad not counted"])]


def _pad_text(padding: str | Pair) -> str:
    return f"pad {shape_text(padding)}" if isinstance(padding, tuple) else padding


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
      op: window, stride and padding.
      shape: input shape.
    """
    import numpy as np

    pads, count = op.reach(shape), op.places(shape)

    def largest(a: Array) -> tuple[Array, Array]:
        padded = _padded(a, pads, -np.inf)
        value = padded[window((0, 0), count, op.steps)]
        chosen = np.zeros(value.shape, int)
        for number, tap in enumerate(taps(op.size)):
            seen = padded[window(tap, count, op.steps)]
            chosen = np.where(seen > value, number, chosen)
            value = np.maximum(seen, value)
        return value, chosen

    def backward(delta: Array, a: Array) -> tuple[Array]:
        error, chosen = np.zeros_like(_padded(a, pads, 0)), largest(a)[1]
        for number, tap in enumerate(taps(op.size)):
            error[window(tap, count, op.steps)] += np.where(chosen == number, delta, 0)
        return (_inside(error, pads, a),)

    return Rule(lambda a: largest(a)[0], backward, side=lambda a: largest(a)[1])


def avg_pool_rule(op: AvgPool, shape: Shape) -> Rule:
    """Equation (13): the error is distributed evenly over the window."""
    import numpy as np

    pads, count = op.reach(shape), op.places(shape)
    shares = op.shares(shape)
    share = (1.0 if shares is None else shares[:, :, None]) / math.prod(op.size)

    def forward(a: Array) -> Array:
        padded = _padded(a, pads, 0)
        total = sum(padded[window(tap, count, op.steps)] for tap in taps(op.size))
        return np.asarray(total * share)

    def backward(delta: Array, a: Array) -> tuple[Array]:
        error = np.zeros_like(_padded(a, pads, 0))
        for tap in taps(op.size):
            error[window(tap, count, op.steps)] += delta * share
        return (_inside(error, pads, a),)

    return Rule(forward, backward)


def _padded(a: Array, pads: Pads, value: float) -> Array:
    import numpy as np

    return np.pad(a, ((0, 0), *pads, (0, 0)), constant_values=value)


def _inside(error: Array, pads: Pads, a: Array) -> Array:
    """Error of the image without its padding."""
    (top, _), (left, _) = pads
    return error[:, top : top + a.shape[1], left : left + a.shape[2]]


def global_avg_pool_rule() -> Rule:
    """Equation (13) with a single window, the whole image."""
    import numpy as np

    def backward(delta: Array, a: Array) -> tuple[Array]:
        share = delta[:, None, None, :] / math.prod(a.shape[1:3])
        return (np.broadcast_to(share, a.shape),)

    return Rule(lambda a: a.mean(axis=(1, 2), dtype=wider(a)).astype(a.dtype), backward)


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
