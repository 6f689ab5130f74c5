"""The post's convolutions in NumPy, a loop over the taps of the kernel.

Images are (n, height, width, channels), kernels (rows, columns, in, out). As in JAX, PyTorch and
Keras no kernel is flipped: the forward pass is a correlation, whose kernel is ROT180 of the w in
the post. Both have the same backward pass, a full convolution with the other one of the two
(docs/explanation/gradient.md). Equations are numbered as there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cnnbench.system.arrays import Array, Pair

Pads = tuple[Pair, Pair]  # before and after rows, before and after columns
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """A convolution in plain integers; a transposed one is described by the one it is adjoint to.

    Args:
      size: height and width of the image that is read.
      kernel: height and width of the kernel.
      stride: rows and columns between two places of the kernel.
      pads: zeros before and after the image's rows and columns.
    """

    size: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    pads: Pads = ((0, 0), (0, 0))

    @property
    def places(self) -> Pair:
        """Outputs by rows and columns."""
        rows, columns = (self._room(i) // self.stride[i] + 1 for i in (0, 1))
        return rows, columns

    @property
    def remainder(self) -> Pair:
        """Rows and columns of the padded image that no kernel reaches, at its end."""
        rows, columns = (self._room(i) % self.stride[i] for i in (0, 1))
        return rows, columns

    def _room(self, axis: int) -> int:
        """Steps that a kernel at the start could move until it meets the end."""
        return self.size[axis] + sum(self.pads[axis]) - self.kernel[axis]


def correlate(a: Array, w: Array, geometry: ConvGeometry) -> Array:
    """Equation (4), as frameworks have it: z[x, y] = sum over taps of w[p, q] a[x + p, y + q].

    A valid convolution where nothing is padded. Channels add up.

    Args:
      a: images, (n, *geometry.size, in).
      w: kernel, (rows, columns, in, out).
      geometry: where the kernel stands.

    Returns:
      (n, outputs by rows, by columns, out).
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


def convolve_full(delta: Array, w: Array, geometry: ConvGeometry) -> Array:
    """Equations (6), (7), (8) and (9), but for sigma': ROT180(w) is laid on the errors, in full.

    Nothing turns it once more, as the post's sign * would; its w is ROT180 of this one.

    Each error reaches every value that it came from. With a stride, its neighbours stand apart,
    with zeros between; what the padding received is cut off.

    Args:
      delta: error of a correlation's result, (n, rows, columns, out).
      w: the correlation's kernel, (rows, columns, in, out).
      geometry: that of the correlation.

    Returns:
      Error of what the correlation read, (n, *geometry.size, in).
    """
    import numpy as np

    apart = _spread(delta, geometry.stride)
    before = [size - 1 for size in w.shape[:2]]
    padded = [geometry.size[i] + sum(geometry.pads[i]) for i in (0, 1)]
    after = [padded[i] - apart.shape[1 + i] for i in (0, 1)]  # k - 1, and what no tap reached
    around = np.pad(apart, ((0, 0), *zip(before, after, strict=True), (0, 0)))
    flipped = rot180(w).swapaxes(2, 3)  # from the outputs back to the inputs
    everything = correlate(around, flipped, ConvGeometry(around.shape[1:3], w.shape[:2]))
    (top, _), (left, _) = geometry.pads
    return everything[:, top : top + geometry.size[0], left : left + geometry.size[1]]


def kernel_gradient(
    a: Array, delta: Array, shape: tuple[int, ...], geometry: ConvGeometry
) -> Array:
    """Equation (11): dC/dw[p, q] = sum over x, y of delta[x, y] a[x + p, y + q], over all images.

    Args:
      a: what the correlation read, (n, *geometry.size, in).
      delta: error of its result, (n, rows, columns, out).
      shape: of the kernel.
      geometry: where the kernel stands.
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
    """The pixels of all images that one tap meets, in `count` places.

    >>> window((1, 0), (2, 2), (3, 1))
    (slice(None, None, None), slice(1, 5, 3), slice(0, 2, 1))
    """
    rows, columns = (
        slice(tap[i], tap[i] + (count[i] - 1) * stride[i] + 1, stride[i]) for i in (0, 1)
    )
    return slice(None), rows, columns


def taps(size: Pair) -> Iterator[tuple[int, ...]]:
    """Rows and columns of a window, in the order of reading."""
    import numpy as np

    return np.ndindex(size)


def _spread(delta: Array, stride: Pair) -> Array:
    """Errors with stride - 1 zeros between neighbours."""
    import numpy as np

    n, rows, columns, channels = delta.shape
    size = (rows - 1) * stride[0] + 1, (columns - 1) * stride[1] + 1
    apart = np.zeros((n, *size, channels), delta.dtype)
    apart[:, :: stride[0], :: stride[1]] = delta
    return apart
