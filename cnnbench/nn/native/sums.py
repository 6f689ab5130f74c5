"""Sums of a batch norm in C, limited only by memory bandwidth."""

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.native.compiler import registered
from cnnbench.nn.ops.activation import Relu
from cnnbench.nn.ops.batch_norm import BY_XLA, Summation

_TARGET = "cnnbench_sums"  # of XLA's custom calls
_LANES, _WIDTH = 8, 64  # sums.c joins short rows into one: of at most 8, or of fewer than 64 values


def _of_values(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _sums(x) if x.dtype == jnp.float32 else BY_XLA.of_values(x)


def _of_errors(relu: Relu | None, *given: jax.Array) -> tuple[jax.Array, jax.Array]:
    if any(each.dtype != jnp.float32 for each in given):
        return BY_XLA.of_errors(relu, *given)
    return _sums(*given, limit=np.float32(relu.limit)) if relu else _sums(*given[:3])


NATIVE_SUMS = Summation(_of_values, _of_errors)


def _sums(*operands: jax.Array, **limit: np.float32) -> tuple[jax.Array, jax.Array]:
    registered("sums.c", _TARGET)
    channels = operands[0].shape[-1]
    rows = [each.reshape(-1, channels) if each.ndim > 1 else each for each in operands]
    shapes = (2, channels), (4 * max(_LANES * channels, _WIDTH),)
    with jax.enable_x64(True):
        results = [jax.ShapeDtypeStruct(shape, jnp.float64) for shape in shapes]
        call = jax.ffi.ffi_call(_TARGET, results, vmap_method="sequential")
        both: jax.Array = call(*rows, **limit)[0]
        return both[0], both[1]
