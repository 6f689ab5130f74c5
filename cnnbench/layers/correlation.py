"""The post's convolutions in NumPy, as loops over kernel taps.

Images are (n, height, width, channels), kernels (rows, columns, in, out). As in JAX, PyTorch and
Keras, kernels are not flipped: the forward pass is a correlation, and its kernel is ROT180 of the
post's w. Both conventions have the same backward pass, a full convolution with the rotated kernel
(docs/explanation/gradient.md, which also has the equation numbers).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cnnbench.system.arrays import Array, Pair

Pads = tuple[Pair, Pair]  # before and after rows, before and after columns
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Sizes of a convolution; a transposed convolution is described by its adjoint.

    Args:
      size: height and width of the input.
      kernel: height and width of the kernel.
      stride: vertical and horizontal stride.
      pads: zeros before and after the rows and columns of the input.
    """

    size: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    pads: Pads = ((0, 0), (0, 0))

    @property
    def places(self) -> Pair:
        """Height and width of the output."""
        rows, columns = (self._room(i) // self.stride[i] + 1 for i in (0, 1))
        return rows, columns

    @property
    def remainder(self) -> Pair:
        """Rows and columns at the end of the padded input that the kernel does not reach."""
        rows, columns = (self._room(i) % self.stride[i] for i in (0, 1))
        return rows, columns

    def _room(self, axis: int) -> int:
        """Number of positions that the kernel can move along an axis, at stride one."""
        return self.size[axis] + sum(self.pads[axis]) - self.kernel[axis]


def correlate(a: Array, w: Array, geometry: ConvGeometry) -> Array:
    """Equation (4), without flip: z[x, y] = sum over p, q of w[p, q] a[x + p, y + q].

    Summed over input channels. Without padding, a valid convolution.

    Args:
      a: images, (n, *geometry.size, in).
      w: kernel, (rows, columns, in, out).
      geometry: sizes, stride and padding.

    Returns:
      (n, output rows, output columns, out).
    """
    import numpy as np

    padded = np.pad(a, ((0, 0), *geometry.pads, (0, 0)))
    count = geometry.places
    z = np.zeros((len(a), *count, w.shape[3]), np.result_type(a, w))
    for tap in np.ndindex(w.shape[:2]):
        z += padded[window(tap, count, geometry.stride)] @ w[tap]
    return z


def rot180(w: Array) -> Array:
    """Equation (10): ROT180(w)[x, y] = w[-1 - x, -1 - y], in rows and columns.

    >>> import numpy as np
    >>> rot180(np.array([[1, 2], [3, 4]])).tolist()
    [[4, 3], [2, 1]]
    """
    return w[::-1, ::-1]


def dilated(w: Array, dilation: Pair) -> Array:
    """Inserts dilation - 1 zeros between the taps of a kernel (Yu & Koltun 2016).

    >>> import numpy as np
    >>> dilated(np.ones((1, 2, 1, 1)), (1, 3))[0, :, 0, 0].tolist()
    [1.0, 0.0, 0.0, 1.0]
    """
    import numpy as np

    rows, columns = ((w.shape[i] - 1) * dilation[i] + 1 for i in (0, 1))
    apart = np.zeros((rows, columns, *w.shape[2:]), w.dtype)
    apart[:: dilation[0], :: dilation[1]] = w
    return apart


def convolve_full(delta: Array, w: Array, geometry: ConvGeometry) -> Array:
    """Equations (6), (7), (8), (9) without sigma': full correlation of the errors and ROT180(w).

    The kernel is rotated only once; the post's sign * would rotate it again, because its w is
    ROT180 of this one.

    Errors are propagated to all values that they depend on. With a stride, errors are dilated
    with zeros; the errors of the padding are cropped.

    Args:
      delta: error of the output of a correlation, (n, rows, columns, out).
      w: kernel of the correlation, (rows, columns, in, out).
      geometry: of the correlation.

    Returns:
      Error of the input of the correlation, (n, *geometry.size, in).
    """
    import numpy as np

    apart = _spread(delta, geometry.stride)
    before = [size - 1 for size in w.shape[:2]]
    padded = [geometry.size[i] + sum(geometry.pads[i]) for i in (0, 1)]
    after = [padded[i] - apart.shape[1 + i] for i in (0, 1)]  # k - 1, and the remainder
    around = np.pad(apart, ((0, 0), *zip(before, after, strict=True), (0, 0)))
    flipped = rot180(w).swapaxes(2, 3)  # from outputs to inputs
    everything = correlate(around, flipped, ConvGeometry(around.shape[1:3], w.shape[:2]))
    (top, _), (left, _) = geometry.pads
    return everything[:, top : top + geometry.size[0], left : left + geometry.size[1]]


def kernel_gradient(
    a: Array, delta: Array, shape: tuple[int, ...], geometry: ConvGeometry
) -> Array:
    """Equation (11): dC/dw[p, q] = sum over x, y of delta[x, y] a[x + p, y + q], over all images.

    Args:
      a: input of the correlation, (n, *geometry.size, in).
      delta: error of its output, (n, rows, columns, out).
      shape: kernel shape.
      geometry: sizes, stride and padding.

    Returns:
      The gradient of the kernel, of shape `shape`.
    """
    import numpy as np

    padded = np.pad(a, ((0, 0), *geometry.pads, (0, 0)))
    rows, columns = delta.shape[1:3]
    gradient = np.zeros(shape, np.result_type(a, delta))
    errors = delta.reshape(-1, delta.shape[-1])
    for tap in np.ndindex(shape[:2]):
        seen = padded[window(tap, (rows, columns), geometry.stride)]
        gradient[tap] = seen.reshape(-1, seen.shape[-1]).T @ errors
    return gradient


def window(tap: tuple[int, ...], count: Pair, stride: Pair) -> Slices:
    """Index of the pixels that a kernel tap reads at `count` positions.

    >>> window((1, 0), (2, 2), (3, 1))
    (slice(None, None, None), slice(1, 5, 3), slice(0, 2, 1))
    """
    rows, columns = (
        slice(tap[i], tap[i] + (count[i] - 1) * stride[i] + 1, stride[i]) for i in (0, 1)
    )
    return slice(None), rows, columns


def taps(size: Pair) -> Iterator[tuple[int, ...]]:
    """Rows and columns of a window, in row-major order."""
    import numpy as np

    return np.ndindex(size)


def _spread(delta: Array, stride: Pair) -> Array:
    """Dilates errors with stride - 1 zeros between neighbors."""
    import numpy as np

    n, rows, columns, channels = delta.shape
    size = (rows - 1) * stride[0] + 1, (columns - 1) * stride[1] + 1
    apart = np.zeros((n, *size, channels), delta.dtype)
    apart[:, :: stride[0], :: stride[1]] = delta
    return apart
