"""A plan as a network: shapes, every operation, ties, initial values."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal, spatial, special, stats

from cnnbench.graph.plan import Plan
from cnnbench.layers import OPERATIONS
from cnnbench.layers.base import Shape, Site
from cnnbench.layers.fields import Model
from cnnbench.layers.parameters import Normal, TruncatedNormal, VarianceScaling
from cnnbench.nn.graph_net import ACTIVATIONS, GraphNet
from cnnbench.nn.initializers import initial_kernel
from cnnbench.nn.lowering import MONOTONE
from cnnbench.nn.ops import convolution, xla
from cnnbench.training.state import Network, split_network
from tests.support import oracles
from tests.support.oracles import Array, make_plan

FORMS: tuple[convolution.EngineName, ...] = ("plain", "whole", "direct", "fast")
Layers = dict[str, dict[str, Any]]
Params = Mapping[str, Mapping[str, Array]]


def net(plan: Plan, form: convolution.EngineName = "direct", seed: int = 0) -> GraphNet:
    return GraphNet(plan, form=form, rngs=nnx.Rngs(seed))


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# One contract for every operation.


@dataclasses.dataclass(frozen=True)
class Case:
    """A small network around one operation, and its result in NumPy.

    Args:
      shape: height, width and channels of the images.
      layers: the network; its last layer is the operation.
      value: the result from the parameters by layer and the images, in float64.
    """

    shape: tuple[int, int, int]
    layers: Layers
    value: Callable[[Params, Array], Array]


def scipy_conv(x: Array, kernel: Array) -> Array:
    planes = [
        [
            sum(
                signal.correlate2d(image[:, :, c], kernel[:, :, c, f], mode="valid")
                for c in range(x.shape[3])
            )
            for f in range(kernel.shape[3])
        ]
        for image in x
    ]
    return np.transpose(np.array(planes), (0, 2, 3, 1))


def _conv_same(p: Params, x: Array) -> Array:
    # 5x4 images, a 3x2 kernel, stride 2x1: 3x4 outputs need 5 + 2 rows and 4 + 1 columns,
    # and TensorFlow's SAME puts the odd one behind.
    padded = np.pad(x, ((0, 0), (1, 1), (0, 1), (0, 0)))
    z = scipy_conv(padded, p["op"]["kernel"])[:, ::2]
    return np.tanh(z + p["op"]["bias"])


def _conv_grouped(p: Params, x: Array) -> Array:
    kernel, bias = p["op"]["kernel"], p["op"]["bias"]  # the second half reads the last channels
    halves = [scipy_conv(x[..., 2 * i : 2 * i + 2], kernel[..., 3 * i : 3 * i + 3]) for i in (0, 1)]
    return np.maximum(np.concatenate(halves, axis=3) + bias, 0)


def _conv_depthwise(p: Params, x: Array) -> Array:
    kernel, bias = p["op"]["kernel"], p["op"]["bias"]  # filters 0 and 1 read channel 0
    z = np.zeros((len(x), 3, 2, 6))  # taps at rows 0 and 2, columns 0 and 3
    for f, (i, j) in itertools.product(range(6), itertools.product((0, 1), repeat=2)):
        z[..., f] += x[:, 2 * i : 2 * i + 3, 3 * j : 3 * j + 2, f // 2] * kernel[i, j, 0, f]
    return z + bias


def _conv_transpose(p: Params, x: Array) -> Array:
    kernel = p["op"]["kernel"]  # height, width, out, in
    n, h, w, _ = x.shape
    kh, kw, out, _ = kernel.shape
    z = np.zeros((n, (h - 1) * 2 + kh, w - 1 + kw, out))
    for i, j in itertools.product(range(h), range(w)):
        z[:, 2 * i : 2 * i + kh, j : j + kw] += np.einsum("nc,ijoc->nijo", x[:, i, j], kernel)
    return special.expit(z[:, 1:-1] + p["op"]["bias"])


def _padded(_: Params, x: Array) -> Array:
    result = np.zeros((len(x), 3, 6, 5), x.dtype)
    for n, row, column, channel in np.ndindex(x.shape):
        result[n, row + 1, column + 2, channel + 1] = x[n, row, column, channel]
    return result


def _shuffled(_: Params, x: Array) -> Array:
    result = np.zeros_like(x)
    for group, i in np.ndindex(2, 3):
        result[..., 2 * i + group] = x[..., 3 * group + i]
    return result


def _blocks(x: Array) -> Array:
    """Blocks of 2x2 pixels as channels in PyTorch's order."""
    result = np.zeros((len(x), x.shape[1] // 2, x.shape[2] // 2, 4 * x.shape[3]), x.dtype)
    for n, row, column, channel in np.ndindex(x.shape):
        i, j = row % 2, column % 2
        result[n, row // 2, column // 2, 4 * channel + 2 * i + j] = x[n, row, column, channel]
    return result


def _pixels(_: Params, x: Array) -> Array:
    result = np.zeros((len(x), 4, 6, 2), x.dtype)
    for n, row, column, channel in np.ndindex(result.shape):
        at = 4 * channel + 2 * (row % 2) + column % 2
        result[n, row, column, channel] = x[n, row // 2, column // 2, at]
    return result


def _attention(p: Params, x: Array) -> Array:
    given = p["op"]
    result = np.zeros_like(x)
    for n, row, column in np.ndindex(x.shape[:3]):
        mixed = []
        for head in (0, 1):  # of channels 0 to 1, and 2 to 3
            ends = [slice(4 * part + 2 * head, 4 * part + 2 * head + 2) for part in range(3)]
            q, k, v = (x[n] @ given["kernel"][:, end] + given["bias"][end] for end in ends)
            scores = np.einsum("d,ijd->ij", q[row, column], k) / math.sqrt(2)
            mixed.append(np.einsum("ij,ijd->d", special.softmax(scores), v))
        result[n, row, column] = np.concatenate(mixed) @ given["out_kernel"]
    return result + given["out_bias"]


def _nearest(p: Params, x: Array) -> Array:
    codebook = p["op"]["codebook"]
    return codebook[spatial.distance.cdist(x.reshape(-1, 4), codebook).argmin(1)].reshape(x.shape)


def _sines(height: int, width: int) -> Array:
    """For 8 channels; the second rate is 1/10,000. Rounded to float32, as the constants are."""
    result = np.zeros((height, width, 8))
    for row, column in np.ndindex(height, width):
        near, far = np.array([1, 1e-4]) * column, np.array([1, 1e-4]) * row
        result[row, column] = [*np.sin(near), *np.cos(near), *np.sin(far), *np.cos(far)]
    return result.astype(np.float32)


def _dense(p: Params, x: Array) -> Array:
    kernel = p["op"]["kernel"].reshape(2, 3, 2, 4)
    z = np.einsum("nhwc,hwcu->nu", x, kernel) + p["op"]["bias"]
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))  # elu


def _standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    variance = x.var(axes, keepdims=True)
    return np.asarray((x - x.mean(axes, keepdims=True)) / np.sqrt(variance + epsilon))


def _windows(x: Array, size: tuple[int, int], stride: tuple[int, int]) -> Array:
    views = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
    return views[:, :: stride[0], :: stride[1]]


def _gated(half: Array, x: Array) -> Array:
    means = [np.einsum("nhwc->nc", values) / 6 for values in (x, half)]
    return np.einsum("nc,nhwc,nhwc,nc->nhwc", means[0], half, x, means[1])


CASES: Mapping[str, Case] = {
    "conv": Case(
        (5, 4, 2),
        {
            "op": {
                "op": "conv",
                "filters": 3,
                "kernel": [3, 2],
                "stride": [2, 1],
                "padding": "same",
                "activation": "tanh",
            }
        },
        _conv_same,
    ),
    "conv groups": Case(
        (5, 4, 4),
        {"op": {"op": "conv", "filters": 6, "kernel": 2, "groups": 2, "activation": "relu"}},
        _conv_grouped,
    ),
    "conv depthwise": Case(
        (5, 5, 3),
        {
            "op": {
                "op": "conv",
                "filters": 6,
                "kernel": 2,
                "groups": "depthwise",
                "dilation": [2, 3],
            }
        },
        _conv_depthwise,
    ),
    "conv_transpose": Case(
        (3, 2, 2),
        {
            "op": {
                "op": "conv_transpose",
                "filters": 3,
                "kernel": [4, 2],
                "stride": [2, 1],
                "padding": [1, 0],
                "activation": "sigmoid",
            }
        },
        _conv_transpose,
    ),
    "max_pool": Case(
        (5, 6, 2),
        {"op": {"op": "max_pool", "size": [2, 3], "stride": [1, 2]}},
        lambda _, x: _windows(x, (2, 3), (1, 2)).max(axis=(-2, -1)),
    ),
    "avg_pool": Case(
        (5, 6, 2),
        {"op": {"op": "avg_pool", "size": 2}},
        lambda _, x: _windows(x, (2, 2), (2, 2)).mean(axis=(-2, -1)),
    ),
    "upscale": Case(
        (2, 3, 2),
        {"op": {"op": "upscale", "size": [2, 3]}},
        lambda _, x: np.kron(x, np.ones((1, 2, 3, 1))),
    ),
    "dense": Case(
        (2, 3, 2),
        {"op": {"op": "dense", "units": 4, "activation": "elu"}},
        _dense,
    ),
    "dropout": Case((2, 3, 1), {"op": {"op": "dropout", "rate": 0.5}}, lambda _, x: x),
    "spatial_dropout": Case(
        (2, 3, 2), {"op": {"op": "spatial_dropout", "rate": 0.5}}, lambda _, x: x
    ),
    "drop_path": Case((2, 3, 1), {"op": {"op": "drop_path", "rate": 0.5}}, lambda _, x: x),
    "gaussian_noise": Case(
        (2, 3, 1), {"op": {"op": "gaussian_noise", "stddev": 0.5}}, lambda _, x: x
    ),
    "masking_noise": Case((2, 3, 1), {"op": {"op": "masking_noise", "rate": 0.5}}, lambda _, x: x),
    "sample": Case(
        (2, 3, 2),
        {
            "half": {"op": "activation", "activation": "softplus"},
            "op": {"op": "sample", "inputs": ["half", "input"]},
        },
        lambda _, x: np.logaddexp(x, 0),
    ),
    "vector_quantizer": Case((2, 3, 4), {"op": {"op": "vector_quantizer", "codes": 5}}, _nearest),
    "slice": Case(
        (2, 3, 4), {"op": {"op": "slice", "start": 1, "size": 2}}, lambda _, x: x[..., 1:3]
    ),
    "zero_pad": Case(
        (2, 3, 2),
        {"op": {"op": "zero_pad", "padding": [1, 0, 2, 1], "channels": [1, 2]}},
        _padded,
    ),
    "crop": Case(
        (4, 5, 2),
        {"op": {"op": "crop", "cropping": [1, 0, 2, 1]}},
        lambda _, x: np.stack([x[:, i, 2:4] for i in (1, 2, 3)], axis=1),
    ),
    "channel_shuffle": Case((2, 3, 6), {"op": {"op": "channel_shuffle", "groups": 2}}, _shuffled),
    "space_to_depth": Case(
        (4, 6, 2), {"op": {"op": "space_to_depth", "size": 2}}, lambda _, x: _blocks(x)
    ),
    "depth_to_space": Case((2, 3, 8), {"op": {"op": "depth_to_space", "size": 2}}, _pixels),
    "flatten": Case(
        (2, 3, 2),
        {"op": {"op": "flatten"}},
        lambda _, x: np.array([[i[r, k, c] for r, k, c in np.ndindex(2, 3, 2)] for i in x]),
    ),
    "reshape": Case(
        (2, 3, 2),
        {"op": {"op": "reshape", "shape": [3, 1, 4]}},
        lambda _, x: np.array([list(image.flat) for image in x]).reshape(-1, 3, 1, 4),
    ),
    "permute": Case(
        (2, 3, 4),
        {"op": {"op": "permute", "order": [3, 1, 2]}},
        lambda _, x: np.array([[i[:, :, c] for c in range(4)] for i in x]),
    ),
    "concat": Case(
        (2, 3, 2),
        {
            "half": {"op": "activation", "activation": "softplus"},
            "op": {"op": "concat", "inputs": ["half", "input", "half"]},
        },
        lambda _, x: np.concatenate([np.logaddexp(x, 0), x, np.logaddexp(x, 0)], axis=3),
    ),
    "add": Case(
        (2, 3, 2),
        {
            "half": {"op": "activation", "activation": "leaky_relu"},
            "op": {"op": "add", "inputs": ["input", "half", "input"]},
        },
        lambda _, x: 2 * x + np.where(x > 0, x, 0.01 * x),
    ),
    "multiply": Case(
        (2, 3, 2),
        {
            "half": {"op": "activation", "activation": "softplus"},
            "vector": {"op": "global_avg_pool", "inputs": "input"},
            "place": {"op": "avg_pool", "size": [2, 3], "inputs": "half"},
            "op": {"op": "multiply", "inputs": ["vector", "half", "input", "place"]},
        },
        lambda _, x: _gated(np.logaddexp(x, 0), x),
    ),
    "activation": Case(
        (2, 3, 2),
        {"op": {"op": "activation", "activation": "silu"}},
        lambda _, x: x / (1 + np.exp(-x)),
    ),
    "attention": Case(
        (2, 3, 4),
        {"op": {"op": "attention", "heads": 2}},
        _attention,
    ),
    "position_embedding": Case(
        (2, 3, 4),
        {"op": {"op": "position_embedding"}},
        lambda p, x: x + p["op"]["embedding"],
    ),
    "position_embedding sincos2d": Case(
        (2, 3, 8),
        {"op": {"op": "position_embedding", "kind": "sincos2d"}},
        lambda _, x: x + _sines(2, 3),
    ),
    "class_token": Case(
        (2, 3, 4),
        {"op": {"op": "class_token"}},
        lambda p, x: np.array(
            [[[p["op"]["token"]], *([i[r, k]] for r, k in np.ndindex(2, 3))] for i in x]
        ),
    ),
    "prelu": Case(
        (2, 3, 2),
        {"op": {"op": "prelu", "per_channel": True}},
        lambda p, x: np.maximum(x, 0) + p["op"]["slope"] * np.minimum(x, 0),
    ),
    "prelu of one slope": Case(
        (2, 3, 2),
        {"op": {"op": "prelu"}},
        lambda p, x: np.maximum(x, 0) + p["op"]["slope"] * np.minimum(x, 0),
    ),
    "softmax": Case(
        (2, 3, 4),
        {"op": {"op": "softmax"}},
        lambda _, x: special.softmax(x, axis=3),
    ),
    "layer_norm": Case(
        (2, 3, 4),
        {"op": {"op": "layer_norm", "epsilon": 0.25}},
        lambda p, x: _standardized(x, (3,), 0.25) * p["op"]["scale"] + p["op"]["bias"],
    ),
    "group_norm": Case(
        (2, 3, 4),
        {"op": {"op": "group_norm", "groups": 2, "epsilon": 0.25}},
        lambda p, x: (
            np.concatenate(
                [_standardized(half, (1, 2, 3), 0.25) for half in np.split(x, 2, axis=3)], axis=3
            )
            * p["op"]["scale"]
            + p["op"]["bias"]
        ),
    ),
    "scale": Case(
        (2, 3, 2),
        {"op": {"op": "scale", "value": 0.5}},
        lambda p, x: x * p["op"]["scale"],
    ),
    "batch_norm": Case(
        (2, 3, 2),
        {"op": {"op": "batch_norm", "epsilon": 0.25}},  # running mean 0 and variance 1
        lambda p, x: x / math.sqrt(1.25) * p["op"]["scale"] + p["op"]["bias"],
    ),
    "global_avg_pool": Case(
        (2, 3, 2),
        {"op": {"op": "global_avg_pool"}},
        lambda _, x: sum(x[:, i, j] for i, j in np.ndindex(2, 3)) / 6,
    ),
    "global_max_pool": Case(
        (2, 3, 2),
        {"op": {"op": "global_max_pool"}},
        lambda _, x: np.max([x[:, i, j] for i, j in np.ndindex(2, 3)], axis=0),
    ),
}


def test_the_contract_covers_every_operation() -> None:
    assert {name.partition(" ")[0] for name in CASES} == set(OPERATIONS)
    for name, case in CASES.items():
        assert list(case.layers.values())[-1]["op"] == name.partition(" ")[0]


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_layers_with_parameters_can_be_frozen(operation: str) -> None:
    node = plan_of(CASES[operation]).by_name["op"]
    assert bool(node.layout.params) == ("trainable" in type(node.op).model_fields)
    if node.layout.params and operation != "scale":  # which is a constant then
        frozen = node.op.model_copy(update={"trainable": False})
        assert frozen.summary() == f"{node.op.summary()}, frozen"


def plan_of(case: Case) -> Plan:
    shape = case.value(_some_params(case), np.zeros((1, *case.shape))).shape[1:]
    return make_plan(case.layers, case.shape, shape)


def _some_params(case: Case) -> dict[str, dict[str, Array]]:
    shapes: dict[str, dict[str, Shape]] = {
        "conv": {"kernel": (3, 2, 2, 3), "bias": (3,)},
        "conv groups": {"kernel": (2, 2, 2, 6), "bias": (6,)},
        "conv depthwise": {"kernel": (2, 2, 1, 6), "bias": (6,)},
        "conv_transpose": {"kernel": (4, 2, 3, 2), "bias": (3,)},
        "dense": {"kernel": (12, 4), "bias": (4,)},
        "position_embedding": {"embedding": (2, 3, 4)},
        "class_token": {"token": (4,)},
        "attention": {
            "kernel": (4, 12),
            "out_kernel": (4, 4),
            "bias": (12,),
            "out_bias": (4,),
        },
        "vector_quantizer": {"codebook": (5, 4)},
        "batch_norm": {"scale": (2,), "bias": (2,)},
        "layer_norm": {"scale": (4,), "bias": (4,)},
        "group_norm": {"scale": (4,), "bias": (4,)},
        "scale": {"scale": (2,)},
        "prelu": {"slope": (2,)},
        "prelu of one slope": {"slope": (1,)},
    }
    (name,) = (name for name, each in CASES.items() if each is case)
    own = shapes.get(name, {})
    return {"op": {k: normal(i, *shape) for i, (k, shape) in enumerate(own.items())}} if own else {}


@pytest.mark.parametrize("name", CASES)
def test_contract(name: str) -> None:
    """In evaluation: equal to NumPy in every form, per image, including gradients."""
    case = CASES[name]
    plan, given = plan_of(case), _some_params(case)
    where = "parts" if name == "batch_norm" else "weights"
    tree = {where: given} if given else {}
    networks = {form: split_network(net(plan, form)) for form in FORMS}
    assert plan.by_name["op"].layout.params == jax.tree.map(np.shape, given.get("op", {}))
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(networks["direct"].params)) == jax.tree.map(
        np.shape, tree
    )
    with jax.enable_x64(True):
        params = nnx.clone(networks["direct"].params)
        nnx.replace_by_pure_dict(params, jax.tree.map(jnp.asarray, tree))
        images = jnp.asarray(normal(9, 3, *case.shape))
        values, single, slope, rise = _probe(networks, params, images)
    want = case.value(given, np.asarray(images))
    for form, value in zip(FORMS, values, strict=True):
        tolerance = 1e-10 if form == "fast" else 1e-12
        np.testing.assert_allclose(value, want, rtol=tolerance, atol=tolerance, err_msg=form)
    np.testing.assert_allclose(single[0], want[1], rtol=1e-12, atol=1e-12)
    if name != "vector_quantizer":  # which is straight-through
        np.testing.assert_allclose(slope, rise, rtol=1e-6)


def _probe(
    networks: Mapping[convolution.EngineName, Network], params: Any, images: jax.Array
) -> Any:
    """All forms' results, one image's, and the slope along a direction, by gradient and not."""
    change = jax.tree.map(lambda p: jnp.asarray(normal(5, *p.shape)), (params, images))

    @jax.jit
    def run(params: Any, images: jax.Array) -> Any:
        def call(
            params: Any, images: jax.Array, form: convolution.EngineName = "direct"
        ) -> jax.Array:
            made = networks[form]
            result: jax.Array = nnx.merge(made.evaluation, params, made.rest, copy=True)(images)
            return result

        def weighed(values: Any) -> jax.Array:
            result = call(*values)
            return jnp.vdot(result, jnp.cos(jnp.arange(result.size).reshape(result.shape)))

        here, step = (params, images), 1e-6
        ends = [jax.tree.map(lambda v, c, s=s: v + s * c, here, change) for s in (step, -step)]
        slope = sum(
            map(jnp.vdot, jax.tree.leaves(jax.grad(weighed)(here)), jax.tree.leaves(change))
        )
        rise = (weighed(ends[0]) - weighed(ends[1])) / (2 * step)
        values = [call(*here, form) for form in FORMS]
        return values, call(params, images[1:2]), slope, rise

    return run(params, images)


@pytest.mark.parametrize("form", FORMS)
def test_of_equal_values_of_a_channel_the_first_takes_the_gradient(
    form: convolution.EngineName,
) -> None:
    model = net(make_plan({"op": {"op": "global_max_pool"}}, (2, 3, 2), (2,)), form)
    channels = np.array([[[1.0, 2, 0], [2, 2, 0]], [[-1, -1, -1], [-1, -1, -1]]])
    image = jnp.asarray(channels.transpose(1, 2, 0)[None], jnp.float32)
    values, pull = jax.vjp(model, image)
    (back,) = pull(jnp.array([[5.0, 7.0]]))
    assert values.tolist() == [[2, -1]]
    assert back[0, :, :, 0].tolist() == [[0, 5, 0], [0, 0, 0]]
    assert back[0, :, :, 1].tolist() == [[7, 0, 0], [0, 0, 0]]


# Ties.


@pytest.mark.parametrize("form", FORMS)
def test_owners_gradient_sums_both_uses_of_the_kernel(form: convolution.EngineName) -> None:
    conv = {"op": "conv", "filters": 3, "kernel": [3, 2], "activation": "tanh"}
    apart = {"op": "conv_transpose", "filters": 2, "kernel": [3, 2], "activation": "tanh"}
    together = {"op": "conv_transpose", "tie": "conv", "activation": "tanh"}
    shape = (6, 5, 2)
    x = jnp.asarray(normal(0, 2, *shape), jnp.float32)
    kernel = jnp.asarray(normal(1, 3, 2, 2, 3) / 4, jnp.float32)

    def gradients(layers: Layers, **weights: Any) -> Any:
        network = split_network(net(make_plan(layers, shape, shape), form))
        params = nnx.clone(network.params)
        nnx.replace_by_pure_dict(params, {"weights": weights})

        @jax.jit
        def gradient(params: Any) -> Any:
            def loss(params: Any) -> jax.Array:
                y = nnx.merge(network.evaluation, params, network.rest, copy=True)(x)
                return jnp.sum((y - x) ** 2)

            return jax.grad(loss)(params)

        return oracles.get_params(gradient(params))

    bias, own = jnp.array([0.1, -0.2, 0.3]), jnp.array([0.5, -0.5])
    both = {"conv": {"kernel": kernel, "bias": bias}, "back": {"kernel": kernel, "bias": own}}
    split = gradients({"conv": conv, "back": apart}, **both)
    shared = gradients({"conv": conv, "back": together}, conv=both["conv"], back={"bias": own})
    assert set(shared["back"]) == {"bias"}
    summed = split["conv"]["kernel"] + split["back"]["kernel"]
    np.testing.assert_allclose(shared["conv"]["kernel"], summed, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(shared["conv"]["bias"], split["conv"]["bias"], rtol=1e-4)
    np.testing.assert_allclose(shared["back"]["bias"], split["back"]["bias"], rtol=1e-4)


# Layers that differ between training and evaluation.


def test_batch_norm_follows_ioffe_and_szegedy() -> None:
    layers: Layers = {"norm": {"op": "batch_norm", "momentum": 0.75, "epsilon": 0.01}}
    model = net(make_plan(layers, (2, 3, 2), (2, 3, 2)))
    part: Any = model.parts["norm"]
    part.scale[...], part.bias[...] = jnp.array([2.0, 0.5]), jnp.array([1.0, -1.0])
    means, variances = np.zeros(2), np.ones(2)
    model.train()
    for step in range(3):
        x = (normal(step, 5, 2, 3, 2) * [3, 0.5] + [1, -2]).astype(np.float32)
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        want = (x - mean) / np.sqrt(variance + 0.01) * [2, 0.5] + [1, -1]
        np.testing.assert_allclose(model(x), want, rtol=1e-4, atol=1e-4)
        means = 0.75 * means + 0.25 * mean
        variances = 0.75 * variances + 0.25 * variance
    model.eval()
    want = (x - means) / np.sqrt(variances + 0.01) * [2, 0.5] + [1, -1]
    np.testing.assert_allclose(model(x), want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model(x[:1]), want[:1], rtol=1e-4, atol=1e-4)


def test_dropout_keeps_the_expectation_and_draws_new_masks() -> None:
    """Statistics per layer, image and call; within five standard errors of the mean."""
    layers: Layers = {
        "first": {"op": "dropout", "rate": 0.5},
        "second": {"op": "dropout", "rate": 0.25, "inputs": "input"},
        "third": {"op": "dropout", "rate": 0.25, "inputs": "input"},
        "join": {"op": "concat", "inputs": ["first", "second", "third"]},
    }
    model = net(make_plan(layers, (8, 8, 1), (8, 8, 3)))
    model.train()
    x = jnp.ones((100, 8, 8, 1))
    calls = [np.asarray(model(x), np.float64) for _ in range(2)]
    for layer, rate in enumerate([0.5, 0.25, 0.25]):
        for masks in calls:
            kept = masks[..., layer]
            np.testing.assert_allclose(np.unique(kept), [0, 1 / (1 - rate)], rtol=1e-6)
            error = math.sqrt(rate / (1 - rate) / kept.size)
            assert abs(kept.mean() - 1) < 5 * error
    flat = [image.ravel() for masks in calls for image in np.moveaxis(masks[:1], -1, 0)]
    flat += [masks[1, :, :, layer].ravel() for masks in calls for layer in range(3)]
    for one, other in itertools.combinations(flat, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(64)
        assert not np.array_equal(one, other)
    model.eval()
    np.testing.assert_array_equal(model(x), np.ones((100, 8, 8, 3)))


# Initial values.


def _kernels(layers: Layers, seed: int = 0) -> dict[str, Array]:
    last = layers[list(layers)[-1]]["units"]
    params = nnx.state(net(make_plan(layers, (12, 12, 8), (last,)), seed=seed), nnx.Param)
    weights = oracles.get_params(params)
    assert all(not layer["bias"].any() for layer in weights.values())
    return {name: np.asarray(layer["kernel"]) for name, layer in weights.items()}


def test_kernels_start_glorot_uniform_and_biases_at_zero() -> None:
    """Glorot & Bengio 2010: uniform within sqrt(6 / (fan_in + fan_out)), as in Lasagne."""
    layers: Layers = {
        "conv": {"op": "conv", "filters": 16, "kernel": [5, 3]},
        "back": {"op": "conv_transpose", "filters": 8, "kernel": 5},
        "dense": {"op": "dense", "units": 20},
    }
    kernels = _kernels(layers)
    fans = {"conv": 15 * (8 + 16), "back": 25 * (16 + 8), "dense": 12 * 14 * 8 + 20}
    for name, fan in fans.items():
        bound = math.sqrt(6 / fan)
        assert np.abs(kernels[name]).max() <= bound
        uniform = stats.uniform(-bound, 2 * bound)
        assert stats.kstest(kernels[name].ravel(), uniform.cdf).pvalue > 1e-3


def test_initial_kernels_differ_by_seed_and_by_layer_and_repeat() -> None:
    layers: Layers = {name: {"op": "dense", "units": 20} for name in ("a", "b", "c")}
    first, again, other = _kernels(layers), _kernels(layers), _kernels(layers, seed=1)
    np.testing.assert_array_equal(first["b"], again["b"])
    assert not np.array_equal(first["b"], first["c"])
    assert not np.array_equal(first["b"], other["b"])


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("glorot_uniform", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
        ("glorot_normal", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
        ("he_uniform", lambda fan_in, _: 2 / fan_in),
        ("he_normal", lambda fan_in, _: 2 / fan_in),
        ("lecun_uniform", lambda fan_in, _: 1 / fan_in),
        ("lecun_normal", lambda fan_in, _: 1 / fan_in),
        ("zeros", lambda *_: 0),
        ({"name": "normal", "stddev": 0.1}, lambda *_: 0.01),
        # 0.7737: the variance of a standard normal distribution truncated at -2 and 2 (SciPy).
        ({"name": "truncated_normal", "stddev": 0.1}, lambda *_: 0.007737),
        ("variance_scaling", lambda fan_in, _: 1 / fan_in),
        (
            {"name": "variance_scaling", "scale": 2.0, "mode": "fan_out", "distribution": "normal"},
            lambda _, fan_out: 2 / fan_out,
        ),
        (
            {"name": "variance_scaling", "mode": "fan_avg", "distribution": "uniform"},
            lambda fan_in, fan_out: 2 / (fan_in + fan_out),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_initialisers_have_their_variance(init: Any, variance: Callable[[int, int], float]) -> None:
    layers: Layers = {
        "conv": {"op": "conv", "filters": 64, "kernel": 3, "init": init},
        "up": {"op": "conv_transpose", "filters": 32, "kernel": 3, "init": init},
        "pool": {"op": "global_avg_pool"},
        "dense": {"op": "dense", "units": 300, "init": init},
    }
    kernels = _kernels(layers)
    for name, fans in {"conv": (72, 576), "up": (576, 288), "dense": (32, 300)}.items():
        assert kernels[name].var() == pytest.approx(variance(*fans), rel=0.1)


def test_kernels_and_biases_can_be_drawn_as_pytorchs() -> None:
    """The default of Conv2d and Linear: uniform within 1 / sqrt(fan_in), for both."""
    default = {"name": "variance_scaling", "scale": 1 / 3, "distribution": "uniform"}
    options = {"init": default, "bias_init": default}
    layers: Layers = {
        "conv": {"op": "conv", "filters": 600, "kernel": 3, "groups": 2, **options},
        "down": {"op": "conv", "filters": 10, "kernel": 2},
        "up": {"op": "conv_transpose", "filters": 700, "kernel": [2, 1], **options},
        "back": {"op": "conv_transpose", "tie": "down", "bias_init": default, "inputs": "down"},
        "mean": {"op": "global_avg_pool", "inputs": "up"},
        "dense": {"op": "dense", "units": 500, **options},
        "flat": {"op": "flatten", "inputs": "back"},
        "join": {"op": "concat", "inputs": ["dense", "flat"]},
        "out": {"op": "dense", "units": 2},
    }
    weights = net(make_plan(layers, (6, 6, 8), (2,))).weights
    for name, fan_in in {"conv": 9 * 4, "up": 2 * 10, "dense": 700}.items():
        bound = 1 / math.sqrt(fan_in)
        for key in ("kernel", "bias"):
            values = np.ravel(weights[name][key][...])
            assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    tied = np.asarray(weights["back"]["bias"][...])  # reads the 10 filters of its owner
    assert stats.kstest(np.abs(tied) * math.sqrt(4 * 10), stats.uniform.cdf).pvalue > 1e-3


def test_constants_fill_kernels_and_biases() -> None:
    constant = {"name": "constant", "value": -1.5}
    layers: Layers = {"d": {"op": "dense", "units": 3, "init": constant, "bias_init": constant}}
    weights = net(make_plan(layers, (1, 2, 2), (3,))).weights["d"]
    np.testing.assert_array_equal(weights["kernel"][...], np.full((4, 3), -1.5))
    np.testing.assert_array_equal(weights["bias"][...], np.full(3, -1.5))


@pytest.mark.parametrize(
    ("layer", "groups"),
    [
        ({"filters": 7, "kernel": [3, 5]}, 1),
        ({"filters": 4, "kernel": [1, 2]}, 1),
        ({"filters": 9, "kernel": 4, "groups": 3}, 3),
    ],
)
def test_dirac_kernels_are_pytorchs(layer: dict[str, Any], groups: int) -> None:
    torch = pytest.importorskip("torch", reason="the peers extra is not installed")
    layers: Layers = {
        "op": {"op": "conv", "init": "dirac", **layer},
        "out": {"op": "dense", "units": 2},
    }
    kernel = np.asarray(net(make_plan(layers, (6, 6, 6), (2,))).weights["op"]["kernel"][...])
    want = torch.nn.init.dirac_(torch.empty(kernel.transpose(3, 2, 0, 1).shape), groups)
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), want.numpy())


def test_dirac_kernels_copy_channels() -> None:
    layers: Layers = {
        "conv": {"op": "conv", "filters": 3, "kernel": 3, "padding": "same", "init": "dirac"},
        "up": {"op": "conv_transpose", "filters": 2, "kernel": 3, "padding": 1, "init": "dirac"},
        "out": {"op": "dense", "units": 24, "init": "dirac"},
    }
    x = normal(0, 2, 3, 4, 2)
    want = x.reshape(2, 24)
    np.testing.assert_array_equal(
        net(make_plan(layers, (3, 4, 2), (24,)))(jnp.asarray(x, jnp.float32)), want.astype("f4")
    )


def test_orthogonal_kernels_have_orthonormal_columns() -> None:
    layers: Layers = {
        "conv": {"op": "conv", "filters": 16, "kernel": 3, "init": "orthogonal"},
        "dense": {"op": "dense", "units": 5, "init": "orthogonal"},
    }
    for kernel in _kernels(layers).values():
        columns = kernel.reshape(-1, kernel.shape[-1])
        np.testing.assert_allclose(columns.T @ columns, np.eye(columns.shape[1]), atol=1e-5)


# Bias and activation after the pool.


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_monotone_activations_are_those_that_never_fall(activation: str) -> None:
    grid = jnp.linspace(-8, 8, 4001)
    falls = bool(jnp.any(jnp.diff(ACTIVATIONS[activation](grid)) < -1e-5))
    assert falls != (activation in MONOTONE)


@pytest.mark.parametrize("activation", ["gelu", "gelu_exact", "silu", "mish"])
def test_costly_activations_store_only_their_input(activation: str) -> None:
    x = jnp.linspace(-2, 2, 8)
    _, pull = jax.vjp(ACTIVATIONS[activation], x)
    (stored,) = (leaf for leaf in jax.tree.leaves(pull) if leaf.size > 1)
    np.testing.assert_array_equal(stored, x)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_bias_and_activation_may_wait_until_after_the_pools(activation: str) -> None:
    """Two pools read the convolution; the result equals that of unfused layers."""
    layers: Layers = {
        "conv": {"op": "conv", "filters": 3, "kernel": 2, "activation": activation},
        "wide": {"op": "max_pool", "size": [2, 3], "inputs": "conv"},
        "tall": {"op": "max_pool", "size": 2, "stride": [2, 3], "inputs": "conv"},
        "join": {"op": "concat", "inputs": ["wide", "tall"]},
    }
    model = net(make_plan(layers, (6, 7, 2), (2, 2, 6)))
    waits = {"wide": "conv", "tall": "conv"} if activation in MONOTONE else {}
    assert model.lowering.deferred == waits
    network = split_network(model)
    x = jnp.asarray(normal(0, 4, 6, 7, 2), jnp.float32)

    def by_ops(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        z = xla.conv(x, kernel, (1, 1), ((0, 0), (0, 0))) + bias
        y = ACTIVATIONS[activation](z)
        pools = [((2, 3), (2, 3)), ((2, 2), (2, 3))]
        return jnp.concatenate([xla.max_pool(y, *pool) for pool in pools], axis=-1)

    def by_net(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        params = nnx.clone(network.params)
        nnx.replace_by_pure_dict(params, {"weights": {"conv": {"kernel": kernel, "bias": bias}}})
        result: jax.Array = nnx.merge(network.evaluation, params, network.rest, copy=True)(x)
        return result

    @jax.jit
    def value_and_pulled(kernel: jax.Array) -> Any:
        bias = jnp.array([0.5, -1.0, 0.0])
        pairs = [jax.vjp(function, kernel, bias) for function in (by_net, by_ops)]
        back = jnp.asarray(normal(1, 4, 2, 2, 6), jnp.float32)
        return [(value, pull(back)) for value, pull in pairs]

    (y, gradients), (want, want_gradients) = value_and_pulled(model.weights["conv"]["kernel"][...])
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    for got, wanted in zip(gradients, want_gradients, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layers",
    [
        {  # somebody else reads it too
            "conv": {"op": "conv", "filters": 1, "kernel": 1, "activation": "relu"},
            "pool": {"op": "max_pool", "size": 1},
            "op": {"op": "add", "inputs": ["conv", "pool"]},
        },
        {  # a mean does not commute with an activation
            "conv": {"op": "conv", "filters": 1, "kernel": 1, "activation": "relu"},
            "op": {"op": "avg_pool", "size": 1},
        },
    ],
    ids=["two_readers", "avg_pool"],
)
def test_bias_and_activation_do_not_wait_elsewhere(layers: Layers) -> None:
    model = net(make_plan(layers, (2, 2, 1), (2, 2, 1)))
    assert not model.lowering.deferred
    model.weights["conv"]["kernel"][...] = jnp.full((1, 1, 1, 1), -2.0)
    model.weights["conv"]["bias"][...] = jnp.ones(1)
    x = np.array([[[[-1.0], [0.25]], [[0.75], [2.0]]]])
    want = np.maximum(1 - 2 * x, 0) * (2 if "pool" in layers else 1)
    np.testing.assert_allclose(model(jnp.asarray(x, jnp.float32)), want, rtol=1e-6)


DRAWN: list[Any] = [
    Normal(name="normal", stddev=0.02),
    TruncatedNormal(name="truncated_normal", stddev=0.02),
    VarianceScaling(name="variance_scaling", scale=3.0, mode="fan_avg", distribution="normal"),
    VarianceScaling(name="variance_scaling", mode="fan_out"),
]
JAXS: Mapping[str, Any] = {
    str(DRAWN[0]): nnx.initializers.normal(0.02),
    str(DRAWN[1]): nnx.initializers.truncated_normal(0.02),
    str(DRAWN[2]): nnx.initializers.variance_scaling(3.0, "fan_avg", "normal"),
    str(DRAWN[3]): nnx.initializers.variance_scaling(1.0, "fan_out", "truncated_normal"),
}


@pytest.mark.parametrize(
    "init", ["glorot_normal", "he_uniform", "lecun_normal", "orthogonal", *DRAWN], ids=str
)
@pytest.mark.parametrize("shape", [(3, 2, 8, 24), (40, 30)])
def test_kernels_are_distributed_as_jaxs(init: Any, shape: tuple[int, ...]) -> None:
    """Statistics of several draws; singular values for orthogonal kernels."""
    theirs = JAXS[str(init)] if isinstance(init, Model) else getattr(nnx.initializers, init)()
    ours_drawn = [initial_kernel(init, shape, np.random.default_rng(seed)) for seed in range(4)]
    theirs_drawn = [np.asarray(theirs(jax.random.key(seed), shape)) for seed in range(4)]
    assert all(kernel.dtype == np.float32 for kernel in ours_drawn)
    if init == "orthogonal":
        for kernel in (*ours_drawn, *theirs_drawn):
            values = np.linalg.svd(kernel.reshape(-1, shape[-1]), compute_uv=False)
            np.testing.assert_allclose(values, 1, rtol=1e-5)
    assert stats.ks_2samp(np.ravel(ours_drawn), np.ravel(theirs_drawn)).pvalue > 1e-3
    assert np.abs(ours_drawn).max() == pytest.approx(np.abs(theirs_drawn).max(), rel=0.2)


NORMS = [{"op": "layer_norm"}, {"op": "group_norm", "groups": 4}]


@pytest.mark.parametrize("op", NORMS)
@pytest.mark.parametrize("form", ["plain", "fast"])
def test_norms_and_their_gradients_are_accurate_far_from_zero(
    op: dict[str, Any], form: convolution.EngineName
) -> None:
    """At means of ten thousand standard deviations."""
    rng = np.random.default_rng(0)
    x = rng.normal(1e4, 1, (4, 5, 6, 64)).astype(np.float32)
    errors = rng.normal(size=x.shape).astype(np.float32)
    plan = make_plan({"op": op | {"epsilon": 1e-6}}, (5, 6, 64), (5, 6, 64))
    outputs, pull = jax.vjp(net(plan, form), jnp.asarray(x))
    (node,) = plan.nodes
    weights = {name: np.full(64, float(name == "scale")) for name in node.layout.params}
    rule = node.op.rule(Site(node.in_shapes, node.layout.shape), weights, None)
    np.testing.assert_allclose(outputs, rule.forward(x.astype(float)), atol=3e-6)
    (exact,) = rule.backward(errors.astype(float), x.astype(float))
    np.testing.assert_allclose(pull(jnp.asarray(errors))[0], exact, atol=3e-6)


@pytest.mark.parametrize("op", NORMS)
@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize("value", [0.1, 8765.4321, 12345678.9, 9.87654e9])
def test_norms_of_constant_images_are_zero(
    op: dict[str, Any], form: convolution.EngineName, value: float
) -> None:
    shape = (7, 7, 64)
    model = net(make_plan({"op": op | {"epsilon": 1e-6}}, shape, shape), form)
    outputs, pull = jax.vjp(jax.jit(model), jnp.full((2, *shape), value))
    assert not np.any(outputs)
    assert np.isfinite(pull(jnp.ones_like(outputs))[0]).all()
