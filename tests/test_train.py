"""Schedules, optimisers and steps against formulas in NumPy and against PyTorch."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnbench.losses import per_image_loss, per_image_metric
from cnnbench.models import GraphNet
from cnnbench.optimizers import OPTIMIZERS, SCHEDULES
from cnnbench.spec import Task, TrainSpec
from cnnbench.train import (
    Arrays,
    Network,
    Rules,
    TrainState,
    build_optimizer,
    epoch_order,
    eval_step,
    init_state,
    learning_rate,
    outputs_of,
    take_apart,
    train_step,
)
from tests import oracles
from tests.oracles import Array, make_plan


def train_spec(**train: Any) -> TrainSpec:
    return TrainSpec.model_validate(train)


# Learning rates.

EPOCHS, STEPS, BASE = 8, 10, 0.5


def _cosine(step: int) -> float:
    return BASE * (0.2 + 0.8 * (1 + math.cos(math.pi * step / 80)) / 2)


def _warm_cosine(step: int) -> float:
    if step < 20:
        return BASE * step / 20
    return BASE * (1 + math.cos(math.pi * (step - 20) / 60)) / 2


RATES: Mapping[str, list[tuple[dict[str, Any], Callable[[int], float]]]] = {
    "constant": [({}, lambda _: BASE)],
    "cosine": [
        ({"final_fraction": 0.2}, _cosine),
        ({"warmup_epochs": 2.0}, _warm_cosine),
    ],
    "linear": [({"final_fraction": 0.2}, lambda step: BASE * (1 - 0.8 * step / 80))],
    "exponential": [({"rate": 0.5}, lambda step: BASE * 0.5 ** (step / 10))],
    "step": [({"every": 3, "factor": 0.1}, lambda step: BASE * 0.1 ** (step // 30))],
}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_learning_rate_at_known_steps(name: str) -> None:
    for options, formula in RATES[name]:
        schedule = train_spec(schedule={"name": name} | options).schedule
        rate = learning_rate(schedule, BASE, EPOCHS, STEPS)
        for step in (0, 1, 15, 20, 29, 30, 31, 59, 60, 79):
            got = rate(step) if callable(rate) else rate
            assert float(got) == pytest.approx(formula(step), rel=1e-5, abs=1e-7), (options, step)


@pytest.mark.parametrize("steps", [1, 10])
def test_a_warm_up_of_nearly_all_epochs_leaves_one_step_to_fall(steps: int) -> None:
    """Its share of the steps is rounded, but never to all of them."""
    schedule = train_spec(schedule={"name": "cosine", "warmup_epochs": 7.99}).schedule
    rate = learning_rate(schedule, BASE, EPOCHS, steps)
    last = EPOCHS * steps - 1
    rates = [float(rate(step)) for step in range(last + 1)]
    assert rates == pytest.approx([BASE * step / last for step in range(last + 1)], rel=1e-5)


def test_the_schedule_reaches_the_parameters() -> None:
    """Plain SGD moves by the rate times the gradient; the second epoch's rate is a tenth."""
    options = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.0, "nesterov": False}
    spec = train_spec(epochs=2, optimizer=options, schedule={"name": "step", "every": 1})
    optimizer = build_optimizer(spec, steps=2)
    state, moves = optimizer.init(jnp.zeros(())), []
    for _ in range(4):
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        moves.append(-float(update))
    assert moves == pytest.approx([0.5, 0.5, 0.05, 0.05])


# Optimisers.

FIRST_STEPS: Mapping[str, Callable[[Array, Array], Array]] = {
    # From gradient g and parameter p, both vectors; the papers' formulas at the first step.
    "sgd": lambda g, _: -0.01 * (g + 0.9 * g),
    "adam": lambda g, _: -0.001 * g / (np.abs(g) + 1e-8),
    "adamw": lambda g, p: -0.001 * (g / (np.abs(g) + 1e-8) + 1e-4 * p),
    "rmsprop": lambda g, _: -0.001 * g / np.sqrt(0.1 * g**2 + 1e-8),
    "adagrad": lambda g, _: -0.001 * g / np.sqrt(0.1 + g**2 + 1e-7),
    "adadelta": lambda g, _: -np.sqrt(1e-6) / np.sqrt(0.1 * g**2 + 1e-6) * g,
    "lamb": lambda g, p: -0.001 * _trusted(g / (np.abs(g) + 1e-6), p),
    "lion": lambda g, p: -1e-4 * (np.sign(g) + 1e-3 * p),
}


