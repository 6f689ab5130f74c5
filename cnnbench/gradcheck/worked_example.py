"""Worked example: the post's five steps for one small convolution, with numbers.

Two layers of one channel, kernels of 2x2, relu between them; integers, so that everything
can be checked by hand. It uses the same functions as the gradient check.
"""

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np

from cnnbench.layers.activation import sigma, sigma_prime
from cnnbench.layers.correlation import (
    ConvGeometry,
    convolve_full,
    correlate,
    kernel_gradient,
    rot180,
)
from cnnbench.system.arrays import Array

A1 = np.array([[1.0, 0, 3, 3], [1, 2, 0, 2], [3, 1, 0, 0], [1, 1, 2, 3]])
W2, B2 = np.array([[1.0, -1], [2, 0]]), -2.0
W3 = np.array([[1.0, 2], [-1, 3]])
Y = np.array([[2.0, -1], [11, 6]])
STEP = 2**-10  # exact in binary, and small enough not to cross a kink


def worked_convolution() -> str:
    """The example as text, less than 80 columns wide."""
    return "\n".join([*_forward(), *_backward(), *_weights(), *_rotations()]) + "\n"


def _forward() -> Iterator[str]:
    z2, a2, z3 = _pass()
    yield "One small convolution by hand: an image, two kernels of 2x2, relu between them."
    yield 'Equations such as (4) are those of the documentation, "Backpropagation through'
    yield 'a convolution". "w over a" is cross-correlation, as in JAX, PyTorch and Keras;'
    yield "the post's convolution * flips the kernel, so its w3 is ROT180 of this one."
    yield "C = 1/2 sum (z3 - y)^2; differences take steps of 1/1024."
    yield ""
    yield "Steps 1 and 2, feedforward: z2 = w2 over a1 + b2 (4), a2 = relu(z2) (3)"
    yield from _side_by_side({"a1": A1, "w2, b2 = -2": W2, "z2": z2, "a2": a2})
    yield from _written_out("z2[0,0]", W2, A1[:2, :2], z2[0, 0], "- 2")
    yield ""
    yield f"z3 = w3 over a2, with b3 = 0; C = {_cost():g}"
    yield from _side_by_side({"a2": a2, "w3": W3, "z3": z3, "y": Y})


def _backward() -> Iterator[str]:
    z2, _, z3 = _pass()
    d3 = z3 - Y
    back = _full(d3, W3)
    yield "Step 3, output error: delta3 = dC/dz3 = z3 - y (S3)"
    yield "Step 4, backpropagation: delta2 = (ROT180(w3) over delta3) x relu'(z2) (9)"
    yield from _side_by_side({"delta3, zero-padded": np.pad(d3, 1), "ROT180(w3)": rot180(W3)})
    yield from _side_by_side(
        {"full convolution": back, "relu'(z2)": sigma_prime("relu", z2), "delta2": _delta2()}
    )
    yield "Written out: z2[1,1] contributes to all four z3, so its error is"
    terms = [f"{_number(d3[x, y])} x {_number(W3[1 - x, 1 - y])}" for x, y in np.ndindex(2, 2)]
    yield f"  {' + '.join(terms)} = {_number(back[1, 1])}, and relu'(z2[1,1]) = {int(z2[1, 1] > 0)}"
    slopes = np.array([[_slope_of_z2(x, y) for y in range(3)] for x in range(3)])
    yield ""
    yield "Check: central differences of the cost by each z2; and delta2 without ROT180:"
    unrotated = _full(d3, rot180(W3)) * sigma_prime("relu", z2)
    yield from _side_by_side(
        {"by differences": slopes, "delta2": _delta2(), "not rotated": unrotated}
    )


def _weights() -> Iterator[str]:
    _, a2, z3 = _pass()
    d3, d2 = z3 - Y, _delta2()
    g3, g2 = _gradient(a2, d3), _gradient(A1, d2)
    yield "Step 5, gradients: each weight sums its inputs times their errors (11);"
    yield "the gradient of a shared bias is the sum of all errors (12)"
    yield from _side_by_side({"dC/dw3": g3, "dC/dw2": g2, "w2 by differences": _slopes_of_w2()})
    yield from _written_out("dC/dw3[0,0]", d3, a2[:2, :2], g3[0, 0], "")
    bias = (_cost(b2=B2 + STEP) - _cost(b2=B2 - STEP)) / (2 * STEP)
    yield f"  dC/db2 = sum of delta2 = {_number(d2.sum())}; by differences {_number(bias)}"


