"""Attention in other libraries: the same values from the same weights, and the same start."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.transformer import attention
from tests.support.oracles import make_plan

CHANNELS, HEADS = 48, 3


def test_split_kernels_are_those_of_flax() -> None:
    """Flax and Keras have a kernel (channels, heads, size) for each of queries, keys and values."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (48, 144), "out_kernel": (48, 48), "bias": (144,), "out_bias": (48,)}
    weights = {name: jnp.asarray(rng.normal(size=s) / 7) for name, s in shapes.items()}
    tokens = jnp.asarray(rng.normal(size=(2, 12, CHANNELS)))
    theirs: Any = nnx.MultiHeadAttention(HEADS, CHANNELS, decode=False, rngs=nnx.Rngs(0))
    size = CHANNELS // HEADS
    for number, part in enumerate((theirs.query, theirs.key, theirs.value)):
        own = slice(number * CHANNELS, (number + 1) * CHANNELS)
        part.kernel[...] = weights["kernel"][:, own].reshape(CHANNELS, HEADS, size)
        part.bias[...] = weights["bias"][own].reshape(HEADS, size)
    theirs.out.kernel[...] = weights["out_kernel"].reshape(HEADS, size, CHANNELS)
    theirs.out.bias[...] = weights["out_bias"]
    found = attention(tokens, weights, HEADS)
    np.testing.assert_allclose(found, theirs(tokens), rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_bfloat16() -> None:
    rng = np.random.default_rng(0)
    shapes = {"kernel": (8, 24), "out_kernel": (8, 8), "bias": (24,)}
    weights = {name: jnp.asarray(rng.normal(size=shape) / 3) for name, shape in shapes.items()}
    tokens = jnp.asarray(rng.normal(size=(1, 42, 8)))
    half = {name: value.astype(jnp.bfloat16) for name, value in weights.items()}
    found = attention(tokens.astype(jnp.bfloat16), half, 2)
    want = attention(tokens, weights, 2)
    assert found.dtype == jnp.bfloat16
    assert abs(found.astype(jnp.float32) - want).max() < 0.02 * abs(want).max()


def test_initial_weights_are_distributed_as_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    plan = make_plan({"op": {"op": "attention", "heads": 3}}, (2, 2, CHANNELS), (2, 2, CHANNELS))
    ours = GraphNet(plan, form="plain", rngs=nnx.Rngs(3)).weights["op"]
    torch.manual_seed(3)
    theirs = torch.nn.MultiheadAttention(CHANNELS, HEADS)
    kernels = np.ravel(ours["kernel"][...]), theirs.in_proj_weight.detach().numpy().ravel()
    assert stats.ks_2samp(*kernels).pvalue > 1e-3
    assert abs(kernels[0]).max() == pytest.approx(abs(kernels[1]).max(), rel=0.01)
    assert not np.any(ours["bias"][...])
    assert not np.any(ours["out_bias"][...])
    assert not np.array_equal(ours["kernel"][:, :CHANNELS], ours["out_kernel"][...])
