"""Pictures of what an autoencoder makes of images, codes and chance."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.data import Split
from cnnbench.inspection_plots import Panel
from cnnbench.latent import SAMPLES, SIDE, STEPS, codes, denoise, from_prior, plane, walk
from cnnbench.trained import TrainedNetwork

MOST_POINTS = 2_000  # test images in the plane
SHOWN = 10  # images reconstructed

Array = NDArray[Any]


def latent_panels(network: TrainedNetwork, test: Split, ends: tuple[int, int]) -> Iterator[Panel]:
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
    if (spread := plane(network)) is not None:
        yield _tiles("the plane of codes, decoded; steps equally likely", spread, SIDE)
        places = codes(network, test.images[:MOST_POINTS])
        title = "the same plane: the codes of test images, by class"
        yield Panel(title, _scatter(places, test.labels[:MOST_POINTS])[None], 1, "picture")


def _lines(title: str, *lines: Array, labels: tuple[str, ...] = ("input", "output")) -> Panel:
    stacked = np.concatenate([np.clip(line.astype(float), 0, 255) for line in lines])
    return Panel(title, _flat(stacked), len(lines[0]), "pixels", labels)


def _tiles(title: str, images: Array, columns: int) -> Panel:
    return Panel(title, _flat(np.clip(images, 0, 255)), columns, "pixels")


def _flat(images: Array) -> Array:
    return images[..., 0] if images.shape[-1] == 1 else images


def _scatter(places: Array, labels: Array) -> NDArray[np.float64]:
    """Points in colours of their classes, (h, w, 3), from 0 to 255."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(6, 5), dpi=150)
    axes = figure.add_subplot()
    for label in np.unique(labels):
        points = places[labels == label]
        look: Any = {"s": 5, "color": f"C{label % 10}", "linewidths": 0}
        axes.scatter(points[:, 0], points[:, 1], label=str(label), **look)
    axes.set_xlabel("first number of the code")
    axes.set_ylabel("second number")
    axes.set_aspect("equal")
    axes.legend(title="class", markerscale=3, loc="center left", bbox_to_anchor=(1.0, 0.5))
    content = io.BytesIO()
    figure.savefig(content, format="png", bbox_inches="tight")
    return np.asarray(Image.open(content).convert("RGB"), np.float64)
