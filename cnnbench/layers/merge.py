"""Layers that join several others."""

from collections.abc import Mapping
from typing import Literal

from cnnbench.layers.base import Layer, LayerOutput, Owner, Rule, Shape, ShapeError, Site
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
