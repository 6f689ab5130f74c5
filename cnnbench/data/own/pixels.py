"""Converts stored arrays to images, uint8 ``(n, h, w, c)``."""

import math
from collections.abc import Mapping

import numpy as np

from cnnbench.data.catalog import ArrayOptions, ChannelOrder
from cnnbench.data.own.stored import Raw, short, unequal
from cnnbench.errors import DataError
from cnnbench.system.arrays import Array, Pixels

_AT_ONCE = 4_096  # images converted at a time, to limit memory
_ROUNDING = 1e-3  # interpolation leaves values slightly outside 0 to 1
_DIM = 64  # a smaller maximum is unlikely for pixels from 0 to 255


def require_count(images: Raw, labels: Raw) -> None:
    """Raises DataError unless there is a label per image, and at least one image."""
    shape, found = images.values.shape, labels.values.shape
    num_images, num_labels = (each[0] if each else 0 for each in (shape, found))
    if not num_images or 0 in shape:
        raise DataError(f"{images.where}: has no images (shape {shape}); check the file")
    if num_images != num_labels:
        moved = len(shape) == 4 and shape[-1] == num_labels
        remedy = (
            "move the last axis to the front with np.moveaxis(x, -1, 0)"
            if moved
            else "use one per image"
        )
        raise DataError(
            f"{labels.where}: has {num_labels:,} labels for the {num_images:,} images of "
            f"{short(images.where)}; {remedy}"
        )


def to_pixels(
    images: Mapping[str, Raw], options: ArrayOptions
) -> tuple[dict[str, Pixels], tuple[str, ...]]:
    """Converts images to uint8 ``(n, h, w, c)``, all in the same way."""
    first = images["train_images"]
    for each in images.values():
        if each.values.dtype.kind not in "buif":
            raise DataError(f"{each.where}: has dtype {each.values.dtype}; save pixels as uint8")
        if each.values.shape[1:] != first.values.shape[1:]:
            raise unequal(each, first)
    shaped, note = _channels_last(images, options)
    black, white = _value_range(images, options.value_range)
    kind = f"{first.values.dtype.name} in [{black:g}, {white:g}]"
    notes = () if first.values.dtype == np.uint8 and white == 255 else (kind,)
    converted = {role: _to_bytes(each, black, white) for role, each in shaped.items()}
    return converted, (*notes, *([note] if note else []))


def _channels_last(
    images: Mapping[str, Raw], options: ArrayOptions
) -> tuple[dict[str, Array], str]:
    """Moves the axis of channels to the end, which is added to grayscale images."""
    first = images["train_images"]
    inner = first.values.shape[1:]
    if len(inner) == 1:
        inner = _unflattened(first, options)
    elif len(inner) == 2:
        inner = (*inner, 1)
    elif len(inner) != 3:
        raise DataError(
            f"{first.where}: has shape {first.values.shape}; use (n, height, width) or "
            "(n, height, width, channels)"
        )
    flat = first.values.ndim == 2
    layout = _layout(first, inner, options) if first.values.ndim == 4 or flat else "channels_last"
    shaped = {role: each.values.reshape(-1, *inner) for role, each in images.items()}
    if layout == "channels_first":
        shaped = {role: np.moveaxis(each, 1, -1) for role, each in shaped.items()}
    shape = shaped["train_images"].shape[1:]
    if options.shape is not None and shape != options.shape:
        raise DataError(
            f"{first.where}: has images of shape {list(shape)}, not {list(options.shape)}; "
            "correct or remove dataset.shape"
        )
    return shaped, "channels first" if layout == "channels_first" else ""


def _unflattened(raw: Raw, options: ArrayOptions) -> tuple[int, int, int]:
    """Shape in the file of flattened images."""
    num = raw.values.shape[1]
    if options.shape is not None:
        if math.prod(options.shape) != num:
            raise DataError(
                f"{raw.where}: has {num} pixel values per image, not {math.prod(options.shape)} "
                f"as in dataset.shape: {list(options.shape)}; correct the shape"
            )
        height, width, channels = options.shape
        return (channels, height, width) if options.layout == "channels_first" else options.shape
    if (side := math.isqrt(num)) ** 2 == num:
        return (1, side, side) if options.layout == "channels_first" else (side, side, 1)
    third = math.isqrt(num // 3)
    guess = f"[{third}, {third}, 3]" if 3 * third**2 == num else "[HEIGHT, WIDTH, CHANNELS]"
    raise DataError(
        f"{raw.where}: has {num} pixel values per image, which is not a square number; set "
        f"dataset.shape: {guess}"
    )


def _layout(raw: Raw, inner: tuple[int, ...], options: ArrayOptions) -> ChannelOrder:
    """Order of the axes of images, from the sizes: 1 or 3 channels, or else 2 or 4."""
    if options.layout is not None:
        return options.layout
    if inner[-1] == 1 and raw.values.ndim == 2:
        return "channels_last"
    if raw.values.ndim == 4:
        for likely in ((1, 3), (2, 4)):
            first, last = inner[0] in likely, inner[-1] in likely
            if first != last:
                return "channels_first" if first else "channels_last"
            if first:
                break
    raise DataError(
        f"{raw.where}: the channel axis is ambiguous in shape {raw.values.shape}; set "
        "dataset.layout: channels_first or channels_last"
    )


def _value_range(
    images: Mapping[str, Raw], wanted: tuple[float, float] | None
) -> tuple[float, float]:
    """Values of black and white: 0 to 1 or 0 to 255, unless given."""
    for each in images.values():
        if each.values.dtype.kind == "f" and not (finite := np.isfinite(each.values)).all():
            bad = int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
            raise DataError(f"{each.where}: image {bad} has non-finite values; remove it")
    low = min(float(each.values.min()) for each in images.values())
    high = max(float(each.values.max()) for each in images.values())
    if wanted is None:
        usual = all(each.values.dtype == np.uint8 for each in images.values())
        if low >= -_ROUNDING and high <= 1 + _ROUNDING:
            return 0.0, 1.0
        if low >= 0 and (high >= _DIM or usual) and high <= 255:
            return 0.0, 255.0
    elif wanted[0] <= low and high <= wanted[1]:
        return wanted
    where = images["train_images"].where
    but = f", outside dataset.value_range: [{wanted[0]:g}, {wanted[1]:g}]" if wanted else ""
    raise DataError(
        f"{where}: has pixel values from {low:.5g} to {high:.5g}{but}; set "
        f"dataset.value_range: {_likely_range(low, high)}, the values of black and white"
    )


def _likely_range(low: float, high: float) -> str:
    """The usual range that contains all values, such as [-1, 1] or [0, 4095].

    >>> _likely_range(-0.9, 1), _likely_range(0, 3_000), _likely_range(0, 16)
    ('[-1, 1]', '[0, 4095]', '[0, 16]')
    """
    if low >= -1 and high <= 1:
        return "[-1, 1]"
    if low >= 0 and high > 255:
        return f"[0, {2 ** int(high).bit_length() - 1}]"
    return f"[{min(low, 0):.5g}, {high:.5g}]"


def _to_bytes(images: Array, black: float, white: float) -> Pixels:
    """Scales pixel values to 0 to 255, rounded."""
    if images.dtype == np.uint8 and (black, white) == (0, 255):
        return np.ascontiguousarray(images)
    pixels = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE].astype(np.float64)
        scaled = (part - black) * (255 / (white - black))
        pixels[start : start + _AT_ONCE] = scaled.round().clip(0, 255)
    return pixels
