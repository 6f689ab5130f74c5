"""A `Plan` as a PyTorch module, images (n, channels, height, width).

PyTorch flattens images channel by channel, our layout row by row. To avoid permutations while the
network runs, a dense layer that reads a flattened image has the rows of its kernel permuted, and a
dense layer whose output is reshaped to an image has its units permuted.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import NamedTuple, assert_never

import numpy as np
import torch
from torch import nn

from cnnbench.bench.frameworks.interface import LayerGradients
from cnnbench.bench.frameworks.torch_modules import (
    Affine,
    Disturb,
    Fold,
    Join,
    Mean,
    Permuted,
    Pick,
    Reorder,
    SkipImages,
    Times,
    TopLeft,
    TorchAttention,
    TorchClassToken,
    TorchPositions,
    TorchTransposedConv,
    activation,
)
from cnnbench.graph.geometry import activation_of, geometry, output_number, sources
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import (
    Activate,
    Add,
    Attention,
    AvgPool,
    BatchNorm,
    ChannelShuffle,
    ClassToken,
    Concat,
    Conv,
    ConvTranspose,
    Crop,
    Dense,
    DepthToSpace,
    Dropout,
    DropPath,
    Flatten,
    GaussianNoise,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    LayerNorm,
    MaskingNoise,
    MaxPool,
    Multiply,
    Permute,
    PositionEmbedding,
    PReLU,
    Reshape,
    Sample,
    Scale,
    Slice,
    Softmax,
    SpaceToDepth,
    SpatialDropout,
    Upscale,
    VectorQuantizer,
    ZeroPad,
)
from cnnbench.layers.attention import sincos2d
from cnnbench.layers.base import Shape
from cnnbench.layers.conv import conv_pads
from cnnbench.layers.reshape import Rearrangement, channels_first
from cnnbench.system.arrays import Array, LayerWeights


class Slot(NamedTuple):
    """A parameter, and the conversions between its layout and ours."""

    parameter: torch.Tensor
    to_torch: Callable[[Array], Array]
    to_ours: Callable[[Array], Array]


Ways = tuple[Callable[[Array], Array], Callable[[Array], Array]]  # to PyTorch's layout, and back


class TorchNet(nn.Module):
    """The network.

    Args:
      plan: the layers.
      weights: initial parameters, in our layout.
    """

    def __init__(self, plan: Plan, weights: LayerWeights) -> None:
        super().__init__()
        self.sources = sources(plan)
        self.output = output_number(plan)
        self.layers = nn.ModuleList()
        self.activations = nn.ModuleList(activation(activation_of(n.op)) for n in plan.nodes)
        self.slots: dict[str, dict[str, Slot]] = {}
        orders = [by_channel(plan.input_shape)]  # indices of entries in ours, by value
        owners: dict[str, nn.Module] = {}
        shared = {node.owner for node in plan.nodes if node.owner != node.name}
        made: dict[str, nn.Module] = {}
        for node, read in zip(plan.nodes, self.sources, strict=True):
            before = [orders[i] for i in read]
            if node.owner in shared and len(node.layout.shape) == 1:
                first, before, order = _in_one_order(node, before[0])
            else:
                first, order = nn.Identity(), _order(plan, node, before)
            layer, holder = made.get(node.owner), owners.get(node.owner)
            if layer is None:
                layer, holder = _layer(plan, node, before, owners)
            made[node.name], owners[node.name] = layer, holder
            self.layers.append(nn.Sequential(first, layer) if node.owner in shared else layer)
            if node.params:
                self.slots[node.name] = _slots(node, holder, before[0], order)
            orders.append(order)
        self.finish = _in_our_order(orders[self.output], plan.output_shape)
        self._load(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs for images (n, channels, height, width)."""
        values = [x]
        for layer, finish, read in zip(self.layers, self.activations, self.sources, strict=True):
            values.append(finish(layer(*[values[i] for i in read])))
        return self.finish(values[self.output])

    def in_our_layout(self, gradients: Iterable[torch.Tensor]) -> LayerGradients:
        """Gradients by layer and name, from gradients in the order of `tensors`."""
        flat = iter(gradients)
        return {
            layer: {key: slot.to_ours(next(flat).cpu().numpy()) for key, slot in slots.items()}
            for layer, slots in self.slots.items()
        }

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All parameters."""
        return [slot.parameter for slots in self.slots.values() for slot in slots.values()]

    def _load(self, weights: LayerWeights) -> None:
        with torch.no_grad():
            for layer, slots in self.slots.items():
                for key, slot in slots.items():
                    slot.parameter.copy_(torch.tensor(slot.to_torch(np.array(weights[layer][key]))))


def _in_one_order(node: Node, order: Array) -> tuple[nn.Module, list[Array], Array]:
    """A module that gives the input of a shared layer our order, and the orders around it."""
    ours = np.arange(len(order))
    flat = nn.Sequential(nn.Flatten(), Reorder(order, ours))
    return flat, [ours], np.arange(math.prod(node.layout.shape))


def _in_our_order(order: Array, shape: tuple[int, ...]) -> nn.Module:
    return nn.Identity() if len(shape) == 3 else Reorder(order, np.arange(len(order)))


def _order(plan: Plan, node: Node, orders: list[Array]) -> Array:
    """Indices, in our order, of the entries of a node's flattened output."""
    op, shape = node.op, node.layout.shape
    if len(shape) == 3:
        return by_channel(shape)
    match op:
        case Dense():
            return _order_wanted(plan, node)
        case Concat():
            starts = np.cumsum([0, *map(len, orders[:-1])])
            return np.concatenate([o + s for o, s in zip(orders, starts, strict=True)])
        case Slice():
            return orders[0][_kept(op, orders[0])] - op.start
        case _:  # layers that keep all values keep their order; pools output channels in ours
            count = math.prod(shape)
            return orders[0] if len(orders[0]) == count else np.arange(count)


