"""Pictures of what a network has learnt: filters, activations, and what excites its units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.inspection import Responses
from cnnbench.phrases import clean
from cnnbench.pixels import mosaic
from cnnbench.plots import rendered
from cnnbench.receptive_fields import receptive_field
from cnnbench.trained import TrainedNetwork

Array = NDArray[Any]
WIDTH, TALLEST, HEAD = 8.0, 6.0, 0.42  # inches: of the page, of a panel, of its title
LEFT, SMALL = 0.45, 1.2  # inches: of the margin, of an image alone
GAP = (0.45, 0.6, 0.8)  # of pixels, where white would be taken for a part of them
MOST_TILES, ROWS = 64, 16  # more rows than that make a panel taller, not smaller


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Panel:
    """Small pictures side by side under a title.

    Args:
      title: says what they are.
      tiles: (n, h, w), or (n, h, w, 3) for colour; NaN where there is nothing.
      columns: of them in a row.
      kind: ``pixels`` from 0 to 255; ``signed`` values around zero; ``values`` from the
        smallest to the largest; ``picture`` for one in colour that fills the page.
      rows: a label for each row of tiles; none of them where there is nothing to say.
    """

    title: str
    tiles: Array
    columns: int
    kind: str
    rows: tuple[str, ...] = ()


def activation_panels(
    network: TrainedNetwork, test: Array, numbers: Sequence[int], layer: str | None = None
) -> list[Panel]:
    """Images, each above what layers make of it.

    Args:
      network: the trained network.
      test: the test images, (n, h, w, c), pixels from 0 to 255.
      numbers: of those to show.
      layer: the one to show; all of them if None.
    """
    images = test[list(numbers)]
    activations = network.activations(images, None if layer is None else [layer])
    panels = []
    for at, number in enumerate(numbers):
        panels.append(pixel_panel(f"image {number}", images[at : at + 1]))
        panels += [_activation(name, values[at]) for name, values in activations.items()]
    return panels


def layer_panels(
    network: TrainedNetwork,
    layer: str,
    test: Array,
    responses: Responses,
    panels: Sequence[Panel],
    most: int,
) -> list[Panel]:
    """A layer's filters, panels of what it makes of images, and what excites its units.

    Args:
      network: the trained network.
      layer: its name.
      test: the images that were looked at, (n, h, w, c), pixels from 0 to 255.
      responses: what `inspection.examine` found over them.
      panels: what stands in between.
      most: units that are shown, and channels that their filters read.
    """
    kernel = network.parameters.get(layer, {}).get("kernel")
    examples = _examples(network, layer, test, responses, most)
    return [*_filters(layer, kernel, most), *panels, examples]


def _filters(layer: str, kernel: Array | None, most: int) -> list[Panel]:
    """Each filter, of the image's channels or of the first of many."""
    if kernel is None or kernel.ndim != 4:
        return []
    filters = kernel.transpose(3, 2, 0, 1)  # filter, channel, rows, columns
    count, channels = filters.shape[:2]
    title = f"{layer}: {count} filters of {kernel.shape[0]}x{kernel.shape[1]}"
    if channels == 1:
        shown = filters[: max(MOST_TILES, most), 0]
        some = f", the first {len(shown)} of them" if len(shown) < count else ""
        return [Panel(title + some, shown, 16, "signed")]
    shown = filters[:most, :most]
    if shown.shape[:2] != (count, channels):
        title += f", the first {len(shown)} of them"
    title += f"; a filter a row, by {shown.shape[1]} of {channels} input channels"
    tiles = shown.reshape(-1, *kernel.shape[:2])
    return [Panel(title, tiles, shown.shape[1], "signed")]


def pixel_panel(title: str, images: Array) -> Panel:
    """Images side by side, (n, h, w, c) from 0 to 255."""
    grey = images.shape[-1] == 1
    tiles = images[..., 0] if grey else images
    return Panel(title, tiles.astype(float), len(tiles), "pixels")


