"""Layered layout of a directed acyclic graph: Sugiyama's method, with exact coordinates.

Nodes are placed in ranks, each below all of its inputs. An edge that spans several ranks gets a
placeholder in each of them, and so a lane of its own next to the nodes. The order within a rank
minimizes crossings (medians and transpositions), and positions minimize the weighted horizontal
length of all edges, which is a linear program; both after Gansner et al., "A Technique for Drawing
Directed Graphs", 1993, sections 3 and 4.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import mean
from typing import NamedTuple

LANE, SPACE = 0.22, 0.3  # inches between a lane and its neighbor, and between two nodes
GAP, WIDEST_GAP = 0.3, 0.6  # inches between two ranks: at least, at most
_STEEPNESS = 0.1  # inches of a gap per inch of horizontal distance
PORT, _CORNER = 0.3, 0.15  # inches between two arrowheads, and from a corner of a box
_SWEEPS = 12
_LANE_DOWN = 2.0  # weight of a line from a lane to a node
_CENTERING = 0.01  # weight of symmetry, far less than that of any line

Corner = tuple[float, float]
Item = str | tuple[str, str, int]  # a node, or a placeholder: source, kind, rank
_Lines = dict[tuple[Item, Item], int]  # between two ranks: number of edges by their ends


class NodeSize(NamedTuple):
    """Size of a node, in inches.

    Args:
      width: from its left to its right side.
      height: from top to bottom.
      enters: position of the only entry at the top, from its left side; anywhere if None.
      leaves: position of the exit at the bottom, from its left side; the middle if None.
    """

    width: float
    height: float
    enters: float | None = None
    leaves: float | None = None

    @property
    def anchor(self) -> float:
        """Position that is aligned with the exit of the node above, from its left side."""
        return self.width / 2 if self.enters is None else self.enters

    @property
    def exit(self) -> float:
        """Position where edges leave at the bottom, from its left side."""
        return self.width / 2 if self.leaves is None else self.leaves


class Edge(NamedTuple):
    """A connection from a node to another.

    Args:
      source: the upper node.
      target: the lower node.
      kind: edges of one source and kind share a lane. The target is below the source whatever the
        kind, but lines of a kind that pass other ranks hardly pull nodes sideways.
    """

    source: str
    target: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """The line of an edge, in inches from the top left.

    Args:
      edge: the connection.
      points: corners from the bottom of the source to the top of the target. Between two points
        the line is vertical, or a curve with vertical ends in the space between two ranks.
    """

    edge: Edge
    points: tuple[Corner, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions of nodes and edges, in inches from the top left.

    Args:
      width: of the whole drawing.
      height: of the whole drawing.
      corners: the upper left corner of each node.
      routes: a line for each edge, in their order.
    """

    width: float
    height: float
    corners: Mapping[str, Corner]
    routes: tuple[Route, ...]


class _Placed(NamedTuple):
    """Results of the steps of a layout, for the routes."""

    sizes: Mapping[str, NodeSize]
    ranks: Mapping[str, int]
    lefts: Mapping[Item, float]
    tops: Sequence[float]
    bottoms: Sequence[float]


def layout(sizes: Mapping[str, NodeSize], edges: Sequence[Edge]) -> Layout:
    """Positions of the nodes and edges of a directed acyclic graph.

    Args:
      sizes: of the nodes, each after those it reads.
      edges: may contain several of the same source and target.
    """
    ranks = ranked(sizes, edges)
    segments = _segments(ranks, edges)
    order = _ordered(_initial(ranks, edges), segments)
    bodies = {item: _body(item, sizes) for item in chain.from_iterable(order)}
    anchors = _positions(order, segments, bodies)
    lefts = {item: anchors[item] - bodies[item].anchor for item in anchors}
    start = min(lefts.values(), default=0.0)
    lefts = {item: round(left - start, 4) for item, left in lefts.items()}
    tops, bottoms, height = _rows(order, segments, bodies, lefts)
    width = max((left + bodies[item].width for item, left in lefts.items()), default=0.0)
    corners = {name: (lefts[name], tops[ranks[name]]) for name in sizes}
    ports = _ports(sizes, edges, ranks, lefts)
    placed = _Placed(sizes, ranks, lefts, tops, bottoms)
    routes = tuple(
        Route(edge, tuple(_corners(edge, port, placed)))
        for edge, port in zip(edges, ports, strict=True)
    )
    return Layout(width, height, corners, routes)


def ranked(names: Iterable[str], edges: Iterable[Edge]) -> dict[str, int]:
    """The rank of each node: the longest way from a node that reads nothing.

    Args:
      names: of the nodes, each after those it reads.
      edges: between them.

    >>> ranked("abc", [Edge("a", "b"), Edge("a", "c"), Edge("b", "c")])
    {'a': 0, 'b': 1, 'c': 2}
    """
    sources = defaultdict(list)
    for edge in edges:
        sources[edge.target].append(edge.source)
    ranks: dict[str, int] = {}
    for name in names:
        ranks[name] = 1 + max((ranks[source] for source in sources[name]), default=-1)
    return ranks


