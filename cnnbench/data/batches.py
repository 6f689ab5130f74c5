"""The order in which training visits images: the same on every device and in every framework."""

from typing import Any

import numpy as np


def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The order in which an epoch visits the images: (num_images,) indices.

    It comes from NumPy's PCG64 with ``[seed, epoch]``; epochs count from 1.

    >>> sorted(epoch_order(seed=0, epoch=1, num_images=5).tolist())
    [0, 1, 2, 3, 4]
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_images)
    return order.astype(np.int32)


def batches(
    seed: int, epoch: int, num_images: int, batch_size: int
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The batches of an epoch in their order: (steps, batch_size) indices.

    Images that fill no batch wait for the next shuffle.

    >>> batches(seed=0, epoch=1, num_images=5, batch_size=2).shape
    (2, 2)
    """
    num_steps = num_images // batch_size
    order = epoch_order(seed, epoch, num_images)[: num_steps * batch_size]
    return order.reshape(num_steps, batch_size)
