"""Properties of a folder of images that decide how to train on them."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from cnnbench.data.catalog import ImageForm, Shares
from cnnbench.data.own.decoding import ImageHeader, decode, header
from cnnbench.data.own.folder import FolderSource
from cnnbench.data.own.pillow_files import quiet
from cnnbench.errors import DataError

SAMPLE = 10_000  # files whose headers are read
PIXELS = 50_000_000  # that are decoded
_TINY = ImageForm((32, 32), "stretch", 3, (255, 255, 255))
_EQUAL = 2  # largest difference between the channels of a gray pixel, as JPEG rounds


@dataclass(frozen=True, slots=True)
class Survey:
    """A sample of the images in a folder.

    Args:
      counts: number of images by class, in all splits.
      num_train: number of training images with the default split.
      splits: splits that have a folder of their own.
      headers: of the readable images in the sample.
      broken: the other files in the sample, which are not images or are damaged.
      gray: True if all decoded images are gray.
      constant: True if all their pixels have the same value in some channel.
    """

    counts: dict[str, int]
    num_train: int
    splits: tuple[str, ...]
    headers: tuple[ImageHeader, ...]
    broken: tuple[str, ...]
    gray: bool
    constant: bool

    @property
    def num_images(self) -> int:
        """Number of images in the folder, of any split."""
        return sum(self.counts.values())

    @property
    def is_sample(self) -> bool:
        """True if there are more images than were looked at."""
        return self.num_images > len(self.headers) + len(self.broken)


def survey(path: Path) -> Survey:
    """Looks at up to `SAMPLE` images of a folder, evenly spaced over all classes.

    Raises:
      DataError: not a folder of images, or none of them can be read.
    """
    source = FolderSource(path, _TINY, Shares())
    listing = source.listing()
    labels = [label for pool in listing.labels.values() for label in pool]
    counts = Counter(labels)
    files = spread(listing.every, SAMPLE)
    with quiet(), ThreadPoolExecutor() as pool:
        found = dict(zip(files, pool.map(header, [path / file for file in files]), strict=True))
    known = {file: each for file, each in found.items() if each}
    decoded, damaged = _decode(path, known)
    if not decoded:
        raise DataError(f"{path}: none of the images can be read; save them again")
    colors = np.stack(decoded).astype(np.int16)
    return Survey(
        {name: counts[label] for label, name in enumerate(listing.classes)},
        len(source.splits()["train"]),
        tuple(name for name in ("validation", "test") if name in listing.files),
        tuple(each for file, each in known.items() if file not in damaged),
        tuple(file for file, each in found.items() if each is None or file in damaged),
        bool(np.ptp(colors, axis=-1).max() <= _EQUAL),
        bool((np.ptp(colors, axis=(0, 1, 2)) == 0).any()),
    )


def _decode(path: Path, known: dict[str, ImageHeader]) -> tuple[list[np.ndarray], set[str]]:
    """Small copies of as many images as `PIXELS` allow, and the files that are damaged."""
    sizes = accumulate(each.height * each.width for each in known.values())
    most = sum(size <= PIXELS for size in sizes)
    files = spread(list(known), max(most, 1))

    def read(file: str) -> np.ndarray | None:
        try:
            return decode(path / file, (32, 32), _TINY)
        except DataError:
            return None

    with quiet(), ThreadPoolExecutor() as pool:
        seen = dict(zip(files, pool.map(read, files), strict=True))
    return [pixels for pixels in seen.values() if pixels is not None], {
        file for file, pixels in seen.items() if pixels is None
    }


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most this many items, evenly spaced.

    >>> spread("abcdefgh", 3), spread("ab", 3)
    (['a', 'c', 'f'], ['a', 'b'])
    """
    number = min(len(items), most)
    return [items[index * len(items) // number] for index in range(number)]
