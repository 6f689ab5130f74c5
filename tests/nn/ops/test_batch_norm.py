"""Batch norm far from zero, in every engine, against PyTorch and float64."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.lowering import unavailable
from cnnbench.nn.microbatch import Microbatching
from cnnbench.nn.native.sums import NATIVE_SUMS
from cnnbench.nn.ops import batch_norm
from cnnbench.nn.ops.convolution import EngineName
from cnnbench.nn.python_model import split_model
from cnnbench.nn.result import Result
from cnnbench.system.devices import make_mesh, pick_devices
from tests.support.oracles import Array, correlate, make_plan
from tests.support.programs import copies

torch: Any = pytest.importorskip("torch", reason="needs the peers extra")

OFFSETS = (0, 0.3, 1, 10, -100, 1e3, -1e4)  # standard deviations
# Shapes and the number of rows: small and large images, one pixel, vectors; 97 has no divisor. The
# channels are of whole vectors or not.
SHAPES: dict[tuple[int, ...], int] = {
    (60, 8, 9, 4): 10,
    (500, 4, 4, 8): 50,
    (16, 14, 14, 32): 2,
    (96, 1, 1, 32): 8,
}
SHAPES |= {(97, 4, 4, 8): 1, (120, 5): 10, (7, 3, 3, 44): 1, (6, 9, 7, 100): 2}
SEEDS = (7, 8, 9)
NAMES = ("y", "dx", "scale", "bias", "mean", "var")
MOMENTUM, EPSILON = 0.9, 1e-5
Apply = Callable[[batch_norm.StableBatchNorm, jax.Array], jax.Array]


def point(shape: tuple[int, ...], offset: float, seed: int = 7) -> tuple[Array, ...]:
    """Values, the error of the result, scale and bias."""
    rng = np.random.default_rng(seed)
    x, dy = offset + rng.standard_normal(shape), rng.standard_normal(shape)
    scale, bias = rng.uniform(0.5, 2, shape[-1]), rng.standard_normal(shape[-1])
    return tuple(v.astype(np.float32) for v in (x, dy, scale, bias))


def in_pytorch(
    dtype: Any, *arrays: Array, values: Any = None, running: float = 0
) -> dict[str, Array]:
    """The result, three gradients, and the running statistics.

    Args:
      dtype: of the layer.
      arrays: as of `point`.
      values: dtype of the values and their gradients, if it is another.
      running: the running mean before the batch.
    """
    x, dy, scale, bias = arrays
    first = [torch.tensor(np.moveaxis(v, -1, 1).copy(), dtype=values or dtype) for v in (x, dy)]
    kind = torch.nn.BatchNorm2d if x.ndim == 4 else torch.nn.BatchNorm1d
    layer = kind(x.shape[-1], eps=EPSILON, momentum=1 - MOMENTUM).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(scale))
        layer.bias.copy_(torch.tensor(bias))
        layer.running_mean.fill_(running)
    y = layer(first[0].requires_grad_())
    y.backward(first[1])
    images = [np.moveaxis(v.detach().double().numpy(), 1, -1) for v in (y, first[0].grad)]
    others = (layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var)
    return dict(zip(NAMES, images + [v.detach().double().numpy() for v in others], strict=True))


def require_twice(
    run: Callable[..., dict[str, Array]],
    shape: tuple[int, ...],
    offset: float,
    **running: float,
) -> None:
    """Errors against float64 are at most twice those of PyTorch in float32.

    Root mean squares over values and draws: the largest of a few rounded numbers is chance.
    """
    errors: dict[str, list[Array]] = {}
    for seed in SEEDS:
        arrays = point(shape, offset, seed)
        exact, theirs = (
            in_pytorch(dtype, *arrays, **running) for dtype in (torch.float64, torch.float32)
        )
        n = arrays[0].size // shape[-1]
        biased = exact | {"var": MOMENTUM + (exact["var"] - MOMENTUM) * (n - 1) / n}
        for name, got in run(*arrays, **running).items():
            pair = (got - biased[name], theirs[name] - exact[name])
            errors.setdefault(name, []).append(np.stack(pair).reshape(2, -1))
    for name, found in errors.items():
        mine, other = np.sqrt(np.square(np.concatenate(found, axis=1)).mean(axis=1))
        assert mine <= 2 * other, (name, mine, other)


def whole(layer: batch_norm.StableBatchNorm, x: jax.Array) -> jax.Array:
    return layer(x)


def natively(layer: batch_norm.StableBatchNorm, x: jax.Array) -> jax.Array:
    """With sums in C, which need a C compiler."""
    if reason := unavailable("winograd"):
        pytest.skip(reason)
    layer.summation = nnx.static(NATIVE_SUMS)
    return layer(x)


def in_bfloat16(layer: batch_norm.StableBatchNorm, x: jax.Array) -> jax.Array:
    return layer(x.astype(jnp.bfloat16)).astype(jnp.float32)


def in_rows(layer: batch_norm.StableBatchNorm, x: jax.Array) -> jax.Array:
    """The layout of `microbatch`: images of a row are contiguous."""
    rows = x.reshape(SHAPES[x.shape], -1, *x.shape[1:])
    rows = rows.transpose(0, 2, 3, 1, 4) if x.ndim == 4 else rows
    size = x.size // x.shape[-1]

    found = jax.lax.map(batch_norm.channel_sums, rows)
    sums = batch_norm.about_mean(found[0], found[1], size, jnp.float32)
    known = batch_norm.statistics(layer, sums, size)
    y = jax.vmap(lambda row: batch_norm.normalize(batch_norm.BY_XLA, row, **known, relu=None))(rows)
    return (y.transpose(0, 3, 1, 2, 4) if x.ndim == 4 else y).reshape(x.shape)


def test_images_with_long_rows_are_not_copied() -> None:
    """For a layout that only differs in an axis of one part."""

    @jax.jit
    def sums(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, batch_norm.Sums]:
        images = (x @ kernel).reshape(8, 32, 32, 128)
        return images, batch_norm.batch_sums(images)

    program = sums.lower(jnp.zeros((8 * 32 * 32, 16)), jnp.zeros((16, 128))).compile()
    assert copies(program, 8 * 32 * 32 * 128) == 0


@cache
def ours(apply: Apply) -> Callable[..., dict[str, Array]]:
    """The same as of PyTorch."""

    def run(running: Any, x: Any, scale: Any, bias: Any) -> Any:
        options = {"momentum": MOMENTUM, "epsilon": EPSILON, "rngs": nnx.Rngs(0)}
        layer = batch_norm.StableBatchNorm(x.shape[-1], batch_norm.BY_XLA, **options)
        part: Any = layer
        part.scale[...], part.bias[...] = scale, bias
        part.mean[...] = jnp.full_like(part.mean[...], running)
        return apply(layer, x), (layer.mean[...], layer.var[...])

    @jax.jit
    def both(x: Any, dy: Any, scale: Any, bias: Any, running: Any) -> Any:
        y, pull, moved = jax.vjp(partial(run, running), x, scale, bias, has_aux=True)
        return y, *pull(dy), *moved

    def named(*arrays: Array, running: float = 0) -> dict[str, Array]:
        values = both(*arrays, running)
        found = {n: np.asarray(v, np.float64) for n, v in zip(NAMES, values, strict=True)}
        # `microbatch` adds up the gradients of scale and bias: `test_engines_keep_the_digits`
        left_out = {"scale", "bias"} if apply is in_rows else set()
        return {name: v for name, v in found.items() if name not in left_out}

    return named


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("apply", [whole, natively, in_rows])
def test_errors_are_at_most_twice_those_of_pytorch(
    apply: Apply, shape: tuple[int, ...], offset: float
) -> None:
    require_twice(ours(apply), shape, offset)


@pytest.mark.parametrize("apply", [whole, natively, in_rows])
@pytest.mark.parametrize(
    ("offset", "running"),
    [(0.5, 0), (1.3, 0.6), (2, 0), (3, 2.2), (100, 99.5), (1e4, 1e4), (1e4, 9e3), (0, 50)],
)
def test_errors_do_not_depend_on_the_running_mean(
    apply: Apply, offset: float, running: float
) -> None:
    """The batch is summed about the running mean, or again if that is too far away."""
    require_twice(ours(apply), (60, 8, 9, 4), offset, running=running)


@pytest.mark.parametrize("offset", [0, 1, 10, 100])
def test_errors_in_bfloat16_are_at_most_twice_those_of_autocast(offset: float) -> None:
    """Values and their gradients in bfloat16; scale, bias and statistics in float32."""
    shape, errors = (60, 8, 9, 4), []
    for seed in SEEDS:
        x, dy, scale, bias = point(shape, offset, seed)
        x, dy = (np.asarray(jnp.asarray(v, jnp.bfloat16), np.float32) for v in (x, dy))
        exact = in_pytorch(torch.float64, x, dy, scale, bias)
        theirs = in_pytorch(torch.float32, x, dy, scale, bias, values=torch.bfloat16)
        mine = ours(in_bfloat16)(x, dy, scale, bias)
        errors.append([[found[n] - exact[n] for n in ("y", "dx")] for found in (mine, theirs)])
    mine, other = np.sqrt(np.square(errors).mean(axis=(0, 3, 4, 5, 6)))
    assert (mine <= 2 * other).all(), (mine, other)


@pytest.mark.parametrize("apply", [whole, natively, in_rows])
@pytest.mark.parametrize("value", [0, 1e-30, -3.7, 1000])
def test_a_constant_channel_gives_its_bias(apply: Apply, value: float) -> None:
    """Constant channels, such as after an inactive relu, cause no division by zero."""
    x, dy, scale, bias = point((60, 8, 9, 4), 0)
    x = np.full_like(x, value)
    found = ours(apply)(x, dy, scale, bias)
    y, dx, mean, variance = (found[name] for name in ("y", "dx", "mean", "var"))
    np.testing.assert_allclose(y, np.broadcast_to(bias, x.shape), atol=1e-5)
    np.testing.assert_allclose(mean, np.full(4, 0.1 * np.float64(x.flat[0])), rtol=1e-6)
    np.testing.assert_allclose(variance, np.full(4, 0.9), rtol=1e-6)
    assert np.isfinite(dx).all()


@cache
def engine(
    form: EngineName, row: int | None, num_devices: int, shape: tuple[int, ...]
) -> Callable[..., dict[str, Array]]:
    """Running statistics, and the gradients of scale and bias, as a training has them."""
    mesh = make_mesh(pick_devices("cpu")[:num_devices])
    layer = {"op": "batch_norm", "momentum": MOMENTUM, "epsilon": EPSILON}
    plan = make_plan({"norm": layer}, shape[1:], shape[1:])
    net = GraphNet(plan, form=form, rngs=nnx.Rngs(0), cut=Microbatching(row, mesh) if row else None)
    net.train()
    structure, params, rest = split_model(net)

    @jax.jit
    def run(x: Any, dy: Any) -> Any:
        def loss(params: Any) -> Any:
            net = nnx.merge(structure, params, rest, copy=True)
            head = lambda result, dy: jnp.sum(result.output * dy)  # noqa: E731
            return net.sum_of(x, net.prepare(), head, (dy,)), split_model(net)[2]

        return jax.grad(loss, has_aux=True)(params)

    def named(x: Array, dy: Array, *_: Array) -> dict[str, Array]:
        slopes, after = map(nnx.to_pure_dict, run(x, dy))
        found = slopes["parts"]["norm"] | after["parts"]["norm"]
        return {name: np.asarray(found[name], np.float64) for name in NAMES if name in found}

    return named


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize(
    ("form", "row", "num_devices", "shape"),
    [
        ("plain", None, 1, (500, 4, 4, 8)),
        ("plain", None, 1, (97, 4, 4, 8)),
        ("direct", 10, 1, (500, 4, 4, 8)),
        ("direct", 10, 2, (500, 4, 4, 8)),
        ("fast", 8, 2, (16, 14, 14, 32)),
        ("fast", 60, 1, (60, 8, 9, 4)),
        ("fast", 12, 2, (96, 1, 1, 32)),
    ],
)
def test_engines_keep_the_digits(
    form: EngineName, row: int | None, num_devices: int, shape: tuple[int, ...], offset: float
) -> None:
    require_twice(engine(form, row, num_devices, shape), shape, offset)


MANY = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
from tests.nn.ops import test_batch_norm as tests
for num_devices in (4, 8):
    run = tests.engine("fast", 5, num_devices, (160, 4, 4, 8))
    for offset in tests.OFFSETS:
        tests.require_twice(run, (160, 4, 4, 8), offset)
    print(num_devices, len(jax.devices()))
"""


