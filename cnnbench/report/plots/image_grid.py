"""Grids of small images: filters, activations, top images per unit, reconstructions, latents."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cnnbench.analysis.activations import Responses
from cnnbench.analysis.latent import (
    SAMPLES,
    SIDE,
    STEPS,
    codes,
    denoise,
    from_prior,
    has_plane,
    plane,
    walk,
)
from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.data.splits import Split
from cnnbench.formatting import clean
from cnnbench.graph.plan import Plan
from cnnbench.graph.receptive_field import receptive_field
from cnnbench.report.plots import rendered
from cnnbench.report.plots.png import mosaic
from cnnbench.system.arrays import Array, Pixels

# Inches: the page, the tallest panel, a title, the left margin, a single image, column numbers,
# a color bar with its numbers, the space between panels.
WIDTH, TALLEST, HEAD, LEFT, SMALL = 8.0, 6.0, 0.32, 0.45, 1.2
NUMBERS, SCALE, LEAST_SCALE, BETWEEN = 0.16, 0.55, 0.4, 0.3
MOST_SHRUNK = 0.65  # of its size, to fit a panel next to the previous one
TITLE_CHARACTER = 0.066  # inches, at the size of a panel's title
DOTS = 110  # per inch
GAP = (0.45, 0.6, 0.8)  # color between tiles; white could be mistaken for pixels
MOST_TILES, ROWS, TILES_ACROSS = 64, 16, 16  # a panel of more than ROWS rows is taller
VECTOR_ROW, VECTOR_TICK = 64, 8  # values per row of a vector, and between column numbers
MOST_POINTS = 2_000  # test images in the scatter plot of the latent space
SHOWN = 10  # reconstructed images
PLANE, BELOW = 3.1, 0.35  # inches: side of the latent space, room for the axis below it
HISTOGRAM = 1.6  # inches
LEAST_REACH = 3.0  # standard deviations of the prior

_LABEL: dict[str, Any] = {"fontsize": 6.5, "textcoords": "offset points", "annotation_clip": False}


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Panel:
    """A grid of small pictures under a title.

    Args:
      title: of the panel.
      tiles: (n, h, w), or (n, h, w, 3) for color; NaN for empty pixels.
      columns: tiles per row.
      kind: ``pixels`` from 0 to 255; ``signed`` values around zero; ``values`` from the
        smallest to the largest. The last two get a color bar.
      rows: labels on the left, spread evenly over the height.
      heads: labels above, spread evenly over the width.
      share: fraction of the page's width that it may fill.
    """

    title: str
    tiles: Array
    columns: int
    kind: str
    rows: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    share: float = 1.0

    def size(self) -> tuple[float, float]:
        """Width and height in inches: as large as fits, with a maximum size per pixel."""
        wide, tall = self._extent()
        tall = max(tall, LEAST_SCALE) if self._scale else tall
        return wide + self._scale, tall + self._numbers

    def draw(self, figure: Any, left: float, top: float, shrink: float) -> None:
        """Draws the grid with its labels and its color bar.

        Args:
          figure: the Matplotlib figure.
          left: the left edge, in inches.
          top: the upper edge below the title, in inches from the bottom of the figure.
          shrink: scale factor.
        """
        wide, tall = self._extent()
        smaller = shrink - (1 - shrink) * self._scale / wide  # labels do not shrink
        wide, tall = smaller * wide, smaller * tall
        axes = axes_at(figure, left, top - self._numbers - tall, wide, tall)
        axes.axis("off")
        picture, colors = self._picture(), _colors(self.kind, self.tiles)
        shown = axes.imshow(picture, **colors, interpolation="nearest", aspect="auto")
        gap = 1 if len(self.tiles) > 1 else 0
        height, width = picture.shape[:2]
        for text, y in zip(self.rows, _centers(len(self.rows), height, gap), strict=True):
            axes.annotate(text, (-0.5, y), (-3, 0), ha="right", va="center", **_LABEL)
        for text, x in zip(self.heads, _centers(len(self.heads), width, gap), strict=True):
            axes.annotate(text, (x, -0.5), (0, 2), ha="center", va="bottom", **_LABEL)
        if self._scale:
            high = max(LEAST_SCALE, min(tall, SMALL))
            bar = axes_at(figure, left + wide + 0.08, top - self._numbers - high, 0.09, high)
            _color_scale(figure, shown, bar)

    def _extent(self) -> tuple[float, float]:
        """Width and height of the grid without labels."""
        height, width = self._picture().shape[:2]
        rows = -(-len(self.tiles) // self.columns)
        small = len(self.tiles) == 1 or (self.kind == "pixels" and rows == 1)
        tallest = SMALL if small else TALLEST * max(1, rows / ROWS)
        widest = self.share * (WIDTH - 1.5 * LEFT) - self._scale
        scale = min(widest / width, tallest / height, 0.12)
        return width * scale, height * scale

    @property
    def _scale(self) -> float:
        return 0.0 if self.kind == "pixels" else SCALE

    @property
    def _numbers(self) -> float:
        return NUMBERS if self.heads else 0.0

    def _picture(self) -> Array:
        picture = mosaic(self.tiles, self.columns)
        # Matplotlib takes colors from 0 to 1, and has no color for gaps in RGB images.
        if picture.ndim == 2:
            return picture
        return np.where(np.isnan(picture), GAP, np.clip(picture / 255, 0, 1))


class Drawn(Protocol):
    """Part of a page: a `Panel`, or another picture of known size."""

    @property
    def title(self) -> str:
        """Printed above it."""

    def size(self) -> tuple[float, float]:
        """Width and height without the title, in inches."""

    def draw(self, figure: Any, left: float, top: float, shrink: float) -> None:
        """Draws it at a position of the figure, in inches."""


def activation_panels(
    network: TrainedNetwork, test: Array, numbers: Sequence[int], layer: str | None = None
) -> list[Panel]:
    """Images, each above its activations.

    Args:
      network: the trained network.
      test: the test images, (n, h, w, c), pixels from 0 to 255.
      numbers: indices of the images to show.
      layer: the layer to show; all layers if None.
    """
    images = test[list(numbers)]
    activations = network.activations(images, None if layer is None else [layer])
    panels = []
    for at, number in enumerate(numbers):
        panels.append(pixel_panel(f"image {number}", images[at : at + 1]))
        values = {name: found[at] for name, found in activations.items()}
        panels += [_activation(names, values[names[0]]) for names in _unlike(network.plan, values)]
    return panels


def _unlike(plan: Plan | None, values: Mapping[str, Array]) -> list[list[str]]:
    """Groups layers with equal activations.

    Dropout and noise are inactive after training, and flattening keeps all values.
    """
    groups: dict[str, list[str]] = {}
    for name, own in values.items():
        inputs = plan.by_name[name].inputs if plan else ()
        source = values.get(inputs[0]) if len(inputs) == 1 else None
        same = source is not None and np.array_equal(source.ravel(), own.ravel(), equal_nan=True)
        group = groups[inputs[0]] if same else []
        group.append(name)
        groups[name] = group
    return list({id(group): group for group in groups.values()}.values())


def layer_panels(
    network: TrainedNetwork,
    layer: str,
    test: Array,
    responses: Responses,
    panels: Sequence[Panel],
    most: int,
) -> list[Panel]:
    """Filters of a layer, its activations, and the images that activate its units most.

    Args:
      network: the trained network.
      layer: its name.
      test: the examined images, (n, h, w, c), pixels from 0 to 255.
      responses: result of `activations.examine` for these images.
      panels: placed between the filters and the top images.
      most: maximum number of units, and of input channels of their filters.
    """
    kernel = network.parameters.get(layer, {}).get("kernel")
    examples = _examples(network, layer, test, responses, most)
    return [*_filters(layer, kernel, most), *panels, *examples]


def _filters(layer: str, kernel: Array | None, most: int) -> list[Panel]:
    """Filters by input channel, or the first ones of many."""
    if kernel is None or kernel.ndim != 4:
        return []
    filters = kernel.transpose(3, 2, 0, 1)  # filter, channel, rows, columns
    count, channels = filters.shape[:2]
    title = f"{layer}: {count} filters of {kernel.shape[0]}x{kernel.shape[1]}"
    if channels == 1:
        shown = filters[: max(MOST_TILES, most), 0]
        some = f", the first {len(shown)} of them" if len(shown) < count else ""
        return [_numbered(title + some, shown, "signed")]
    shown = filters[:most, :most]
    if shown.shape[:2] != (count, channels):
        title += f", the first {len(shown)} of them"
    title += f"; rows: filters, columns: {shown.shape[1]} of {channels} input channels"
    tiles = shown.reshape(-1, *kernel.shape[:2])
    rows, heads = (tuple(map(str, range(length))) for length in shown.shape[:2])
    return [Panel(title, tiles, shown.shape[1], "signed", rows, heads)]


def _numbered(title: str, tiles: Array, kind: str) -> Panel:
    """Tiles in rows of 16; row and column labels add up to the index of a tile."""
    first = range(0, len(tiles), TILES_ACROSS)
    rows = tuple(map(str, first)) if len(first) > 1 else ()
    heads = tuple(map(str, range(min(TILES_ACROSS, len(tiles)))))
    return Panel(title, tiles, TILES_ACROSS, kind, rows, heads)


def pixel_panel(title: str, images: Array) -> Panel:
    """Images side by side, (n, h, w, c) from 0 to 255."""
    gray = images.shape[-1] == 1
    tiles = images[..., 0] if gray else images
    return Panel(title, tiles.astype(float), len(tiles), "pixels")


def _activation(names: Sequence[str], values: Array) -> Panel:
    """Activation maps of one image, or a vector in rows of 64 values."""
    kind = "signed" if values.min() < 0 else "values"
    name, size = " = ".join(names), "x".join(map(str, values.shape))
    if values.ndim == 3:
        channels = values.transpose(2, 0, 1)
        some = f", the first {MOST_TILES}" if len(channels) > MOST_TILES else ""
        return _numbered(f"{name} ({size}{some})", channels[:MOST_TILES], kind)
    values = values.ravel()
    width = min(VECTOR_ROW, len(values))
    grid = np.full(-(-len(values) // width) * width, np.nan)
    grid[: len(values)] = values
    every = 1 if width <= TILES_ACROSS else VECTOR_TICK
    heads = tuple("" if number % every else str(number) for number in range(width))
    rows = tuple(map(str, range(0, len(grid), width))) if len(grid) > width else ()
    return Panel(f"{name} ({size})", grid.reshape(1, -1, width), 1, kind, rows, heads)


def _examples(
    network: TrainedNetwork, layer: str, test: Array, responses: Responses, most: int
) -> list[Panel]:
    """The receptive fields that activate each unit most, one row per unit."""
    units, kept = np.sort(responses.strongest[:most]), len(responses.values)
    patches = [
        _patch(network, layer, test[responses.images[e, u]], tuple(responses.places[e, u].tolist()))
        for u in units
        for e in range(kept)
    ]
    height, width = (max(patch.shape[axis] for patch in patches) for axis in (0, 1))
    tiles = np.full((len(patches), height, width, *patches[0].shape[2:]), np.nan)
    for tile, patch in zip(tiles, patches, strict=True):
        tile[: patch.shape[0], : patch.shape[1]] = patch
    total, heads = len(responses.strongest), tuple(str(rank + 1) for rank in range(kept))
    some = f" ({len(units)} of {total} units)" if len(units) < total else ""
    half = len(units) if len(units) < ROWS else -(-len(units) // 2)  # two halves side by side
    panels = []
    for first in range(0, len(units), half):
        chosen = units[first : first + half]
        title = "" if first else f"top activations of {layer}{some}"
        rows = tuple(map(str, chosen))
        part = tiles[kept * first : kept * (first + half)]
        share = 1.0 if half == len(units) else 0.46
        panels.append(Panel(title, part, kept, "pixels", rows, heads, share))
    return panels


def _patch(network: TrainedNetwork, layer: str, image: Array, place: tuple[int, ...]) -> Array:
    """The receptive field of an activation, as pixels; the whole image for a Python model."""
    patch: Array = image.astype(float)
    if network.plan is not None:
        (top, bottom), (left, right) = receptive_field(network.plan, layer, place)
        patch = patch[top : bottom + 1, left : right + 1]
    return patch[..., 0] if patch.shape[-1] == 1 else patch


def page(panels: Sequence[Drawn], title: str, form: str) -> bytes:
    """Draws panels in rows, as many side by side as fit.

    Args:
      panels: what to draw.
      title: above the panels; may be empty.
      form: ``svg`` or ``png``.
    """
    from matplotlib.figure import Figure

    lines = _lines(panels)
    above = 0.45 if title else 0.0
    height = sum(tall for _, tall in lines) + above + 0.15
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS)
    title = clean(title)
    figure.text(LEFT / WIDTH, 1 - 0.3 / height, title, fontsize=12, weight="bold", parse_math=False)
    top = height - above
    for line, tall in lines:
        for panel, left, shrink in line:
            place = left / WIDTH, (top - 0.26) / height
            figure.text(*place, panel.title, fontsize=9, parse_math=False)
            panel.draw(figure, left, top - HEAD, shrink)
        top -= tall
    return rendered(figure, title, form)


_Placed = tuple[Drawn, float, float]


def _lines(panels: Sequence[Drawn]) -> list[tuple[list[_Placed], float]]:
    """Panels with their left edges and scale factors, line by line, and each line's height."""
    lines: list[tuple[list[_Placed], float]] = []
    right = WIDTH
    for panel in panels:
        wide, tall = panel.size()
        needed = max(wide, TITLE_CHARACTER * len(panel.title))
        shrink = min(1.0, (WIDTH - LEFT / 2 - right) / needed)
        if shrink < MOST_SHRUNK:
            lines.append(([], 0.0))
            right, shrink = LEFT, 1.0
        line, height = lines[-1]
        line.append((panel, right, shrink))
        lines[-1] = line, max(height, shrink * tall + HEAD + 0.1)
        right += shrink * needed + BETWEEN + LEFT / 2
    return lines


