"""A network's derivatives by `jax.grad`, for comparison: the same layers that a run trains."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cnnbench.gradcheck.backprop import Forward
from cnnbench.graph.geometry import activation_of
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import INPUT
from cnnbench.nn.graph_net import ACTIVATIONS, GraphNet
from cnnbench.system.arrays import Array, LayerWeights
from cnnbench.training.losses import Score
from cnnbench.training.state import Network, Tree, take_apart


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Derivatives:
    """What JAX makes of a network.

    Args:
      cost: the cost.
      forward: z and a by layer.
      delta: derivatives by z, by layer.
      weights: derivatives by each weight, by layer and name.
    """

    cost: float
    forward: Forward
    delta: Mapping[str, Array]
    weights: LayerWeights


class Reference:
    """A plan as it is trained, image by image as its layers say (the form `plain`).

    Args:
      plan: the network.
      score: its loss for each image, with the divergences of layers that sample.
      seed: of the initial kernels and of what is drawn, as in a run.
    """

    def __init__(self, plan: Plan, score: Score, seed: int) -> None:
        self.plan = plan
        self.parts = take_apart(GraphNet(plan, form="plain", rngs=nnx.Rngs(seed)))
        cost = partial(_cost, plan, self.parts, score)
        self._differentiate = jax.jit(jax.value_and_grad(cost, (0, 1), has_aux=True))

    def initial(self) -> dict[str, dict[str, Array]]:
        """The weights that a run begins with, by layer and name."""
        return by_layer(self.parts.params)

    def draws(self, num_images: int, dtype: str) -> dict[str, Array]:
        """What random layers draw in the first step: which values are kept, or noise."""
        model = _merged(self.parts, self.parts.params, dtype)
        found = {
            node.name: np.asarray(model.parts[node.name].draw((num_images, *node.layout.shape)))
            for node in self.plan.nodes
            if node.op.draws
        }
        return {name: v if v.dtype == bool else v.astype(dtype) for name, v in found.items()}

    def derivatives(self, weights: LayerWeights, x: Array, targets: Array) -> Derivatives:
        """All derivatives at a point.

        Args:
          weights: by layer and name; the dtype is theirs.
          x: images, (n, height, width, channels).
          targets: as the loss wants them.
        """
        shapes = {node.name: (len(x), *node.layout.shape) for node in self.plan.nodes}
        nudges = {name: jnp.zeros(shape, x.dtype) for name, shape in shapes.items()}
        params = _with_layers(self.parts.params, weights)
        (cost, found), (slopes, delta) = self._differentiate(params, nudges, x, targets)
        z, a = jax.tree.map(np.asarray, found)
        errors = jax.tree.map(np.asarray, delta)
        return Derivatives(float(cost), Forward(z, a), errors, by_layer(slopes))


def _cost(
    plan: Plan,
    parts: Network,
    score: Score,
    params: Tree,
    nudges: Mapping[str, jax.Array],
    x: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, Any]:
    """The cost, with something added to every z: the derivative by that is delta."""
    model = _merged(parts, params, x.dtype)
    weights = model.prepare()
    z: dict[str, jax.Array] = {}
    a = {INPUT: x}
    for node in plan.nodes:
        inputs, part = [a[name] for name in node.inputs], model.parts.get(node.name)
        bare = part(*inputs) if part else model.apply(_linear(node), inputs, weights)
        z[node.name] = bare + nudges[node.name]
        a[node.name] = ACTIVATIONS[activation_of(node.op)](z[node.name])
    return score(model.result_of(a), targets).mean(), (z, a)


def _linear(node: Node) -> Node:
    """The layer without its activation."""
    if activation_of(node.op) == "linear":
        return node
    return replace(node, op=node.op.model_copy(update={"activation": "linear"}))


def _merged(parts: Network, params: Tree, dtype: DTypeLike) -> Any:
    """The network in training; a batch norm's running statistics are in its dtype too."""

    def widened(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return nnx.merge(parts.training, params, jax.tree.map(widened, parts.rest), copy=True)


def by_layer(params: Tree) -> dict[str, dict[str, Array]]:
    """Arrays by layer and name, whichever part of the module holds them."""
    return {
        layer: {name: np.asarray(value) for name, value in own.items()}
        for root in nnx.to_pure_dict(params).values()
        for layer, own in root.items()
    }


def _with_layers(params: Tree, weights: LayerWeights) -> Tree:
    """The state of a module with other arrays in it."""
    state = nnx.clone(params)
    roots = nnx.to_pure_dict(params)
    values = {
        root: {layer: {k: jnp.asarray(v) for k, v in weights[layer].items()} for layer in layers}
        for root, layers in roots.items()
    }
    nnx.replace_by_pure_dict(state, values)
    return state
