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
    """

    schedule: BatchSchedule
    reader: ImageReader
    places: Sequence[NDArray[np.integer[Any]]]
    parts: int

    @classmethod
    def of(
        cls,
        schedule: BatchSchedule,
        reader: ImageReader,
        places: Sequence[NDArray[np.integer[Any]]],
    ) -> "BatchParts":
        """Parts of moderate size, so that no process is far behind the others."""
        largest = max(schedule.batch_size, schedule.chunk) * math.prod(reader.shape)
        return cls(schedule, reader, places, math.ceil(largest / ITEM_BYTES))

    def __len__(self) -> int:
        return len(self.schedule) * self.parts

    def __getitem__(self, number: int) -> TaskResult:
        place, part = divmod(number, self.parts)
        batch = self.schedule.batch(place)
        ends = [batch.size * end // self.parts for end in (part, part + 1)]
        rows = self.schedule.rows(batch)[slice(*ends)]
        pixels = [self.reader.read(int(index)) for index in self.places[batch.split][rows]]
        return {"images": np.stack(pixels)} if pixels else {}
