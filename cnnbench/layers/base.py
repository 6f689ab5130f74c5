"""Base class of layers: fields, shape inference, receptive field, and NumPy reference.

Shapes are plain integers without the batch axis: ``(height, width, channels)`` for an image,
``(units,)`` for a vector. Nothing here imports JAX, so invalid networks are reported within
milliseconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cnnbench.layers.fields import Inputs, Model
from cnnbench.system.arrays import Array

INPUT = "input"  # name of the input image in a graph of layers

Shape = tuple[int, ...]
Span = tuple[int, int]  # first and last row or column
Box = tuple[Span, Span]  # rows, columns


class ShapeError(Exception):
    """A layer cannot process its inputs; internal, converted to an issue by `graph`.

    Args:
      key: the invalid key of the layer, empty for the layer itself.
      message: what is wrong.
      remedy: what to change.
    """

    def __init__(self, key: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.key, self.message, self.remedy = key, message, remedy


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """Output shape, parameters and cost of a layer.

    Args:
      shape: output shape, without the batch axis.
      params: shapes of the parameters that the layer owns, by name.
      multiply_adds: multiply-adds of the forward pass for one image.
    """

    shape: Shape
    params: Mapping[str, Shape] = field(default_factory=dict)
    multiply_adds: int = 0


@dataclass(frozen=True, slots=True)
class Owner:
    """The layer that owns a tied kernel.

    Args:
      op: its operation.
      in_shape: shape of its input.
      out_shape: shape of its output.
    """

    op: "Layer"
    in_shape: Shape
    out_shape: Shape


@dataclass(frozen=True, slots=True)
class Site:
    """Context of a layer in a network.

    Args:
      in_shapes: input shapes.
      out_shape: output shape.
      owner: the operation that owns its kernel, if that is another layer.
    """

    in_shapes: tuple[Shape, ...]
    out_shape: Shape
    owner: "Layer | None" = None


@dataclass(frozen=True, slots=True)
class Rule:
    """NumPy reference of a layer, bound to its weights.

    Images are (n, height, width, channels), vectors (n, units). The forward pass ends at z (in the
    notation of the post); `gradcheck.backprop` applies the activation, so a `delta` is always the
    error of z. Equation numbers refer to docs/explanation/gradient.md.

    Args:
      forward: maps the inputs, one array each, to z.
      backward: maps delta, the error of z, and the inputs to the error of each input.
      gradient: maps the same to the gradient of each weight; for a tied kernel, the contribution
        of this layer.
      side: the side of its kinks that each value is on; None if the operation is smooth.
    """

    forward: Callable[..., Array]
    backward: Callable[..., tuple[Array, ...]]
    gradient: Callable[..., dict[str, Array]] = lambda *_: {}
    side: Callable[..., Array] | None = None


class Layer(Model):
    """Base class of operations; subclasses add fields and behavior."""

    inputs: Inputs = Field(None, description="input layers, by name; default: the previous layer")

    # Traits that other packages query instead of listing operations by name.
    merges: ClassVar[bool] = False  # takes several inputs
    convolves: ClassVar[bool] = False  # convolves images with a kernel
    width_key: ClassVar[str] = ""  # field with the number of output channels or units
    elementwise: ClassVar[bool] = False  # one input; output i depends on input i only
    training_only: ClassVar[bool] = False  # identity in evaluation
    corrupts: ClassVar[bool] = False  # noise that a denoising autoencoder learns to remove
    masks: ClassVar[bool] = False  # sets some values to exactly zero
    sums_places: ClassVar[bool] = False  # each value is a sum over all positions of an image
    takes_largest: ClassVar[bool] = False  # a maximum, whose derivative jumps at ties
    keeps_range: ClassVar[bool] = False  # maps inputs in [0, 1] to outputs in [0, 1]
    aliases: ClassVar[tuple[str, ...]] = ()  # names in PyTorch, Keras and Flax
    main_options: ClassVar[tuple[str, ...]] = ()  # numeric options shown by `summary`

    if TYPE_CHECKING:

        @property
        def op(self) -> str:
            """Name of the operation; a field of each subclass."""

    def check_inputs(self, num_inputs: int) -> None:
        """Checks the number of inputs.

        Raises:
          ShapeError: too few or too many inputs.
        """
        if num_inputs > 1:
            message = f"{self.op} takes one input, got {num_inputs}"
            raise ShapeError("inputs", message, "merge them with a concat or add layer first")

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """Infers output shape, parameters and cost.

        Args:
          shapes: input shapes, without the batch axis.
          owner: the convolution that it is tied to.

        Raises:
          ShapeError: the operation does not support these inputs.
        """
        raise NotImplementedError

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """Region of an input that a region of the output depends on.

        Default: the same region.

        Args:
          box: region of the output.
          shape: shape of the input.
          site: context of the layer.
        """
        return box

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """NumPy reference.

        Args:
          site: context of the layer.
          weights: kernel, bias and so on; a tied layer uses the kernel of its owner.
          drawn: random values of the layer, such as a dropout mask; None for the identity.
        """
        raise NotImplementedError

    @property
    def draws(self) -> bool:
        """True if the layer needs random numbers in training."""
        return False

    @property
    def channel_parts(self) -> int:
        """Number of groups, heads and so on that the channels are divided into."""
        return 1

    @property
    def is_trained(self) -> bool:
        """False if the layer has `trainable: false`."""
        return bool(getattr(self, "trainable", True))

    @property
    def uses_batch(self) -> bool:
        """True if the output of an image depends on the rest of its batch in training."""
        return False

    def drawn_shape(self, shape: Shape) -> Shape:
        """Shape of the random values for one image, which are broadcast to its output shape."""
        return shape

    def summary(self) -> str:
        """Short description: the operation and its main options.

        >>> from cnnbench.layers import Conv
        >>> Conv(op="conv", filters=32, kernel=5, stride=2, activation="relu").summary()
        'conv 32 @ 5x5, stride 2x2, relu'
        """
        owner = getattr(self, "weights", None)
        shared = [f"weights of {owner}"] if owner else []
        frozen = [] if self.is_trained else ["frozen"]
        name = " ".join([self.op, *self.options()])
        return ", ".join([name, *self.variations(), *shared, *frozen])

    def options(self) -> list[str]:
        """Main options, formatted for `summary`."""
        return [f"{getattr(self, name):g}" for name in self.main_options]

    def variations(self) -> list[str]:
        """Options with non-default values, formatted for `summary`."""
        return []


def shape_text(shape: Shape) -> str:
    """Formats a shape for tables and messages.

    >>> shape_text((28, 28, 1)), shape_text((256,))
    ('28x28x1', '256')
    """
    return "x".join(str(size) for size in shape)


def image(shape: Shape, op_name: str) -> Shape:
    """Returns the shape if it is that of an image.

    Raises:
      ShapeError: the shape is that of a vector.
    """
    if len(shape) != 3:
        raise ShapeError(
            "",
            f"{op_name} takes images, but its input is a vector of size {shape_text(shape)}",
            "add a reshape to [height, width, channels] before it",
        )
    return shape


def whole_image(shape: Shape) -> Box:
    """Region of a whole image; a vector counts as a single position."""
    height, width = shape[:2] if len(shape) == 3 else (1, 1)
    return (0, height - 1), (0, width - 1)


def identity() -> Rule:
    """Rule of the identity, for layers that only apply an activation."""
    return Rule(lambda a: a, lambda delta, _: (delta,))
