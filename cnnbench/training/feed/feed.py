"""Feeds the device with the batches of a streamed dataset.

Worker processes decode images; a thread assembles batches and moves them to the device, a few ahead
of the training. The order is that of `epoch_order`, so that all numbers are those of a dataset in
memory.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import Rows, joined
from cnnbench.data.streaming.loader import TaskResult, results
from cnnbench.data.streaming.schedule import ALL, ITEM_BYTES, BatchParts, BatchSchedule, Share
from cnnbench.system.arrays import Pixels
from cnnbench.system.buffers import mapped
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.feed.ahead import Ahead
from cnnbench.training.state import Arrays

_AHEAD_BYTES = 64 * 2**20  # of batches that are prepared in advance
_MOST_AHEAD = 3  # batches

Place = Callable[[Arrays], Arrays]  # puts images and labels on the devices
Idle = Callable[[], object]  # waits until the device has finished all steps


class Fed(NamedTuple):
    """A batch on the device.

    Args:
      arrays: its images and labels, padded to the size that the program was compiled for. If
        several processes train together, each has a part of the images on its devices.
      indices: their numbers among all images of the dataset, (batch,), without padding.
    """

    arrays: Arrays
    indices: NDArray[np.int32]


class BatchPlace(NamedTuple):
    """A batch of a seed.

    Args:
      seed: the seed.
      split: `TRAIN`, `VALIDATION` or `TEST`.
      epoch: number of the epoch, from 1.
      number: number of the batch in the epoch and split, from 0.
    """

    seed: int
    split: int
    epoch: int
    number: int = 0


class Feed:
    """Batches of a seed, in the order in which training needs them.

    Batches are prepared in this order; if another one is asked for than the next, the worker
    processes are restarted there.

    Args:
      dataset: a streamed dataset.
      schedule: makes the schedule of a seed.
      workers: number of worker processes.
      watch: measures what the device waited, as `data_s`.
      place: puts arrays on the devices.
      share: the images of a batch that this process decodes.
    """

    def __init__(
        self,
        dataset: Dataset,
        schedule: Callable[[int], BatchSchedule],
        workers: int,
        watch: Stopwatch,
        place: Place,
        share: Share = ALL,
    ) -> None:
        self._dataset, self._schedule, self._workers = dataset, schedule, workers
        self._watch, self._place, self.share = watch, place, share
        every = joined(dataset.stored)
        self._images: Any = every.images  # StreamedImages
        self._labels = every.labels
        self._ahead: Ahead[Fed] | None = None
        self._next: tuple[int, int]  # seed, and place in its schedule

    def start(self, wanted: BatchPlace) -> None:
        """Starts to prepare batches, from one on."""
        seed, *batch = wanted
        schedule = self._schedule(seed)
        place = schedule.place(*batch)
        if self._ahead and self._next == (seed, place):
            return
        self.close()
        self._next = (seed, place)
        prepare = partial(self._prepared, schedule, place)
        self._ahead = Ahead(prepare, _num_ahead(self._images.shape, schedule))

    def batches(self, first: BatchPlace, count: int, idle: Idle) -> Iterator[Fed]:
        """Batches on the device.

        Args:
          first: the first one.
          count: their number; all of the same epoch and split.
          idle: waits until the device has finished; called before it waits for a batch, so that
            `data_s` has only the time in which the device was idle.

        Raises:
          DataError: an image cannot be read.
        """
        for number in range(first.number, first.number + count):
            self.start(first._replace(number=number))
            assert self._ahead is not None
            if not self._ahead.ready:
                idle()
            with self._watch.part("data_s"):
                fed = self._ahead.take()
            seed, place = self._next
            self._next = (seed, place + 1)
            yield fed

    def images_at(self, indices: NDArray[np.int32]) -> Arrays:
        """Arrays with some images, without preparing any in advance.

        Args:
          indices: their numbers among all images of the dataset, (n,).
        """
        pixels = np.asarray(self._images[indices])
        images, labels = _padded(pixels, self.share.padded(len(pixels))), self._labels[indices]
        return self._place(Arrays(images, labels))  # type: ignore[arg-type]  # not placed yet

    def close(self) -> None:
        """Ends the thread and the worker processes."""
        if self._ahead:
            self._ahead.close()
            self._ahead = None

    @contextmanager
    def _prepared(self, schedule: BatchSchedule, start: int) -> Iterator[Iterator[Fed]]:
        rows, labels = self._dataset.rows(schedule.seed), self._dataset.labels(schedule.seed)
        places = [self._images.indices[own] for own in rows]
        parts = BatchParts.of(schedule, self._images.reader, places, self.share)
        sizes = {"item_bytes": 2 * ITEM_BYTES, "start": start * parts.parts}
        with results(parts, workers=self._workers, **sizes) as found:
            yield (
                self._fed(schedule, place, rows, labels, islice(found, parts.parts))
                for place in range(start, len(schedule))
            )

    def _fed(
        self,
        schedule: BatchSchedule,
        place: int,
        rows: Rows,
        every: NDArray[Any],
        parts: Iterator[TaskResult],
    ) -> Fed:
        batch = schedule.batch(place)
        indices = rows[batch.split][schedule.rows(batch)]
        size = schedule.whole(batch)
        pixels = (part["images"] for part in parts if "images" in part)
        images = _joined(pixels, self.share.padded(size), self.share.own(size))
        labels = _padded(every[indices], size)
        arrays: Any = Arrays(images, labels)  # type: ignore[arg-type]  # not on the device yet
        return Fed(jax.block_until_ready(self._place(arrays)), indices)


def _num_ahead(shape: Sequence[int], schedule: BatchSchedule) -> int:
    """Number of batches to prepare in advance, of images of this shape."""
    largest = max(schedule.batch_size, schedule.chunk) * math.prod(shape[1:])
    return max(1, min(_MOST_AHEAD, _AHEAD_BYTES // largest))


def _joined(parts: Iterator[Pixels], size: int, own: slice) -> Pixels:
    """The parts of a batch, with the last image repeated to a fixed number of images.

    Each part is copied as soon as it is decoded. JAX does not copy the result for devices that are
    cores of the CPU: they share its memory. Places of other processes are never written, and take
    no memory.

    Args:
      parts: the images in parts.
      size: number of images of the result.
      own: places of this process.
    """
    first = next(parts)
    images, end = mapped((size, *first.shape[1:]), np.uint8), own.start
    for part in chain([first], parts):
        images[end : end + len(part)] = part
        end += len(part)
    images[end : own.stop] = images[end - 1]
    return images


def _padded(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Values repeated at the end, to a fixed number."""
    missing = [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, missing, mode="edge")