def _rotations() -> Iterator[str]:
    z2, a2, z3 = _pass()
    d3 = z3 - Y
    flipped = convolve_valid(sigma("relu", rot180(z2)), d3)
    yield ""
    yield "The post's last formula, delta * sigma(ROT180(z)): sigma is elementwise, so"
    yield "rotating z is the same as rotating a. As a valid convolution (which flips), it"
    yield "gives the gradient of the post's flipped kernel: ROT180 of dC/dw3."
    yield from _side_by_side(
        {
            "sigma(ROT180(z2))": sigma("relu", rot180(z2)),
            "ROT180(sigma(z2))": rot180(a2),
            "delta3 * that": flipped,
            "dC/dw3": _gradient(a2, d3),
        }
    )


def convolve_valid(a: Array, w: Array) -> Array:
    """The post's valid convolution, which flips the kernel: sum of w[p, q] a[x - p, y - q].

    >>> convolve_valid(np.array([[1.0, 2, 4]]), np.array([[1.0, 10]])).tolist()
    [[12.0, 24.0]]
    """
    return _correlate(a, rot180(w))


def _pass(b2: float = B2, w2: Array = W2, nudge: Array | float = 0.0) -> tuple[Array, ...]:
    z2 = _correlate(A1, w2) + b2 + nudge
    a2 = sigma("relu", z2)
    return z2, a2, _correlate(a2, W3)


def _cost(b2: float = B2, w2: Array = W2, nudge: Array | float = 0.0) -> float:
    return float(np.sum((_pass(b2, w2, nudge)[2] - Y) ** 2) / 2)


def _delta2() -> Array:
    z2, _, z3 = _pass()
    return _full(z3 - Y, W3) * sigma_prime("relu", z2)


def _slope_of_z2(x: int, y: int) -> float:
    nudge = np.zeros((3, 3))
    nudge[x, y] = STEP
    return (_cost(nudge=nudge) - _cost(nudge=-nudge)) / (2 * STEP)


def _slopes_of_w2() -> Array:
    slopes = np.zeros_like(W2)
    for tap in np.ndindex(W2.shape):
        change = np.zeros_like(W2)
        change[tap] = STEP
        slopes[tap] = (_cost(w2=W2 + change) - _cost(w2=W2 - change)) / (2 * STEP)
    return slopes


def _correlate(a: Array, w: Array) -> Array:
    return correlate(_image(a), w[:, :, None, None], ConvGeometry(a.shape, w.shape))[0, :, :, 0]


def _full(delta: Array, w: Array) -> Array:
    size = delta.shape[0] + w.shape[0] - 1, delta.shape[1] + w.shape[1] - 1
    return convolve_full(_image(delta), w[:, :, None, None], ConvGeometry(size, w.shape))[
        0, :, :, 0
    ]


def _gradient(a: Array, delta: Array) -> Array:
    size = (a.shape[0] - delta.shape[0] + 1, a.shape[1] - delta.shape[1] + 1)
    at = ConvGeometry(a.shape, size)
    return kernel_gradient(_image(a), _image(delta), (*size, 1, 1), at)[:, :, 0, 0]


def _image(a: Array) -> Array:
    return a[None, :, :, None]


def _side_by_side(arrays: dict[str, Array]) -> Iterator[str]:
    """Matrices side by side, each below its name, with an empty line before and after."""
    blocks = []
    for name, array in arrays.items():
        rows = ["".join(f"{_number(value):>5}" for value in row) for row in array]
        width = max(len(name), *map(len, rows)) + 3
        blocks.append([name.ljust(width), *(row.ljust(width) for row in rows)])
    widths = [len(block[0]) for block in blocks]
    yield ""
    for line in zip_longest(*blocks):
        cells = [cell or " " * width for cell, width in zip(line, widths, strict=True)]
        yield f"  {''.join(cells)}".rstrip()
    yield ""


def _written_out(name: str, one: Array, other: Array, total: float, rest: str) -> Iterator[str]:
    """A sum of products, written out."""
    pairs = zip(one.flat, other.flat, strict=True)
    terms = " + ".join(f"{_number(a)} x {_number(b)}" for a, b in pairs)
    yield f"  {name} = {terms}{' ' + rest if rest else ''} = {_number(total)}"


def _number(value: float) -> str:
    """A number without trailing zeros, and never -0."""
    return f"{value + 0.0:g}"
