"""The post's backpropagation in five steps, by hand in NumPy, for any graph of layers.

    1. Input x: set the activation a of the input.
    2. Feedforward: z and a = sigma(z) for every layer.
    3. Output error: delta = nabla_a C . sigma'(z) at the last layer.
    4. Backpropagate the error: delta for every layer, from the layers that read it.
    5. Output: the gradient of the cost for every weight.

Names are the post's: z, a and delta by layer. A layer without an activation has a = z. Nothing
here uses autodiff or the training engine; `gradcheck.check` compares the results.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cnnbench.gradcheck.losses import Objective, divergence, divergence_gradient
from cnnbench.graph.geometry import activation_of
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import Sample
from cnnbench.layers.activation import KINKS, sigma, sigma_prime
from cnnbench.layers.base import INPUT, Rule
from cnnbench.system.arrays import Array, LayerWeights


def rule_of(plan: Plan, node: Node, weights: LayerWeights, draws: Mapping[str, Array]) -> Rule:
    """The forward and backward rule of a layer.

    Args:
      plan: the network, which contains the owner of a tied kernel.
      node: the layer.
      weights: kernel, bias and other weights by layer.
      draws: random draws by layer, such as dropout masks; random layers without an entry are the
        identity.
    """
    own = dict(weights.get(node.owner, {}))
    if node.kernel_of:
        own["kernel"] = weights[node.kernel_owner]["kernel"]
    return node.op.rule(plan.site(node), own, draws.get(node.name))


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class ReferenceNetwork:
    """A network with fixed weights and random draws, and its objective.

    Args:
      plan: the layers.
      weights: kernel, bias and other weights by layer.
      draws: random draws by layer; nothing is drawn here.
      objective: the cost, with its targets.
    """

    plan: Plan
    weights: LayerWeights
    draws: Mapping[str, Array]
    objective: Objective

    def rule(self, node: Node) -> Rule:
        """The forward and backward rule of a layer."""
        return rule_of(self.plan, node, self.weights, self.draws)

    def slope(self, node: Node, z: Array) -> Array:
        """The slope of a layer's activation at each z."""
        return sigma_prime(activation_of(node.op), z)


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """Results of the first two steps, by layer: (n, *shape of the layer).

    Args:
      z: values before the activation.
      a: values after the activation; the images for the input.
    """

    z: dict[str, Array] = field(default_factory=dict)
    a: dict[str, Array] = field(default_factory=dict)

    def read_by(self, node: Node) -> list[Array]:
        """Inputs of a layer."""
        return [self.a[name] for name in node.inputs]


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """Results of the last three steps.

    Args:
      delta: the error of z by layer.
      weights: the derivative of the cost with respect to each weight, by layer and name.
      shares: for a kernel shared by several layers, the contribution of each, by owner and user.
    """

    delta: dict[str, Array]
    weights: dict[str, dict[str, Array]]
    shares: dict[str, dict[str, Array]]


def forward_and_backward(network: ReferenceNetwork, x: Array) -> tuple[Forward, Gradients]:
    """All five steps.

    Args:
      network: the network and its objective.
      x: images, (n, height, width, channels).
    """
    forward = feedforward(network, x)
    delta = backpropagate(network, forward)
    return forward, gradients(network, forward, delta)


def feedforward(
    network: ReferenceNetwork,
    x: Array,
    *,
    nudges: Mapping[str, Array] | None = None,
    known: Forward | None = None,
    moved: str | None = None,
) -> Forward:
    """Steps 1 and 2: z by equation (4), or the layer's own rule, and a by equation (3).

    Args:
      network: the network and its objective.
      x: images, (n, height, width, channels).
      nudges: values added to the z of some layers, for finite differences.
      known: an earlier pass, reused for everything that does not depend on `moved`.
      moved: the layer that has changed since.
    """
    forward, changed = Forward(a={INPUT: x}), {moved}
    for node in network.plan.nodes:
        name = node.name
        if known and changed.isdisjoint({name, node.owner, node.kernel_owner, *node.inputs}):
            forward.z[name], forward.a[name] = known.z[name], known.a[name]
            continue
        changed.add(name)
        z = network.rule(node).forward(*forward.read_by(node))
        nudge = (nudges or {}).get(name)
        forward.z[name] = z if nudge is None else z + nudge
        forward.a[name] = sigma(activation_of(node.op), forward.z[name])
    return forward