def _layer(
    plan: Plan, node: Node, orders: list[Array], owners: dict[str, nn.Module]
) -> tuple[nn.Module, nn.Module]:
    """The module of a node, and its submodule with the parameters."""
    op = node.op
    match op:
        case Conv():
            return _conv(node, op)
        case ConvTranspose():
            return _conv_transpose(plan, node, op, owners)
        case Dense():
            dense = nn.Linear(len(orders[0]), op.units, bias=op.use_bias)
            image = len(node.in_shapes[0]) == 3
            return nn.Sequential(nn.Flatten(), dense) if image else dense, dense
        case Attention():
            attend = TorchAttention(node.in_shapes[0][2], op.heads, op.use_bias)
            return attend, attend.attention
        case PositionEmbedding():
            fixed = None if node.layout.params else sincos2d(node.layout.shape)
            layer = TorchPositions(node.layout.shape, fixed)
            return layer, layer
        case ClassToken():
            layer = TorchClassToken(node.layout.shape[2])
            return layer, layer
        case BatchNorm() | LayerNorm() | GroupNorm():
            return _norm(node, op)
        case PReLU():
            prelu = nn.PReLU(*node.layout.params["slope"])
            return prelu, prelu
        case Scale() if op.trainable:
            factors = (*node.layout.shape[:-1], *node.layout.params["scale"])
            scale = Affine(factors, scale=True, center=False)
            return scale, scale
        case _:
            layer = _without_parameters(node, orders)
            return layer, layer


def _norm(node: Node, op: BatchNorm | LayerNorm | GroupNorm) -> tuple[nn.Module, nn.Module]:
    """Normalization; PyTorch's layers learn a scale and a bias or neither."""
    shape, both = node.layout.shape, op.scale and op.center
    channels, image = shape[-1], len(shape) == 3
    layer: nn.Module
    match op:
        case BatchNorm():
            kind = nn.BatchNorm2d if image else nn.BatchNorm1d
            layer = kind(channels, eps=op.epsilon, momentum=1 - op.momentum, affine=both)
        case GroupNorm():
            layer = nn.GroupNorm(op.groups, channels, op.epsilon, affine=both)
        case LayerNorm():
            layer = nn.LayerNorm(channels, op.epsilon, elementwise_affine=both)
        case _:
            assert_never(op)
    norm = layer
    if isinstance(op, LayerNorm) and image:
        norm = nn.Sequential(Permuted((0, 2, 3, 1)), layer, Permuted((0, 3, 1, 2)))
    if both:
        return norm, layer
    affine = Affine(shape, scale=op.scale, center=op.center)
    return nn.Sequential(norm, affine), affine


def _pool(op: MaxPool | AvgPool, shape: Shape) -> nn.Module:
    """Pooling; only TensorFlow's `same` may pad the two sides differently."""
    (top, bottom), (left, right) = op.pads(shape)
    if (top, left) == (bottom, right):
        pads = {"padding": (top, left), "ceil_mode": op.ceil_mode}
        if isinstance(op, MaxPool):
            return nn.MaxPool2d(op.size, op.steps, **pads)
        return nn.AvgPool2d(op.size, op.steps, **pads, count_include_pad=op.count_include_pad)
    widths = (left, right, top, bottom)
    if isinstance(op, MaxPool):
        return nn.Sequential(nn.ConstantPad2d(widths, -math.inf), nn.MaxPool2d(op.size, op.steps))
    mean = nn.Sequential(nn.ZeroPad2d(widths), nn.AvgPool2d(op.size, op.steps))
    shares = op.shares(shape)
    return mean if shares is None else nn.Sequential(mean, Times(shares))


