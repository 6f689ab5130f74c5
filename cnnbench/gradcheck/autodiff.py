"""Derivatives by `jax.grad` of the layers that a run trains, for comparison."""

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
from cnnbench.training.state import Network, Tree, split_network


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Derivatives:
    """Cost, activations and derivatives computed by JAX.

    Args:
      cost: the cost.
      forward: z and a by layer.
      delta: derivatives with respect to z, by layer.
      weights: derivatives with respect to each weight, by layer and name.
    """

    cost: float
    forward: Forward
    delta: Mapping[str, Array]
    weights: LayerWeights


class Reference:
    """A plan as it is trained, in the form `plain`.

    Args:
      plan: the network.
      score: training objective per image, with the divergences of sampling layers.
      seed: seed of the initial kernels and of random layers, as in a run.
    """

    def __init__(self, plan: Plan, score: Score, seed: int) -> None:
        self.plan = plan
        self.parts = split_network(GraphNet(plan, form="plain", rngs=nnx.Rngs(seed)))
        cost = partial(_cost, plan, self.parts, score)
        self._differentiate = jax.jit(jax.value_and_grad(cost, (0, 1), has_aux=True))

    def initial(self) -> dict[str, dict[str, Array]]:
        """The initial weights of a run, by layer and name."""
        return by_layer(self.parts.params)

    def draws(self, num_images: int, dtype: str) -> dict[str, Array]:
        """Random draws of the first step by layer: dropout masks or noise."""
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
          weights: weights by layer and name; they determine the dtype.
          x: images, (n, height, width, channels).
          targets: targets of the loss.
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
    """The cost with a nudge added to every z; the derivative with respect to it is delta."""
    model = _merged(parts, params, x.dtype)
    weights = model.prepare()
    z: dict[str, jax.Array] = {}
    a = {INPUT: x}
    for node in plan.nodes:
        inputs, part = [a[name] for name in node.inputs], model.parts.get(node.owner)
        bare = part(*inputs) if part else model.apply(_linear(node), inputs, weights)
        z[node.name] = bare + nudges[node.name]
        a[node.name] = ACTIVATIONS[activation_of(node.op)](z[node.name])
    return score(model.result_of(a, weights), targets).mean(), (z, a)


def _linear(node: Node) -> Node:
    """The layer without its activation."""
    if activation_of(node.op) == "linear":
        return node
    return replace(node, op=node.op.model_copy(update={"activation": "linear"}))


def _merged(parts: Network, params: Tree, dtype: DTypeLike) -> Any:
    """The network in training mode, with batch norm's running statistics in the same dtype."""

    def widened(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return nnx.merge(parts.training, params, jax.tree.map(widened, parts.rest), copy=True)


def by_layer(params: Tree) -> dict[str, dict[str, Array]]:
    """Arrays by layer and name, regardless of the submodule that holds them."""
    return {
        layer: {name: np.asarray(value) for name, value in own.items()}
        for root in nnx.to_pure_dict(params).values()
        for layer, own in root.items()
    }


def _with_layers(params: Tree, weights: LayerWeights) -> Tree:
    """The state of a module with its arrays replaced."""
    state = nnx.clone(params)
    roots = nnx.to_pure_dict(params)
    values = {
        root: {layer: {k: jnp.asarray(v) for k, v in weights[layer].items()} for layer in layers}
        for root, layers in roots.items()
    }
    nnx.replace_by_pure_dict(state, values)
    return state
