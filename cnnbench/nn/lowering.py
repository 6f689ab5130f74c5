"""How a plan's image operations are computed: as XLA has them, or fused for a CPU.

`Plain` does what the layers say, one by one. `Fused` finds what may be done
together, whatever the network:

- a bias and a monotone activation commute with a maximum, so where only max
  pools read a convolution they wait until after the pool, and touch as many
  values fewer as a window has;
- rows and columns of a convolution that no pool's window reaches are not computed;
- an upscale that only one convolution reads becomes that convolution's stride
  (a repeated pixel meets sums of taps).

Zeros stay exactly zero, where a kink follows: in the first step all biases are zero, and of a
blank background rounding alone would say on which side of it a unit is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from cnnbench.graph.geometry import activation_of, geometry
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import (
    AvgPool,
    Conv,
    ConvTranspose,
    MaxPool,
    Upscale,
)
from cnnbench.layers.base import INPUT
from cnnbench.nn.ops import convolution, pooling, xla
from cnnbench.nn.ops.im2col import rotated
from cnnbench.system.arrays import Pair

MONOTONE = frozenset({"linear", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "softplus"})
KINKED = frozenset({"relu", "leaky_relu"})  # slopes jump at zero
ONE = (1, 1)


class Lowering(Protocol):
    """The image operations of a plan, on images in a layout of its own."""

    @property
    def axes(self) -> Pair:
        """Where height and width are."""

    @property
    def deferred(self) -> Mapping[str, str]:
        """The convolution whose bias and activation a pool applies, by the pool's name."""

    def enter(self, x: jax.Array) -> jax.Array:
        """Images (n, h, w, c) in its layout."""

    def leave(self, x: jax.Array) -> jax.Array:
        """The inverse of `enter`."""

    def prepare(self, node: Node, kernel: jax.Array) -> jax.Array:
        """What can be made of a kernel once for many images."""

    def convolve(self, node: Node, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """A conv or a conv_transpose, without bias, with a prepared kernel."""

    def max_pool(self, x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
        """Largest value of each window."""

    def avg_pool(self, x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
        """Mean of each window."""

    def upscale(self, node: Node, x: jax.Array) -> jax.Array:
        """Rows and columns repeated."""

    def materialize(self, x: jax.Array) -> jax.Array:
        """Values that took some computing."""


def lower(plan: Plan, form: convolution.Form) -> Lowering:
    """The lowering of a form."""
    return Plain(plan) if form == "plain" else Fused(plan, form)


@dataclass(frozen=True)
class Plain:
    """Every layer for itself, on images (n, h, w, c)."""

    plan: Plan

    axes = (1, 2)
    deferred: ClassVar[Mapping[str, str]] = MappingProxyType({})
    max_pool = staticmethod(xla.max_pool)
    avg_pool = staticmethod(xla.avg_pool)

    def enter(self, x: jax.Array) -> jax.Array:
        """Images stay as they are."""
        return x

    leave = enter

    def prepare(self, _node: Node, kernel: jax.Array) -> jax.Array:
        """Kernels stay as they are."""
        return kernel

    def convolve(self, node: Node, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """XLA's convolution."""
        of = geometry(self.plan, node)
        if isinstance(node.op, Conv):
            return xla.conv(x, kernel, of.stride, of.pads)
        return xla.conv_transpose(x, kernel, of.stride, of.pads, of.size)

    def upscale(self, node: Node, x: jax.Array) -> jax.Array:
        """Rows and columns repeated."""
        assert isinstance(node.op, Upscale)
        return xla.upscale(x, node.op.size)

    def materialize(self, x: jax.Array) -> jax.Array:
        """Left to XLA."""
        return x


@dataclass(frozen=True, slots=True)
class LoweredConv:
    """A convolution layer as the engine computes it.

    Args:
      conv: shapes and algorithm.
      transposed: whether the layer is the adjoint of `conv`.
      rotated: whether the kernel is rotated first; a convolution is also the
        adjoint of one with the rotated kernel.
      box: size of the upscale that the layer takes in; its taps are summed.
    """

    conv: convolution.Convolution
    transposed: bool = False
    rotated: bool = False
    box: Pair = ONE

    def prepare(self, kernel: jax.Array) -> jax.Array:
        """(kh, kw, in, out) to what the algorithm wants."""
        return self.conv.prepare(self.fold(kernel))

    def fold(self, kernel: jax.Array) -> jax.Array:
        """The kernel of `conv`: rotated, and summed over the pixels that an upscale repeats."""
        if self.rotated:
            kernel = rotated(kernel)
        for axis, size in enumerate(self.box):
            edges = [[(0, 0)] * 4 for _ in range(size)]
            for shift in range(size):
                edges[shift][axis] = (shift, size - 1 - shift)
            kernel = sum((jnp.pad(kernel, e) for e in edges[1:]), jnp.pad(kernel, edges[0]))
        return kernel

    def __call__(self, x: jax.Array, prepared: jax.Array) -> jax.Array:
        """Images (h, w, n, in) to (oh, ow, n, out)."""
        call = self.conv.conv_transpose if self.transposed else self.conv.conv
        return call(x, prepared)


class Fused:
    """Layers taken together where that changes nothing, on images (h, w, n, c).

    Args:
      plan: the network.
      form: which algorithms may be used.
    """

    axes = (0, 1)
    materialize = staticmethod(pooling.materialized)
    max_pool = staticmethod(pooling.max_pool)
    avg_pool = staticmethod(pooling.avg_pool)

    def __init__(self, plan: Plan, form: convolution.Form) -> None:
        readers = _readers(plan)
        blank, kinked = _blank(plan), _before_kinks(plan, readers)
        self.deferred = _deferred(plan, readers)
        self.absorbed = {
            node.inputs[0]
            for node in plan.nodes
            if _takes_upscale(plan, node) and len(readers[node.inputs[0]]) == 1
        } - {plan.output}
        self.convs = {}
        for node in plan.nodes:
            if isinstance(node.op, Conv | ConvTranspose):
                folded = self._fold(plan, node, readers[node.name], form)
                blanks = node.inputs[0] in blank and node.name in kinked
                conv = replace(folded.conv, blanks=blanks)
                self.convs[node.name] = replace(folded, conv=conv)

    def enter(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) to (h, w, n, c)."""
        return x.transpose(1, 2, 0, 3)

    def leave(self, x: jax.Array) -> jax.Array:
        """(h, w, n, c) to (n, h, w, c)."""
        return x.transpose(2, 0, 1, 3)

    def prepare(self, node: Node, kernel: jax.Array) -> jax.Array:
        """Folded, and transformed as the algorithm wants it."""
        return self.convs[node.name].prepare(kernel)

    def convolve(self, node: Node, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """By the algorithm that was picked for the layer."""
        return self.convs[node.name](x, kernel)

    def upscale(self, node: Node, x: jax.Array) -> jax.Array:
        """Rows and columns repeated, unless the layer that reads it does so."""
        assert isinstance(node.op, Upscale)
        return x if node.name in self.absorbed else pooling.upscale(x, node.op.size)

    def _fold(
        self, plan: Plan, node: Node, readers: list[Node], form: convolution.Form
    ) -> LoweredConv:
        of = geometry(plan, node)
        low = of.pads[0][0], of.pads[1][0]
        shape = plan.by_name[node.kernel_owner].layout.params["kernel"]
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


def _readers(plan: Plan) -> dict[str, list[Node]]:
    readers: dict[str, list[Node]] = {node.name: [] for node in plan.nodes}
    for node in plan.nodes:
        for name in node.inputs:
            readers.get(name, []).append(node)
    return readers


def _blank(plan: Plan) -> frozenset[str]:
    """Layers whose result may be zero over whole windows: not what a smooth dense layer gives."""
    found = {INPUT}
    for node in plan.nodes:
        zeroes = activation_of(node.op) == "relu" or node.op.masks
        if zeroes or (not node.op.sums_places and not found.isdisjoint(node.inputs)):
            found.add(node.name)
    return frozenset(found)


def _before_kinks(plan: Plan, readers: Mapping[str, list[Node]]) -> frozenset[str]:
    """Layers whose zeros, or what they become, meet a kink: relu's, a max pool's or the loss's."""
    found: set[str] = set()
    for node in reversed(plan.nodes):
        kinked = node.op.takes_largest or activation_of(node.op) in KINKED
        onward = [reader for reader in readers[node.name] if not reader.op.sums_places]
        if kinked or node.name == plan.output or any(r.name in found for r in onward):
            found.add(node.name)
    return frozenset(found)


def _deferred(plan: Plan, readers: Mapping[str, list[Node]]) -> dict[str, str]:
    """Pools, and the convolutions whose bias and activation they apply."""
    return {
        reader.name: node.name
        for node in plan.nodes
        if isinstance(node.op, Conv) and node.op.activation in MONOTONE
        if node.name != plan.output
        if all(isinstance(reader.op, MaxPool) for reader in readers[node.name])
        for reader in readers[node.name]
    }


def _takes_upscale(plan: Plan, node: Node) -> bool:
    """Whether a layer reads an upscale that can become its stride."""
    above = plan.by_name.get(node.inputs[0])
    if above is None or not isinstance(above.op, Upscale):
        return False
    if not isinstance(node.op, Conv | ConvTranspose):
        return False
    return geometry(plan, node).stride == ONE


def _needed(node: Node, readers: list[Node]) -> Pair:
    """Rows and columns of a layer's result that its readers look at."""
    height, width = node.layout.shape[:2]
    if not readers or not all(isinstance(r.op, MaxPool | AvgPool) for r in readers):
        return height, width
    ends = [_reach(reader) for reader in readers]
    return max(end[0] for end in ends), max(end[1] for end in ends)


def _reach(pool: Node) -> Pair:
    """Rows and columns up to the end of a pool's last window."""
    assert isinstance(pool.op, MaxPool | AvgPool)
    stride, out = pool.op.stride or pool.op.size, pool.layout.shape
    return tuple((out[i] - 1) * stride[i] + pool.op.size[i] for i in (0, 1))  # type: ignore[return-value]