def _lanes(ranks: Mapping[str, int], edges: Iterable[Edge]) -> dict[tuple[str, str], int]:
    """The last rank of each lane, by source and kind."""
    lanes: dict[tuple[str, str], int] = {}
    for source, target, kind in edges:
        if ranks[target] > ranks[source] + 1:
            lanes[source, kind] = max(lanes.get((source, kind), 0), ranks[target] - 1)
    return lanes


def _at(edge: Edge, rank: int, ranks: Mapping[str, int]) -> Item:
    """The item of an edge in a rank: its source, its target, or a placeholder between them."""
    if rank == ranks[edge.source]:
        return edge.source
    return edge.target if rank == ranks[edge.target] else (edge.source, edge.kind, rank)


def _segments(ranks: Mapping[str, int], edges: Iterable[Edge]) -> list[_Lines]:
    """For each gap between two ranks, connected items and the number of edges between them."""
    gaps: list[_Lines] = [{} for _ in range(max(ranks.values(), default=0))]
    for edge in edges:
        for rank in range(ranks[edge.source], ranks[edge.target]):
            pair = _at(edge, rank, ranks), _at(edge, rank + 1, ranks)
            gaps[rank][pair] = gaps[rank].get(pair, 0) + 1
    return gaps


def _initial(ranks: Mapping[str, int], edges: Sequence[Edge]) -> list[list[Item]]:
    """Nodes in the order they were given, and placeholders to the right of them."""
    order: list[list[Item]] = [[] for _ in range(1 + max(ranks.values(), default=-1))]
    for name, rank in ranks.items():
        order[rank].append(name)
    for (source, kind), last in _lanes(ranks, edges).items():
        for rank in range(ranks[source] + 1, last + 1):
            order[rank].append((source, kind, rank))
    return order


_Segments = Sequence[_Lines]
_Neighbors = Mapping[Item, Sequence[Item]]


def _ordered(order: list[list[Item]], segments: _Segments) -> list[list[Item]]:
    """The order with the fewest crossings after sweeps down and up; the first of equal ones."""
    above, below = _neighbors(segments)
    best, fewest = order, _crossings(order, segments)
    current = order
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        current = _swept(current, above if down else below, down=down)
        current = _transposed(current, above, below)
        if (crossings := _crossings(current, segments)) < fewest:
            best, fewest = current, crossings
    return best


def _neighbors(segments: _Segments) -> tuple[_Neighbors, _Neighbors]:
    """Items connected with each item: in the rank above it, and in the rank below."""
    above: dict[Item, list[Item]] = defaultdict(list)
    below: dict[Item, list[Item]] = defaultdict(list)
    for upper, lower in chain.from_iterable(segments):
        above[lower].append(upper)
        below[upper].append(lower)
    return above, below


def _places(row: Sequence[Item]) -> dict[Item, int]:
    return {item: place for place, item in enumerate(row)}


def _swept(order: Sequence[list[Item]], fixed: _Neighbors, *, down: bool) -> list[list[Item]]:
    """Each rank sorted by the medians of its neighbors in the one before it."""
    swept = list(order)
    ranks = range(1, len(order)) if down else range(len(order) - 2, -1, -1)
    for rank in ranks:
        before = _places(swept[rank - 1 if down else rank + 1])
        own = _places(swept[rank])
        wanted = {i: _median([before[n] for n in fixed.get(i, ())], own[i]) for i in own}
        swept[rank] = sorted(swept[rank], key=lambda item: (wanted[item], own[item]))
    return swept


def _median(places: Sequence[int], otherwise: float) -> float:
    """The median, or another value if there are no places.

    >>> _median([4, 0, 1], 2), _median([], 2), _median([0, 1], 2)
    (1, 2, 0.5)
    """
    if not places:
        return otherwise
    ordered, half = sorted(places), len(places) // 2
    return ordered[half] if len(places) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _transposed(
    order: Sequence[list[Item]], above: _Neighbors, below: _Neighbors
) -> list[list[Item]]:
    """The order after exchanging adjacent items as long as that saves crossings."""
    order = [list(row) for row in order]
    for rank, row in enumerate(order):
        sides = [
            (neighbors, _places(order[other]))
            for neighbors, other in ((above, rank - 1), (below, rank + 1))
            if 0 <= other < len(order)
        ]
        improved = True
        while improved:
            improved = False
            for at, (one, two) in enumerate(pairwise(list(row))):
                now = sum(_inversions(s.get(one, ()), s.get(two, ()), p) for s, p in sides)
                then = sum(_inversions(s.get(two, ()), s.get(one, ()), p) for s, p in sides)
                if row[at : at + 2] == [one, two] and then < now:
                    row[at : at + 2] = [two, one]
                    improved = True
    return order


