"""Receptive fields, compared with where a gradient is not zero."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.graph.receptive_field import receptive_field
from cnnbench.nn.graph_net import GraphNet
from tests.support.oracles import Array, make_plan

# Linear layers, so that each dependence shows in the gradient; all windows overlap or leave gaps.
IMAGES: Mapping[str, Mapping[str, Any]] = {
    "strided": {"op": "conv", "filters": 2, "kernel": [5, 4], "stride": [2, 1], "padding": "same"},
    "pool": {"op": "avg_pool", "size": [3, 2], "stride": [2, 3]},
    "act": {"op": "activation", "activation": "linear"},
    "norm": {"op": "batch_norm"},
    "stamps": {"op": "conv_transpose", "filters": 3, "kernel": 4, "stride": 3, "padding": 1},
    "conv": {"op": "conv", "filters": 3, "kernel": 3, "padding": [1, 1]},
    "drop": {"op": "dropout", "rate": 0.5},
    "sum": {"op": "add", "inputs": ["stamps", "drop"]},
    "wide": {"op": "upscale", "size": [1, 2]},
    "twice": {"op": "concat", "inputs": ["sum", "stamps"]},
    "both": {"op": "global_avg_pool"},
    "flat": {"op": "flatten", "inputs": "wide"},
    "last": {"op": "concat", "inputs": ["both", "flat"]},
    "out": {"op": "dense", "units": 3},
}
GATED: Mapping[str, Mapping[str, Any]] = {
    "conv": {"op": "conv", "filters": 2, "kernel": 3, "padding": "same"},
    "other": {"op": "conv", "filters": 2, "kernel": [1, 4], "padding": "same", "inputs": "input"},
    "product": {"op": "multiply", "inputs": ["conv", "other"]},
    "corner": {"op": "conv", "filters": 2, "kernel": 3, "stride": [11, 13], "inputs": "input"},
    "vector": {"op": "flatten"},
    "gated": {"op": "multiply", "inputs": ["corner", "product"]},
    "again": {"op": "multiply", "inputs": ["product", "vector"]},
    "both": {"op": "add", "inputs": ["gated", "again"]},
    "out": {"op": "dense", "units": 3},
}
EDGES: Mapping[str, Mapping[str, Any]] = {
    "pad": {"op": "zero_pad", "padding": [1, 0, 0, 2], "channels": [1, 0]},
    "conv": {"op": "conv", "filters": 2, "kernel": [2, 3]},
    "crop": {"op": "crop", "cropping": [0, 1, 3, 0]},
    "apart": {"op": "conv", "filters": 2, "kernel": [2, 3], "dilation": [3, 1], "groups": 2},
    "mixed": {"op": "attention", "heads": 2},
    "flat": {"op": "flatten"},
    "out": {"op": "dense", "units": 3},
}
WINDOWS: Mapping[str, Mapping[str, Any]] = {
    "padded": {"op": "avg_pool", "size": [4, 3], "stride": [2, 1], "padding": [2, 1]},
    "conv": {"op": "conv", "filters": 2, "kernel": [1, 2]},
    "same": {"op": "avg_pool", "size": 3, "stride": [1, 2], "padding": "same"},
    "ceiled": {"op": "avg_pool", "size": 2, "ceil_mode": True},
    "flat": {"op": "flatten"},
    "out": {"op": "dense", "units": 3},
}
BLOCKS: Mapping[str, Mapping[str, Any]] = {
    "crop": {"op": "crop", "cropping": [0, 2, 1, 0]},
    "blocks": {"op": "space_to_depth", "size": 3},
    "conv": {"op": "conv", "filters": 8, "kernel": [2, 3]},
    "shuffled": {"op": "channel_shuffle", "groups": 4},
    "pixels": {"op": "depth_to_space", "size": 2},
    "flat": {"op": "flatten"},
    "out": {"op": "dense", "units": 3},
}
TOKENS: Mapping[str, Mapping[str, Any]] = {
    "patches": {"op": "conv", "filters": 4, "kernel": 1, "stride": [2, 3]},
    "token": {"op": "class_token"},
    "place": {"op": "position_embedding"},
    "two": {"op": "conv", "filters": 4, "kernel": [3, 1]},
    "mixed": {"op": "attention", "heads": 2},
    "out": {"op": "dense", "units": 3},
}
AXES: Mapping[str, Mapping[str, Any]] = {
    "conv": {"op": "conv", "filters": 4, "kernel": [2, 3], "stride": [2, 3]},
    "wide": {"op": "permute", "order": [2, 1, 3]},
    "again": {"op": "conv", "filters": 3, "kernel": 2},
    "same": {"op": "permute", "order": [1, 2, 3]},
    "back": {"op": "permute", "order": [2, 1, 3]},
    "turned": {"op": "permute", "order": [3, 1, 2]},
    "small": {"op": "conv", "filters": 2, "kernel": [2, 1]},
    "flat": {"op": "permute", "order": [3, 2, 1]},
    "out": {"op": "dense", "units": 3},
}
TIED: Mapping[str, Mapping[str, Any]] = {
    "conv": {"op": "conv", "filters": 2, "kernel": 3, "stride": 2},
    "inner": {"op": "conv", "filters": 2, "kernel": 2, "padding": "same"},
    "deconv": {"op": "conv_transpose", "tie": "conv"},
    "flat": {"op": "flatten"},
    "code": {"op": "dense", "units": 25},
    "again": {"op": "reshape", "shape": [5, 5, 1]},
    "out": {"op": "dense", "units": 3},
}


def test_the_largest_value_may_come_from_anywhere() -> None:
    layers: Mapping[str, Mapping[str, Any]] = {
        "conv": {"op": "conv", "filters": 2, "kernel": 3},
        "largest": {"op": "global_max_pool"},
        "out": {"op": "dense", "units": 3},
    }
    plan = make_plan(layers, (6, 7, 1), (3,))
    assert receptive_field(plan, "largest", ()) == ((0, 5), (0, 6))


def test_norms_read_a_pixel_or_the_whole_image() -> None:
    layers: Mapping[str, Mapping[str, Any]] = {
        "channels": {"op": "layer_norm"},
        "groups": {"op": "group_norm", "groups": 2},
    }
    plan = make_plan(layers, (6, 7, 4), (6, 7, 4))
    net = GraphNet(plan, form="plain", rngs=nnx.Rngs(3))
    image = jax.random.normal(jax.random.key(0), (6, 7, 4))

    def first(image: jax.Array, layer: str) -> jax.Array:
        return net.activations(image[None])[layer][0, 2, 3, 0]

    for layer, field in (("channels", ((2, 2), (3, 3))), ("groups", ((0, 5), (0, 6)))):
        assert receptive_field(plan, layer, (2, 3)) == field
        depends = np.asarray(jax.grad(first)(image, layer)).any(axis=-1)
        assert depends.sum() == (1 if layer == "channels" else 42)


def dependence(net: GraphNet, layer: str, shape: tuple[int, ...]) -> Array:
    """Dependence of each value of a layer, summed over channels, on each pixel."""

    def values(image: Any) -> Any:
        result = net.activations(image[None])[layer][0]
        return result.sum(axis=-1) if result.ndim == 3 else result

    gradient = jax.jit(jax.jacobian(values))(jnp.ones(shape))
    return np.asarray(gradient).any(axis=-1)  # over the image's channels


@pytest.mark.parametrize(
    "layers",
    [IMAGES, GATED, EDGES, BLOCKS, WINDOWS, AXES, TOKENS, TIED],
    ids=["images", "gated", "edges", "blocks", "windows", "axes", "tokens", "tied"],
)
def test_receptive_fields_are_the_pixels_with_a_gradient(
    layers: Mapping[str, Mapping[str, Any]],
) -> None:
    shape = (11, 13, 2)
    plan = make_plan(layers, shape, (3,))
    net = GraphNet(plan, form="plain", rngs=nnx.Rngs(3))
    net.eval()
    checked = 0
    for node in plan.nodes:
        depends = dependence(net, node.name, shape)
        places = list(np.ndindex(depends.shape[:-2])) if len(node.layout.shape) == 3 else [()]
        for place in places:
            at = depends[place] if place else depends.any(axis=0)
            if not at.any():  # in the padding, which has the nearest pixel
                (top, bottom), (left, right) = receptive_field(plan, node.name, place)
                assert (top, left) == (bottom, right)
                assert 0 <= top < shape[0]
                assert 0 <= left < shape[1]
                continue
            rows, columns = np.flatnonzero(at.any(axis=1)), np.flatnonzero(at.any(axis=0))
            want = ((rows[0], rows[-1]), (columns[0], columns[-1]))
            assert receptive_field(plan, node.name, place) == want, (node.name, place)
            checked += 1
    assert checked >= 25
