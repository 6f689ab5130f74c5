"""Widens the layers of a network to match the size of another one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cnnbench.errors import UsageError
from cnnbench.graph.build import build_plan
from cnnbench.graph.plan import Goal, Plan
from cnnbench.layers import (
    ConvTranspose,
    Dense,
    LayerOp,
    Reshape,
)
from cnnbench.layers.base import INPUT

HALVINGS = 40  # bisection steps for the factor
MOST = 2.0**12  # largest factor

Changes = Mapping[str, tuple[str, Any]]  # by layer: key and new value


class MatchedSize(StrEnum):
    """The size to match."""

    PARAMS = "params"
    FLOPS = "flops"

    def of(self, plan: Plan) -> int:
        """Trainable parameters, or multiply-adds per image."""
        return plan.num_params if self is MatchedSize.PARAMS else plan.multiply_adds

    @property
    def words(self) -> str:
        """Display name."""
        return "parameters" if self is MatchedSize.PARAMS else "multiply-adds"


@dataclass(frozen=True, slots=True)
class Widened:
    """A network with widened layers.

    Args:
      plan: the network.
      factor: width multiplier, before rounding to whole channels and units.
      changes: key and value of each widened layer.
    """

    plan: Plan
    factor: float
    changes: Changes

    @property
    def overrides(self) -> tuple[str, ...]:
        """The changes as overrides of an experiment file."""
        return tuple(
            f"model.layers.{name}.{key}={list(value) if isinstance(value, tuple) else value}"
            for name, (key, value) in self.changes.items()
        )


def widen(plan: Plan, size: MatchedSize, target: int) -> Widened | None:
    """Multiplies channels and units by the factor that best matches a target size.

    The output keeps its shape, so the layers that determine it are not changed. Tied layers are
    resized with their owner, and reshapes with the dense layer that they read. Channels that can be
    divided into the groups or heads of a layer still can be.

    Args:
      plan: the network.
      size: the quantity to match.
      target: its target value.

    Returns:
      The widened network; None if the network is already as large.

    Raises:
      UsageError: no layer can be widened.
    """
    if size.of(plan) >= target:
        return None
    high = 2.0
    while size.of(_scaled(plan, high).plan) < target:
        high *= 2
        if high > MOST:
            raise UsageError(
                "--match: no layer but the output can be widened; compare another network."
            )
    low = 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if size.of(_scaled(plan, middle).plan) < target:
            low = middle
        else:
            high = middle
    below, above = _scaled(plan, low), _scaled(plan, high)
    nearest = min(below, above, key=lambda found: abs(size.of(found.plan) - target))
    return nearest if nearest.changes else None


def _scaled(plan: Plan, factor: float) -> Widened:
    """Scales the network by a factor.

    Raises:
      UsageError: the scaled layers do not fit together.
    """
    changes = _changes(plan, factor)
    layers: dict[str, LayerOp | None] = {}
    for node in plan.nodes:
        update: dict[str, Any] = {"inputs": node.inputs}
        if node.name in changes:
            key, value = changes[node.name]
            update[key] = value
        layers[node.name] = node.op.model_copy(update=update)
    goal = Goal(plan.input_shape, plan.output_shape, "the output keeps its shape", "")
    built, issues = build_plan(layers, goal, output=plan.output, known={})
    if built is None:
        where = ".".join(map(str, issues[0].at[1:]))
        message = f"--match: the widened layers do not fit together: {where}: {issues[0].message}"
        raise UsageError(f"{message}; write an experiment file for the wider network.")
    return Widened(built, factor, changes)


def _changes(plan: Plan, factor: float) -> dict[str, tuple[str, Any]]:
    fixed = _fixed(plan)
    changes: dict[str, tuple[str, Any]] = {}
    images = _sources_of_reshapes(plan)
    parts = math.lcm(*(node.op.channel_parts for node in plan.nodes))
    for node in plan.nodes:
        op, name = node.op, node.name
        if name in fixed:
            continue
        if isinstance(op, Dense):
            # If units are reshaped to an image, its channels are scaled.
            channels = images.get(name)
            units = _times(channels or op.units, factor, parts)
            changes[name] = ("units", units * (op.units // channels if channels else 1))
        elif width := getattr(op, op.width_key, None):
            changes[name] = (op.width_key, _times(width, factor, parts))
        elif (
            isinstance(op, Reshape)
            and len(op.shape) == 3
            and _dense_before(plan, name) not in (fixed | {None})
        ):
            changes[name] = ("shape", (*op.shape[:2], _times(op.shape[2], factor, parts)))
    old = {node.name: node.op for node in plan.nodes}
    return {n: (key, v) for n, (key, v) in changes.items() if getattr(old[n], key) != v}


def _times(size: int, factor: float, parts: int) -> int:
    """Scales a size, which keeps its common divisor with a number; equal sizes remain equal."""
    step = math.gcd(size, parts)
    return max(1, math.floor(size // step * factor + 0.5)) * step


def _fixed(plan: Plan) -> set[str]:
    """Layers that determine the output shape."""
    nodes, found, waiting = plan.by_name, set(), [plan.output]
    # A whitening convolution has two filters for each value of a patch.
    whitening = {node.name for node in plan.nodes if getattr(node.op, "init", "") == "whitening"}
    groups: dict[str, list[str]] = {}
    for node in plan.nodes:
        groups.setdefault(node.owner, []).append(node.name)
    while waiting:
        name = waiting.pop()
        if name == INPUT or name in found:
            continue
        found.add(name)
        op, group = nodes[name].op, groups[nodes[name].owner]
        if len(group) > 1:  # the kernel has the same shape in all of them
            waiting += [*group, *(source for each in group for source in nodes[each].inputs)]
        if isinstance(op, ConvTranspose) and op.tie:
            waiting += nodes[op.tie].inputs  # its channels are the input channels of its owner
        elif not op.width_key:
            waiting += nodes[name].inputs
    return found | whitening


def _sources_of_reshapes(plan: Plan) -> dict[str, int]:
    """Channels of the image that the units of a dense layer are reshaped to, by dense layer."""
    return {
        source: node.op.shape[2]
        for node in plan.nodes
        if isinstance(node.op, Reshape) and len(node.op.shape) == 3
        if (source := _dense_before(plan, node.name)) is not None
    }


def _dense_before(plan: Plan, name: str) -> str | None:
    """The dense layer whose units a layer reads, through elementwise layers only."""
    (source,) = plan.by_name[name].inputs
    while source != INPUT:
        op = plan.by_name[source].op
        if isinstance(op, Dense):
            return source
        if not op.elementwise:
            return None
        (source,) = plan.by_name[source].inputs
    return None
