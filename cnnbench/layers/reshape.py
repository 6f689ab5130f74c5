"""Layers that move or repeat values, such as reshape, slice and upscale."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from cnnbench.layers import fields
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
from cnnbench.system.arrays import Array

Values = TypeVar("Values", bound=Any)  # an array of NumPy or JAX


class Flatten(Layer):
    """Flattens an image to a vector, in the order height, width, channels."""

    op: Literal["flatten"]

    aliases = ("Flatten", "ravel")
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """A vector of all values."""
        return LayerOutput((math.prod(shapes[0]),))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The whole input."""
        return whole_image(shape)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return reshape_rule(site.in_shapes[0], site.out_shape)


class Reshape(Layer):
    """Reshapes an image or a vector."""

    op: Literal["reshape"]
    shape: fields.ShapeField = Field(
        description="output shape, [height, width, channels] or [units]"
    )

    aliases = ("view", "Unflatten")
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The given shape."""
        have, want = math.prod(shapes[0]), math.prod(self.shape)
        if have != want:
            has = f"{shape_text(shapes[0])} has {have:,} values"
            message = f"{has}, but {shape_text(self.shape)} has {want:,}"
            raise ShapeError("shape", message, f"use a shape with {have:,} values")
        return LayerOutput(self.shape)

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The whole input."""
        return whole_image(shape)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return reshape_rule(site.in_shapes[0], site.out_shape)

    def options(self) -> list[str]:
        """The output shape."""
        return [shape_text(self.shape)]


class Permute(Layer):
    """Permutes the axes of an image, for example to exchange pixels and channels."""

    op: Literal["permute"]
    order: fields.Order = Field(
        description="axes of the input in the order of the output: 1 is the height, 2 the width,"
        " 3 the channels"
    )

    aliases = ("transpose", "rearrange", "swapaxes", "moveaxis")
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The sizes in the new order."""
        shape = image(shapes[0], self.op)
        return LayerOutput(tuple(shape[axis - 1] for axis in self.order))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The same rows and columns, or all that became channels."""
        rows, columns = whole_image(shape)
        kept = {1: rows, 2: columns} | dict(zip(self.order, box, strict=False))
        return kept[1], kept[2]

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return permute_rule(self.order)

    def options(self) -> list[str]:
        """The order."""
        return ["-".join(map(str, self.order))]


class Slice(Layer):
    """Selects contiguous channels of an image, or entries of a vector."""

    op: Literal["slice"]
    start: Annotated[int, Field(ge=0)] = Field(
        0, description="index of the first channel or entry, from 0"
    )
    size: fields.Count = Field(description="number of channels or entries")

    aliases = ("narrow",)
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The selected channels."""
        shape = shapes[0]
        if self.start + self.size > shape[-1]:
            values = "channels" if len(shape) == 3 else "values"
            last = self.start + self.size - 1
            message = f"{values} {self.start} to {last} are out of range: the input has {shape[-1]}"
            key = "size" if self.start < shape[-1] else "start"
            most = shape[-1] - (self.start if key == "size" else self.size)
            raise ShapeError(key, message, f"use at most {max(most, 0)}")
        return LayerOutput((*shape[:-1], self.size))

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return slice_rule(self, site.in_shapes[0][-1])

    def options(self) -> list[str]:
        """First and last index."""
        return [f"{self.start} to {self.start + self.size - 1}"]


class ZeroPad(Layer):
    """Adds rows, columns or channels of zeros to an image."""

    op: Literal["zero_pad"]
    padding: fields.Edges = Field(
        (0, 0, 0, 0),
        description="rows and columns to add: a number for all edges, [height, width], or"
        " [top, bottom, left, right]",
    )
    channels: fields.Ends = Field((0, 0), description="channels to add: [before, after]")

    aliases = ("ZeroPadding2D", "ZeroPad2d", "pad", "padding")
    keeps_range = masks = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """A larger image."""
        shape = image(shapes[0], self.op)
        if not any((*self.padding, *self.channels)):
            raise ShapeError("", "zero_pad adds nothing", "add padding: 1, or channels: [0, 8]")
        extra = _extra(self.padding), sum(self.channels)
        return LayerOutput((shape[0] + extra[0][0], shape[1] + extra[0][1], shape[2] + extra[1]))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The same pixels, counted from the edges of the input."""
        return _moved(box, -self.padding[0], -self.padding[2])

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return pad_rule(pad_widths(self.padding, self.channels))

    def options(self) -> list[str]:
        """Rows and columns."""
        return _edges_text(self.padding)

    def variations(self) -> list[str]:
        """Channels."""
        before, after = self.channels
        return [f"channels {before} + {after}"] if before or after else []


