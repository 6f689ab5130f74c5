"""Micro-batching of networks with batch statistics, in rows of images that fit into a CPU cache.

Batch norm needs statistics of the whole batch between two layers, so the layers are split into
stages there, and each stage runs row by row. A stage returns its values and their sums per row;
the next one starts with the normalization. The last stage runs forward and backward while a row
is in the cache. The gradient visits the others in reverse order and recomputes a row
(rematerialization), which is faster than storing and loading it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnbench.graph.plan import Node, Plan
from cnnbench.graph.repeats import Loop
from cnnbench.layers.base import INPUT
from cnnbench.nn.looping import repeat
from cnnbench.nn.lowering import Lowering
from cnnbench.nn.noise import Random, apply_noise
from cnnbench.nn.ops import dense
from cnnbench.nn.ops.batch_norm import (
    FACTOR,
    Pending,
    Summation,
    Sums,
    about_mean,
    normalize,
    statistics,
    sum_of_rows,
    sums_gradient,
)
from cnnbench.nn.ops.dense import LayerParams
from cnnbench.nn.result import Result
from cnnbench.nn.scopes import layer_scope
from cnnbench.system.devices import spans_processes

LayerValues = dict[str, jax.Array]
_Carry = tuple[LayerValues, dict[str, Sums]]
Head = Callable[..., jax.Array]


class Microbatching(NamedTuple):
    """Micro-batching of a batch that is needed as a whole for batch statistics.

    Args:
      row: images per row; divides the batch size.
      mesh: devices that share the rows; None for a single one.
      packs: True if sums over devices are packed into few arrays, because the devices belong to
        several processes, and gloo exchanges one array after another.
    """

    row: int
    mesh: Mesh | None
    packs: bool = False


class Layers(Protocol):
    """The interface of a network for micro-batching."""

    @property
    def plan(self) -> Plan:
        """The graph."""

    @property
    def parts(self) -> Mapping[str, Any]:
        """Modules by layer: random layers, and owners of the parameters of batch norms."""

    @property
    def loops(self) -> tuple[Loop, ...]:
        """Equal stages that run as loops."""

    @property
    def lowering(self) -> Lowering:
        """What operations are lowered to."""

    def to_layout(self, x: jax.Array) -> jax.Array:
        """Converts images to the layout of the operations."""

    def result_of(self, values: Mapping[str, jax.Array], weights: LayerParams) -> Result:
        """Everything that the loss depends on."""

    def apply(self, node: Node, inputs: Sequence[jax.Array], weights: LayerParams) -> jax.Array:
        """Computes any other layer."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers that run together on a row.

    Args:
      nodes: the layers, in order.
      reads: inputs from earlier stages.
      gives: outputs for later stages or the loss.
      sums: outputs that a batch norm normalizes.
    """

    nodes: tuple[Node, ...]
    reads: frozenset[str]
    gives: frozenset[str]
    sums: frozenset[str]


def stages(plan: Plan) -> list[Stage]:
    """Splits layers into stages, each layer in the latest possible one.

    A batch norm is in a later stage than its input. The last stage is the only one that is not
    recomputed.
    """
    before: dict[str, int] = {}  # number of stages after that of a layer
    for node in reversed(plan.nodes):
        here = before.setdefault(node.name, 0)
        least = here + node.op.uses_batch
        before |= {name: max(before.get(name, 0), least) for name in node.inputs}
    normed = {node.inputs[0] for node in plan.nodes if node.op.uses_batch}
    before.pop(INPUT, None)
    return [_stage(plan, before, number, normed) for number in range(max(before.values()), -1, -1)]


def _stage(plan: Plan, before: Mapping[str, int], number: int, normed: set[str]) -> Stage:
    nodes = tuple(node for node in plan.nodes if before[node.name] == number)
    names = {node.name for node in nodes}
    later = {name for node in plan.nodes if before[node.name] < number for name in node.inputs}
    reads = {name for node in nodes for name in node.inputs} - names - {INPUT}
    gives = names & (later | plan.ends)
    if not number:
        reads |= plan.ends - names - {INPUT}
    return Stage(nodes, frozenset(reads), frozenset(gives), frozenset(gives & normed))


class _Fixed(NamedTuple):
    """Inputs without gradients, with rows as the first axis.

    Args:
      images: (rows, row, h, w, c).
      drawn: values of random layers, (rows, row, *shape); some axes may have size 1.
      others: inputs of the loss besides the outputs.
    """

    images: jax.Array
    drawn: LayerValues
    others: tuple[jax.Array, ...]


def sum_in_rows(
    net: Layers,
    x: jax.Array,
    weights: LayerParams,
    cut: Microbatching,
    head: Head,
    others: tuple[jax.Array, ...] = (),
) -> jax.Array:
    """Sum over a batch in training, such as the sum of losses.

    Args:
      net: the network.
      x: images, (n, h, w, c).
      weights: prepared weights by layer.
      cut: rows and devices.
      head: maps the `Result` for some images, and their `others`, to a scalar.
      others: further inputs of `head`, such as targets, (n, ...) each.
    """
    cut = _for_batch(cut, len(x), weights)
    if cut.packs:
        weights = _on_each_device(weights, cut)
    looped = {name for loop in net.loops for names in loop.names for name in names}
    alone = [node for node in net.plan.nodes if node.name not in looped]
    given: tuple[Any, ...] = (x, _drawn(alone, net.parts, len(x)), others)
    fixed = _Fixed(*_in_rows(given, cut))
    rows = _Rows(net, cut, net.parts, fixed, weights, {}, {})
    *early, last = stages(net.plan)
    done = 0
    for loop in net.loops:
        rows.advance(early[done : loop.start])
        rows.repeat(loop, early[loop.start : loop.start + loop.period])
        done = loop.stop
    rows.advance(early[done:])
    return _last(partial(_result, net, last, head), cut, *rows.inputs(last), fixed)


def _for_batch(cut: Microbatching, n: int, weights: LayerParams) -> Microbatching:
    """The micro-batching of `n` images: on one device if the devices would have unequal shares."""
    if cut.mesh is None or n // cut.row % cut.mesh.size:
        return cut._replace(mesh=None)
    single = all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(weights))
    return cut._replace(packs=single and spans_processes(cut.mesh))


def _on_each_device(weights: LayerParams, cut: Microbatching) -> LayerParams:
    """Copies of the weights for each device, along a new first axis, except those of batch norms.

    The gradient of this function is the sum over all devices of the gradients of all weights: they
    are exchanged once, as one array.
    """
    assert cut.mesh is not None
    others, norms = _of_norms(weights)
    values, unpack = ravel_pytree(others)
    copies = jnp.broadcast_to(values, (cut.mesh.size, values.size))
    spread = NamedSharding(cut.mesh, PartitionSpec(cut.mesh.axis_names))
    copied: LayerParams = jax.vmap(unpack)(lax.with_sharding_constraint(copies, spread))
    return {**copied, **norms}


def _in_rows(values: Any, cut: Microbatching) -> Any:
    """Splits a batch into rows, (n, ...) to (rows, row, ...)."""
    return jax.tree.map(lambda a: a.reshape(-1, cut.row, *a.shape[1:]), values)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A batch in rows, on its way through the stages.

    Args:
      net: the network.
      cut: rows and devices.
      parts: modules by layer; in a loop, those of a repetition.
      fixed: inputs without gradients.
      weights: prepared weights by layer; in a loop, those of a repetition.
      values: outputs of layers so far.
      sums: sums of those that a batch norm normalizes.
    """

    net: Layers
    cut: Microbatching
    parts: Mapping[str, Any]
    fixed: _Fixed
    weights: LayerParams
    values: LayerValues
    sums: dict[str, Sums]

    def advance(self, stages: Iterable[Stage]) -> None:
        """Runs stages, and adds their outputs."""
        for stage in stages:
            run = partial(_run, self.net, stage)
            static = self.cut, stage.sums, self.net.lowering.summation
            found, more = _early(run, *static, *self.inputs(stage), self.fixed)
            self.values.update(found)
            self.sums.update(more)

    def repeat(self, loop: Loop, body: Sequence[Stage]) -> None:
        """Runs equal stages as a loop, and adds the outputs of the last repetition."""
        nodes = [node for stage in body for node in stage.nodes]
        n = len(self.fixed.images) * self.cut.row
        normed = {node.inputs[0] for node in nodes if node.op.uses_batch}
        values = {name: self.values[name] for name in loop.carried}
        sums = {name: self.sums[name] for name in loop.carried if name in normed}

        def once(carry: _Carry, parts: Mapping[str, Any], weights: LayerParams) -> _Carry:
            fixed = self.fixed._replace(drawn=_in_rows(_drawn(nodes, parts, n), self.cut))
            rows = _Rows(self.net, self.cut, parts, fixed, weights, dict(carry[0]), dict(carry[1]))
            rows.advance(body)
            return (
                {name: rows.values[loop.carried[name]] for name in values},
                {name: rows.sums[loop.carried[name]] for name in sums},
            )

        weights: LayerParams = {first: self.weights[first] for first in loop.columns}
        if self.cut.packs:  # (devices, repetitions, ...) to (repetitions, devices, ...)
            others, norms = _of_norms(weights)
            weights = jax.tree.map(lambda w: jnp.swapaxes(w, 0, 1), others) | norms
        after = repeat(loop, once, (values, sums), self.net.parts, weights)
        self.values.update({loop.after[name]: value for name, value in after[0].items()})
        self.sums.update({loop.after[name]: value for name, value in after[1].items()})

    def inputs(self, stage: Stage) -> tuple[LayerValues, LayerParams]:
        """Inputs of a stage, and its weights with the statistics of its batch norms."""
        known = dict(self.weights)
        for node in stage.nodes:
            if not node.op.uses_batch:
                continue
            source = node.inputs[0]
            if source == INPUT:
                images = self.fixed.images
                self.sums[source] = _sums_of_images(self.net, images)
            size = self.values.get(source, self.fixed.images).size // self.sums[source].about.size
            known[node.name] = statistics(self.parts[node.owner], self.sums[source], size)
        names = {name for node in stage.nodes for name in (node.name, *node.inputs)}
        names |= {node.name for node in self.net.plan.quantizers}  # for the loss
        used = {name: known[name] for name in sorted(names) if name in known}
        return {name: self.values[name] for name in stage.reads}, used