def _without_parameters(node: Node, orders: list[Array]) -> nn.Module:
    """The module of a node without parameters."""
    op = node.op
    if isinstance(op, Rearrangement):
        return _rearranged(node, op, orders[0])
    match op:
        case (
            Conv()
            | ConvTranspose()
            | Dense()
            | Attention()
            | PositionEmbedding()
            | ClassToken()
            | BatchNorm()
            | LayerNorm()
            | GroupNorm()
            | PReLU()
        ):
            raise AssertionError(f"{op.op} has parameters")
        case Scale():
            return Times(np.array(op.value))
        case MaxPool() | AvgPool():
            return _pool(op, node.in_shapes[0])
        case Dropout():
            return nn.Dropout(op.rate)
        case SpatialDropout():
            return nn.Dropout2d(op.rate)
        case DropPath():
            return SkipImages(op.rate)
        case GaussianNoise(stddev=strength) | MaskingNoise(rate=strength):
            return Disturb(strength, masks=isinstance(op, MaskingNoise))
        case Sample() | VectorQuantizer():
            raise AssertionError(f"{op.op} is rejected by make_trainer")
        case Concat():
            return Join()
        case Add():
            return Fold(torch.add, [Reorder(order, orders[0]) for order in orders])
        case Multiply():
            return Fold(torch.mul, _factors(node, orders))
        case Activate():
            return nn.Identity()
        case Softmax():
            return nn.Softmax(dim=1)
        case GlobalAvgPool():
            return Mean()
        case GlobalMaxPool():
            return nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
        case _:
            assert_never(op)


def _rearranged(node: Node, op: Rearrangement, order: Array) -> nn.Module:
    """The module of a node that moves, repeats or removes values."""
    match op:
        case Upscale():
            return nn.Upsample(size=node.layout.shape[:2], mode="nearest")
        case Slice():
            image = len(node.in_shapes[0]) == 3
            return Pick(_kept(op, np.arange(node.in_shapes[0][-1]) if image else order))
        case ZeroPad():
            top, bottom, left, right = op.padding
            return nn.ZeroPad3d((left, right, top, bottom, *op.channels))
        case Crop():  # a negative padding crops
            top, bottom, left, right = op.cropping
            return nn.ZeroPad2d((-left, -right, -top, -bottom))
        case ChannelShuffle():
            return nn.ChannelShuffle(op.groups)
        case SpaceToDepth():
            return nn.PixelUnshuffle(op.size)
        case DepthToSpace():
            return nn.PixelShuffle(op.size)
        case Flatten() | Reshape():
            return _reshape(node, order)
        case Permute():
            return Permuted(channels_first(op.order))
        case _:
            assert_never(op)


def _factors(node: Node, orders: list[Array]) -> list[nn.Module]:
    """Modules that prepare the inputs of a product: vectors become 1x1 images if needed."""
    if len(node.layout.shape) == 1:
        return [Reorder(order, orders[0]) for order in orders]
    gate = (node.layout.shape[2], 1, 1)
    return [
        nn.Sequential(Reorder(order, np.arange(len(order))), nn.Unflatten(1, gate))
        if len(shape) == 1
        else nn.Identity()
        for shape, order in zip(node.in_shapes, orders, strict=True)
    ]


def _kept(op: Slice, order: Array) -> Array:
    """Indices of a slice's values in the given order."""
    return np.flatnonzero((order >= op.start) & (order < op.start + op.size))


def _conv(node: Node, op: Conv) -> tuple[nn.Module, nn.Module]:
    (top, bottom), (left, right) = conv_pads(op, node.in_shapes[0], op.extent)
    even = (top, left) == (bottom, right)
    conv = nn.Conv2d(
        node.in_shapes[0][2],
        op.filters,
        op.kernel,
        op.stride,
        padding=(top, left) if even else 0,
        dilation=op.dilation,
        groups=op.num_groups(node.in_shapes[0][2]),
        bias=op.use_bias,
    )
    padded = conv if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)
    return padded, conv


