"""Lowers the image operations of a plan to XLA operations, or to fused ones for CPUs.

`Plain` computes layers one by one, and `Whole` does so with gradients that are fast on CPUs.
`OneDnn`, with convolutions by oneDNN, `NativeWinograd`, with Winograd's in C where it is faster,
and `Fused` apply these optimizations to any network:

- A bias and a monotone activation commute with a maximum. If only max pools read a convolution,
  they are deferred until after the pool, where they apply to fewer values.
- Rows and columns of a convolution that no pooling window reaches are not computed by `Fused`.
- An upscale that only one convolution reads becomes the stride of that convolution (repeated
  pixels are multiplied by sums of taps).
- A relu that alone reads a batch norm is computed with it, except by `Fused`.

Zeros before a kink stay exactly zero: in the first step all biases are zero, and on a blank
background, rounding errors would determine the side of the kink.
"""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from cnnbench.errors import UsageError
from cnnbench.graph.geometry import activation_of, geometry
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import (
    Activate,
    AvgPool,
    Conv,
    ConvTranspose,
    MaxPool,
    Upscale,
)
from cnnbench.layers.base import INPUT
from cnnbench.layers.correlation import ConvGeometry
from cnnbench.nn import transformer
from cnnbench.nn.native import (
    activation,
    depthwise,
    few,
    library,
    onednn,
    phases,
    pool,
    pooled,
    winograd,
)
from cnnbench.nn.native import attention as native_attention
from cnnbench.nn.native import norm as native_norm
from cnnbench.nn.native.compiler import obstacle
from cnnbench.nn.native.correlation import Convolve, Correlation
from cnnbench.nn.native.sums import NATIVE_SUMS
from cnnbench.nn.ops import convolution, layout, norm, pooling, shifted, whole, xla
from cnnbench.nn.ops.activation import RELUS, Relu
from cnnbench.nn.ops.batch_norm import BY_XLA, Pending, Summation
from cnnbench.nn.ops.im2col import rotated
from cnnbench.system.arrays import Pair

MONOTONE = frozenset(
    {
        "linear",
        "relu",
        "tanh",
        "sigmoid",
        "leaky_relu",
        "elu",
        "softplus",
        "relu6",
        "hard_sigmoid",
        "selu",
    }
)
KINKED = frozenset({"relu", "leaky_relu", "relu6", "selu"})  # the derivative jumps at zero
ONE = (1, 1)


class Convolutions(Protocol):
    """A module with convolutions and their adjoints, of images (n, h, w, c)."""

    @property
    def conv(self) -> Convolve:
        """Convolution."""

    @property
    def conv_transpose(self) -> Convolve:
        """Its adjoint."""


