"""Convolution and its adjoint, the transposed convolution."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from cnnbench.layers.activation import Activation, activation_words
from cnnbench.layers.base import (
    Box,
    Layer,
    LayerOutput,
    Owner,
    Rule,
    Shape,
    ShapeError,
    Site,
    Span,
    image,
    shape_text,
)
from cnnbench.layers.correlation import (
    ConvGeometry,
    Pads,
    convolve_full,
    correlate,
    dilated,
    kernel_gradient,
)
from cnnbench.layers.fields import ADDED, DEPTHWISE, Count, Groups, Padding, Size
from cnnbench.layers.parameters import (
    OWN_WEIGHTS,
    TRAINABLE,
    BiasInit,
    Init,
    TrainableKey,
    WeightsKey,
    add_bias,
    bias_gradient,
    bias_shape,
)
from cnnbench.system.arrays import Array

OWNERS_KEYS = ("filters", "kernel", "stride", "padding", "init")  # not allowed together with `tie`


class Conv(Layer):
    """Convolution (cross-correlation, as in JAX, PyTorch and Keras), kernel (h, w, in, out).

    With groups, the kernel is (h, w, in / groups, out): each group of output channels reads one
    group of input channels.
    """

    op: Literal["conv"]
    filters: Count = Field(description="number of output channels")
    kernel: Size = Field(description="height and width of the kernel")
    stride: Size = Field((1, 1), description="stride, in rows and columns")
    padding: Padding = Field("valid", description="valid, same, or number of zeros on each side")
    activation: Activation = Field("linear", description="activation function")
    use_bias: bool = Field(True, description="add a bias per filter")
    init: Init = Field("glorot_uniform", description="kernel initializer")
    groups: Annotated[Groups, ADDED] = Field(
        1, description="number of groups of channels, or depthwise for one per input channel"
    )
    dilation: Annotated[Size, ADDED] = Field(
        (1, 1), description="distance between kernel taps, in rows and columns"
    )
    bias_init: Annotated[BiasInit, ADDED] = Field("zeros", description="bias initializer")
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("convolution", "Conv2d", "Conv2DLayer", "ConvLayer")
    convolves = True
    width_key = "filters"

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the window of the dilated kernel."""
        rows, columns = ((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        return rows, columns

    @property
    def is_plain(self) -> bool:
        """True if the convolution has neither groups nor dilation."""
        return self.groups == 1 and self.dilation == (1, 1)

    def num_groups(self, channels: int) -> int:
        """Number of groups for a number of input channels."""
        return channels if self.groups == DEPTHWISE else int(self.groups)

    @property
    def channel_parts(self) -> int:
        """Number of groups; a depthwise convolution has as many as there are channels."""
        return 1 if self.groups == DEPTHWISE else int(self.groups)

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """One value per kernel position and filter."""
        height, width, channels = image(shapes[0], "conv")
        rows, columns = conv_pads(self, shapes[0], self.extent)
        out = (
            conv_size(height, self.extent[0], self.stride[0], rows),
            conv_size(width, self.extent[1], self.stride[1], columns),
        )
        padded = [height + sum(rows), width + sum(columns)]
        if min(out) < 1 or padded[0] < self.extent[0] or padded[1] < self.extent[1]:
            kernel_text, input_text = shape_text(self.extent), shape_text(shapes[0])
            dilated_text = "" if self.extent == self.kernel else "dilated "
            message = f"a {kernel_text} {dilated_text}kernel is larger than the {input_text} input"
            raise ShapeError("kernel", message, f"use {padded} or less, or padding: same")
        groups = self._checked_groups(channels)
        if self.init == "whitening":
            self._check_whitening(channels)
        kernel = (*self.kernel, channels // groups, self.filters)
        params = {"kernel": kernel, **bias_shape(self.use_bias, self.filters)}
        return LayerOutput((*out, self.filters), params, math.prod(out) * math.prod(kernel))

    def _checked_groups(self, channels: int) -> int:
        """Number of groups.

        Raises:
          ShapeError: the channels cannot be divided into groups.
        """
        groups = self.num_groups(channels)
        if channels % groups:
            have = "1 input channel" if channels == 1 else f"{channels} input channels"
            message = f"{have} cannot be divided into {groups} groups"
            raise ShapeError("groups", message, f"use a divisor of {channels}")
        if self.filters % groups:
            message = f"{self.filters} filters cannot be divided into {groups} groups"
            raise ShapeError("filters", message, f"use a multiple of {groups}")
        return groups

    def _check_whitening(self, channels: int) -> None:
        """Whole patches, and each component with both signs."""
        if not self.is_plain:
            message = "whitening is for whole patches, without groups or dilation"
            raise ShapeError("init", message, "use orthogonal")
        wanted = 2 * math.prod(self.kernel) * channels
        if self.filters != wanted:
            patch = shape_text((*self.kernel, channels))
            message = f"whitening has two filters for each value of a {patch} patch"
            raise ShapeError("filters", message, f"use {wanted}")

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The windows of the region."""
        pads = conv_pads(self, shape, self.extent)
        rows, columns = (
            window_span(box[i], self.extent[i], self.stride[i], pads[i][0]) for i in (0, 1)
        )
        return rows, columns

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equations (4), (9), (11) and (12)."""
        of, groups = conv_geometry(self, site.in_shapes[0]), self.num_groups(site.in_shapes[0][2])
        if self.is_plain:
            return conv_rule(weights["kernel"], weights.get("bias"), of)
        return grouped_conv_rule(
            weights["kernel"], weights.get("bias"), of, groups=groups, dilation=self.dilation
        )

    def options(self) -> list[str]:
        """Filters and kernel."""
        return [f"{self.filters} @ {shape_text(self.kernel)}"]

    def variations(self) -> list[str]:
        """Stride, padding, groups, dilation and activation."""
        return [*_steps(self), *self._connections(), *activation_words(self.activation)]

    def _connections(self) -> list[str]:
        words = [] if self.dilation == (1, 1) else [f"dilation {shape_text(self.dilation)}"]
        if self.groups != 1:
            words.append(DEPTHWISE if self.groups == DEPTHWISE else f"{self.groups} groups")
        return words


class ConvTranspose(Layer):
    """Transposed convolution; with `tie`, the adjoint of that convolution."""

    op: Literal["conv_transpose"]
    tie: str | None = Field(
        None, description="name of a conv layer to share kernel, stride and padding with"
    )
    filters: Count | None = Field(None, description="number of output channels; not with tie")
    kernel: Size | None = Field(None, description="height and width of the kernel; not with tie")
    stride: Size = Field((1, 1), description="upsampling stride; not with tie")
    padding: Padding = Field(
        "valid", description="padding of the adjoint convolution; not with tie"
    )
    activation: Activation = Field("linear", description="activation function")
    use_bias: bool = Field(True, description="add a bias per output channel (not shared with tie)")
    init: Init = Field("glorot_uniform", description="kernel initializer; not with tie")
    bias_init: Annotated[BiasInit, ADDED] = Field("zeros", description="bias initializer")
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = (
        "ConvTranspose2d",
        "Conv2DTranspose",
        "TransposedConv",
        "deconv",
        "deconvolution",
        "TransposedConv2DLayer",
    )
    convolves = True
    width_key = "filters"

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The smallest image that the convolution maps to its input; if tied, its owner's input."""
        height, width, channels = image(shapes[0], "conv_transpose")
        kernel, filters = adjoint_kernel(self, channels, owner)
        if owner and shapes[0][:2] == owner.out_shape[:2]:
            out = owner.in_shape[:2]  # the exact adjoint, even if a stride dropped a border
        else:
            like = _conv_of(owner) if owner else self
            pads = (like.padding,) * 2 if isinstance(like.padding, str) else like.padding
            out = (
                transposed_size(height, kernel[0], like.stride[0], pads[0]),
                transposed_size(width, kernel[1], like.stride[1], pads[1]),
            )
        if min(out) < 1:
            message = f"the padding removes the whole output of a {shape_text(shapes[0])} input"
            raise ShapeError("padding", message, "use a smaller padding")
        params: dict[str, Shape] = {} if owner else {"kernel": (*kernel, filters, channels)}
        cost = height * width * math.prod(kernel) * channels * filters
        return LayerOutput((*out, filters), params | bias_shape(self.use_bias, filters), cost)

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The input values that contribute to the region."""
        like = site.owner or self
        assert isinstance(like, Conv | ConvTranspose)
        of = conv_geometry(like, site.out_shape)
        rows, columns = (
            stamp_span(box[i], of.kernel[i], of.stride[i], of.pads[i][0]) for i in (0, 1)
        )
        return rows, columns

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (15)."""
        like = site.owner or self
        assert isinstance(like, Conv | ConvTranspose)
        return conv_transpose_rule(
            weights["kernel"], weights.get("bias"), conv_geometry(like, site.out_shape)
        )

    def summary(self) -> str:
        """Short description, with the owner of a tied kernel."""
        if not self.tie:
            return super().summary()
        return ", ".join([f"{self.op} tied to {self.tie}", *self.variations()])

    def options(self) -> list[str]:
        """Filters and kernel."""
        return (
            [f"{self.filters} @ {shape_text(self.kernel)}"] if self.filters and self.kernel else []
        )

    def variations(self) -> list[str]:
        """Stride, padding and activation."""
        return [*_steps(self), *activation_words(self.activation)]


def _steps(op: Conv | ConvTranspose) -> list[str]:
    """Stride and padding, if not default."""
    words = [] if op.stride == (1, 1) else [f"stride {shape_text(op.stride)}"]
    if op.padding != "valid":
        padding = op.padding if isinstance(op.padding, str) else shape_text(op.padding)
        words.append(f"padding {padding}")
    return words


def _conv_of(owner: Owner) -> Conv:
    assert isinstance(owner.op, Conv)
    return owner.op


def adjoint_kernel(
    op: ConvTranspose, channels: int, owner: Owner | None
) -> tuple[tuple[int, int], int]:
    """Kernel size and number of output channels of a transposed convolution.

    Raises:
      ShapeError: they are missing, or in conflict with the owner's.
    """
    if owner:
        conv = _conv_of(owner)
        given = [key for key in OWNERS_KEYS if key in op.model_fields_set]
        if given:
            message = f"'{given[0]}' is inherited from '{op.tie}' (tie)"
            raise ShapeError(given[0], message, "remove it, or remove tie")
        if not conv.is_plain:
            key = "groups" if conv.groups != 1 else "dilation"
            message = f"'{op.tie}' has {key}, and its transpose is not supported"
            raise ShapeError("tie", message, f"remove {key} there, or remove tie")
        if channels != conv.filters:
            message = f"{channels} channels do not match the {conv.filters} filters of '{op.tie}'"
            remedy = f"use an input with {conv.filters} channels, or tie another layer"
            raise ShapeError("tie", message, remedy)
        return conv.kernel, owner.in_shape[2]
    if op.filters is None or op.kernel is None:
        missing = "filters" if op.filters is None else "kernel"
        raise ShapeError("", f"'{missing}' is missing", f"add {missing}, or tie: LAYER")
    return op.kernel, op.filters


def conv_rule(w: Array, b: Array | None, geometry: ConvGeometry) -> Rule:
    """Equations (4) forward, (9) backward, (11) for the kernel and (12) for the bias."""
    return Rule(
        forward=lambda a: add_bias(correlate(a, w, geometry), b),
        backward=lambda delta, _: (convolve_full(delta, w, geometry),),
        gradient=lambda delta, a: (
            {"kernel": kernel_gradient(a, delta, w.shape, geometry)} | bias_gradient(delta, b)
        ),
    )


def grouped_conv_rule(
    w: Array, b: Array | None, geometry: ConvGeometry, *, groups: int, dilation: tuple[int, int]
) -> Rule:
    """The equations of `conv_rule` for each group of channels, with zeros between kernel taps.

    Args:
      w: kernel, (rows, columns, in / groups, out).
      b: one value per output channel.
      geometry: of the convolution with the dilated kernel.
      groups: number of groups of channels.
      dilation: distance between kernel taps, in rows and columns.
    """
    import numpy as np

    kernels = np.split(dilated(w, dilation), groups, axis=3)
    rules = [conv_rule(kernel, None, geometry) for kernel in kernels]

    def joined(result: Callable[..., Array], *arrays: Array) -> Array:
        """Applies a rule to the channels of each group, and joins the results."""
        parts = (np.split(a, groups, axis=3) for a in arrays)
        return np.concatenate([result(*each) for each in zip(rules, *parts, strict=True)], axis=3)

    def gradient(delta: Array, a: Array) -> dict[str, Array]:
        found = joined(lambda rule, d, x: rule.gradient(d, x)["kernel"], delta, a)
        return {"kernel": found[:: dilation[0], :: dilation[1]]} | bias_gradient(delta, b)

    return Rule(
        forward=lambda a: add_bias(joined(lambda rule, x: rule.forward(x), a), b),
        backward=lambda delta, a: (joined(lambda rule, d, x: rule.backward(d, x)[0], delta, a),),
        gradient=gradient,
    )


def conv_transpose_rule(w: Array, b: Array | None, geometry: ConvGeometry) -> Rule:
    """Equation (15), the adjoint: its forward pass is the backward pass of `conv`, and vice versa.

    Args:
      w: kernel of the adjoint convolution, (rows, columns, in, out).
      b: one value per input channel of that convolution.
      geometry: of that convolution, whose input is the output here.
    """
    return Rule(
        forward=lambda a: add_bias(convolve_full(a, w, geometry), b),
        backward=lambda delta, _: (correlate(delta, w, geometry),),
        gradient=lambda delta, a: (
            {"kernel": kernel_gradient(delta, a, w.shape, geometry)} | bias_gradient(delta, b)
        ),
    )


def conv_geometry(op: Conv | ConvTranspose, shape: Shape) -> ConvGeometry:
    """Geometry of the convolution of an image of this shape by a layer."""
    kernel = op.extent if isinstance(op, Conv) else op.kernel
    assert kernel is not None
    return ConvGeometry((shape[0], shape[1]), kernel, op.stride, conv_pads(op, shape, kernel))


def conv_size(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """Output size of a convolution along one axis (Dumoulin & Visin 2016, relationship 6).

    >>> conv_size(28, 5, 1, (0, 0))
    24
    """
    return (size + sum(pad) - kernel) // stride + 1


def same_pad(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after for ceil(size / stride) outputs (TensorFlow's SAME).

    >>> same_pad(28, 5, 1), same_pad(28, 2, 2)
    ((2, 2), (0, 0))
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv_pads(op: Conv | ConvTranspose, size: tuple[int, ...], kernel: tuple[int, ...]) -> Pads:
    """Padding before and after rows and columns for an image of `size` (height, width)."""
    match op.padding:
        case "valid":
            return (0, 0), (0, 0)
        case "same":
            rows, columns = (same_pad(size[i], kernel[i], op.stride[i]) for i in (0, 1))
            return rows, columns
        case (height, width):
            return (height, height), (width, width)


def transposed_size(size: int, kernel: int, stride: int, padding: str | int) -> int:
    """The smallest input of a convolution with `size` outputs along one axis.

    For ``same`` it is `size * stride`, as in other libraries.

    >>> transposed_size(8, 5, 1, "valid"), transposed_size(7, 3, 2, "same")
    (12, 14)
    """
    if padding == "same":
        return size * stride
    pad = 0 if isinstance(padding, str) else padding
    return (size - 1) * stride + kernel - 2 * pad


def window_span(span: Span, kernel: int, stride: int, pad: int) -> Span:
    """Span of inputs for a span of outputs of a sliding window.

    >>> window_span((2, 3), kernel=5, stride=2, pad=1)
    (3, 9)
    """
    return span[0] * stride - pad, span[1] * stride - pad + kernel - 1


def stamp_span(span: Span, kernel: int, stride: int, pad: int) -> Span:
    """Span of inputs of a transposed convolution that contribute to a span of its output.

    >>> stamp_span((3, 9), kernel=5, stride=2, pad=1)
    (0, 5)
    """
    return math.ceil((span[0] + pad - kernel + 1) / stride), (span[1] + pad) // stride
