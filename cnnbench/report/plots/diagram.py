"""The architecture of a network as a drawing: SVG or PNG by matplotlib, and Mermaid text."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnbench.formatting import clean
from cnnbench.graph.plan import Plan
from cnnbench.layers import ConvTranspose
from cnnbench.layers.base import INPUT, shape_text
from cnnbench.report.plots import rendered
from cnnbench.spec.diff import ADDED, CHANGED, FOLLOWS, REMOVED

if TYPE_CHECKING:
    from cnnbench.nn.submodules import Outline

LANE, ROW, BOX = 3.1, 0.95, (2.7, 0.68)  # inches between blocks, and of one
_KINDS = {"conv": "#cfe3f7", "pool": "#d9f0d3", "dense": "#fde6c8", "join": "#eadcf4"}


class LayerStyle(NamedTuple):
    """How a layer is drawn that differs from another network's: a name, a color, dashes."""

    name: str
    color: str
    dashes: str = ""


LOOKS: Mapping[str, LayerStyle] = {
    ADDED: LayerStyle("added", "#00805f"),
    CHANGED: LayerStyle("changed", "#c44e00"),
    FOLLOWS: LayerStyle("resized", "#0072b2"),
    REMOVED: LayerStyle("removed", "#b03030", ",stroke-dasharray:4"),
}


@dataclass(frozen=True, slots=True)
class Block:
    """A layer in the drawing.

    Args:
      name: the layer's, or `input`.
      operation: what it does, in a few words; empty for the input.
      shape: of its result.
      lane: its column; branches stand side by side.
      row: its place from the top: below everything that it reads.
      mark: how it differs from another network's, as in `spec.diff`; empty if it does not.
      merges: whether it is a join of branches.
    """

    name: str
    operation: str
    shape: str
    lane: int
    row: int
    mark: str = ""
    merges: bool = False


@dataclass(frozen=True, slots=True)
class Diagram:
    """Blocks and what connects them.

    Args:
      blocks: the input and every layer.
      edges: (from, to): who reads whom.
      ties: (from, to): whose kernel a layer uses.
    """

    blocks: tuple[Block, ...]
    edges: tuple[tuple[str, str], ...]
    ties: tuple[tuple[str, str], ...]


def diagram(plan: Plan, marks: Mapping[str, str] = MappingProxyType({})) -> Diagram:
    """Places every layer: rows by the longest way from the input, lanes by branch.

    Args:
      plan: the network.
      marks: of layers that differ from another network's, by name.
    """
    layers = [(node.name, node.inputs, node.op.summary(), node.layout.shape) for node in plan.nodes]
    ties = (
        (node.op.tie, node.name)
        for node in plan.nodes
        if isinstance(node.op, ConvTranspose) and node.op.tie
    )
    joins = {node.name for node in plan.nodes if node.op.merges}
    return Diagram(*_placed(plan.input_shape, layers, marks, joins), tuple(ties))


_Layer = tuple[str, tuple[str, ...], str, tuple[int, ...]]  # name, inputs, operation, shape


def outline_diagram(outline: "Outline") -> Diagram:
    """Places the submodules of a Python model likewise, and its result if that is none of them."""
    layers = [(part.name, part.inputs, part.operation, part.shape) for part in outline.parts]
    if len(outline.output_inputs) != 1:
        layers.append(("output", outline.output_inputs, "", outline.output_shape))
    return Diagram(*_placed(outline.input_shape, layers, {}), ())


def _placed(
    input_shape: tuple[int, ...],
    layers: Sequence[_Layer],
    marks: Mapping[str, str],
    joins: Set[str] = frozenset(),
) -> tuple[tuple[Block, ...], tuple[tuple[str, str], ...]]:
    """Blocks and edges."""
    rows, lanes = {INPUT: 0}, {INPUT: 0}
    continued: set[str] = set()
    blocks = [Block(INPUT, "", shape_text(input_shape), 0, 0)]
    for name, inputs, text, shape in layers:
        rows[name] = 1 + max((rows[source] for source in inputs), default=0)
        lanes[name] = _lane(inputs or (INPUT,), lanes, continued)
        place = lanes[name], rows[name]
        blocks.append(
            Block(name, text, shape_text(shape), *place, marks.get(name, ""), name in joins)
        )
    edges = ((source, name) for name, inputs, _, _ in layers for source in inputs)
    return tuple(blocks), tuple(edges)


def _lane(inputs: tuple[str, ...], lanes: Mapping[str, int], continued: set[str]) -> int:
    """The first reader goes on below a layer, another one opens a lane; joins go left."""
    source = min(inputs, key=lambda name: lanes[name])
    is_first = source not in continued
    continued.update(inputs)
    return lanes[source] if is_first or len(inputs) > 1 else max(lanes.values()) + 1


