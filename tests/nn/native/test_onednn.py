"""Convolutions by oneDNN and their gradients, as PyTorch and XLA compute them in float64."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from cnnbench.layers.correlation import ConvGeometry
from cnnbench.nn.lowering import lower
from cnnbench.nn.native import onednn
from cnnbench.nn.native.correlation import Correlation
from cnnbench.nn.native.primitives import TARGET
from cnnbench.system.arrays import Pair
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
from tests.support.oracles import Array, make_plan

pytestmark = needs_onednn

CASES = (
    *WHOLE_CASES,
    *(random_case(seed) for seed in range(900, 920)),
    Case((9, 9), (3, 3, 16, 32), (1, 1), ((1, 1), (1, 1))),
    Case((8, 6), (5, 5, 20, 17), (1, 1), ((2, 2), (2, 2))),  # no multiple of a vector
)


def correlation(case: Case, groups: int = 1, dilation: Pair = (1, 1)) -> Correlation:
    extent = [(k - 1) * d + 1 for k, d in zip(case.kernel[:2], dilation, strict=True)]
    places = ConvGeometry(case.size, (extent[0], extent[1]), case.stride, case.pads).places
    channels = groups * case.kernel[2], case.kernel[3]
    taps = case.kernel[:2]
    return Correlation(case.size, taps, case.stride, dilation, case.pads, places, *channels, groups)


def both_directions(of: Correlation, data: Sample) -> tuple[Products, Products]:
    x, kernel, y = (jnp.asarray(v, jnp.float32) for v in data)
    out, pull = jax.vjp(jax.jit(lambda x, kernel: onednn.conv(x, kernel, of)), x, kernel)
    transposed = jax.jit(lambda y, kernel: onednn.conv_transpose(y, kernel, of))
    back, pull_back = jax.vjp(transposed, y, kernel)
    dy, dkernel = pull_back(x)
    one, other = Products(out, *pull(y)), Products(dy, back, dkernel)
    return jax.tree.map(np.asarray, one), jax.tree.map(np.asarray, other)


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
    for got in both_directions(of, data):
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
    for got in both_directions(of, data):
        check(got, xla_products(of, data))


def test_seeds_in_parallel_equal_each_alone() -> None:
    """Of `jax.vmap`, over images and kernels."""
    case = CASES[-1]
    of = correlation(case)
    data = [sample(case, seed, np.float32) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *data)

    def products(x: jax.Array, kernel: jax.Array, y: jax.Array) -> Products:
        out, pull = jax.vjp(lambda x, kernel: onednn.conv(x, kernel, of), x, kernel)
        return Products(out, *pull(y))

    got = jax.jit(jax.vmap(products))(*stacked)
    for i, each in enumerate(data):
        want = jax.jit(products)(*each)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda v, i=i: v[i], got), want)


def test_threads_compute_at_once() -> None:
    """The handler shares nothing between calls."""
    case = Case((16, 16), (3, 3, 16, 16), (1, 1), ((1, 1), (1, 1)))
    of = correlation(case)
    program = jax.jit(lambda x, kernel: onednn.conv(x, kernel, of))
    data = [sample(case, seed, np.float32) for seed in range(8)]
    want = [np.asarray(program(each.x, each.kernel)) for each in data]

    def run(each: Sample) -> list[Array]:
        return [np.asarray(program(each.x, each.kernel)) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for values, expected in zip(pool.map(run, data), want, strict=True):
            for value in values:
                np.testing.assert_array_equal(value, expected)


def test_the_number_of_threads_changes_nothing_but_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = CASES[-2]
    of, data = correlation(case), sample(case, 3)
    want = torch_products(case, data)
    for threads in (1, 2, 3):
        monkeypatch.setattr(onednn, "_threads", lambda threads=threads: threads)
        jax.clear_caches()
        for got in both_directions(of, data):
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


def test_a_compiled_program_can_be_stored() -> None:
    """As the cache of compiled programs does."""
    of, data = correlation(CASES[-1]), sample(CASES[-1], 1, np.float32)
    program = jax.jit(lambda x, kernel: onednn.conv(x, kernel, of))
    stored, inputs, outputs = serialize(program.lower(data.x, data.kernel).compile())
    devices = jax.devices()[:1]
    again = deserialize_and_load(stored, inputs, outputs, execution_devices=devices)
    np.testing.assert_array_equal(again(data.x, data.kernel), program(data.x, data.kernel))
