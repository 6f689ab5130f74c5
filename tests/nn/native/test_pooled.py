"""Convolutions together with max pools in C, as PyTorch computes them in float64."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.graph.plan import Plan
from cnnbench.nn.lowering import NativeWinograd, unavailable
from cnnbench.nn.native import pooled
from cnnbench.nn.ops import whole
from cnnbench.system.arrays import Pair
from tests.nn.native.test_calls import correlation
from tests.nn.native.test_onednn import check as check_products
from tests.nn.ops.test_convolution import Case, Products, sample
from tests.support.oracles import make_plan

pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)


class Pooled(NamedTuple):
    case: Case
    window: Pair


CASES = (
    Pooled(Case((12, 12), (5, 5, 1, 32)), (2, 2)),
    Pooled(Case((28, 28), (10, 10, 1, 16)), (5, 5)),  # a border that no window reaches
    Pooled(Case((9, 11), (3, 3, 3, 7), (1, 1), ((1, 1), (1, 1))), (3, 2)),
    Pooled(Case((16, 13), (7, 7, 3, 40), (2, 2), ((3, 2), (3, 1))), (2, 3)),
    Pooled(Case((10, 8), (1, 1, 4, 20)), (1, 2)),
    Pooled(Case((15, 17), (13, 14, 2, 5)), (3, 4)),  # more rows than registers, and long ones
    Pooled(Case((3, 4), (2, 2, 1, 3), (1, 1), ((4, 3), (5, 4))), (2, 2)),  # zeros only
    Pooled(Case((30, 5), (2, 3, 7, 33), (3, 1)), (10, 3)),  # one window
    Pooled(Case((4, 40), (2, 2, 1, 9)), (3, 1)),  # many columns
)


def expected(of: Pooled, x: Any, kernel: Any, dy: Any) -> Products:
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    x, kernel = (torch.tensor(value, requires_grad=True) for value in (x, kernel))
    pads = (*of.case.pads[1], *of.case.pads[0])
    around = torch.nn.functional.pad(x.permute(0, 3, 1, 2), pads)
    weight = kernel.permute(3, 2, 0, 1)
    outputs = torch.nn.functional.conv2d(around, weight, stride=of.case.stride)
    y = torch.nn.functional.max_pool2d(outputs, of.window).permute(0, 2, 3, 1)
    y.backward(torch.tensor(dy))
    return Products(y.detach().numpy(), x.grad.numpy(), kernel.grad.numpy())


def check(number: int) -> None:
    of = CASES[number]
    sizes, (x, kernel, y) = correlation(of.case), sample(of.case, number)
    assert pooled.supports(sizes, of.window, of.window)
    rows, columns = (n // w for n, w in zip(sizes.places, of.window, strict=True))
    dy = y[:, :rows, :columns]

    @jax.jit
    def products(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Products:
        def call(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return pooled.conv(x, kernel, sizes, of.window, whole.conv)

        out, pull = jax.vjp(call, x, kernel)
        return Products(out, *pull(dy))

    got = products(*(jnp.asarray(value, jnp.float32) for value in (x, kernel, dy)))
    check_products(jax.tree.map(np.asarray, got), expected(of, x, kernel, dy))


def check_all() -> None:
    for number in range(len(CASES)):
        check(number)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_maxima_and_gradients_equal_pytorch(number: int) -> None:
    check(number)


def test_of_equal_outputs_the_first_gets_the_gradient() -> None:
    """As of blank images, whose outputs are all zero."""
    case = Case((4, 4), (2, 2, 1, 1), (2, 2))
    x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0].set(1).at[0, 2, 2].set(1)
    kernel = jnp.zeros((2, 2, 1, 1))

    def maximum(kernel: jax.Array) -> jax.Array:
        return pooled.conv(x, kernel, correlation(case), (2, 2), whole.conv).sum()

    want = np.zeros((2, 2, 1, 1))
    want[0, 0] = 1
    np.testing.assert_array_equal(jax.grad(maximum)(kernel), want)


def test_nan_stays_visible() -> None:
    case = Case((8, 8), (3, 3, 1, 17))
    data = sample(case, 0, np.float32)
    data.x[1, 0, 0] = np.nan
    x, kernel = map(jnp.asarray, data[:2])
    y = np.asarray(pooled.conv(x, kernel, correlation(case), (2, 2), whole.conv))
    assert np.isnan(y).nonzero()[0].tolist() == [1] * 17
    assert np.isnan(y[1, 0, 0]).all()


def test_seeds_in_parallel_equal_each_alone() -> None:
    of = CASES[0]
    data = [sample(of.case, seed, np.float32) for seed in (1, 2)]

    def gradient(x: jax.Array, kernel: jax.Array) -> jax.Array:
        def loss(kernel: jax.Array) -> jax.Array:
            y = pooled.conv(x, kernel, correlation(of.case), of.window, whole.conv)
            return (y**2).sum()

        found: jax.Array = jax.grad(loss)(kernel)
        return found

    xs, kernels = (np.stack([each[i] for each in data]) for i in (0, 1))
    got = jax.jit(jax.vmap(gradient))(xs, kernels)
    want = [jax.jit(gradient)(each.x, each.kernel) for each in data]
    np.testing.assert_array_equal(got, np.stack(want))


CONV = {"op": "conv", "filters": 8, "kernel": 3, "activation": "relu"}
POOL = {"op": "max_pool", "size": 2}
HEAD = {"op": "dense", "units": 3}


def plan_of(conv: Mapping[str, Any], pool: Mapping[str, Any], **more: Any) -> Plan:
    layers = {"conv": {**CONV, **conv}, "pool": {**POOL, **pool}, **more, "head": HEAD}
    return make_plan(layers, (12, 12, 3), (3,))


@pytest.mark.parametrize(
    ("conv", "pool", "together"),
    [
        ({}, {}, True),
        ({"stride": 2, "padding": "same"}, {"size": [2, 3]}, True),
        ({"activation": "gelu"}, {}, False),
        ({"dilation": 2}, {}, False),
        ({"groups": 3, "filters": 6}, {}, False),
        ({}, {"stride": 1}, False),
        ({}, {"padding": "same", "size": 3}, False),
    ],
)
def test_layers_that_are_computed_together(
    conv: Mapping[str, Any], pool: Mapping[str, Any], together: bool
) -> None:
    plan = plan_of(conv, pool)
    assert set(NativeWinograd(plan).pooled) == ({"conv"} if together else set())


def calls(plan: Plan, dtype: Any) -> int:
    lowering = NativeWinograd(plan)
    node = plan.by_name["conv"]
    call = jax.jit(lambda x, kernel: lowering.convolve(node, x, kernel))
    x, kernel = jnp.ones((2, 12, 12, 3), dtype), jnp.ones((3, 3, 3, 8), dtype)
    return call.lower(x, kernel).as_text().count("@cnnbench_pooled")


def test_a_layer_that_others_read_too_is_computed_alone() -> None:
    both = {"op": "concat", "inputs": ["pool", "other"]}
    two = plan_of({}, {}, other=POOL | {"inputs": "conv"}, both=both)
    assert (calls(plan_of({}, {}), jnp.float32), calls(two, jnp.float32)) == (1, 0)
    assert calls(plan_of({}, {}), jnp.bfloat16) == 0
