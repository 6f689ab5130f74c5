"""Small images as PNG, pixel by pixel: dataset images and sheets of kernels."""

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SHEET, _CELL, _GAP = 356, 40, 4  # pixels: width of a sheet, of a kernel (about), of a gap
_BELOW, _ZERO, _ABOVE = (33, 102, 172), (247, 247, 247), (178, 24, 43)


class Picture(NamedTuple):
    """An image for a page.

    Args:
      png: content of the file.
      width: in pixels.
      height: in pixels.
    """

    png: bytes
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The content as a data URI, so that a page needs no other file."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def photograph(image: NDArray[Any]) -> Picture:
    """Encodes an image of a dataset.

    Args:
      image: (h, w, 1) or (h, w, 3), from 0 to 255.
    """
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return _png(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def kernel_sheet(images: NDArray[np.floating[Any]]) -> tuple[Picture, float]:
    """Draws kernels side by side; also returns the largest absolute weight.

    Single-channel weights are blue below zero, white at zero and red above. Three-channel kernels
    are RGB, gray at zero; other channel counts are summed over channels.

    Args:
      images: (n, h, w, c).
    """
    if images.shape[-1] not in (1, 3):
        images = images.sum(axis=-1, keepdims=True)
    largest = float(np.abs(images).max()) or 1.0
    share = images / largest
    colors = share * 127.5 + 127.5 if share.shape[-1] == 3 else _diverging(share)
    height, width = images.shape[1:3]
    scale = max(2, round(_CELL / max(height, width)))
    columns = max(1, _SHEET // (width * scale + _GAP))
    sheet = mosaic(colors.round(), columns, gap=_GAP, scale=scale)
    seen = 255.0 * ~np.isnan(sheet[..., :1])
    return _png(np.concatenate([np.nan_to_num(sheet), seen], axis=-1).astype(np.uint8)), largest


def mosaic(tiles: NDArray[Any], columns: int, *, gap: int = 1, scale: int = 1) -> NDArray[Any]:
    """Arranges tiles in rows with gaps; pixels outside the tiles are NaN.

    Args:
      tiles: (n, h, w), or (n, h, w, c).
      columns: tiles per row.
      gap: pixels between tiles.
      scale: pixels per value, in each direction.
    """
    columns = min(columns, len(tiles))
    large = tiles.astype(float).repeat(scale, axis=1).repeat(scale, axis=2)
    edges = [(0, -len(tiles) % columns), (0, gap), (0, gap), *[(0, 0)] * (tiles.ndim - 3)]
    padded = np.pad(large, edges, constant_values=np.nan)
    _, height, width, *rest = padded.shape
    grid = padded.reshape(-1, columns, height, width, *rest).swapaxes(1, 2)
    joined: NDArray[Any] = grid.reshape(-1, columns * width, *rest)
    return joined[:-gap, :-gap] if gap else joined


def _diverging(share: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Diverging colors (..., 3) of weights (..., 1) from -1 to 1."""
    zero = np.array(_ZERO, np.float64)
    ends = np.where(share < 0, np.array(_BELOW, np.float64), np.array(_ABOVE, np.float64))
    mixed: NDArray[np.float64] = zero + np.abs(share) * (ends - zero)
    return mixed


def _png(pixels: NDArray[np.uint8]) -> Picture:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return Picture(buffer.getvalue(), pixels.shape[1], pixels.shape[0])


def read_png(content: bytes) -> Picture:
    """Reads the size of an existing PNG file.

    Args:
      content: of the file.
    """
    from PIL import Image

    width, height = Image.open(io.BytesIO(content)).size
    return Picture(content, width, height)
