"""Every algorithm of a convolution, both directions and all gradients, against four oracles.

PyTorch, NumPy, SciPy and XLA. Only gradients of a convolution are asked of XLA: it aborts on
some of a strided transposed one.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from cnnbench.layers.conv import conv_size
from cnnbench.layers.correlation import Pads
from cnnbench.nn.ops import convolution
from cnnbench.nn.ops.im2col import Col2im, Im2col, RowIm2col
from cnnbench.nn.ops.winograd import LARGEST_TILE, Winograd, tilings
from tests.support import oracles
from tests.support.oracles import Array

Pair = tuple[int, int]
ALGORITHMS = (Im2col, Col2im, RowIm2col, Winograd)
NUM_IMAGES = 3
NO_PADS: Pads = ((0, 0), (0, 0))


class Case(NamedTuple):
    """The shapes of a convolution."""

    size: Pair
    kernel: tuple[int, int, int, int]
    stride: Pair = (1, 1)
    pads: Pads = NO_PADS

    @property
    def out(self) -> Pair:
        rows, columns = (
            conv_size(self.size[i], self.kernel[i], self.stride[i], self.pads[i]) for i in (0, 1)
        )
        return rows, columns

    def convolution(self, form: convolution.EngineName = "fast") -> convolution.Convolution:
        low = (self.pads[0][0], self.pads[1][0])
        return convolution.convolution(self.size, self.kernel, self.stride, low, self.out, form)


def random_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)

    def pair(low: int, high: int) -> Pair:
        first, second = rng.integers(low, high, 2, endpoint=True)
        return int(first), int(second)

    channels, filters = int(rng.choice([1, 3, 8, 16])), int(rng.choice([1, 4, 8, 24]))
    return Case(pair(6, 14), (*pair(1, 6), channels, filters), pair(1, 3), (pair(0, 2), pair(0, 2)))


def by_algorithm(case: Case, kind: type, seed: int) -> convolution.Convolution:
    """The case by an algorithm that need not be the pick; Winograd's tiles are drawn."""
    found = case.convolution()
    if kind is not Winograd:
        return dataclasses.replace(found, algorithm=kind(found.core, found.out))
    rng = np.random.default_rng(seed)
    (tile_h, taps_h), (tile_w, taps_w) = (drawn_tile(taps, rng) for taps in found.core)
    spread = bool(rng.integers(2))
    by = Winograd(found.core, found.out, (tile_h, tile_w), (taps_h, taps_w), spread)
    return dataclasses.replace(found, algorithm=by)


def drawn_tile(taps: int, rng: np.random.Generator) -> Pair:
    """Outputs of a tile, and taps of a block: of as many, or all of them."""
    if taps >= LARGEST_TILE or rng.integers(2):
        outputs = int(rng.integers(1, LARGEST_TILE // 2 + 1))
        return outputs, min(outputs, taps)
    return int(rng.integers(1, LARGEST_TILE - taps + 2)), taps


class Sample(NamedTuple):
    """Images, a kernel, and errors of the outputs."""

    x: Array
    kernel: Array
    y: Array


def sample(case: Case, seed: int = 0, dtype: type = np.float64) -> Sample:
    rng = np.random.default_rng(seed)
    shapes = (
        (NUM_IMAGES, *case.size, case.kernel[2]),
        case.kernel,
        (NUM_IMAGES, *case.out, case.kernel[3]),
    )
    return Sample(*(rng.normal(size=shape).astype(dtype) for shape in shapes))


class Products(NamedTuple):
    """The three products of a sample: outputs, inputs' and kernel's gradient."""

    out: Array
    dx: Array
    dkernel: Array


def both_directions(conv: convolution.Convolution, data: Sample) -> tuple[Products, Products]:
    """Gradients of `conv`, and of `conv_transpose` with input and output swapped."""

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        result: jax.Array = inner(conv.conv(outer(x), conv.prepare(kernel)))
        return result

    def transposed(y: jax.Array, kernel: jax.Array) -> jax.Array:
        result: jax.Array = inner(conv.conv_transpose(outer(y), conv.prepare(kernel)))
        return result

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, y: jax.Array) -> Any:
        out, pull = jax.vjp(forward, x, kernel)
        back, pull_back = jax.vjp(transposed, y, kernel)
        dy, dkernel = pull_back(x)
        return Products(out, *pull(y)), Products(dy, back, dkernel)

    got = run(*data)
    assert all(value.dtype == data.x.dtype for value in jax.tree.leaves(got))
    one, other = jax.tree.map(np.asarray, got)
    return one, other


def outer(x: Any) -> Any:
    """(n, h, w, c) to (h, w, n, c)."""
    return x.transpose(1, 2, 0, 3)


def inner(x: Any) -> Any:
    """(h, w, n, c) to (n, h, w, c)."""
    return x.transpose(2, 0, 1, 3)


def torch_products(case: Case, data: Sample) -> Products:
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    x, kernel = (torch.tensor(value, requires_grad=True) for value in data[:2])
    around = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (*case.pads[1], *case.pads[0]))
    weight = kernel.permute(3, 2, 0, 1).contiguous()
    out = torch.nn.functional.conv2d(around, weight, stride=case.stride).permute(0, 2, 3, 1)
    out.backward(torch.tensor(data.y))
    return Products(out.detach().numpy(), x.grad.numpy(), kernel.grad.numpy())