def _inversions(left: Sequence[Item], right: Sequence[Item], places: Mapping[Item, int]) -> int:
    """Crossings between the lines of two adjacent items."""
    return sum(places[one] > places[two] for one in left for two in right)


def _crossings(order: Sequence[Sequence[Item]], segments: _Segments) -> int:
    total = 0
    for (upper, lower), lines in zip(pairwise(map(_places, order)), segments, strict=False):
        ends = sorted((upper[one], lower[two]) for one, two in lines)
        total += sum(b > d for i, (a, b) in enumerate(ends) for c, d in ends[i + 1 :] if a < c)
    return total


def _body(item: Item, sizes: Mapping[str, NodeSize]) -> NodeSize:
    return sizes[item] if isinstance(item, str) else NodeSize(0.0, 0.0)


def _positions(
    order: Sequence[Sequence[Item]], segments: _Segments, bodies: Mapping[Item, NodeSize]
) -> dict[Item, float]:
    """The horizontal position of each item's anchor.

    Minimizes the weighted horizontal length of all lines; among equal solutions, the distance of
    each item from the middle between its outermost neighbors.
    """
    numbers = _places(list(chain.from_iterable(order)))
    program = _Program(len(numbers))
    joins = _joins(segments)
    for (upper, lower), count in chain.from_iterable(lines.items() for lines in segments):
        shift = bodies[upper].exit - bodies[upper].anchor
        weight = (_LANE_DOWN if lower in joins else _weight(upper, lower)) * count
        program.pull({numbers[upper]: 1.0, numbers[lower]: -1.0}, -shift, weight)
    for item, others in chain.from_iterable(side.items() for side in _neighbors(segments)):
        plain = [other for other in others if isinstance(other, str) or not other[1]]
        if len(plain) > 1:
            outer = min(numbers[other] for other in plain), max(numbers[other] for other in plain)
            program.pull({numbers[item]: 1.0} | dict.fromkeys(outer, -0.5), 0.0, _CENTERING)
    for left, right in chain.from_iterable(map(pairwise, order)):
        program.separate(numbers[left], numbers[right], _apart(left, right, bodies))
    return dict(zip(numbers, program.solution(), strict=True))


class _Program:
    """A linear program: minimize costs under rows of `entries @ x <= bounds`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.costs = [0.0] * count
        self.entries: list[tuple[int, int, float]] = []
        self.bounds: list[float] = []

    def solution(self) -> list[float]:
        """Values of the first variables, without the distances that `pull` adds."""
        from scipy.optimize import linprog
        from scipy.sparse import coo_array

        if not self.bounds:
            return [0.0] * self._count
        rows, columns, values = zip(*self.entries, strict=True)
        shape = len(self.bounds), len(self.costs)
        matrix = coo_array((values, (rows, columns)), shape=shape).tocsr()
        distances = len(self.costs) - self._count
        limits = [(None, None)] * self._count + [(0, None)] * distances
        found = linprog(self.costs, matrix, self.bounds, bounds=limits, method="highs")
        return [float(value) for value in found.x[: self._count]]

    def pull(self, terms: Mapping[int, float], target: float, weight: float) -> None:
        """Adds `weight * abs(sum of terms - target)` to what is minimized."""
        distance = len(self.costs)
        self.costs.append(weight)
        for sign in (1.0, -1.0):
            signed = {number: sign * factor for number, factor in terms.items()}
            self._row({**signed, distance: -1.0}, sign * target)

    def separate(self, left: int, right: int, apart: float) -> None:
        """Keeps one variable at least so far left of another."""
        self._row({left: 1.0, right: -1.0}, -apart)

    def _row(self, terms: Mapping[int, float], bound: float) -> None:
        self.entries += [(len(self.bounds), number, factor) for number, factor in terms.items()]
        self.bounds.append(bound)


def _joins(segments: _Segments) -> set[Item]:
    """Nodes that join branches of different lengths, as an inception block does.

    Lines from nodes and from lanes must count equally there: otherwise, the shorter branches would
    not count, and the node would be off the middle of all.
    """
    above, _ = _neighbors(segments)
    return {
        item
        for item, others in above.items()
        if len(others) > 2
        and sum(isinstance(other, str) for other in others) > 1
        and all(isinstance(other, str) or not other[1] for other in others)
    }


def _weight(upper: Item, lower: Item) -> float:
    """Weight of a line's straightness: chains of nodes first, then lanes."""
    passes = [item for item in (upper, lower) if not isinstance(item, str)]
    if len(passes) == 2:
        return 8.0
    if not passes:
        return 20.0
    weak = 0.001 if passes[0][1] else 1.0  # edges with a kind hardly move nodes
    return weak * (_LANE_DOWN if isinstance(lower, str) else 3.0)


