"""Layers that merge several inputs."""

from collections.abc import Mapping
from functools import reduce
from typing import Literal

from cnnbench.layers.base import (
    Box,
    Layer,
    LayerOutput,
    Owner,
    Rule,
    Shape,
    ShapeError,
    Site,
    whole_image,
)
from cnnbench.system.arrays import Array


class Merge(Layer):
    """Base class of layers with two or more inputs."""

    merges = True

    def check_inputs(self, num_inputs: int) -> None:
        """Requires two or more inputs."""
        if num_inputs < 2:
            message = f"{self.op} needs two or more inputs, got one"
            raise ShapeError("inputs", message, "use inputs: [FIRST, SECOND]")


class Concat(Merge):
    """Concatenates the channels of images, or the entries of vectors."""

    op: Literal["concat"]

    aliases = ("Concatenate", "cat", "concatenation", "merge")
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The sum of the channels."""
        if len({len(shape) for shape in shapes}) > 1:
            raise ShapeError(
                "inputs", "cannot concatenate images and vectors", "flatten the images first"
            )
        if len({shape[:-1] for shape in shapes}) > 1:
            message = "cannot concatenate images of different heights or widths"
            raise ShapeError("inputs", message, "make them equal, for example with padding: same")
        return LayerOutput((*shapes[0][:-1], sum(shape[-1] for shape in shapes)))

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return concat_rule(site.in_shapes)


class Add(Merge):
    """Sum of inputs of the same shape."""

    op: Literal["add"]

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The common shape."""
        return LayerOutput(same_shape(self.op, shapes))

    aliases = ("sum", "residual", "skip", "plus")

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return add_rule(len(site.in_shapes))


class Multiply(Merge):
    """Product of inputs of the same shape, or of an image and gates with one value per channel.

    A gate is a vector with one value per channel of the image, or a 1x1 image with as many
    channels. It multiplies every position (squeeze-and-excitation, Hu et al. 2018).
    """

    op: Literal["multiply"]

    aliases = ("mul", "product", "prod", "times")
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The common shape of all inputs except gates."""
        images = [shape for shape in shapes if len(shape) == 3]
        if not images:
            return LayerOutput(same_shape(self.op, shapes))
        large = [shape for shape in images if shape[:2] != (1, 1)] or images
        if len({shape[:2] for shape in large}) > 1:
            message = "cannot multiply images of different heights or widths"
            remedy = "make them equal, or reduce one to a value per channel with a global_avg_pool"
            raise ShapeError("inputs", message, remedy)
        channels = large[0][2]
        if any(shape[-1] != channels for shape in shapes):
            message = "cannot multiply different numbers of channels"
            remedy = f"use {channels} for all: a vector has one value per channel of an image"
            raise ShapeError("inputs", message, remedy)
        return LayerOutput(large[0])

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The same region, and all of a gate."""
        return box if shape == site.out_shape else whole_image(shape)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (20)."""
        return multiply_rule(len(site.out_shape) == 3)


def same_shape(op_name: str, shapes: tuple[Shape, ...]) -> Shape:
    """The common shape of all inputs.

    Raises:
      ShapeError: the shapes differ.
    """
    if len(set(shapes)) > 1:
        raise ShapeError(
            "inputs", f"{op_name} needs inputs of the same shape", "make the shapes equal"
        )
    return shapes[0]


def concat_rule(shapes: tuple[Shape, ...]) -> Rule:
    """Equation (14): each input gets its channels of the error."""
    import numpy as np

    ends = np.cumsum([shape[-1] for shape in shapes])[:-1].tolist()
    return Rule(
        lambda *inputs: np.concatenate(inputs, axis=-1),
        lambda delta, *_: tuple(np.split(delta, ends, axis=-1)),
    )


def add_rule(number: int) -> Rule:
    """Equation (14): each input gets the whole error."""
    return Rule(lambda first, *others: sum(others, first), lambda delta, *_: (delta,) * number)


def multiply_rule(is_image: bool) -> Rule:
    """Equation (20): each input gets the error times the others; a gate, the sum over positions.

    Args:
      is_image: True if the output is an image; vectors are gates then.
    """
    import numpy as np

    def spread(a: Array) -> Array:
        return a[:, None, None] if is_image and a.ndim == 2 else a

    def product(*factors: Array) -> Array:
        return np.asarray(reduce(np.multiply, map(spread, factors)))

    def share(number: int, delta: Array, inputs: tuple[Array, ...]) -> Array:
        error = product(delta, *inputs[:number], *inputs[number + 1 :])
        own = spread(inputs[number]).shape
        gated = tuple(axis for axis, size in enumerate(own) if size != error.shape[axis])
        summed: Array = error.sum(axis=gated, keepdims=True)
        return summed.reshape(inputs[number].shape)

    return Rule(
        product,
        lambda delta, *inputs: tuple(share(i, delta, inputs) for i in range(len(inputs))),
    )