def mermaid(drawings: Sequence[tuple[str, Diagram]]) -> str:
    """Drawings as a Mermaid block, for a README or a notebook.

    Args:
      drawings: titles and diagrams; several get a frame with their title each.
    """
    lines = ["```mermaid", "flowchart TD"]
    for number, (title, drawn) in enumerate(drawings):
        body = list(_flow(drawn, f"n{number}x" if number else "n"))
        if len(drawings) > 1:
            body = [f'  subgraph g{number}["{_entities(title)}"]', *body, "  end"]
        lines += body
    used = {block.mark for _, drawn in drawings for block in drawn.blocks}
    lines += [
        f"  classDef {look.name} stroke:{look.color},stroke-width:2px{look.dashes}"
        for mark, look in LOOKS.items()
        if mark in used
    ]
    return "\n".join([*lines, "```", ""])


def _flow(drawn: Diagram, prefix: str) -> Iterator[str]:
    ids = {block.name: f"{prefix}{number}" for number, block in enumerate(drawn.blocks)}
    for block in drawn.blocks:
        mark = f"{_entities(block.mark)} " if block.mark else ""
        words = [f"{mark}<b>{block.name}</b>", block.operation, block.shape]
        look = f":::{LOOKS[block.mark].name}" if block.mark else ""
        yield f'  {ids[block.name]}["{"<br>".join(filter(None, words))}"]{look}'
    yield from (f"  {ids[one]} --> {ids[other]}" for one, other in drawn.edges)
    yield from (f"  {ids[one]} -. same kernel .- {ids[other]}" for one, other in drawn.ties)


def _entities(text: str) -> str:
    """Words in a label, where Mermaid would take anything but letters and digits for its own."""
    return "".join(c if c.isalnum() or c in " .,-" else f"#{ord(c)};" for c in clean(text))


def diagram_picture(drawings: Sequence[tuple[str, Diagram]], form: str) -> bytes:
    """Architectures side by side, with branches, joins and ties, as in the post.

    Args:
      drawings: titles and diagrams; no room is left for titles if all are empty.
      form: ``svg`` or ``png``.
    """
    from matplotlib.figure import Figure

    lanes = [1 + max(block.lane for block in drawn.blocks) for _, drawn in drawings]
    rows = 1 + max(block.row for _, drawn in drawings for block in drawn.blocks)
    marks = [m for m in LOOKS if any(b.mark == m for _, drawn in drawings for b in drawn.blocks)]
    head, foot = (0.5 if any(title for title, _ in drawings) else 0.0), (0.4 if marks else 0.0)
    size = (sum(LANE * lane + 0.9 for lane in lanes), ROW * rows + head + foot)
    figure = Figure(figsize=size, dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.45, size[0] - 0.45)
    axes.set_ylim(ROW * rows + foot, -head)
    axes.axis("off")
    left = 0.0
    for (title, drawn), wide in zip(drawings, lanes, strict=True):
        line = textwrap.shorten(clean(title), int(13 * LANE * wide), placeholder=" ...")
        style: dict[str, Any] = {"weight": "bold", "va": "center", "parse_math": False}
        axes.text(left + 0.15, -0.25, line, fontsize=12, **style)
        _diagram(axes, drawn, left)
        left += LANE * wide + 0.9
    for number, mark in enumerate(marks):
        look, place = LOOKS[mark], (0.15 + 1.2 * number, ROW * rows + 0.15)
        axes.text(*place, f"{mark} {look.name}", fontsize=10, color=look.color, va="center")
    return rendered(figure, "; ".join(filter(None, (title for title, _ in drawings))), form)


def _diagram(axes: Any, drawn: Diagram, left: float) -> None:
    places = {block.name: center(block) for block in drawn.blocks}
    centers = {name: (left + x, y) for name, (x, y) in places.items()}
    _arrows(axes, drawn, centers)
    for block in drawn.blocks:
        _block(axes, block, centers[block.name])


def routes(drawn: Diagram) -> list[list[tuple[float, float]]]:
    """The corners of each edge's line, in inches from the top left; none crosses a block.

    A line goes straight down where nothing is in the way, and else beside the lane of the two
    that is further left: lines that would lie upon each other there have tracks of their own.

    Args:
      drawn: the blocks and the edges.
    """
    blocks = {block.name: block for block in drawn.blocks}
    taken = {(block.lane, block.row) for block in drawn.blocks}
    pairs = [(blocks[one], blocks[other]) for one, other in drawn.edges]
    beside = [pair for pair in pairs if _free_lane(*pair, taken) is None]
    tracks = _tracks(beside)
    return [_route(*pair, _free_lane(*pair, taken), tracks.get(pair, 0.0)) for pair in pairs]


def center(block: Block) -> tuple[float, float]:
    """Where the middle of a block is, in inches."""
    return LANE * block.lane + BOX[0] / 2, ROW * block.row + 0.45


