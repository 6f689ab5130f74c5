"""Training and evaluation steps against NumPy, against each other, and on two devices."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh
from scipy import special

from cnnbench.data.scaling import Scaling
from cnnbench.nn.augment import first_stream
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.microbatch import Microbatching
from cnnbench.nn.ops import convolution
from cnnbench.nn.result import Result
from cnnbench.spec.experiment import Augment, Task
from cnnbench.system.devices import make_mesh, pick_devices
from cnnbench.training import losses
from cnnbench.training.inference import outputs_of
from cnnbench.training.losses import per_image_loss, per_image_metric
from cnnbench.training.state import (
    Arrays,
    Network,
    TrainState,
    init_state,
    num_params,
    split_network,
    values_of,
    weights_of,
    with_weights,
)
from cnnbench.training.step import StepConfig, eval_step, train_step
from tests.support import oracles
from tests.support.engines import USABLE
from tests.support.oracles import Array, make_plan

CLASSES = 4
Layers = dict[str, dict[str, Any]]
SMALL: Layers = {
    "conv": {"op": "conv", "filters": 3, "kernel": 2, "activation": "tanh"},
    "pool": {"op": "max_pool", "size": 2},
    "dense": {"op": "dense", "units": CLASSES},
}
NETWORKS: dict[str, Layers] = {
    "small": SMALL,
    "dropped": {
        "drop": {"op": "dropout", "rate": 0.5},
        "noise": {"op": "gaussian_noise", "stddev": 0.3},
        "conv": {"op": "conv", "filters": 4, "kernel": 2, "activation": "tanh"},
        "maps": {"op": "spatial_dropout", "rate": 0.25},
        "mask": {"op": "masking_noise", "rate": 0.3},
        "mean": {"op": "dense", "units": 6, "inputs": "mask"},
        "spread": {"op": "dense", "units": 6, "inputs": "mask"},
        "sample": {"op": "sample", "inputs": ["mean", "spread"]},
        "drop2": {"op": "dropout", "rate": 0.25},
        "path": {"op": "drop_path", "rate": 0.25},
        "dense": {"op": "dense", "units": CLASSES},
    },
    "normed": {
        "conv": {"op": "conv", "filters": 3, "kernel": 2},
        "norm": {"op": "batch_norm", "momentum": 0.75},
        "relu": {"op": "activation", "activation": "relu"},
        "pool": {"op": "max_pool", "size": 2},
        "flat": {"op": "flatten"},
        "norm2": {"op": "batch_norm", "momentum": 0.5},
        "dense": {"op": "dense", "units": CLASSES},
    },
    "frozen": {
        "conv": {"op": "conv", "filters": 3, "kernel": 2, "trainable": False},
        "still": {"op": "batch_norm", "epsilon": 0.1, "trainable": False},
        "conv2": {"op": "conv", "filters": 3, "kernel": 2, "activation": "relu"},
        "norm": {"op": "batch_norm", "momentum": 0.75},
        "vector": {"op": "dense", "units": 6, "trainable": False, "bias_init": "variance_scaling"},
        "still2": {"op": "batch_norm", "trainable": False},
        "dense": {"op": "dense", "units": CLASSES},
    },
}


def mesh_of(num_devices: int) -> Mesh | None:
    devices = pick_devices("cpu")
    assert len(devices) >= num_devices
    return make_mesh(devices[:num_devices])


@functools.cache
def small_network() -> Network:
    plan = make_plan(SMALL, (5, 5, 1), (CLASSES,))
    return split_network(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))


def some_arrays(num_images: int = 12) -> Arrays:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, 5, 5, 1), np.uint8)
    return Arrays(jnp.asarray(images), jnp.asarray(rng.integers(0, CLASSES, num_images, np.int32)))


def rules(microbatch: int | None, mesh: Mesh | None = None) -> StepConfig:
    loss = per_image_loss("cross_entropy")

    def loss_of(result: Result, targets: jax.Array) -> jax.Array:
        return loss(result.output, targets)

    def accuracy_of(result: Result, targets: jax.Array) -> jax.Array:
        return per_image_metric("accuracy", result, targets, data_range=1.0)

    metrics = {"accuracy": accuracy_of}
    return StepConfig(Task.CLASSIFY, loss_of, metrics, Scaling(256.0), microbatch, True, mesh)


def step_of(network: Network, microbatch: int | None, mesh: Mesh | None = None) -> Any:
    """A compiled step of SGD with learning rate one."""
    return jax.jit(
        functools.partial(
            train_step,
            graphdef=network.training,
            optimizer=optax.sgd(1.0),
            rules=rules(microbatch, mesh),
        )
    )


def start(network: Network) -> TrainState:
    return init_state(network, optax.sgd(1.0))


# bfloat16.


def test_bfloat16_results_are_of_rounded_values() -> None:
    """NumPy with images, kernel, sums of products and bias rounded to the dtype's 8 bits."""
    plan = make_plan({"dense": {"op": "dense", "units": CLASSES}}, (5, 5, 1), (CLASSES,))
    network = split_network(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))
    bfloat16 = rules(None)._replace(dtype=jnp.bfloat16)
    arrays = some_arrays()
    call = functools.partial(outputs_of, graphdef=network.evaluation, rules=bfloat16)
    got = jax.jit(call)(network.params, network.rest, arrays, jnp.arange(12))
    assert got.dtype == jnp.float32

    def rounded(x: Any) -> Array:
        bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
        half = 0x7FFF + (bits >> 16 & 1)  # to nearest, ties to even
        return ((bits + half) >> 16 << 16).astype(np.uint32).view(np.float32)

    kernel = oracles.get_params(network.params)["dense"]["kernel"]
    images = rounded(np.asarray(arrays.images, np.float32) / 256).reshape(12, -1)
    want = images.astype(np.float64) @ rounded(kernel)
    # One rounding of the sum, to 8 bits; the summation order is the library's.
    np.testing.assert_allclose(got, want, rtol=2**-8, atol=1e-6)
    assert np.abs(np.asarray(got) - want).max() > 0


