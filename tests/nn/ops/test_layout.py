"""Images whose last two axes are taken together, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.nn.ops import layout

sizes = st.tuples(*[st.integers(1, 5)] * 4)
few = settings(max_examples=25)  # each size is compiled


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("mapped", [False, True])
def test_materialized_values_are_unchanged_and_need_a_conditional(
    dtype: type, mapped: bool
) -> None:
    function = jax.jit(jax.vmap(layout.materialized) if mapped else layout.materialized)
    x = jnp.arange(6, dtype=dtype).reshape(3, 2)
    np.testing.assert_array_equal(function(x), x)
    program = function.lower(x).as_text()
    assert "stablehlo.case" in program
    assert "stablehlo.select" not in program


@few
@given(sizes)
def test_split_undoes_merge(size: tuple[int, ...]) -> None:
    x = np.arange(np.prod(size), dtype=np.float32).reshape(size)
    merged = layout.fold_channels(jnp.asarray(x))
    assert merged.shape == (*size[:2], size[2] * size[3])
    np.testing.assert_array_equal(layout.unfold_channels(merged, size[2:]), x)


@few
@given(sizes)
def test_a_value_for_each_channel_meets_that_channel(size: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    bias = np.arange(size[3], dtype=np.float32)
    sums = layout.fold_channels(jnp.asarray(x)) + layout.repeat_channels(
        jnp.asarray(bias), jnp.asarray(x)
    )
    np.testing.assert_array_equal(layout.unfold_channels(sums, size[2:]), x + bias)


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (7, 5)])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("mapped", [False, True])
def test_gradient_of_a_value_for_each_channel(
    shape: tuple[int, ...], dtype: type, mapped: bool
) -> None:
    """Small integers, which bfloat16 can represent."""
    rng = np.random.default_rng(0)
    values, x = rng.integers(-3, 4, (2, shape[-1])), rng.integers(-2, 3, (2, *shape))

    def total(values: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(layout.fold_channels(x) * layout.each_channel(values, x))

    gradient = jax.grad(total, (0, 1))
    given = jnp.asarray(values, dtype), jnp.asarray(x, dtype)
    found = jax.vmap(gradient)(*given) if mapped else gradient(given[0][0], given[1][0])
    expected = (
        x.reshape(2, -1, shape[-1]).sum(1),
        np.broadcast_to(values.reshape(2, *[1] * (len(shape) - 1), -1), x.shape),
    )
    for own, right in zip(found, expected, strict=True):
        assert own.dtype == dtype
        np.testing.assert_array_equal(own.astype(np.float32), right if mapped else right[0])


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (7, 5)])
def test_each_value_with_gradients(shape: tuple[int, ...]) -> None:
    a, b = (np.random.default_rng(i).normal(size=shape).astype(np.float32) for i in (0, 1))

    def total(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(layout.elementwise(lambda a, b: a * jnp.tanh(b), a, b))

    da, db = jax.grad(total, argnums=(0, 1))(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(da, np.tanh(b), rtol=1e-5)
    np.testing.assert_allclose(db, a / np.cosh(b) ** 2, rtol=1e-4)


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (7, 5)])
def test_the_gradient_of_spread_values_is_summed_over_images(shape: tuple[int, ...]) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    gradient = jax.grad(lambda v: jnp.sum(layout.fold_channels(x) * layout.repeat_channels(v, x)))(
        jnp.ones(5)
    )
    np.testing.assert_allclose(gradient, np.sum(x, axis=tuple(range(x.ndim - 1))), rtol=1e-5)
