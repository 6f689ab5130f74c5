"""Pictures, made with matplotlib and returned as bytes."""

import io
import textwrap
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.formatting import clean
from cnnbench.report.plots.diagram import LOOKS, Block, Diagram


def reconstructions_png(inputs: NDArray[Any], outputs: NDArray[Any]) -> bytes:
    """Inputs above what the network makes of them, as in the post.

    Args:
      inputs: images, (n, h, w, c), pixels from 0 to 255.
      outputs: their reconstructions, of the same shape.
    """
    from matplotlib.figure import Figure

    count = len(inputs)
    figure = Figure(figsize=(1.0 * count + 0.9, 2.15), dpi=120)
    axes = figure.subplots(2, count, squeeze=False)
    for row, images in enumerate((inputs, outputs)):
        for axis, image in zip(axes[row], images, strict=True):
            axis.imshow(_pixels(image), cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
    for row, label in enumerate(("input", "output")):
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.subplots_adjust(0.09, 0.02, 0.995, 0.98, wspace=0.05, hspace=0.05)
    return rendered(figure, "reconstructions", "png")


LANE, ROW, BOX = 3.1, 0.95, (2.7, 0.68)  # inches between blocks, and of one
_KINDS = {"conv": "#cfe3f7", "pool": "#d9f0d3", "dense": "#fde6c8", "join": "#eadcf4"}


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


def rendered(figure: Any, title: str, form: str) -> bytes:
    """A figure as ``svg`` or ``png``; the same figure, the same bytes."""
    import matplotlib as mpl

    metadata: dict[str, Any] = {"svg": {"Date": None, "Title": title}}.get(form, {})
    buffer = io.BytesIO()
    # Text stays text, so that it can be found and read aloud.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cnnbench"}):
        figure.savefig(buffer, format=form, metadata=metadata or {"Software": None})
    return buffer.getvalue()


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
    kind = "join" if block.operation in {"concat", "add"} else kind
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


def _pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(h, w) for grey images, (h, w, 3) for colour, clipped to what a screen shows."""
    clipped: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return clipped[..., 0] if clipped.shape[-1] == 1 else clipped
