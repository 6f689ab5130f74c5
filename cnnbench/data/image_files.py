"""PNG and JPEG files as images of a dataset: what a network sees of them."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import DataError, UsageError
from cnnbench.system.arrays import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

InvertMode = Literal["auto", "yes", "no"]
PNG = b"\x89PNG\r\n\x1a\n"  # what a PNG file begins with
MOST_PIXELS = 50_000_000  # of a file; more would fill the memory
WHITE, BLACK = 255, 0
MIDDLE = 127.5  # between black and white
INK = 20 / 28  # of an image's side, as in MNIST
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)  # Pillow's, of files


@dataclass(frozen=True, slots=True)
class Framing:
    """How a file becomes an image of a dataset.

    Args:
      invert: whether light and dark are swapped; ``auto`` does so for a grey image with a light
        border, because the sets of grey images are light on dark.
      trim: cut to the ink and centre it, as MNIST's makers did (LeCun et al. 1998).
    """

    invert: InvertMode = "auto"
    trim: bool = False


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Photograph:
    """A file as a network sees it.

    Args:
      file: its name.
      width: of the file, in pixels.
      height: of the file, in pixels.
      pixels: (h, w, c) of the dataset.
      border: mean brightness of the border before light and dark were swapped, 0 to 255.
      inverted: whether they were.
    """

    file: str
    width: int
    height: int
    pixels: Pixels
    border: float
    inverted: bool


def read_photograph(file: Path, shape: tuple[int, int, int], framing: Framing) -> Photograph:
    """Reads a file: its middle part, scaled to the size of a dataset's images.

    It is turned as its camera says, its transparent parts become white (black where the rest is
    white), colours become grey (or grey becomes colours) as the dataset has them. A file of the
    dataset's own size is taken pixel by pixel.

    Args:
      file: a PNG or JPEG file.
      shape: height, width and channels of the dataset's images.
      framing: how it is cut, and whether it is inverted.

    Raises:
      UsageError: there is no such file, or the dataset has neither grey nor colour images.
      DataError: it is no picture, a damaged, an animated or a huge one, or has no ink to trim to.
    """
    if shape[2] not in {1, 3}:
        message = f"{file}: the network reads images of {shape[2]} channels"
        raise UsageError(f"{message}, and a picture has 1 (grey) or 3 (colour).")
    if shape[2] == 3 and framing.trim:
        raise UsageError("--trim: the network reads colours, which have no ink; leave it out.")
    upright = _upright(file, shape[2])
    height, width = shape[:2]
    seen = _fitted(upright, height, width)
    border = float(_border(seen).mean())
    inverted = framing.invert == "yes" or (
        framing.invert == "auto" and shape[2] == 1 and border > MIDDLE
    )
    if framing.trim:
        whole = np.asarray(upright)
        seen = _trimmed(file, ~whole if inverted else whole, height, width)
    elif inverted:
        seen = ~seen  # 255 less each of 8 bits
    pixels = seen.reshape(shape)
    return Photograph(str(file), upright.width, upright.height, pixels, border, inverted)


@contextmanager
def _opened(file: Path) -> "Iterator[Image]":
    """The picture in a file, which Pillow decodes in the body."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see MOST_PIXELS
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                _require_one(file, image)
                yield image
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file; name a PNG or JPEG file.") from None
    except Image.DecompressionBombError:
        raise _too_large(file) from None
    except UnidentifiedImageError:
        raise _unidentified(file) from None
    except BROKEN as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise DataError(f"{file}: cannot be read: {reason}; save it anew.") from None


def _require_one(file: Path, image: "Image") -> None:
    if image.width * image.height > MOST_PIXELS:
        raise _too_large(file)
    # Phones put a preview behind a photograph (MPO), which is no animation.
    frames = getattr(image, "n_frames", 1) if image.format == "PNG" else 1
    if frames > 1:
        raise DataError(f"{file}: is an animation of {frames} pictures; save one of them.")


def _too_large(file: Path) -> DataError:
    most = MOST_PIXELS // 1_000_000
    return DataError(f"{file}: has more than {most} million pixels; save it smaller.")


def _unidentified(file: Path) -> DataError:
    """Pillow does not say whether a file is of another format, or of a kind that it cannot read."""
    with file.open("rb") as content:
        start = content.read(len(PNG))
    for name, magic in (("PNG", PNG), ("JPEG", b"\xff\xd8\xff")):
        if start.startswith(magic):
            kind = f"is a damaged {name} file, or one of a kind that cannot be read"
            return DataError(f"{file}: {kind}; save it with 8 bits a channel.")
    return DataError(f"{file}: is no PNG or JPEG file; save it as one.")


def _upright(file: Path, channels: int) -> "Image":
    """Turned as the camera says, in the channels of the dataset, on white.

    White ink on a transparent ground is on black instead: on white there would be nothing.
    """
    seen = _on_paper(file, channels, WHITE)
    return _on_paper(file, channels, BLACK) if np.asarray(seen).min() == WHITE else seen


