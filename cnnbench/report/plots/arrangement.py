"""Positions of a diagram's boxes and lines: repeated blocks in frames, tall diagrams in columns."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from cnnbench.report.plots.blocks import ENTRY, EXIT, Block, Diagram, DiagramNode, Repeat
from cnnbench.report.plots.layered import Corner, Edge, NodeSize, layout, ranked
from cnnbench.report.plots.text import text_width

PAGE = 10.0  # inches: a taller diagram may continue in another column
NAME_SIZE, TEXT_SIZE = 8.5, 8.0  # points
LINE, PAD = 0.19, 0.1  # inches: a line of text, around it
MARK, COLUMN = 0.15, 0.25  # inches: for a mark, between a name and its operation
_FRAME = 0.14  # inches beside a repeated block
_NARROWEST, _WIDEST = 1.5, 4.2  # inches of a box
_CHANNEL, _TURN = 0.5, 0.2  # inches: between two columns, above and below them
_WORTHWHILE = 0.8  # of the longer side: columns that save less are not worth it
_POINT = NodeSize(0.0, 0.0, 0.0, 0.0)  # where a line enters or leaves a part of a diagram


class Rectangle(NamedTuple):
    """A block, or the frame of a repeated one, in inches from the top left.

    Args:
      node: the block, or the repeated block.
      left: its left side.
      top: its upper side.
      width: from left to right.
      height: from top to bottom.
      leaves: horizontal position of its output.
    """

    node: DiagramNode
    left: float
    top: float
    width: float
    height: float
    leaves: float


class Line(NamedTuple):
    """The line of an edge.

    Args:
      points: corners, as in a `Route`.
      kind: empty, or `tie` for a shared kernel.
      arrow: True if it ends in an arrowhead.
      turns: True if it has corners instead of curves.
    """

    points: tuple[Corner, ...]
    kind: str = ""
    arrow: bool = False
    turns: bool = False


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A diagram with positions, in inches from the top left.

    Args:
      width: of the diagram.
      height: of the diagram.
      boxes: blocks and frames; a frame comes before what is in it.
      lines: from box to box.
      tops: the upper edge of each node, by name.
      entry: horizontal position of the input, for a part of a diagram.
      leave: horizontal position of the output.
    """

    width: float
    height: float
    boxes: tuple[Rectangle, ...]
    lines: tuple[Line, ...]
    tops: Mapping[str, float] = field(default_factory=dict)
    entry: float = 0.0
    leave: float = 0.0


def arrange(drawn: Diagram) -> Arrangement:
    """Positions of all boxes and lines.

    A diagram taller than a page continues in another column where a single line leads on, if that
    shortens its longer side considerably.

    Args:
      drawn: the diagram.
    """
    edges = [*_reads(drawn.nodes), *(Edge(tie.owner, tie.user, "tie") for tie in drawn.ties)]
    whole = _arranged(drawn.nodes, edges)
    ranks = ranked([node.name for node in drawn.nodes], edges)
    found = [whole]
    for cuts in _divisions(ranks, edges, whole):
        spans = zip([0, *cuts], [*cuts, len(ranks)], strict=True)
        columns = [_column(drawn.nodes, edges, ranks, span) for span in spans]
        found.append(_joined([_arranged(*column) for column in columns]))
    best = min(found, key=_side)
    return best if _side(best) < _WORTHWHILE * _side(whole) else whole


def _side(found: Arrangement) -> float:
    """The longer side."""
    return max(found.width, found.height)


def _reads(nodes: Sequence[DiagramNode]) -> Iterator[Edge]:
    return (Edge(source, node.name) for node in nodes for source in node.inputs)


def _arranged(nodes: Sequence[DiagramNode], edges: Sequence[Edge]) -> Arrangement:
    """Positions of nodes and edges, which may come from `ENTRY` and lead to `EXIT`."""
    bodies = {node.name: _body(node) for node in nodes if isinstance(node, Repeat)}
    sizes = {ENTRY: _POINT} if any(edge.source == ENTRY for edge in edges) else {}
    width = max(map(_width, filter(_is_block, nodes)), default=0.0)
    for node in nodes:
        sizes[node.name] = _frame(bodies[node.name]) if node.name in bodies else _size(node, width)
    if any(edge.target == EXIT for edge in edges):
        sizes[EXIT] = _POINT
    found = layout(sizes, edges)
    boxes, lines = [], []
    for node in nodes:
        size, (left, top) = sizes[node.name], found.corners[node.name]
        boxes.append(Rectangle(node, left, top, size.width, size.height, left + size.exit))
        if body := bodies.get(node.name):
            boxes += [_moved(box, left + _FRAME, top) for box in body.boxes]
            lines += [_moved_line(line, left + _FRAME, top) for line in body.lines]
    arrows = {node.name for node in nodes if isinstance(node, Block)}
    for edge, points in ((route.edge, route.points) for route in found.routes):
        lines.append(Line(points, edge.kind, arrow=edge.target in arrows and not edge.kind))
    tops = {name: top for name, (_, top) in found.corners.items()}
    entry, leave = (found.corners.get(end, (0.0, 0.0))[0] for end in (ENTRY, EXIT))
    return Arrangement(found.width, found.height, tuple(boxes), tuple(lines), tops, entry, leave)