def _sums_of_images(net: Layers, images: jax.Array) -> Sums:
    """Sums of images, without gradients."""
    of_values = net.lowering.summation.of_values
    found = lax.map(lambda row: of_values(net.to_layout(row)), images)
    return lax.stop_gradient(_sums(found, images))


def _sums(found: tuple[jax.Array, jax.Array], values: jax.Array) -> Sums:
    """Sums of the batch, from those of its rows; the values have channels last."""
    size, dtype = values.size // values.shape[-1], jnp.promote_types(values.dtype, jnp.float32)
    return about_mean(*found, size, dtype)


def _drawn(nodes: Iterable[Node], parts: Mapping[str, Any], n: int) -> LayerValues:
    """Random values for the whole batch, independent of rows and devices."""
    drawn = {}
    for node in nodes:
        if node.op.draws:
            with layer_scope(node.name):
                drawn[node.name] = parts[node.name].draw((n, *node.layout.shape))
    return drawn


def _run(
    net: Layers, stage: Stage, values: LayerValues, fixed: _Fixed, weights: LayerParams
) -> LayerValues:
    """Outputs of a stage for one row."""
    found = {INPUT: net.to_layout(fixed.images)} | values
    for node in stage.nodes:
        inputs = [found[name] for name in node.inputs]
        with layer_scope(node.name):
            found[node.name] = _output(net, node, inputs, fixed, weights)
    return {name: found[name] for name in stage.gives}


