"""Networks with batch statistics in rows against the same networks on the whole batch."""

import functools
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.microbatch import Microbatching, stages
from cnnbench.nn.ops.batch_norm import BY_XLA, Sums, batch_sums, normalize
from cnnbench.nn.python_model import split_model
from cnnbench.nn.result import Result
from cnnbench.system.devices import make_mesh, pick_devices
from tests.support.oracles import make_plan
from tests.support.processes import as_processes

SHAPE, NUM_IMAGES, CLASSES = (6, 7, 2), 12, 3
Layers = Mapping[str, Mapping[str, Any]]
NORM = {"op": "batch_norm", "momentum": 0.7, "epsilon": 0.01}
OUT = {"op": "dense", "units": CLASSES}


def conv(**keys: Any) -> dict[str, Any]:
    return {"op": "conv", "filters": 3, "kernel": 3, "padding": "same"} | keys


GRAPHS: Mapping[str, Layers] = {
    "of the image": {"norm": NORM, "conv": conv(), "out": OUT},
    "after a convolution": {"conv": conv(), "norm": NORM, "pool": {"op": "max_pool", "size": 2},
                            "out": OUT},
    "in branches": {"a": conv(), "b": conv(inputs="input"), "na": NORM | {"inputs": "a"},
                    "nb": NORM | {"inputs": "b"}, "sum": {"op": "add", "inputs": ["na", "nb"]},
                    "out": OUT},
    "twice of one value": {"a": conv(), "n1": NORM, "n2": NORM | {"inputs": "a"},
                           "join": {"op": "concat", "inputs": ["n1", "n2", "a"]}, "out": OUT},
    "and gates": {"a": conv(), "norm": NORM, "mean": {"op": "global_avg_pool"},
                  "gate": {"op": "dense", "units": 3, "activation": "sigmoid"}, "again": NORM,
                  "gated": {"op": "multiply", "inputs": ["again", "norm", "a"]}, "out": OUT},
    "of vectors": {"hidden": {"op": "dense", "units": 5, "activation": "tanh"}, "norm": NORM,
                   "out": OUT},
    "after a dropout": {"conv": conv(), "drop": {"op": "dropout", "rate": 0.0}, "norm": NORM,
                        "out": OUT},
    "after dropped images": {"conv": conv(), "maps": {"op": "spatial_dropout", "rate": 0.4},
                             "norm": NORM, "path": {"op": "drop_path", "rate": 0.4},
                             "again": NORM, "out": OUT},
    "without parameters": {"a": conv(filters=4), "n1": NORM | {"scale": False},
                           "groups": {"op": "group_norm", "groups": 2},
                           "n2": NORM | {"center": False}, "pixels": {"op": "layer_norm"},
                           "scale": {"op": "scale", "value": 0.5},
                           "n3": NORM | {"scale": False, "center": False}, "out": OUT},
    "shared by two layers": {"conv": conv(), "n1": NORM, "a1": {"op": "prelu"},
                             "n2": NORM | {"weights": "n1"},
                             "a2": {"op": "prelu", "weights": "a1"}, "out": OUT},
    "at the end": {"conv": conv(filters=2), "norm": NORM},
}  # fmt: skip


def net_of(layers: Layers, cut: Microbatching | None) -> GraphNet:
    shape = (CLASSES,) if "out" in layers else SHAPE
    net = GraphNet(make_plan(layers, SHAPE, shape), form="direct", rngs=nnx.Rngs(0), cut=cut)
    net.train()
    return net


def measured(layers: Layers, cut: Microbatching | None) -> Any:
    """The loss with its gradients and without, and the running statistics after it."""
    structure, params, rest = split_model(net_of(layers, cut))
    x = jnp.asarray(np.random.default_rng(0).normal(1, 2, (NUM_IMAGES, *SHAPE)), jnp.float32)

    def loss(params: Any) -> Any:
        net = nnx.merge(structure, params, rest, copy=True)
        shape = (NUM_IMAGES, *net.plan.output_shape)
        weights = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)

        def head(result: Result, weights: jax.Array) -> jax.Array:
            return jnp.sum(jnp.tanh(result.output) * weights)

        total = net.sum_of(x, net.prepare(), head, (weights,))
        return 3 * total, (total, split_model(net)[2])

    @jax.jit
    def run(params: Any) -> Any:
        return *jax.grad(loss, has_aux=True)(params), loss(params)[1][0]

    gradients, (total, after), alone = run(params)
    numbers, _ = nnx.split_state(after, nnx.BatchStat, ...)
    return jax.tree.map(np.asarray, (total, alone, nnx.to_pure_dict(gradients), numbers))


@functools.cache
def of_the_batch(name: str) -> Any:
    return measured(GRAPHS[name], None)


def equal(one: Any, other: Any) -> None:
    assert one.shape == other.shape
    # A bias before a batch norm has gradient zero, and rounding is all that shows.
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.sampled(4)
def test_rows_have_the_statistics_of_the_batch(name: str, num_devices: int) -> None:
    mesh = make_mesh(pick_devices("cpu")[:num_devices])
    jax.tree.map(equal, measured(GRAPHS[name], Microbatching(3, mesh)), of_the_batch(name))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.sampled(3)
def test_packed_sums_of_processes_are_those_of_the_batch(name: str) -> None:
    mesh = make_mesh(pick_devices("cpu")[:2])
    with as_processes():
        got = measured(GRAPHS[name], Microbatching(3, mesh))
    jax.tree.map(equal, got, of_the_batch(name))


def test_stages_end_where_a_batch_norm_needs_the_whole_batch() -> None:
    found = stages(net_of(GRAPHS["in branches"], None).plan)
    assert [[node.name for node in stage.nodes] for stage in found] == [
        ["a", "b"],
        ["na", "nb", "sum", "out"],
    ]
    first, second = found
    assert (sorted(first.reads), sorted(first.gives), sorted(first.sums)) == (
        [],
        ["a", "b"],
        ["a", "b"],
    )
    assert (sorted(second.reads), sorted(second.gives)) == (["a", "b"], ["out"])
    assert not second.sums


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 5)])
def test_gradients_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    x, dy = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    rest = [jnp.asarray(rng.normal(size=shape[-1]), jnp.float32) for _ in range(3)]
    _, pull = jax.vjp(partial(normalize, BY_XLA), x, *rest)
    _, want = jax.vjp(lambda x, mean, factor, bias: (x - mean) * factor + bias, x, *rest)
    for one, other in zip(pull(dy), want(dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    axes = tuple(range(len(shape) - 1))
    sums, pull_sums = jax.vjp(batch_sums, x)
    about = sums.about
    np.testing.assert_allclose(about, x.mean(axes), rtol=2**-16)

    def plain(x: jax.Array) -> Sums:
        return Sums(about, (x - about).sum(axes), ((x - about) ** 2).sum(axes))

    wanted, want_sums = jax.vjp(plain, x)
    for one, other in zip(sums, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    changes = Sums(jnp.zeros_like(about), rest[0], rest[1])
    np.testing.assert_allclose(pull_sums(changes)[0], want_sums(changes)[0], rtol=1e-4, atol=1e-5)
