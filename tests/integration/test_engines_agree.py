"""Engines agree on digits: first gradients with float64, and epochs with each other.

All biases are zero and the background of a digit is blank, so most units are exactly at relu's kink
and most max-pool windows are tied. An engine that rounds a zero picks a side at random.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.dataset import Dataset
from cnnbench.data.published.mnist_5k import load_embedded
from cnnbench.data.splits import Split
from cnnbench.graph.plan import Node, Plan
from cnnbench.nn import graph_net
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.lowering import Plain, window_of
from cnnbench.nn.microbatch import Microbatching
from cnnbench.nn.native import winograd
from cnnbench.nn.ops import convolution, xla
from cnnbench.nn.ops.pooling import _views
from cnnbench.runs.records import EpochRecord
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.loader import load_experiment
from cnnbench.system.devices import pick_devices
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.executables import Job
from cnnbench.training.losses import objective
from cnnbench.training.state import Arrays, TrainState, split_network
from cnnbench.training.step import gradients, make_rules
from cnnbench.training.strategy import has_batch_statistics
from tests.support import oracles
from tests.support.engines import USABLE
from tests.support.oracles import Array, make_plan
from tests.support.paths import EXPERIMENTS
from tests.support.training import run_job

Layers = Mapping[str, Mapping[str, Any]]

NUM_IMAGES, ROW = 10, 4
# Rounding decides units nearer to their kink than this, relative to the layer's largest value.
MARGIN = 1e-6
LOSS_RTOL = 2e-4  # over two epochs, in which a few nearly tied units change sides
EXACT = 1e-12  # nearer than this counts as tied, which is tested here
TOLERANCES: Mapping[convolution.EngineName, float] = {
    "plain": 2e-6,
    "whole": 2e-6,
    **{form: 1e-5 if form == "winograd" else 2e-6 for form in USABLE},
    "direct": 2e-6,
    "fast": 1e-5,
}


@pytest.fixture(autouse=True)
def _small_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's algorithm in C is used wherever it can be, also where it does not pay."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "CLEAR", 0)


def conv(kernel: int, **keys: Any) -> dict[str, Any]:
    return {"op": "conv", "filters": 16, "kernel": kernel, "activation": "relu"} | keys


POOL: dict[str, Any] = {"op": "max_pool", "size": 2}
DENSE: dict[str, Any] = {"op": "dense", "units": 10}
EXAMPLES: Mapping[str, Layers] = {
    "a stride": {
        "conv1": conv(5, stride=2),
        "conv2": conv(3, padding="same"),
        "pool": POOL,
        "conv3": conv(3, filters=8),
        "dense": DENSE,
    },
    "smooth": {
        "conv1": conv(5, activation="tanh"),
        "pool1": POOL,
        "conv2": conv(5, activation="sigmoid"),
        "pool2": POOL,
        "dense": DENSE,
    },
    "two strides": {"conv1": conv(5, stride=2), "conv2": conv(5, stride=2), "dense": DENSE},
    "same": {
        "conv1": conv(5, padding="same"),
        "pool1": POOL,
        "conv2": conv(5, padding="same", activation="leaky_relu"),
        "skip": {"op": "add", "inputs": ["pool1", "conv2"]},
        "pool2": POOL,
        "back": {"op": "conv_transpose", "filters": 8, "kernel": 4, "stride": 2}
        | {"activation": "relu"},
        "dense": DENSE,
    },
}


class Case(NamedTuple):
    """A network with its training objective."""

    plan: Plan
    experiment: Experiment


def shipped() -> dict[str, Path]:
    """Experiment files with different networks or losses."""
    found: dict[Any, Path] = {}
    for path in sorted(EXPERIMENTS.rglob("*.yaml")):
        # deep networks of the same operations, and a published network on other images
        if path.parent.name in {"zoo", "fashion"}:
            continue
        loaded = load_experiment(path)
        if loaded.plan is None:  # Python models are the same in every engine
            continue
        train, scale = loaded.experiment.train, loaded.experiment.dataset.scaling
        found.setdefault((repr(loaded.plan), train.loss, repr(scale)), path)
    return {path.stem: path for path in found.values()}


SHIPPED = shipped()


def case_of(name: str) -> Case:
    loaded = load_experiment(SHIPPED.get(name, EXPERIMENTS / "standard.yaml"))
    plan = loaded.plan if name in SHIPPED else make_plan(EXAMPLES[name], (28, 28, 1), (10,))
    assert plan is not None
    return Case(plan, loaded.experiment)


def digits(inverted: bool) -> tuple[Array, Array]:
    """White on black, or black on white."""
    data = load_embedded()
    images, labels = data["train_images"][:200], data["train_labels"][:200]
    return 255 - images if inverted else images, labels


class Wide(NamedTuple):
    """Digits without nearly tied units, and their gradient in float64."""

    images: Array
    labels: Array
    gradient: Any


@functools.cache
def slope_of(name: str) -> Any:
    """The gradient in float64, and the distance of each image from a kink."""
    case = case_of(name)
    network = split_network(GraphNet(case.plan, form="plain", rngs=nnx.Rngs(0)))

    def loss(params: Any, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        net = nnx.merge(network.training, params, network.rest, copy=True)
        with pytest.MonkeyPatch.context() as patch:
            nearest = recorded(patch)
            result = net.result(x)
        targets = labels if case.experiment.task == "classify" else x
        return objective(case.experiment)(result, targets).mean(), jnp.stack(nearest).min(0)

    run = jax.jit(jax.grad(loss, has_aux=True))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda v: jnp.asarray(np.asarray(v, np.float64)), network.params)
    return functools.partial(run, params)


def wide(name: str, inverted: bool) -> Wide:
    slope, (given, numbers) = slope_of(name), digits(inverted)
    scaling = case_of(name).experiment.dataset.scaling
    chosen, spare = np.arange(NUM_IMAGES), iter(range(NUM_IMAGES, len(given)))
    while True:
        with jax.enable_x64(True):
            pixels = np.asarray(scaling.apply(given[chosen].astype(np.float32)), np.float64)
            gradient, nearest = slope(pixels, numbers[chosen])
        if not (near := np.flatnonzero(np.asarray(nearest) < MARGIN)).size:
            break
        chosen[near] = [next(spare) for _ in near]
    found = oracles.get_params(jax.tree.map(np.asarray, gradient))
    return Wide(given[chosen], numbers[chosen], found)


def recorded(patch: pytest.MonkeyPatch) -> list[jax.Array]:
    """Relative distance of each image's nearest unit that is not at its kink."""
    found = [jnp.full(NUM_IMAGES, jnp.inf)]

    def note(distances: jax.Array, images: int) -> None:
        apart = jnp.where(distances > EXACT, distances, jnp.inf)
        axes = tuple(axis for axis in range(apart.ndim) if axis != images)
        found.append(apart.min(axes))

    def kinked(activation: Any, z: jax.Array) -> jax.Array:
        note(jnp.abs(z) / jnp.abs(z).max(), 0)
        result: jax.Array = activation(z)
        return result

    def max_pool(_plain: Plain, node: Node, x: jax.Array) -> jax.Array:
        window = window_of(node)
        windows = jnp.stack(_views(x.transpose(1, 2, 0, 3), *window))
        note((windows.max(0) - windows) / jnp.abs(x).max(), 3)
        return xla.max_pool(x, *window)

    for name in ("relu", "leaky_relu"):
        usual = graph_net.ACTIVATIONS[name]
        patch.setitem(graph_net.ACTIVATIONS, name, functools.partial(kinked, usual))
    patch.setattr(Plain, "max_pool", max_pool)
    return found


