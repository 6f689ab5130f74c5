"""Converts image files to network inputs in the format of a dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cnnbench.data.catalog import READABLE, ImageForm
from cnnbench.data.own.decoding import decode, size_of
from cnnbench.data.own.pillow_files import flattened, opened, quiet
from cnnbench.errors import DataError, UsageError
from cnnbench.system.arrays import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

InvertMode = Literal["auto", "yes", "no"]
WHITE, BLACK = 255, 0
MIDDLE = 127.5  # between black and white
INK = 20 / 28  # size of the ink relative to the image, as in MNIST


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Preprocessing of an image file.

    Args:
      invert: swap light and dark; ``auto`` does so for grayscale images with a light border,
        because grayscale datasets are light on dark.
      trim: crop to the ink and center it, as in MNIST (LeCun et al. 1998).
    """

    invert: InvertMode = "auto"
    trim: bool = False


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class PreparedImage:
    """A preprocessed image file.

    Args:
      file: file name.
      width: original width in pixels.
      height: original height in pixels.
      pixels: network input, (h, w, c).
      border: mean brightness of the border before inversion, 0 to 255.
      inverted: True if light and dark were swapped.
    """

    file: str
    width: int
    height: int
    pixels: Pixels
    border: float
    inverted: bool


def read_image(
    file: Path, shape: tuple[int, int, int], preprocessing: Preprocessing
) -> PreparedImage:
    """Reads an image file, center-crops it and scales it to the image size of a dataset.

    Applies the EXIF orientation, composes transparent images on white (on black if all visible
    pixels are white), and converts between grayscale and RGB as required by the dataset. Files of
    the same size as the dataset are not resampled.

    Args:
      file: an image in any common format.
      shape: height, width and channels of the dataset.
      preprocessing: cropping and inversion.

    Raises:
      UsageError: the file does not exist, or the dataset is neither grayscale nor RGB.
      DataError: the file is no image, is damaged or too large, or has no ink to trim to.
    """
    if shape[2] not in {1, 3}:
        message = f"{file}: the network takes images with {shape[2]} channels"
        raise UsageError(f"{message}, but image files have 1 (grayscale) or 3 (RGB).")
    if shape[2] == 3 and preprocessing.trim:
        raise UsageError("--trim: not available for networks that take RGB images; remove it.")
    _require_file(file)
    with quiet():
        upright = _upright(file, shape[2])
    height, width = shape[:2]
    seen = _fitted(upright, height, width)
    border = float(border_of(seen).mean())
    inverted = preprocessing.invert == "yes" or (
        preprocessing.invert == "auto" and shape[2] == 1 and border > MIDDLE
    )
    if preprocessing.trim:
        whole = np.asarray(upright)
        seen = _trimmed(file, ~whole if inverted else whole, height, width)
    elif inverted:
        seen = ~seen  # 255 - value, for uint8
    pixels = seen.reshape(shape)
    return PreparedImage(str(file), upright.width, upright.height, pixels, border, inverted)


def read_as_trained(
    file: Path, shape: tuple[int, int, int], form: ImageForm, *, invert: bool
) -> PreparedImage:
    """Reads an image file in the form of the images that a network was trained on.

    Args:
      file: an image in any format of a folder.
      shape: height, width and channels of the network's input.
      form: of the training images.
      invert: swap light and dark.

    Raises:
      UsageError: the file does not exist.
      DataError: as `decode`.
    """
    _require_file(file)
    with quiet():
        (height, width), pixels = size_of(file), decode(file, shape[:2], form)
    border = float(border_of(pixels).mean())
    return PreparedImage(
        str(file), width, height, ~pixels if invert else pixels, border, inverted=invert
    )


def _require_file(file: Path) -> None:
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "no such file"
        raise UsageError(f"{file}: {what}; specify a {READABLE} file.")


def _upright(file: Path, channels: int) -> "Image":
    """Applies the EXIF orientation and converts to the channels of the dataset, on white.

    White ink on a transparent background is composed on black instead, to be visible.
    """
    seen = _on_paper(file, channels, WHITE)
    return _on_paper(file, channels, BLACK) if np.asarray(seen).min() == WHITE else seen


def _on_paper(file: Path, channels: int, paper: int) -> "Image":
    with opened(file) as image:
        return flattened(file, image, channels, (paper, paper, paper))


def _fitted(image: "Image", height: int, width: int) -> Pixels:
    """Center-crops to the aspect ratio and scales, averaging the pixels that are merged."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))


def border_of(pixels: Pixels) -> Pixels:
    """The outermost pixels, (n, ...)."""
    sides = (pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1])
    return np.concatenate(sides)


def _trimmed(file: Path, pixels: Pixels, height: int, width: int) -> Pixels:
    """Light ink on dark background, scaled to `INK` of the size and centered by mass."""
    from PIL import Image

    ground = float(np.median(pixels))
    spread = float(pixels.max()) - ground
    if spread < 32:
        raise DataError(f"{file}: has no ink to trim to; remove --trim.")
    ink = np.clip((pixels - ground) / spread, 0, 1)
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis=axis)) for axis in (1, 0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = min(INK * height / box.shape[0], INK * width / box.shape[1])
    size = [max(1, round(scale * side)) for side in box.shape]
    small = Image.fromarray((255 * box).round().astype(np.uint8)).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    part = np.asarray(small)
    if not part.any():  # only isolated specks
        raise DataError(f"{file}: has no ink to trim to; remove --trim.")
    seen = np.zeros((height, width), np.uint8)
    top, left = (_start(part, axis, room) for axis, room in enumerate((height, width)))
    seen[top : top + size[0], left : left + size[1]] = part
    return seen


def _start(part: Pixels, axis: int, room: int) -> int:
    """Offset that centers the mass of a part, within the available room.

    In MNIST, the center of mass is in the middle of pixel 14 of 0 to 27.
    """
    mass = part.sum(axis=1 - axis, dtype=np.float64)
    center = float((mass * np.arange(len(mass))).sum() / mass.sum())
    return min(max(round(room / 2 - center), 0), room - len(mass))