def reconstructions_png(inputs: Array, outputs: Array) -> bytes:
    """Inputs above their reconstructions, as in the post.

    Args:
      inputs: images, (n, h, w, c), pixels from 0 to 255.
      outputs: their reconstructions, (n, h, w, c).
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


def _pixels(image: Array) -> Pixels:
    """(h, w) for grayscale, (h, w, 3) for color, clipped to 0 to 255."""
    clipped: Pixels = np.clip(image, 0, 255).astype(np.uint8)
    return clipped[..., 0] if clipped.shape[-1] == 1 else clipped


def axes_at(figure: Any, left: float, bottom: float, wide: float, tall: float) -> Any:
    """Adds axes at a position in inches from the lower left."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, wide / width, tall / height))


def _centers(count: int, length: int, gap: int) -> list[float]:
    """Positions of labels along an axis of pixels: the centers of equal parts."""
    return [(i + 0.5) * (length + gap) / count - (gap + 1) / 2 for i in range(count)]


def _color_scale(figure: Any, shown: Any, bar: Any) -> None:
    """A color bar with ticks at its ends and at zero."""
    low, high = shown.get_clim()
    figure.colorbar(shown, cax=bar)
    ticks = sorted({low, high} | ({0.0} if low < 0 < high else set()))
    bar.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks], fontsize=6.5)
    bar.tick_params(length=2, pad=1.5)


