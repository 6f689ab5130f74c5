"""Rounding errors of backpropagation in float32, estimated by Monte Carlo arithmetic.

The inputs and results of every operation are perturbed at random, in float64, by as much as
float32 rounds them. The change of the derivatives measures how ill-conditioned they are, even
where float32 gives the same wrong digits at every nearby point, such as the exact zero of 1 - p
for a saturated sigmoid (Parker 1997, "Monte Carlo arithmetic").
"""

from dataclasses import dataclass, replace

import numpy as np

from cnnbench.gradcheck.backprop import Forward, Gradients, ReferenceNetwork, forward_and_backward
from cnnbench.gradcheck.losses import Objective
from cnnbench.graph.geometry import activation_of
from cnnbench.graph.plan import Node
from cnnbench.layers.base import Rule
from cnnbench.system.arrays import Array

UNIT = float(np.finfo(np.float32).eps) / 2
# Activations with exact slopes.
EXACT = frozenset({"linear", "relu", "leaky_relu", "relu6", "hard_sigmoid"})


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class _Perturbed(ReferenceNetwork):
    """A network whose operations have random rounding errors.

    Args:
      rng: generator of the errors.
    """

    rng: np.random.Generator

    def rule(self, node: Node) -> Rule:
        """The layer's perturbed rule; rules with kinks select values, and only round sums."""
        rule = ReferenceNetwork.rule(self, node)

        def around(value: Array) -> Array:
            return relative(self.rng, value)

        if rule.side is not None:
            return replace(
                rule,
                gradient=lambda *a: {
                    name: around(value) for name, value in rule.gradient(*a).items()
                },
            )

        def all_around(values: tuple[Array, ...]) -> tuple[Array, ...]:
            return tuple(map(around, values))

        return Rule(
            forward=lambda *a: around(rule.forward(*all_around(a))),
            backward=lambda *a: all_around(rule.backward(*all_around(a))),
            gradient=lambda *a: {
                name: around(value) for name, value in rule.gradient(*all_around(a)).items()
            },
        )

    def slope(self, node: Node, z: Array) -> Array:
        """Slope with the rounding error of 1, from which it is computed by subtraction."""
        slope = ReferenceNetwork.slope(self, node, z)
        exact = activation_of(node.op) in EXACT
        return slope if exact else slope + UNIT * self.rng.normal(size=z.shape)


@dataclass(frozen=True, slots=True)
class _PerturbedObjective(Objective):
    """A cost whose gradient has random rounding errors.

    Args:
      rng: generator of the errors.
    """

    rng: np.random.Generator

    def gradient(self, outputs: Array) -> Array:
        """Perturbed gradient; for softmax with the absolute error of ``p - 1``."""
        gradient = Objective.gradient(self, relative(self.rng, outputs))
        if self.loss != "cross_entropy":
            return relative(self.rng, gradient)
        spread = self.share_of_image(outputs) * UNIT
        return gradient + spread * self.rng.normal(size=outputs.shape)


def relative(rng: np.random.Generator, value: Array) -> Array:
    """The array with a random relative error of float32's unit roundoff on each value."""
    return np.asarray(value * (1 + UNIT * rng.normal(size=value.shape)))


def perturbed(network: ReferenceNetwork, x: Array, seed: int) -> tuple[Forward, Gradients]:
    """All five steps in float64 with random rounding errors of the size of float32's.

    Args:
      network: the network, in float64.
      x: images, (n, height, width, channels), in float64.
      seed: seed of the errors.
    """
    rng = np.random.default_rng(seed)
    weights = {
        layer: {name: relative(rng, value) for name, value in own.items()}
        for layer, own in network.weights.items()
    }
    target = network.objective
    objective = _PerturbedObjective(
        target.loss,
        target.targets,
        rng,
        label_smoothing=target.label_smoothing,
        class_weights=target.class_weights,
        pos_weight=target.pos_weight,
    )
    rough = _Perturbed(network.plan, weights, network.draws, objective, rng)
    return forward_and_backward(rough, relative(rng, x))