def check(got: Products, want: Products, tolerance: float = 1e-9) -> None:
    """Equal to `tolerance` of the largest entry."""
    for name, one, other in zip(Products._fields, got, want, strict=True):
        assert one.shape == other.shape, name
        largest = np.abs(other).max()
        assert np.abs(one - other).max() <= tolerance * max(largest, 1e-3), name


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_algorithm_equals_pytorch_in_both_directions_and_all_gradients(
    kind: type, seed: int
) -> None:
    # Seeds differ by algorithm, so that all of them together see more shapes.
    number = 100 * ALGORITHMS.index(kind) + seed
    case = random_case(number)
    data = sample(case, number)
    want = torch_products(case, data)
    with jax.enable_x64(True):
        for got in both_directions(by_algorithm(case, kind, number), data):
            check(got, want)


# Each with the algorithms expected for "fast" and "direct".
PICKED = (
    (Case((10, 9), (3, 3, 1, 24)), Im2col, Im2col),
    (Case((13, 8), (4, 2, 3, 8), (1, 1), ((2, 0), (1, 2))), Im2col, Im2col),
    (Case((10, 12), (5, 3, 16, 2), (1, 1), ((0, 2), (1, 0))), Col2im, Col2im),
    (Case((9, 9), (3, 3, 3, 4), (3, 2)), Col2im, Col2im),  # 3 * 6 phases are channels
    (Case((12, 12), (5, 5, 16, 24)), Winograd, Im2col),
    (Case((11, 14), (5, 5, 3, 8), (2, 2), ((0, 1), (2, 1))), Winograd, Im2col),
    (Case((14, 10), (6, 6, 8, 8), (2, 2), ((1, 2), (0, 1))), Winograd, Col2im),
    (Case((14, 13), (7, 7, 16, 8)), Winograd, RowIm2col),  # in blocks, along the results' channels
    (Case((20, 16), (9, 8, 8, 32)), Winograd, Im2col),  # and along the inputs'
    (Case((7, 8), (1, 1, 8, 24)), RowIm2col, RowIm2col),
    (
        Case((6, 8), (2, 1, 16, 8), (3, 3), ((0, 0), (1, 2))),
        RowIm2col,
        RowIm2col,
    ),  # pixels never read
)


@functools.cache
def picked(case: Case, form: convolution.EngineName) -> tuple[Products, Products]:
    with jax.enable_x64(True):
        return both_directions(case.convolution(form), sample(case))


@pytest.mark.parametrize(("case", "fast", "direct"), PICKED)
def test_every_pick_equals_pytorch(case: Case, fast: type, direct: type) -> None:
    want = torch_products(case, sample(case))
    forms: tuple[tuple[convolution.EngineName, type], ...] = (("fast", fast), ("direct", direct))
    for form, kind in forms:
        assert type(case.convolution(form).algorithm) is kind, form
        if form == "direct" and kind is fast:
            continue  # the same computation again
        for got in picked(case, form):
            check(got, want)


