"""Looks at every image of a folder: sizes, modes, duplicates, mean and standard deviation."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.catalog import ImageForm, Shares
from cnnbench.data.own.decoding import ImageHeader, described
from cnnbench.data.own.folder import FolderSource
from cnnbench.data.own.pillow_files import quiet
from cnnbench.errors import DataError, Notify
from cnnbench.formatting import reason
from cnnbench.system.arrays import Pixels
from cnnbench.system.progress import counted

SIDE = 64  # pixels of the images that are compared and drawn
DRAWN = 10  # images of a class
MOST_COMPARED = 20_000  # images; the time grows with the square
ALIKE = 2.0  # largest root mean square difference between 8x8 thumbnails of similar images, of 255
_BLOCK = 8
_ROWS = 500  # of the matrix of differences at a time, to limit memory

SameImages = tuple[tuple[str, str], ...]  # files that show the same, each with its split


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class FolderInspection:
    """What is in a folder of images.

    Args:
      classes: names of the classes.
      counts: number of images of each class, by split.
      headers: of the readable images.
      broken: why each of the other files cannot be read.
      duplicates: groups of files with the same bytes.
      similar: groups of files that look the same, but have other bytes; None if there are too many
        images.
      mean: of each channel of the training images, center-cropped, from 0 to 1.
      std: their standard deviation.
      samples: some training images of each class, uint8 (n, `SIDE`, `SIDE`, 3).
    """

    classes: tuple[str, ...]
    counts: Mapping[str, Sequence[int]]
    headers: tuple[ImageHeader, ...]
    broken: tuple[str, ...]
    duplicates: tuple[SameImages, ...]
    similar: tuple[SameImages, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    samples: tuple[Pixels, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    digest: str
    header: ImageHeader | None
    error: str
    pixels: Pixels


@dataclass(slots=True)
class _Sums:
    """Exact sums over pixels, by channel."""

    number: int = 0
    values: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    squares: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))

    def add(self, pixels: Pixels) -> None:
        found = pixels.reshape(-1, 3).astype(np.int64)
        self.number += len(found)
        self.values += found.sum(axis=0)
        self.squares += (found**2).sum(axis=0)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        mean = self.values / self.number
        variance = (self.number * self.squares - self.values**2) / self.number**2
        return tuple((mean / 255).tolist()), tuple((np.sqrt(variance) / 255).tolist())


def inspect_folder(path: Path, notify: Notify) -> FolderInspection:
    """Reads every image of a folder once.

    Args:
      path: the folder.
      notify: called with messages on the progress.

    Raises:
      DataError: not a folder of images, or none of the training images can be read.
    """
    source = FolderSource(path, ImageForm((SIDE, SIDE), "crop", 3, (255, 255, 255)), Shares())
    listing, splits = source.listing(), source.splits()
    label_of = dict(zip(listing.every, chain(*listing.labels.values()), strict=True))
    split_of = {file: name for name, files in splits.items() for file in files}
    sums, samples = _Sums(), [list[Pixels]() for _ in listing.classes]
    notify(f"Decoding {len(split_of):,} images in {path}.")
    known: dict[str, _Seen] = {}
    thumbnails: list[NDArray[np.float32]] = []
    for file, seen in _looks(path, list(split_of), source.form):
        known[file] = _Seen(seen.digest, seen.header, seen.error, seen.pixels[:0])
        if seen.header:
            thumbnails.append(_thumbnail(seen.pixels))
        if seen.header and split_of[file] == "train":
            sums.add(seen.pixels)
            if len(samples[label_of[file]]) < DRAWN:
                samples[label_of[file]].append(seen.pixels)
    if not sums.number:
        raise DataError(f"{path}: none of the training images can be read; save them again")
    mean, std = sums.statistics()
    counts = {name: Counter(label_of[file] for file in files) for name, files in splits.items()}
    good = [file for file, seen in known.items() if seen.header]
    files_of = _by_digest(known)
    similar = None
    if len(good) <= MOST_COMPARED:
        similar = _similar(good, thumbnails, {file: known[file].digest for file in good})
    grouped = partial(_with_splits, split_of=split_of)
    return FolderInspection(
        classes=listing.classes,
        counts={
            name: [count[label] for label in range(len(listing.classes))]
            for name, count in counts.items()
        },
        headers=tuple(seen.header for seen in known.values() if seen.header),
        broken=tuple(seen.error for seen in known.values() if not seen.header),
        duplicates=grouped([files for files in files_of.values() if len(files) > 1]),
        similar=None if similar is None else grouped(similar),
        mean=mean,
        std=std,
        samples=tuple(np.array(each, np.uint8).reshape(-1, SIDE, SIDE, 3) for each in samples),
    )


def _looks(path: Path, files: Sequence[str], form: ImageForm) -> Iterator[tuple[str, _Seen]]:
    """Reads files in parallel."""
    with quiet(), counted("decoded", len(files)) as count, ThreadPoolExecutor() as pool:
        found = pool.map(partial(_look, form=form), [path / file for file in files])
        for number, (file, seen) in enumerate(zip(files, found, strict=True), 1):
            count(number)
            yield file, seen


def _look(file: Path, form: ImageForm) -> _Seen:
    digest, nothing = "", np.zeros((0, SIDE, 3), np.uint8)
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return _Seen(digest, *_without_error(described(file, (SIDE, SIDE), form)))
    except DataError as error:
        return _Seen(digest, None, str(error), nothing)
    except OSError as error:
        return _Seen(digest, None, f"{file}: cannot be read ({reason(error)})", nothing)


def _without_error(found: tuple[ImageHeader, Pixels]) -> tuple[ImageHeader, str, Pixels]:
    return found[0], "", found[1]


def _by_digest(known: Mapping[str, _Seen]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for file, seen in sorted(known.items()):
        groups.setdefault(seen.digest or file, []).append(file)
    return groups


def _with_splits(
    groups: Sequence[Sequence[str]], split_of: Mapping[str, str]
) -> tuple[SameImages, ...]:
    return tuple(tuple((file, split_of[file]) for file in group) for group in groups)


def _thumbnail(pixels: Pixels) -> NDArray[np.float32]:
    """Means of 8x8 blocks, (192,)."""
    number = SIDE // _BLOCK
    blocks = pixels.reshape(number, _BLOCK, number, _BLOCK, 3)
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means.ravel()


def _similar(
    files: Sequence[str], thumbnails: Sequence[NDArray[np.float32]], digests: Mapping[str, str]
) -> list[list[str]]:
    """Groups of files whose thumbnails differ by at most `ALIKE`, directly or through others."""
    vectors = np.stack(thumbnails) - 128
    squares = (vectors**2).sum(axis=1)
    first = {file: file for file in files}

    def root(file: str) -> str:
        while first[file] != file:
            file = first[file]
        return file

    for start in range(0, len(files), _ROWS):
        part = slice(start, start + _ROWS)
        distances: NDArray[Any] = squares[part, None] + squares - 2 * vectors[part] @ vectors.T
        near = np.argwhere(distances <= vectors.shape[1] * ALIKE**2)
        for row, column in near[near[:, 0] + start < near[:, 1]]:
            first[root(files[column])] = root(files[row + start])
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        groups.setdefault(root(file), []).append(file)
    return [group for group in groups.values() if len({digests[file] for file in group}) > 1]
