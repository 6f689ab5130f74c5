"""Images that are decoded whenever they are read, as an array that is not in memory."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnbench.system.arrays import Pixels
from cnnbench.system.host import num_cpus


class ImageReader(Protocol):
    """Random access to all images of a dataset; pickled for every worker process."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> Pixels:
        """Decodes an image.

        Raises:
          DataError: it cannot be read.
        """


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class ImageStatistics:
    """What is known of all images of a dataset after each of them was decoded once.

    Args:
      digests: SHA-256 of the pixels of each image, uint8 (n, 32).
      sums: sum of the pixels of each channel, int64 (n, channels).
      squares: sum of their squares, int64 (n, channels).
      broken: indices of the unreadable images, int64 (k,).
    """

    digests: NDArray[np.uint8]
    sums: NDArray[np.int64]
    squares: NDArray[np.int64]
    broken: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class StreamedImages:
    """Images of a dataset that are not in memory, (n, height, width, channels).

    Indexing with a slice or an array selects images without reading them, and an index reads one
    image. NumPy functions read all of them, in threads.

    Args:
      reader: decodes the images.
      indices: numbers of the images for the reader, int64 (n,).
      statistics: digests and statistics of all images of the reader; None if they are not known.
    """

    reader: ImageReader
    indices: NDArray[np.int64]
    statistics: ImageStatistics | None = None
    dtype: ClassVar[np.dtype[np.uint8]] = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number, height, width and channels."""
        return (len(self), *self.reader.shape)

    @property
    def ndim(self) -> int:
        """Number of axes, as of an array."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded images."""
        height, width, channels = self.reader.shape
        return len(self) * height * width * channels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Any) -> Any:
        found = self.indices[key]
        return replace(self, indices=found) if np.ndim(found) else self.reader.read(int(found))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self.read()
        return pixels if dtype is None else pixels.astype(dtype)

    def astype(self, dtype: Any) -> NDArray[Any]:
        """The decoded images with another dtype."""
        return self.read().astype(dtype)

    def read(self) -> Pixels:
        """Decodes all images, in threads.

        Raises:
          DataError: an image cannot be read.
        """
        pixels = np.empty(self.shape, np.uint8)

        def put(place: int) -> None:
            pixels[place] = self.reader.read(int(self.indices[place]))

        with warnings.catch_warnings(), ThreadPoolExecutor(num_cpus()) as pool:
            warnings.simplefilter("ignore")  # of Pillow
            for _ in pool.map(put, range(len(self))):
                pass
        return pixels

    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 of the pixels of each image, uint8 (n, 32)."""
        return self._known.digests[self.indices]

    def channel_sums(self) -> tuple[int, Sequence[int], Sequence[int]]:
        """Number of pixels per channel, and by channel the sum of their values and squares."""
        height, width, _ = self.reader.shape
        sums, squares = self._known.sums[self.indices], self._known.squares[self.indices]
        return len(self) * height * width, sums.sum(axis=0).tolist(), squares.sum(axis=0).tolist()

    @property
    def _known(self) -> ImageStatistics:
        if self.statistics is None:
            raise RuntimeError("the images have no statistics")
        return self.statistics


def concatenated(parts: Sequence[Any]) -> Any:
    """Images of several splits, one after another: arrays, or streamed images of one reader."""
    first = parts[0]
    if not isinstance(first, StreamedImages):
        return np.concatenate(parts)
    return replace(first, indices=np.concatenate([part.indices for part in parts]))
