"""Reads a folder of images, a folder per class: ``CLASS/*``, or ``train/CLASS/*`` and so on.

The same layouts as torchvision's `ImageFolder` and Keras' `image_dataset_from_directory`.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.data.catalog import (
    READABLE,
    DatasetInfo,
    ImageForm,
    LabelKind,
    Shares,
    divide,
    random_order,
)
from cnnbench.data.file_digests import sha256_in
from cnnbench.errors import DataError, Notify, did_you_mean, or_list
from cnnbench.formatting import reason
from cnnbench.system.progress import counted

if TYPE_CHECKING:  # reading an experiment imports no NumPy
    from numpy.typing import NDArray

    from cnnbench.data.own.folder_reader import FolderReader
    from cnnbench.system.cache import CacheEntry

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_SPLITS = {"train": "train", "test": "test", "val": "validation", "valid": "validation"}
_SPLITS["validation"] = "validation"
ALL = "all"  # images without splits of their own
LISTED = 5  # files in a message


@dataclass(frozen=True, slots=True)
class ImageListing:
    """The files of a folder.

    Args:
      classes: names of the classes, sorted.
      files: relative paths by pool: `ALL`, or ``train``, ``validation`` and ``test``.
      labels: their classes.
    """

    classes: tuple[str, ...]
    files: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[int]]

    @property
    def every(self) -> list[str]:
        """All files, one pool after another."""
        return [file for pool in self.files.values() for file in pool]


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A dataset in a folder of images.

    Args:
      path: the folder.
      form: size and channels of the images.
      shares: of the splits that the folder does not have.
      skip: leave out unreadable images.
      kind: what the images are to be labeled with; a folder per class has classes.
    """

    path: Path
    form: ImageForm
    shares: Shares
    skip: bool = False
    kind: LabelKind = "class"

    def info(self) -> DatasetInfo:
        """Shape, classes and sizes; reads the size of one image unless there is `form.size`.

        Raises:
          DataError: not a folder of images, or a file is outside of it.
        """
        if self.kind != "class":
            what = "targets" if self.kind == "targets" else "several labels per image"
            raise DataError(
                f"{self.path}: {what} of a folder are in a table; set dataset.labels: FILE.csv"
            )
        return self.folder_info()

    def folder_info(self) -> DatasetInfo:
        """As `info`, whatever the images are labeled with."""
        listing = self.listing()
        sizes = {name: len(indices) for name, indices in self._divided(listing).items()}
        if not sizes["test"]:
            raise DataError(
                f"{self.path}: there are no test images; increase dataset.split.test, or add a "
                "folder named test"
            )
        return DatasetInfo(
            name=self.path.name or str(self.path),
            shape=(*self._size(listing), self.form.channels),
            num_classes=len(listing.classes),
            num_train=sizes["train"] + sizes["validation"],
            num_test=sizes["test"],
            title="a folder of images",
            classes=listing.classes,
            num_validation=sizes["validation"],
            own_test="test" in listing.files,
        )

    def key(self) -> str:
        """Cache key: the content and name of every file, and the form.

        Raises:
          DataError: a file cannot be read.
        """
        return self._key(self.listing().every)

    def _key(self, files: Sequence[str]) -> str:
        digest = hashlib.sha256(f"{self.form} {self.skip}\n".encode())
        for file, own in zip(files, sha256_in(self.path, files), strict=True):
            digest.update(f"{own} {file}\n".encode(errors="surrogateescape"))
        return f"folder {digest.hexdigest()}"

    def reader(self) -> "tuple[FolderReader, str]":
        """Decodes images when they are needed; also returns the cache key of their statistics.

        Raises:
          DataError: a file cannot be read.
        """
        from cnnbench.data.own.folder_reader import FolderReader

        listing = self.listing()
        files, shape = listing.every, (*self._size(listing), self.form.channels)
        reader = FolderReader.of(self.path, files, shape, self.form)
        return reader, f"statistics {self._key(files)}"

    def splits(self) -> dict[str, list[str]]:
        """The files of each split, in random order.

        Raises:
          DataError: not a folder of images, or a file is outside of it.
        """
        listing = self.listing()
        every = listing.every
        divided = self._divided(listing)
        return {
            name: [every[at] for at in divided[name]] for name in ("train", "validation", "test")
        }

    def decode(self, key: str, notify: Notify) -> "CacheEntry":
        """Decodes all images; those that are skipped have no pixels.

        Raises:
          DataError: an image is invalid.
        """
        from cnnbench.data.own.decoding import decode_files
        from cnnbench.system.cache import CacheEntry

        listing = self.listing()
        files, size = listing.every, self._size(listing)
        notify(f"Decoding {len(files):,} images in {self.path}.")
        paths = [self.path / file for file in files]
        with counted("decoded", len(files)) as count:
            images, broken = decode_files(paths, size, self.form, skip=self.skip, count=count)
        return CacheEntry({"images": images, "broken": broken}, f"the folder {self.path}", key)

    def split(self, decoded: "CacheEntry", notify: Notify) -> "CacheEntry":
        """Divides the images into the splits of the folder, or by `shares`.

        Raises:
          DataError: all images of a split were skipped.
        """
        import numpy as np

        from cnnbench.system.cache import CacheEntry

        listing = self.listing()
        files, labels = listing.every, self.label_array(listing)
        images, broken = decoded.arrays["images"], set(decoded.arrays["broken"].tolist())
        if broken:
            names = [files[index] for index in sorted(broken)]
            notify(f"{self.path}: skipping {_count(len(names), 'unreadable image')}: {few(names)}")
        where = np.cumsum([index not in broken for index in range(len(files))]) - 1
        arrays: dict[str, NDArray[Any]] = {}
        for name, indices in self._divided(listing).items():
            kept = np.array([index for index in indices if index not in broken], np.intp)
            if indices and not len(kept):
                raise DataError(
                    f"{self.path}: none of the {name} images can be read; save them again"
                )
            arrays |= {f"{name}_images": images[where[kept]], f"{name}_labels": labels[kept]}
        return CacheEntry(arrays, f"the folder {self.path}", decoded.key)

    def has_test(self, decoded: "CacheEntry") -> bool:  # noqa: ARG002
        """Returns True if there is a folder of test images."""
        return {"train", "test"} <= split_folders(self.path).keys()

    def label_array(self, listing: ImageListing) -> "NDArray[Any]":
        """Labels of all images, as in `dataset.Split`."""
        import numpy as np

        return np.array(_joined(listing.labels), np.int32)

    def require_folder(self) -> None:
        """Checks that there is a folder.

        Raises:
          DataError: there is none.
        """
        if not self.path.is_dir():
            what = "is a file, not a folder" if self.path.exists() else "no such folder"
            raise DataError(f"{self.path}: {what}; use the path of a folder of images")

    def listing(self) -> ImageListing:
        """Finds the images and classes.

        Raises:
          DataError: no such folder, it has no images, or a file is outside of it.
        """
        self.require_folder()
        try:
            return self._listing()
        except OSError as error:
            place = error.filename or self.path
            message = f"{place}: cannot be read ({reason(error)})"
            raise DataError(f"{message}; check its permissions") from error

    def _listing(self) -> ImageListing:
        pools = split_folders(self.path)
        if "train" not in pools:
            pools = {ALL: ""}
        classes = _classes(self.path / pools.get("train", ""), self.path.resolve())
        files: dict[str, list[str]] = {}
        labels: dict[str, list[int]] = {}
        for pool in sorted(pools):
            found = list(self._images(pools[pool], classes))
            files[pool] = [file for file, _ in found]
            labels[pool] = [label for _, label in found]
        return ImageListing(classes, files, labels)

    def _images(self, folder: str, classes: Sequence[str]) -> Iterator[tuple[str, int]]:
        """Relative paths and labels of the images of a split."""
        root, empty = self.path.resolve(), []
        others = [name for name in _folders(self.path / folder, root) if name not in classes]
        if others and folder:
            near = did_you_mean(others[0], classes)
            raise DataError(
                f"{self.path / folder / others[0]}: the training images have no class "
                f"'{others[0]}'{near}; use {or_list(classes)}"
            )
        for label, name in enumerate(classes):
            inside = f"{folder}/{name}" if folder else name
            found = sorted(walk(self.path / inside, inside, root), key=lambda file: file.split("/"))
            yield from ((file, label) for file in found)
            empty += [] if found else [name]
        if empty and folder in {"", "train"}:
            raise DataError(
                f"{self.path / folder / empty[0]}: has no images; add {READABLE} files, or"
                " remove the folder"
            )

    def _divided(self, listing: ImageListing) -> dict[str, list[int]]:
        """Indices among all files by split; each split is in random order."""
        found: dict[str, list[int]] = {}
        start = 0
        for pool, files in listing.files.items():
            indices = range(start, start + len(files))
            start += len(files)
            if pool in {ALL, "train"}:
                shares = (("test", self.shares.test), ("validation", self.shares.validation))
                wanted = {name: share for name, share in shares if name not in listing.files}
                parts = divide(files, listing.labels[pool], wanted, self.shares)
            else:
                parts = {pool: random_order(files, self.shares.seed)}
            found |= {name: [indices[at] for at in part] for name, part in parts.items()}
        return found

    def _size(self, listing: ImageListing) -> tuple[int, int]:
        if self.form.size:
            return self.form.size
        from cnnbench.data.own.decoding import size_of

        return size_of(self.path / listing.every[0])