def _colors(kind: str, tiles: Array) -> dict[str, Any]:
    import matplotlib as mpl

    if kind == "pixels":
        gray = mpl.colormaps["gray"].with_extremes(bad=GAP)
        return {"cmap": gray, "vmin": 0, "vmax": 255}
    finite = tiles[np.isfinite(tiles)]
    least, most = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if kind == "signed":
        largest = max(-least, most) or 1.0
        return {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    return {"cmap": "viridis", "vmin": least, "vmax": most}


def latent_panels(network: TrainedNetwork, test: Split, ends: tuple[int, int]) -> Iterator[Drawn]:
    """Yields all panels that apply to an autoencoder.

    Args:
      network: a trained network that is a graph of layers.
      test: the test images.
      ends: indices of the images to interpolate between.
    """
    images, scale = test.images[:SHOWN], network.experiment.dataset.pixel_scale
    outputs = network.outputs(images) * scale
    yield _image_rows("test images and their reconstructions", images, outputs)
    if denoised := denoise(network, images):
        lines = (images, denoised.noisy, denoised.outputs)
        yield _image_rows("corrupted as in training", *lines, labels=("clean", "noisy", "output"))
    if (steps := walk(network, test.images[list(ends)])) is not None:
        one, other = (f"test image {n}{_of_class(network, test.labels[n])}" for n in ends)
        yield _image_tiles(f"latent interpolation from {one} to {other}", steps, STEPS)
    if (drawn := from_prior(network)) is not None:
        yield _image_tiles(f"{SAMPLES} samples from the prior", drawn, 10)
    if (found := _plane(network, test)) is not None:
        yield found


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars of a histogram, those of each split in its own color.

    Args:
      title: above it.
      ends: the ends of the axis.
      counts: images in each bin, by split.
    """

    title: str
    ends: tuple[float, float]
    counts: Mapping[str, Sequence[int]]

    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        return WIDTH - 1.5 * LEFT, HISTOGRAM

    def draw(self, figure: Any, left: float, top: float, shrink: float) -> None:
        """Draws the bars; arguments as for a `Panel`."""
        wide, tall = shrink * (WIDTH - 3 * LEFT), HISTOGRAM - BELOW
        axes = axes_at(figure, left + 0.2, top - tall, wide, tall)
        base = np.zeros(len(next(iter(self.counts.values()))), np.int64)
        edges = np.linspace(*self.ends, len(base) + 1)
        for number, (split, counts) in enumerate(self.counts.items()):
            look: Any = {"width": np.diff(edges), "align": "edge", "color": f"C{number}"}
            axes.bar(edges[:-1], counts, bottom=base, label=split, **look)
            base = base + np.array(counts)
        axes.legend(frameon=False, fontsize=7)
        axes.set_ylabel("images", fontsize=7, labelpad=2)
        axes.tick_params(labelsize=6.5, length=2, pad=2)


def _of_class(network: TrainedNetwork, label: Array) -> str:
    """The class of an image in parentheses; empty if it has targets or several labels."""
    return f" ({network.record.dataset.class_name(int(label))})" if label.ndim == 0 else ""


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Plane:
    """A two-dimensional latent space: decoded grid and scatter plot on the same axes.

    Args:
      title: above both.
      images: (n, h, w) or (n, h, w, 3), rows from the top, pixels from 0 to 255.
      places: codes of test images, (m, 2).
      labels: their classes, (m,).
      names: names of all classes that occur among them.
      reach: both axes range from -reach to reach.
    """

    title: str
    images: Array
    places: Array
    labels: Array
    names: Mapping[int, str]
    reach: float

    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        return WIDTH - 1.5 * LEFT, PLANE + BELOW

    def draw(self, figure: Any, left: float, top: float, shrink: float) -> None:
        """Draws both plots side by side; arguments as for a `Panel`."""
        side = shrink * PLANE
        boxes = [(left + 0.25 + i * (side + 0.5), top - side, side, side) for i in (0, 1)]
        decoded, points = (axes_at(figure, *box) for box in boxes)
        picture = mosaic(self.images, SIDE, gap=0) / 255
        ends = (-self.reach, self.reach)
        decoded.imshow(np.clip(picture, 0, 1), extent=(*ends, *ends), cmap="gray", vmin=0, vmax=1)
        for label in np.unique(self.labels):
            of_class = self.places[self.labels == label]
            look: Any = {"s": 3, "color": f"C{label % 10}", "linewidths": 0}
            points.scatter(of_class[:, 0], of_class[:, 1], label=self.names[int(label)], **look)
        names = {"title": "class", "title_fontsize": 7, "fontsize": 7, "markerscale": 2.5}
        points.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, **names)
        for axes in (decoded, points):
            axes.set(xlim=ends, ylim=ends, aspect="equal")
            axes.tick_params(labelsize=6.5, length=2, pad=2)
            axes.set_xlabel("latent dimension 1", fontsize=7, labelpad=2)
        decoded.set_ylabel("latent dimension 2", fontsize=7, labelpad=1)


def _plane(network: TrainedNetwork, test: Split) -> Plane | None:
    if not has_plane(network):
        return None
    places = codes(network, test.images[:MOST_POINTS])
    reach = max(LEAST_REACH, math.ceil(2 * float(np.abs(places).max())) / 2)
    images = plane(network, reach)
    assert images is not None
    title = f"latent space: decoded grid, and codes of {len(places):,} test images by class"
    flat = _flat(np.clip(images, 0, 255))
    labels, names = test.labels[:MOST_POINTS], {0: "all"}
    if labels.ndim > 1:  # several labels: points of one color
        labels = np.zeros(len(labels), np.int32)
    else:
        names = {n: network.record.dataset.class_name(n) for n in np.unique(labels).tolist()}
    return Plane(title, flat, places, labels, names, reach)


def _image_rows(title: str, *lines: Array, labels: tuple[str, ...] = ("input", "output")) -> Panel:
    stacked = np.concatenate([np.clip(line.astype(float), 0, 255) for line in lines])
    return Panel(title, _flat(stacked), len(lines[0]), "pixels", labels)


def _image_tiles(title: str, images: Array, columns: int) -> Panel:
    return Panel(title, _flat(np.clip(images, 0, 255)), columns, "pixels")


def _flat(images: Array) -> Array:
    return images[..., 0] if images.shape[-1] == 1 else images
