"""Gradients of depthwise kernels in C, as XLA computes them in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.lowering import unavailable
from cnnbench.nn.native import depthwise, onednn
from cnnbench.nn.native.depthwise import TARGET
from cnnbench.system.arrays import Pair
from tests.nn.native.test_calls import correlation
from tests.nn.native.test_onednn import check, xla_products
from tests.nn.ops.test_convolution import Case, Products, Sample
from tests.support.engines import needs_onednn

pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)

CASES = (
    Case((12, 14), (7, 7, 1, 24), (1, 1), ((3, 3), (3, 3))),
    Case((9, 10), (5, 3, 1, 16), (2, 1), ((2, 2), (1, 1))),
    Case((11, 8), (4, 9, 1, 19), (3, 2), ((1, 2), (4, 4))),  # more taps than registers
    Case((2, 2), (3, 3, 1, 40), (1, 1), ((1, 1), (1, 1))),
    Case((13, 9), (6, 2, 1, 3), (4, 5)),  # pixels that no output reads
    Case((3, 4), (4, 5, 1, 8), (1, 1), ((5, 4), (6, 5))),  # outputs that read no pixel
)


def data_of(case: Case) -> Sample:
    of, rng = correlation(case, case.kernel[3]), np.random.default_rng(0)
    shapes = (3, *of.size, of.channels), case.kernel, (3, *of.places, of.filters)
    return Sample(*(rng.normal(size=shape) for shape in shapes))


def check_all() -> None:
    for case in CASES:
        check_case(case)


def check_case(case: Case) -> None:
    of, data = correlation(case, case.kernel[3]), data_of(case)
    x, dy = (jnp.asarray(v, jnp.float32) for v in (data.x, data.y))
    got = np.asarray(jax.jit(lambda x, dy: depthwise.kernel_gradient(x, dy, of))(x, dy))
    want = xla_products(of, data)
    check(Products(got, got, got), want._replace(out=want.dkernel, dx=want.dkernel))


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_xla(case: Case) -> None:
    check_case(case)


@needs_onednn
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, True),
        ({"kernel": (3, 3, 1, 24)}, False),
        ({"kernel": (3, 3, 1, 24), "size": (2, 9)}, True),
        ({"kernel": (7, 7, 2, 24)}, False),  # grouped, but not depthwise
    ],
)
def test_onednn_leaves_slow_gradients_to_it(keys: dict[str, Any], expected: bool) -> None:
    case = CASES[0]._replace(**keys)
    of = correlation(case, 24 // case.kernel[2])

    def gradient(x: jax.Array, kernel: jax.Array) -> Any:
        return jax.grad(lambda kernel: onednn.conv(x, kernel, of).sum())(kernel)

    x, kernel = jnp.ones((2, *case.size, 24)), jnp.ones(case.kernel)
    program = jax.jit(gradient).lower(x, kernel).as_text()
    assert (f"@{TARGET}" in program) == expected


def test_dilated_kernels_are_left_to_others() -> None:
    dilation: Pair = (2, 1)
    assert depthwise.pays(correlation(CASES[0], 24))
    assert not depthwise.pays(correlation(CASES[0], 24, dilation))