def _conv_transpose(
    plan: Plan, node: Node, op: ConvTranspose, owners: dict[str, nn.Module]
) -> tuple[nn.Module, nn.Module]:
    numbers = geometry(plan, node)
    # PyTorch pads symmetrically; an extra row of SAME padding is cropped afterwards.
    (top, bottom), (left, right) = numbers.pads
    missing = numbers.remainder[0] - (bottom - top), numbers.remainder[1] - (right - left)
    grow = max(missing[0], 0), max(missing[1], 0)
    # PyTorch 2.13 crashes on CPUs for 1x1 kernels with output_padding in channels_last.
    late = grow if numbers.kernel == (1, 1) else (0, 0)
    options = {
        "stride": numbers.stride,
        "padding": (top, left),
        "output_padding": (grow[0] - late[0], grow[1] - late[1]),
    }
    channels, filters = node.in_shapes[0][2], node.layout.shape[2]
    if op.tie:
        layer = TorchTransposedConv(owners[op.tie], op.use_bias, late, **options)
    elif any(late):
        kernel = nn.ConvTranspose2d(channels, filters, numbers.kernel, bias=False)
        layer = TorchTransposedConv(kernel, op.use_bias, late, **options)
    else:
        layer = nn.ConvTranspose2d(channels, filters, numbers.kernel, bias=op.use_bias, **options)
    cropped = nn.Sequential(layer, TopLeft(numbers.size)) if min(missing) < 0 else layer
    return cropped, layer


def _reshape(node: Node, order: Array) -> nn.Module:
    shape = node.layout.shape
    if len(shape) == 1:
        return nn.Flatten()
    height, width, channels = shape
    if np.array_equal(order, by_channel(shape)):
        return nn.Sequential(nn.Flatten(), nn.Unflatten(1, (channels, height, width)))
    ours = Reorder(order, np.arange(len(order)))
    return nn.Sequential(nn.Flatten(), ours, nn.Unflatten(1, shape), Permuted((0, 3, 1, 2)))


def _slots(node: Node, holder: nn.Module, rows: Array, units: Array) -> dict[str, Slot]:
    """The parameters of a layer by our names, with their layout conversions."""
    back_rows, back_units = np.argsort(rows), np.argsort(units)
    kernel: Ways
    vector: Ways = (lambda a: a, lambda a: a)
    match node.op:
        case Dense():
            kernel = (lambda a: a[rows][:, units].T, lambda a: a.T[back_rows][:, back_units])
            vector = (lambda a: a[units], lambda a: a[back_units])
        case Attention():
            turned: Ways = (np.transpose, np.transpose)
            ways = {
                "kernel": ("in_proj_weight", turned),
                "bias": ("in_proj_bias", vector),
                "out_kernel": ("out_proj.weight", turned),
                "out_bias": ("out_proj.bias", vector),
            }
            return _bound(node, holder, ways)
        case PositionEmbedding():
            first: Ways = (lambda a: a.transpose(2, 0, 1), lambda a: a.transpose(1, 2, 0))
            return _bound(node, holder, {"embedding": ("embedding", first)})
        case ClassToken():
            return _bound(node, holder, {"token": ("token", vector)})
        case Scale(per="all") | PReLU(per_channel=False):
            kernel = vector
        case BatchNorm() | LayerNorm() | Scale() | PReLU() if len(node.layout.shape) == 1:
            kernel = vector = (lambda a: a[units], lambda a: a[back_units])
        case BatchNorm() | LayerNorm() | GroupNorm() | Scale() | PReLU():
            kernel = vector
        case _:  # (h, w, in, out) to (out, in, h, w), and the same for a transposed layer
            kernel = (lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0))
    ways = dict.fromkeys(("kernel", "scale", "slope"), ("weight", kernel))
    ways["bias"] = ("bias", vector)
    return _bound(node, holder, ways)


def _bound(node: Node, holder: nn.Module, ways: Mapping[str, tuple[str, Ways]]) -> dict[str, Slot]:
    """Parameters of a module by our names, from its own names and their layout conversions."""
    found = {key: ways[key] for key in node.layout.params}
    return {key: Slot(attrgetter(name)(holder), *way) for key, (name, way) in found.items()}


def by_channel(shape: Shape) -> Array:
    """Indices, in our order, of an image's values flattened by channel, row, column.

    >>> by_channel((1, 2, 3)).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    places = np.arange(math.prod(shape)).reshape(shape)
    return places.transpose(2, 0, 1).ravel() if len(shape) == 3 else places


def _order_wanted(plan: Plan, node: Node) -> Array:
    """Order of a dense layer's units that avoids a permutation later.

    If the output is only reshaped to an image, the units take the image's channel order;
    otherwise they keep ours.
    """
    readers = [other for other in plan.nodes if node.name in other.inputs]
    for reader in readers:
        if isinstance(reader.op, Reshape):
            return by_channel(reader.layout.shape)
        if reader.op.elementwise:
            return _order_wanted(plan, reader)
    return np.arange(math.prod(node.layout.shape))
