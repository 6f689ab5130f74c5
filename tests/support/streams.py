"""Streamed copies of datasets in memory, and worker processes that are none."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import Split
from cnnbench.data.streaming.images import StreamedImages
from cnnbench.data.streaming.loader import TaskResult, Tasks
from cnnbench.errors import DataError


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Images in an array; those in `broken` cannot be read."""

    images: NDArray[np.uint8]
    broken: Sequence[int] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> NDArray[np.uint8]:
        if index in self.broken:
            raise DataError(f"image {index} is broken")
        pixels: NDArray[np.uint8] = self.images[index]
        return pixels


def streamed(dataset: Dataset) -> Dataset:
    """The same dataset, with images that are streamed; a pool, if there is one, is their source."""
    stored = dataset.stored
    reader = ArrayReader(np.concatenate([split.images for split in stored]))
    ends = np.cumsum([len(split) for split in stored])
    parts = [
        Split(_images(reader, int(end) - len(split), int(end)), split.labels)
        for split, end in zip(stored, ends, strict=True)
    ]
    if dataset.pool is None:
        train, validation, test = parts
        return replace(dataset, train=train, validation=validation, test=test)
    pool, test = parts
    sizes = len(dataset.train), len(dataset.validation)
    return replace(
        dataset, train=pool.first(sizes[0]), validation=pool.last(sizes[1]), test=test, pool=pool
    )


def _images(reader: ArrayReader, start: int, stop: int) -> Any:
    return StreamedImages(reader, np.arange(start, stop))


@contextmanager
def in_process(tasks: Tasks, *, start: int = 0, **_: Any) -> Iterator[Iterator[TaskResult]]:
    """Stands in for `results`, without the seconds that worker processes take to start."""
    yield (tasks[number] for number in range(start, len(tasks)))
