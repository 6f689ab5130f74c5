"""Blocks of a diagram: layers that share a box, and repeated blocks folded into one."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

ENTRY, EXIT = "(entry)", "(exit)"  # of a repeated block; not valid as names of layers
_FEWEST_LAYERS = 3  # repetitions of a single layer that are folded


@dataclass(frozen=True, slots=True)
class Cell:
    """A layer in a diagram.

    Args:
      name: of the layer, or `input`.
      inputs: the layers it reads, by name.
      operation: short description of its operation; empty for the input.
      shape: of its output.
      kind: selects the color: `conv`, `pool`, `dense`, `join` or empty.
      mark: of a layer that differs from another network's, as in `spec.diff`; may be empty.
      identity: equal for layers that differ only in name and inputs.
      stacks: True if it may share the box of its input, as activations do.
    """

    name: str
    inputs: tuple[str, ...]
    operation: str
    shape: str
    kind: str = ""
    mark: str = ""
    identity: Hashable = None
    stacks: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A box: a layer and the elementwise layers that follow it.

    Args:
      cells: from the first to the last.
    """

    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Name of its last layer, which other blocks read."""
        return self.cells[-1].name

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs of its first layer."""
        return self.cells[0].inputs

    @property
    def mark(self) -> str:
        """The mark of all its layers."""
        return self.cells[0].mark

    @property
    def identity(self) -> Hashable:
        """Equal for blocks that can be folded if their connections are equal."""
        return tuple((cell.identity, cell.shape, cell.mark) for cell in self.cells)

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.cells)


@dataclass(frozen=True, slots=True)
class Repeat:
    """Equal consecutive blocks, drawn once.

    Args:
      name: the output of the last repetition, which other blocks read.
      inputs: the input of the first repetition.
      count: number of repetitions.
      body: the first repetition, which reads `ENTRY`.
      exit: name of the block in the body whose output the next repetition reads.
    """

    name: str
    inputs: tuple[str, ...]
    count: int
    body: tuple["Block | Repeat", ...]
    exit: str

    @property
    def identity(self) -> Hashable:
        """Equal for repeated blocks that can be folded if their connections are equal."""
        wiring = tuple(map(tuple, _wiring(self.body)))
        return self.count, wiring, tuple(node.identity for node in self.body)

    @property
    def num_layers(self) -> int:
        """Number of layers that are drawn."""
        return sum(node.num_layers for node in self.body)


DiagramNode = Block | Repeat


class Tie(NamedTuple):
    """Two layers that share a kernel.

    Args:
      owner: block of the layer that owns the kernel.
      user: block of the layer that is tied to it.
    """

    owner: str
    user: str


@dataclass(frozen=True, slots=True)
class Diagram:
    """Blocks and their connections.

    Args:
      nodes: in topological order, the input first.
      ties: between blocks.
    """

    nodes: tuple[DiagramNode, ...]
    ties: tuple[Tie, ...] = ()

    @property
    def blocks(self) -> Iterator[Block]:
        """All boxes in the drawing, including those in repeated blocks."""
        return _boxes(self.nodes)


def _boxes(nodes: Sequence[DiagramNode]) -> Iterator[Block]:
    for node in nodes:
        if isinstance(node, Block):
            yield node
        else:
            yield from _boxes(node.body)


def build_diagram(
    cells: Sequence[Cell], ties: Sequence[tuple[str, str]] = (), *, expand: bool = False
) -> Diagram:
    """Builds the diagram of a network.

    Args:
      cells: the layers in topological order.
      ties: owner and user of each shared kernel, by layer.
      expand: draw repeated blocks in full.
    """
    blocks = stacked(cells, frozenset(name for tie in ties for name in tie))
    holder = {cell.name: block.name for block in blocks for cell in block.cells}
    nodes: Sequence[DiagramNode] = blocks if expand else folded(blocks)
    return Diagram(tuple(nodes), tuple(Tie(*(holder[name] for name in tie)) for tie in ties))


def stacked(cells: Sequence[Cell], alone: frozenset[str] = frozenset()) -> list[Block]:
    """Stacks elementwise layers on their input if nothing else reads it.

    Args:
      cells: the layers in topological order.
      alone: layers that have a box of their own.
    """
    readers = Counter(name for cell in cells for name in cell.inputs)
    boxes: list[list[Cell]] = []
    holder: dict[str, list[Cell]] = {}
    for cell in cells:
        box = holder.get(cell.inputs[0]) if len(cell.inputs) == 1 else None
        if box is None or not _joins(cell, box[-1], readers, alone):
            box = []
            boxes.append(box)
        box.append(cell)
        holder[cell.name] = box
    return [Block(tuple(box)) for box in boxes]