def _is_block(node: DiagramNode) -> bool:
    return isinstance(node, Block)


def _body(repeat: Repeat) -> Arrangement:
    return _arranged(repeat.body, [*_reads(repeat.body), Edge(repeat.exit, EXIT)])


def _frame(body: Arrangement) -> NodeSize:
    """Size of the frame around a repeated block."""
    width = body.width + 2 * _FRAME
    return NodeSize(width, body.height, _FRAME + body.entry, _FRAME + body.leave)


def _moved(box: Rectangle, x: float, y: float) -> Rectangle:
    """A box at another place."""
    return box._replace(left=box.left + x, top=box.top + y, leaves=box.leaves + x)


def _moved_line(line: Line, x: float, y: float) -> Line:
    """A line at another place."""
    return line._replace(points=tuple((px + x, py + y) for px, py in line.points))


def _size(node: DiagramNode, width: float) -> NodeSize:
    """Size of a block: a line for each layer, one for the shape, and one for the operation."""
    assert isinstance(node, Block)
    return NodeSize(width, round(LINE * (len(node.cells) + 1) + PAD, 4))


def _width(node: DiagramNode) -> float:
    """The width that a block's text needs, within limits."""
    assert isinstance(node, Block)
    mark = MARK if node.mark else 0.0
    needed = max(
        text_width(cell.name, NAME_SIZE, bold=True)
        + (COLUMN + text_width(cell.operation, TEXT_SIZE) if cell.operation else 0.0)
        for cell in node.cells
    )
    return round(min(max(needed + mark + 2 * PAD, _NARROWEST), _WIDEST), 2)


def _divisions(
    ranks: Mapping[str, int], edges: Sequence[Edge], whole: Arrangement
) -> list[tuple[int, ...]]:
    """Ranks where columns of similar height begin, cut where a single line crosses."""
    tops = {rank: whole.tops[name] for name, rank in ranks.items()}
    cuts = {rank: top for rank, top in tops.items() if rank and _source(rank, ranks, edges)}
    found: dict[tuple[int, ...], None] = {}
    for count in range(2, 1 + math.ceil(whole.height / PAGE)) if cuts else ():
        wanted = [whole.height * number / count for number in range(1, count)]
        chosen = sorted({_nearest(cuts, y) for y in wanted})
        ends = [0.0, *(cuts[rank] for rank in chosen), whole.height]
        if max(below - above for above, below in pairwise(ends)) < _WORTHWHILE * whole.height:
            found[tuple(chosen)] = None
    return list(found)


def _nearest(tops: Mapping[int, float], y: float) -> int:
    """The rank whose top is nearest to a height."""
    return min(tops, key=lambda rank: abs(tops[rank] - y))


def _source(rank: int, ranks: Mapping[str, int], edges: Sequence[Edge]) -> str:
    """The only node read across the gap above a rank; empty if there are more, or ties."""
    crossing = {(e.source, e.kind) for e in edges if ranks[e.source] < rank <= ranks[e.target]}
    (source, kind), *others = crossing
    return "" if others or kind else source


def _column(
    nodes: Sequence[DiagramNode],
    edges: Sequence[Edge],
    ranks: Mapping[str, int],
    span: tuple[int, int],
) -> tuple[list[DiagramNode], list[Edge]]:
    """Nodes of a span of ranks; edges from above come from `ENTRY`, edges below go to `EXIT`."""
    first, stop = span
    inner: list[Edge] = []
    for edge in edges:
        begins, ends = ranks[edge.source], ranks[edge.target]
        if begins >= stop or ends < first:
            continue
        source = edge.source if begins >= first else ENTRY
        target = edge.target if ends < stop else EXIT
        found = Edge(source, target, edge.kind)
        if target != EXIT or found not in inner:
            inner.append(found)
    return [node for node in nodes if first <= ranks[node.name] < stop], inner


def _joined(columns: Sequence[Arrangement]) -> Arrangement:
    """Columns side by side, with a line from the bottom of each to the top of the next."""
    boxes: list[Rectangle] = []
    lines: list[Line] = []
    left, bottom = 0.0, max(column.height for column in columns) + _TURN
    for number, column in enumerate(columns):
        boxes += [_moved(box, left, _TURN) for box in column.boxes]
        lines += [_moved_line(line, left, _TURN) for line in column.lines]
        right = left + column.width + _CHANNEL
        if number + 1 < len(columns):
            begin, end = left + column.leave, right + columns[number + 1].entry
            x, y = right - _CHANNEL / 2, column.height + _TURN
            turns = ((begin, y), (begin, y + _TURN), (x, y + _TURN), (x, 0.0), (end, 0.0))
            lines.append(Line((*turns, (end, _TURN)), turns=True))
        left = right
    return Arrangement(left - _CHANNEL, bottom + _TURN, tuple(boxes), tuple(lines))
