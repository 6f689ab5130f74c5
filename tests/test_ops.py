"""Convolution, its adjoint and pooling against SciPy's definitions and XLA's own gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from cnnbench import ops
from cnnbench.shapes import conv_size, same_pad

FORMS: tuple[ops.Form, ...] = ("plain", "direct")
small = st.integers(1, 4)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@st.composite
def convolutions(draw):
    """Shapes of a convolution that has at least one output."""
    kernel = draw(st.tuples(small, small))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = tuple(draw(st.integers(k, k + 6)) for k in kernel)
    if draw(st.booleans()):
        pads = tuple(same_pad(size[i], kernel[i], stride[i]) for i in (0, 1))
    else:
        pads = tuple((p, p) for p in draw(st.tuples(st.integers(0, 2), st.integers(0, 2))))
    channels, filters = draw(st.sampled_from([(1, 1), (1, 8), (3, 2), (2, 4)]))
    return size, (*kernel, channels, filters), stride, pads


def scipy_conv(x, kernel, stride, pads):
    """The definition: one correlation per image, filter and channel, summed over channels."""
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    planes = [
        [
            sum(
                signal.correlate2d(x[n, :, :, c], kernel[:, :, c, f], mode="valid")
                for c in range(x.shape[3])
            )[:: stride[0], :: stride[1]]
            for f in range(kernel.shape[3])
        ]
        for n in range(x.shape[0])
    ]
    return np.transpose(np.array(planes), (0, 2, 3, 1))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8, deadline=None)
@given(case=convolutions())
def test_conv_is_scipys_correlation(form, case):
    size, kernel_shape, stride, pads = case
    x, kernel = normal(0, 2, *size, kernel_shape[2]), normal(1, *kernel_shape)
    got = ops.conv(x, kernel, stride, pads, form)
    np.testing.assert_allclose(got, scipy_conv(x, kernel, stride, pads), atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8, deadline=None)
@given(case=convolutions())
def test_conv_transpose_is_the_exact_adjoint(form, case):
    size, kernel_shape, stride, pads = case
    kernel = normal(1, *kernel_shape)
    x = normal(0, 2, *size, kernel_shape[2])
    z = ops.conv(x, kernel, stride, pads, form)
    y = normal(2, *z.shape)
    back = ops.conv_transpose(y, kernel, stride, pads, size, form)
    assert back.shape == x.shape
    np.testing.assert_allclose(jnp.vdot(z, y), jnp.vdot(x, back), rtol=1e-10, atol=1e-10)


def test_backward_pass_is_a_full_convolution_with_the_rotated_kernel():
    # The post, step 4: delta = delta * ROT180(w), a full convolution.
    kernel, dz = normal(0, 3, 3, 1, 1), normal(1, 1, 4, 5, 1)
    x = normal(2, 1, 6, 7, 1)
    _, vjp = jax.vjp(lambda x: ops.conv(x, kernel, (1, 1), ((0, 0), (0, 0)), "direct"), x)
    by_hand = signal.correlate2d(dz[0, :, :, 0], np.rot90(kernel[:, :, 0, 0], 2), mode="full")
    np.testing.assert_allclose(vjp(dz)[0][0, :, :, 0], by_hand, atol=1e-12)


@settings(max_examples=8, deadline=None)
@given(case=convolutions())
def test_direct_gradients_equal_xlas(case):
    size, kernel_shape, stride, pads = case
    x, kernel = normal(0, 2, *size, kernel_shape[2]), normal(1, *kernel_shape)

    def loss(x, kernel, form):
        z = ops.conv(x, kernel, stride, pads, form)
        back = ops.conv_transpose(jnp.sin(z), kernel, stride, pads, size, form)
        return jnp.sum(jnp.cos(z)) + jnp.sum(back**2)

    want = jax.grad(loss, argnums=(0, 1))(x, kernel, "plain")
    got = jax.grad(loss, argnums=(0, 1))(x, kernel, "direct")
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-9)


@st.composite
def pools(draw):
    window = draw(st.tuples(small, small))
    overlap = draw(st.booleans())
    stride = draw(st.tuples(small, small)) if overlap else window
    size = tuple(draw(st.integers(w, w + 6)) for w in window)
    return size, window, stride


def numpy_pool(x, window, stride, reduce):
    out = [conv_size(x.shape[1 + i], window[i], stride[i], (0, 0)) for i in (0, 1)]
    y = np.empty((x.shape[0], *out, x.shape[3]))
    for i, j in itertools.product(range(out[0]), range(out[1])):
        top, left = i * stride[0], j * stride[1]
        y[:, i, j] = reduce(x[:, top : top + window[0], left : left + window[1]], axis=(1, 2))
    return y


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8, deadline=None)
@given(case=pools())
def test_max_pool_takes_the_largest_and_drops_the_border(form, case):
    size, window, stride = case
    x = normal(0, 2, *size, 3)
    got = ops.max_pool(x, window, stride, form)
    np.testing.assert_array_equal(got, numpy_pool(np.asarray(x), window, stride, np.max))


@settings(max_examples=8, deadline=None)
@given(case=pools(), tied=st.booleans())
def test_max_pool_gradient_goes_to_the_first_of_equals_as_in_xla(case, tied):
    size, window, stride = case
    x = normal(0, 2, *size, 3)
    x = jnp.round(x) if tied else x
    weights = normal(1, *ops.max_pool(x, window, stride, "plain").shape)

    def loss(x, form):
        return jnp.sum(weights * ops.max_pool(x, window, stride, form))

    np.testing.assert_allclose(jax.grad(loss)(x, "direct"), jax.grad(loss)(x, "plain"), atol=1e-12)


@settings(max_examples=8, deadline=None)
@given(case=pools())
def test_avg_pool_is_the_mean(case):
    size, window, stride = case
    x = normal(0, 2, *size, 3)
    got = ops.avg_pool(x, window, stride)
    np.testing.assert_allclose(got, numpy_pool(np.asarray(x), window, stride, np.mean), atol=1e-12)


@given(size=st.tuples(small, small))
@settings(max_examples=10, deadline=None)
def test_upscale_repeats_rows_and_columns(size):
    x = normal(0, 2, 3, 4, 2)
    want = np.repeat(np.repeat(x, size[0], axis=1), size[1], axis=2)
    np.testing.assert_array_equal(ops.upscale(x, size), want)