def _apart(left: Item, right: Item, bodies: Mapping[Item, NodeSize]) -> float:
    """Minimum distance between the anchors of two adjacent items."""
    nodes = sum(isinstance(item, str) for item in (left, right))
    free = SPACE if nodes == 2 else LANE
    return bodies[left].width - bodies[left].anchor + bodies[right].anchor + free


def _rows(
    order: Sequence[Sequence[Item]],
    segments: _Segments,
    bodies: Mapping[Item, NodeSize],
    lefts: Mapping[Item, float],
) -> tuple[list[float], list[float], float]:
    """Top and bottom of each rank, and the height of all."""
    tops, bottoms, y = [], [], 0.0
    for rank, row in enumerate(order):
        tops.append(y)
        y = round(y + max(bodies[item].height for item in row), 4)
        bottoms.append(y)
        if rank < len(segments):
            y = round(y + _gap(segments[rank], bodies, lefts), 4)
    return tops, bottoms, y


def _gap(
    lines: _Lines,
    bodies: Mapping[Item, NodeSize],
    lefts: Mapping[Item, float],
) -> float:
    """Height of the space between two ranks."""
    across = max(
        abs(lefts[lower] + bodies[lower].anchor - lefts[upper] - bodies[upper].exit)
        for upper, lower in lines
    )
    return round(min(GAP + _STEEPNESS * across, WIDEST_GAP), 4)


def _ports(
    sizes: Mapping[str, NodeSize],
    edges: Sequence[Edge],
    ranks: Mapping[str, int],
    lefts: Mapping[Item, float],
) -> list[float]:
    """Where each edge ends on the top side of its target: no two of them in one point."""
    ports = [0.0] * len(edges)
    by_target = defaultdict(list)
    for number, edge in enumerate(edges):
        by_target[edge.target].append(number)
    for target, numbers in by_target.items():
        size, left = sizes[target], lefts[target]
        starts = [_before(edges[number], ranks, sizes, lefts) for number in numbers]
        for number, port in zip(numbers, _spread_ports(starts, left, size), strict=True):
            ports[number] = port
    return ports


def _before(
    edge: Edge, ranks: Mapping[str, int], sizes: Mapping[str, NodeSize], lefts: Mapping[Item, float]
) -> float:
    """Horizontal position of an edge in the rank above its target."""
    last = _at(edge, ranks[edge.target] - 1, ranks)
    return lefts[last] if last != edge.source else _start(edge, ranks, sizes, lefts)


def _start(
    edge: Edge, ranks: Mapping[str, int], sizes: Mapping[str, NodeSize], lefts: Mapping[Item, float]
) -> float:
    """Where an edge leaves its source: at the exit, or near a corner if it has a kind."""
    size, left = sizes[edge.source], lefts[edge.source]
    if not edge.kind:
        return left + size.exit
    following = _at(edge, ranks[edge.source] + 1, ranks)
    anchor = sizes[edge.target].anchor if following == edge.target else 0.0
    goes_left = lefts[following] + anchor < left + size.exit
    return round(left + (0.15 if goes_left else 0.85) * size.width, 4)


def _spread_ports(starts: Sequence[float], left: float, size: NodeSize) -> list[float]:
    """Ports around the middle, in the order of the starts; lines from above stay vertical."""
    middle, count = left + size.anchor, len(starts)
    order = sorted(range(count), key=starts.__getitem__)
    if size.enters is not None or count == 1:
        return [round(middle, 4)] * count
    step = min(PORT, (size.width - 2 * _CORNER) / count)
    straight = [place for place, i in enumerate(order) if abs(starts[i] - middle) < step / 2]
    center = mean(straight) if straight else (count - 1) / 2
    reach = (size.width - 2 * _CORNER) / 2 / step  # so that all are on the top side
    center = min(max(center, count - 1 - reach), reach)
    found = {i: round(middle + step * (place - center), 4) for place, i in enumerate(order)}
    return [found[i] for i in range(count)]


def _corners(edge: Edge, port: float, placed: "_Placed") -> list[Corner]:
    """Points of a route: down to the end of each rank, then across the gap to the next."""
    ranks, lefts = placed.ranks, placed.lefts
    first = ranks[edge.source]
    x = _start(edge, ranks, placed.sizes, lefts)
    y = round(placed.tops[first] + placed.sizes[edge.source].height, 4)
    points = [(x, y)]
    for rank in range(first, ranks[edge.target]):
        if placed.bottoms[rank] > y:
            points.append((x, placed.bottoms[rank]))
        item = _at(edge, rank + 1, ranks)
        x = port if item == edge.target else lefts[item]
        y = placed.tops[rank + 1]
        points.append((x, y))
    return points
