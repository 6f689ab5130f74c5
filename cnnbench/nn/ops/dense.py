"""Dense layers with micro-batching: the kernel gradient is computed once per batch.

Accumulating it per micro-batch would read and write a kernel that is larger than the cache for
every few images. Instead, the gradient of a micro-batch consists of the factors, the inputs and
errors of the layer, and they are multiplied once for the whole batch.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cnnbench.nn.ops.products import over_rows

KERNEL, INPUTS, ERRORS = "matrix", "inputs", "errors"

LayerParams = Mapping[str, Mapping[str, jax.Array]]


def multiply(x: jax.Array, weights: Mapping[str, jax.Array]) -> jax.Array:
    """Multiplies (n, in) to (n, units); with slots, these get the factors of the gradient."""
    if INPUTS not in weights:
        return x @ weights[KERNEL]
    return _multiply(x, weights[KERNEL], weights[INPUTS], weights[ERRORS])


def with_slots(weights: LayerParams, row: int) -> dict[str, dict[str, jax.Array]]:
    """Adds slots for the inputs and errors of a micro-batch to the weights of dense layers."""
    return {name: {**own, **_slots(own, row)} for name, own in weights.items()}


def _slots(own: Mapping[str, jax.Array], row: int) -> dict[str, jax.Array]:
    if KERNEL not in own:
        return {}
    kernel = own[KERNEL]
    *stack, num_in, num_out = kernel.shape  # a loop stacks the kernels of its repetitions
    sizes = ((INPUTS, num_in), (ERRORS, num_out))
    return {slot: jnp.zeros((*stack, row, size), kernel.dtype) for slot, size in sizes}


def without_slots(gradient: LayerParams) -> tuple[Any, Any]:
    """Separates a gradient into sums and the content of the slots."""
    own = {
        name: {key: g for key, g in layer.items() if key not in {INPUTS, ERRORS}}
        for name, layer in gradient.items()
    }
    slots = {
        name: (layer[INPUTS], layer[ERRORS]) for name, layer in gradient.items() if INPUTS in layer
    }
    return own, slots


def add_products(gradient: LayerParams, slots: Mapping[str, tuple[jax.Array, jax.Array]]) -> Any:
    """Adds kernel gradients from the slots of all micro-batches, (rows, row, size) each."""
    products = {
        name: {**gradient[name], KERNEL: gradient[name][KERNEL] + _product(*parts)}
        for name, parts in slots.items()
    }
    return {**gradient, **products}


def _product(inputs: jax.Array, errors: jax.Array) -> jax.Array:
    if inputs.ndim == 4:  # (rows, repetitions of a loop, row, size)
        stacked: jax.Array = jax.vmap(_product, 1)(inputs, errors)
        return stacked
    return over_rows(inputs.reshape(-1, inputs.shape[-1]), errors.reshape(-1, errors.shape[-1]))


@jax.custom_vjp
def _multiply(x: jax.Array, kernel: jax.Array, _inputs: jax.Array, _errors: jax.Array) -> jax.Array:
    return x @ kernel


def _multiply_forward(
    x: jax.Array, kernel: jax.Array, _inputs: jax.Array, _errors: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _multiply_backward(saved: tuple[jax.Array, jax.Array], dz: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel = saved
    return dz @ kernel.T, jnp.zeros_like(kernel), x, dz


_multiply.defvjp(_multiply_forward, _multiply_backward)
