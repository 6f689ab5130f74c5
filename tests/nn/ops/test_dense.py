"""Dense layers in rows against NumPy's gradient of the whole batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.ops import dense

ROWS, ROW, IN, UNITS = 3, 4, 5, 2


def weights(kernel: Any) -> dict[str, dict[str, Any]]:
    return {"out": {dense.KERNEL: jnp.asarray(kernel)}, "conv": {"kernel": jnp.ones((2, 2))}}


def by_rows(kernel: Any, x: Any, dz: Any) -> tuple[Any, Any]:
    """Kernel gradient as in the engine, and input gradients of each row."""
    slotted = dense.with_slots(weights(kernel), ROW)

    def add(total: Any, row: Any) -> Any:
        def result(slotted: Any, x: jax.Array) -> jax.Array:
            return jnp.sum(dense.multiply(x, slotted["out"]) * row[1])

        gradient, dx = jax.grad(result, argnums=(0, 1))(slotted, row[0])
        gradient, slots = dense.without_slots(gradient)
        return jax.tree.map(jnp.add, total, gradient), (dx, slots)

    zeros = jax.tree.map(jnp.zeros_like, weights(kernel))
    total, (dx, slots) = jax.lax.scan(add, zeros, (x, dz))
    return dense.add_products(total, slots), dx


def test_gradients_equal_those_of_the_whole_batch() -> None:
    rng = np.random.default_rng(0)
    kernel, x, dz = (
        rng.normal(size=s).astype(np.float32)
        for s in ((IN, UNITS), (ROWS, ROW, IN), (ROWS, ROW, UNITS))
    )
    gradient, dx = by_rows(kernel, x, dz)
    expected = x.reshape(-1, IN).T @ dz.reshape(-1, UNITS)
    np.testing.assert_allclose(gradient["out"][dense.KERNEL], expected, rtol=1e-5)
    np.testing.assert_allclose(dx, dz @ kernel.T, rtol=1e-5)
    np.testing.assert_array_equal(gradient["conv"]["kernel"], np.zeros((2, 2)))


def test_the_loop_over_rows_makes_no_gradient_of_a_kernel() -> None:
    x, dz = jnp.ones((ROWS, ROW, IN)), jnp.ones((ROWS, ROW, UNITS))
    program = jax.make_jaxpr(by_rows)(jnp.ones((IN, UNITS)), x, dz)
    (loop,) = (line for line in program.eqns if line.primitive.name == "scan")
    products = [
        line.outvars[0].aval.shape
        for line in loop.params["jaxpr"].eqns
        if line.primitive.name == "dot_general"
    ]
    assert (ROW, IN) in products  # the inputs' gradient
    assert (IN, UNITS) not in products


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_by_itself_is_a_product(dtype: str) -> None:
    kernel, x = jnp.full((IN, UNITS), 0.5, dtype), jnp.ones((ROW, IN), dtype)
    plain = dense.multiply(x, {dense.KERNEL: kernel})
    slotted = dense.multiply(x, dense.with_slots(weights(kernel), ROW)["out"])
    assert plain.dtype == slotted.dtype == kernel.dtype
    np.testing.assert_array_equal(plain, slotted)
