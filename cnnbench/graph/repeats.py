"""Finds repetitions in a network: consecutive equal blocks, which can be compiled as one loop."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import INPUT

Unit = tuple[Node, ...]  # layers that are computed together, such as one layer
# With two repetitions, a loop takes as long to compile as the unrolled layers.
FEWEST = 3


@dataclass(frozen=True, slots=True)
class Loop:
    """Consecutive equal blocks of units.

    Args:
      start: index of the first unit.
      period: units per repetition.
      names: names of the layers of each repetition, in the same order.
      carried: layers of the first repetition whose values the next one reads, by the name of the
        layer before the loop that the first repetition reads instead.
    """

    start: int
    period: int
    names: tuple[tuple[str, ...], ...]
    carried: Mapping[str, str]

    @property
    def stop(self) -> int:
        """Index of the first unit after the loop."""
        return self.start + self.period * len(self.names)

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """Names of a layer in all repetitions, by its name in the first."""
        return {names[0]: names for names in zip(*self.names, strict=True)}

    @property
    def after(self) -> Mapping[str, str]:
        """Layers of the last repetition whose values leave the loop, by those in `carried`."""
        last = dict(zip(self.names[0], self.names[-1], strict=True))
        return {name: last[later] for name, later in self.carried.items()}

    @property
    def saved(self) -> int:
        """Number of layers that need not be compiled."""
        return (len(self.names) - 1) * len(self.names[0])


def find_loops(
    plan: Plan, units: Sequence[Unit], key: Callable[[Node], Hashable] = lambda _: None
) -> tuple[Loop, ...]:
    """The loops of a network, in order and without overlap, largest first where they compete.

    Args:
      plan: the network.
      units: its layers, in an order in which they can be computed.
      key: what layers must have in common besides operation, shapes and relative inputs.
    """
    blocks = _Blocks(plan, units, key)
    found = (blocks.loop(*place) for place in _places(blocks.alike, blocks.equal))
    kept: list[Loop] = []
    for loop in sorted(filter(None, found), key=_preference):
        apart = all(loop.stop <= other.start or other.stop <= loop.start for other in kept)
        if apart:
            kept.append(loop)
    return tuple(sorted(kept, key=lambda loop: loop.start))


def shortened(plan: Plan) -> Plan:
    """The network with only as many repetitions of equal blocks as make a loop."""
    nodes = plan.nodes
    dropped: set[str] = set()
    instead: dict[str, str] = {}
    for loop in find_loops(plan, [(node,) for node in nodes]):
        dropped.update(*loop.names[FEWEST:])
        instead |= dict(zip(loop.names[-1], loop.names[FEWEST - 1], strict=True))
    kept = (
        replace(node, inputs=tuple(instead.get(name, name) for name in node.inputs))
        for node in nodes
        if node.name not in dropped
    )
    return Plan(plan.input_shape, tuple(kept), instead.get(plan.output, plan.output))


def _preference(loop: Loop) -> tuple[int, int, int]:
    """Sorts loops that save more before others, then those with fewer layers and values."""
    return -loop.saved, loop.period, len(loop.carried)


def _places(alike: Sequence[Hashable], equal: Sequence[Hashable]) -> Iterator[tuple[int, int, int]]:
    """Start, period and number of all repetitions; the first one need only be alike.

    >>> list(_places("xabababy", "xABababy"))
    [(1, 2, 3)]
    """
    size = len(alike)
    for period in range(1, size // 2 + 1):
        lengths = [0] * (size + 1)  # number of equal units a period apart, from each one on
        for start in range(size - period - 1, -1, -1):
            same = equal[start] == equal[start + period]
            lengths[start] = lengths[start + 1] + 1 if same else 0
        run = 0
        for start in range(size - period - 1, -1, -1):
            run = run + 1 if alike[start] == alike[start + period] else 0
            more = lengths[start + period] // period if run >= period else -1
            for number in range(FEWEST, 3 + more):
                yield start, period, number


class _Blocks:
    """Compares units of a network regardless of the names of their layers.

    Attributes:
      alike: a value per unit, the same for units with the same layers.
      equal: a value per unit, the same if their inputs are at the same distance, too.
    """

    def __init__(self, plan: Plan, units: Sequence[Unit], key: Callable[[Node], Hashable]) -> None:
        self.plan, self.units, self.key = plan, units, key
        self.places = {
            node.name: (number, place)
            for number, unit in enumerate(units)
            for place, node in enumerate(unit)
        }
        owners = [(node.name, node.owner, node.kernel_owner) for node in plan.nodes]
        shared = {name for names in owners if len(set(names)) > 1 for name in names}
        losses = (*plan.samples, *plan.quantizers)
        self.unique = shared.union(node.name for node in losses)
        self.alike = [tuple(map(self._layer, unit)) for unit in units]
        self.equal = [
            (alike, tuple(self._at(number, name) for node in unit for name in node.inputs))
            for number, (alike, unit) in enumerate(zip(self.alike, units, strict=True))
        ]
        # Layers read by a unit or a later one.
        self.read = [plan.ends]
        for unit in reversed(units):
            self.read.append(self.read[-1].union(*(node.inputs for node in unit)))
        self.read.reverse()

    def _layer(self, node: Node) -> Hashable:
        if node.name in self.unique:
            return node.name
        op = repr(node.op.model_copy(update={"inputs": None}))
        return op, node.in_shapes, repr(node.layout), self.key(node)

    def _at(self, number: int, name: str) -> Hashable:
        """The distance of an input, in units, and its place in the unit."""
        if name == INPUT:
            return INPUT
        unit, place = self.places[name]
        return number - unit, place

    def loop(self, start: int, period: int, number: int) -> Loop | None:
        """The loop of some repetitions; None if other layers read values inside of it."""
        first, second, *_ = blocks = [
            [node for unit in self.units[at : at + period] for node in unit]
            for at in range(start, start + period * number, period)
        ]
        carried = _carried(first, second)
        if carried is None:
            return None
        names = tuple(tuple(node.name for node in block) for block in blocks)
        last = dict(zip(names[-1], names[0], strict=True))
        inside = self.read[start + period * number].intersection(*[set().union(*names)])
        if any(last.get(name) not in carried.values() for name in inside):
            return None
        return Loop(start, period, names, carried)


def _carried(first: Sequence[Node], second: Sequence[Node]) -> dict[str, str] | None:
    """Layers that the second block reads, by the layer that the first one reads instead.

    None if the second block reads others than the first one and itself.
    """
    own = {after.name: before.name for before, after in zip(first, second, strict=True)}
    carried: dict[str, str] = {}
    for before, after in zip(first, second, strict=True):
        for name, later in zip(before.inputs, after.inputs, strict=True):
            if own.get(later) == name or name == later == INPUT:
                continue
            if name in own.values() or later not in own.values() or name == INPUT:
                return None
            if carried.setdefault(name, later) != later:
                return None
    return carried