def _output(
    net: Layers, node: Node, inputs: Sequence[Any], fixed: _Fixed, weights: LayerParams
) -> Any:
    """The output of a layer; `Pending` for a batch norm that the next layer computes."""
    if node.op.uses_batch:
        by, x, given = net.lowering, inputs[0], weights[node.name]
        relu = by.activated.get(node.name)
        if relu and node.name in by.pending and x.dtype == jnp.float32:
            return Pending(x, **given, relu=relu)
        return normalize(by.summation, x, **given, relu=relu)
    if not isinstance(node.op, Random):
        return net.apply(node, inputs, weights)
    if not node.op.draws:
        return inputs[0]
    drawn = fixed.drawn[node.name]
    drawn = net.to_layout(drawn) if drawn.ndim == 4 else drawn
    return apply_noise(node.op, drawn, *inputs)


def _result(
    net: Layers, stage: Stage, head: Head, values: LayerValues, fixed: _Fixed, weights: LayerParams
) -> jax.Array:
    """Value of `head` for one row, from the last stage."""
    found = {INPUT: net.to_layout(fixed.images)} | values | _run(net, stage, values, fixed, weights)
    return head(net.result_of(found, weights), *fixed.others)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _early(
    run: Callable[..., LayerValues],
    cut: Microbatching,
    normed: frozenset[str],
    summation: Summation,
    values: LayerValues,
    weights: LayerParams,
    fixed: _Fixed,
) -> tuple[LayerValues, dict[str, Sums]]:
    """Outputs of a stage for all rows, and sums of outputs to normalize."""

    def one(row: tuple[LayerValues, _Fixed], weights: LayerParams) -> tuple[LayerValues, Any]:
        given = run(*row, weights)
        return given, {name: summation.of_values(given[name]) for name in sorted(normed)}

    def share(rows: Any, weights: LayerParams) -> Any:
        return lax.map(lambda row: one(row, weights), rows)

    given, found = _on_devices(share, (values, fixed), weights, cut)
    found = _packed_sums(found) if cut.packs else found
    return given, {name: _sums(own, given[name]) for name, own in found.items()}


