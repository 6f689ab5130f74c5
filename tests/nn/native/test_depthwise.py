"""Depthwise convolutions in C and their gradients, as XLA computes them in float64."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.lowering import lower, unavailable
from cnnbench.nn.native import depthwise
from cnnbench.nn.native.depthwise import TARGET
from cnnbench.nn.native.sums import NATIVE_SUMS
from cnnbench.nn.ops.activation import RELUS
from cnnbench.nn.ops.batch_norm import Pending, normalize
from cnnbench.system.arrays import Pair
from tests.nn.native.test_calls import both_directions, correlation
from tests.nn.native.test_onednn import check as check_products
from tests.nn.native.test_onednn import xla_products
from tests.nn.ops.test_convolution import Case, Sample
from tests.support.engines import USABLE
from tests.support.oracles import make_plan

pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)

Layers = Mapping[str, Mapping[str, Any]]

CASES = (
    Case((12, 14), (7, 7, 1, 24), (1, 1), ((3, 3), (3, 3))),
    Case((9, 21), (3, 3, 1, 16), (1, 1), ((1, 1), (1, 1))),
    Case((10, 13), (3, 3, 1, 33), (2, 2), ((0, 1), (1, 0))),
    Case((9, 10), (5, 3, 1, 16), (2, 1), ((2, 2), (1, 1))),
    Case((11, 8), (4, 9, 1, 19), (3, 2), ((1, 2), (4, 4))),  # more taps than registers
    Case((2, 2), (3, 3, 1, 40), (1, 1), ((1, 1), (1, 1))),
    Case((13, 9), (6, 2, 1, 3), (4, 5)),  # pixels that no output reads
    Case((9, 9), (1, 1, 1, 5), (3, 4)),
    Case((3, 4), (4, 5, 1, 8), (1, 1), ((5, 4), (6, 5))),  # outputs that read no pixel
    Case((3, 2), (2, 2, 1, 4), (2, 3), ((7, 3), (8, 1))),
)


def check(case: Case) -> None:
    of, rng = correlation(case, case.kernel[3]), np.random.default_rng(0)
    shapes = (3, *of.size, of.channels), case.kernel, (3, *of.places, of.filters)
    data = Sample(*(rng.normal(size=shape) for shape in shapes))
    for got in both_directions(depthwise, of, data):
        check_products(got, xla_products(of, data))


def check_all() -> None:
    for case in CASES:
        check(case)


@pytest.mark.parametrize("case", CASES)
def test_conv_and_its_adjoint_equal_xla(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("groups", "dilation", "expected"), [(24, 1, True), (12, 1, False), (24, 2, False)]
)
@pytest.mark.parametrize("form", USABLE)
def test_engines_in_c_compute_depthwise_convolutions(
    form: str, groups: int, dilation: int, expected: bool
) -> None:
    conv = {"op": "conv", "filters": 24, "kernel": 3, "groups": groups, "dilation": dilation}
    plan = make_plan({"conv": conv}, (9, 8, 24), (9 - 2 * dilation, 8 - 2 * dilation, 24))
    lowering = lower(plan, form)  # type: ignore[arg-type]  # one of the engines
    x, kernel = jnp.ones((2, 9, 8, 24)), jnp.ones((3, 3, 24 // groups, 24))
    program = jax.jit(lambda x, kernel: lowering.convolve(plan.nodes[0], x, kernel))
    in_c = expected and form in {"onednn", "winograd"}
    assert (f"@{TARGET}(" in program.lower(x, kernel).as_text()) == in_c


def test_groups_and_dilation_are_left_to_others() -> None:
    dilation: Pair = (2, 1)
    assert depthwise.pays(correlation(CASES[0], 24))
    assert not depthwise.pays(correlation(CASES[0], 24, dilation))
    assert not depthwise.pays(correlation(CASES[0]._replace(kernel=(7, 7, 2, 24)), 12))
    assert not depthwise.pays(correlation(Case((3, 3), (3, 3, 1, 1))))


NORMED = (
    (Case((8, 9), (3, 3, 1, 16), (1, 1), ((1, 1), (1, 1))), "relu6"),
    (Case((9, 7), (3, 3, 1, 24), (2, 2), ((1, 1), (0, 1))), "relu"),
    (Case((6, 35), (5, 2, 1, 40), (1, 1), ((2, 2), (0, 1))), "relu6"),
    (Case((4, 4), (3, 3, 1, 320), (1, 1), ((1, 1), (1, 1))), "relu6"),  # long rows
)


@pytest.mark.parametrize(("case", "relu"), NORMED)
def test_a_batch_norm_before_it_is_computed_with_it(case: Case, relu: str) -> None:
    """Exactly as one after the other; padding stays zero."""
    of, rng, channels = correlation(case, case.kernel[3]), np.random.default_rng(0), case.kernel[3]
    shapes = case.kernel, (3, *of.size, channels), *[(channels,)] * 3, (3, *of.places, channels)
    *given, dy = (jnp.asarray(rng.normal(0, 2, size), jnp.float32) for size in shapes)

    def fused(kernel: jax.Array, x: jax.Array, *given: jax.Array) -> jax.Array:
        mean, factor, bias = given
        return depthwise.conv_of_norm(Pending(x, mean, factor, bias, RELUS[relu]), kernel, of)

    def apart(kernel: jax.Array, x: jax.Array, *given: jax.Array) -> jax.Array:
        mean, factor, bias = given
        y = normalize(NATIVE_SUMS, x, mean, factor, bias, RELUS[relu])
        return depthwise.conv(y, kernel, of)

    products = [jax.vjp(jax.jit(each), *given) for each in (fused, apart)]
    for got, want in zip(*([y, *pull(dy)] for y, pull in products), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * float(jnp.abs(want).max()))


def test_seeds_in_parallel_equal_each_alone() -> None:
    case, rng = NORMED[0][0], np.random.default_rng(0)
    of, channels = correlation(case, 16), 16
    shapes = case.kernel, (3, *of.size, channels), *[(channels,)] * 3
    given = [jnp.asarray(rng.normal(0, 2, (2, *size)), jnp.float32) for size in shapes]

    def loss(kernel: jax.Array, x: jax.Array, *norm: jax.Array) -> jax.Array:
        mean, factor, bias = norm
        pending = Pending(x, mean, factor, bias, RELUS["relu6"])
        return (depthwise.conv_of_norm(pending, kernel, of) ** 2).sum()

    gradient = jax.jit(jax.grad(loss, range(5)))
    for number, each in enumerate(zip(*given, strict=True)):
        together = jax.jit(jax.vmap(jax.grad(loss, range(5))))(*given)
        for one, other in zip(together, gradient(*each), strict=True):
            np.testing.assert_allclose(one[number], other, rtol=1e-6)


FIRST = {"op": "conv", "filters": 8, "kernel": 1}
MOBILE: Layers = {
    "norm": {"op": "batch_norm"},
    "act": {"op": "activation", "activation": "relu6"},
    "conv": {"op": "conv", "filters": 8, "kernel": 3, "groups": "depthwise"},
    "head": {"op": "dense", "units": 3},
}
READ_TWICE: Layers = {
    "crop": {"op": "crop", "cropping": 1, "inputs": ["act"]},
    "both": {"op": "concat", "inputs": ["conv", "crop"]},
    "head": {"op": "dense", "units": 3, "inputs": ["both"]},
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {"norm"}),
        ({"act": {"op": "activation", "activation": "tanh"}}, set()),
        ({"conv": {"op": "conv", "filters": 8, "kernel": 3}}, set()),
        ({"conv": {"op": "max_pool", "size": 2}}, set()),
        (READ_TWICE, set()),
    ],
)
def test_the_batch_norms_that_wait_for_it(changed: Layers, expected: set[str]) -> None:
    plan = make_plan({"first": FIRST, **MOBILE, **changed}, (6, 6, 2), (3,))
    assert lower(plan, "winograd").pending == expected
    assert not lower(plan, "whole").pending


def test_batch_norms_of_other_channels_are_computed_before_it() -> None:
    assert not depthwise.takes_norm(correlation(CASES[6], 3))
