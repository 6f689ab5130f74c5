"""Fused layers give the same results as layers computed one by one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.graph.plan import Plan
from cnnbench.nn import graph_net
from cnnbench.nn.graph_net import ACTIVATIONS, GraphNet
from cnnbench.nn.lowering import MONOTONE, Fused, Plain, lower
from cnnbench.nn.native import activation, attention, norm, winograd
from cnnbench.nn.ops import convolution
from tests.support import oracles
from tests.support.engines import USABLE
from tests.support.oracles import Array, make_plan
from tests.support.programs import most_inputs

Layers = Mapping[str, Mapping[str, Any]]
NUM_IMAGES = 3
SIZE = (6, 7, 2)


def up(size: Any = 2) -> dict[str, Any]:
    return {"op": "upscale", "size": size}


@pytest.fixture(autouse=True)
def _small_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's algorithm in C is used wherever it can be, also where it does not pay."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "CLEAR", 0)


def conv(kernel: Any = 3, filters: int = 4, **more: Any) -> dict[str, Any]:
    return {"op": "conv", "filters": filters, "kernel": kernel, "activation": "tanh"} | more


def back(kernel: Any = 3, filters: int = 4, **more: Any) -> dict[str, Any]:
    return conv(kernel, filters, **more) | {"op": "conv_transpose"}


def pool(size: Any = 2, **more: Any) -> dict[str, Any]:
    return {"op": "max_pool", "size": size} | more


HEAD = {"op": "dense", "units": 3}
TIED = {"op": "conv_transpose", "tie": "first", "activation": "tanh"}

TRANSFORMING: Layers = {
    "first": {"op": "layer_norm"},
    "mixed": {"op": "attention", "heads": 2},
    "wide": conv(1, 24, activation="gelu"),
    "narrow": conv(1, 5, activation="linear"),
    "second": {"op": "layer_norm", "scale": False},
    "act": {"op": "activation", "activation": "silu"},
    "head": HEAD,
}

UPSCALED: Mapping[str, Layers] = {
    f"conv {kernel} {padding} after {size}": {
        "up": up(size),
        "last": conv(kernel, padding=padding),
        "head": HEAD,
    }
    for kernel, padding, size in (
        (1, "valid", 2),
        (2, "same", 2),
        (3, "valid", [2, 3]),
        (3, "same", 2),
        (4, "same", [2, 3]),
        (4, [1, 2], 2),
        (5, "valid", 2),
        (5, [2, 0], [2, 3]),
        (1, [2, 1], 2),  # more padding than kernel: outputs that meet zeros only
        ([2, 5], "valid", [3, 1]),
    )
} | {
    "pooled conv after up": {"up": up(), "last": conv(4), "pool": pool(), "head": HEAD},
    "conv_transpose 3": {"up": up(), "last": back(3), "head": HEAD},
    "conv_transpose 4 same": {"up": up([2, 3]), "last": back(4, padding="same"), "head": HEAD},
    "conv_transpose 5 padded": {"up": up(2), "last": back(5, padding=[1, 2]), "head": HEAD},
    "many channels": {
        "first": conv(3, 16),
        "up": up(),
        "last": back(5, 16),
        "end": conv(5, 16),
        "head": HEAD,
    },
    "tied": {"first": conv(3, 8), "pool": pool(), "up": up(), "last": TIED, "head": HEAD},
    "tied, same": {
        "first": conv(4, 8, padding="same"),
        "pool": pool([3, 7]),
        "up": up([2, 3]),
        "last": TIED,
        "head": HEAD,
    },
    "tied to a conv after an upscale": {
        "up0": up(),
        "first": conv(3, 8),
        "pool": pool(),
        "up": up(),
        "last": TIED,
        "head": HEAD,
    },
}

POOLED: Mapping[str, Layers] = {
    "a border": {"first": conv(2, 8), "pool": pool([2, 4]), "head": HEAD},
    "a border, average": {
        "first": conv([2, 1]),
        "pool": {"op": "avg_pool", "size": 3},
        "head": HEAD,
    },
    "a border, strides": {
        "first": conv(3, 8, stride=[1, 2], padding=[2, 2]),
        "pool": pool(2, stride=[3, 1]),
        "head": HEAD,
    },
    "two pools": {
        "first": conv(3),
        "small": pool(2),
        "large": pool(3) | {"inputs": "first"},
        "flat": {"op": "flatten"},
        "flat2": {"op": "flatten", "inputs": "small"},
        "both": {"op": "concat", "inputs": ["flat", "flat2"]},
        "head": HEAD,
    },
    "a pool and another layer": {
        "first": conv(3),
        "pool": pool(3),
        "flat": {"op": "flatten"},
        "flat2": {"op": "flatten", "inputs": "first"},
        "both": {"op": "concat", "inputs": ["flat", "flat2"]},
        "head": HEAD,
    },
    "a max and an average": {
        "first": conv(3),
        "pool": pool(3),
        "mean": {"op": "avg_pool", "size": 2, "inputs": "first"},
        "flat": {"op": "flatten", "inputs": "pool"},
        "flat2": {"op": "flatten", "inputs": "mean"},
        "both": {"op": "concat", "inputs": ["flat", "flat2"]},
        "head": HEAD,
    },
    "no bias": {"first": conv(3, use_bias=False), "pool": pool(), "head": HEAD},
    "padded windows": {"first": conv(3), "pool": pool(3, padding="same"), "head": HEAD},
    "overlapping windows": {"first": conv(2), "pool": pool(3, stride=2), "head": HEAD},
    "not the first": {
        "start": conv(3, padding="same"),
        "first": conv(3, activation="relu"),
        "pool": pool(),
        "head": HEAD,
    },
}
EVERY = {**UPSCALED, **POOLED, "norms and activations": TRANSFORMING}


def plan_of(layers: Layers, size: tuple[int, ...] = SIZE, out: tuple[int, ...] = (3,)) -> Plan:
    return make_plan(layers, size, out)


class Measured(NamedTuple):
    """Outputs, and gradients of a loss that weighs them, by the image and every weight."""

    outputs: Array
    dx: Array
    gradients: Mapping[str, Mapping[str, Array]]


def weights_of(plan: Plan) -> dict[str, dict[str, Array]]:
    """Random kernels and biases, of a size that keeps tanh from saturating."""
    rng = np.random.default_rng(0)
    found = {}
    for node in plan.nodes:
        if node.layout.params:
            shapes = node.layout.params
            scale = 1 / np.sqrt(np.prod(shapes["kernel"][:-1])) if "kernel" in shapes else 0.3
            found[node.name] = {k: rng.normal(scale=scale, size=s) for k, s in shapes.items()}
    return found


def split(plan: Plan, form: convolution.EngineName) -> tuple[Any, Any, Any]:
    parts: Any = nnx.split(GraphNet(plan, form=form, rngs=nnx.Rngs(0)), nnx.Param, ...)
    graphdef, params, rest = parts
    return graphdef, params, rest


def measured(plan: Plan, form: convolution.EngineName, dtype: type) -> Measured:
    graphdef, params, rest = split(plan, form)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(NUM_IMAGES, *plan.input_shape))
    error = rng.normal(size=(NUM_IMAGES, *plan.output_shape))

    @jax.jit
    def run(x: jax.Array, params: Any, error: jax.Array) -> Any:
        call = lambda x, params: nnx.merge(graphdef, params, rest)(x)  # noqa: E731
        outputs, pull = jax.vjp(call, x, params)
        dx, gradients = pull(error)
        return outputs, dx, gradients

    with jax.enable_x64(dtype is np.float64):
        state = oracles.set_params(params, weights_of(plan), dtype)
        outputs, dx, gradients = run(jnp.asarray(images, dtype), state, jnp.asarray(error, dtype))
        assert outputs.dtype == dtype
        values = jax.tree.map(np.asarray, oracles.get_params(gradients))
        return Measured(np.asarray(outputs), np.asarray(dx), values)


def check(got: Measured, want: Measured, tolerance: float) -> None:
    assert str(jax.tree.structure(got)) == str(jax.tree.structure(want))
    for (path, one), other in zip(
        jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        largest = np.abs(other).max()
        assert largest > 0, path
        assert np.abs(one - other).max() <= tolerance * largest, path


@pytest.mark.parametrize("name", EVERY)
def test_fused_layers_equal_plain_layers(name: str) -> None:
    """XLA's layers, one by one, in float32."""
    plan = plan_of(EVERY[name])
    want = measured(plan, "plain", np.float32)
    check(measured(plan, "fast", np.float32), want, 1e-4)
    for form in ("whole", *USABLE):
        check(measured(plan, form, np.float32), want, 1e-4)


