"""Converts PNG and JPEG files to network inputs in the format of a dataset."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import DataError, UsageError
from cnnbench.system.arrays import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

InvertMode = Literal["auto", "yes", "no"]
PNG = b"\x89PNG\r\n\x1a\n"  # signature of PNG files
MAX_PIXELS = 50_000_000  # per file, to limit memory
WHITE, BLACK = 255, 0
MIDDLE = 127.5  # between black and white
INK = 20 / 28  # size of the ink relative to the image, as in MNIST
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)  # raised by Pillow for invalid files


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
      file: a PNG or JPEG file.
      shape: height, width and channels of the dataset.
      preprocessing: cropping and inversion.

    Raises:
      UsageError: the file does not exist, or the dataset is neither grayscale nor RGB.
      DataError: the file is invalid, damaged, animated or too large, or has no ink to trim to.
    """
    if shape[2] not in {1, 3}:
        message = f"{file}: the network takes images with {shape[2]} channels"
        raise UsageError(f"{message}, but image files have 1 (grayscale) or 3 (RGB).")
    if shape[2] == 3 and preprocessing.trim:
        raise UsageError("--trim: not available for networks that take RGB images; remove it.")
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


@contextmanager
def _opened(file: Path) -> "Iterator[Image]":
    """Opens an image with Pillow, and translates errors while it is decoded in the body."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see MAX_PIXELS
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                _require_one(file, image)
                yield image
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file; specify a PNG or JPEG file.") from None
    except Image.DecompressionBombError:
        raise _too_large(file) from None
    except UnidentifiedImageError:
        raise _unidentified(file) from None
    except BROKEN as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise DataError(f"{file}: cannot be read: {reason}; save it again.") from None


def _require_one(file: Path, image: "Image") -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(file)
    # Phones add a preview to photos (MPO), which is not an animation.
    frames = getattr(image, "n_frames", 1) if image.format == "PNG" else 1
    if frames > 1:
        raise DataError(f"{file}: is an animation with {frames} frames; save a single frame.")


def _too_large(file: Path) -> DataError:
    most = MAX_PIXELS // 1_000_000
    return DataError(f"{file}: has more than {most} million pixels; resize it.")


def _unidentified(file: Path) -> DataError:
    """Error for a file that Pillow cannot identify: another format, or an unsupported variant."""
    with file.open("rb") as content:
        start = content.read(len(PNG))
    for name, magic in (("PNG", PNG), ("JPEG", b"\xff\xd8\xff")):
        if start.startswith(magic):
            kind = f"is a damaged or unsupported {name} file"
            return DataError(f"{file}: {kind}; save it with 8 bits per channel.")
    return DataError(f"{file}: is not a PNG or JPEG file; convert it to one.")


def _upright(file: Path, channels: int) -> "Image":
    """Applies the EXIF orientation and converts to the channels of the dataset, on white.

    White ink on a transparent background is composed on black instead, to be visible.
    """
    seen = _on_paper(file, channels, WHITE)
    return _on_paper(file, channels, BLACK) if np.asarray(seen).min() == WHITE else seen


def _on_paper(file: Path, channels: int, paper: int) -> "Image":
    with _opened(file) as image:
        return flattened(file, image, channels, (paper, paper, paper))


def flattened(
    file: Path | bytes, image: "Image", channels: int, background: tuple[int, int, int]
) -> "Image":
    """Decodes an opened image, upright, on a background.

    Args:
      file: its file, or the content of one.
      image: the file as opened by Pillow, not yet decoded.
      channels: 1 for gray, 3 for RGB.
      background: color behind transparent pixels.

    Returns:
      An image with mode ``L`` or ``RGB``.
    """
    from PIL import Image

    depth = _bit_depth(file) if image.format == "PNG" else 8
    if depth == 16:
        turned = Image.fromarray(_deep(file, image, background))
    elif image.mode.startswith("I;16"):
        turned = Image.fromarray(_rounded(np.asarray(_turned(image)).astype(np.float32) / 257))
    elif image.mode in {"I", "F"}:
        raise ValueError(f"32-bit {'integers' if image.mode == 'I' else 'floats'}")
    else:
        turned = _turned(image)
        _scale_transparent(turned, depth)
    if turned.has_transparency_data:
        turned = turned.convert("RGBA")
        ground = Image.new("RGBA", turned.size, (*background, 255))
        turned = Image.alpha_composite(ground, turned)
    return turned.convert("L" if channels == 1 else "RGB")


def _turned(image: "Image") -> "Image":
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _bit_depth(file: Path | bytes) -> int:
    """Bit depth of a PNG file, 1 to 16, from its header."""
    if isinstance(file, bytes):
        return file[24]
    with file.open("rb") as content:
        return content.read(25)[24]


def _scale_transparent(image: "Image", depth: int) -> None:
    """Scales the transparent gray level from the bit depth of the file to 8 bits.

    If a value has more bits than a sample, only the low ones count (PNG, section 11.3.2.1).
    """
    transparent, most = image.info.get("transparency"), 2**depth - 1
    if image.mode == "L" and isinstance(transparent, int):
        image.info["transparency"] = (transparent & most) * 255 // most
    elif image.mode == "RGB" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value & most for value in transparent)


def _deep(file: Path | bytes, image: "Image", background: tuple[int, int, int]) -> Pixels:
    """Decodes a 16-bit PNG file, rounded to 8 bits, on a background; (h, w) or (h, w, 3).

    Pillow drops the lower 8 bits of everything but grayscale without alpha, so the file is read
    a second time with swapped byte order.
    """
    from PIL import Image

    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as again:
        samples = _samples(image, again)
    has_alpha, transparent = samples.shape[2] in {2, 4}, image.info.get("transparency")
    seen = (samples[..., :-1] if has_alpha else samples) / np.float32(257)
    is_gray = seen.shape[2] == 1 and len(set(background)) == 1
    seen = seen if is_gray else np.repeat(seen, 3 // seen.shape[2], axis=2)
    ground = np.array(background[: seen.shape[2]], np.float32)
    if has_alpha:
        opaque = samples[..., -1:] / np.float32(65_535)
        seen = ground - (ground - seen) * opaque
    elif transparent is not None:
        seen[(samples == transparent).all(axis=2)] = ground
    pixels = _rounded(seen)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _rounded(values: NDArray[np.floating[Any]]) -> Pixels:
    pixels: Pixels = values.round().astype(np.uint8)
    return pixels


def _samples(image: "Image", again: "Image") -> NDArray[np.uint16]:
    """16-bit samples, (h, w, c), of a file that is opened twice and not yet decoded."""
    if image.mode.startswith("I"):
        return np.asarray(_turned(image)).astype(np.uint16)[..., None]
    codec, box, offset, raw = again.tile[0]  # type: ignore[attr-defined]
    if raw == "LA;16B":  # 4 bytes per pixel: gray and alpha, big-endian
        again.tile = [type(again.tile[0])(codec, box, offset, "RGBA")]  # type: ignore[attr-defined]
        return np.ascontiguousarray(_turned(again)).view(">u2").astype(np.uint16)
    other = raw.replace("16B", "16L")
    again.tile = [type(again.tile[0])(codec, box, offset, other)]  # type: ignore[attr-defined]
    upper, lower = (np.asarray(_turned(each)).astype(np.uint16) for each in (image, again))
    return upper * 256 + lower


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
