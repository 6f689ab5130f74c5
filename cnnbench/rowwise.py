"""A network with batch statistics, computed in rows of images that fit into a CPU's cache.

Batch norm needs a number of the whole batch between two layers (Ioffe & Szegedy
2015), so the layers are cut there into segments, and each segment runs row by
row. A segment gives, with its values, their sums over its rows; the next one
begins with the normalisation. The gradient takes the same way back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from cnnbench.graph import Node, Plan
from cnnbench.layers import INPUT, BatchNorm, Dropout

Values = dict[str, jax.Array]
Weights = Mapping[str, Mapping[str, jax.Array]]


class Cut(NamedTuple):
    """How a whole batch is cut where batch statistics need all of it at once.

    Args:
      row: images of a row; they fill the batch.
      mesh: devices that share the rows; None for one.
    """

    row: int
    mesh: Mesh | None


class Layers(Protocol):
    """What is asked of a network here."""

    @property
    def plan(self) -> Plan:
        """The graph."""

    @property
    def parts(self) -> Mapping[str, Any]:
        """Flax's own modules by layer: dropout and batch norm."""

    def enter(self, x: jax.Array) -> jax.Array:
        """Images in the layout of the operations."""

    def leave(self, x: jax.Array) -> jax.Array:
        """The result in the layout of images."""

    def apply(self, node: Node, inputs: Sequence[jax.Array], weights: Weights) -> jax.Array:
        """Any other layer."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Layers that run together on a row.

    Args:
      nodes: the layers, in order.
      reads: values from before that they read.
      gives: values that later layers read, or the result.
      sums: those of them, and of what dropout gave, that a batch norm normalises.
    """

    nodes: tuple[Node, ...]
    reads: frozenset[str]
    gives: frozenset[str]
    sums: frozenset[str]


def segments(plan: Plan) -> list[Segment]:
    """The layers in order, cut before every batch norm and around every dropout."""
    normed = {node.inputs[0] for node in plan.nodes if isinstance(node.op, BatchNorm)}
    groups: list[list[Node]] = [[]]
    for node in plan.nodes:
        here = {other.name for other in groups[-1]}
        alone = isinstance(node.op, Dropout) or any(isinstance(n.op, Dropout) for n in groups[-1])
        if alone or (isinstance(node.op, BatchNorm) and node.inputs[0] in here):
            groups.append([])
        groups[-1].append(node)
    found = []
    for number, group in enumerate(groups):
        names = {node.name for node in group}
        later = {name for other in groups[number + 1 :] for n in other for name in n.inputs}
        reads = {name for node in group for name in node.inputs} - names
        gives = names & (later | {plan.output})
        found.append(Segment(tuple(group), frozenset(reads), frozenset(gives), names & normed))  # type: ignore[arg-type]
    return found


def in_rows(net: Layers, x: jax.Array, weights: Weights, cut: Cut) -> jax.Array:
    """The network's result for a whole batch, with statistics of all of it.

    Args:
      net: the network, in training.
      x: images, (n, h, w, c).
      weights: prepared, by layer.
      cut: the rows; they fill the batch.
    """
    values: Values = {INPUT: x.reshape(-1, cut.row, *x.shape[1:])}
    totals: dict[str, tuple[jax.Array, jax.Array]] = {}
    known = dict(weights)
    for segment in segments(net.plan):
        for node in segment.nodes:
            if isinstance(node.op, BatchNorm):
                source = node.inputs[0]
                if source not in totals:
                    totals[source] = _row_sums(net, source, values, cut)
                size = values[source].size // totals[source][0].shape[-1]
                known[node.name] = _statistics(net.parts[node.name], totals[source], size)
        node = segment.nodes[0]
        if isinstance(node.op, Dropout):
            values[node.name] = net.parts[node.name](values[node.inputs[0]])
            continue
        given, sums = _over_rows(_runner(net, segment), _some(values, segment.reads), known, cut)
        values |= given
        totals |= {name: (s.sum(0), q.sum(0)) for name, (s, q) in sums.items()}
    result = values[net.plan.output]
    return result.reshape(-1, *net.plan.output_shape)


def _some(values: Values, names: frozenset[str]) -> Values:
    return {name: values[name] for name in names}


