"""Decodes image files of any common format and mode to pixels of one size, in parallel."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.catalog import ImageForm
from cnnbench.data.own.pillow_files import flattened, opened, quiet
from cnnbench.data.resizing import resized
from cnnbench.errors import DataError
from cnnbench.system.arrays import Pixels
from cnnbench.system.host import num_cpus
from cnnbench.system.progress import CountDone

if TYPE_CHECKING:
    from PIL.Image import Image


def size_of(file: Path) -> tuple[int, int]:
    """Height and width of an image, upright, without decoding it.

    Raises:
      DataError: the file is not an image.
    """
    with quiet(), opened(file) as image:
        return _upright_size(image)


def _upright_size(image: "Image") -> tuple[int, int]:
    """Height and width after the EXIF orientation is applied."""
    turned = image.getexif().get(0x0112, 1) in {5, 6, 7, 8}
    return (image.width, image.height) if turned else (image.height, image.width)


def decode_files(
    files: Sequence[Path],
    size: tuple[int, int],
    form: ImageForm,
    *,
    skip: bool,
    count: CountDone = lambda _: None,
) -> tuple[Pixels, NDArray[np.int64]]:
    """Decodes images in parallel.

    Args:
      files: the image files.
      size: height and width of the result.
      form: channels, scaling and background.
      skip: leave out unreadable images.
      count: called with the number of images that are done.

    Returns:
      Pixels of the readable images, (n, height, width, channels), and the indices of the others.

    Raises:
      DataError: an image cannot be read, and is not to be skipped.
    """
    pixels = np.empty((len(files), *size, form.channels), np.uint8)

    def read(index: int) -> str:
        try:
            pixels[index] = decode(files[index], size, form)
        except DataError as error:
            if not skip:
                raise
            return str(error)
        return ""

    with quiet(), ThreadPoolExecutor(num_cpus()) as pool:
        errors = []
        for error in pool.map(read, range(len(files))):
            errors.append(error)
            count(len(errors))
    broken = np.flatnonzero([bool(error) for error in errors])
    return np.delete(pixels, broken, axis=0) if len(broken) else pixels, broken


def decode(file: Path, size: tuple[int, int], form: ImageForm) -> Pixels:
    """Decodes an image: its first frame, upright, on the background, scaled to a size.

    Returns:
      uint8, (height, width, channels).

    Raises:
      DataError: the file is no image, is damaged or too large, or has another size and there is
        no `form.size`.
    """
    return described(file, size, form)[1]


def described(file: Path, size: tuple[int, int], form: ImageForm) -> "tuple[ImageHeader, Pixels]":
    """The header of an image, and its pixels as from `decode`.

    Raises:
      DataError: as `decode`.
    """
    with opened(file) as image:
        found = _header(image)
        seen = flattened(file, image, form.channels, form.background)
    if form.size is None and (seen.height, seen.width) != size:
        raise DataError(
            f"{file}: has {seen.height}x{seen.width} pixels, but other images have"
            f" {size[0]}x{size[1]}; add resize: {{size: [{size[0]}, {size[1]}]}} to dataset"
        )
    return found, np.asarray(resized(seen, size, form)).reshape(*size, form.channels)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Properties of an image file that are known before it is decoded.

    Args:
      format: ``PNG``, ``JPEG`` and so on.
      mode: Pillow's mode, such as ``RGB``, ``P`` or ``L``.
      height: in pixels, upright.
      width: in pixels, upright.
      has_alpha: True if pixels can be transparent.
    """

    format: str
    mode: str
    height: int
    width: int
    has_alpha: bool = False


def header(file: Path) -> ImageHeader | None:
    """The header of an image; None if it cannot be read. Call it within `quiet`."""
    try:
        with opened(file) as image:
            return _header(image)
    except DataError:
        return None


def _header(image: "Image") -> ImageHeader:
    height, width = _upright_size(image)
    return ImageHeader(image.format or "", image.mode, height, width, image.has_transparency_data)
