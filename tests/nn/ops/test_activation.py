"""Activations against SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erfc

from cnnbench.nn.ops.activation import gelu, relu6

X = np.linspace(-10, 10, 2001)


def test_gelu_is_as_exact_as_pytorchs() -> None:
    """One rounding error of the largest value; PyTorch's largest error is 9.1e-7."""
    want = 0.5 * X * erfc(-X * np.sqrt(0.5))
    np.testing.assert_allclose(gelu(jnp.asarray(X)), want, rtol=0, atol=1e-6)


def test_gradient_of_gelu() -> None:
    want = 0.5 * erfc(-X * np.sqrt(0.5)) + X * np.exp(-0.5 * X**2) / np.sqrt(2 * np.pi)
    found = jax.vmap(jax.grad(gelu))(jnp.asarray(X))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


def test_relu6_keeps_nan() -> None:
    assert jnp.isnan(relu6(jnp.array(jnp.nan)))