def _packed_sums(rows: Any) -> Any:
    """Sums over rows in float64, (rows, n) to (1, n) each, of several arrays as one."""
    leaves, tree = jax.tree.flatten(rows)
    if not leaves:
        return rows
    ends = np.cumsum([leaf.shape[1] for leaf in leaves])[:-1]
    with jax.enable_x64(True):
        every = jnp.concatenate([leaf.astype(jnp.float64) for leaf in leaves], axis=1)
        parts = jnp.split(every.sum(0, keepdims=True), ends, axis=1)
        pairs = zip(parts, leaves, strict=True)
        summed = [part.astype(leaf.dtype) for part, leaf in pairs]
        return jax.tree.unflatten(tree, summed)


def _early_forward(
    run: Callable[..., LayerValues],
    cut: Microbatching,
    normed: frozenset[str],
    summation: Summation,
    values: LayerValues,
    weights: LayerParams,
    fixed: _Fixed,
) -> Any:
    given, sums = _early(run, cut, normed, summation, values, weights, fixed)
    about = {name: own.about for name, own in sums.items()}
    return (given, sums), (values, weights, fixed, given, about)


def _early_backward(
    run: Callable[..., LayerValues],
    cut: Microbatching,
    _normed: frozenset[str],
    _summation: Summation,
    saved: Any,
    changes: Any,
) -> Any:
    """Row by row; a convolution before a batch norm is not recomputed."""

    def back(row: Any, weights: LayerParams) -> Any:
        values, fixed, given, change, sums = row
        for name, own in sums.items():
            more = sums_gradient(given[name], *own)
            change[name] = (change[name] + more).astype(given[name].dtype)
        _, pull = jax.vjp(lambda values, weights: run(values, fixed, weights), values, weights)
        return pull(change)

    values, weights, fixed, given, about = saved
    change, sums = changes
    of_rows = {
        name: tuple(
            jnp.broadcast_to(v, (len(given[name]), *v.shape))
            for v in (about[name], own.first, own.second)
        )
        for name, own in sums.items()
    }
    rows = values, fixed, given, change, of_rows
    changed, sums, kept = _gradients(back, rows, weights, cut)
    kept = _packed_sums(kept) if cut.packs else kept
    return changed, _gradient(sums, kept, weights, cut), None