class Lowering(Protocol):
    """Image operations of a plan, on images in an internal layout."""

    @property
    def axes(self) -> Pair:
        """Axes of height and width."""

    @property
    def summation(self) -> Summation:
        """Sums of a batch norm."""

    @property
    def deferred(self) -> Mapping[str, str]:
        """Convolutions whose bias and activation are deferred, by name of the pool."""

    @property
    def attention(self) -> transformer.Steps:
        """How attention is computed."""

    @property
    def in_c(self) -> Mapping[str, activation.Biased]:
        """Activations in C of float32, with the bias before them, by name."""

    @property
    def activated(self) -> Mapping[str, Relu]:
        """Relus that are computed with a batch norm, by its name."""

    @property
    def pending(self) -> Collection[str]:
        """Batch norms that the next convolution computes in training, with their relus."""

    def key(self, node: Node) -> Hashable:
        """Returns what the lowering of a layer depends on besides its operation and shapes."""

    def to_layout(self, x: jax.Array) -> jax.Array:
        """Converts images (n, h, w, c) to the internal layout."""

    def from_layout(self, x: jax.Array) -> jax.Array:
        """The inverse of `to_layout`."""

    def prepare(self, node: Node, kernel: jax.Array) -> jax.Array:
        """Transforms a kernel; the result can be shared by many calls."""

    def convolve(self, node: Node, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Computes a conv or conv_transpose, without bias, with a prepared kernel."""

    def max_pool(self, node: Node, x: jax.Array) -> jax.Array:
        """Maximum over windows, all of them complete."""

    def avg_pool(self, x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
        """Mean over windows."""

    def layer_norm(
        self, x: jax.Array, weights: Mapping[str, jax.Array], epsilon: float
    ) -> jax.Array:
        """Layer norm over the channels."""

    def upscale(self, node: Node, x: jax.Array) -> jax.Array:
        """Repeats rows and columns."""

    def materialize(self, x: jax.Array) -> jax.Array:
        """Keeps expensive values from being recomputed."""

    def keep(self, x: jax.Array, *, costly: bool) -> jax.Array:
        """Keeps the output of a layer, or its gradient, from being recomputed, if that is slow.

        Args:
          x: the output of an activation or concatenation.
          costly: True for functions that take longer than reading a value.
        """


def lower(plan: Plan, form: convolution.EngineName) -> Lowering:
    """Lowers a plan in a given form.

    Raises:
      UsageError: the engine cannot be used on this machine.
    """
    if reason := unavailable(form):
        raise UsageError(f"engine {form}: {reason}.")
    made = {"plain": Plain, "whole": Whole, "onednn": OneDnn, "winograd": NativeWinograd}.get(form)
    return made(plan) if made else Fused(plan, form)


def unavailable(form: convolution.EngineName) -> str | None:
    """Why an engine cannot be used on this machine; None if it can."""
    if form == "onednn":
        return library.lacking()
    return obstacle() if form == "winograd" else None


@dataclass(frozen=True)
class Plain:
    """Layers computed one by one, on images (n, h, w, c)."""

    plan: Plan

    axes = (1, 2)
    summation: ClassVar[Summation] = BY_XLA
    in_c: ClassVar[Mapping[str, activation.Biased]] = MappingProxyType({})
    avg_pool = staticmethod(xla.avg_pool)
    layer_norm = staticmethod(norm.layer_norm)

    @property
    def deferred(self) -> Mapping[str, str]:
        """Nothing is deferred."""
        return MappingProxyType({})

    @property
    def attention(self) -> transformer.Steps:
        """Attention by XLA."""
        return transformer.BY_XLA

    @property
    def activated(self) -> Mapping[str, Relu]:
        """No relu is computed with a batch norm."""
        return MappingProxyType({})

    @property
    def pending(self) -> Collection[str]:
        """No batch norm is computed with a convolution."""
        return ()

    def key(self, _node: Node) -> Hashable:
        """Returns None: it depends on nothing else."""
        return None

    def to_layout(self, x: jax.Array) -> jax.Array:
        """Returns images unchanged."""
        return x

    from_layout = to_layout

    def prepare(self, _node: Node, kernel: jax.Array) -> jax.Array:
        """Returns kernels unchanged."""
        return kernel

    def convolve(self, node: Node, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolution by XLA."""
        of = geometry(self.plan, node)
        if isinstance(node.op, Conv):
            groups = node.op.num_groups(node.in_shapes[0][2])
            dilation = node.op.dilation
            return xla.conv(x, kernel, of.stride, of.pads, groups=groups, dilation=dilation)
        return xla.conv_transpose(x, kernel, of.stride, of.pads, of.size)

    def max_pool(self, node: Node, x: jax.Array) -> jax.Array:
        """Max pool by XLA."""
        return xla.max_pool(x, *window_of(node))

    def upscale(self, node: Node, x: jax.Array) -> jax.Array:
        """Repeats rows and columns."""
        assert isinstance(node.op, Upscale)
        return xla.upscale(x, node.op.size)

    def materialize(self, x: jax.Array) -> jax.Array:
        """Returns values unchanged; left to XLA."""
        return x

    def keep(self, x: jax.Array, *, costly: bool) -> jax.Array:  # noqa: ARG002
        """Returns values unchanged; left to XLA."""
        return x


@dataclass(frozen=True)
class Whole(Plain):
    """Like `Plain`, for whole batches on CPUs, with gradients that XLA computes fast."""

    avg_pool = staticmethod(whole.avg_pool)

    def max_pool(self, node: Node, x: jax.Array) -> jax.Array:
        """Max pool by slices."""
        return whole.max_pool(x, *window_of(node))

    def convolve(self, node: Node, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolution by XLA, and gradients of kernels by matrix products."""
        if (grouped := _grouped(self.plan, node)) is not None:
            return grouped(x, kernel)
        of = geometry(self.plan, node)
        call = whole.conv_transpose if isinstance(node.op, ConvTranspose) else whole.conv
        return call(x, kernel, of)

    def keep(self, x: jax.Array, *, costly: bool) -> jax.Array:  # noqa: ARG002
        """Keeps images: XLA would compute all blocks of a residual network again for each one."""
        return whole.kept(x) if x.ndim == 4 else x


@dataclass(frozen=True)
class OneDnn(Whole):
    """Like `Whole`, in C: convolutions by oneDNN, except those that it does not support.

    Layers are fused as in `Fused`. Convolutions of few channels are computed together with their
    max pools.
    """

    summation = NATIVE_SUMS
    in_c = activation.IN_C
    layer_norm = staticmethod(native_norm.layer_norm)

    @cached_property
    def deferred(self) -> Mapping[str, str]:
        """Convolutions whose bias and activation are deferred, by name of the pool."""
        return _deferred(self.plan, _readers(self.plan))

    @cached_property
    def attention(self) -> transformer.Steps:
        """Projections as convolutions, and the rest in C."""
        return transformer.Steps(self._project, native_attention.attend)

    def _project(self, x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        if x.dtype != jnp.float32:
            return transformer.project(x, kernel, bias)
        size, pads = (x.shape[1], 1), ((0, 0), (0, 0))
        of = Correlation(size, ONE, ONE, ONE, pads, size, *kernel.shape)
        y = self._engine(of, len(x)).conv(x[:, :, None], kernel[None, None], of)[:, :, 0]
        return y if bias is None else activation.shifted(y, bias)

    @cached_property
    def folded(self) -> "Mapping[str, LoweredConv]":
        """Convolutions of upscaled images, with the upscale."""
        found = Fused(self.plan, "direct").convs
        return {name: conv for name, conv in found.items() if conv.box != ONE}

    @cached_property
    def absorbed(self) -> frozenset[str]:
        """Upscales that are computed with a convolution."""
        return frozenset(self.plan.by_name[name].inputs[0] for name in self.folded)

    @cached_property
    def pooled(self) -> Mapping[str, Node]:
        """Max pools that are computed with a convolution, by its name."""
        nodes, counts = self.plan.by_name, Counter(self.deferred.values())
        return {
            name: nodes[reader]
            for reader, name in self.deferred.items()
            if counts[name] == 1 and name not in self.folded and not _extends(nodes[reader])
            if pooled.supports(correlation(self.plan, nodes[name]), *window_of(nodes[reader]))
        }

    @cached_property
    def activated(self) -> Mapping[str, Relu]:
        """Relus that are computed with a batch norm, by its name."""
        readers, nodes = _readers(self.plan), self.plan.by_name
        return {
            node.inputs[0]: RELUS[node.op.activation]
            for node in self.plan.nodes
            if isinstance(node.op, Activate) and node.op.activation in RELUS
            if readers.get(node.inputs[0]) == [node] and nodes[node.inputs[0]].op.uses_batch
        }

    @cached_property
    def pending(self) -> Collection[str]:
        """Batch norms that a depthwise convolution computes in training, with their relus."""
        readers = _readers(self.plan)
        followed = {name: readers.get(readers[name][0].name, ()) for name in self.activated}
        return frozenset(
            name
            for name, nodes in followed.items()
            if len(nodes) == 1 and isinstance(nodes[0].op, Conv)
            if depthwise.takes_norm(correlation(self.plan, nodes[0]))
        )

    def key(self, node: Node) -> Hashable:
        """The layers that are fused with it, and the name of a deferred layer or its pool."""
        deferred = node.name in {*self.deferred, *self.deferred.values()}
        name = node.name if deferred else None
        relus = self.activated.get(node.name), node.inputs[0] in self.activated
        fused = node.name in self.absorbed, node.name in self.pending
        return name, self.folded.get(node.name), fused, relus

    def convolve(self, node: Node, x: Any, kernel: jax.Array) -> jax.Array:
        """Convolution in C, with the layers that are computed with it."""
        if isinstance(x, Pending):
            return depthwise.conv_of_norm(x, kernel, self.sizes(node))
        if x.dtype != jnp.float32:
            return super().convolve(node, x, kernel)
        of, folded = self.sizes(node), self.folded.get(node.name)
        by = self._engine(of, len(x))
        if by is whole and _grouped(self.plan, node):
            return super().convolve(node, x, kernel)
        if folded:
            kernel = folded.conv.split(folded.fold(kernel))
            return whole.kept(phases.joined(by.conv_transpose(x, kernel, of), folded.conv))
        if isinstance(node.op, ConvTranspose):
            return by.conv_transpose(x, kernel, of)
        if reader := self.pooled.get(node.name):
            return pooled.conv(x, kernel, of, window_of(reader)[0], by.conv)
        return by.conv(x, kernel, of)

    def sizes(self, node: Node) -> Correlation:
        """Sizes of the convolution that is computed in C, or of its adjoint."""
        if folded := self.folded.get(node.name):
            return phases.correlation(folded.conv, *folded.channels(kernel_shape(self.plan, node)))
        return correlation(self.plan, node)

    def _engine(self, of: Correlation, images: int) -> Convolutions:
        """C for depthwise ones, oneDNN if it supports others, otherwise XLA."""
        if depthwise.pays(of):
            return depthwise
        return onednn if onednn.supports(of, images) else whole

    def upscale(self, node: Node, x: jax.Array) -> jax.Array:
        """Repeats rows and columns, unless fused into the next layer."""
        fused = x.dtype == jnp.float32 and node.name in self.absorbed
        return x if fused else super().upscale(node, x)

    def max_pool(self, node: Node, x: jax.Array) -> jax.Array:
        """Max pool in C, unless it was computed with the convolution."""
        if x.dtype != jnp.float32 or not pool.supports(window_of(node)[0]):
            return super().max_pool(node, x)
        computed = self.deferred.get(node.name) in self.pooled
        return x if computed else pool.max_pool(x, *window_of(node))


@dataclass(frozen=True)
class NativeWinograd(OneDnn):
    """Like `OneDnn`, with Winograd's algorithm where it is faster; works without oneDNN."""

    def _engine(self, of: Correlation, images: int) -> Convolutions:
        """Winograd's algorithm where it pays, otherwise oneDNN if it is installed."""
        if winograd.pays(of):
            return winograd
        if unavailable("onednn") and not depthwise.pays(of):
            return few if few.pays(of) else whole
        return super()._engine(of, images)


def winograd_layers(plan: Plan) -> frozenset[str]:
    """Convolutions that `NativeWinograd` computes by Winograd's algorithm."""
    sizes, convs = NativeWinograd(plan).sizes, (n for n in plan.nodes if n.op.convolves)
    return frozenset(node.name for node in convs if winograd.pays(sizes(node)))


def layers_in_c(plan: Plan) -> frozenset[str]:
    """Convolutions by Winograd's algorithm in C, and those computed with a max pool."""
    return winograd_layers(plan) | NativeWinograd(plan).pooled.keys()


def correlation(plan: Plan, node: Node) -> Correlation:
    """Sizes of a convolution, or of the adjoint of a transposed one."""
    of, op = geometry(plan, node), node.op
    dilation = op.dilation if isinstance(op, Conv) else ONE
    groups = op.num_groups(node.in_shapes[0][2]) if isinstance(op, Conv) else 1
    high, wide, channels, filters = kernel_shape(plan, node)
    counts = groups * channels, filters, groups
    return Correlation(of.size, (high, wide), of.stride, dilation, of.pads, of.places, *counts)


@dataclass(frozen=True, slots=True)
class LoweredConv:
    """A lowered convolution layer.

    Args:
      conv: shapes and algorithm.
      transposed: True if the layer is the adjoint of `conv`.
      rotated: True if the kernel is rotated first; a convolution is also the adjoint of one with
        the rotated kernel.
      box: size of the fused upscale; taps are summed over it.
    """

    conv: convolution.Convolution
    transposed: bool = False
    rotated: bool = False
    box: Pair = ONE

    def prepare(self, kernel: jax.Array) -> jax.Array:
        """Transforms a kernel, (kh, kw, in, out), for the algorithm."""
        return self.conv.prepare(self.fold(kernel))

    def fold(self, kernel: jax.Array) -> jax.Array:
        """The kernel of `conv`: rotated, and summed over the pixels repeated by the upscale."""
        if self.rotated:
            kernel = rotated(kernel)
        for axis, size in enumerate(self.box):
            edges = [[(0, 0)] * 4 for _ in range(size)]
            for shift in range(size):
                edges[shift][axis] = (shift, size - 1 - shift)
            kernel = sum((jnp.pad(kernel, e) for e in edges[1:]), jnp.pad(kernel, edges[0]))
        return kernel

    def cost(self, kernel: tuple[int, ...]) -> float:
        """Estimated nanoseconds per image, forward and backward.

        Args:
          kernel: shape of the layer's kernel, (kh, kw, in, out).
        """
        channels, filters = self.channels(kernel)
        return self.conv.algorithm.cost(math.prod(self.conv.phases) * channels, filters)

    def channels(self, kernel: tuple[int, ...]) -> Pair:
        """Input and output channels of `conv`, of a layer with a kernel of this shape."""
        return (kernel[3], kernel[2]) if self.rotated else (kernel[2], kernel[3])

    def __call__(self, x: jax.Array, prepared: jax.Array) -> jax.Array:
        """Images (h, w, n, in) to (oh, ow, n, out)."""
        call = self.conv.conv_transpose if self.transposed else self.conv.conv
        return call(x, prepared)


@dataclass(frozen=True, slots=True)
class GroupedConv:
    """A convolution with groups or dilation.

    Depthwise ones are sums of shifted images, except where XLA is faster.

    Args:
      of: sizes of the convolution with the dilated kernel.
      groups: number of groups of channels.
      dilation: distance between kernel taps.
    """

    of: ConvGeometry
    groups: int
    dilation: Pair

    def shifts(self, channels: int, kernel: Sequence[int]) -> bool:
        """True for a sum of shifted images, False for a convolution of XLA.

        Args:
          channels: channels of the images.
          kernel: shape (kh, kw, in / groups, out).
        """
        return self.groups == channels and shifted.pays(channels, math.prod(kernel[:2]))

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Images (n, h, w, in) to (n, oh, ow, out)."""
        shifts = self.shifts(x.shape[3], kernel.shape)
        return xla.conv(
            x,
            kernel,
            self.of.stride,
            self.of.pads,
            groups=self.groups,
            dilation=self.dilation,
            general=shifted.depthwise if shifts else lax.conv_general_dilated,
        )


def _grouped(plan: Plan, node: Node) -> GroupedConv | None:
    """The convolution of a layer with groups or dilation; None for other layers."""
    if not isinstance(node.op, Conv) or node.op.is_plain:
        return None
    groups = node.op.num_groups(node.in_shapes[0][2])
    return GroupedConv(geometry(plan, node), groups, node.op.dilation)


class Fused:
    """Layers fused where this does not change results, on images (h, w, n, c).

    Args:
      plan: the network.
      form: allowed algorithms.
    """

    axes = (0, 1)
    summation = BY_XLA
    activated: ClassVar[Mapping[str, Relu]] = MappingProxyType({})
    pending: ClassVar[Collection[str]] = ()
    materialize = staticmethod(layout.materialized)
    avg_pool = staticmethod(pooling.avg_pool)
    layer_norm = staticmethod(norm.layer_norm)
    in_c: ClassVar[Mapping[str, activation.Biased]] = MappingProxyType({})
    attention: ClassVar[transformer.Steps] = transformer.BY_XLA

    def __init__(self, plan: Plan, form: convolution.EngineName) -> None:
        readers = _readers(plan)
        blank, kinked = _blank(plan), _before_kinks(plan, readers)
        self.deferred = _deferred(plan, readers)
        self.absorbed = {
            node.inputs[0]
            for node in plan.nodes
            if _takes_upscale(plan, node) and len(readers[node.inputs[0]]) == 1
        } - {plan.output}
        self.convs: dict[str, LoweredConv] = {}
        self.grouped: dict[str, GroupedConv] = {}
        for node in plan.nodes:
            if (grouped := _grouped(plan, node)) is not None:
                self.grouped[node.name] = grouped
            elif isinstance(node.op, Conv | ConvTranspose):
                folded = self._fold(plan, node, readers[node.name], form)
                exact_zeros = node.inputs[0] in blank and node.name in kinked
                conv = replace(folded.conv, exact_zeros=exact_zeros)
                self.convs[node.name] = replace(folded, conv=conv)

    def key(self, node: Node) -> Hashable:
        """The algorithm; the name of a layer that uses the weights of another one."""
        if node.name in {*self.deferred, *self.deferred.values()}:
            return node.name
        found = self.convs.get(node.name), self.grouped.get(node.name)
        return *found, node.name in self.absorbed

    def to_layout(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) to (h, w, n, c)."""
        return x.transpose(1, 2, 0, 3)

    def from_layout(self, x: jax.Array) -> jax.Array:
        """(h, w, n, c) to (n, h, w, c)."""
        return x.transpose(2, 0, 1, 3)

    def keep(self, x: jax.Array, *, costly: bool) -> jax.Array:
        """Keeps images of costly functions."""
        return self.materialize(x) if costly and x.ndim == 4 else x

    def prepare(self, node: Node, kernel: jax.Array) -> jax.Array:
        """Folds a kernel and transforms it for the algorithm."""
        if node.name in self.grouped:
            return kernel
        return self.convs[node.name].prepare(kernel)

    def convolve(self, node: Node, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolution by the algorithm selected for the layer."""
        if grouped := self.grouped.get(node.name):
            return self.to_layout(grouped(self.from_layout(x), kernel))
        return self.convs[node.name](x, kernel)

    def max_pool(self, node: Node, x: jax.Array) -> jax.Array:
        """Max pool by slices."""
        return pooling.max_pool(x, *window_of(node))

    def upscale(self, node: Node, x: jax.Array) -> jax.Array:
        """Repeats rows and columns, unless fused into the next layer."""
        assert isinstance(node.op, Upscale)
        return x if node.name in self.absorbed else pooling.upscale(x, node.op.size)

    def _fold(
        self, plan: Plan, node: Node, readers: list[Node], form: convolution.EngineName
    ) -> LoweredConv:
        of = geometry(plan, node)
        low = of.pads[0][0], of.pads[1][0]
        shape = kernel_shape(plan, node)
        above = plan.by_name.get(node.inputs[0])
        box: Pair = ONE
        if above and isinstance(above.op, Upscale) and above.name in self.absorbed:
            box = above.op.size
        source = node.in_shapes[0][:2]
        small = (source[0] // box[0], source[1] // box[1])
        boxed = (shape[0] + box[0] - 1, shape[1] + box[1] - 1)
        if isinstance(node.op, ConvTranspose):
            kernel = (*boxed, *shape[2:])
            stride = box if box != ONE else of.stride
            return LoweredConv(
                convolution.convolution(of.size, kernel, stride, low, small, form), True, False, box
            )
        out = _needed(node, readers)
        if box == ONE:
            return LoweredConv(convolution.convolution(of.size, shape, of.stride, low, out, form))
        kernel = (*boxed, shape[3], shape[2])
        ends = (shape[0] - 1 - low[0], shape[1] - 1 - low[1])
        return LoweredConv(
            convolution.convolution(out, kernel, box, ends, small, form), True, True, box
        )


def kernel_shape(plan: Plan, node: Node) -> tuple[int, ...]:
    """Shape of the kernel of a layer, which may be that of another one."""
    return plan.by_name[node.kernel_owner].layout.params["kernel"]


def _readers(plan: Plan) -> dict[str, list[Node]]:
    readers: dict[str, list[Node]] = {node.name: [] for node in plan.nodes}
    for node in plan.nodes:
        for name in node.inputs:
            readers.get(name, []).append(node)
    return readers


def _blank(plan: Plan) -> frozenset[str]:
    """Layers whose output may be zero over whole windows, unlike that of a smooth dense layer."""
    found = {INPUT}
    for node in plan.nodes:
        zeroes = activation_of(node.op) == "relu" or node.op.masks
        if zeroes or (not node.op.sums_places and not found.isdisjoint(node.inputs)):
            found.add(node.name)
    return frozenset(found)


def _before_kinks(plan: Plan, readers: Mapping[str, list[Node]]) -> frozenset[str]:
    """Layers whose zeros propagate to a kink: of a relu, a max pool or the loss."""
    found: set[str] = set()
    for node in reversed(plan.nodes):
        kinked = node.op.takes_largest or activation_of(node.op) in KINKED
        onward = [reader for reader in readers[node.name] if not reader.op.sums_places]
        if kinked or node.name == plan.output or any(r.name in found for r in onward):
            found.add(node.name)
    return frozenset(found)


def _deferred(plan: Plan, readers: Mapping[str, list[Node]]) -> dict[str, str]:
    """Convolutions whose bias and activation are deferred, by name of the pool."""
    return {
        reader.name: node.name
        for node in plan.nodes
        if isinstance(node.op, Conv) and node.op.activation in MONOTONE
        if node.name != plan.output
        if all(isinstance(reader.op, MaxPool) for reader in readers[node.name])
        for reader in readers[node.name]
    }


def _takes_upscale(plan: Plan, node: Node) -> bool:
    """Returns True if a layer reads an upscale that can become its stride."""
    above = plan.by_name.get(node.inputs[0])
    if above is None or not isinstance(above.op, Upscale):
        return False
    if not isinstance(node.op, Conv | ConvTranspose):
        return False
    if isinstance(node.op, Conv) and not node.op.is_plain:
        return False
    return geometry(plan, node).stride == ONE


def _needed(node: Node, readers: list[Node]) -> Pair:
    """Rows and columns of the output that are used by the next layers."""
    height, width = node.layout.shape[:2]
    if not readers or not all(isinstance(r.op, MaxPool | AvgPool) for r in readers):
        return height, width
    ends = [_reach(reader) for reader in readers]
    return max(end[0] for end in ends), max(end[1] for end in ends)


def window_of(node: Node) -> tuple[Pair, Pair]:
    """Size and stride of the windows of a max pool."""
    assert isinstance(node.op, MaxPool)
    return node.op.size, node.op.steps


def _extends(node: Node) -> bool:
    """True if images are padded to complete the windows of a max pool."""
    assert isinstance(node.op, MaxPool)
    return any(map(any, node.op.reach(node.in_shapes[0])))


def _reach(pool: Node) -> Pair:
    """Rows and columns of the image up to the end of the last pooling window."""
    op, image = pool.op, pool.in_shapes[0]
    assert isinstance(op, MaxPool | AvgPool)
    pads = op.pads(image)
    ends = ((n - 1) * op.steps[i] + op.size[i] - pads[i][0] for i, n in enumerate(op.places(image)))
    rows, columns = (min(end, length) for end, length in zip(ends, image[:2], strict=True))
    return rows, columns
