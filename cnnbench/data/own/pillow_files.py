"""Opens image files of any common format and mode with Pillow: upright, 8 bits, on a background."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.catalog import READABLE
from cnnbench.errors import DataError
from cnnbench.formatting import reason
from cnnbench.system.arrays import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # of Pillow
_AT_ONCE = 2**20  # 16-bit pixels
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # first bytes
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)  # raised by Pillow for invalid files


@contextmanager
def opened(file: Path | bytes, where: str = "") -> "Iterator[Image]":
    """Opens an image with Pillow, and translates errors while it is decoded in the body.

    Args:
      file: an image file, or the content of one.
      where: the file in messages; its path by default.

    Raises:
      DataError: the file is no image, is damaged or too large.
    """
    from PIL import Image

    where = where or str(file)
    try:
        with (
            io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as content,
            _identified(content, where) as image,
        ):
            yield image
    except Image.DecompressionBombError:
        raise _too_large(where) from None
    except _BROKEN as error:
        message = f"{where}: cannot be read ({reason(error).lower()}); save it again, or remove it"
        raise DataError(message) from None


def _identified(content: BinaryIO, where: str) -> "Image":
    """The image in an opened file, not yet decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(content, formats=FORMATS)
    except UnidentifiedImageError:
        content.seek(0)
        raise _unidentified(where, content.read(len(_PNG))) from None
    most = Image.MAX_IMAGE_PIXELS  # None if a program has removed the limit
    if most is not None and image.width * image.height > most:
        raise _too_large(where)
    return image


def _too_large(where: str) -> DataError:
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS or 0
    return DataError(f"{where}: has more than {most:,} pixels; make it smaller, or remove it")


def _unidentified(where: str, start: bytes) -> DataError:
    """Error for a file of another format, or of an unsupported variant, from its first bytes."""
    if not start:
        return DataError(f"{where}: is empty; save it again, or remove it")
    for name, magic in (("PNG", _PNG), ("JPEG", _JPEG)):
        if start.startswith(magic):
            what = f"is a damaged or unsupported {name} file"
            return DataError(
                f"{where}: {what}; save it again with 8 bits per channel, or remove it"
            )
    message = f"{where}: is damaged, or not a {READABLE} file"
    return DataError(f"{message}; save it again, or remove it")


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Pillow's warnings; not thread-safe, so never inside of a thread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
    a second time with swapped byte order. Some rows are converted at a time, to limit memory.
    """
    from PIL import Image

    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as again:
        parts = _parts(image, again)
    height, width = parts[0].shape[:2]
    rows = max(1, _AT_ONCE // width)
    transparent = image.info.get("transparency")
    blocks = [
        _on_ground(_samples([part[at : at + rows] for part in parts]), transparent, background)
        for at in range(0, height, rows)
    ]
    pixels: Pixels = np.concatenate(blocks)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _on_ground(
    samples: NDArray[np.uint16], transparent: object, background: tuple[int, int, int]
) -> Pixels:
    """16-bit samples on a background, rounded to 8 bits, (h, w, 1) or (h, w, 3)."""
    has_alpha = samples.shape[2] in {2, 4}
    seen = (samples[..., :-1] if has_alpha else samples) / np.float32(257)
    is_gray = seen.shape[2] == 1 and len(set(background)) == 1
    seen = seen if is_gray else np.repeat(seen, 3 // seen.shape[2], axis=2)
    ground = np.array(background[: seen.shape[2]], np.float32)
    if has_alpha:
        opaque = samples[..., -1:] / np.float32(65_535)
        seen = ground - (ground - seen) * opaque
    elif transparent is not None:
        seen[(samples == transparent).all(axis=2)] = ground
    return _rounded(seen)


def _rounded(values: NDArray[np.floating[Any]]) -> Pixels:
    pixels: Pixels = values.round().astype(np.uint8)
    return pixels


def _parts(image: "Image", again: "Image") -> tuple[NDArray[Any], ...]:
    """16-bit samples, or their high and low bytes, (h, w, c).

    The file is opened twice, and not yet decoded.
    """
    if image.mode.startswith("I"):
        return (np.asarray(_turned(image))[..., None],)
    codec, box, offset, raw = again.tile[0]  # type: ignore[attr-defined]
    if raw == "LA;16B":  # 4 bytes per pixel: gray and alpha, big-endian
        again.tile = [type(again.tile[0])(codec, box, offset, "RGBA")]  # type: ignore[attr-defined]
        return (np.ascontiguousarray(_turned(again)).view(">u2"),)
    other = raw.replace("16B", "16L")
    again.tile = [type(again.tile[0])(codec, box, offset, other)]  # type: ignore[attr-defined]
    return np.asarray(_turned(image)), np.asarray(_turned(again))


def _samples(parts: Sequence[NDArray[Any]]) -> NDArray[np.uint16]:
    """Samples from the same rows of all parts."""
    upper = parts[0].astype(np.uint16)
    return upper if len(parts) == 1 else upper * 256 + parts[1]