def cost(network: ReferenceNetwork, forward: Forward) -> float:
    """The cost C: the loss plus the divergences of sampling layers."""
    outputs = forward.a[network.plan.output]
    total = network.objective.value(outputs)
    for node in network.plan.samples:
        weight = network.objective.weight(kl_weight(node), outputs)
        total += weight * float(divergence(*forward.read_by(node)).sum())
    return total


def kl_weight(node: Node) -> float:
    """The weight of a sampling layer's divergence in the cost."""
    assert isinstance(node.op, Sample)
    return node.op.kl_weight


def output_error(network: ReferenceNetwork, forward: Forward) -> Array:
    """Step 3, equation (S3): nabla_a C at the output, times sigma'(z)."""
    last = network.plan.by_name[network.plan.output]
    slope = network.slope(last, forward.z[last.name])
    return network.objective.gradient(forward.a[last.name]) * slope


def backpropagate(network: ReferenceNetwork, forward: Forward) -> dict[str, Array]:
    """Step 4, equation (S4): delta of every layer, from the last to the first.

    If several layers read an output, their errors are summed, by the chain rule (5), and then
    multiplied by sigma'(z).
    """
    plan, delta = network.plan, {network.plan.output: output_error(network, forward)}
    errors = divergence_errors(network, forward)
    for node in reversed(plan.nodes):
        error = errors.pop(node.name, 0.0)
        slope = network.slope(node, forward.z[node.name])
        # Layers may read the output too; their errors are added to its own.
        delta[node.name] = delta.get(node.name, 0.0) + error * slope
        if set(node.inputs) == {INPUT}:
            continue  # the error of the images is not needed
        parts = network.rule(node).backward(delta[node.name], *forward.read_by(node))
        for name, part in zip(node.inputs, parts, strict=True):
            errors[name] = errors.get(name, 0.0) + part
    return delta


def divergence_errors(network: ReferenceNetwork, forward: Forward) -> dict[str, Array]:
    """Equation (19): errors of the sampling layers' inputs due to the divergences."""
    errors: dict[str, Array] = {}
    outputs = forward.a[network.plan.output]
    for node in network.plan.samples:
        weight = network.objective.weight(kl_weight(node), outputs)
        parts = divergence_gradient(*forward.read_by(node))
        for name, part in zip(node.inputs, parts, strict=True):
            errors[name] = errors.get(name, 0.0) + weight * part
    return errors


def gradients(network: ReferenceNetwork, forward: Forward, delta: dict[str, Array]) -> Gradients:
    """Step 5, equation (S5): the gradient of every weight, over all its uses (17)."""
    found: dict[str, dict[str, Array]] = {}
    shares: dict[str, dict[str, Array]] = {}
    for node in network.plan.nodes:
        own = network.rule(node).gradient(delta[node.name], *forward.read_by(node))
        for key, value in own.items():
            owner = node.kernel_owner if key == "kernel" else node.owner
            layer = found.setdefault(owner, {})
            layer[key] = layer[key] + value if key in layer else value
            if key == "kernel":
                shares.setdefault(owner, {})[node.name] = value
    shared = {owner: uses for owner, uses in shares.items() if len(uses) > 1}
    return Gradients(delta, found, shared)


def sides(
    network: ReferenceNetwork, forward: Forward, known: Forward | None = None
) -> dict[str, Array]:
    """Side of its kinks on which each value lies; the cost is smooth while no side changes.

    Args:
      network: the network and its objective.
      forward: its forward pass.
      known: an earlier pass; layers that share its arrays are skipped.
    """
    found = {"cost": network.objective.side(forward.a[network.plan.output])}
    for node in network.plan.nodes:
        name, rule = node.name, network.rule(node)
        if known and forward.z[name] is known.z[name]:
            continue
        activation, z = activation_of(node.op), forward.z[name]
        if activation == "leaky_relu":
            found[name] = z >= 0
        elif kinks := KINKS.get(activation):
            # Consistent with sigma': XLA flushes subnormal z to 0, the other side for leaky_relu.
            found[name] = np.sum([z > kink for kink in kinks], axis=0)
        if rule.side is not None:
            found[name] = rule.side(*forward.read_by(node))
    return found


def crossings(one: Mapping[str, Array], other: Mapping[str, Array]) -> int:
    """Number of values on a different side, in the layers of `other`."""
    return int(sum(np.sum(one[name] != side) for name, side in other.items()))
