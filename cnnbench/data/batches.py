"""The shuffle of training images, identical on every device and in every framework."""

from typing import Any

import numpy as np


def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Shuffled image indices of an epoch, shape (num_images,).

    Drawn with NumPy's PCG64, seeded with ``[seed, epoch]``; epochs are numbered from 1.

    >>> sorted(epoch_order(seed=0, epoch=1, num_images=5).tolist())
    [0, 1, 2, 3, 4]
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_images)
    return order.astype(np.int32)


def batches(
    seed: int, epoch: int, num_images: int, batch_size: int
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Image indices of the batches of an epoch, shape (steps, batch_size).

    An incomplete last batch is dropped.

    >>> batches(seed=0, epoch=1, num_images=5, batch_size=2).shape
    (2, 2)
    """
    num_steps = num_images // batch_size
    order = epoch_order(seed, epoch, num_images)[: num_steps * batch_size]
    return order.reshape(num_steps, batch_size)


def last_batch(
    seed: int, epoch: int, num_images: int, batch_size: int
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Image indices of the incomplete last batch of an epoch, which `batches` drops.

    >>> last_batch(seed=0, epoch=1, num_images=5, batch_size=2).shape
    (1,)
    """
    start = num_images // batch_size * batch_size
    return epoch_order(seed, epoch, num_images)[start:]
