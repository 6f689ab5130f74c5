"""This project's engine behind the interface of its peers: all that the benchmark knows of it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from cnnbench.engine import form_for, microbatch_size
from cnnbench.graph import Plan
from cnnbench.layers import BatchNorm
from cnnbench.models import GraphNet
from cnnbench.spec import Experiment
from cnnbench.train import (
    Arrays,
    Network,
    TrainState,
    build_optimizer,
    init_state,
    make_rules,
    outputs_of,
    pick,
    take_apart,
    train_step,
)

Weights = Mapping[str, Mapping[str, NDArray[Any]]]

EPOCH_STEPS = 100  # what a schedule takes for an epoch here, where nobody says how long one is


def make_peer(variant: str, experiment: Experiment, plan: Plan, weights: Weights) -> "OwnPeer":  # noqa: ARG001
    """Our engine as `cnnbench run` uses it, with given initial weights."""
    return OwnPeer(experiment, plan, weights)


class OwnPeer:
    """Trains a plan with this project's engine.

    Args:
      experiment: loss, optimiser and scale of the pixels.
      plan: the network.
      weights: initial values by layer and name, in the layout of `GraphNet`.
    """

    def __init__(self, experiment: Experiment, plan: Plan, weights: Weights) -> None:
        form = form_for(jax.devices()[0])
        network = take_apart(GraphNet(plan, form=form, rngs=nnx.Rngs(experiment.seeds[0])))
        self._network = _with_weights(network, plan, weights)
        self._rules = make_rules(experiment, microbatch_size(plan, network, form))
        self._optimizer = build_optimizer(experiment.train, EPOCH_STEPS)
        self._state = init_state(self._network, self._optimizer)
        self._program: Any = None

    def train(self, images: NDArray[np.uint8], labels: NDArray[Any]) -> NDArray[Any]:
        """One step for each batch; the first call compiles.

        Args:
          images: (steps, batch, h, w, c).
          labels: (steps, batch).

        Returns:
          The loss of each step, (steps,), when the device has finished.
        """
        batches = [_arrays(*batch) for batch in zip(images, labels, strict=True)]
        indices = jnp.arange(images.shape[1], dtype=jnp.int32)
        if self._program is None:
            self._program = self._compile(self._state, batches[0], indices)
        losses: list[jax.Array] = []
        for batch in batches:
            self._state, loss = self._program(self._state, batch, indices)
            jax.block_until_ready(losses[-1:])  # one step ahead of the device, as in the engine
            losses.append(loss)
        jax.block_until_ready(self._state)
        return np.asarray(jax.device_get(losses))

    def _compile(self, state: TrainState, batch: Arrays, indices: jax.Array) -> Any:
        step = partial(
            train_step,
            graphdef=self._network.training,
            optimizer=self._optimizer,
            rules=self._rules,
        )
        return jax.jit(step, donate_argnums=0).lower(state, batch, indices).compile()

    def outputs(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """The network's results in evaluation mode, (n, ...), for images (n, h, w, c)."""
        graphdef = self._network.evaluation
        call = jax.jit(partial(outputs_of, graphdef=graphdef, rules=self._rules))
        indices = jnp.arange(len(images), dtype=jnp.int32)
        batch = _arrays(images, np.zeros(len(images), np.int32))
        return np.asarray(call(self._state.params, self._state.rest, batch, indices))

    def gradients(
        self, images: NDArray[np.uint8], labels: NDArray[Any]
    ) -> tuple[float, dict[str, dict[str, NDArray[Any]]]]:
        """Mean loss and its gradients by layer and name, in evaluation mode."""
        indices = jnp.arange(len(images), dtype=jnp.int32)
        inputs, targets = pick(_arrays(images, labels), indices, self._rules)

        def mean_loss(params: Any) -> jax.Array:
            graphdef = self._network.evaluation
            model: Any = nnx.merge(graphdef, params, self._state.rest, copy=True)
            return self._rules.loss(model(inputs), targets).mean()

        loss, gradients = jax.value_and_grad(mean_loss)(self._state.params)
        tree = nnx.to_pure_dict(gradients)
        layers = tree.get("weights", {}) | tree.get("parts", {})
        return float(loss), jax.tree.map(np.asarray, layers)


def _arrays(images: NDArray[np.uint8], labels: NDArray[Any]) -> Arrays:
    return Arrays(jnp.asarray(images), jnp.asarray(labels, jnp.int32))


def _with_weights(network: Network, plan: Plan, weights: Weights) -> Network:
    """The same network with other parameters; Flax's own modules keep theirs apart."""
    tree: dict[str, dict[str, Any]] = {"weights": {}, "parts": {}}
    for name, values in weights.items():
        part = "parts" if isinstance(plan.by_name[name].op, BatchNorm) else "weights"
        tree[part][name] = {key: jnp.asarray(value) for key, value in values.items()}
    params = nnx.clone(network.params)
    nnx.replace_by_pure_dict(params, {key: value for key, value in tree.items() if value})
    return network._replace(params=params)
