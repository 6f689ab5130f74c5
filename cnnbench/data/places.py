"""Finds out what a word on the command line means: a folder, array files or a dataset's name."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cnnbench.data.catalog import (
    KNOWN,
    ArrayOptions,
    DatasetInfo,
    ImageForm,
    Shares,
    describe,
    is_noise,
    resized_info,
)
from cnnbench.data.own.array_files import SUFFIXES, ArraySource, find_files
from cnnbench.data.own.folder import FolderSource
from cnnbench.errors import DataError
from cnnbench.system.files import expand_home

_SQUARE = ImageForm((128, 128), "crop", 3, (255, 255, 255))  # of images of various sizes
_AS_IT_IS = ImageForm(None, "stretch", 3, (255, 255, 255))


@dataclass(frozen=True, slots=True)
class DataPlace:
    """Where a dataset is.

    Args:
      key: of `dataset` in an experiment.
      value: a path, or the name of a published dataset.
    """

    key: Literal["name", "folder", "arrays"]
    value: str

    @property
    def title(self) -> str:
        """Name of the file, folder or dataset."""
        return self.value if self.key == "name" else Path(self.value).absolute().name

    def relative_to(self, folder: Path) -> str:
        """The value for an experiment file in a folder; absolute paths stay absolute."""
        if self.key == "name" or Path(self.value).is_absolute():
            return self.value
        return Path(os.path.relpath(self.value, folder)).as_posix()

    def info(self, data_dir: Path | None = None) -> DatasetInfo:
        """Shape, classes and sizes of the dataset.

        Args:
          data_dir: folder of prepared datasets, for names that are not built in.

        Raises:
          DataError: the files are not a dataset, or there is no dataset of this name.
        """
        if self.key == "name":
            info = describe(self.value, data_dir)
            return resized_info(info, _SQUARE if info.varies else None)
        path = Path(self.value)
        if self.key == "folder":
            return FolderSource(path, _AS_IT_IS, Shares()).info()
        return ArraySource(path, ArrayOptions(), Shares()).info()


def find_place(word: str, data_dir: Path | None = None) -> DataPlace:
    """Finds a dataset by the path of its files, or by its name.

    Args:
      word: a path or a name.
      data_dir: folder of prepared datasets, for names that are not built in.

    Raises:
      DataError: there is no such file, folder or dataset, or it has no images.
    """
    path = expand_home(Path(word))
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        if not path.name.lower().removesuffix(".gz").endswith(SUFFIXES):
            raise DataError(
                f"{word}: is neither a folder of images nor an array file; use a folder, or an"
                " .npz, .csv or .parquet file"
            )
        return DataPlace("arrays", str(path))
    if word not in KNOWN and not is_noise(word):
        _require_dataset(word, data_dir)
    return DataPlace("name", word)


def _folder(path: Path) -> DataPlace:
    """A folder of images, or else of array files."""
    try:
        FolderSource(path, _AS_IT_IS, Shares()).listing()
    except DataError as error:
        try:
            find_files(path)
        except DataError:
            raise error from None
        return DataPlace("arrays", str(path))
    return DataPlace("folder", str(path))


def _require_dataset(word: str, data_dir: Path | None) -> None:
    try:
        describe(word, data_dir)
    except DataError as error:
        text = str(error)
        if text.startswith("unknown dataset"):
            raise DataError(f"{word}: no such file or folder; {text}") from None
        raise