def _runner(net: Layers, segment: Segment) -> Callable[[Values, Weights], Any]:
    """A segment as a function of the values and weights of one row."""

    def run(values: Values, weights: Weights) -> tuple[Values, Any]:
        found = dict(values)
        if INPUT in found:
            found[INPUT] = net.enter(found[INPUT])
        for node in segment.nodes:
            inputs = [found[name] for name in node.inputs]
            if isinstance(node.op, BatchNorm):
                found[node.name] = normalize(inputs[0], **weights[node.name])
            else:
                found[node.name] = net.apply(node, inputs, weights)
        sums = {name: channel_sums(found[name]) for name in segment.sums}
        if net.plan.output in segment.gives:
            found[net.plan.output] = net.leave(found[net.plan.output])
        return {name: found[name] for name in segment.gives}, sums

    return run


def _row_sums(net: Layers, name: str, values: Values, cut: Cut) -> tuple[jax.Array, jax.Array]:
    """Sums of a value that no segment gave: the image's, or after a dropout."""

    def run(values: Values, _weights: Weights) -> tuple[jax.Array, jax.Array]:
        x = values[name]
        return channel_sums(net.enter(x) if name == INPUT else x)

    sums, squares = _over_rows(run, {name: values[name]}, {}, cut)
    return sums.sum(0), squares.sum(0)


def _statistics(
    part: nnx.BatchNorm, totals: tuple[jax.Array, jax.Array], size: int
) -> dict[str, jax.Array]:
    """What `normalize` needs; the running statistics move on, as in `nnx.BatchNorm`."""
    assert part.scale is not None
    assert part.bias is not None
    mean = totals[0] / size
    variance = jnp.maximum(totals[1] / size - mean**2, 0)
    keep = part.momentum
    part.mean[...] = keep * part.mean[...] + (1 - keep) * lax.stop_gradient(mean)
    part.var[...] = keep * part.var[...] + (1 - keep) * lax.stop_gradient(variance)
    factor = part.scale[...] * lax.rsqrt(variance + part.epsilon)
    return {"mean": mean, "factor": factor, "bias": part.bias[...]}


@jax.custom_vjp
def normalize(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) * factor + bias, for each channel; `x` is (..., c)."""
    return ((x - mean) * factor + bias).astype(x.dtype)


def _normalize_forward(
    x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return normalize(x, mean, factor, bias), (x, mean, factor, bias)


def _normalize_backward(saved: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, ...]:
    x, mean, factor, bias = saved
    shift = _total(dy)
    slope = _total(dy * (x - mean))
    changes = (dy * factor, -factor * shift, slope, shift)
    return tuple(c.astype(v.dtype) for c, v in zip(changes, (x, mean, factor, bias), strict=True))


normalize.defvjp(_normalize_forward, _normalize_backward)


@jax.custom_vjp
def channel_sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of the values and of their squares over all axes but the last."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return _total(x), _total(x * x)


def _sums_forward(x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    return channel_sums(x), x


def _sums_backward(x: jax.Array, changes: tuple[jax.Array, jax.Array]) -> tuple[jax.Array]:
    return ((changes[0] + 2 * x * changes[1]).astype(x.dtype),)


channel_sums.defvjp(_sums_forward, _sums_backward)


def _total(x: jax.Array) -> jax.Array:
    """The sum over all axes but the last, as a product: XLA's own is not vectorised on a CPU."""
    flat = x.reshape(-1, x.shape[-1])
    total: jax.Array = jnp.ones((1, len(flat)), x.dtype) @ flat
    return total[0]


def _over_rows(function: Callable[..., Any], values: Any, weights: Weights, cut: Cut) -> Any:
    """A function of (values, weights), row by row; each device takes its share of the rows.

    Args:
      function: of the values of one row, and of the weights.
      values: arrays with the rows as their first axis.
      weights: the same for all rows.
      cut: the devices.
    """

    def share(values: Any, weights: Weights) -> Any:
        # Computed again for the gradient: to keep what it needs of every row, and to read it
        # back from memory, takes longer.
        again = jax.checkpoint(function)
        return lax.map(lambda row: again(row, weights), values)

    rows = jax.tree.leaves(values)[0].shape[0]
    if cut.mesh is None or rows % cut.mesh.size:
        return share(values, weights)
    spread = PartitionSpec(cut.mesh.axis_names)
    specs = (spread, PartitionSpec())
    # The check cannot see through the backward passes that the operations define.
    shared = jax.shard_map(share, mesh=cut.mesh, in_specs=specs, out_specs=spread, check_vma=False)
    return shared(values, weights)