def _on_paper(file: Path, channels: int, paper: int) -> "Image":
    from PIL import Image

    with _opened(file) as image:
        depth = _bit_depth(file) if image.format == "PNG" else 8
        if depth == 16:
            turned = Image.fromarray(_deep(file, image, paper))
        else:
            turned = _turned(image)
            _scale_transparent(turned, depth)
        if turned.has_transparency_data:
            turned = turned.convert("RGBA")
            ground = Image.new("RGBA", turned.size, (paper, paper, paper, 255))
            turned = Image.alpha_composite(ground, turned)
        return turned.convert("L" if channels == 1 else "RGB")


def _turned(image: "Image") -> "Image":
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _bit_depth(file: Path) -> int:
    """Bits of a sample of a PNG file, 1 to 16, from its header."""
    with file.open("rb") as content:
        return content.read(25)[24]


def _scale_transparent(image: "Image", depth: int) -> None:
    """The grey that is transparent is written in the file's own bits, pixels have 8.

    Of a value that has more bits than a sample the low ones count (PNG, section 11.3.2.1).
    """
    transparent, most = image.info.get("transparency"), 2**depth - 1
    if image.mode == "L" and isinstance(transparent, int):
        image.info["transparency"] = (transparent & most) * 255 // most
    elif image.mode == "RGB" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value & most for value in transparent)


def _deep(file: Path, image: "Image", paper: int) -> Pixels:
    """A PNG file of 16 bits a sample, (h, w) or (h, w, 3), rounded to 8 bits, on white or black.

    Pillow keeps the upper 8 bits of all but grey without alpha, so the file is read once more
    for the lower ones: as if the bytes of a sample stood in the other order.
    """
    with _opened(file) as again:
        samples = _samples(image, again)
    has_alpha, transparent = samples.shape[2] in {2, 4}, image.info.get("transparency")
    seen = (samples[..., :-1] if has_alpha else samples) / np.float32(257)
    if has_alpha:
        opaque = samples[..., -1:] / np.float32(65_535)
        seen = paper - (paper - seen) * opaque
    elif transparent is not None:
        seen[(samples == transparent).all(axis=2)] = paper
    pixels: Pixels = seen.round().astype(np.uint8)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _samples(image: "Image", again: "Image") -> NDArray[np.uint16]:
    """16-bit samples, (h, w, c), of a file that was opened twice and not yet decoded."""
    if image.mode.startswith("I"):
        return np.asarray(_turned(image)).astype(np.uint16)[..., None]
    codec, box, offset, raw = again.tile[0]  # type: ignore[attr-defined]
    if raw == "LA;16B":  # 4 bytes a pixel: grey and alpha, the upper one first
        again.tile = [type(again.tile[0])(codec, box, offset, "RGBA")]  # type: ignore[attr-defined]
        return np.ascontiguousarray(_turned(again)).view(">u2").astype(np.uint16)
    other = raw.replace("16B", "16L")
    again.tile = [type(again.tile[0])(codec, box, offset, other)]  # type: ignore[attr-defined]
    upper, lower = (np.asarray(_turned(each)).astype(np.uint16) for each in (image, again))
    return upper * 256 + lower


def _fitted(image: "Image", height: int, width: int) -> Pixels:
    """The largest middle part of a shape, scaled; the mean of what falls into a pixel."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))


def _border(pixels: Pixels) -> Pixels:
    """The outermost pixels, (n, ...)."""
    sides = (pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1])
    return np.concatenate(sides)


def _trimmed(file: Path, pixels: Pixels, height: int, width: int) -> Pixels:
    """Light ink on a dark ground, its box scaled to `INK` of the size, its mass in the middle."""
    from PIL import Image

    ground = float(np.median(pixels))
    spread = float(pixels.max()) - ground
    if spread < 32:
        raise DataError(f"{file}: there is no ink to trim to; leave out --trim.")
    ink = np.clip((pixels - ground) / spread, 0, 1)
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis=axis)) for axis in (1, 0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = min(INK * height / box.shape[0], INK * width / box.shape[1])
    size = [max(1, round(scale * side)) for side in box.shape]
    small = Image.fromarray((255 * box).round().astype(np.uint8)).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    part = np.asarray(small)
    if not part.any():  # only specks, far apart
        raise DataError(f"{file}: there is no ink to trim to; leave out --trim.")
    seen = np.zeros((height, width), np.uint8)
    top, left = (_start(part, axis, room) for axis, room in enumerate((height, width)))
    seen[top : top + size[0], left : left + size[1]] = part
    return seen


def _start(part: Pixels, axis: int, room: int) -> int:
    """Where a part begins so that its mass is in the middle, as far as there is room.

    In MNIST that is in the middle of pixel 14 of 0 to 27.
    """
    mass = part.sum(axis=1 - axis, dtype=np.float64)
    centre = float((mass * np.arange(len(mass))).sum() / mass.sum())
    return min(max(round(room / 2 - centre), 0), room - len(mass))
