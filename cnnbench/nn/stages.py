"""Layers in stages: what can run on a part of a batch before the whole of it is needed."""

from collections.abc import Mapping
from dataclasses import dataclass

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import BatchNorm
from cnnbench.layers.base import INPUT


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers that run together on a row.

    Args:
      nodes: the layers, in order.
      reads: values of earlier stages that they read.
      gives: values that later stages read, or the result.
      sums: those of them that a batch norm normalises.
    """

    nodes: tuple[Node, ...]
    reads: frozenset[str]
    gives: frozenset[str]
    sums: frozenset[str]


def stages(plan: Plan) -> list[Stage]:
    """The layers, each in the latest stage that it can be in.

    A batch norm is in a later stage than what it normalises. The last stage is the
    one that is computed only once.
    """
    before: dict[str, int] = {}  # stages between a layer's and the last
    for node in reversed(plan.nodes):
        here = before.setdefault(node.name, 0)
        least = here + isinstance(node.op, BatchNorm)
        before |= {name: max(before.get(name, 0), least) for name in node.inputs}
    normed = {node.inputs[0] for node in plan.nodes if isinstance(node.op, BatchNorm)}
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