@pytest.mark.parametrize("microbatch", [None, 3])
def test_a_step_in_bfloat16_keeps_everything_in_float32(microbatch: int | None) -> None:
    """Gradients differ by a few thousandths, also when summed over rows."""
    network, arrays, indices = small_network(), some_arrays(), jnp.arange(12)
    moved = []
    for dtype in (None, jnp.bfloat16):
        step = functools.partial(
            train_step,
            graphdef=network.training,
            optimizer=optax.sgd(1.0),
            rules=rules(microbatch)._replace(dtype=dtype),
        )
        state = init_state(network, optax.sgd(1.0))
        after, loss = jax.jit(step)(state, arrays, indices)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((after.params, loss)))
        moves = jax.tree.map(lambda a, b: np.ravel(a - b), after.params, network.params)
        moved.append(np.concatenate(jax.tree.leaves(moves)))
    exact, rough = moved
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.02


def test_statistics_of_batch_norm_stay_in_float32() -> None:
    layers: Layers = {
        "norm": {"op": "batch_norm"},
        "dense": {"op": "dense", "units": CLASSES},
    }
    plan = make_plan(layers, (5, 5, 1), (CLASSES,))
    network = split_network(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))
    found = []
    for dtype in (None, jnp.bfloat16):
        step = functools.partial(
            train_step,
            graphdef=network.training,
            optimizer=optax.sgd(0.1),
            rules=rules(None)._replace(dtype=dtype),
        )
        state, _ = jax.jit(step)(init_state(network, optax.sgd(0.1)), some_arrays(), jnp.arange(12))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.rest))
        found.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.rest)]))
    np.testing.assert_allclose(found[1], found[0], rtol=0.01)


# Augmentation.


@pytest.mark.parametrize(("microbatch", "num_devices"), [(3, 1), (4, 2), (None, 2)])
@pytest.mark.sampled(1)
def test_augmented_images_are_independent_of_microbatches_and_devices(
    microbatch: int | None, num_devices: int
) -> None:
    spec = Augment.model_validate(
        {
            "random_crop": {"padding": 2, "mode": "reflect"},
            "random_translation": {"pixels": 1},
            "random_flip": "horizontal",
            "rand_augment": {"magnitude": 15},
            "random_rotation": {"degrees": 20},
            "random_erasing": {},
            "mixup": {"alpha": 1.0},
            "cutmix": {},
        }
    )
    network = small_network()._replace(stream=first_stream(3))
    indices = jnp.arange(12) if microbatch is None else jnp.array([4, 1, 11, 0, 7, 2, 9], jnp.int32)
    all_losses = []
    for rows, mesh in ((None, None), (microbatch, mesh_of(num_devices))):
        step = jax.jit(
            functools.partial(
                train_step,
                graphdef=network.training,
                optimizer=optax.sgd(0.1),
                rules=rules(rows, mesh)._replace(augment=spec),
            )
        )
        state, found = start(network), []
        for _ in range(3):
            state, loss = step(state, some_arrays(), indices)
            found.append(float(loss))
        all_losses.append(found)
        assert state.stream is not None
        assert int(state.stream.step) == 3
    assert all_losses[1] == pytest.approx(all_losses[0], rel=1e-5)