class Crop(Layer):
    """Removes rows and columns at the edges of an image."""

    op: Literal["crop"]
    cropping: fields.Edges = Field(
        description="rows and columns to remove: a number for all edges, [height, width], or"
        " [top, bottom, left, right]"
    )

    aliases = ("Cropping2D", "CenterCrop")
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """A smaller image."""
        height, width, channels = image(shapes[0], self.op)
        rows, columns = _extra(self.cropping)
        if rows >= height or columns >= width:
            message = f"removes all of the {shape_text(shapes[0])} input"
            remedy = f"remove at most {height - 1} rows and {width - 1} columns"
            raise ShapeError("cropping", message, remedy)
        return LayerOutput((height - rows, width - columns, channels))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The same pixels, counted from the edges of the input."""
        return _moved(box, self.cropping[0], self.cropping[2])

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return crop_rule(pad_widths(self.cropping))

    def options(self) -> list[str]:
        """Rows and columns."""
        return _edges_text(self.cropping)


def _extra(edges: tuple[int, int, int, int]) -> tuple[int, int]:
    """Number of rows and columns at the edges."""
    top, bottom, left, right = edges
    return top + bottom, left + right


def _moved(box: Box, rows: int, columns: int) -> Box:
    (top, bottom), (left, right) = box
    return (top + rows, bottom + rows), (left + columns, right + columns)


def _edges_text(edges: tuple[int, int, int, int]) -> list[str]:
    """Rows and columns at the edges, formatted for `summary`; empty if there are none."""
    top, bottom, left, right = edges
    if (top, left) == (bottom, right):
        return [shape_text((top, left))] if top or left else []
    return [f"{top} + {bottom} x {left} + {right}"]


def pad_widths(
    edges: tuple[int, int, int, int],
    channels: tuple[int, int] = (0, 0),
    axes: tuple[int, int] = (1, 2),
) -> list[tuple[int, int]]:
    """Rows, columns and channels as widths of `np.pad` for a batch of images.

    Args:
      edges: top, bottom, left, right.
      channels: before and after.
      axes: the axes of height and width.

    >>> pad_widths((1, 2, 3, 4))
    [(0, 0), (1, 2), (3, 4), (0, 0)]
    """
    widths = [(0, 0), (0, 0), (0, 0), channels]
    widths[axes[0]], widths[axes[1]] = edges[:2], edges[2:]
    return widths


def crop_slices(widths: list[tuple[int, int]]) -> tuple[slice, ...]:
    """The part of an array that `np.pad` with these widths would have added to."""
    return tuple(slice(before, -after or None) for before, after in widths)


def channels_first(order: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The order of a `permute` as that of batch, channels, height and width.

    >>> channels_first((1, 2, 3)), channels_first((1, 3, 2))
    ((0, 1, 2, 3), (0, 3, 2, 1))
    """
    place = {1: 2, 2: 3, 3: 1}
    height, width, channels = (place[axis] for axis in order)
    return 0, channels, height, width


