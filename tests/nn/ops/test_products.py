"""Products in the order that is fastest, against NumPy in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.ops.products import over_rows


@pytest.mark.parametrize("sizes", [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_equals_numpy(sizes: tuple[int, int], batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(*batch, 7, size)).astype(np.float32) for size in sizes)
    want = np.einsum("...rm,...rn->...mn", x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(jax.jit(over_rows)(x, y), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(300, 10), (10, 300)])
def test_the_larger_matrix_is_on_the_right(sizes: tuple[int, int]) -> None:
    """Also after XLA has simplified the program, which would turn the factors again."""
    shapes = [jax.ShapeDtypeStruct((64, size), jnp.float32) for size in sizes]
    program = str(jax.jit(over_rows).lower(*shapes).compile().as_text())
    assert re.findall(r" = (f32\[\S+\])\S* dot\(", program) == ["f32[10,300]"]