@pytest.mark.parametrize("form", ["whole", *USABLE, "direct", "fast"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "elu"])
def test_a_large_pool_after_a_smooth_activation(
    activation: str, form: convolution.EngineName
) -> None:
    """Large enough for XLA to compute the derivative in place, from values that are compared."""
    layers = {"first": conv(3, 16, activation=activation), "pool": pool(), "head": HEAD}
    plan = plan_of(layers, (12, 12, 2))
    check(measured(plan, form, np.float32), measured(plan, "plain", np.float32), 1e-4)


@pytest.mark.parametrize("depth", [2, 6])
def test_gradients_of_a_dense_block_are_not_computed_again(depth: int) -> None:
    """In `whole`, no loop reads more arrays in a deeper block."""
    layers: dict[str, Any] = {"c0": conv()}
    for i in range(depth):
        layers[f"relu{i}"] = {"op": "activation", "activation": "relu", "inputs": f"c{i}"}
        layers[f"conv{i}"] = conv(padding="same")
        layers[f"c{i + 1}"] = {"op": "concat", "inputs": [f"c{i}", f"conv{i}"]}
    graphdef, params, rest = split(plan_of(layers | {"head": HEAD}, (8, 8, 4)), "whole")

    @jax.jit
    def gradients(params: Any, x: jax.Array) -> Any:
        return jax.grad(lambda params: nnx.merge(graphdef, params, rest)(x).sum())(params)

    program = gradients.lower(params, jnp.ones((4, 8, 8, 4))).compile()
    assert most_inputs(program) <= 4


