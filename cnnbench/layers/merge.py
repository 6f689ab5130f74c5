"""Layers that join several others."""

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
    """What layers that read two others or more share."""

    merges = True

    def check_inputs(self, num_inputs: int) -> None:
        """Two or more."""
        if num_inputs < 2:
            message = f"{self.op} reads one layer, and needs two or more"
            raise ShapeError("inputs", message, "write inputs: [FIRST, SECOND]")


class Concat(Merge):
    """Inputs side by side: channels of images, entries of vectors."""

    op: Literal["concat"]

    aliases = ("Concatenate", "cat", "concatenation", "merge")
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The sum of the channels."""
        if len({len(shape) for shape in shapes}) > 1:
            raise ShapeError("inputs", "cannot join images and vectors", "flatten the images first")
        if len({shape[:-1] for shape in shapes}) > 1:
            message = "cannot join images of different height or width"
            raise ShapeError("inputs", message, "make them equal, for example with padding: same")
        return LayerOutput((*shapes[0][:-1], sum(shape[-1] for shape in shapes)))

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return concat_rule(site.in_shapes)


class Add(Merge):
    """Sum of inputs of one shape."""

    op: Literal["add"]

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The shape that all of them have."""
        return LayerOutput(same_shape(self.op, shapes))

    aliases = ("sum", "residual", "skip", "shortcut", "plus")

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return add_rule(len(site.in_shapes))


class Multiply(Merge):
    """Product of inputs of one shape; an image also takes gates, one value per channel.

    A gate is a vector with a value for each channel of the image, or a 1x1 image of as many
    channels. It multiplies every place (squeeze-and-excitation, Hu et al. 2018).
    """

    op: Literal["multiply"]

    aliases = ("mul", "product", "prod", "times")
    keeps_range = True

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The shape that all of them have, but for gates."""
        images = [shape for shape in shapes if len(shape) == 3]
        if not images:
            return LayerOutput(same_shape(self.op, shapes))
        large = [shape for shape in images if shape[:2] != (1, 1)] or images
        if len({shape[:2] for shape in large}) > 1:
            message = "cannot multiply images of different height or width"
            remedy = "make them equal, or reduce one to a value per channel with a global_avg_pool"
            raise ShapeError("inputs", message, remedy)
        channels = large[0][2]
        if any(shape[-1] != channels for shape in shapes):
            message = "cannot multiply different numbers of channels"
            remedy = f"make all of them {channels}: a vector has one value per channel of an image"
            raise ShapeError("inputs", message, remedy)
        return LayerOutput(large[0])

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """Its own place, and all of a gate."""
        return box if shape == site.out_shape else whole_image(shape)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (20)."""
        return multiply_rule(len(site.out_shape) == 3)


def same_shape(op_name: str, shapes: tuple[Shape, ...]) -> Shape:
    """The shape that all inputs have.

    Raises:
      ShapeError: they differ.
    """
    if len(set(shapes)) > 1:
        raise ShapeError("inputs", f"cannot {op_name} different shapes", "make the shapes equal")
    return shapes[0]


def concat_rule(shapes: tuple[Shape, ...]) -> Rule:
    """Equation (14): each input takes its own channels of the error."""
    import numpy as np

    ends = np.cumsum([shape[-1] for shape in shapes])[:-1].tolist()
    return Rule(
        lambda *inputs: np.concatenate(inputs, axis=-1),
        lambda delta, *_: tuple(np.split(delta, ends, axis=-1)),
    )


def add_rule(number: int) -> Rule:
    """Equation (14): each input takes the whole error."""
    return Rule(lambda first, *others: sum(others, first), lambda delta, *_: (delta,) * number)


def multiply_rule(is_image: bool) -> Rule:
    """Equation (20): each input takes the error times the others; a gate, the sum over places.

    Args:
      is_image: whether the result is an image; vectors are gates then.
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
