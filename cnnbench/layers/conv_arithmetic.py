"""How many outputs a convolution has along an axis, and what is padded for it."""

import math

from cnnbench.layers import Conv, ConvTranspose

Pads = tuple[tuple[int, int], tuple[int, int]]


def conv_size(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """Outputs of a convolution along one axis (Dumoulin & Visin 2016, relationship 6).

    >>> conv_size(28, 5, 1, (0, 0))
    24
    """
    return (size + sum(pad) - kernel) // stride + 1


def same_pad(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after so that ceil(size / stride) outputs remain (TensorFlow's SAME).

    >>> same_pad(28, 5, 1), same_pad(28, 2, 2)
    ((2, 2), (0, 0))
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv_pads(op: Conv | ConvTranspose, size: tuple[int, ...], kernel: tuple[int, ...]) -> Pads:
    """Zeros before and after rows and columns for an image of `size` (height, width)."""
    match op.padding:
        case "valid":
            return (0, 0), (0, 0)
        case "same":
            rows, columns = (same_pad(size[i], kernel[i], op.stride[i]) for i in (0, 1))
            return rows, columns
        case (height, width):
            return (height, height), (width, width)


def transposed_size(size: int, kernel: int, stride: int, padding: str | int) -> int:
    """The smallest input of a convolution with `size` outputs along one axis.

    For ``same`` it is the customary `size * stride`.

    >>> transposed_size(8, 5, 1, "valid"), transposed_size(7, 3, 2, "same")
    (12, 14)
    """
    if padding == "same":
        return size * stride
    pad = 0 if isinstance(padding, str) else padding
    return (size - 1) * stride + kernel - 2 * pad
