"""Convolution by oneDNN, with PyTorch's and float64 products as oracles."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.nn.ops import convolution, onednn
from cnnbench.nn.ops.im2col import Im2col
from cnnbench.nn.ops.onednn import OneDnn
from cnnbench.system.arrays import Array, Pair

needed = pytest.mark.skipif(
    not onednn.available(), reason="jaxlib calls oneDNN on Linux and x86-64 only"
)
FEW = st.integers(1, 4)


def by_loops(x: Array, kernel: Array, pads: Any, dilation: Pair) -> Array:
    """The definition, in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), *pads, (0, 0)))
    (kh, kw), (dy, dx) = kernel.shape[:2], dilation
    oh, ow = padded.shape[1] - (kh - 1) * dy, padded.shape[2] - (kw - 1) * dx
    taps = [(i, j) for i in range(kh) for j in range(kw)]
    parts = [
        padded[:, i * dy : i * dy + oh, j * dx : j * dx + ow] @ kernel[i, j].astype(np.float64)
        for i, j in taps
    ]
    return np.asarray(sum(parts))


@needed
@given(
    images=FEW,
    size=st.tuples(st.integers(9, 14), st.integers(9, 14)),
    kernel=st.tuples(FEW, FEW, st.integers(1, 20), st.integers(1, 20)),
    pads=st.tuples(st.tuples(FEW, FEW), st.tuples(FEW, FEW)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_equal_to_its_definition(
    images: int, size: Pair, kernel: tuple[int, ...], pads: Any, dilation: Pair
) -> None:
    rng = np.random.default_rng(images)
    x = rng.normal(size=(images, *size, kernel[2])).astype(np.float32)
    weights = rng.normal(size=kernel).astype(np.float32)
    found = onednn.convolve(jnp.asarray(x), jnp.asarray(weights), pads, dilation)
    want = by_loops(x, weights, pads, dilation)
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, atol=3e-6 * math.prod(kernel[:3]))


@needed
@pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-12), ("bfloat16", 5e-2)])
def test_other_types_are_those_of_the_images(dtype: str, error: float) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 8, 9, 5)), rng.normal(size=(3, 3, 5, 4))
    pads = ((0, 1), (1, 0))
    with jax.enable_x64(dtype == "float64"):
        found = onednn.convolve(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), pads, (1, 2))
    assert found.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(found, np.float64), by_loops(x, kernel, pads, (1, 2)), atol=error * 7
    )


@needed
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 3), (2, 1)])
def test_vmap_is_one_call_after_another(axes: tuple[int | None, int | None]) -> None:
    rng = np.random.default_rng(0)
    shapes = [[2, 8, 9, 5], [3, 3, 5, 4]]
    for shape, axis in zip(shapes, axes, strict=True):
        if axis is not None:
            shape.insert(axis, 3)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)

    def one(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return onednn.convolve(x, kernel, ((0, 0), (1, 1)), (1, 1))

    def of(values: jax.Array, axis: int | None, place: int) -> jax.Array:
        return values if axis is None else jnp.take(values, place, axis)

    found = jax.jit(jax.vmap(one, axes))(x, kernel)
    each = [one(of(x, axes[0], place), of(kernel, axes[1], place)) for place in range(3)]
    np.testing.assert_array_equal(found, jnp.stack(each))


@needed
@pytest.mark.parametrize(
    ("size", "channels", "filters"), [((34, 34), 16, 16), ((18, 18), 32, 32), ((10, 10), 64, 64)]
)
def test_kernel_gradients_are_as_exact_as_pytorchs(size: Pair, channels: int, filters: int) -> None:
    """The layers of a ResNet-20, in float32 against float64."""
    torch = pytest.importorskip("torch", reason="needs the peers extra")
    out = size[0] - 2, size[1] - 2
    rng = np.random.default_rng(0)
    x = (0.3 + rng.standard_normal((*size, 10, channels))).astype(np.float32)
    dy = rng.standard_normal((*out, 10, filters)).astype(np.float32)
    dy -= dy.mean((0, 1, 2))  # as before a batch norm: large sums cancel

    def in_pytorch(dtype: Any) -> Array:
        given, errors = (torch.tensor(v.transpose(2, 3, 0, 1).copy(), dtype=dtype) for v in (x, dy))
        weights = torch.nn.grad.conv2d_weight(given, (filters, channels, 3, 3), errors)
        return np.asarray(weights.permute(2, 3, 1, 0).double().numpy())

    exact = in_pytorch(torch.float64)
    ours = np.asarray(OneDnn((3, 3), out).gradient(jnp.asarray(x), jnp.asarray(dy)), np.float64)
    mine, other = (np.sqrt(np.square(v - exact).mean()) for v in (ours, in_pytorch(torch.float32)))
    assert mine <= 2 * other, (mine, other)


@needed
def test_large_layers_of_few_channels_are_computed_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def picked(form: convolution.EngineName) -> convolution.Algorithm:
        return convolution.pick_algorithm((3, 3), (32, 32), 16, 16, form)

    assert picked("fast") == picked("direct") == OneDnn((3, 3), (32, 32))
    monkeypatch.setattr(onednn, "available", lambda: False)
    assert picked("direct") == Im2col((3, 3), (32, 32))


@pytest.mark.parametrize(
    ("place", "value"), [("sys.platform", "darwin"), ("platform.machine", lambda: "aarch64")]
)
def test_other_systems_lack_it(monkeypatch: pytest.MonkeyPatch, place: str, value: Any) -> None:
    monkeypatch.setattr(place, value)
    assert not onednn.available.__wrapped__()


def test_accelerators_do_not_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not onednn.available.__wrapped__()


@needed
@pytest.mark.parametrize("wrong", ["error", "numbers"])
def test_a_jaxlib_that_computes_something_else_does_not_call_it(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def convolve(x: jax.Array, *_: object) -> jax.Array:
        if wrong == "error":
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: __onednn$convolution")
        return jnp.zeros((2, 5, 6, 5))

    monkeypatch.setattr(onednn, "convolve", convolve)
    assert not onednn.available.__wrapped__()
