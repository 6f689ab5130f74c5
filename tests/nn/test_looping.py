"""Networks whose equal blocks run as loops, against the same networks unrolled."""

import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.data.scaling import Scaling
from cnnbench.graph.plan import Plan
from cnnbench.nn import graph_net
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.microbatch import Microbatching
from cnnbench.nn.result import Result
from cnnbench.spec.experiment import Task
from cnnbench.spec.loader import load_experiment
from cnnbench.system.devices import make_mesh, pick_devices
from cnnbench.training.state import Arrays, Network, TrainState, split_network
from cnnbench.training.step import StepConfig, eval_step, gradients
from cnnbench.training.strategy import has_batch_statistics
from tests.support.oracles import make_plan
from tests.support.paths import EXPERIMENTS
from tests.support.processes import as_processes

SHAPE, NUM_IMAGES, CLASSES = (6, 7, 4), 12, 3
Layers = Mapping[str, Mapping[str, Any]]


def blocks(number: int, layers: Layers) -> dict[str, Any]:
    """Equal blocks; `$` is the output of the block before, or the image."""
    found: dict[str, Any] = {}
    before = "input"
    for block in range(number):
        for name, keys in layers.items():
            inputs = keys.get("inputs", [])
            own = [before if name == "$" else f"{block}.{name}" for name in inputs]
            found[f"{block}.{name}"] = {**keys, **({"inputs": own} if own else {})}
        before = next(reversed(found))
    return {**found, "out": {"op": "dense", "units": CLASSES}}


CONV = {"op": "conv", "filters": 4, "kernel": 3, "padding": "same"}
NORM = {"op": "batch_norm", "momentum": 0.7}
RELU = {"op": "activation", "activation": "relu"}
NETWORKS: Mapping[str, Layers] = {
    "residual": blocks(5, {
        "a": CONV | {"inputs": ["$"], "use_bias": False}, "na": NORM,
        "act": RELU, "b": CONV, "nb": NORM,
        "sum": {"op": "add", "inputs": ["nb", "$"]}, "out": RELU,
    }),
    "random": blocks(5, {
        "conv": CONV | {"inputs": ["$"], "activation": "tanh"}, "norm": NORM,
        "drop": {"op": "dropout", "rate": 0.5}, "path": {"op": "drop_path", "rate": 0.5},
        "sum": {"op": "add", "inputs": ["path", "$"]},
    }),
    "without batch statistics": blocks(4, {
        "norm": {"op": "layer_norm", "inputs": ["$"]},
        "attention": {"op": "attention", "heads": 2},
        "drop": {"op": "dropout", "rate": 0.25},
        "sum": {"op": "add", "inputs": ["drop", "$"]},
    }),
    "of vectors": {"in": {"op": "dense", "units": 5}} | blocks(5, {
        "dense": {"op": "dense", "units": 5, "activation": "tanh"}, "norm": NORM,
        "noise": {"op": "gaussian_noise", "stddev": 0.1},
    }),
}  # fmt: skip


CASES: Mapping[str, tuple[str, int | None, int]] = {
    "residual, whole": ("residual", None, 1),
    "residual, rows": ("residual", 3, 2),
    "random, rows": ("random", 3, 1),
    "random, images": ("without batch statistics", 3, 2),
    "of vectors, rows": ("of vectors", 4, 1),
}


def loss_of(result: Result, labels: jax.Array) -> jax.Array:
    return jnp.tanh(result.output)[jnp.arange(len(labels)), labels]


RULES = StepConfig(Task.CLASSIFY, loss_of, {}, Scaling(256.0), None, True)