_early.defvjp(_early_forward, _early_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _last(
    result: Callable[..., jax.Array],
    cut: Microbatching,
    values: LayerValues,
    weights: LayerParams,
    fixed: _Fixed,
) -> jax.Array:
    """Sum of `result` over all rows."""

    def share(rows: Any, weights: LayerParams) -> Any:
        return lax.map(lambda row: result(*row, weights), rows)

    total: jax.Array = _on_devices(share, (values, fixed), weights, cut).sum()
    return total


def _last_forward(
    result: Callable[..., jax.Array],
    cut: Microbatching,
    values: LayerValues,
    weights: LayerParams,
    fixed: _Fixed,
) -> Any:
    """Computes the gradient, too, so that nothing has to be stored or recomputed."""
    both = jax.value_and_grad(result, argnums=(0, 2))

    def go(row: Any, weights: LayerParams) -> Any:
        number, (change, gradient) = both(*row, weights)
        return (number, change), gradient

    (numbers, changes), sums, kept = _gradients(go, (values, fixed), weights, cut)
    if cut.packs:
        kept, numbers = _packed_sums((kept, numbers[:, None]))
    return numbers.sum(), (changes, _gradient(sums, kept, weights, cut))


def _last_backward(
    _result: Callable[..., jax.Array], _cut: Microbatching, saved: Any, change: jax.Array
) -> Any:
    return *jax.tree.map(lambda g: g * change.astype(g.dtype), saved), None


_last.defvjp(_last_forward, _last_backward)


def _gradients(
    function: Callable[..., Any], rows: Any, weights: LayerParams, cut: Microbatching
) -> tuple[Any, Any, Any]:
    """Values of a function for all rows, and its gradients, which `_gradient` adds.

    Returns:
      The values, sums of the gradients of each device, (devices, ...), and gradients of batch norms
      for each row, (rows, ...).
    """

    def share(rows: Any, weights: LayerParams) -> Any:
        slotted = dense.with_slots(weights, cut.row)

        def add(sums: Any, row: Any) -> tuple[Any, Any]:
            values, gradient = function(row, slotted)
            gradient, slots = dense.without_slots(gradient)
            summed, kept = _of_norms(gradient)
            return jax.tree.map(jnp.add, sums, summed), (values, slots, kept)

        start = jax.tree.map(_wide_zeros, _of_norms(weights)[0])
        sums, (values, slots, kept) = lax.scan(add, start, rows)
        return values, jax.tree.map(lambda g: g[None], dense.add_products(sums, slots)), kept

    values, sums, kept = _on_devices(share, rows, weights, cut)
    return values, sums, kept


def _gradient(sums: Any, kept: Any, weights: LayerParams, cut: Microbatching) -> Any:
    """The gradient of all rows; if sums are packed, each device keeps its own until the end."""
    summed = sums if cut.packs else jax.tree.map(lambda g: g.sum(0), sums)
    gradient = summed | jax.tree.map(sum_of_rows, kept)
    return jax.tree.map(lambda g, w: g.astype(w.dtype), gradient, dict(weights))


def _of_norms(weights: LayerParams) -> tuple[Any, Any]:
    """Splits weights into those of other layers and of batch norms, which are summed accurately."""
    norms = {name: own for name, own in weights.items() if FACTOR in own}
    return {name: own for name, own in weights.items() if name not in norms}, norms


def _wide_zeros(like: jax.Array) -> jax.Array:
    """Zeros for accumulation; summing many rows in bfloat16 would leave one significant digit."""
    return jnp.zeros(like.shape, jnp.promote_types(like.dtype, jnp.float32))


def _on_devices(share: Callable[..., Any], rows: Any, weights: Any, cut: Microbatching) -> Any:
    """Runs a function on the rows of each device, and concatenates the results."""
    if cut.mesh is None:
        return share(rows, weights)
    spread = PartitionSpec(cut.mesh.axis_names)
    own: Any = PartitionSpec()
    if cut.packs:
        norms = _of_norms(weights)[1]
        own = {name: PartitionSpec() if name in norms else spread for name in weights}
        share = partial(_with_own_weights, share)
    specs = (spread, own)
    # The check does not support custom backward passes.
    shared = jax.shard_map(share, mesh=cut.mesh, in_specs=specs, out_specs=spread, check_vma=False)
    return shared(rows, weights)


def _with_own_weights(share: Callable[..., Any], rows: Any, weights: LayerParams) -> Any:
    """Calls a function with a device's copy of the weights, (1, ...) each."""
    copies, norms = _of_norms(weights)
    return share(rows, jax.tree.map(lambda w: w[0], copies) | norms)