def test_every_shipped_network_is_tested() -> None:
    assert {"standard", "modified", "autoencoder", "denoising", "untied", "mlp"} < set(SHIPPED)
    assert {"vae", "vae_2d", "caffe_lenet", "keras_convnet", "pytorch_mnist"} < set(SHIPPED)


# Their operations are in the others too.
SLOW = {
    "autoencoder",
    "caffe_lenet",
    "denoising",
    "fashion_mlp",
    "fashion_resnet",
    "fashion_three_conv",
    "fashion_tf_convnet",
    "fashion_tiny",
    "keras_convnet",
    "mlp",
    "modified",
    "pytorch_mnist",
    "same",
    "tuomaso",
    "untied",
    "vae",
    "vae_2d",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in (*SHIPPED, *EXAMPLES)
    ],
)
def test_first_gradients_match_float64(name: str) -> None:
    """Relative error (2-norm) of the gradient of every parameter."""
    case, want = case_of(name), {False: wide(name, False)}
    if name == "standard" or name in EXAMPLES:  # the background is constant but not zero
        want[True] = wide(name, True)
    has_norms = has_batch_statistics(case.plan)
    for form, tolerance in TOLERANCES.items():
        # Batch norms over ten images amplify the rounding of earlier layers.
        bar, row = (3 * tolerance if has_norms else tolerance), None if form == "plain" else ROW
        cut = Microbatching(5, None) if has_norms and row else None
        network = split_network(GraphNet(case.plan, form=form, rngs=nnx.Rngs(0), cut=cut))
        rules = make_rules(case.experiment, None if has_norms else row)
        state = TrainState(network.params, network.rest, ())
        step = jax.jit(lambda s, a, i, n=network, r=rules: gradients(s, a, i, n.training, r)[0])
        for images, labels, gradient in want.values():
            arrays = Arrays(jnp.asarray(images), jnp.asarray(labels))
            got = oracles.get_params(step(state, arrays, jnp.arange(NUM_IMAGES)))
            for (layer, key), value in flat(gradient).items():
                error = np.linalg.norm(np.asarray(got[layer][key]) - value)
                assert error <= bar * np.linalg.norm(value), (form, layer, key)