def _trusted(update: Array, p: Array) -> Array:
    """You et al. 2020: the update as long as the parameter."""
    return update * np.linalg.norm(p) / np.linalg.norm(update)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_first_step_of_each_optimiser_is_its_papers(name: str) -> None:
    rng = np.random.default_rng(0)
    g, p = rng.normal(size=5), rng.normal(size=5)
    optimizer = build_optimizer(train_spec(optimizer=name), steps=1)
    params = {"w": jnp.asarray(p, jnp.float32)}
    update = optimizer.update({"w": jnp.asarray(g, jnp.float32)}, optimizer.init(params), params)[0]
    np.testing.assert_allclose(update["w"], FIRST_STEPS[name](g, p), rtol=2e-5)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_options_are_those_of_optax_with_its_defaults(name: str) -> None:
    theirs = inspect.signature(getattr(optax, name)).parameters
    ours = {key: field.default for key, field in OPTIMIZERS[name].model_fields.items()}
    ours.pop("name")
    ours.pop("learning_rate")
    if name == "sgd":
        assert ours == {"momentum": 0.9, "nesterov": True}  # the post's, not optax's
    else:
        assert ours == {key: theirs[key].default or 0.0 for key in ours}  # None: no momentum


def _gradient_of_bowl(p: Array) -> Array:
    return np.array([3.0, 0.5, -1.0]) * p + np.array([1.0, -2.0, 0.25])


def _bowl_path(steps: int) -> Array:
    """The parameters after each step of the post's optimiser on a quadratic bowl."""
    optimizer = build_optimizer(train_spec(), steps=1)
    with jax.enable_x64(True):
        p = jnp.array([1.0, -1.0, 2.0])
        state, path = optimizer.init(p), []
        for _ in range(steps):
            update, state = optimizer.update(jnp.asarray(_gradient_of_bowl(p)), state, p)
            p = optax.apply_updates(p, update)
            path.append(np.asarray(p))
    return np.array(path)


def test_the_posts_optimiser_is_lasagnes_nesterov_momentum() -> None:
    """lasagne.updates.nesterov_momentum: v = m v - lr g; p += m v - lr g."""
    p, velocity, path = np.array([1.0, -1.0, 2.0]), np.zeros(3), []
    for _ in range(20):
        gradient = _gradient_of_bowl(p)
        velocity = 0.9 * velocity - 0.01 * gradient
        p = p + 0.9 * velocity - 0.01 * gradient
        path.append(p)
    np.testing.assert_allclose(_bowl_path(20), path, rtol=1e-12)


def test_the_posts_optimiser_is_pytorchs_nesterov_sgd() -> None:
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    p = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.01, momentum=0.9, nesterov=True)
    path = []
    for _ in range(20):
        p.grad = torch.tensor(_gradient_of_bowl(p.detach().numpy()))
        optimizer.step()
        path.append(p.detach().numpy().copy())
    np.testing.assert_allclose(_bowl_path(20), path, rtol=1e-12)


# The order of an epoch.


def test_an_epoch_visits_every_image_once() -> None:
    for num_images in (1, 2, 1000):
        order = epoch_order(3, 1, num_images)
        assert order.dtype == np.int32
        np.testing.assert_array_equal(np.sort(order), np.arange(num_images))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    orders = {epoch_order(seed, epoch, 50).tobytes() for seed in range(4) for epoch in range(1, 5)}
    assert len(orders) == 16  # also (1, 2) and (2, 1)
    np.testing.assert_array_equal(epoch_order(2, 5, 50), epoch_order(2, 5, 50))
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence([2, 5])))
    np.testing.assert_array_equal(epoch_order(2, 5, 50), stream.permutation(50))


# Steps.

CLASSES = 4