@pytest.mark.parametrize("case", [case for case, *_ in PICKED])
def test_outputs_equal_numpys(case: Case) -> None:
    data = sample(case)
    around = np.pad(data.x, ((0, 0), *case.pads, (0, 0)))
    want = oracles.correlate(around, data.kernel)[:, :: case.stride[0], :: case.stride[1]]
    np.testing.assert_allclose(picked(case, "fast")[0].out, want, atol=1e-10)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_backward_pass_is_the_posts(kind: type) -> None:
    """Step 4: delta * ROT180(w), a full convolution. Step 5: the input correlated with delta."""
    case = Case((8, 9), (3, 4, 2, 3))
    data = sample(case)
    dkernel = [
        [
            sum(
                signal.correlate2d(x[..., c], y[..., f], "valid")
                for x, y in zip(data.x, data.y, strict=True)
            )
            for f in range(3)
        ]
        for c in range(2)
    ]
    want = Products(
        oracles.correlate(data.x, data.kernel),
        oracles.full_convolution(data.y, data.kernel),
        np.array(dkernel).transpose(2, 3, 0, 1),
    )
    with jax.enable_x64(True):
        for got in both_directions(by_algorithm(case, kind, 0), data):
            check(got, want)


FLOAT32 = (
    Case((12, 12), (5, 5, 32, 32)),  # the post's second convolution
    Case((28, 28), (5, 5, 1, 32)),  # and its first
    Case((9, 11), (3, 2, 16, 4), (1, 1), ((1, 0), (2, 1))),
    Case((10, 10), (3, 3, 8, 16), (2, 2), ((1, 1), (1, 1))),
)


