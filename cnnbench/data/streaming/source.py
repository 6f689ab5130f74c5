"""Decides whether a dataset is streamed, and decodes it once before the first epoch."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.streaming.images import ImageReader, StreamedImages
from cnnbench.data.streaming.loader import require_grain
from cnnbench.data.streaming.statistics import compute_statistics, statistics_of
from cnnbench.errors import Notify
from cnnbench.formatting import bytes_text
from cnnbench.system.cache import CacheEntry
from cnnbench.system.host import free_bytes, num_cpus
from cnnbench.system.progress import counted

StreamingMode = Literal["auto"] | bool  # dataset.streaming
COPIES = 3  # in memory without streaming: as decoded, in their splits, and on the device
MOST_WORKERS = 16
_SMALL = 2**30  # bytes that are not worth asking the device for


@runtime_checkable
class Streamable(Protocol):
    """Files of the user whose images can be read one at a time."""

    def reader(self) -> tuple[ImageReader, str]:
        """Decodes images when they are needed; also returns the cache key of their statistics.

        Raises:
          DataError: the files are not such a dataset.
        """


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How images are streamed; has no effect on the numbers.

    Args:
      workers: number of worker processes; None for one per core, at most `MOST_WORKERS`.
      device_memory: available memory of the device in bytes; None on a CPU.
      prepare: called before Grain is imported, which imports JAX.
    """

    workers: int | None = None
    device_memory: Callable[[], int | None] = lambda: None
    prepare: Callable[[], object] = lambda: None

    @property
    def num_workers(self) -> int:
        """Number of worker processes."""
        return self.workers or min(num_cpus(), MOST_WORKERS)


DEFAULTS = StreamOptions()


def streams(
    wanted: StreamingMode, source: object, info: DatasetInfo, options: StreamOptions, notify: Notify
) -> bool:
    """Returns True if a dataset is streamed.

    Args:
      wanted: `dataset.streaming`.
      source: the files.
      info: number and shape of the images.
      options: memory of the device.
      notify: called with the reason, if `wanted` is auto.

    Raises:
      DataError: it has to be streamed, and Grain is not installed.
    """
    if not wanted or not isinstance(source, Streamable):
        return False
    if wanted is True:
        options.prepare()
        require_grain("dataset.streaming")
        return True
    size = ((info.num_train or 0) + (info.num_test or 0)) * prod(info.shape)
    free = free_bytes()
    if size > _SMALL:
        options.prepare()
    device = options.device_memory() if size > _SMALL else None
    if free is not None and COPIES * size > free:
        have = f"{bytes_text(free)} of memory"
    elif device is not None and size > device:
        have = f"{bytes_text(device)} of memory of the device"
    else:
        return False
    what = f"dataset '{info.name}': {bytes_text(size)} of decoded images, with {have} available,"
    options.prepare()
    require_grain(f"{what} have to be streamed, which")
    notify(f"{what} are streamed.")
    return True


@dataclass(frozen=True, slots=True, eq=False)
class DecodedOnce:
    """Images whose statistics are cached like decoded images.

    Args:
      reader: decodes the images.
      skip: skip unreadable images.
      workers: number of worker processes.
    """

    reader: ImageReader
    skip: bool
    workers: int

    def decode(self, key: str, notify: Notify) -> CacheEntry:
        """Decodes every image once.

        Raises:
          DataError: an image cannot be read.
        """
        total = len(self.reader)
        notify(f"Decoding {total:,} images once, to check them and to compute their digest.")
        with counted("decoded", total) as count:
            found = compute_statistics(
                self.reader, skip=self.skip, workers=self.workers, progress=count
            )
        return CacheEntry(found.arrays, "their statistics", key)

    def images(self, entry: CacheEntry) -> CacheEntry:
        """The readable images, as if they were decoded.

        Args:
          entry: result of `decode`, or its copy from the cache.
        """
        known = statistics_of(entry)
        readable = np.delete(np.arange(len(self.reader)), known.broken)
        images: Any = StreamedImages(self.reader, readable, known)
        return CacheEntry({"images": images, "broken": known.broken}, "", entry.key)
