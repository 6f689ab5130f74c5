"""Convolutions by oneDNN and their gradients, as PyTorch and XLA compute them in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnbench.nn.lowering import lower
from cnnbench.nn.native import onednn
from cnnbench.nn.native.correlation import Correlation
from cnnbench.nn.native.primitives import TARGET
from cnnbench.system.arrays import Pair
from tests.nn.native.test_calls import both_directions, correlation
from tests.nn.ops.test_convolution import (
    NUM_IMAGES,
    Case,
    Products,
    Sample,
    random_case,
    sample,
    torch_products,
)
from tests.nn.ops.test_whole import CASES as WHOLE_CASES
from tests.support.engines import needs_onednn
from tests.support.oracles import make_plan

pytestmark = needs_onednn

CASES = (
    *WHOLE_CASES,
    *(random_case(seed) for seed in range(900, 920)),
    Case((9, 9), (3, 3, 16, 32), (1, 1), ((1, 1), (1, 1))),
    Case((8, 6), (5, 5, 20, 17), (1, 1), ((2, 2), (2, 2))),  # no multiple of a vector
)


def check(got: Products, want: Products) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max() + 1e-30)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_conv_and_its_adjoint_equal_pytorch(number: int) -> None:
    case = CASES[number]
    data, of = sample(case, number), correlation(case)
    assert onednn.supports(of, NUM_IMAGES)
    for got in both_directions(onednn, of, data):
        check(got, torch_products(case, data))


def xla_products(of: Correlation, data: Sample) -> Products:
    """Products in float64."""

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            of.stride,
            of.pads,
            rhs_dilation=of.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=of.groups,
        )

    with jax.enable_x64(True):
        out, pull = jax.vjp(conv, *map(jnp.asarray, data[:2]))
        return Products(*map(np.asarray, (out, *pull(jnp.asarray(data.y)))))


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize(
    ("groups", "kernel"),
    [
        (1, (3, 2, 4, 6)),
        (2, (3, 3, 3, 8)),
        (12, (3, 3, 1, 12)),
        (4, (2, 3, 1, 8)),
        (16, (5, 5, 1, 16)),
    ],
)
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_groups_and_dilation_equal_xla(
    stride: Pair, groups: int, kernel: tuple[int, int, int, int], dilation: Pair
) -> None:
    case = Case((12, 14), kernel, stride, ((1, 2), (2, 0)))
    of = correlation(case, groups, dilation)
    rng = np.random.default_rng(0)
    shapes = (3, *of.size, of.channels), kernel, (3, *of.places, of.filters)
    data = Sample(*(rng.normal(size=shape) for shape in shapes))
    assert onednn.supports(of, 3)
    for got in both_directions(onednn, of, data):
        check(got, xla_products(of, data))


def test_the_number_of_threads_changes_nothing_but_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = CASES[-2]
    of, data = correlation(case), sample(case, 3)
    want = torch_products(case, data)
    for threads in (1, 2, 3):
        monkeypatch.setattr(onednn, "_threads", lambda threads=threads: threads)
        jax.clear_caches()
        for got in both_directions(onednn, of, data):
            check(got, want)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        ({"op": "conv", "filters": 4, "kernel": 3}, 6),
        ({"op": "conv", "filters": 4, "kernel": 3, "groups": 4, "dilation": 2}, 4),
        ({"op": "conv_transpose", "filters": 4, "kernel": 3, "stride": 2}, 17),
    ],
)
def test_layers_call_onednn_in_float32_only(layer: dict[str, Any], size: int) -> None:
    plan = make_plan({"layer": layer}, (8, 8, 4), (size, size, 4))
    (node,), lowering = plan.nodes, lower(plan, "onednn")

    @jax.jit
    def layer_of(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lowering.convolve(node, x, kernel)

    def calls(dtype: Any) -> int:
        x, kernel = jnp.ones((2, 8, 8, 4), dtype), jnp.ones(node.layout.params["kernel"], dtype)
        return str(layer_of.lower(x, kernel).as_text()).count(TARGET)

    assert calls(jnp.float32) == 1
    with jax.enable_x64(True):
        assert calls(jnp.float64) == 0


def test_a_convolution_without_outputs_is_not_supported() -> None:
    of = Correlation((4, 4), (3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), (9, 9), 2, 2)
    assert not onednn.supports(of, 1)


def test_an_unknown_operation_is_an_error_of_xla() -> None:
    """And neither a crash nor a result."""
    case = CASES[-1]
    assert onednn.supports(correlation(case), 3)  # registers the handler
    result = jax.ShapeDtypeStruct((2,), jnp.float32)
    call = jax.ffi.ffi_call(TARGET, (result, result))
    with pytest.raises(jax.errors.JaxRuntimeError, match="oneDNN: the operation is unknown"):
        jax.block_until_ready(call(jnp.ones(2), jnp.ones(2), key=np.int64(0)))