def test_without_augmentation_nothing_is_drawn() -> None:
    network = small_network()
    assert "stream" not in "".join(values_of(start(network)))
    program = str(jax.make_jaxpr(step_of(network, 3))(start(network), some_arrays(), jnp.arange(7)))
    assert "random" not in program
    assert "threefry" not in program


@functools.cache
def small_step(microbatch: int | None) -> Any:
    """State and loss of the small network after a step on seven images."""
    network, indices = small_network(), jnp.array([4, 1, 11, 0, 7, 2, 9], jnp.int32)
    return step_of(network, microbatch)(start(network), some_arrays(), indices)


@pytest.mark.parametrize("microbatch", [1, 3, 7, 10])
def test_gradients_of_microbatches_are_those_of_the_batch(microbatch: int) -> None:
    network = small_network()
    whole, loss = small_step(None)
    parts, parts_loss = small_step(microbatch)
    assert float(parts_loss) == pytest.approx(float(loss), rel=1e-6)
    for got, want, before in zip(
        *map(jax.tree.leaves, (parts.params, whole.params, network.params)), strict=True
    ):
        assert np.abs(want - before).max() > 1e-3
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_step_uses_the_mean_loss_of_its_images() -> None:
    """Loss and gradient of the last layer in NumPy, from the network's earlier activations."""
    network, arrays = small_network(), some_arrays()
    indices = np.array([4, 1, 11, 0, 7, 2, 9])
    state, loss = small_step(3)
    logits, labels = _logits(network, arrays, indices), np.asarray(arrays.labels)[indices]
    assert float(loss) == pytest.approx(oracles.cross_entropy(logits, labels).mean(), rel=1e-5)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    change = (chances - np.eye(CLASSES)[labels]).mean(axis=0)
    moved = oracles.get_params(state.params)["dense"]["bias"]
    np.testing.assert_allclose(moved, -change, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize(("microbatch", "num_devices"), [(None, 1), (3, 2)])
def test_a_step_with_class_weights_is_pytorchs(
    microbatch: int | None, num_devices: int, smoothing: float
) -> None:
    """Loss and gradient of the last layer, from the network's earlier activations."""
    torch = pytest.importorskip("torch", reason="needs the peers extra")
    network, arrays, weights = small_network(), some_arrays(), (0.2, 1.0, 5.0, 2.0)
    indices = np.array([4, 1, 11, 0, 7, 2, 9])
    state, loss = _weighted_step(network, weights, smoothing, microbatch, num_devices)
    logits = torch.tensor(_logits(network, arrays, indices), requires_grad=True)
    labels = torch.tensor(np.asarray(arrays.labels)[indices]).long()
    weight = torch.tensor(weights, dtype=logits.dtype)
    want = torch.nn.CrossEntropyLoss(weight, label_smoothing=smoothing)(logits, labels)
    assert float(loss) == pytest.approx(want.item(), rel=1e-5)
    want.backward()
    moved = oracles.get_params(state.params)["dense"]["bias"]
    np.testing.assert_allclose(moved, -logits.grad.sum(axis=0), rtol=1e-4, atol=1e-6)


def _weighted_step(
    network: Network,
    weights: tuple[float, ...],
    smoothing: float,
    microbatch: int | None,
    num_devices: int = 1,
    augment: Augment | None = None,
) -> Any:
    """State and loss after a step of SGD with learning rate one on seven images."""
    score = functools.partial(
        losses.weighted_cross_entropy, smoothing=smoothing, class_weights=weights
    )
    how = rules(microbatch, mesh_of(num_devices))._replace(
        loss=lambda result, targets: score(result.output, targets),
        class_weights=weights,
        augment=augment,
    )
    step = functools.partial(
        train_step, graphdef=network.training, optimizer=optax.sgd(1.0), rules=how
    )
    indices = jnp.array([4, 1, 11, 0, 7, 2, 9], jnp.int32)
    return jax.jit(step)(start(network), some_arrays(), indices)


def test_soft_labels_with_class_weights_are_averaged_over_images() -> None:
    """As in PyTorch: twice the weights give twice the loss, other than with hard labels."""
    network = small_network()._replace(stream=first_stream(3))
    spec = Augment.model_validate({"mixup": {"alpha": 1.0}})
    for augment, factor in ((None, 1), (spec, 2)):
        (_, one), (_, two) = (
            _weighted_step(network, (value,) * CLASSES, 0.1, 3, augment=augment)
            for value in (1.0, 2.0)
        )
        assert float(two) == pytest.approx(factor * float(one), rel=1e-6)


def _logits(network: Network, arrays: Arrays, indices: Array) -> Array:
    x = np.asarray(arrays.images)[indices] / 256
    weights = jax.tree.map(np.asarray, oracles.get_params(network.params))
    z = np.tanh(oracles.correlate(x, weights["conv"]["kernel"]) + weights["conv"]["bias"])
    pooled = oracles.pool_max(z, 2).reshape(len(x), -1)
    logits: Array = pooled @ weights["dense"]["kernel"] + weights["dense"]["bias"]
    return logits


@pytest.mark.parametrize("microbatch", [None, 3])
def test_evaluation_averages_the_logits_of_views(microbatch: int | None) -> None:
    network, arrays, indices = small_network(), some_arrays(), np.arange(7)
    images = np.asarray(arrays.images)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    logits = {}
    for name, view in (("same", images), ("up", padded[:, :5, :5]), ("down", padded[:, 2:, 2:])):
        both = [arrays._replace(images=jnp.asarray(x)) for x in (view, view[:, :, ::-1])]
        logits[name] = np.mean([_logits(network, x, indices) for x in both], axis=0)
    whole = 0.5 * logits["same"] + 0.25 * (logits["up"] + logits["down"])
    for augment, want in (("flip", logits["same"]), ("flip_translate", whole)):
        how = rules(microbatch)._replace(test_augment=augment)
        evaluate = functools.partial(eval_step, graphdef=network.evaluation, rules=how)
        evaluated = jax.jit(evaluate)(network.params, network.rest, arrays, indices, np.ones(7))
        sums = evaluated.sums
        labels = np.asarray(arrays.labels)[indices]
        losses_of_images = oracles.cross_entropy(want, labels)
        assert float(sums["loss"]) == pytest.approx(losses_of_images.sum(), rel=1e-5)
        assert float(sums["accuracy"]) == (want.argmax(axis=1) == labels).sum()


@pytest.mark.parametrize(("microbatch", "num_devices"), [(None, 1), (3, 1), (3, 2), (4, 2)])
def test_evaluation_counts_the_images_of_weight_one(
    microbatch: int | None, num_devices: int
) -> None:
    network, arrays = small_network(), some_arrays()
    indices, weights = np.array([4, 1, 11, 0, 7, 2, 2, 2]), np.array([1, 1, 1, 1, 0, 1, 0, 0])
    how = rules(microbatch, mesh_of(num_devices))._replace(gathers=True)
    evaluate = functools.partial(eval_step, graphdef=network.evaluation, rules=how)
    sums, values, of_images = jax.jit(evaluate)(
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
    # Values of all images, padding included, in the order of the indices.
    logits, labels = _logits(network, arrays, indices), np.asarray(arrays.labels)[indices]
    np.testing.assert_array_equal(values.labels, labels)
    np.testing.assert_array_equal(values.classes, logits.argmax(axis=1))
    chances = special.softmax(logits, axis=1).max(axis=1)
    np.testing.assert_allclose(values.confidences, chances, rtol=1e-5)
    np.testing.assert_array_equal(of_images["accuracy"], logits.argmax(axis=1) == labels)
    losses = [
        oracles.cross_entropy(row[None], labels[i : i + 1])[0] for i, row in enumerate(logits)
    ]
    np.testing.assert_allclose(of_images["loss"], losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "row"),
    [("plain", 3), ("whole", 3), *((form, 3) for form in USABLE), ("direct", 4), ("fast", 1)],
)
def test_evaluation_samples_the_code_of_an_image_by_its_index(
    form: convolution.EngineName, row: int | None
) -> None:
    """For every engine, in rows, on two devices, and whatever the rest of the batch."""
    plan = make_plan(NETWORKS["dropped"], (5, 5, 1), (CLASSES,))
    arrays = some_arrays()

    def loss(
        images: list[int],
        form: convolution.EngineName = "plain",
        row: int | None = None,
        devices: int = 1,
        mode: str = "scoring",
    ) -> float:
        network = split_network(GraphNet(plan, form=form, rngs=nnx.Rngs(0)))
        how, graphdef = rules(row, mesh_of(devices)), getattr(network, mode)
        evaluate = jax.jit(functools.partial(eval_step, graphdef=graphdef, rules=how))
        indices, weights = jnp.asarray(images, jnp.int32), jnp.ones(len(images))
        return float(evaluate(network.params, network.rest, arrays, indices, weights).sums["loss"])

    want = loss([4, 1, 11, 0, 7, 2])
    assert loss([4, 1, 11, 0, 7, 2], mode="evaluation") != pytest.approx(want, rel=1e-3)
    for devices in (1, 2):
        assert loss([4, 1, 11, 0, 7, 2], form, row, devices) == pytest.approx(want, rel=1e-5)
    assert loss([0, 11], form, row) + loss([1, 2, 4, 7]) == pytest.approx(want, rel=1e-5)


def test_outputs_are_computed_for_the_given_indices() -> None:
    network, arrays, indices = small_network(), some_arrays(), np.array([3, 3, 8])
    call = functools.partial(outputs_of, graphdef=network.evaluation, rules=rules(None))
    got = jax.jit(call)(network.params, network.rest, arrays, jnp.asarray(indices))
    np.testing.assert_allclose(got, _logits(network, arrays, indices), rtol=1e-4, atol=1e-6)


# Dropout in training.

NUM_MASKED, PIXELS = 20, 25
WAYS: list[tuple[int | None, int]] = [(None, 1), (1, 1), (3, 1), (10, 2), (3, 2), (None, 2)]


def drawn_masks(microbatch: int | None, steps: int, mesh: Mesh | None = None) -> list[Array]:
    """Dropout factors of each pixel of each image, (pixels, images), for each step.

    All pixels are one, image k has class k, and the kernel is zero, so that the
    softmax is uniform. The kernel's gradient for pixel p and class k is then
    (mean over the images of their masks at p - mask of image k at p) / num_images.
    """
    layers: Layers = {
        "drop": {"op": "dropout", "rate": 0.5},
        "dense": {"op": "dense", "units": NUM_MASKED, "init": "zeros", "use_bias": False},
    }
    plan = make_plan(layers, (5, 5, 1), (NUM_MASKED,))
    network = split_network(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))
    ones = Arrays(
        jnp.full((NUM_MASKED, 5, 5, 1), 256, jnp.int32), jnp.arange(NUM_MASKED, dtype=jnp.int32)
    )
    step, rest, masks = step_of(network, microbatch, mesh), network.rest, []
    for _ in range(steps):
        state = start(network)._replace(rest=rest)
        state, _ = step(state, ones, jnp.arange(NUM_MASKED, dtype=jnp.int32))
        rest = state.rest
        kernel = np.asarray(oracles.get_params(state.params)["dense"]["kernel"])  # -gradient
        masks.append((kernel - kernel.min(axis=1, keepdims=True)) * NUM_MASKED)
    return masks


