"""What each operation does to a shape, which parameters it has, and what it costs.

Shapes are plain integers without the batch: ``(height, width, channels)`` for
an image, ``(units,)`` for a vector. Nothing here imports JAX, so a wrong
network is refused in milliseconds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from cnnbench.layers import (
    Activate,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    GlobalAvgPool,
    LayerOp,
    MaskingNoise,
    MaxPool,
    Reshape,
    Sample,
    Slice,
    Upscale,
)
from cnnbench.layers.conv_arithmetic import conv_pads, conv_size, transposed_size

Shape = tuple[int, ...]
_MOMENTS = "write inputs: [MEAN, LOG_VARIANCE]"
OWNERS_KEYS = ("filters", "kernel", "stride", "padding", "init")  # not written beside `tie`


class ShapeError(Exception):
    """A layer cannot take its input; internal, turned into a flaw by `graph`.

    Args:
      key: the key of the layer that is to blame, empty for the layer itself.
    """

    def __init__(self, key: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.key, self.message, self.remedy = key, message, remedy


@dataclass(frozen=True, slots=True)
class Layout:
    """What a layer turns its inputs into.

    Args:
      shape: the result's shape, without the batch.
      params: shape of each parameter of its own, by name.
      multiply_adds: multiply-adds for one image, forward.
    """

    shape: Shape
    params: Mapping[str, Shape] = field(default_factory=dict)
    multiply_adds: int = 0


def shape_text(shape: Shape) -> str:
    """A shape as tables and messages write it.

    >>> shape_text((28, 28, 1)), shape_text((256,))
    ('28x28x1', '256')
    """
    return "x".join(str(size) for size in shape)


def operation_text(op: LayerOp) -> str:
    """An operation and its main options in a few words.

    >>> from cnnbench.layers import Conv
    >>> operation_text(Conv(op="conv", filters=32, kernel=5, stride=2, activation="relu"))
    'conv 32 @ 5x5, stride 2x2, relu'
    """
    if isinstance(op, ConvTranspose) and op.tie:
        words = [f"{op.op} tied to {op.tie}"]
    else:
        words = [" ".join([op.op, *_main_options(op)])]
    stride, padding = getattr(op, "stride", None), getattr(op, "padding", "valid")
    if stride not in (None, (1, 1), getattr(op, "size", None)):
        words.append(f"stride {shape_text(stride)}")
    if padding != "valid":
        words.append(f"padding {padding if isinstance(padding, str) else shape_text(padding)}")
    activation = getattr(op, "activation", "linear")
    return ", ".join([*words, *([activation] if activation != "linear" else [])])


def _main_options(op: LayerOp) -> list[str]:
    filters, kernel = getattr(op, "filters", None), getattr(op, "kernel", None)
    options = [f"{filters} @ {shape_text(kernel)}"] if filters and kernel else []
    for key in ("size", "shape"):
        value = getattr(op, key, None)
        options += [shape_text(value)] if value else []
    if isinstance(op, Slice):
        return [f"{op.start} to {op.start + op.size - 1}"]
    keys = ("units", "rate", "stddev", "kl_weight")
    return options + [f"{getattr(op, key):g}" for key in keys if hasattr(op, key)]


def _image(shape: Shape, op_name: str) -> Shape:
    if len(shape) != 3:
        raise ShapeError(
            "",
            f"{op_name} reads images, and its input is a vector of {shape_text(shape)}",
            "put a reshape to [height, width, channels] before it",
        )
    return shape


def _bias(op: Conv | ConvTranspose | Dense, size: int) -> dict[str, Shape]:
    return {"bias": (size,)} if op.use_bias else {}


def _conv(op: Conv, shape: Shape) -> Layout:
    height, width, channels = _image(shape, "conv")
    rows, columns = conv_pads(op, shape, op.kernel)
    out = (
        conv_size(height, op.kernel[0], op.stride[0], rows),
        conv_size(width, op.kernel[1], op.stride[1], columns),
    )
    if min(out) < 1 or height + sum(rows) < op.kernel[0] or width + sum(columns) < op.kernel[1]:
        message = f"a {shape_text(op.kernel)} kernel does not fit into {shape_text(shape)}"
        largest = [height + sum(rows), width + sum(columns)]
        raise ShapeError("kernel", message, f"write at most {largest}, or padding: same")
    kernel = (*op.kernel, channels, op.filters)
    params = {"kernel": kernel, **_bias(op, op.filters)}
    return Layout((*out, op.filters), params, math.prod(out) * math.prod(kernel))


@dataclass(frozen=True, slots=True)
class TiedConv:
    """The convolution that a transposed one shares its kernel with.

    Args:
      op: its operation.
      in_shape: the image it reads.
      out_shape: the image it makes.
    """

    op: Conv
    in_shape: Shape
    out_shape: Shape


def _conv_transpose(op: ConvTranspose, shape: Shape, owner: TiedConv | None) -> Layout:
    height, width, channels = _image(shape, "conv_transpose")
    kernel, filters = adjoint_kernel(op, channels, owner)
    if owner and shape[:2] == owner.out_shape[:2]:
        out = owner.in_shape[:2]  # the exact adjoint, also where a stride dropped a border
    else:
        like = owner.op if owner else op
        pads = (like.padding,) * 2 if isinstance(like.padding, str) else like.padding
        out = (
            transposed_size(height, kernel[0], like.stride[0], pads[0]),
            transposed_size(width, kernel[1], like.stride[1], pads[1]),
        )
    if min(out) < 1:
        message = f"nothing is left of {shape_text(shape)} after the padding is cut off"
        raise ShapeError("padding", message, "write a smaller padding")
    params: dict[str, Shape] = {} if owner else {"kernel": (*kernel, filters, channels)}
    cost = height * width * math.prod(kernel) * channels * filters
    return Layout((*out, filters), params | _bias(op, filters), cost)


def adjoint_kernel(
    op: ConvTranspose, channels: int, owner: TiedConv | None
) -> tuple[tuple[int, int], int]:
    """Kernel size and number of output channels of a transposed convolution."""
    if owner:
        given = [key for key in OWNERS_KEYS if key in op.model_fields_set]
        if given:
            message = f"'{given[0]}' is that of '{op.tie}', which the layer is tied to"
            raise ShapeError(given[0], message, "remove it, or remove tie")
        if channels != owner.op.filters:
            message = f"{channels} channels do not fit the {owner.op.filters} filters of '{op.tie}'"
            remedy = f"make its input {owner.op.filters} channels deep, or tie another layer"
            raise ShapeError("tie", message, remedy)
        return owner.op.kernel, owner.in_shape[2]
    if op.filters is None or op.kernel is None:
        missing = "filters" if op.filters is None else "kernel"
        raise ShapeError("", f"'{missing}' is missing", f"write {missing}, or tie: LAYER")
    return op.kernel, op.filters


def _pool(op: MaxPool | AvgPool, shape: Shape) -> Layout:
    height, width, channels = _image(shape, op.op)
    if op.size[0] > height or op.size[1] > width:
        message = f"a {shape_text(op.size)} window does not fit into {shape_text(shape)}"
        raise ShapeError("size", message, f"write at most {[height, width]}")
    stride = op.stride or op.size
    rows = conv_size(height, op.size[0], stride[0], (0, 0))
    columns = conv_size(width, op.size[1], stride[1], (0, 0))
    return Layout((rows, columns, channels))


def _upscale(op: Upscale, shape: Shape) -> Layout:
    height, width, channels = _image(shape, "upscale")
    return Layout((height * op.size[0], width * op.size[1], channels))


def _dense(op: Dense, shape: Shape) -> Layout:
    kernel = (math.prod(shape), op.units)
    return Layout((op.units,), {"kernel": kernel, **_bias(op, op.units)}, math.prod(kernel))


def _reshape(op: Reshape, shape: Shape) -> Layout:
    have, want = math.prod(shape), math.prod(op.shape)
    if have != want:
        message = f"{shape_text(shape)} has {have:,} values and {shape_text(op.shape)} has {want:,}"
        raise ShapeError("shape", message, f"write a shape of {have:,} values")
    return Layout(op.shape)


def _concat(shapes: tuple[Shape, ...]) -> Layout:
    if len({len(shape) for shape in shapes}) > 1:
        raise ShapeError("inputs", "cannot join images and vectors", "flatten the images first")
    if len({shape[:-1] for shape in shapes}) > 1:
        message = "cannot join images of different height or width"
        raise ShapeError("inputs", message, "make them equal, for example with padding: same")
    return Layout((*shapes[0][:-1], sum(shape[-1] for shape in shapes)))


def _alike(op: Add | Sample, shapes: tuple[Shape, ...]) -> Layout:
    if len(set(shapes)) > 1:
        raise ShapeError("inputs", f"cannot {op.op} different shapes", "make the shapes equal")
    return Layout(shapes[0])


def _slice(op: Slice, shape: Shape) -> Layout:
    if op.start + op.size > shape[-1]:
        values = "channels" if len(shape) == 3 else "values"
        message = f"{op.start} to {op.start + op.size - 1} are not all among {shape[-1]} {values}"
        key = "size" if op.start < shape[-1] else "start"
        most = shape[-1] - (op.start if key == "size" else op.size)
        raise ShapeError(key, f"{values} {message}", f"write at most {max(most, 0)}")
    return Layout((*shape[:-1], op.size))


def _check_inputs(op: LayerOp, num_inputs: int) -> None:
    if isinstance(op, Sample):
        if num_inputs != 2:
            message = f"sample reads {num_inputs} layers, and needs two"
            raise ShapeError("inputs", message.replace("1 layers", "one layer"), _MOMENTS)
        return
    many = isinstance(op, (Concat, Add))
    if many and num_inputs < 2:
        message = f"{op.op} reads one layer, and needs two or more"
        raise ShapeError("inputs", message, "write inputs: [FIRST, SECOND]")
    if not many and num_inputs > 1:
        message = f"{op.op} reads {num_inputs} layers, and takes one"
        raise ShapeError("inputs", message, "join them with a concat or an add first")


def layout(op: LayerOp, shapes: tuple[Shape, ...], owner: TiedConv | None = None) -> Layout:
    """Shape rule, parameters and cost of an operation.

    Args:
      op: the operation.
      shapes: shapes of its inputs, without the batch.
      owner: the convolution that a conv_transpose is tied to.

    Raises:
      ShapeError: the operation cannot take these inputs.

    >>> from cnnbench.layers import Conv
    >>> layout(Conv(op="conv", filters=32, kernel=5), ((28, 28, 1),)).shape
    (24, 24, 32)
    """
    _check_inputs(op, len(shapes))
    shape = shapes[0]
    match op:
        case Conv():
            return _conv(op, shape)
        case ConvTranspose():
            return _conv_transpose(op, shape, owner)
        case MaxPool() | AvgPool():
            return _pool(op, shape)
        case Upscale():
            return _upscale(op, shape)
        case Dense():
            return _dense(op, shape)
        case Dropout() | GaussianNoise() | MaskingNoise() | Activate():
            return Layout(shape)
        case Slice():
            return _slice(op, shape)
        case Flatten():
            return Layout((math.prod(shape),))
        case Reshape():
            return _reshape(op, shape)
        case Concat():
            return _concat(shapes)
        case Add() | Sample():
            return _alike(op, shapes)
        case BatchNorm():
            return Layout(shape, {"scale": (shape[-1],), "bias": (shape[-1],)})
        case GlobalAvgPool():
            return Layout((_image(shape, "global_avg_pool")[2],))
        case _:
            assert_never(op)
