"""Gradients of images with few channels in C, as PyTorch computes them in float64."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from cnnbench.nn.lowering import unavailable
from cnnbench.nn.native import few, onednn
from tests.nn.native.test_calls import both_directions, correlation
from tests.nn.native.test_onednn import check as check_products
from tests.nn.ops.test_convolution import Case, sample, torch_products
from tests.support.engines import needs_onednn

pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)

CASES = (
    Case((9, 10), (5, 5, 1, 32)),
    Case((8, 7), (3, 3, 3, 16), (1, 1), ((1, 1), (1, 1))),
    Case((6, 13), (2, 4, 7, 21), (1, 1), ((1, 0), (2, 3))),
    Case((5, 4), (1, 1, 2, 3)),
    Case((4, 9), (3, 3, 4, 33), (1, 1), ((5, 1), (3, 4))),  # outputs that read no pixel
    Case((1, 1), (1, 1, 1, 1)),
)


def check(number: int) -> None:
    case, data = CASES[number], sample(CASES[number], number)
    for got in both_directions(few, correlation(case), data):
        check_products(got, torch_products(case, data))


def check_all() -> None:
    for number in range(len(CASES)):
        check(number)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_conv_and_its_adjoint_equal_pytorch(number: int) -> None:
    check(number)


OF = correlation(CASES[1])


@needs_onednn
@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, True), ({"kernel": (3, 3, 8, 16)}, False), ({"stride": (2, 1)}, False)],
)
def test_onednn_leaves_few_channels_to_it(keys: dict[str, Any], expected: bool) -> None:
    of = correlation(CASES[1]._replace(**keys))
    x, kernel = jnp.ones((2, *of.places, of.filters)), jnp.ones((3, 3, of.channels, of.filters))
    call = jax.jit(lambda y, kernel: onednn.conv_transpose(y, kernel, of))
    program = call.lower(x, kernel).as_text()
    assert (f"@{few.TARGET}" in program) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, True), ({"groups": 3}, False), ({"dilation": (1, 2)}, False)],
)
def test_the_convolutions_that_it_is_for(keys: dict[str, Any], expected: bool) -> None:
    assert few.pays(replace(OF, **keys)) == expected