@pytest.mark.parametrize("case", FLOAT32)
def test_the_direct_form_equals_xlas_convolution_in_float32(case: Case) -> None:
    data = sample(case, 2, np.float32)

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, y: jax.Array) -> Any:
        def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.lax.conv_general_dilated(
                x, kernel, case.stride, case.pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        gradient = jax.grad(lambda *args: jnp.vdot(conv(*args), y), argnums=(0, 1))
        return Products(conv(x, kernel), *gradient(x, kernel))

    want = jax.tree.map(np.asarray, run(*data))
    for got in both_directions(case.convolution("direct"), data):
        check(got, want, 1e-6)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_conv_transpose_is_the_adjoint(kind: type) -> None:
    """<conv(x), y> = <x, conv_transpose(y)>, with skipped pixels and cropped padding."""
    case = Case((11, 9), (3, 2, 8, 8), (2, 3), ((2, 1), (0, 2)))
    conv, data = by_algorithm(case, kind, 0), sample(case, 3)

    @jax.jit
    def run(x: jax.Array, y: jax.Array, kernel: jax.Array) -> Any:
        prepared = conv.prepare(kernel)
        return conv.conv(x, prepared), conv.conv_transpose(y, prepared)

    with jax.enable_x64(True):
        z, back = run(outer(data.x), outer(data.y), data.kernel)
        assert back.shape == (*case.size, NUM_IMAGES, 8)
        one, other = np.vdot(z, outer(data.y)), np.vdot(outer(data.x), back)
    assert one == pytest.approx(other, rel=1e-10)


@pytest.mark.parametrize("kind", ALGORITHMS)
@pytest.mark.parametrize(("kernel", "out"), [((3, 2), (4, 5)), ((1, 4), (7, 3))])
def test_lift_and_lower_have_their_transposes(kind: type, kernel: Pair, out: Pair) -> None:
    tile = ((2, 3), kernel) if kind is Winograd else ()
    by, rng = kind(kernel, out, *tile), np.random.default_rng(0)
    x = rng.normal(size=(out[0] + kernel[0] - 1, out[1] + kernel[1] - 1, 2, 5))
    with jax.enable_x64(True):
        shapes = [
            jax.eval_shape(by.input_transform, x),
            jax.eval_shape(by.prepare, np.zeros((*kernel, 5, 4))),
        ]
        products = rng.normal(size=jax.eval_shape(by.forward, *shapes).shape)
        for there, back, one in (
            (by.input_transform, by.input_transform_t, x),
            (by.output_transform, by.output_transform_t, products),
        ):
            other = rng.normal(size=jax.eval_shape(there, one).shape)
            result, returned = jax.jit(lambda a, b, f=there, g=back: (f(a), g(b)))(one, other)
            assert returned.shape == one.shape
            assert np.vdot(result, other) == pytest.approx(np.vdot(one, returned), rel=1e-10)


SIDES = st.tuples(st.integers(1, 12), st.integers(1, 12))
OUTS = st.tuples(st.integers(1, 30), st.integers(1, 30))


@settings(max_examples=200)
@given(kernel=SIDES, out=OUTS)
def test_tiles_stay_within_the_size_limit(kernel: Pair, out: Pair) -> None:
    for way in tilings(kernel, out):
        assert max(way.points) <= LARGEST_TILE
        for axis in (0, 1):
            assert way.taps[axis] * way.blocks[axis] >= kernel[axis]
            assert way.blocks[axis] == 1 or way.taps[axis] == way.tile[axis]


@settings(max_examples=200)
@given(kernel=SIDES, out=OUTS, channels=st.integers(1, 200), filters=st.integers(1, 200))
def test_the_pick_costs_the_least(kernel: Pair, out: Pair, channels: int, filters: int) -> None:
    def cost(form: convolution.EngineName) -> float:
        return convolution.pick_algorithm(kernel, out, channels, filters, form).cost(
            channels, filters
        )

    assert 0 < cost("fast") <= cost("direct")
    if min(channels, filters) >= convolution.FEW_CHANNELS and kernel != (1, 1):
        ways = (RowIm2col(kernel, out), Im2col(kernel, out), Col2im(kernel, out))
        assert cost("direct") == min(way.cost(channels, filters) for way in ways)


# Zeros.


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_windows_of_zeros_are_exactly_zero_with_winograd(seed: int) -> None:
    """In both directions, with blank windows found by NumPy; other values are unchanged."""
    case, rng = random_case(seed), np.random.default_rng(seed)
    conv = by_algorithm(case, Winograd, seed)
    rounded = dataclasses.replace(conv, exact_zeros=False)
    kernel = rng.normal(size=case.kernel).astype(np.float32)
    prepared = conv.prepare(jnp.asarray(kernel))
    ones = np.ones((*case.kernel[:2], 1, 1))

    def half_blank(size: Pair, channels: int) -> Array:
        values = rng.normal(size=(*size, NUM_IMAGES, channels)).astype(np.float32)
        blank = np.arange(size[0])[:, None] + np.arange(size[1]) > sum(size) * 0.4
        values[blank & (rng.random(size) < 0.97)] = 0
        return values

    x, y = half_blank(case.size, case.kernel[2]), half_blank(case.out, case.kernel[3])
    seen = np.abs(x).sum(-1, dtype=np.float64).transpose(2, 0, 1)[..., None]
    padded = np.pad(seen, ((0, 0), *case.pads, (0, 0)))
    met = oracles.correlate(padded, ones)[:, :: case.stride[0], :: case.stride[1], 0]
    _agree_but_for_zeros(conv.conv, rounded.conv, (x, prepared), met.transpose(1, 2, 0))
    given = np.abs(y).sum(-1, dtype=np.float64)
    reached = np.zeros((*padded.shape[1:3], NUM_IMAGES))
    for i, j in np.ndindex(case.out):
        top, left = i * case.stride[0], j * case.stride[1]
        reached[top : top + case.kernel[0], left : left + case.kernel[1]] += given[i, j]
    (low, _), (left, _) = case.pads
    reached = reached[low : low + case.size[0], left : left + case.size[1]]
    _agree_but_for_zeros(conv.conv_transpose, rounded.conv_transpose, (y, prepared), reached)


def _agree_but_for_zeros(exact: Any, rounded: Any, args: tuple[Any, ...], met: Array) -> None:
    @jax.jit
    def run(*args: jax.Array) -> Any:
        found = []
        for function in (exact, rounded):
            result, pull = jax.vjp(function, *args)
            found.append((result, pull(jnp.ones_like(result))))
        return found

    (got, slopes), (want, others) = jax.tree.map(np.asarray, run(*args))
    blank = met == 0
    assert (got[blank] == 0).all()
    np.testing.assert_allclose(got[~blank], want[~blank], rtol=1e-3, atol=1e-4)
    for one, other in zip(slopes, others, strict=True):  # no gradient sees it
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_nonfinite_values_are_not_taken_for_zero() -> None:
    conv = convolution.convolution((12, 12), (5, 5, 32, 32), (1, 1), (0, 0), (8, 8), "fast")
    assert isinstance(conv.algorithm, Winograd)
    x = np.zeros((12, 12, 2, 32), np.float32)
    x[3, 3, :, 5] = np.nan, np.inf
    run = jax.jit(lambda x, kernel: conv.conv(x, conv.prepare(kernel)))
    result = np.asarray(run(x, np.ones((5, 5, 32, 32), np.float32)))
    assert not np.isfinite(result[:4, :4]).any()


@pytest.mark.parametrize("kind", [Im2col, Col2im, RowIm2col])
def test_direct_forms_give_equal_results_for_equal_windows(kind: type) -> None:
    """To the bit, at any position and with any neighbors."""
    case = Case((20, 20), (5, 4, 6, 8))
    conv, rng = by_algorithm(case, kind, 0), np.random.default_rng(0)
    x = np.broadcast_to(rng.normal(size=6), (20, 20, NUM_IMAGES, 6)).astype(np.float32)
    x[:, :7] = rng.normal(size=(20, 7, NUM_IMAGES, 6))
    kernel = rng.normal(size=case.kernel).astype(np.float32)
    y = np.asarray(jax.jit(lambda x, kernel: conv.conv(x, conv.prepare(kernel)))(x, kernel))
    np.testing.assert_array_equal(y[:, 7:], np.broadcast_to(y[:1, 7:8, :1], y[:, 7:].shape))
    assert (y[:, 7:] != y[:, 6:7]).any()


@pytest.mark.parametrize("kind", [Im2col, RowIm2col])
@pytest.mark.parametrize(
    ("images", "size", "channels", "filters"),
    [(60, 9, 2, 8), (60, 9, 3, 8), (60, 9, 4, 8), (60, 28, 1, 8), (60, 14, 8, 16)],
)
def test_kernel_gradients_of_pixels_are_as_exact_as_pytorchs(
    kind: type[Im2col | RowIm2col], images: int, size: int, channels: int, filters: int
) -> None:
    """A 1x1 kernel before a batch norm, whose errors have a mean of zero: large sums cancel."""
    torch = pytest.importorskip("torch", reason="needs the peers extra")
    taps, found = kind((1, 1), (size, size)), []

    def in_pytorch(dtype: Any, x: Array, dy: Array) -> Array:
        layer = torch.nn.Conv2d(channels, filters, 1, bias=False).to(dtype)
        given, errors = (torch.tensor(v.transpose(2, 3, 0, 1).copy(), dtype=dtype) for v in (x, dy))
        layer(given).backward(errors)
        gradient: Array = layer.weight.grad[:, :, 0, 0].T.double().numpy()
        return gradient

    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = (0.3 + rng.standard_normal((size, size, images, channels))).astype(np.float32)
        dy = rng.standard_normal((size, size, images, filters)).astype(np.float32)
        dy -= dy.mean((0, 1, 2))
        exact = in_pytorch(torch.float64, x, dy)
        parts = taps.input_transform(jnp.asarray(x)), taps.output_transform_t(jnp.asarray(dy))
        ours = np.asarray(taps.gradient(*parts), np.float64).reshape(channels, filters)
        found.append((ours - exact, in_pytorch(torch.float32, x, dy) - exact))
    mine, other = np.sqrt(np.square(found).mean((0, 2, 3)))
    assert mine <= 2 * other, (mine, other)
