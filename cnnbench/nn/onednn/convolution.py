"""Convolutions by oneDNN, and their gradients, on images (n, h, w, c) in float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.onednn.primitives import TARGET, Correlation, Pass, operation
from cnnbench.nn.ops.convolution import Two
from cnnbench.system.host import num_cpus

PASSES: tuple[Pass, ...] = ("forward", "input_gradient", "kernel_gradient")


def supports(of: Correlation, images: int) -> bool:
    """True if oneDNN computes a convolution of this many images, and its gradients."""
    return all(operation(which, of, images, _threads()) for which in PASSES)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, of: Correlation) -> jax.Array:
    """Convolution, (n, *size, in) and (kh, kw, in / groups, out) to (n, *places, out)."""
    return _call("forward", x, kernel, of)


def _conv_backward(of: Correlation, saved: Two, dy: jax.Array) -> Two:
    x, kernel = saved
    return _call("input_gradient", dy, kernel, of), _call("kernel_gradient", x, dy, of)


conv.defvjp(lambda x, kernel, of: (conv(x, kernel, of), (x, kernel)), _conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_transpose(y: jax.Array, kernel: jax.Array, of: Correlation) -> jax.Array:
    """The adjoint of a convolution, (n, *places, out) to (n, *size, in)."""
    return _call("input_gradient", y, kernel, of)


def _transpose_backward(of: Correlation, saved: Two, dx: jax.Array) -> Two:
    y, kernel = saved
    return _call("forward", dx, kernel, of), _call("kernel_gradient", dx, y, of)


conv_transpose.defvjp(
    lambda y, kernel, of: (conv_transpose(y, kernel, of), (y, kernel)), _transpose_backward
)


def _call(which: Pass, first: jax.Array, second: jax.Array, of: Correlation) -> jax.Array:
    images = len(first)
    found = operation(which, of, images, _threads())
    assert found is not None
    shapes = {
        "forward": (images, *of.places, of.filters),
        "input_gradient": (images, *of.size, of.channels),
        "kernel_gradient": (*of.kernel, of.channels // of.groups, of.filters),
    }
    result = jax.ShapeDtypeStruct(shapes[which], jnp.float32)
    workspace = jax.ShapeDtypeStruct((found.workspace,), jnp.uint8)
    call = jax.ffi.ffi_call(TARGET, (result, workspace), vmap_method="sequential")
    computed: jax.Array = call(first, second, key=np.int64(found.key))[0]
    return computed


def _threads() -> int:
    """Threads for each call: one if several devices compute at once."""
    return 1 if jax.local_device_count("cpu") > 1 else num_cpus()