@pytest.mark.parametrize(("microbatch", "num_devices"), WAYS[1:])
def test_dropout_masks_do_not_depend_on_the_micro_batch_size(
    microbatch: int | None, num_devices: int
) -> None:
    masks = drawn_masks(microbatch, 2, mesh_of(num_devices))
    for got, want in zip(masks, drawn_masks(None, 2), strict=True):
        np.testing.assert_array_equal(np.round(got), np.round(want))


@pytest.mark.parametrize(("microbatch", "num_devices"), WAYS)
def test_every_image_of_every_step_has_its_own_mask(
    microbatch: int | None, num_devices: int
) -> None:
    """In both steps and on both devices."""
    masks = drawn_masks(microbatch, 2, mesh_of(num_devices))
    both = np.concatenate(masks, axis=1)
    np.testing.assert_allclose(both, 2 * np.round(both / 2), atol=1e-5)  # 0 or 1 / (1 - 0.5)
    both = np.round(both)
    assert set(np.unique(both)) == {0, 2}
    assert len(np.unique(both, axis=1).T) == 2 * NUM_MASKED
    # The expectation is preserved: within five standard errors of one.
    assert abs(both.mean() - 1) < 5 / math.sqrt(both.size)


def test_a_step_updates_the_running_statistics() -> None:
    layers: Layers = {
        "norm": {"op": "batch_norm", "momentum": 0.75},
        "dense": {"op": "dense", "units": CLASSES},
    }
    network = split_network(
        GraphNet(make_plan(layers, (5, 5, 1), (CLASSES,)), form="direct", rngs=nnx.Rngs(0))
    )
    arrays, indices = some_arrays(), np.array([4, 1, 11, 0])
    state, _ = step_of(network, None)(start(network), arrays, jnp.asarray(indices, jnp.int32))
    x = np.asarray(arrays.images)[indices] / 256
    running = nnx.to_pure_dict(state.rest)["parts"]["norm"]
    np.testing.assert_allclose(running["mean"], [0.25 * x.mean()], rtol=1e-5)
    np.testing.assert_allclose(running["var"], [0.75 + 0.25 * x.var()], rtol=1e-5)


