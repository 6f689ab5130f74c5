"""How each operation of the layer language goes forward, and how an error goes back through it.

One function for each operation, which gives its `Rule`; `rulebook` picks it. In the words of the
post, a rule's forward pass ends at z; the activation that follows is `backprop`'s, so that a
`delta` is always the error of z. All in NumPy, on images (n, height, width, channels) and
vectors (n, units). Equations are numbered as in docs/gradient.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.layers import AvgPool, MaxPool, Slice, Upscale
from cnnbench.layers.correlation import (
    Grid,
    convolve_full,
    correlate,
    kernel_gradient,
    taps,
    window,
)
from cnnbench.layers.shapes import Shape

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """One operation, with its weights in it.

    Args:
      forward: z from what the layer reads, one array for each input.
      backward: the error of each input from delta, the error of z, and the inputs.
      gradient: the derivative of the cost by each weight that is used, from the same; a tied
        kernel's is this use's share.
      side: on which side of its kinks each value is; None where the operation is smooth.
    """

    forward: Callable[..., Array]
    backward: Callable[..., tuple[Array, ...]]
    gradient: Callable[..., dict[str, Array]] = lambda *_: {}
    side: Callable[..., Array] | None = None


def conv(w: Array, b: Array | None, grid: Grid) -> Rule:
    """Equations (4) forward, (9) backward, (11) for the kernel and (12) for the bias."""
    return Rule(
        forward=lambda a: _plus(correlate(a, w, grid), b),
        backward=lambda delta, _: (convolve_full(delta, w, grid),),
        gradient=lambda delta, a: (
            {"kernel": kernel_gradient(a, delta, w.shape, grid)} | bias_gradient(delta, b)
        ),
    )


def conv_transpose(w: Array, b: Array | None, grid: Grid) -> Rule:
    """Equation (15), the adjoint: forward is what goes back through `conv`, and the reverse.

    Args:
      w: kernel of the convolution that it is the adjoint of, (rows, columns, in, out).
      b: one value for each of that convolution's input channels.
      grid: where that convolution's kernel stands, in the image that is made here.
    """
    return Rule(
        forward=lambda a: _plus(convolve_full(a, w, grid), b),
        backward=lambda delta, _: (correlate(delta, w, grid),),
        gradient=lambda delta, a: (
            {"kernel": kernel_gradient(delta, a, w.shape, grid)} | bias_gradient(delta, b)
        ),
    )


def dense(w: Array, b: Array | None, shape: Shape) -> Rule:
    """Equations (2) forward, (M1) backward and (M2) for the kernel; an image is flattened first.

    Args:
      w: kernel, (in, units); the post's w[j, k] is w[k, j] here.
      b: bias, (units,).
      shape: of one input.
    """
    return Rule(
        forward=lambda a: _plus(_flat(a) @ w, b),
        backward=lambda delta, _: ((delta @ w.T).reshape(-1, *shape),),
        gradient=lambda delta, a: {"kernel": _flat(a).T @ delta} | bias_gradient(delta, b),
    )


def max_pool(op: MaxPool, shape: Shape) -> Rule:
    """Equation (13): the error goes to the largest value of a window; of equal ones to the first.

    Args:
      op: window and stride.
      shape: of the result.
    """
    stride, count = op.stride or op.size, (shape[0], shape[1])

    def largest(a: Array) -> tuple[Array, Array]:
        value = a[window((0, 0), count, stride)]
        chosen = np.zeros(value.shape, int)
        for number, tap in enumerate(taps(op.size)):
            seen = a[window(tap, count, stride)]
            chosen = np.where(seen > value, number, chosen)
            value = np.maximum(seen, value)
        return value, chosen

    def backward(delta: Array, a: Array) -> tuple[Array]:
        error, chosen = np.zeros_like(a), largest(a)[1]
        for number, tap in enumerate(taps(op.size)):
            error[window(tap, count, stride)] += np.where(chosen == number, delta, 0)
        return (error,)

    return Rule(lambda a: largest(a)[0], backward, side=lambda a: largest(a)[1])


def avg_pool(op: AvgPool, shape: Shape) -> Rule:
    """Equation (13): the error is shared out evenly over the window."""
    stride, count, share = op.stride or op.size, (shape[0], shape[1]), math.prod(op.size)

    def forward(a: Array) -> Array:
        total = sum(a[window(tap, count, stride)] for tap in taps(op.size))
        return np.asarray(total / share)

    def backward(delta: Array, a: Array) -> tuple[Array]:
        error = np.zeros_like(a)
        for tap in taps(op.size):
            error[window(tap, count, stride)] += delta / share
        return (error,)

    return Rule(forward, backward)


def global_avg_pool() -> Rule:
    """Equation (13) with one window, the whole image."""

    def backward(delta: Array, a: Array) -> tuple[Array]:
        share = delta[:, None, None, :] / math.prod(a.shape[1:3])
        return (np.broadcast_to(share, a.shape),)

    return Rule(lambda a: a.mean(axis=(1, 2)), backward)


def upscale(op: Upscale, shape: Shape) -> Rule:
    """Equation (14): the errors of a pixel's copies add up."""
    (height, width, channels), (rows, columns) = shape, op.size

    def backward(delta: Array, _: Array) -> tuple[Array]:
        copies = delta.reshape(-1, height, rows, width, columns, channels)
        return (copies.sum(axis=(2, 4)),)

    return Rule(lambda a: a.repeat(rows, axis=1).repeat(columns, axis=2), backward)