@functools.cache
def small_network() -> Network:
    layers: dict[str, dict[str, Any]] = {
        "conv": {"op": "conv", "filters": 3, "kernel": 2, "activation": "tanh"},
        "pool": {"op": "max_pool", "size": 2},
        "dense": {"op": "dense", "units": CLASSES},
    }
    plan = make_plan(layers, (5, 5, 1), (CLASSES,))
    return take_apart(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))


def some_arrays(num_images: int = 12) -> Arrays:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, 5, 5, 1), np.uint8)
    return Arrays(jnp.asarray(images), jnp.asarray(rng.integers(0, CLASSES, num_images, np.int32)))


def rules(microbatch: int | None) -> Rules:
    metrics = {"accuracy": per_image_metric("accuracy")}
    return Rules(Task.CLASSIFY, per_image_loss("cross_entropy"), metrics, 256.0, microbatch)


def step_of(network: Network, microbatch: int | None) -> Any:
    """A compiled step of SGD with learning rate one."""
    return jax.jit(
        functools.partial(
            train_step,
            graphdef=network.training,
            optimizer=optax.sgd(1.0),
            rules=rules(microbatch),
        )
    )


def start(network: Network) -> TrainState:
    return init_state(network, optax.sgd(1.0))


@pytest.mark.parametrize("microbatch", [1, 3, 7, 10])
def test_gradients_of_microbatches_are_those_of_the_batch(microbatch: int) -> None:
    network, indices = small_network(), jnp.array([4, 1, 11, 0, 7, 2, 9], jnp.int32)
    whole, loss = step_of(network, None)(start(network), some_arrays(), indices)
    parts, parts_loss = step_of(network, microbatch)(start(network), some_arrays(), indices)
    assert float(parts_loss) == pytest.approx(float(loss), rel=1e-6)
    for got, want, before in zip(
        *map(jax.tree.leaves, (parts.params, whole.params, network.params)), strict=True
    ):
        assert np.abs(want - before).max() > 1e-3
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_step_follows_the_mean_loss_of_its_images() -> None:
    """Loss and gradient of the last layer in NumPy, from what the network computes before it."""
    network, arrays = small_network(), some_arrays()
    indices = np.array([4, 1, 11, 0, 7, 2, 9])
    state, loss = step_of(network, 3)(start(network), arrays, jnp.asarray(indices, jnp.int32))
    logits, labels = _logits(network, arrays, indices), np.asarray(arrays.labels)[indices]
    assert float(loss) == pytest.approx(oracles.cross_entropy(logits, labels).mean(), rel=1e-5)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    change = (chances - np.eye(CLASSES)[labels]).mean(axis=0)
    moved = oracles.get_params(state.params)["dense"]["bias"]
    np.testing.assert_allclose(moved, -change, rtol=1e-4, atol=1e-6)


def _logits(network: Network, arrays: Arrays, indices: Array) -> Array:
    x = np.asarray(arrays.images)[indices] / 256
    weights = jax.tree.map(np.asarray, oracles.get_params(network.params))
    z = np.tanh(oracles.correlate(x, weights["conv"]["kernel"]) + weights["conv"]["bias"])
    pooled = oracles.pool_max(z, 2).reshape(len(x), -1)
    logits: Array = pooled @ weights["dense"]["kernel"] + weights["dense"]["bias"]
    return logits


@pytest.mark.parametrize("microbatch", [None, 3])
def test_evaluation_counts_the_images_of_weight_one(microbatch: int | None) -> None:
    network, arrays = small_network(), some_arrays()
    indices, weights = np.array([4, 1, 11, 0, 7, 2, 2, 2]), np.array([1, 1, 1, 1, 0, 1, 0, 0])
    evaluate = functools.partial(eval_step, graphdef=network.evaluation, rules=rules(microbatch))
    sums = jax.jit(evaluate)(
        network.params,
        network.rest,
        arrays,
        jnp.asarray(indices, jnp.int32),
        jnp.asarray(weights, jnp.float32),
    )
    kept = indices[weights == 1]
    logits, labels = _logits(network, arrays, kept), np.asarray(arrays.labels)[kept]
    assert set(sums) == {"loss", "accuracy"}
    assert float(sums["loss"]) == pytest.approx(oracles.cross_entropy(logits, labels).sum(), 1e-5)
    assert float(sums["accuracy"]) == (logits.argmax(axis=1) == labels).sum()


