"""Our engine behind the interface of the frameworks, against the plain form of the operations."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.bench.frameworks import initial_weights
from cnnbench.bench.frameworks.cnnbench import OwnTrainer, make_trainer
from cnnbench.nn.graph_net import GraphNet
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.training import autotune
from cnnbench.training.optim.optimizer import build_optimizer
from cnnbench.training.state import Arrays, init_state, split_network
from cnnbench.training.step import make_rules, train_step

SPEC = """\
name: tiny
task: classify
dataset: {name: mnist}
model:
  layers:
    conv1: {op: conv, filters: 3, kernel: 5, stride: 3, activation: tanh}
    NORM
    pool1: {op: max_pool, size: 2}
    dense1: {op: dense, units: 10}
train: {batch_size: 8, optimizer: {name: sgd, learning_rate: 0.1, momentum: 0, nesterov: false}}
"""


def load(folder: Path, norm: str = "") -> Loaded:
    path = folder / "tiny.yaml"
    path.write_text(SPEC.replace("NORM", norm or "flatless: {op: activation, activation: relu}"))
    return load_experiment(path)


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 8, 28, 28, 1), np.uint8), rng.integers(0, 10, (3, 8))


FROZEN = """
    frozen: {op: conv, filters: 4, kernel: 1, trainable: false}
    norm: {op: batch_norm, trainable: false}
"""


@pytest.mark.parametrize("norm", ["", "norm: {op: batch_norm}", FROZEN.strip()])
def test_losses_equal_the_plain_form(norm, tmp_path, batches):
    loaded = load(tmp_path, norm)
    assert loaded.plan is not None
    network = split_network(GraphNet(loaded.plan, form="plain", rngs=nnx.Rngs(7)))
    optimizer, rules = (
        build_optimizer(loaded.experiment.train, 1),
        make_rules(loaded.experiment, None),
    )
    step = jax.jit(partial(train_step, graphdef=network.training, optimizer=optimizer, rules=rules))
    state, losses = init_state(network, optimizer), []
    for images, labels in zip(*batches, strict=True):
        arrays = Arrays(jnp.asarray(images), jnp.asarray(labels, jnp.int32))
        state, loss = step(state, arrays, jnp.arange(8))
        losses.append(float(loss))
    # The weights are given, so the seed (0) does not matter.
    trainer = OwnTrainer(loaded.experiment, loaded.plan, initial_weights(loaded.plan, 7), "fast")
    assert trainer.train(*batches) == pytest.approx(losses, rel=1e-4)


def test_gradients_match_a_step_of_gradient_descent(tmp_path, batches):
    loaded = load(tmp_path)
    assert loaded.plan is not None
    weights = initial_weights(loaded.plan, 7)
    trainer = OwnTrainer(loaded.experiment, loaded.plan, weights, "fast")
    loss, gradients = trainer.gradients(batches[0][0], batches[1][0])
    assert trainer.train(batches[0][:1], batches[1][:1]) == pytest.approx([loss], rel=1e-5)
    for layer, values in nnx.to_pure_dict(trainer._state.params)["weights"].items():
        for name, value in values.items():
            moved = (weights[layer][name] - np.asarray(value)) / 0.1
            assert gradients[layer][name] == pytest.approx(moved, rel=1e-3, abs=1e-5)


def test_outputs_equal_the_networks(tmp_path, batches):
    loaded = load(tmp_path, "norm: {op: batch_norm}")
    assert loaded.plan is not None
    network = GraphNet(loaded.plan, form="plain", rngs=nnx.Rngs(7))
    network.eval()
    expected = network(jnp.asarray(batches[0][0], jnp.float32) / 256)
    trainer = OwnTrainer(loaded.experiment, loaded.plan, initial_weights(loaded.plan, 7), "fast")
    assert trainer.outputs(batches[0][0]) == pytest.approx(np.asarray(expected), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("engine", ["direct", "auto"])
def test_the_engine_is_that_of_the_environment(tmp_path, batches, engine, monkeypatch):
    """`auto` measures where the estimate leaves several, as in `run`."""
    monkeypatch.setenv("CNNBENCH_ENGINE", engine)
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(autotune, "promising", lambda _plan, found: found)
    monkeypatch.setattr(autotune, "race", lambda found, _: {each.form: 1.0 for each in found})
    loaded = load(tmp_path)
    assert loaded.plan is not None
    weights = initial_weights(loaded.plan, 7)
    trainer = make_trainer("cnnbench", loaded.experiment, loaded.plan, weights)
    assert np.isfinite(trainer.train(*batches)).all()
    assert trainer.strategy.form == "direct"
    assert (tmp_path / "cache" / "engines").exists() == (engine == "auto")