def dropout(kept: Array | None, gain: float) -> Rule:
    """Equation (14): what was dropped takes no error, and the rest as much more as it gave.

    Args:
      kept: whether each value was; None for all.
      gain: what the kept ones are multiplied by; masking noise has none.
    """
    if kept is None:
        return same()
    return Rule(lambda a: a * kept * gain, lambda delta, _: (delta * kept * gain,))


def gaussian_noise(noise: Array | None, stddev: float) -> Rule:
    """Equation (14): what is added takes no part of the error."""
    assert noise is not None
    return Rule(lambda a: a + stddev * noise, lambda delta, _: (delta,))


def sample(noise: Array | None) -> Rule:
    """Equation (18): z = mean + exp(log variance / 2) noise; both take their share.

    The divergence that it adds to the cost is `objective`'s.
    """
    assert noise is not None

    def backward(delta: Array, _: Array, log_variance: Array) -> tuple[Array, Array]:
        return delta, delta * noise * np.exp(log_variance / 2) / 2

    return Rule(lambda mean, lv: mean + np.exp(lv / 2) * noise, backward)


def channels(op: Slice, total: int) -> Rule:
    """Equation (14): the channels that were left out take no error."""
    after = total - op.start - op.size

    def backward(delta: Array, _: Array) -> tuple[Array]:
        return (np.pad(delta, [(0, 0)] * (delta.ndim - 1) + [(op.start, after)]),)

    return Rule(lambda a: a[..., op.start : op.start + op.size], backward)


def reshape(before: Shape, after: Shape) -> Rule:
    """Equation (14): the same values in another shape, and back; `flatten` too."""
    return Rule(lambda a: a.reshape(-1, *after), lambda delta, _: (delta.reshape(-1, *before),))


def concat(shapes: tuple[Shape, ...]) -> Rule:
    """Equation (14): each input takes its own channels of the error."""
    ends = np.cumsum([shape[-1] for shape in shapes])[:-1].tolist()
    return Rule(
        lambda *inputs: np.concatenate(inputs, axis=-1),
        lambda delta, *_: tuple(np.split(delta, ends, axis=-1)),
    )


def add(number: int) -> Rule:
    """Equation (14): each input takes the whole error."""
    return Rule(lambda first, *others: sum(others, first), lambda delta, *_: (delta,) * number)


def same() -> Rule:
    """A layer that is nothing but its activation."""
    return Rule(lambda a: a, lambda delta, _: (delta,))


def batch_norm(epsilon: float, scale: Array, bias: Array) -> Rule:
    """Equation (16): in training, each value also moves its channel's mean and variance."""

    def normal(a: Array) -> tuple[Array, Array]:
        axes = tuple(range(a.ndim - 1))
        spread = np.sqrt(a.var(axis=axes) + epsilon)
        return (a - a.mean(axis=axes)) / spread, spread

    def backward(delta: Array, a: Array) -> tuple[Array]:
        axes, (unit, spread) = tuple(range(a.ndim - 1)), normal(a)
        centred = delta - delta.mean(axis=axes) - unit * (delta * unit).mean(axis=axes)
        return (scale / spread * centred,)

    def gradient(delta: Array, a: Array) -> dict[str, Array]:
        axes, (unit, _) = tuple(range(a.ndim - 1)), normal(a)
        return {"scale": (delta * unit).sum(axis=axes), "bias": delta.sum(axis=axes)}

    return Rule(lambda a: normal(a)[0] * scale + bias, backward, gradient)


def _plus(z: Array, b: Array | None) -> Array:
    return z if b is None else z + b


def bias_gradient(delta: Array, b: Array | None) -> dict[str, Array]:
    """Equation (12): a bias that all places and images share takes the sum of their errors."""
    return {} if b is None else {"bias": delta.reshape(-1, len(b)).sum(axis=0)}


def _flat(a: Array) -> Array:
    return a.reshape(len(a), -1)
