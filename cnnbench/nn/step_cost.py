"""Estimated cost of a training step on a CPU, by which engines are ruled out uncompiled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import INPUT
from cnnbench.nn.lowering import (
    Fused,
    GroupedConv,
    LoweredConv,
    NativeWinograd,
    OneDnn,
    correlation,
    kernel_shape,
    window_of,
)
from cnnbench.nn.native import pooled, winograd
from cnnbench.nn.native.correlation import Correlation
from cnnbench.nn.ops.convolution import EngineName


@dataclass(frozen=True, slots=True)
class _Costs:
    """Nanoseconds on one core, forward and backward.

    Args:
      norm: per output of a batch norm that needs statistics: further passes over its images.
      grouped: per multiply-add of grouped and dilated convolutions that are not computed as
        shifted images. XLA computes them slowly inside loops over micro-batches.
    """

    norm: float
    grouped: float


@dataclass(frozen=True, slots=True)
class _WholeCosts(_Costs):
    """Costs of convolutions of whole batches.

    Args:
      value: per input and output.
      pointwise: per multiply-add with 1x1 kernels.
      multiply_add: per multiply-add with others, of a direction.
      few_channels: per multiply-add and channel, since few of them leave registers empty.
      few_filters: likewise, per filter.
      pool: per input of a max pool.
    """

    value: float
    pointwise: float
    multiply_add: float
    few_channels: float
    few_filters: float
    pool: float = 0.0


# Fitted jointly to steps of 24 networks; see docs/explanation/performance.md.
_FUSED = _Costs(norm=8.8, grouped=57)
_SHIFTED = 0.6  # per multiply-add of a depthwise convolution as a sum of shifted images
_PRODUCT = 0.29  # per multiply-add of a dense layer
# Of convolutions by micro-batches: their algorithms' costs, which are in other units, and per
# weight and micro-batch, to accumulate its gradient.
_ALGORITHM, _WEIGHT = 2.2, 0.64
_WHOLE: Mapping[EngineName, _WholeCosts] = {
    "whole": _WholeCosts(
        norm=4.5,
        grouped=4.2,
        value=1.4,
        pointwise=0.14,
        multiply_add=0.024,
        few_channels=0.75,
        few_filters=0.12,
    ),
    "onednn": _WholeCosts(  # fitted to steps of 20 networks
        norm=4.2,
        grouped=1.2,
        value=0.66,
        pointwise=0.12,
        multiply_add=0.04,
        few_channels=0.3,
        few_filters=0.1,
        pool=0.9,
    ),
}


_NATIVE: Mapping[EngineName, type[OneDnn]] = {"onednn": OneDnn, "winograd": NativeWinograd}


def step_ns(plan: Plan, form: EngineName, row: int, others: EngineName = "whole") -> float:
    """Estimated nanoseconds of a training step per image.

    Args:
      plan: the network.
      form: the engine, except `plain`.
      row: images per micro-batch.
      others: engine of the convolutions that `winograd` leaves to another one.
    """
    fused, native = Fused(plan, "fast" if form == "fast" else "direct"), _NATIVE.get(form)
    lowering = native(plan) if native else None
    form = others if form == "winograd" else form
    whole = _WHOLE.get(form)
    total = 0.0
    for node in plan.nodes:
        conv, grouped = fused.convs.get(node.name), fused.grouped.get(node.name)
        if whole:
            total += _native_ns(node, lowering, whole) if lowering else _whole_ns(plan, node, whole)
        elif conv:
            total += _conv_ns(conv, kernel_shape(plan, node), row)
        shifts = grouped is not None and form != "onednn" and _shifts(plan, node, grouped)
        of_group = _SHIFTED if shifts else (whole or _FUSED).grouped
        total += _other_ns(node, (whole or _FUSED).norm, of_group if grouped else None)
    return total


def xla_share(plan: Plan) -> float:
    """Share of the multiply-adds in grouped and dilated convolutions that engines leave to XLA."""
    grouped = Fused(plan, "direct").grouped
    nodes = [node for node in plan.nodes if node.name in grouped]
    left = sum(n.layout.multiply_adds for n in nodes if not _shifts(plan, n, grouped[n.name]))
    return left / plan.multiply_adds if left else 0.0


def _shifts(plan: Plan, node: Node, conv: GroupedConv) -> bool:
    return conv.shifts(node.in_shapes[0][2], kernel_shape(plan, node))


@cache
def _conv_ns(conv: LoweredConv, kernel: tuple[int, ...], row: int) -> float:
    prepared = jax.eval_shape(conv.prepare, jax.ShapeDtypeStruct(kernel, jnp.float32))
    weights: int = prepared.size
    return _ALGORITHM * conv.cost(kernel) + _WEIGHT * weights / row


def _whole_ns(plan: Plan, node: Node, costs: _WholeCosts) -> float:
    """Cost of a layer of whole batches, without grouped or dilated products."""
    if not node.op.convolves:
        return costs.pool * math.prod(node.in_shapes[0]) * node.op.takes_largest
    return _direct_ns(correlation(plan, node), costs, first=INPUT in node.inputs)


def _native_ns(node: Node, lowering: OneDnn, costs: _WholeCosts) -> float:
    """Like `_whole_ns`, in C."""
    if not node.op.convolves:
        done = lowering.deferred.get(node.name) in lowering.pooled
        return 0.0 if done else _whole_ns(lowering.plan, node, costs)
    of, first = lowering.sizes(node), INPUT in node.inputs
    if reader := lowering.pooled.get(node.name):
        alone = 0.0 if first else _direct_ns(of, costs, first=False) / 3  # of three passes
        return alone + pooled.pair_ns(of, window_of(reader)[0])
    if isinstance(lowering, NativeWinograd) and winograd.pays(of):
        return _values_ns(of, costs) + (2 if first else 3) * winograd.pass_ns(of)
    return _direct_ns(of, costs, first=first)


def _direct_ns(of: Correlation, costs: _WholeCosts, *, first: bool) -> float:
    """Cost of a convolution without fewer products; of no products with groups or dilation."""
    values = _values_ns(of, costs)
    if of.groups > 1 or of.dilation != (1, 1):
        return values
    multiply_adds = math.prod((*of.places, *of.kernel, of.channels, of.filters))
    if of.kernel == of.stride == (1, 1):
        return values + costs.pointwise * multiply_adds
    per_product = costs.multiply_add + costs.few_channels / of.channels
    if not first:  # errors, with rows of zeros between them
        per_product += of.stride[0] * (costs.multiply_add + costs.few_filters / of.filters)
    return values + per_product * multiply_adds


def _values_ns(of: Correlation, costs: _WholeCosts) -> float:
    inputs, outputs = math.prod(of.size) * of.channels, math.prod(of.places) * of.filters
    return costs.value * (inputs + outputs)


def _other_ns(node: Node, norm: float, grouped: float | None) -> float:
    """Cost of batch norms, and of products that are no plain convolutions.

    Args:
      node: the layer.
      norm: cost per output of a batch norm.
      grouped: cost per multiply-add of a grouped or dilated convolution; None for other layers.
    """
    product = (0 if node.op.convolves else _PRODUCT) if grouped is None else grouped
    return (
        norm * math.prod(node.layout.shape) * node.op.uses_batch
        + product * node.layout.multiply_adds
    )
