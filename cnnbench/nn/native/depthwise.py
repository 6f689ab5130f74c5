"""Depthwise convolutions in C, on images (n, h, w, c) in float32."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.native.compiler import call_with_workspace
from cnnbench.nn.native.correlation import PASSES, Correlation, Pass, differentiable
from cnnbench.nn.ops.activation import Relu
from cnnbench.nn.ops.batch_norm import Pending, normalize_gradient

_WIDTH = 8  # values of the widest vector in double precision
TARGET = "cnnbench_depthwise"  # of XLA's custom calls


def pays(of: Correlation) -> bool:
    """True for depthwise convolutions without dilation, where it is faster than oneDNN."""
    return 1 < of.groups == of.channels == of.filters and of.dilation == (1, 1)


def takes_norm(of: Correlation) -> bool:
    """True if a batch norm and a relu before it can be computed with a convolution."""
    return pays(of) and of.channels % _WIDTH == 0


def _call(
    which: Pass,
    operands: Sequence[jax.Array],
    of: Correlation,
    *more: jax.ShapeDtypeStruct,
) -> list[jax.Array]:
    images, before = len(operands[0]), (of.pads[0][0], of.pads[1][0])
    shape = *of.size, of.channels, *before, *of.kernel, *of.stride, *of.places
    sizes = np.array([PASSES.index(which), images, *shape], np.int64)
    results = of.result(which, images), *more
    return call_with_workspace("depthwise.c", TARGET, operands, sizes, *results)


def _compute(which: Pass, first: jax.Array, second: jax.Array, of: Correlation) -> jax.Array:
    return _call(which, (first, second), of)[0]


conv = differentiable(_compute, transposed=False)
conv_transpose = differentiable(_compute, transposed=True)


def conv_of_norm(norm: Pending, kernel: jax.Array, of: Correlation) -> jax.Array:
    """A convolution of the outputs of a batch norm and a relu, which are not stored.

    Args:
      norm: the batch norm, in float32.
      kernel: (kh, kw, 1, c).
      of: sizes of the convolution; see `takes_norm`.
    """
    *given, relu = norm
    return _conv_of_norm((relu, of), kernel, *given)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv_of_norm(static: tuple[Relu, Correlation], kernel: jax.Array, *given: Any) -> jax.Array:
    relu, of = static
    x, *norm = given
    return _call("forward", (x, kernel, *norm, _array(relu)), of)[0]


def _forward(static: tuple[Relu, Correlation], *given: jax.Array) -> Any:
    return _conv_of_norm(static, *given), given


def _backward(
    static: tuple[Relu, Correlation], saved: tuple[jax.Array, ...], dy: jax.Array
) -> tuple[jax.Array, ...]:
    relu, of = static
    kernel, x, *norm = saved
    with jax.enable_x64(True):
        sums = jax.ShapeDtypeStruct((2, of.channels), jnp.float64)
        operands = dy, kernel, *norm, _array(relu), x
        errors, (first, second) = _call("input_gradient", operands, of, sums)
    (change,) = _call("kernel_gradient", (x, dy, *norm, _array(relu)), of)
    return change, *normalize_gradient((first, second), relu, errors, x, *norm)


_conv_of_norm.defvjp(_forward, _backward)


def _array(relu: Relu) -> jax.Array:
    return jnp.full(1, relu.limit, jnp.float32)
