"""Which pixels of the image a value of a layer depends on."""

import math
from typing import assert_never

from cnnbench.graph.geometry import geometry
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import (
    INPUT,
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
    MaskingNoise,
    MaxPool,
    Reshape,
    Sample,
    Slice,
    Upscale,
)
from cnnbench.layers.shapes import Shape

Span = tuple[int, int]  # the first and the last of rows or columns
Box = tuple[Span, Span]  # rows, columns


def receptive_field(plan: Plan, layer: str, place: tuple[int, ...]) -> Box:
    """The rows and columns of the image that a value of a layer can depend on.

    Args:
      plan: the network.
      layer: a layer's name.
      place: row and column; empty for a layer of vectors.

    Returns:
      The smallest rectangle around them, without the padding.
    """
    shape = plan.by_name[layer].layout.shape
    boxes = {layer: (_point(place[0]), _point(place[1])) if place else _whole(shape)}
    for node in reversed(plan.nodes):
        if node.name not in boxes:
            continue
        for name, size in zip(node.inputs, node.in_shapes, strict=True):
            box = _clipped(_read(plan, node, size, boxes[node.name]), size)
            boxes[name] = _around(boxes.get(name, box), box)
    return boxes[INPUT]


def _point(at: int) -> Span:
    return at, at


def _whole(shape: Shape) -> Box:
    """All of an image; a vector is taken as a row of one."""
    height, width = shape[:2] if len(shape) == 3 else (1, 1)
    return (0, height - 1), (0, width - 1)


def _clipped(box: Box, shape: Shape) -> Box:
    (top, bottom), (left, right) = _whole(shape)
    (first, last), (start, end) = box
    return (max(first, top), min(last, bottom)), (max(start, left), min(end, right))


def _around(one: Box, other: Box) -> Box:
    rows, columns = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return rows, columns


def _read(plan: Plan, node: Node, size: Shape, box: Box) -> Box:
    """What of its input, of shape `size`, a layer reads for a part of its result."""
    op = node.op
    match op:
        case Conv():
            pads = geometry(plan, node)[1]
            return tuple(_window(box[i], op.kernel[i], op.stride[i], pads[i][0]) for i in (0, 1))  # type: ignore[return-value]
        case ConvTranspose():
            owner, pads, _ = geometry(plan, node)
            kernel = owner.kernel or (1, 1)
            return tuple(_stamps(box[i], kernel[i], owner.stride[i], pads[i][0]) for i in (0, 1))  # type: ignore[return-value]
        case MaxPool() | AvgPool():
            stride = op.stride or op.size
            return tuple(_window(box[i], op.size[i], stride[i], 0) for i in (0, 1))  # type: ignore[return-value]
        case Upscale():
            return tuple((box[i][0] // op.size[i], box[i][1] // op.size[i]) for i in (0, 1))  # type: ignore[return-value]
        case Activate() | Add() | BatchNorm() | Concat() | Slice():
            return box
        case Dropout() | GaussianNoise() | MaskingNoise() | Sample():
            return box
        case Dense() | Flatten() | GlobalAvgPool() | Reshape():
            return _whole(size)
        case _:
            assert_never(op)


def _window(span: Span, kernel: int, stride: int, pad: int) -> Span:
    """Inputs of a window that moves by `stride`.

    >>> _window((2, 3), kernel=5, stride=2, pad=1)
    (3, 9)
    """
    return span[0] * stride - pad, span[1] * stride - pad + kernel - 1


def _stamps(span: Span, kernel: int, stride: int, pad: int) -> Span:
    """Inputs whose stamps of a transposed convolution reach a part of its result.

    >>> _stamps((3, 9), kernel=5, stride=2, pad=1)
    (0, 5)
    """
    return math.ceil((span[0] + pad - kernel + 1) / stride), (span[1] + pad) // stride