def _free_lane(one: Block, other: Block, taken: Set[tuple[int, int]]) -> int | None:
    """The lane of the two in which an edge can go down; None where blocks are in both."""
    between = range(one.row + 1, other.row)
    return next(
        (
            lane
            for lane in (max(one.lane, other.lane), min(one.lane, other.lane))
            if not any((lane, row) in taken for row in between)
        ),
        None,
    )


def _tracks(pairs: Sequence[tuple[Block, Block]]) -> dict[tuple[Block, Block], float]:
    """How far right of its lane's blocks each edge goes down, short ones next to the blocks."""
    used: dict[int, list[list[tuple[int, int]]]] = {}
    places: dict[tuple[Block, Block], tuple[int, int]] = {}
    for one, other in sorted(pairs, key=lambda pair: pair[1].row - pair[0].row):
        lane, span = min(one.lane, other.lane), (one.row, other.row)
        tracks = used.setdefault(lane, [])
        free = (i for i, t in enumerate(tracks) if all(span[0] >= b or span[1] <= a for a, b in t))
        if (number := next(free, len(tracks))) == len(tracks):
            tracks.append([])
        tracks[number].append(span)
        places[one, other] = lane, number
    step = {lane: min(0.14, (LANE - BOX[0]) / (len(tracks) + 1)) for lane, tracks in used.items()}
    return {pair: step[lane] * (number + 1) for pair, (lane, number) in places.items()}


def _route(one: Block, other: Block, lane: int | None, track: float) -> list[tuple[float, float]]:
    (x0, y0), (x1, y1) = center(one), center(other)
    half, gap = BOX[1] / 2, ROW - BOX[1]
    top, bottom = (x0, y0 + half), (x1, y1 - half)
    if lane is not None and (other.row == one.row + 1 or x0 == x1):
        return [top, bottom]
    if lane is not None:
        return [top, (x1, y0 + half + gap) if lane == other.lane else (x0, y1 - half - gap), bottom]
    x = LANE * min(one.lane, other.lane) + BOX[0] + track
    if one.lane == other.lane:  # out of the side and into it, so that no arrow is hidden
        y0, y1 = y0 + half / 3, y1 - half / 3
        return [(x0 + BOX[0] / 2, y0), (x, y0), (x, y1), (x1 + BOX[0] / 2, y1)]
    return [top, (x, y0 + half + gap), (x, y1 - half - gap), bottom]


def _arrows(axes: Any, drawn: Diagram, centers: Mapping[str, tuple[float, float]]) -> None:
    """Who reads whom, around the blocks in between; dashed where a kernel is shared."""
    blocks = {block.name: block for block in drawn.blocks}
    left = centers[drawn.blocks[0].name][0] - center(drawn.blocks[0])[0]
    for corners in routes(drawn):
        *line, end = [(left + x, y) for x, y in corners]
        style: dict[str, Any] = {"arrowstyle": "-|>", "color": "#333333", "lw": 1.1}
        if len(line) > 1:
            axes.plot(*zip(*line, strict=True), color="#333333", lw=1.1)
            style["shrinkA"] = 0  # no gap at the corner
        axes.annotate("", end, line[-1], arrowprops=style)
    ties = sorted(drawn.ties, key=lambda tie: abs(blocks[tie[1]].row - blocks[tie[0]].row))
    for number, (one, other) in enumerate(ties):
        (x0, y0), (x1, y1) = centers[one], centers[other]
        left = -BOX[0] / 2  # no other lane is there
        out = 0.3 + 0.6 * number / len(ties)  # of a control point; the curve goes half as far
        bend = f"arc3,rad={out / max(abs(y1 - y0), 1):.3f}"
        style = {"arrowstyle": "-", "color": "#b03030", "connectionstyle": bend, "ls": "--"}
        axes.annotate("", (x1 + left, y1), (x0 + left, y0), arrowprops=style)


def _block(axes: Any, block: Block, center: tuple[float, float]) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = center
    kind = next((k for k in _KINDS if k in block.operation.split(" ")[0]), "")
    kind = "join" if block.merges else kind
    corner = (x - BOX[0] / 2, y - BOX[1] / 2)
    style: dict[str, Any] = {
        "facecolor": _KINDS.get(kind, "#f0f0f0"),
        "edgecolor": "#555555",
        "lw": 0.9,
    }
    if look := LOOKS.get(block.mark):
        style |= {"edgecolor": look.color, "lw": 2.2, "ls": "--" if look.dashes else "-"}
        mark = {"color": look.color, "weight": "bold", "va": "center", "fontsize": 11}
        axes.text(corner[0] + 0.1, y - 0.17, block.mark, **mark)
    axes.add_patch(FancyBboxPatch(corner, *BOX, boxstyle="round,pad=0,rounding_size=0.07", **style))
    lines = [block.operation, block.shape] if block.operation else [block.shape]
    axes.text(x, y - 0.17, block.name, ha="center", va="center", fontsize=9.5, weight="bold")
    text = "\n".join(lines)
    axes.text(x, y + 0.13, text, ha="center", va="center", fontsize=8, parse_math=False)
