"""Convolutions by oneDNN, and their gradients, on images (n, h, w, c) in float32."""

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.native import few
from cnnbench.nn.native.correlation import PASSES, Correlation, Pass, differentiable
from cnnbench.nn.native.primitives import TARGET, operation
from cnnbench.system.host import num_cpus


def supports(of: Correlation, images: int) -> bool:
    """True if oneDNN computes a convolution of this many images, and its gradients."""
    return all(operation(which, of, images, _threads()) for which in PASSES)


def _call(which: Pass, first: jax.Array, second: jax.Array, of: Correlation) -> jax.Array:
    if which == "input_gradient" and few.pays(of):
        return few.input_gradient(first, second, of)
    found = operation(which, of, len(first), _threads())
    assert found is not None
    workspace = jax.ShapeDtypeStruct((found.workspace,), jnp.uint8)
    results = of.result(which, len(first)), workspace
    call = jax.ffi.ffi_call(TARGET, results, vmap_method="sequential")
    computed: jax.Array = call(first, second, key=np.int64(found.key))[0]
    return computed


def _threads() -> int:
    """Threads for each call: one if several devices compute at once."""
    return 1 if jax.local_device_count("cpu") > 1 else num_cpus()


conv = differentiable(_call, transposed=False)
conv_transpose = differentiable(_call, transposed=True)