class Upscale(Layer):
    """Repeats rows and columns (Lasagne's Upscale2DLayer)."""

    op: Literal["upscale"]
    size: fields.Size = Field(description="number of repetitions of each row and column")

    aliases = ("Upsample", "UpSampling2D", "upsampling", "unpool", "interpolate", "resize")
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """An image with every pixel repeated."""
        height, width, channels = image(shapes[0], "upscale")
        return LayerOutput((height * self.size[0], width * self.size[1], channels))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The pixels that are copied to the region."""
        rows, columns = ((box[i][0] // self.size[i], box[i][1] // self.size[i]) for i in (0, 1))
        return rows, columns

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return upscale_rule(self, site.in_shapes[0])

    def options(self) -> list[str]:
        """Number of repetitions."""
        return [shape_text(self.size)]


class ChannelShuffle(Layer):
    """Interleaves groups of channels (ShuffleNet; Zhang et al. 2018).

    Input channel `g * (channels / groups) + i` becomes output channel `i * groups + g`.
    """

    op: Literal["channel_shuffle"]
    groups: fields.Count = Field(description="number of groups of contiguous channels")

    aliases = ("ChannelShuffle", "shuffle_channels")
    main_options = ("groups",)
    keeps_range = True

    @property
    def channel_parts(self) -> int:
        """Number of groups."""
        return self.groups

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape."""
        shape = image(shapes[0], self.op)
        if shape[2] % self.groups:
            message = f"{_channels(shape[2])} cannot be divided into {self.groups} groups"
            raise ShapeError("groups", message, f"use a divisor of {shape[2]}")
        return LayerOutput(shape)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return shuffle_rule(self.groups, site.out_shape[2])