def _joined(pools: Mapping[str, Sequence[int]]) -> list[int]:
    return [item for pool in pools.values() for item in pool]


def split_folders(path: Path) -> dict[str, str]:
    """Names of the folders of a folder that are splits, by split."""
    return {
        _SPLITS[name.lower()]: name
        for name in _folders(path, path.resolve())
        if name.lower() in _SPLITS
    }


def _folders(path: Path, root: Path) -> list[str]:
    """Names of the folders in a folder, sorted; without hidden ones.

    Raises:
      DataError: a symbolic link leads out of the root.
    """
    with os.scandir(path) as entries:
        found = [each for each in entries if each.is_dir() and _is_shown(each.name)]
    for each in found:
        if each.is_symlink():
            require_inside(path / each.name, root)
    return sorted(each.name for each in found)


def _is_shown(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def _classes(path: Path, root: Path) -> tuple[str, ...]:
    classes = _folders(path, root)
    if len(classes) < 2:
        have = f"only the folder '{classes[0]}'" if classes else "no folders"
        raise DataError(
            f"{path}: contains {have}; put the images of each class into a folder named after "
            "the class"
        )
    return tuple(classes)


def walk(folder: Path, inside: str, root: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """Image files in a folder and its subfolders, as paths that start with `inside`.

    Args:
      folder: the folder.
      inside: its path relative to the dataset.
      root: the folder of the dataset, resolved.
      above: the folder and those above it, resolved; empty for the first one.

    Raises:
      DataError: a symbolic link leads out of the root, or back; or an image is no regular file.
    """
    if not folder.is_dir():
        return
    above = above or (folder.resolve(),)
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if _is_shown(entry.name)]
    for entry in found:  # no path of each file, because there are many
        target = require_inside(folder / entry.name, root) if entry.is_symlink() else None
        if entry.is_dir():
            path, real = folder / entry.name, target or above[-1] / entry.name
            if any(each.is_relative_to(real) for each in above):
                message = f"{path}: is a symbolic link to {real}, which contains it"
                raise DataError(f"{message}; remove it")
            yield from walk(path, f"{inside}/{entry.name}", root, (*above, real))
        elif entry.name.lower().endswith(SUFFIXES):
            if not entry.is_file():
                raise DataError(f"{folder / entry.name}: is not a regular file; remove it")
            yield f"{inside}/{entry.name}"


def require_inside(link: Path, root: Path) -> Path:
    """Resolves a symbolic link, which must not lead out of a folder.

    Args:
      link: the link.
      root: the folder, resolved.

    Raises:
      DataError: the link leads out of the folder.
    """
    target = link.resolve()
    if not target.is_relative_to(root):
        raise DataError(
            f"{link}: is a symbolic link to {target}, outside {root}; copy it into the folder"
        )
    return target


def few(names: Sequence[str]) -> str:
    """The first names, and the number of others."""
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{rest}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
