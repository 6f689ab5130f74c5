"""Images in the terminal: two pixels per character, in color if the terminal supports it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnnbench.system.arrays import Pixels

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

RAMP = " .:-=+*#%@"  # from black to white
GAP = 2  # columns between two images
CAPTION = 30  # minimum width of a caption, in columns


class ImageGroup(NamedTuple):
    """Images side by side under a caption, such as an image and its reconstruction."""

    caption: Sequence[str]
    images: Sequence[Pixels]


def gallery(groups: Sequence[ImageGroup], console: "Console") -> "Table":
    """Arranges groups of images in rows that fit the terminal.

    Args:
      groups: images of equal size, (h, w, c) with 1 or 3 channels, from 0 to 255.
      console: where they are printed. Without a terminal or color support, images are printed
        as ASCII art.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Column, Table
    from rich.text import Text

    colored = bool(console.is_terminal and console.color_system and not console.no_color)
    draw = blocks if colored and console.encoding.startswith("utf") else ramp
    count = max(len(group.images) for group in groups)
    most = max(1, console.width // count - GAP)
    parts = []
    for group in groups:
        pictures = Table.grid(padding=(0, GAP, 0, 0))
        pictures.add_row(*(draw(shrunk(image, most)) for image in group.images))
        caption = Padding(Text("\n".join(group.caption), overflow="fold"), (0, GAP, 0, 0))
        parts.append(Group(caption, pictures, Text("")))
    picture = min(most, groups[0].images[0].shape[1])
    wide = min(console.width, max(CAPTION, count * (picture + GAP)))
    table = Table.grid(*(Column(width=wide) for _ in range(console.width // wide)))
    for start in range(0, len(parts), console.width // wide):
        table.add_row(*parts[start : start + console.width // wide])
    return table


def shrunk(image: Pixels, most: int) -> Pixels:
    """Downsamples an image to at most `most` columns by averaging squares of pixels.

    Args:
      image: (h, w, c).
      most: maximum number of columns.
    """
    step = -(-image.shape[1] // most)
    if step <= 1:
        return image
    height, width = (size // step for size in image.shape[:2])
    cut = image[: height * step, : width * step].reshape(height, step, width, step, -1)
    means: Pixels = cut.mean(axis=(1, 3)).round().astype(np.uint8)
    return means


def ramp(image: Pixels) -> "Text":
    r"""ASCII art: one character per two pixels, one above the other; lighter is denser.

    >>> ramp(np.array([[[0], [255]], [[0], [255]], [[128], [0]]], np.uint8)).plain
    ' @\n: '
    """
    from rich.text import Text

    light = _pairs(image).mean(axis=(1, 3))
    places = (light / 255 * (len(RAMP) - 1)).round().astype(int)
    lines = ["".join(RAMP[place] for place in row) for row in places]
    return Text("\n".join(lines), no_wrap=True)


def blocks(image: Pixels) -> "Text":
    """Half blocks: the upper pixel is the foreground color, the lower one the background."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    text = Text(no_wrap=True)
    for number, (upper, lower) in enumerate(np.broadcast_to(_pairs(image), _colors(image))):
        text.append("\n" if number else "")
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            style = Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))
            text.append("▀", style)
    return text


def _pairs(image: Pixels) -> Pixels:
    """Pairs of rows, (ceil(h / 2), 2, w, c); an odd number of rows is padded with black."""
    height, width, channels = image.shape
    even = np.pad(image, ((0, height % 2), (0, 0), (0, 0)))
    return even.reshape(-1, 2, width, channels)


def _colors(image: Pixels) -> tuple[int, ...]:
    """Shape of pairs of rows with three channels."""
    return (-(-image.shape[0] // 2), 2, image.shape[1], 3)