class SpaceToDepth(Layer):
    """Moves blocks of pixels to channels (PyTorch's PixelUnshuffle).

    TensorFlow's order of channels is `(i * size + j) * channels + c`.
    """

    op: Literal["space_to_depth"]
    size: fields.Count = Field(
        description="height and width of a block; its pixel (i, j) of channel c is channel"
        " (c * size + i) * size + j (PyTorch's order)"
    )

    aliases = ("PixelUnshuffle", "patchify", "unshuffle")
    main_options = ("size",)
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """A smaller image with more channels."""
        (height, width, channels), size = image(shapes[0], self.op), self.size
        if height % size or width % size:
            message = f"a {height}x{width} image cannot be divided into {size}x{size} blocks"
            divisor = f"use a divisor of {math.gcd(height, width)}"
            raise ShapeError("size", message, f"{divisor}, or add a crop or zero_pad before it")
        return LayerOutput((height // size, width // size, channels * size * size))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The pixels of the blocks."""
        rows, columns = ((low * self.size, (high + 1) * self.size - 1) for low, high in box)
        return rows, columns

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return block_rule(self)


class DepthToSpace(Layer):
    """Moves channels to blocks of pixels (PyTorch's PixelShuffle), the inverse of `space_to_depth`.

    TensorFlow's order of channels is `(i * size + j) * channels + c`.
    """

    op: Literal["depth_to_space"]
    size: fields.Count = Field(
        description="height and width of a block; its pixel (i, j) of channel c is channel"
        " (c * size + i) * size + j (PyTorch's order)"
    )

    aliases = ("PixelShuffle", "subpixel")
    main_options = ("size",)
    keeps_range = True

    @property
    def channel_parts(self) -> int:
        """Pixels of a block."""
        return self.size**2

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """A larger image with fewer channels."""
        (height, width, channels), size = image(shapes[0], self.op), self.size
        if channels % size**2:
            message = f"{_channels(channels)} cannot be divided into {size}x{size} blocks"
            raise ShapeError("size", message, f"use a multiple of {size**2} channels")
        return LayerOutput((height * size, width * size, channels // size**2))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The pixels whose channels are moved to the region."""
        rows, columns = ((low // self.size, high // self.size) for low, high in box)
        return rows, columns

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return block_rule(self)


def _channels(number: int) -> str:
    return "1 channel" if number == 1 else f"{number} channels"


def shuffled(x: Values, groups: int) -> Values:
    """Interleaves groups of channels, which are the last axis.

    >>> import numpy as np
    >>> shuffled(np.arange(6), 2).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    shape = x.shape
    result: Values = x.reshape(*shape[:-1], groups, -1).swapaxes(-1, -2).reshape(shape)
    return result


def to_depth(x: Values, size: int, axes: tuple[int, int] = (1, 2)) -> Values:
    """Moves blocks of pixels to channels.

    Args:
      x: images; the last axis is that of channels.
      size: height and width of a block.
      axes: the axes of height and width, which are adjacent.
    """
    row, column = axes
    height, width = x.shape[row] // size, x.shape[column] // size
    blocks = x.reshape(*x.shape[:row], height, size, width, size, *x.shape[column + 1 :])
    # The axes of a block become the last ones.
    order = [axis for axis in range(6) if axis not in (row + 1, row + 3)] + [row + 1, row + 3]
    moved = blocks.transpose(*order)
    result: Values = moved.reshape(*moved.shape[:3], -1)
    return result


def to_space(x: Values, size: int, axes: tuple[int, int] = (1, 2)) -> Values:
    """The inverse of `to_depth`, with the same arguments."""
    row, column = axes
    blocks = x.reshape(*x.shape[:3], -1, size, size)
    order = [0, 1, 2, 3]
    order.insert(column + 1, 5)
    order.insert(row + 1, 4)
    pixels = x.shape[row] * size, x.shape[column] * size
    moved = blocks.transpose(*order)
    result: Values = moved.reshape(*x.shape[:row], *pixels, *x.shape[column + 1 : 3], -1)
    return result


def moved_blocks(
    op: SpaceToDepth | DepthToSpace, x: Values, axes: tuple[int, int] = (1, 2)
) -> Values:
    """Output of a layer that moves blocks of pixels; `to_depth` has the other arguments."""
    return (to_depth if isinstance(op, SpaceToDepth) else to_space)(x, op.size, axes)


def shuffle_rule(groups: int, channels: int) -> Rule:
    """Equation (14): the errors are shuffled back."""
    back = channels // groups
    return Rule(lambda a: shuffled(a, groups), lambda delta, _: (shuffled(delta, back),))


def block_rule(op: SpaceToDepth | DepthToSpace) -> Rule:
    """Equation (14): the errors are moved back."""
    inverse = to_space if isinstance(op, SpaceToDepth) else to_depth
    return Rule(lambda a: moved_blocks(op, a), lambda delta, _: (inverse(delta, op.size),))


Rearrangement = (  # operations that move, repeat or remove values
    Upscale
    | Slice
    | ZeroPad
    | Crop
    | ChannelShuffle
    | SpaceToDepth
    | DepthToSpace
    | Flatten
    | Reshape
    | Permute
)


def upscale_rule(op: Upscale, shape: Shape) -> Rule:
    """Equation (14): the errors of a pixel's copies add up."""
    (height, width, channels), (rows, columns) = shape, op.size

    def backward(delta: Array, _: Array) -> tuple[Array]:
        copies = delta.reshape(-1, height, rows, width, columns, channels)
        return (copies.sum(axis=(2, 4)),)

    return Rule(lambda a: a.repeat(rows, axis=1).repeat(columns, axis=2), backward)


def slice_rule(op: Slice, total: int) -> Rule:
    """Equation (14): the channels that are not selected get no error."""
    import numpy as np

    after = total - op.start - op.size

    def backward(delta: Array, _: Array) -> tuple[Array]:
        return (np.pad(delta, [(0, 0)] * (delta.ndim - 1) + [(op.start, after)]),)

    return Rule(lambda a: a[..., op.start : op.start + op.size], backward)


def pad_rule(widths: list[tuple[int, int]]) -> Rule:
    """Equation (14): the zeros get no error."""
    import numpy as np

    inner = crop_slices(widths)
    return Rule(lambda a: np.pad(a, widths), lambda delta, _: (delta[inner],))


def crop_rule(widths: list[tuple[int, int]]) -> Rule:
    """Equation (14): the pixels that are removed get no error."""
    import numpy as np

    inner = crop_slices(widths)
    return Rule(lambda a: a[inner], lambda delta, _: (np.pad(delta, widths),))


def permute_rule(order: tuple[int, int, int]) -> Rule:
    """Equation (14): the inverse permutation."""
    back = sorted((1, 2, 3), key=lambda axis: order[axis - 1])
    return Rule(lambda a: a.transpose(0, *order), lambda delta, _: (delta.transpose(0, *back),))


def reshape_rule(before: Shape, after: Shape) -> Rule:
    """Equation (14): reshape, and its inverse; also for `flatten`."""
    return Rule(lambda a: a.reshape(-1, *after), lambda delta, _: (delta.reshape(-1, *before),))
