"""Layers that rearrange values: reshape, slice, upscale."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

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


def reshape_rule(before: Shape, after: Shape) -> Rule:
    """Equation (14): reshape, and its inverse; also for `flatten`."""
    return Rule(lambda a: a.reshape(-1, *after), lambda delta, _: (delta.reshape(-1, *before),))