@pytest.mark.slow
def test_four_and_eight_devices_keep_the_digits() -> None:
    """In a subprocess, because the test process has two devices."""
    found = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["4", "8", "8", "8"]


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
    form: EngineName, row: int | None, num_devices: int
) -> None:
    """Means are about a hundred standard deviations: E[x^2] - E[x]^2 left two digits."""
    rng = np.random.default_rng(5)
    images = (rng.random((100, 28, 28, 1)) * 0.1).astype(np.float32)
    labels = rng.integers(0, 10, 100)
    mesh = make_mesh(pick_devices("cpu")[:num_devices])
    plan = make_plan(SOFT, (28, 28, 1), (10,))
    net = GraphNet(plan, form=form, rngs=nnx.Rngs(1), cut=Microbatching(row, mesh) if row else None)
    net.train()
    net.weights["conv1"]["kernel"][...] /= 10

    def head(result: Result, labels: jax.Array) -> jax.Array:
        chosen = jnp.take_along_axis(result.output, labels[:, None], 1)[:, 0]
        return jnp.sum(jax.nn.logsumexp(result.output, axis=1) - chosen)

    structure, params, rest = split_model(net)

    def mean_loss(params: Any) -> Any:
        net = nnx.merge(structure, params, rest, copy=True)
        return net.sum_of(images, net.prepare(), head, (labels,)) / len(images)

    want = loss_in_float64(nnx.to_pure_dict(params)["weights"], images, labels)
    # Half of what float32 leaves of the convolution's results, whose mean is 400 deviations.
    np.testing.assert_allclose(jax.jit(mean_loss)(params), want, rtol=1e-4)
