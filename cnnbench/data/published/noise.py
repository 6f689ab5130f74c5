"""`random/HEIGHTxWIDTHxCHANNELS/CLASSES`: noise, for the shapes and speed of any input size.

It replaces data that is not here, such as ImageNet's, like torchvision's `FakeData`.
"""

import math

import numpy as np

from cnnbench.data.catalog import NUM_NOISE, DatasetInfo
from cnnbench.system.arrays import Array, NamedArrays

_SEED = 1_200  # arbitrary, but must never change


def load_noise(info: DatasetInfo) -> NamedArrays:
    """Generates uniform noise with labels in turn; the same on every call.

    Returns:
      Images, uint8 (n, h, w, c), and labels, int32 (n,), of the training and test set.
    """
    bits = np.random.PCG64(_SEED)
    arrays: dict[str, Array] = {}
    for split, num in NUM_NOISE.items():
        size = num * math.prod(info.shape)
        pixels = bits.random_raw(-(-size // 8)).view(np.uint8)[:size].reshape(num, *info.shape)
        labels = np.arange(num, dtype=np.int32) % info.num_classes
        arrays |= {f"{split}_images": pixels, f"{split}_labels": labels}
    return arrays
