"""Array files as other libraries write them."""

from pathlib import Path
from typing import Any

import numpy as np


def keras_npz(folder: Path, images: Any, labels: Any, **more: Any) -> Path:
    """A file as Keras' mnist.npz, of 12 images: the last third is for testing."""
    path = folder / "data.npz"
    np.savez(
        path,
        x_train=images[:8],
        y_train=labels[:8],
        x_test=images[8:],
        y_test=labels[8:],
        allow_pickle=True,
        **more,
    )
    return path