def _joins(cell: Cell, last: Cell, readers: Mapping[str, int], alone: frozenset[str]) -> bool:
    """True if a layer may share the box of its input; the image has a box of its own."""
    same = last.mark == cell.mark and last.name == cell.inputs[0] and bool(last.operation)
    return cell.stacks and same and readers[last.name] == 1 and not alone & {last.name, cell.name}


def folded(nodes: Sequence[DiagramNode]) -> list[DiagramNode]:
    """Folds equal consecutive blocks, those first that save the most boxes.

    Blocks are equal if their layers have the same operations, options, shapes, marks and
    connections. Each repetition must read only the previous one, through a single layer.

    Args:
      nodes: in topological order.
    """
    found = list(nodes)
    while (best := max(_repetitions(found), key=lambda run: run.saved, default=None)) is not None:
        found = best.fold(found)
    return found


class _Run(NamedTuple):
    """Equal consecutive blocks: first node, nodes per repetition, repetitions, exit."""

    start: int
    length: int
    times: int
    exit: int  # the node of a repetition whose output the next one reads

    @property
    def saved(self) -> int:
        return (self.times - 1) * self.length

    def fold(self, nodes: Sequence[DiagramNode]) -> list[DiagramNode]:
        """Replaces the blocks by a single node."""
        stop = self.start + self.times * self.length
        body = nodes[self.start : self.start + self.length]
        (source,) = _sources(body)
        entered = [_reading(node, source, ENTRY) for node in body]
        last = nodes[stop - self.length + self.exit].name
        repeat = Repeat(last, (source,), self.times, tuple(folded(entered)), body[self.exit].name)
        return [*nodes[: self.start], repeat, *nodes[stop:]]


def _reading(node: DiagramNode, old: str, new: str) -> DiagramNode:
    """The node with an input renamed."""

    def renamed(inputs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in inputs)

    if isinstance(node, Repeat):
        return replace(node, inputs=renamed(node.inputs))
    first, *others = node.cells
    return Block((replace(first, inputs=renamed(first.inputs)), *others))


def _repetitions(nodes: Sequence[DiagramNode]) -> Iterator[_Run]:
    """Yields the longest run of equal blocks for each first node and block length."""
    numbers: dict[Hashable, int] = {}
    kinds = [numbers.setdefault(node.identity, len(numbers)) for node in nodes]
    for length in range(1, len(nodes) // 2 + 1):
        for start in range(len(nodes) - 2 * length + 1):
            for count in range(_equal(kinds, start, length), 1, -1):
                if (run := _run(nodes, start, length, count)) is not None:
                    yield run
                    break


def _equal(kinds: Sequence[int], start: int, length: int) -> int:
    """Number of consecutive occurrences of a block.

    >>> _equal([0, 1, 2, 1, 2, 1, 2, 1], 1, 2)
    3
    """
    block, stop = kinds[start : start + length], start + length
    while kinds[stop : stop + length] == block:
        stop += length
    return (stop - start) // length


def _run(nodes: Sequence[DiagramNode], start: int, length: int, count: int) -> _Run | None:
    """A run that can be folded; None if the connections of its blocks differ."""
    blocks = [nodes[start + number * length :][:length] for number in range(count)]
    if sum(node.num_layers for node in blocks[0]) == 1 and count < _FEWEST_LAYERS:
        return None
    wirings, sources = list(map(_wiring, blocks)), list(map(_sources, blocks))
    if any(w != wirings[0] for w in wirings) or any(len(names) != 1 for names in sources):
        return None
    exits = {
        next((place for place, node in enumerate(block) if node.name == name), -1)
        for block, (name,) in zip(blocks[:-1], sources[1:], strict=True)
    }
    ends = set(range(length)).difference(*wirings[0])
    (leave, *others) = exits
    if others or leave < 0 or ends - {leave} or _leaks(nodes, blocks, leave):
        return None
    return _Run(start, length, count, leave)


def _sources(block: Sequence[DiagramNode]) -> list[str]:
    """Names of the nodes outside a block that it reads."""
    own = {node.name for node in block}
    return list(dict.fromkeys(name for node in block for name in node.inputs if name not in own))


def _wiring(block: Sequence[DiagramNode]) -> list[list[int]]:
    """Position in the block of each input of each node; -1 for nodes outside it."""
    places = {node.name: place for place, node in enumerate(block)}
    return [[places.get(name, -1) for name in node.inputs] for node in block]


def _leaks(
    nodes: Sequence[DiagramNode], blocks: Sequence[Sequence[DiagramNode]], leave: int
) -> bool:
    """True if a node outside reads anything but the exit of the last block."""
    inside = {node.name for block in blocks for node in block}
    read = {name for node in nodes if node.name not in inside for name in node.inputs}
    return bool((read & inside) - {blocks[-1][leave].name})
