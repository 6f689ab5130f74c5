"""Contact sheet: images in rows, each above its caption."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnbench.formatting import clean
from cnnbench.report.plots import rendered
from cnnbench.report.plots.image_grid import DOTS, GAP, LEFT, WIDTH, axes_at
from cnnbench.report.plots.png import mosaic
from cnnbench.report.plots.terminal_image import ImageGroup

# Inches: an image with the space next to it, the image alone, a line of a caption, the title.
CELL, SIDE, LINE, HEAD = 1.5, 1.3, 0.13, 0.25
ACROSS = int((WIDTH - LEFT) / CELL)
LETTERS = 25  # in a line of a caption
MOST_LINES = 4  # of a caption
TITLE_LETTERS = 85  # in a line of the title


def contact_sheet(groups: Sequence[ImageGroup], title: str, form: str) -> bytes:
    """Draws images in rows.

    Args:
      groups: images, (h, w, c) from 0 to 255, side by side if there are several, and captions.
      title: above the images.
      form: ``svg`` or ``png``.
    """
    from matplotlib.figure import Figure

    captions = [_lines(group.caption) for group in groups]
    rows = [
        (groups[start : start + ACROSS], captions[start : start + ACROSS])
        for start in range(0, len(groups), ACROSS)
    ]
    heads = textwrap.wrap(clean(title), TITLE_LETTERS)
    tall = [SIDE + LINE * (max(map(len, texts)) + 1.5) for _, texts in rows]
    top = sum(tall) + HEAD * (len(heads) + 0.5)
    figure = Figure(figsize=(WIDTH, top), dpi=DOTS)
    for line in heads:
        top -= HEAD
        place = LEFT / 2 / WIDTH, top / figure.get_size_inches()[1]
        figure.text(*place, line, fontsize=10, weight="bold", parse_math=False)
    top -= HEAD / 2
    for (own, texts), height in zip(rows, tall, strict=True):
        for column, (group, lines) in enumerate(zip(own, texts, strict=True)):
            _draw(figure, group, lines, LEFT / 2 + column * CELL, top)
        top -= height
    return rendered(figure, title, form)


def _draw(figure: Any, group: ImageGroup, lines: Sequence[str], left: float, top: float) -> None:
    """Draws an image and its caption below the place (left, top), in inches."""
    tiles = np.stack(group.images).astype(float)
    picture = mosaic(tiles[..., 0] if tiles.shape[-1] == 1 else tiles, len(tiles)) / 255
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    axes = axes_at(figure, left, top - height * scale, width * scale, height * scale)
    axes.axis("off")
    shown = np.where(np.isnan(picture), GAP, np.clip(picture, 0, 1))
    axes.imshow(shown, interpolation="nearest", aspect="auto")
    wide, tall = figure.get_size_inches()
    for number, line in enumerate(lines):
        place = left / wide, (top - height * scale - LINE * (number + 1)) / tall
        figure.text(*place, line, fontsize=6.5, parse_math=False)


def _lines(caption: Sequence[str]) -> list[str]:
    """A caption in lines that fit under an image; an ellipsis stands for what does not.

    >>> _lines(["52: animals", "a name of more letters than fit"])
    ['52: animals', 'a name of more letters', 'than fit']
    """
    options: Any = {
        "max_lines": MOST_LINES - len(caption) + 1,
        "placeholder": " \N{HORIZONTAL ELLIPSIS}",
    }
    return [line for text in caption for line in textwrap.wrap(clean(text), LETTERS, **options)]