def flat(gradient: Any) -> dict[tuple[str, str], Array]:
    """Arrays by layer and name."""
    return {(layer, key): v for layer, own in gradient.items() for key, v in own.items()}


NOISY: Layers = {
    "noise": {"op": "gaussian_noise", "stddev": 0.1, "inputs": "input"},
    "mask": {"op": "masking_noise", "rate": 0.25},
    "conv1": conv(5, filters=8, stride=2),
    "drop1": {"op": "dropout", "rate": 0.25},
    "maps": {"op": "spatial_dropout", "rate": 0.125},
    "conv2": conv(5),
    "path": {"op": "drop_path", "rate": 0.125},
    "pool": POOL,
    "drop2": {"op": "dropout", "rate": 0.5},
    "dense": DENSE,
}


@pytest.mark.slow
def test_engines_can_be_compared_epoch_by_epoch() -> None:
    """The same seed draws the same masks and noise; different masks would be detected."""
    found = {engine: losses(engine, 0) for engine in TOLERANCES}
    for engine in ("direct", "fast"):
        np.testing.assert_allclose(found[engine], found["plain"], rtol=LOSS_RTOL, err_msg=engine)
    assert np.abs(losses("plain", 0, dropped=0.2) / found["plain"] - 1).min() > 5 * LOSS_RTOL


def losses(engine: str, seed: int, dropped: float = 0.5) -> Array:
    """Training and validation losses by epoch."""
    layers = {**NOISY, "drop2": {"op": "dropout", "rate": dropped}}
    train = {"epochs": 2, "batch_size": 20, "optimizer": {"name": "sgd", "learning_rate": 0.05}}
    experiment = Experiment.model_validate(
        {
            "name": "noisy",
            "task": "classify",
            "dataset": {"name": "mnist", "pixel_scale": 256.0},
            "model": {"layers": layers},
            "train": train,
            "seeds": [seed],
        }
    )
    images, labels = digits(inverted=False)
    parts = [Split(images[some], labels[some]) for some in (slice(80), slice(80, 120))]
    info = DatasetInfo("digits", (28, 28, 1), 10, 120, 40, "digits")
    dataset = Dataset(info, parts[0], parts[1], parts[1], "sha256:00", None, "embedded")
    plan = make_plan(layers, (28, 28, 1), (10,))
    job = Job(experiment, plan, Path(), dataset, pick_devices("cpu")[:1], Stopwatch(), engine)
    records = [event for event in run_job(job) if isinstance(event, EpochRecord)]
    return np.array([(record.train_loss, record.validation_loss) for record in records])