def test_outputs_are_the_networks_results_for_the_images_named() -> None:
    network, arrays, indices = small_network(), some_arrays(), np.array([3, 3, 8])
    got = outputs_of(
        network.params,
        network.rest,
        arrays,
        jnp.asarray(indices),
        graphdef=network.evaluation,
        rules=rules(None),
    )
    np.testing.assert_allclose(got, _logits(network, arrays, indices), rtol=1e-4, atol=1e-6)


# Dropout in training.

NUM_MASKED, PIXELS = 20, 25


def drawn_masks(microbatch: int | None, steps: int) -> list[Array]:
    """What dropout multiplied each pixel of each image with: (pixels, images) for each step.

    All pixels are one, image k has class k, and the kernel is zero, so that the
    softmax is uniform. The kernel's gradient for pixel p and class k is then
    (mean over the images of their masks at p - mask of image k at p) / num_images.
    """
    layers: dict[str, dict[str, Any]] = {
        "drop": {"op": "dropout", "rate": 0.5},
        "dense": {"op": "dense", "units": NUM_MASKED, "init": "zeros", "use_bias": False},
    }
    plan = make_plan(layers, (5, 5, 1), (NUM_MASKED,))
    network = take_apart(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))
    ones = Arrays(
        jnp.full((NUM_MASKED, 5, 5, 1), 256, jnp.int32), jnp.arange(NUM_MASKED, dtype=jnp.int32)
    )
    step, rest, masks = step_of(network, microbatch), network.rest, []
    for _ in range(steps):
        state = start(network)._replace(rest=rest)
        state, _ = step(state, ones, jnp.arange(NUM_MASKED, dtype=jnp.int32))
        rest = state.rest
        kernel = np.asarray(oracles.get_params(state.params)["dense"]["kernel"])  # -gradient
        masks.append((kernel - kernel.min(axis=1, keepdims=True)) * NUM_MASKED)
    return masks


@pytest.mark.parametrize("microbatch", [None, 1, 3])
def test_every_image_of_every_step_has_a_mask_of_its_own(microbatch: int | None) -> None:
    masks = drawn_masks(microbatch, steps=2)
    both = np.concatenate(masks, axis=1)
    np.testing.assert_allclose(both, 2 * np.round(both / 2), atol=1e-5)  # 0 or 1 / (1 - 0.5)
    both = np.round(both)
    assert set(np.unique(both)) == {0, 2}
    assert len(np.unique(both, axis=1).T) == 2 * NUM_MASKED
    # The expectation is kept: within five standard errors of one.
    assert abs(both.mean() - 1) < 5 / math.sqrt(both.size)


def test_batch_statistics_are_told_apart_from_other_state() -> None:
    def network(layers: dict[str, dict[str, Any]]) -> Network:
        plan = make_plan(layers, (5, 5, 1), (5, 5, 1))
        return take_apart(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))

    assert network({"norm": {"op": "batch_norm"}}).uses_batch_statistics
    assert not network({"drop": {"op": "dropout", "rate": 0.5}}).uses_batch_statistics


def test_a_step_moves_the_running_statistics() -> None:
    layers: dict[str, dict[str, Any]] = {
        "norm": {"op": "batch_norm", "momentum": 0.75},
        "dense": {"op": "dense", "units": CLASSES},
    }
    network = take_apart(
        GraphNet(make_plan(layers, (5, 5, 1), (CLASSES,)), form="direct", rngs=nnx.Rngs(0))
    )
    arrays, indices = some_arrays(), np.array([4, 1, 11, 0])
    state, _ = step_of(network, None)(start(network), arrays, jnp.asarray(indices, jnp.int32))
    x = np.asarray(arrays.images)[indices] / 256
    running = nnx.to_pure_dict(state.rest)["parts"]["norm"]
    np.testing.assert_allclose(running["mean"], [0.25 * x.mean()], rtol=1e-5)
    np.testing.assert_allclose(running["var"], [0.75 + 0.25 * x.var()], rtol=1e-5)