# Several devices.


@functools.cache
def stepped(
    name: str,
    form: convolution.EngineName,
    row: int | None,
    num_devices: int,
    *,
    cut: bool = False,
) -> Any:
    """Parameters, other state and loss after two steps on eight images."""
    mesh = mesh_of(num_devices)
    plan = make_plan(NETWORKS[name], (5, 5, 1), (CLASSES,))
    how = Microbatching(row, mesh) if cut and row else None
    network = split_network(GraphNet(plan, form=form, rngs=nnx.Rngs(0), cut=how))
    step = step_of(network, None, None) if cut else step_of(network, row, mesh)
    state, arrays, losses = start(network), some_arrays(), []
    for indices in ([4, 1, 11, 0, 7, 2, 9, 3], [5, 6, 8, 10, 0, 1, 2, 4]):
        state, loss = step(state, arrays, jnp.array(indices, jnp.int32))
        losses.append(loss)
    found = (nnx.to_pure_dict(state.params), nnx.to_pure_dict(state.rest), losses)
    return jax.tree.map(_as_numpy, found)


def _as_numpy(value: jax.Array) -> Array:
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if is_key else value)


def check_same(got: Any, want: Any, before: Any) -> None:
    moved = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (want[0], before)), strict=True)
    ]
    assert max(moved) > 1e-2
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@functools.cache
def initial(name: str) -> Any:
    plan = make_plan(NETWORKS[name], (5, 5, 1), (CLASSES,))
    network = split_network(GraphNet(plan, form="plain", rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(network.params)


@pytest.mark.parametrize(
    ("form", "row"), [("direct", 4), ("direct", 3), ("direct", 2), ("direct", 25), ("plain", None)]
)
def test_a_step_on_two_devices_equals_one_device(
    form: convolution.EngineName, row: int | None
) -> None:
    """Also with padded rows, and with a device that has only padding."""
    want = stepped("small", "plain", None, 1)
    check_same(stepped("small", form, row, 2), want, initial("small"))


@pytest.mark.parametrize(
    ("form", "row", "num_devices"),
    [("direct", 4, 2), ("direct", 2, 2), ("direct", 8, 2), ("direct", 2, 1)],
)
def test_batch_norm_in_rows_has_the_statistics_of_the_batch(
    form: convolution.EngineName, row: int, num_devices: int
) -> None:
    want = stepped("normed", "plain", None, 1)
    check_same(stepped("normed", form, row, num_devices, cut=True), want, initial("normed"))


def test_batch_norm_sharded_by_xla_has_the_statistics_of_the_batch() -> None:
    want = stepped("normed", "plain", None, 1)
    check_same(stepped("normed", "plain", None, 2), want, initial("normed"))


# Frozen layers.


@pytest.mark.parametrize(
    ("form", "row", "num_devices", "cut"),
    [("fast", None, 2, False), ("direct", 4, 2, True)],
)
def test_frozen_layers_are_the_same_for_every_strategy(
    form: convolution.EngineName, row: int | None, num_devices: int, cut: bool
) -> None:
    want = stepped("frozen", "plain", None, 1)
    check_same(stepped("frozen", form, row, num_devices, cut=cut), want, initial("frozen"))


def test_the_others_are_trained_as_if_frozen_layers_were_constants() -> None:
    """The first step of AdamW, with weight decay, moves them as it does without frozen layers."""
    layers: Layers = {
        "conv": {"op": "conv", "filters": 3, "kernel": 2, "activation": "tanh"},
        "inner": {"op": "dense", "units": 6, "activation": "tanh"},
        "dense": {"op": "dense", "units": CLASSES},
    }
    steps: list[Any] = []
    for frozen in ((), ("inner",), ("conv", "dense")):
        chosen = {
            name: op | ({"trainable": False} if name in frozen else {})
            for name, op in layers.items()
        }
        plan = make_plan(chosen, (5, 5, 1), (CLASSES,))
        network = split_network(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))
        assert plan.num_frozen == plan.num_params - num_params(network.params)
        optimizer = optax.adamw(0.1, weight_decay=0.5)
        step = functools.partial(
            train_step, graphdef=network.training, optimizer=optimizer, rules=rules(3)
        )
        state, arrays = init_state(network, optimizer), some_arrays()
        before = weights_of(state.params, state.rest, layers=True)
        after, loss = jax.jit(step)(state, arrays, jnp.arange(12))
        moved = weights_of(after.params, after.rest, layers=True)
        steps.append((loss, moved))
        assert set(moved) == set(steps[0][1])
        for name, value in moved.items():
            if name.partition(".")[0] in frozen:
                np.testing.assert_array_equal(value, before[name])
            else:
                np.testing.assert_allclose(value, steps[0][1][name], rtol=1e-5, atol=1e-6)
                assert (value != before[name]).any()
        assert float(loss) == pytest.approx(float(steps[0][0]), rel=1e-6)


def test_a_frozen_batch_norm_is_in_inference_mode() -> None:
    """Equal to a trained one in evaluation, with any running statistics, and not updated."""
    plans = [
        make_plan({"norm": {"op": "batch_norm", "epsilon": 0.1} | keys}, (3, 2, 4), (3, 2, 4))
        for keys in ({}, {"trainable": False})
    ]
    rng = np.random.default_rng(0)
    weights = {f"norm.{key}": rng.uniform(0.5, 2, 4).astype("f4") for key in ("scale", "bias")}
    weights |= {f"norm.{key}": rng.uniform(0.5, 2, 4).astype("f4") for key in ("mean", "var")}
    x = jnp.asarray(rng.normal(size=(5, 3, 2, 4)), jnp.float32)
    for form in ("plain", "direct"):
        networks = [split_network(GraphNet(plan, form=form, rngs=nnx.Rngs(0))) for plan in plans]
        trained, frozen = (
            with_weights(network, weights, layers=True, where="test") for network in networks
        )
        assert trained.uses_batch_statistics
        assert not frozen.uses_batch_statistics
        want = nnx.merge(trained.evaluation, trained.params, trained.rest, copy=True)(x)
        for mode in (frozen.training, frozen.evaluation):
            model = nnx.merge(mode, frozen.params, frozen.rest, copy=True)
            np.testing.assert_allclose(model(x), want, rtol=1e-5, atol=1e-6)
        assert weights_of(frozen.params, frozen.rest, layers=True).keys() == weights.keys()


@pytest.mark.parametrize(
    ("form", "row"),
    [("plain", None), ("whole", 6), *((form, 6) for form in USABLE), ("direct", 4), ("fast", 3)],
)
@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.sampled(3)
def test_dropout_is_the_same_for_every_strategy(
    form: convolution.EngineName, row: int | None, num_devices: int
) -> None:
    """Masks of images and vectors; a layer's key is constant, and its count counts the steps."""
    want, got = stepped("dropped", "plain", None, 1), stepped("dropped", form, row, num_devices)
    check_same(got, want, initial("dropped"))
    for part in got[1]["parts"].values():
        assert [leaf for leaf in jax.tree.leaves(part) if not leaf.ndim] == [2]
