"""Pictures of what an autoencoder makes of images, codes and chance."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

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
from cnnbench.data.dataset import Split
from cnnbench.report.plots.image_grid import LEFT, WIDTH, Drawn, Panel, axes_at
from cnnbench.report.plots.png import mosaic
from cnnbench.system.arrays import Array

MOST_POINTS = 2_000  # test images in the plane
SHOWN = 10  # images reconstructed
PLANE, BELOW = 3.1, 0.35  # inches: side of the plane of codes, room for the axis below it
LEAST_REACH = 3.0  # standard deviations of the prior


def latent_panels(network: TrainedNetwork, test: Split, ends: tuple[int, int]) -> Iterator[Drawn]:
    """Whatever can be shown of a network that reconstructs.

    Args:
      network: a trained network, a graph of layers.
      test: the test images.
      ends: numbers of the images that the walk begins and ends with.
    """
    images, scale = test.images[:SHOWN], network.experiment.dataset.pixel_scale
    outputs = network.outputs(images) * scale
    yield _lines("test images, and what the network makes of them", images, outputs)
    if denoised := denoise(network, images):
        lines = (images, denoised.noisy, denoised.outputs)
        yield _lines("disturbed as in training", *lines, labels=("clean", "noisy", "output"))
    if (steps := walk(network, test.images[list(ends)])) is not None:
        one, other = (f"test image {n} (a {test.labels[n]})" for n in ends)
        yield _tiles(f"a straight walk between the codes of {one} and {other}", steps, STEPS)
    if (drawn := from_prior(network)) is not None:
        yield _tiles(f"{SAMPLES} samples from the prior", drawn, 10)
    if (found := _plane(network, test)) is not None:
        yield found


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Plane:
    """The plane of a code of two numbers, decoded and as points, on the same axes.

    Args:
      title: stands above both.
      images: (n, h, w) or (n, h, w, 3), rows from the top, pixels from 0 to 255.
      places: codes of test images, (m, 2).
      labels: their classes, (m,).
      reach: both axes go from minus this to this.
    """

    title: str
    images: Array
    places: Array
    labels: Array
    reach: float

    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        return WIDTH - 1.5 * LEFT, PLANE + BELOW

    def draw(self, figure: Any, left: float, top: float, shrink: float) -> None:
        """Draws both planes side by side; `shrink` is their scale, the rest as for a `Panel`."""
        side = shrink * PLANE
        boxes = [(left + 0.25 + i * (side + 0.5), top - side, side, side) for i in (0, 1)]
        decoded, points = (axes_at(figure, *box) for box in boxes)
        picture = mosaic(self.images, SIDE, gap=0) / 255
        ends = (-self.reach, self.reach)
        decoded.imshow(np.clip(picture, 0, 1), extent=(*ends, *ends), cmap="gray", vmin=0, vmax=1)
        for label in np.unique(self.labels):
            of_class = self.places[self.labels == label]
            look: Any = {"s": 3, "color": f"C{label % 10}", "linewidths": 0}
            points.scatter(of_class[:, 0], of_class[:, 1], label=str(label), **look)
        names = {"title": "class", "title_fontsize": 7, "fontsize": 7, "markerscale": 2.5}
        points.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, **names)
        for axes in (decoded, points):
            axes.set(xlim=ends, ylim=ends, aspect="equal")
            axes.tick_params(labelsize=6.5, length=2, pad=2)
            axes.set_xlabel("code, first number", fontsize=7, labelpad=2)
        decoded.set_ylabel("code, second number", fontsize=7, labelpad=1)


def _plane(network: TrainedNetwork, test: Split) -> Plane | None:
    if not has_plane(network):
        return None
    places = codes(network, test.images[:MOST_POINTS])
    reach = max(LEAST_REACH, math.ceil(2 * float(np.abs(places).max())) / 2)
    images = plane(network, reach)
    assert images is not None
    title = f"the plane of codes: decoded, and the codes of {len(places):,} test images by class"
    flat = _flat(np.clip(images, 0, 255))
    return Plane(title, flat, places, test.labels[:MOST_POINTS], reach)


def _lines(title: str, *lines: Array, labels: tuple[str, ...] = ("input", "output")) -> Panel:
    stacked = np.concatenate([np.clip(line.astype(float), 0, 255) for line in lines])
    return Panel(title, _flat(stacked), len(lines[0]), "pixels", labels)


def _tiles(title: str, images: Array, columns: int) -> Panel:
    return Panel(title, _flat(np.clip(images, 0, 255)), columns, "pixels")


def _flat(images: Array) -> Array:
    return images[..., 0] if images.shape[-1] == 1 else images