def _activation(name: str, values: Array) -> Panel:
    """The channels of one image, or the values of a vector in rows of 64."""
    kind = "signed" if values.min() < 0 else "values"
    size = "x".join(map(str, values.shape))
    if values.ndim == 3:
        channels = values.transpose(2, 0, 1)
        some = f", the first {MOST_TILES}" if len(channels) > MOST_TILES else ""
        return Panel(f"{name} ({size}{some})", channels[:MOST_TILES], 16, kind)
    width = min(64, len(values))
    rows = np.full(-(-len(values) // width) * width, np.nan)
    rows[: len(values)] = values
    return Panel(f"{name} ({size})", rows.reshape(1, -1, width), 1, kind)


def _examples(
    network: TrainedNetwork, layer: str, test: Array, responses: Responses, most: int
) -> Panel:
    """For each unit the parts of the images that excite it most, a unit a row."""
    assert network.plan is not None
    units = np.sort(responses.strongest[:most])
    patches = [
        _patch(network, layer, test[responses.images[e, u]], tuple(responses.places[e, u].tolist()))
        for u in units
        for e in range(len(responses.values))
    ]
    height, width = (max(patch.shape[axis] for patch in patches) for axis in (0, 1))
    tiles = np.full((len(patches), height, width, *patches[0].shape[2:]), np.nan)
    for tile, patch in zip(tiles, patches, strict=True):
        tile[: patch.shape[0], : patch.shape[1]] = patch
    total = len(responses.strongest)
    some = f", {len(units)} of {total} units" if len(units) < total else ""
    title = f"what excites {layer} most{some}; a unit a row"
    return Panel(title, tiles, len(responses.values), "pixels", tuple(map(str, units)))


def _patch(network: TrainedNetwork, layer: str, image: Array, place: tuple[int, ...]) -> Array:
    """The pixels that a value of a layer depends on."""
    assert network.plan is not None
    (top, bottom), (left, right) = receptive_field(network.plan, layer, place)
    patch: Array = image[top : bottom + 1, left : right + 1].astype(float)
    return patch[..., 0] if patch.shape[-1] == 1 else patch


def page(panels: Sequence[Panel], title: str, form: str) -> bytes:
    """Panels below each other.

    Args:
      panels: what to draw.
      title: stands above them; nothing does if it is empty.
      form: ``svg`` or ``png``.
    """
    from matplotlib.figure import Figure

    pictures = [_drawn(panel) for panel in panels]
    sizes = [_inches(*pair) for pair in zip(panels, pictures, strict=True)]
    above = 0.45 if title else 0.0
    height = sum(size[1] + HEAD for size in sizes) + above + 0.15
    figure = Figure(figsize=(WIDTH, height), dpi=110)
    title = clean(title)
    figure.text(LEFT / WIDTH, 1 - 0.3 / height, title, fontsize=12, weight="bold", parse_math=False)
    top = height - above
    for panel, picture, (wide, tall) in zip(panels, pictures, sizes, strict=True):
        figure.text(LEFT / WIDTH, (top - 0.28) / height, panel.title, fontsize=9, parse_math=False)
        top -= HEAD + tall
        axes = figure.add_axes((LEFT / WIDTH, top / height, wide / WIDTH, tall / height))
        axes.axis("off")
        axes.imshow(picture, **_colours(panel.kind, panel.tiles), interpolation="nearest")
        step = panel.tiles.shape[1] + 1
        for row, label in enumerate(panel.rows):
            place = (-1, (row + 0.5) * step - 1)
            axes.text(*place, label, fontsize=7, ha="right", va="center")
    return rendered(figure, title, form)


def _drawn(panel: Panel) -> Array:
    picture = mosaic(panel.tiles, panel.columns)
    # Colours are shares of one to matplotlib, and have no colour for a gap of their own.
    if picture.ndim == 2:
        return picture
    return np.where(np.isnan(picture), GAP, np.clip(picture / 255, 0, 1))


def _inches(panel: Panel, picture: Array) -> tuple[float, float]:
    """Width and height of a panel: as large as fits, but no pixel larger than needed."""
    height, width = picture.shape[:2]
    rows = -(-len(panel.tiles) // panel.columns)
    small = len(panel.tiles) == 1 or (panel.kind == "pixels" and rows == 1)
    tallest = SMALL if small else TALLEST * max(1, rows / ROWS)
    if panel.kind == "picture":
        tallest = TALLEST
    scale = min((WIDTH - 1.5 * LEFT) / width, tallest / height, 0.12)
    return width * scale, height * scale


def _colours(kind: str, tiles: Array) -> dict[str, Any]:
    import matplotlib as mpl

    if kind == "pixels":
        grey = mpl.colormaps["gray"].with_extremes(bad=GAP)
        return {"cmap": grey, "vmin": 0, "vmax": 255}
    finite = tiles[np.isfinite(tiles)]
    least, most = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if kind == "picture":
        return {}
    if kind == "signed":
        largest = max(-least, most) or 1.0
        return {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    return {"cmap": "viridis", "vmin": least, "vmax": most}
