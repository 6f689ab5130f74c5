"""What a layer of the language is: its fields, shape rule, receptive field, and NumPy reference.

Shapes are plain integers without the batch: ``(height, width, channels)`` for an image,
``(units,)`` for a vector. Nothing here imports JAX, so a wrong network is refused in milliseconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cnnbench.layers.fields import Inputs, Model
from cnnbench.system.arrays import Array

INPUT = "input"  # the name of the image in a graph of layers

Shape = tuple[int, ...]
Span = tuple[int, int]  # the first and the last of rows or columns
Box = tuple[Span, Span]  # rows, columns


class ShapeError(Exception):
    """A layer cannot take its input; internal, turned into an issue by `graph`.

    Args:
      key: the key of the layer that is to blame, empty for the layer itself.
    """

    def __init__(self, key: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.key, self.message, self.remedy = key, message, remedy


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """What a layer turns its inputs into.

    Args:
      shape: the result's shape, without the batch.
      params: shape of each parameter of its own, by name.
      multiply_adds: multiply-adds for one image, forward.
    """

    shape: Shape
    params: Mapping[str, Shape] = field(default_factory=dict)
    multiply_adds: int = 0


@dataclass(frozen=True, slots=True)
class Owner:
    """The layer whose kernel another one is tied to.

    Args:
      op: its operation.
      in_shape: the image it reads.
      out_shape: the image it makes.
    """

    op: "Layer"
    in_shape: Shape
    out_shape: Shape


@dataclass(frozen=True, slots=True)
class Site:
    """Where a layer stands in a network.

    Args:
      in_shapes: the shapes it reads.
      out_shape: the shape of its result.
      owner: the operation whose kernel it uses, where that is another layer's.
    """

    in_shapes: tuple[Shape, ...]
    out_shape: Shape
    owner: "Layer | None" = None


@dataclass(frozen=True, slots=True)
class Rule:
    """NumPy reference of one layer, with its weights in it.

    Images are (n, height, width, channels), vectors (n, units). The forward pass ends at z, in the
    words of the post; the activation that follows is `gradcheck.backprop`'s, so that a `delta` is
    always the error of z. Equations are numbered as in docs/explanation/gradient.md.

    Args:
      forward: z from what the layer reads, one array for each input.
      backward: the error of each input from delta, the error of z, and the inputs.
      gradient: the derivative of the cost by each weight that is used, from the same; a tied
        kernel's is this use's share.
      side: on which side of its kinks each value is; None where the operation is smooth.
    """

    forward: Callable[..., Array]
    backward: Callable[..., tuple[Array, ...]]
    gradient: Callable[..., dict[str, Array]] = lambda *_: {}
    side: Callable[..., Array] | None = None


class Layer(Model):
    """An operation: a subclass adds its fields and says what it does."""

    inputs: Inputs = Field(
        None, description="the layers read, by name; the previous layer if left out"
    )

    # What other packages ask of an operation, so that none of them lists operations by name.
    merges: ClassVar[bool] = False  # reads several layers of one kind
    convolves: ClassVar[bool] = False  # lays a kernel on images
    width_key: ClassVar[str] = ""  # the field that says how many channels or units it gives
    elementwise: ClassVar[bool] = False  # reads one layer, and keeps each value in its place
    training_only: ClassVar[bool] = False  # gives in evaluation what it reads
    corrupts: ClassVar[bool] = False  # noise, which an autoencoder may learn to remove
    masks: ClassVar[bool] = False  # makes some values exactly zero
    uses_batch: ClassVar[bool] = False  # an image's result depends on the others of its batch
    sums_places: ClassVar[bool] = False  # each value is a sum over all places of an image
    takes_largest: ClassVar[bool] = False  # a maximum: slopes jump where values are equal
    keeps_range: ClassVar[bool] = False  # gives values from 0 to 1 where it reads such
    aliases: ClassVar[tuple[str, ...]] = ()  # words of PyTorch, Keras and Flax for the same
    main_options: ClassVar[tuple[str, ...]] = ()  # numbers that `summary` shows

    if TYPE_CHECKING:

        @property
        def op(self) -> str:
            """The name of the operation; a field of each subclass."""

    def check_inputs(self, num_inputs: int) -> None:
        """Checks how many layers it reads.

        Raises:
          ShapeError: too few or too many.
        """
        if num_inputs > 1:
            message = f"{self.op} reads {num_inputs} layers, and takes one"
            raise ShapeError("inputs", message, "join them with a concat or an add first")

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """Shape rule, parameters and cost.

        Args:
          shapes: shapes of its inputs, without the batch.
          owner: the convolution that it is tied to.

        Raises:
          ShapeError: the operation cannot take these inputs.
        """
        raise NotImplementedError

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The part of an input of a given shape that a part of the result depends on.

        By default, each value reads its own place.
        """
        return box

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """NumPy reference.

        Args:
          site: where the layer stands.
          weights: kernel, bias and so on; a tied layer's kernel is its owner's.
          drawn: what a random layer has drawn, such as a dropout's mask; None for one that lets
            everything through.
        """
        raise NotImplementedError

    @property
    def draws(self) -> bool:
        """Tells whether it needs random numbers in training."""
        return False

    def summary(self) -> str:
        """The operation and its main options in a few words.

        >>> from cnnbench.layers import Conv
        >>> Conv(op="conv", filters=32, kernel=5, stride=2, activation="relu").summary()
        'conv 32 @ 5x5, stride 2x2, relu'
        """
        return ", ".join([" ".join([self.op, *self.options()]), *self.variations()])

    def options(self) -> list[str]:
        """The options that say most, as `summary` writes them."""
        return [f"{getattr(self, name):g}" for name in self.main_options]

    def variations(self) -> list[str]:
        """Options that are not as usual, as `summary` writes them."""
        return []


def shape_text(shape: Shape) -> str:
    """A shape as tables and messages write it.

    >>> shape_text((28, 28, 1)), shape_text((256,))
    ('28x28x1', '256')
    """
    return "x".join(str(size) for size in shape)


def image(shape: Shape, op_name: str) -> Shape:
    """The shape of an image.

    Raises:
      ShapeError: it is that of a vector.
    """
    if len(shape) != 3:
        raise ShapeError(
            "",
            f"{op_name} reads images, and its input is a vector of {shape_text(shape)}",
            "put a reshape to [height, width, channels] before it",
        )
    return shape


def whole_image(shape: Shape) -> Box:
    """All of an image; a vector is taken as a row of one."""
    height, width = shape[:2] if len(shape) == 3 else (1, 1)
    return (0, height - 1), (0, width - 1)


def identity() -> Rule:
    """A layer that is nothing but its activation."""
    return Rule(lambda a: a, lambda delta, _: (delta,))
