"""Receptive fields of layers."""

from cnnbench.graph.plan import Plan
from cnnbench.layers.base import INPUT, Box, Shape, Span, whole_image


def receptive_field(plan: Plan, layer: str, place: tuple[int, ...]) -> Box:
    """Receptive field of a value of a layer: the pixels it can depend on.

    Args:
      plan: the network.
      layer: name of a layer.
      place: row and column; empty if the output of the layer is a vector.

    Returns:
      The bounding box of the pixels, without padding.
    """
    shape = plan.by_name[layer].layout.shape
    boxes = {layer: (_point(place[0]), _point(place[1])) if place else whole_image(shape)}
    for node in reversed(plan.nodes):
        if node.name not in boxes:
            continue
        for name, size in zip(node.inputs, node.in_shapes, strict=True):
            box = _clipped(node.op.reads(boxes[node.name], size, plan.site(node)), size)
            boxes[name] = _around(boxes.get(name, box), box)
    return boxes[INPUT]


def _point(at: int) -> Span:
    return at, at


def _clipped(box: Box, shape: Shape) -> Box:
    """The part of a box inside an image; the nearest pixel for a box in its padding."""
    rows, columns = (
        (min(max(first, low), high), max(min(last, high), low))
        for (first, last), (low, high) in zip(box, whole_image(shape), strict=True)
    )
    return rows, columns


def _around(one: Box, other: Box) -> Box:
    rows, columns = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return rows, columns
