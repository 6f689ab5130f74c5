"""The order in which the images of a training are needed."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.batches import epoch_order
from cnnbench.data.streaming.images import ImageReader
from cnnbench.data.streaming.loader import TaskResult

TRAIN, VALIDATION, TEST = range(3)
ITEM_BYTES = 8 * 2**20  # of the images that a worker process decodes at a time


class Batch(NamedTuple):
    """A batch, or a chunk of images for evaluation.

    Args:
      split: `TRAIN`, `VALIDATION` or `TEST`.
      epoch: number of the epoch, from 1, which determines the order of training images.
      start: place of its first image in that order, or in the split.
      size: number of images.
    """

    split: int
    epoch: int
    start: int
    size: int


class Share(NamedTuple):
    """The part of every batch that this process decodes, one of those that train together.

    A batch is padded so that all devices have equal parts of it. The part of a process is that of
    its devices, which are next to each other.

    Args:
      first: number of the first device of this process.
      stop: number after its last device.
      devices: number of devices of all processes.
    """

    first: int = 0
    stop: int = 1
    devices: int = 1

    def padded(self, size: int) -> int:
        """Number of images of a batch that is padded.

        >>> Share(1, 2, 4).padded(10)
        12
        """
        return -(-size // self.devices) * self.devices

    def own(self, size: int) -> slice:
        """Places of this process in a padded batch.

        >>> Share(1, 2, 4).own(10)
        slice(3, 6, None)
        """
        each = self.padded(size) // self.devices
        return slice(self.first * each, self.stop * each)

    def decoded(self, size: int, known: int) -> slice:
        """The images that this process decodes; at least one, with which it fills its part.

        Args:
          size: images of a whole batch.
          known: images that there are.

        >>> [Share(place, place + 1, 4).decoded(10, 5) for place in range(4)]
        [slice(0, 3, None), slice(3, 5, None), slice(4, 5, None), slice(4, 5, None)]
        """
        own = self.own(size)
        return slice(min(own.start, known - 1), min(own.stop, known))


ALL = Share()


@dataclass(frozen=True, slots=True)
class BatchSchedule:
    """All batches of a seed: in each epoch those for training and validation, at last for testing.

    Args:
      seed: the seed.
      epochs: number of epochs.
      sizes: number of training, validation and test images.
      batch_size: images of a batch, at most the number of training images.
      chunk: images that are evaluated at a time.
      drop_last: drop the incomplete last batch.
    """

    seed: int
    epochs: int
    sizes: tuple[int, int, int]
    batch_size: int
    chunk: int
    drop_last: bool

    def __len__(self) -> int:
        return self.epochs * self.per_epoch + math.ceil(self.sizes[TEST] / self.chunk)

    @property
    def num_steps(self) -> int:
        """Training batches of an epoch."""
        whole = math.floor if self.drop_last else math.ceil
        return whole(self.sizes[TRAIN] / self.batch_size)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch, for training and validation."""
        return self.num_steps + math.ceil(self.sizes[VALIDATION] / self.chunk)

    def place(self, split: int, epoch: int, number: int) -> int:
        """Place of a batch among all.

        Args:
          split: `TRAIN`, `VALIDATION` or `TEST`.
          epoch: number of the epoch, from 1; ignored for `TEST`.
          number: number of the batch in the epoch and split, from 0.
        """
        if split == TEST:
            return self.epochs * self.per_epoch + number
        start = (epoch - 1) * self.per_epoch
        return start + number + (self.num_steps if split == VALIDATION else 0)

    def batch(self, place: int) -> Batch:
        """The batch at a place."""
        epoch, number = divmod(place, self.per_epoch)
        if epoch >= self.epochs:
            split, number = TEST, place - self.epochs * self.per_epoch
        elif number >= self.num_steps:
            split, number = VALIDATION, number - self.num_steps
        else:
            split = TRAIN
        size = self.batch_size if split == TRAIN else self.chunk
        start = number * size
        return Batch(split, epoch + 1, start, min(size, self.sizes[split] - start))

    def whole(self, batch: Batch) -> int:
        """Number of images that the program for a batch takes: chunks for evaluation are padded."""
        return batch.size if batch.split == TRAIN else self.chunk

    def rows(self, batch: Batch) -> NDArray[np.int32]:
        """Numbers of the images of a batch in their split, (batch,)."""
        rows = slice(batch.start, batch.start + batch.size)
        if batch.split != TRAIN:
            return np.arange(rows.start, rows.stop, dtype=np.int32)
        return _order(self.seed, batch.epoch, self.sizes[TRAIN])[rows]


@functools.lru_cache(maxsize=2)  # the last batches of an epoch and the first of the next
def _order(seed: int, epoch: int, num_images: int) -> NDArray[np.int32]:
    return epoch_order(seed, epoch, num_images)


@dataclass(frozen=True, slots=True, eq=False)
class BatchParts:
    """The images of batches, each cut into parts: what worker processes decode.

    Args:
      schedule: the batches.
      reader: decodes images.
      places: numbers of the training, validation and test images for the reader, (n,) each.
      parts: parts of a batch.
      share: the images of a batch that are decoded.
    """

    schedule: BatchSchedule
    reader: ImageReader
    places: Sequence[NDArray[np.integer[Any]]]
    parts: int
    share: Share = ALL

    @classmethod
    def of(
        cls,
        schedule: BatchSchedule,
        reader: ImageReader,
        places: Sequence[NDArray[np.integer[Any]]],
        share: Share = ALL,
    ) -> "BatchParts":
        """Parts of moderate size, so that no process is far behind the others."""
        own = share.own(max(schedule.batch_size, schedule.chunk))
        largest = (own.stop - own.start) * math.prod(reader.shape)
        return cls(schedule, reader, places, math.ceil(largest / ITEM_BYTES), share)

    def __len__(self) -> int:
        return len(self.schedule) * self.parts

    def __getitem__(self, number: int) -> TaskResult:
        place, part = divmod(number, self.parts)
        batch = self.schedule.batch(place)
        decoded = self.share.decoded(self.schedule.whole(batch), batch.size)
        own = self.schedule.rows(batch)[decoded]
        rows = own[slice(*(len(own) * end // self.parts for end in (part, part + 1)))]
        pixels = [self.reader.read(int(index)) for index in self.places[batch.split][rows]]
        return {"images": np.stack(pixels)} if pixels else {}
