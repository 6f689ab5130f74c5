"""Decodes every image of a dataset once, before the first epoch.

Finds unreadable images, and computes what would otherwise need all images in memory: the digest of
the dataset, and the mean and standard deviation of its channels.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.streaming.images import ImageReader, ImageStatistics
from cnnbench.data.streaming.loader import TaskResult, results
from cnnbench.errors import DataError
from cnnbench.system.cache import CacheEntry

_CHUNK = 64  # images of an item


def image_digests(images: Any) -> NDArray[np.uint8]:
    """SHA-256 of the pixels of each image, uint8 (n, 32).

    Args:
      images: uint8, (n, height, width, channels).
    """
    found = (hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images)
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, hashlib.sha256().digest_size)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """The images of a reader, a chunk at a time: what worker processes compute."""

    reader: ImageReader
    skip: bool

    def __len__(self) -> int:
        return math.ceil(len(self.reader) / _CHUNK)

    def __getitem__(self, number: int) -> TaskResult:
        start = number * _CHUNK
        indices = range(start, min(start + _CHUNK, len(self.reader)))
        rows, broken = [], []
        for index in indices:
            try:
                rows.append(_row(self.reader.read(index)))
            except DataError:
                if not self.skip:
                    raise
                broken.append(index)
                rows.append(_row(np.zeros(self.reader.shape, np.uint8)))
        digests, sums, squares = map(np.stack, zip(*rows, strict=True))
        return {
            "digests": digests,
            "sums": sums,
            "squares": squares,
            "broken": np.array(broken, np.int64),
        }


def _row(pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Digest, and by channel the sum and the sum of squares, of one image."""
    counts = [
        np.bincount(channel, minlength=256) for channel in pixels.reshape(-1, pixels.shape[-1]).T
    ]
    levels = np.arange(256)
    sums = np.array([np.dot(count, levels) for count in counts], np.int64)
    squares = np.array([np.dot(count, levels**2) for count in counts], np.int64)
    return image_digests(pixels[None])[0], sums, squares


def compute_statistics(
    reader: ImageReader, *, skip: bool, workers: int, progress: Callable[[int], None]
) -> CacheEntry:
    """Decodes all images once, in worker processes.

    Args:
      reader: decodes the images.
      skip: note unreadable images instead of raising an error.
      workers: number of processes.
      progress: called with the number of images that are done.

    Returns:
      The arrays of a `ImageStatistics`, for the cache.

    Raises:
      DataError: an image cannot be read, or Grain is not installed.
    """
    chunks = _Chunks(reader, skip)
    with results(chunks, workers=workers, item_bytes=_CHUNK * 100) as found:
        items = list(_counted(found, len(reader), progress))
    return CacheEntry({name: np.concatenate([i[name] for i in items]) for name in items[0]}, "")


def _counted(
    found: Iterator[TaskResult], total: int, progress: Callable[[int], None]
) -> Iterator[TaskResult]:
    for number, item in enumerate(found, 1):
        yield item
        progress(min(number * _CHUNK, total))


def statistics_of(entry: CacheEntry) -> ImageStatistics:
    """The statistics in a cache entry."""
    return ImageStatistics(**entry.arrays)
