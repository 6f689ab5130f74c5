"""Training in plain Flax NNX: `nnx.jit`, `nnx.value_and_grad`, `nnx.Optimizer`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnbench.bench.frameworks.flax_net import FlaxNet
from cnnbench.bench.frameworks.interface import LayerGradients
from cnnbench.graph.plan import Plan
from cnnbench.runs.experiment import loss_name
from cnnbench.spec.experiment import Experiment, Task
from cnnbench.system.arrays import Array, LayerWeights
from cnnbench.training.losses import per_image_loss
from cnnbench.training.optim.optimizer import build_optimizer

EVAL_BATCH = 500


class FlaxTrainer:
    """A network in Flax NNX, on JAX's default device.

    Args:
      experiment: loss, optimizer and pixel scale.
      plan: the network.
      weights: initial parameters, in our layout.
    """

    def __init__(self, experiment: Experiment, plan: Plan, weights: LayerWeights) -> None:
        self.net = FlaxNet(plan, weights, nnx.Rngs(experiment.seeds[0]))
        rule = build_optimizer(experiment.train, steps=1)  # the schedule is constant
        self.optimizer = nnx.Optimizer(self.net, rule, wrt=nnx.Param)
        per_image, scaling = per_image_loss(loss_name(experiment)), experiment.dataset.scaling
        reconstructs = experiment.task is Task.RECONSTRUCT

        def mean_loss(net: FlaxNet, images: jax.Array, labels: jax.Array) -> jax.Array:
            scaled = scaling.apply(images.astype(jnp.float32))
            return per_image(net(scaled), scaled if reconstructs else labels).mean()

        @nnx.jit
        def train_step(net: FlaxNet, optimizer: Any, images: Any, labels: Any) -> Any:
            loss, gradients = nnx.value_and_grad(mean_loss)(net, images, labels)
            optimizer.update(net, gradients)
            return loss

        self._train_step = train_step
        self._value_and_grad = nnx.jit(nnx.value_and_grad(mean_loss))
        self._predict = nnx.jit(lambda net, images: net(scaling.apply(images.astype(jnp.float32))))

    def train(self, images: Array, labels: Array) -> Array:
        """As `FrameworkTrainer.train`."""
        self.net.train()
        losses = [
            self._train_step(self.net, self.optimizer, batch, targets)
            for batch, targets in zip(images, labels, strict=True)
        ]
        jax.block_until_ready((nnx.state(self.net), losses))
        return np.array(losses)

    def outputs(self, images: Array) -> Array:
        """As `FrameworkTrainer.outputs`."""
        self.net.eval()
        starts = range(0, len(images), EVAL_BATCH)
        parts = [self._predict(self.net, images[i : i + EVAL_BATCH]) for i in starts]
        return np.concatenate([np.asarray(part) for part in parts])

    def gradients(self, images: Array, labels: Array) -> tuple[float, LayerGradients]:
        """As `FrameworkTrainer.gradients`."""
        self.net.eval()
        loss, gradients = self._value_and_grad(self.net, images, labels)
        holder = nnx.clone(self.net)  # the same paths as the parameters
        nnx.update(holder, gradients)
        found = {
            layer: {key: np.asarray(param[...]) for key, param in params.items()}
            for layer, params in holder.params.items()
        }
        return float(loss), found
