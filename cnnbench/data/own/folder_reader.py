"""Decodes the images of a folder one at a time, for datasets larger than memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.catalog import ImageForm
from cnnbench.data.own.decoding import decode
from cnnbench.system.arrays import Pixels


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class FolderReader:
    """The images of a folder, as an `ImageReader`.

    Args:
      root: the folder.
      names: relative paths of all files, one after another: a string of its own would take ten
        times the memory in every worker process.
      ends: where each path ends in `names`, int64 (n,).
      shape: height, width and channels of the images.
      form: size and channels of the images.
    """

    root: Path
    names: bytes
    ends: NDArray[np.int64]
    shape: tuple[int, int, int]
    form: ImageForm

    @classmethod
    def of(
        cls, root: Path, files: Sequence[str], shape: tuple[int, int, int], form: ImageForm
    ) -> "FolderReader":
        """The reader of some files of a folder."""
        names = [file.encode(errors="surrogateescape") for file in files]
        return cls(root, b"".join(names), np.cumsum([len(name) for name in names]), shape, form)

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, index: int) -> Pixels:
        """Decodes an image.

        Raises:
          DataError: it cannot be read.
        """
        start = int(self.ends[index - 1]) if index else 0
        name = self.names[start : int(self.ends[index])].decode(errors="surrogateescape")
        return decode(self.root / name, self.shape[:2], self.form)
