"""The post's backpropagation in five steps, by hand, for any network of layers.

    1. Input x: set the activation a of the input.
    2. Feedforward: z and a = sigma(z) for every layer.
    3. Output error: delta = nabla_a C . sigma'(z) at the last layer.
    4. Backpropagate the error: delta for every layer, from those that read it.
    5. Output: the gradient of the cost for every weight.

Names are the post's: z, a and delta by layer. A layer that has no activation has a = z. Nothing
here knows autodiff, or how the engine computes; `gradcheck` compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cnnbench.gradcheck.losses import Objective, divergence, divergence_gradient
from cnnbench.graph.geometry import activation_of
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import Sample
from cnnbench.layers.activation import KINKED, sigma, sigma_prime
from cnnbench.layers.base import INPUT, Rule
from cnnbench.system.arrays import Array, LayerWeights


def rule_of(plan: Plan, node: Node, weights: LayerWeights, draws: Mapping[str, Array]) -> Rule:
    """The rule of a layer.

    Args:
      plan: the network, where a tied layer's owner is found.
      node: the layer.
      weights: kernel, bias and so on by layer.
      draws: what each random layer has drawn, such as a dropout's mask; nothing for one that
        lets everything through.
    """
    own = dict(weights.get(node.name, {}))
    if node.kernel_owner != node.name:
        own["kernel"] = weights[node.kernel_owner]["kernel"]
    return node.op.rule(plan.site(node), own, draws.get(node.name))


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class ReferenceNetwork:
    """All that the cost depends on.

    Args:
      plan: the layers.
      weights: kernel, bias and so on by layer.
      draws: what each random layer has drawn; nothing is drawn here.
      objective: the cost, with its targets.
    """

    plan: Plan
    weights: LayerWeights
    draws: Mapping[str, Array]
    objective: Objective

    def rule(self, node: Node) -> Rule:
        """How a layer goes forward and back."""
        return rule_of(self.plan, node, self.weights, self.draws)

    def slope(self, node: Node, z: Array) -> Array:
        """The slope of a layer's activation at each z."""
        return sigma_prime(activation_of(node.op), z)


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """What the first two steps give, by layer: (n, *shape of the layer).

    Args:
      z: before the activation.
      a: after it; that of the input is the images.
    """

    z: dict[str, Array] = field(default_factory=dict)
    a: dict[str, Array] = field(default_factory=dict)

    def read_by(self, node: Node) -> list[Array]:
        """What a layer reads."""
        return [self.a[name] for name in node.inputs]


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """What the last three steps give.

    Args:
      delta: the error of z by layer.
      weights: the derivative of the cost by each weight, by layer and name.
      shares: of a kernel that several layers use, each one's share, by owner and user.
    """

    delta: dict[str, Array]
    weights: dict[str, dict[str, Array]]
    shares: dict[str, dict[str, Array]]


def forward_and_backward(network: ReferenceNetwork, x: Array) -> tuple[Forward, Gradients]:
    """All five steps.

    Args:
      network: what the cost depends on.
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
      network: what the cost depends on.
      x: images, (n, height, width, channels).
      nudges: what is added to the z of some layers, to see what it does to the cost.
      known: an earlier pass, from which all that does not depend on `moved` is taken.
      moved: the layer that is another one since.
    """
    forward, changed = Forward(a={INPUT: x}), {moved}
    for node in network.plan.nodes:
        name = node.name
        if known and changed.isdisjoint({name, node.kernel_owner, *node.inputs}):
            forward.z[name], forward.a[name] = known.z[name], known.a[name]
            continue
        changed.add(name)
        z = network.rule(node).forward(*forward.read_by(node))
        nudge = (nudges or {}).get(name)
        forward.z[name] = z if nudge is None else z + nudge
        forward.a[name] = sigma(activation_of(node.op), forward.z[name])
    return forward


def cost(network: ReferenceNetwork, forward: Forward) -> float:
    """The cost C: the loss, and the divergences of layers that sample."""
    outputs = forward.a[network.plan.output]
    total = network.objective.value(outputs)
    for node in network.plan.samples:
        weight = network.objective.weight(kl_weight(node), outputs)
        total += weight * float(divergence(*forward.read_by(node)).sum())
    return total


def kl_weight(node: Node) -> float:
    """The weight of a sample's divergence in the cost."""
    assert isinstance(node.op, Sample)
    return node.op.kl_weight


def output_error(network: ReferenceNetwork, forward: Forward) -> Array:
    """Step 3, equation (S3): nabla_a C at the output, times sigma'(z)."""
    last = network.plan.by_name[network.plan.output]
    slope = network.slope(last, forward.z[last.name])
    return network.objective.gradient(forward.a[last.name]) * slope


def backpropagate(network: ReferenceNetwork, forward: Forward) -> dict[str, Array]:
    """Step 4, equation (S4): delta of every layer, from the last to the first.

    What a layer gives may be read by several: their errors add up, as the sum in the chain
    rule, equation (5), says. Then they are multiplied by sigma'(z).
    """
    plan, delta = network.plan, {network.plan.output: output_error(network, forward)}
    errors = divergence_errors(network, forward)
    for node in reversed(plan.nodes):
        error = errors.pop(node.name, 0.0)
        slope = network.slope(node, forward.z[node.name])
        # The output may be read, too; what comes from there is more of its error.
        delta[node.name] = delta.get(node.name, 0.0) + error * slope
        if set(node.inputs) == {INPUT}:
            continue  # nobody asks for the error of the images
        parts = network.rule(node).backward(delta[node.name], *forward.read_by(node))
        for name, part in zip(node.inputs, parts, strict=True):
            errors[name] = errors.get(name, 0.0) + part
    return delta


def divergence_errors(network: ReferenceNetwork, forward: Forward) -> dict[str, Array]:
    """Equation (19): what the divergences alone make of the errors of what is sampled from."""
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
            owner = node.kernel_owner if key == "kernel" else node.name
            layer = found.setdefault(owner, {})
            layer[key] = layer[key] + value if key in layer else value
            if key == "kernel":
                shares.setdefault(owner, {})[node.name] = value
    shared = {owner: uses for owner, uses in shares.items() if len(uses) > 1}
    return Gradients(delta, found, shared)


def sides(
    network: ReferenceNetwork, forward: Forward, known: Forward | None = None
) -> dict[str, Array]:
    """On which side of its kinks each value is: the cost is smooth where all stay on theirs.

    Args:
      network: what the cost depends on.
      forward: its pass.
      known: leaves out the layers that have the very arrays of this one.
    """
    found = {"cost": network.objective.side(forward.a[network.plan.output])}
    for node in network.plan.nodes:
        name, rule = node.name, network.rule(node)
        if known and forward.z[name] is known.z[name]:
            continue
        if (activation := activation_of(node.op)) in KINKED:
            # As sigma' has it: XLA flushes a subnormal z to 0, which is leaky_relu's other side.
            z = forward.z[name]
            found[name] = z >= 0 if activation == "leaky_relu" else z > 0
        if rule.side is not None:
            found[name] = rule.side(*forward.read_by(node))
    return found


def crossings(one: Mapping[str, Array], other: Mapping[str, Array]) -> int:
    """How many values are on another side, in the layers of `other`."""
    return int(sum(np.sum(one[name] != side) for name, side in other.items()))
