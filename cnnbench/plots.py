"""Pictures, made with matplotlib and returned as bytes."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(h, w) for grey images, (h, w, 3) for colour, clipped to what a screen shows."""
    clipped: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return clipped[..., 0] if clipped.shape[-1] == 1 else clipped
