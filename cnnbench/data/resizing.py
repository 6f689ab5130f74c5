"""Scales images, with antialiasing."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from cnnbench.data.catalog import ImageForm
from cnnbench.errors import DataError
from cnnbench.system.arrays import NamedArrays, Pixels
from cnnbench.system.host import num_cpus

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 2**32  # of resized images, to limit memory


def resized(image: "Image", size: tuple[int, int], form: ImageForm) -> "Image":
    """Scales an image; Pillow averages all pixels that are merged (antialiasing)."""
    from PIL import Image, ImageOps

    shape, bilinear = (size[1], size[0]), Image.Resampling.BILINEAR
    if form.method == "crop":
        return ImageOps.fit(image, shape, bilinear)
    if form.method == "fit":
        ground = Image.new("RGB", (1, 1), form.background).convert(image.mode).getpixel((0, 0))
        return ImageOps.pad(image, shape, bilinear, color=ground)  # type: ignore[arg-type]
    return image.resize(shape, bilinear)


def resized_image(image: Pixels, size: tuple[int, int], form: ImageForm) -> Pixels:
    """Scales an image, ``(h, w, c)``: colors together, any other channels one by one."""
    from PIL import Image

    if image.shape[2] == 3:
        return np.asarray(resized(Image.fromarray(image), size, form))
    channels = [Image.fromarray(image[..., i]) for i in range(image.shape[2])]
    return np.stack([np.asarray(resized(each, size, form)) for each in channels], axis=-1)


def resized_splits(arrays: NamedArrays, form: ImageForm | None) -> NamedArrays:
    """Scales the images of all splits, ``(n, h, w, c)``.

    Raises:
      DataError: the images would need too much memory.
    """
    return {
        role: _resized_images(array, form.size, form)
        if form and form.size and role.endswith("images")
        else array
        for role, array in arrays.items()
    }


def require_memory(num: int, shape: tuple[int, ...]) -> None:
    """Raises DataError if this number of images of a shape, in bytes, needs too much memory."""
    if (needed := num * math.prod(shape)) > MOST_BYTES:
        raise DataError(
            f"dataset.resize: {num:,} images need {needed / 2**30:.1f} GiB of memory, more than the"
            f" {MOST_BYTES >> 30} GiB allowed; use a smaller size"
        )


def _resized_images(images: Pixels, size: tuple[int, int], form: ImageForm) -> Pixels:
    if images.shape[1:3] == size:
        return images
    shape = (len(images), *size, images.shape[3])
    require_memory(len(images), shape[1:])
    scaled = np.empty(shape, np.uint8)

    def scale(at: int) -> None:
        scaled[at] = resized_image(images[at], size, form)

    with ThreadPoolExecutor(num_cpus()) as pool:
        for _ in pool.map(scale, range(len(images))):
            pass
    return scaled