def network_of(name: str, row: int | None, num_devices: int) -> tuple[Network, StepConfig]:
    plan = make_plan(NETWORKS[name], SHAPE, (CLASSES,))
    mesh = make_mesh(pick_devices("cpu")[:num_devices])
    own = has_batch_statistics(plan)
    cut = Microbatching(row, mesh) if row and own else None
    net = GraphNet(plan, form="direct", rngs=nnx.Rngs(0), cut=cut)
    rules = RULES if own else RULES._replace(microbatch=row, mesh=mesh)
    return split_network(net), rules


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops also in small networks."""
    monkeypatch.setattr(graph_net, "LEAST_SAVED", 1)


def num_loops(network: Network) -> int:
    net = nnx.merge(network.training, network.params, network.rest, copy=True)
    return len(net.loops)


def measured(network: Network, rules: StepConfig) -> Any:
    """Gradients, state and loss of a step, and losses in evaluation mode, for two seeds."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, *SHAPE), np.uint8)
    labels = rng.integers(0, CLASSES, NUM_IMAGES, np.int32)
    arrays, indices = Arrays(jnp.asarray(images), jnp.asarray(labels)), jnp.arange(NUM_IMAGES)

    def run(factor: jax.Array) -> Any:
        params = jax.tree.map(lambda leaf: factor * leaf, network.params)
        state = TrainState(params, network.rest, ())
        gradient, rest, loss = gradients(state, arrays, indices, network.training, rules)
        options: Any = {"graphdef": network.scoring, "rules": rules}
        sums = eval_step(params, rest, arrays, indices, jnp.ones(NUM_IMAGES), **options)
        return nnx.to_pure_dict(gradient), nnx.to_pure_dict(rest), loss, sums

    found = jax.jit(jax.vmap(run))(jnp.array([1.0, 0.8]))
    return jax.tree.map(_as_numpy, found)


def _as_numpy(value: jax.Array) -> Any:
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if is_key else value)


SLOW = {"residual, whole", "residual, rows", "random, rows"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
@pytest.mark.sampled(3)
@pytest.mark.usefixtures("always")
def test_a_loop_equals_the_unrolled_layers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same names, random values and running statistics."""
    looped, rules = network_of(*CASES[case])
    assert num_loops(looped) == 1
    got = measured(looped, rules)
    monkeypatch.setattr(graph_net, "find_loops", lambda *_: ())
    unrolled, rules = network_of(*CASES[case])
    assert num_loops(unrolled) == 0
    want = measured(unrolled, rules)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(want[0])) > 0.1
    jax.tree.map(equal, got, want)


def equal(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * max(1, np.abs(other).max()))


@pytest.mark.parametrize("name", ["of vectors", "residual"])
@pytest.mark.sampled(1)
@pytest.mark.usefixtures("always")
def test_sums_of_processes_are_packed_in_loops(name: str) -> None:
    want = measured(*network_of(name, None, 1))
    network, rules = network_of(name, 3, 2)
    assert num_loops(network) == 1
    with as_processes():
        got = measured(network, rules)
    jax.tree.map(equal, got, want)


@pytest.mark.parametrize(("depth", "loops"), [(1, 0), (3, 0), (9, 3)])
def test_only_deep_networks_have_loops(depth: int, loops: int) -> None:
    """A loop copies what its backward pass needs."""
    net = GraphNet(resnet(depth), form="whole", rngs=nnx.Rngs(0))
    assert len(net.loops) == loops


def resnet(n: int) -> Plan:
    """A ResNet-(6n+2)."""
    overrides = [f"model.params.n={n}", "dataset.name=random/32x32x3/10"]
    plan = load_experiment(EXPERIMENTS / "zoo/resnet.yaml", overrides).plan
    assert plan is not None
    return plan


def compile_seconds(n: int) -> float:
    """CPU seconds to trace and compile the gradient of a ResNet-(6n+2)."""
    plan = resnet(n)
    net = GraphNet(plan, form="direct", rngs=nnx.Rngs(0), cut=Microbatching(5, None))
    network = split_network(net)
    state = TrainState(network.params, network.rest, ())
    images = jnp.zeros((10, *plan.input_shape), jnp.uint8)
    arrays = Arrays(images, jnp.zeros(10, jnp.int32))
    step = jax.jit(
        lambda state, arrays: gradients(state, arrays, jnp.arange(10), network.training, RULES)
    )
    start = time.process_time()
    step.lower(state, arrays).compile()
    return time.process_time() - start


@pytest.mark.slow
def test_compile_time_does_not_grow_with_depth() -> None:
    """Unrolled, a ResNet-56 takes 2.6 times as long as a ResNet-20.

    In a new process, since traces and garbage of earlier tests would count.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        # The first one also loads what every first compilation loads.
        _, *found = pool.map(compile_seconds, [1, 3, 9, 3, 9])
    assert min(found[1::2]) < 1.5 * min(found[::2])