@pytest.mark.parametrize("name", ["conv 5 valid after 2", "many channels", "tied", "a border"])
def test_the_forms_agree_to_rounding(name: str) -> None:
    plan = plan_of(EVERY[name])
    check(measured(plan, "fast", np.float64), measured(plan, "direct", np.float64), 1e-9)


def fused(layers: Layers, size: tuple[int, ...] = SIZE, out: tuple[int, ...] = (3,)) -> Fused:
    found = lower(plan_of(layers, size, out), "fast")
    assert isinstance(found, Fused)
    return found


@pytest.mark.parametrize("name", UPSCALED)
def test_an_upscale_becomes_the_stride_of_the_only_layer_that_reads_it(name: str) -> None:
    found = fused(UPSCALED[name])
    sizes = {n: op["size"] for n, op in UPSCALED[name].items() if op["op"] == "upscale"}
    assert found.absorbed == set(sizes)
    size = sizes["up"]
    box = (size, size) if isinstance(size, int) else tuple(size)
    last = found.convs["last"]
    assert last.box == last.conv.stride == box
    assert last.transposed
    kernel = UPSCALED[name]["last"].get("kernel")
    if kernel is not None:
        taps = (kernel, kernel) if isinstance(kernel, int) else kernel
        assert last.conv.kernel == (taps[0] + box[0] - 1, taps[1] + box[1] - 1)


KEPT: Mapping[str, Layers] = {
    "read twice": {
        "up": up(),
        "one": conv(3, padding="same"),
        "two": conv(3, padding="same") | {"inputs": "up"},
        "sum": {"op": "add", "inputs": ["one", "two"]},
        "head": HEAD,
    },
    "strided": {"up": up(), "last": conv(3, stride=2), "head": HEAD},
    "strided transposed": {"up": up(), "last": back(3, stride=2), "head": HEAD},
    "read by a pool": {"up": up(), "pool": pool(3), "head": HEAD},
}


@pytest.mark.parametrize("name", KEPT)
def test_other_upscales_are_done(name: str) -> None:
    found = fused(KEPT[name])
    assert found.absorbed == set()
    assert all(folded.box == (1, 1) for folded in found.convs.values())
    if name != "strided transposed":  # XLA aborts on some gradients of it
        plan = plan_of(KEPT[name])
        check(measured(plan, "fast", np.float32), measured(plan, "plain", np.float32), 1e-4)


