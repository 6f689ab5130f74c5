"""Batch norm far from zero, in every engine, against PyTorch and float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from cnnbench import batch_norm as bn
from cnnbench.devices import make_mesh, pick_devices
from cnnbench.models import GraphNet
from cnnbench.ops import Form
from cnnbench.python_models import split
from cnnbench.result import Result
from cnnbench.rowwise import Cut
from tests.oracles import Array, correlate, make_plan

ROWS, OFFSETS = 10, (0, 1, 10, 100, 1e3, 1e4)  # standard deviations
SHAPES = ((60, 8, 9, 4), (120, 5))
MOMENTUM, EPSILON = 0.9, 1e-5
Apply = Callable[[bn.BatchNorm, jax.Array], jax.Array]


def point(shape: tuple[int, ...], offset: float) -> tuple[Array, ...]:
    """Values, the error of the result, scale and bias."""
    rng = np.random.default_rng(7)
    x, dy = offset + rng.standard_normal(shape), rng.standard_normal(shape)
    scale, bias = rng.uniform(0.5, 2, shape[-1]), rng.standard_normal(shape[-1])
    return tuple(v.astype(np.float32) for v in (x, dy, scale, bias))


def in_pytorch(dtype: torch.dtype, *arrays: Array) -> list[Array]:
    """The result, three gradients, and the running mean."""
    x, dy, scale, bias = arrays
    first = [torch.tensor(np.moveaxis(v, -1, 1).copy(), dtype=dtype) for v in (x, dy)]
    kind = torch.nn.BatchNorm2d if x.ndim == 4 else torch.nn.BatchNorm1d
    layer = kind(x.shape[-1], eps=EPSILON, momentum=1 - MOMENTUM).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(scale))
        layer.bias.copy_(torch.tensor(bias))
    y = layer(first[0].requires_grad_())
    y.backward(first[1])
    images = [np.moveaxis(v.detach().double().numpy(), 1, -1) for v in (y, first[0].grad)]
    others = (layer.weight.grad, layer.bias.grad, layer.running_mean)
    return images + [v.detach().double().numpy() for v in others]


def whole(layer: bn.BatchNorm, x: jax.Array) -> jax.Array:
    return layer(x)


def in_rows(layer: bn.BatchNorm, x: jax.Array) -> jax.Array:
    """As `rowwise` has it: images of a row lie side by side."""
    rows = x.reshape(ROWS, -1, *x.shape[1:])
    rows = rows.transpose(0, 2, 3, 1, 4) if x.ndim == 4 else rows
    sums = jax.vmap(bn.channel_sums)(rows)
    known = bn.statistics(layer, sums, rows.size // ROWS // x.shape[-1])
    y = jnp.stack([bn.normalize(row, **known) for row in rows])
    return (y.transpose(0, 3, 1, 2, 4) if x.ndim == 4 else y).reshape(x.shape)


def ours(apply: Apply, x: Array, dy: Array, scale: Array, bias: Array) -> list[Array]:
    """The same as of PyTorch, and the running variance."""

    def run(x: Any, scale: Any, bias: Any) -> Any:
        layer = bn.BatchNorm(x.shape[-1], momentum=MOMENTUM, epsilon=EPSILON, rngs=nnx.Rngs(0))
        part: Any = layer
        part.scale[...], part.bias[...] = scale, bias
        return apply(layer, x), (layer.mean[...], layer.var[...])

    @jax.jit
    def both(x: Any, dy: Any, scale: Any, bias: Any) -> Any:
        y, pull, moved = jax.vjp(run, x, scale, bias, has_aux=True)
        return y, *pull(dy), *moved

    return [np.asarray(v, np.float64) for v in both(x, dy, scale, bias)]


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("shape", SHAPES, ids=["images", "vectors"])
@pytest.mark.parametrize("apply", [whole, in_rows])
def test_errors_are_at_most_twice_those_of_pytorch(
    apply: Apply, shape: tuple[int, ...], offset: float
) -> None:
    """Or the rounding of what is near one, which a standard deviation is here."""
    arrays = point(shape, offset)
    exact, theirs = (in_pytorch(dtype, *arrays) for dtype in (torch.float64, torch.float32))
    variance = arrays[0].astype(np.float64).var(tuple(range(len(shape) - 1)))
    got = ours(apply, *arrays)
    named = zip(("y", "dx", "scale", "bias", "mean"), got, theirs, exact, strict=False)
    for name, mine, other, want in named:
        if apply is in_rows and name in {"scale", "bias"}:
            continue  # `rowwise` adds up those of rows: the test below
        floor = 2e-7 * max(1, np.abs(want).max() if want.ndim == 1 else 8)
        assert np.abs(mine - want).max() <= 2 * np.abs(other - want).max() + floor
    moved = MOMENTUM + (1 - MOMENTUM) * variance
    np.testing.assert_allclose(got[-1], moved, rtol=2e-7)


@pytest.mark.parametrize("apply", [whole, in_rows])
@pytest.mark.parametrize("value", [0, 1e-30, -3.7, 1000])
def test_a_constant_channel_gives_its_bias(apply: Apply, value: float) -> None:
    """As after a relu that is never active; no division by what is rounded to zero."""
    _, dy, scale, bias = point(SHAPES[0], 0)
    x = np.full(SHAPES[0], value, np.float32)
    y, dx, *_, mean, variance = ours(apply, x, dy, scale, bias)
    np.testing.assert_allclose(y, np.broadcast_to(bias, x.shape), atol=1e-5)
    np.testing.assert_allclose(mean, np.full(4, 0.1 * np.float64(x.flat[0])), rtol=1e-6)
    np.testing.assert_allclose(variance, np.full(4, 0.9), rtol=1e-6)
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize(
    ("form", "row", "num_devices"),
    [("plain", None, 1), ("direct", 6, 1), ("direct", 6, 2), ("fast", 10, 2), ("fast", 60, 1)],
)
def test_engines_keep_the_digits(
    form: Form, row: int | None, num_devices: int, offset: float
) -> None:
    """Running statistics, and the gradients of scale and bias, of images that are far off."""
    x, dy, *_ = point(SHAPES[0], offset)
    mesh = make_mesh(pick_devices("cpu")[:num_devices])
    plan = make_plan({"norm": {"op": "batch_norm"}}, x.shape[1:], x.shape[1:])
    net = GraphNet(plan, form=form, rngs=nnx.Rngs(0), cut=Cut(row, mesh) if row else None)
    net.train()
    structure, params, rest = split(net)

    def loss(params: Any) -> Any:
        net = nnx.merge(structure, params, rest, copy=True)
        head = lambda result, dy: jnp.sum(result.output * dy)  # noqa: E731
        return net.sum_of(x, net.prepare(), head, (dy,)), split(net)[2]

    slopes, after = jax.jit(jax.grad(loss, has_aux=True))(params)
    moved = nnx.to_pure_dict(after)["parts"]["norm"]
    slopes = nnx.to_pure_dict(slopes)["parts"]["norm"]
    x64, axes = x.astype(np.float64), (0, 1, 2)
    mean, variance = x64.mean(axes), x64.var(axes)
    unit = (x64 - mean) / np.sqrt(variance + 1e-5)
    near = partial(np.testing.assert_allclose, rtol=3e-7)
    near(moved["mean"], 0.1 * mean, atol=3e-9)
    near(moved["var"], 0.9 + 0.1 * variance)
    near(slopes["bias"], dy.astype(np.float64).sum(axes), atol=1e-4)
    near(slopes["scale"], (dy * unit).sum(axes), atol=1e-4)


SOFT = {
    "conv1": {"op": "conv", "filters": 8, "kernel": 5, "activation": "softplus"},
    "norm": {"op": "batch_norm", "epsilon": 1e-5},
    "pool": {"op": "max_pool", "size": 4},
    "out": {"op": "dense", "units": 10},
}


def loss_in_float64(weights: Any, images: Array, labels: Array) -> float:
    """The mean cross-entropy of that network in training, in NumPy."""
    x = correlate(images.astype(np.float64), np.asarray(weights["conv1"]["kernel"], np.float64))
    x = np.logaddexp(0, x + np.asarray(weights["conv1"]["bias"], np.float64))
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 4, 4, width // 4, 4, channels).max((2, 4)).reshape(n, -1)
    x = x @ np.asarray(weights["out"]["kernel"], np.float64)
    largest = x.max(1, keepdims=True)
    log_sum = largest[:, 0] + np.log(np.exp(x - largest).sum(1))
    return float((log_sum - x[np.arange(n), labels]).mean())


@pytest.mark.parametrize(
    ("form", "row", "num_devices"),
    [("plain", None, 1), ("direct", 10, 1), ("direct", 10, 2), ("fast", 10, 2)],
)
def test_the_first_loss_is_that_of_float64_where_channels_are_far_from_zero(
    form: Form, row: int | None, num_devices: int
) -> None:
    """Means are about a hundred standard deviations: E[x^2] - E[x]^2 left two digits."""
    rng = np.random.default_rng(5)
    images = (rng.random((100, 28, 28, 1)) * 0.1).astype(np.float32)
    labels = rng.integers(0, 10, 100)
    mesh = make_mesh(pick_devices("cpu")[:num_devices])
    plan = make_plan(SOFT, (28, 28, 1), (10,))
    net = GraphNet(plan, form=form, rngs=nnx.Rngs(1), cut=Cut(row, mesh) if row else None)
    net.train()
    net.weights["conv1"]["kernel"][...] /= 10

    def head(result: Result, labels: jax.Array) -> jax.Array:
        chosen = jnp.take_along_axis(result.output, labels[:, None], 1)[:, 0]
        return jnp.sum(jax.nn.logsumexp(result.output, axis=1) - chosen)

    structure, params, rest = split(net)

    def mean_loss(params: Any) -> Any:
        net = nnx.merge(structure, params, rest, copy=True)
        return net.sum_of(images, net.prepare(), head, (labels,)) / len(images)

    want = loss_in_float64(nnx.to_pure_dict(params)["weights"], images, labels)
    # Half of what float32 leaves of the convolution's results, whose mean is 400 deviations.
    np.testing.assert_allclose(jax.jit(mean_loss)(params), want, rtol=1e-4)
