"""Diagrams of networks as SVG or PNG."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cnnbench.formatting import clean
from cnnbench.report.plots import rendered
from cnnbench.report.plots.arrangement import (
    COLUMN,
    LINE,
    MARK,
    NAME_SIZE,
    PAD,
    TEXT_SIZE,
    Arrangement,
    Line,
    Rectangle,
    arrange,
)
from cnnbench.report.plots.blocks import Block, Cell, Diagram, Repeat
from cnnbench.report.plots.charts import INK
from cnnbench.report.plots.diagram import STYLES
from cnnbench.report.plots.text import fitting, text_width, wrapped

_MARGIN, _BETWEEN = 0.25, 0.6  # inches: around all, between two networks
_TITLE, _LEGEND, _TITLE_SIZE = 0.3, 0.35, 12  # inches of a line of a title and of the legend
_NARROWEST = 3.0  # inches that a title may take above a narrower network
_FILLS = {"conv": "#cfe3f7", "pool": "#d9f0d3", "dense": "#fde6c8", "join": "#eadcf4"}
_ARROWS, _BORDER, _SHAPE, _TIES = "#333333", "#555555", "#444444", "#b03030"
_HEAD_LENGTH, _HEAD_WIDTH = 0.11, 0.09  # inches of an arrowhead


class _Placed(NamedTuple):
    """A network with its title and its left edge, in inches."""

    title: list[str]
    found: Arrangement
    left: float


def diagram_picture(drawings: Sequence[tuple[str, Diagram]], form: str) -> bytes:
    """Networks side by side, with their differences marked.

    Args:
      drawings: titles and diagrams; no room is left for titles if all are empty.
      form: ``svg`` or ``png``.
    """
    from matplotlib.figure import Figure

    placed, wide = _side_by_side(drawings)
    used = {block.mark for _, drawn in drawings for block in drawn.blocks}
    marks = [mark for mark in STYLES if mark in used]
    lines = max(len(each.title) for each in placed)
    head = _TITLE * lines + 0.08 if lines else 0.0
    below = head + max(each.found.height for each in placed)
    tall = below + (_LEGEND if marks else 0.0)
    figure = Figure(figsize=(wide + 2 * _MARGIN, tall + 2 * _MARGIN), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-_MARGIN, wide + _MARGIN)
    axes.set_ylim(tall + _MARGIN, -_MARGIN)
    axes.axis("off")
    for title, found, left in placed:
        _text(axes, left, 0, "\n".join(title), _TITLE_SIZE, weight="bold", va="top")
        _draw(axes, found, left, head)
    for number, mark in enumerate(marks):
        place, style = (1.2 * number, below + _LEGEND - 0.1), STYLES[mark]
        _text(axes, *place, f"{mark} {style.name}", 10, color=style.color)
    return rendered(figure, "; ".join(filter(None, (title for title, _ in drawings))), form)


def _side_by_side(drawings: Sequence[tuple[str, Diagram]]) -> tuple[list[_Placed], float]:
    """Networks with their titles in lines of their width, and the width of all."""
    placed, right = [], 0.0
    for title, drawn in drawings:
        found, line = arrange(drawn), clean(title)
        width = text_width(line, _TITLE_SIZE, bold=True) if line else 0.0
        wide = max(found.width, min(width, _NARROWEST))
        lines = wrapped(line, _TITLE_SIZE, wide, bold=True)
        placed.append(_Placed(lines, found, right))
        right += wide + _BETWEEN
    return placed, right - _BETWEEN


def _text(axes: Any, x: float, y: float, text: str, size: float, **style: Any) -> None:
    style = {"va": "center", "color": INK, "parse_math": False} | style
    axes.text(x, y, text, fontsize=size, **style)


def _draw(axes: Any, found: Arrangement, left: float, top: float) -> None:
    from matplotlib.transforms import Affine2D

    place = Affine2D().translate(left, top) + axes.transData
    for box in found.boxes:
        if not isinstance(box.node, Block):
            _frame(axes, box, place)
    for line in found.lines:
        _line(axes, line, place)
    for box in found.boxes:
        if isinstance(box.node, Block):
            _block(axes, box, place)


def _line(axes: Any, line: Line, place: Any) -> None:
    """A line with curves or corners, and its arrowhead."""
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    color = _TIES if line.kind else _ARROWS
    corners, codes = [line.points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in zip(line.points, line.points[1:], strict=False):
        if line.turns or x0 == x1:
            corners, codes = [*corners, (x1, y1)], [*codes, Path.LINETO]
        else:
            middle = (y0 + y1) / 2
            corners += [(x0, middle), (x1, middle), (x1, y1)]
            codes += [Path.CURVE4] * 3
    style: Any = {"fill": False, "edgecolor": color, "lw": 1.1, "transform": place}
    style |= {"linestyle": "--"} if line.kind else {"capstyle": "butt"}
    axes.add_patch(PathPatch(Path(corners, codes), **style))
    if line.arrow:
        x, y = line.points[-1]
        sides = [(x - _HEAD_WIDTH / 2, y - _HEAD_LENGTH), (x + _HEAD_WIDTH / 2, y - _HEAD_LENGTH)]
        axes.add_patch(Polygon([(x, y), *sides], facecolor=color, lw=0, transform=place))


def _frame(axes: Any, box: Rectangle, place: Any) -> None:
    """The frame of a repeated block, with the number of repetitions and the last layer."""
    from matplotlib.patches import FancyBboxPatch

    repeat = box.node
    assert isinstance(repeat, Repeat)
    style: Any = {"fill": False, "edgecolor": _ARROWS, "lw": 1.0, "ls": (0, (4, 2))}
    style |= {"transform": place, "boxstyle": "round,pad=0,rounding_size=0.1"}
    axes.add_patch(FancyBboxPatch((box.left, box.top), box.width, box.height, **style))
    left, bottom = box.left + PAD, box.top + box.height - 0.14
    _text(axes, left, box.top + 0.14, f"x {repeat.count}", 9.5, weight="bold", transform=place)
    room = box.leaves - box.left - 2 * PAD
    _text(axes, left, bottom, fitting(f"to {repeat.name}", 7.5, room), 7.5, transform=place)


def _block(axes: Any, box: Rectangle, place: Any) -> None:
    """A box with a line for each layer and the shape of their output."""
    from matplotlib.patches import FancyBboxPatch

    block = box.node
    assert isinstance(block, Block)
    style: Any = {"facecolor": _FILLS.get(block.cells[0].kind, "#f0f0f0"), "edgecolor": _BORDER}
    style |= {"lw": 0.9, "transform": place, "boxstyle": "round,pad=0,rounding_size=0.06"}
    left, mark = box.left + PAD, STYLES.get(block.mark)
    if mark:
        style |= {"edgecolor": mark.color, "lw": 2.2, "ls": "--" if mark.dashes else "-"}
    axes.add_patch(FancyBboxPatch((box.left, box.top), box.width, box.height, **style))
    right, y = box.left + box.width - PAD, box.top + PAD / 2 + LINE / 2
    own: Any = {"color": "black", "transform": place}
    if mark:
        _text(axes, left, y, block.mark, 11, color=mark.color, weight="bold", transform=place)
        left += MARK
    for cell in block.cells:
        _words(axes, cell, (left, right, y), own)
        y += LINE
    _text(axes, right, y, block.cells[-1].shape, TEXT_SIZE, ha="right", **own | {"color": _SHAPE})


def _words(axes: Any, cell: Cell, at: tuple[float, float, float], style: Any) -> None:
    """A layer's name on the left of a line and its operation on the right."""
    left, right, y = at
    name = fitting(cell.name, NAME_SIZE, right - left if not cell.operation else 2.2, bold=True)
    room = right - left - text_width(name, NAME_SIZE, bold=True) - COLUMN
    _text(axes, left, y, name, NAME_SIZE, weight="bold", **style)
    _text(axes, right, y, fitting(cell.operation, TEXT_SIZE, room), TEXT_SIZE, ha="right", **style)