@pytest.mark.parametrize(
    ("name", "deferred", "out"),
    [
        ("a border", {"pool": "first"}, (4, 4)),  # of 5 x 6
        ("a border, average", {}, (3, 6)),  # of 5 x 7
        ("a border, strides", {"pool": "first"}, (8, 5)),  # of 8 x 5: all are read
        ("two pools", {"small": "first", "large": "first"}, (4, 4)),  # of 4 x 5
        ("a pool and another layer", {}, (4, 5)),  # all of it
        ("a max and an average", {}, (4, 4)),  # of 4 x 5
        ("no bias", {"pool": "first"}, (4, 4)),
    ],
)
def test_deferred_activations_and_needed_rows(
    name: str, deferred: Mapping[str, str], out: tuple[int, int]
) -> None:
    found = fused(POOLED[name])
    assert found.deferred == deferred
    assert found.convs["first"].conv.out == out


def test_less_is_computed_where_a_pool_leaves_a_border() -> None:
    for name in ("a border", "a border, average", "two pools", "a max and an average"):
        plan = plan_of(POOLED[name])
        whole = plan.by_name["first"].layout.shape[:2]
        needed = fused(POOLED[name]).convs["first"].conv.out
        assert needed != whole
        assert all(a <= b for a, b in zip(needed, whole, strict=True))


def test_a_result_that_is_the_output_is_whole() -> None:
    layers = {"up": up(), "last": conv(3)}
    assert fused(layers, out=(10, 12, 4)).deferred == {}
    alone = {"last": up()}
    found = fused(alone, out=(12, 14, 2))
    assert found.absorbed == set()


@pytest.mark.parametrize("form", USABLE)
def test_fused_layers_in_loops(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_net, "LEAST_SAVED", 1)
    block = {
        "pool": pool(3, stride=1, padding="same"),
        "small": {"op": "avg_pool", "size": 2},
        "up": up(),
        "conv": conv(3, padding="same", activation="linear"),
        "act": {"op": "activation", "activation": "tanh"},  # or `conv` would wait for the next pool
    }
    blocks = {f"{i}.{name}": op for i in range(4) for name, op in block.items()}
    plan = plan_of({**blocks, "head": HEAD}, (6, 8, 4))
    assert len(GraphNet(plan, form=form, rngs=nnx.Rngs(0)).loops) == 1
    check(measured(plan, form, np.float32), measured(plan, "plain", np.float32), 1e-4)


@pytest.mark.parametrize("form", USABLE)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_upscale_is_fused_in_float32_only(form: Any, dtype: Any) -> None:
    plan = plan_of({"up": up(), "last": conv(3), "head": HEAD})
    rng, (above, node) = np.random.default_rng(0), plan.nodes[:2]
    x, kernel = (jnp.asarray(rng.normal(size=s), dtype) for s in ((2, *SIZE), (3, 3, 2, 4)))
    fusing, plain = lower(plan, form), lower(plan, "plain")
    between = fusing.upscale(above, x)
    assert (between is x) == (dtype == jnp.float32)
    got = fusing.convolve(node, between, kernel).astype(jnp.float32)
    want = plain.convolve(node, plain.upscale(above, x), kernel).astype(jnp.float32)
    np.testing.assert_allclose(got, want, rtol=0, atol=0.05 if dtype == jnp.bfloat16 else 1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_waits_only_if_it_is_monotone(activation: str) -> None:
    x = np.linspace(-6, 6, 4001)
    with jax.enable_x64(True):
        y = np.asarray(ACTIVATIONS[activation](jnp.asarray(x)))
    assert (activation in MONOTONE) == bool(np.all(np.diff(y) >= 0))
    layers = {"first": conv(3, activation=activation), "pool": pool(), "head": HEAD}
    waits = {"pool": "first"} if activation in MONOTONE else {}
    assert fused(layers).deferred == waits


def test_the_plain_form_takes_nothing_together() -> None:
    found = lower(plan_of(POOLED["a border"]), "plain")
    assert isinstance(found, Plain)
    assert found.deferred == {}


@pytest.mark.parametrize("form", ["plain", *USABLE])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_transformers_are_made_of_is_in_c(form: Any, dtype: Any) -> None:
    net = GraphNet(plan_of(TRANSFORMING), form=form, rngs=nnx.Rngs(0))
    prepared = jax.tree.map(lambda v: v.astype(dtype), net.prepare())
    call = jax.jit(lambda x: net.result(x, prepared).output)
    program = call.lower(jnp.zeros((NUM_IMAGES, *SIZE), dtype)).as_text()
    in_c = form in {"onednn", "winograd"} and dtype == jnp.float32
    for target, count in ((activation.TARGET, 2), (norm.TARGET, 2), (attention.TARGET, 1)):
        assert program.count(f"@{target}(") == (count if in_c else 0)
