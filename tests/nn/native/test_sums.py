"""A batch norm computed with its relu, as PyTorch computes them in float64."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.graph.plan import Plan
from cnnbench.nn import graph_net
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.lowering import lower, unavailable
from cnnbench.nn.microbatch import Microbatching
from cnnbench.nn.native.sums import NATIVE_SUMS
from cnnbench.nn.ops.activation import RELUS
from cnnbench.nn.ops.batch_norm import BY_XLA, StableBatchNorm, normalize
from cnnbench.nn.ops.convolution import EngineName
from cnnbench.nn.python_model import split_model
from cnnbench.system.devices import make_mesh, pick_devices
from tests.support.engines import USABLE
from tests.support.oracles import Array, make_plan

torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)

CHANNELS = (1, 3, 5, 8, 17, 96)
SIZES: tuple[tuple[int, ...], ...] = ((5, 6, 7), (1, 1, 1), (4, 3, 2), (67,))
EPSILON = 1e-5
Layers = Mapping[str, Mapping[str, Any]]


def in_pytorch(relu: str, dy: Array, function: Any, *given: Array) -> list[Array]:
    """A function and its gradients in float64; channels come second."""
    tensors = [torch.tensor(np.moveaxis(v, -1, min(1, v.ndim - 1))).double() for v in given]
    leaves = [tensor.requires_grad_() for tensor in tensors]
    y = getattr(torch.nn.functional, relu)(function(*leaves))
    y.backward(torch.tensor(np.moveaxis(dy, -1, 1)))
    found = [each.detach().numpy() for each in (y, *(leaf.grad for leaf in leaves))]
    return [np.moveaxis(v, 1, -1) if v.ndim > 1 else v for v in found]


def quarters(shape: tuple[int, ...]) -> list[Array]:
    """Errors, and arguments of `normalize`, whose results are exact: many are 0 and 6."""
    rng, channels = np.random.default_rng(0), shape[-1]
    x, dy = (rng.integers(-16, 33, shape) / 4 for _ in range(2))
    mean, bias = (rng.integers(-8, 9, channels) / 4 for _ in range(2))
    return [v.astype(np.float32) for v in (dy, x, mean, rng.choice([0.5, 1, -2], channels), bias)]


def affine(x: Any, *given: Any) -> Any:
    mean, factor, bias = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in given)
    return (x - mean) * factor + bias


def check(relu: str, shape: tuple[int, ...], by: Any = NATIVE_SUMS) -> None:
    dy, *given = quarters(shape)
    y, pull = jax.vjp(partial(normalize, by, relu=RELUS[relu]), *given)
    want = in_pytorch(relu, dy, affine, *given)
    for one, other in zip((y, *pull(dy)), want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=0)


def check_all() -> None:
    for relu in RELUS:
        for channels in CHANNELS:
            check(relu, (*SIZES[0], channels))


@pytest.mark.parametrize("by", [NATIVE_SUMS, BY_XLA], ids=["c", "xla"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("relu", RELUS)
def test_errors_are_zero_at_and_outside_both_kinks(
    relu: str, size: tuple[int, ...], channels: int, by: Any
) -> None:
    check(relu, (*size, channels), by)


@pytest.mark.parametrize("relu", RELUS)
def test_a_batch_norm_with_its_relu(relu: str) -> None:
    rng, shape = np.random.default_rng(1), (9, 6, 5, 17)
    dy, x = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    scale, bias = (rng.normal(2, 2, shape[-1]).astype(np.float32) for _ in range(2))

    @jax.jit
    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        layer: Any = StableBatchNorm(17, NATIVE_SUMS, epsilon=EPSILON, rngs=nnx.Rngs(0))
        layer.scale[...], layer.bias[...] = scale, bias
        y: jax.Array = layer(x, relu=RELUS[relu])
        return y

    y, pull = jax.vjp(ours, x, scale, bias)
    function = partial(torch.nn.functional.batch_norm, training=True, eps=EPSILON)
    by_torch = lambda x, scale, bias: function(x, None, None, scale, bias)  # noqa: E731
    want = in_pytorch(relu, dy, by_torch, x, scale, bias)
    for one, other in zip((y, *pull(dy)), want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())


@pytest.mark.parametrize("relu", RELUS)
def test_vmap(relu: str) -> None:
    every = [np.stack([v, v[::-1], 2 * v]) for v in quarters((4, 3, 2, 5))]

    def run(dy: Any, *given: Any) -> Any:
        y, pull = jax.vjp(partial(normalize, NATIVE_SUMS, relu=RELUS[relu]), *given)
        return y, *pull(dy)

    together = jax.vmap(run)(*every)
    for number in range(3):
        alone = run(*(v[number] for v in every))
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(one[number], other)


@pytest.mark.parametrize("relu", RELUS)
def test_nan_stays_visible(relu: str) -> None:
    dy, *given = quarters((4, 3, 2, 5))
    dy[...] = np.nan
    _, pull = jax.vjp(partial(normalize, NATIVE_SUMS, relu=RELUS[relu]), *given)
    assert np.isnan(pull(dy)[3]).all()


# Networks.

CONV = {"op": "conv", "filters": 5, "kernel": 3, "padding": "same", "use_bias": False}
NORM = {"op": "batch_norm"}
HEAD = {"op": "dense", "units": 3}


def act(activation: str, **more: Any) -> dict[str, Any]:
    return {"op": "activation", "activation": activation} | more


ALONE: Layers = {"conv": CONV, "norm": NORM, "act": act("relu6"), "head": HEAD}
TWICE: Layers = {
    "conv": CONV,
    "norm": NORM,
    "act": act("relu"),
    "sum": {"op": "add", "inputs": ["norm", "act"]},
    "head": HEAD,
}
SHARED: Layers = {
    "conv": CONV,
    "norm": NORM,
    "act": act("relu"),
    "again": NORM | {"weights": "norm"},
    "act2": act("relu6"),
    "last": NORM | {"weights": "norm"},
    "head": HEAD,
}
BLOCK: Layers = {"conv": CONV, "norm": NORM, "act": act("relu"), "conv2": CONV, "norm2": NORM}
DEEP: Layers = {f"{i}.{name}": op for i in range(4) for name, op in BLOCK.items()} | {"head": HEAD}

EXPAND = CONV | {"filters": 8, "kernel": 1}
INVERTED: Layers = {
    "expand": EXPAND,
    "norm": NORM,
    "act": act("relu6"),
    "conv": CONV | {"filters": 8, "groups": "depthwise"},
    "norm2": NORM,
    "act2": act("relu"),
}
MOBILE: Layers = {
    "stem": EXPAND,
    **{f"{i}.{name}": op for i in range(4) for name, op in INVERTED.items()},
    "head": HEAD,
}


def plan_of(layers: Layers) -> Plan:
    return make_plan(layers, (6, 7, 5), (3,) if "head" in layers else (6, 7, 5))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (ALONE, {"norm": "relu6"}),
        (SHARED, {"norm": "relu", "again": "relu6"}),
        (TWICE, {}),
        ({**ALONE, "act": act("tanh")}, {}),
        ({**ALONE, "norm": NORM | {"trainable": False}}, {}),
        ({"act": act("relu"), "conv": CONV, "act2": act("relu6"), "head": HEAD}, {}),
        ({"conv": CONV, "act": act("relu"), "norm": NORM}, {}),
    ],
    ids=["alone", "shared", "two readers", "tanh", "frozen", "no norm", "the output"],
)
def test_relus_that_alone_read_a_batch_norm(layers: Layers, expected: Any) -> None:
    plan = plan_of(layers)
    for form in USABLE:
        found = {name: RELUS[relu] for name, relu in expected.items()}
        assert lower(plan, form).activated == found
    others: tuple[EngineName, ...] = ("plain", "whole", "direct", "fast")
    assert not any(lower(plan, form).activated for form in others)


def outputs(layers: Layers, form: EngineName, row: int | None, dtype: Any) -> Any:
    """The loss in training, its gradients, running statistics, and outputs in evaluation."""
    cut = Microbatching(row, make_mesh(pick_devices("cpu")[:1])) if row else None
    net = GraphNet(plan_of(layers), form=form, rngs=nnx.Rngs(0), cut=cut)
    net.train()
    structure, params, rest = split_model(net)
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(size=(12, *s)), dtype) for s in ((6, 7, 5), (3,)))

    def loss(params: Any, rest: Any) -> Any:
        net = nnx.merge(structure, params, rest, copy=True)
        head = lambda result, dy: jnp.sum(jnp.tanh(result.output) * dy)  # noqa: E731
        total = net.sum_of(x, net.prepare(), head, (dy,))
        return total, split_model(net)[2]

    @jax.jit
    def run(params: Any) -> Any:
        params = jax.tree.map(lambda v: v.astype(dtype), params)
        (total, after), slopes = jax.value_and_grad(loss, has_aux=True)(params, rest)
        net = nnx.merge(structure, params, after, copy=True)
        net.eval()
        return total, nnx.to_pure_dict(slopes), nnx.to_pure_dict(after)["parts"], net(x)

    return jax.tree.map(partial(np.asarray, dtype=np.float32), run(params))


@pytest.mark.parametrize("form", USABLE)
@pytest.mark.parametrize(
    ("layers", "row", "dtype"),
    [
        (ALONE, None, jnp.float32),
        (ALONE, 4, jnp.float32),
        (ALONE, None, jnp.bfloat16),
        (SHARED, None, jnp.float32),
        (SHARED, 4, jnp.float32),
        (DEEP, None, jnp.float32),
        (DEEP, 4, jnp.float32),
        (MOBILE, None, jnp.float32),
        (MOBILE, 12, jnp.float32),
        (MOBILE, 4, jnp.float32),
    ],
)
def test_networks_are_the_same(
    layers: Layers, row: int | None, dtype: Any, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As layers computed one by one, also in loops and micro-batches."""
    monkeypatch.setattr(graph_net, "LEAST_SAVED", 1)
    got, want = outputs(layers, form, row, dtype), outputs(layers, "plain", None, dtype)
    tolerance = 0.05 if dtype == jnp.bfloat16 else 1e-4
    leaves = jax.tree.leaves(want)
    least = 0.01 * max(np.abs(each).max() for each in leaves)  # batch norms cancel some gradients
    for one, other in zip(jax.tree.leaves(got), leaves, strict=True):
        np.testing.assert_allclose(
            one, other, rtol=0, atol=tolerance * max(least, np.abs(other).max())
        )


@pytest.mark.parametrize("form", USABLE)
def test_batch_norms_wait_for_a_convolution_in_float32_only(form: Any) -> None:
    layers = {"stem": EXPAND, **INVERTED, "head": HEAD}
    got, want = (outputs(layers, engine, 4, jnp.bfloat16) for engine in (form, "whole"))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=0.05 * np.abs(other).max())
