"""The post's three networks against NumPy and PyTorch: outputs, losses and every gradient.

The oracles follow the post; the networks under test come from the experiment files, through the
plan, in every form, and through a training step.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnbench.graph.plan import Plan
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.ops import convolution
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.training.inference import outputs_of
from cnnbench.training.state import Arrays, TrainState, num_params, split_network
from cnnbench.training.step import make_rules, train_step
from tests.support import oracles
from tests.support.oracles import Array
from tests.support.paths import EXPERIMENTS

NAMES = tuple(oracles.NETWORKS)
NUM_IMAGES = 3
# XLA's convolution does not accept float32 images with float64 kernels; the others do.
CASES: tuple[tuple[str, convolution.EngineName, type], ...] = (
    *((name, "direct", np.float64) for name in NAMES),
    *((name, "fast", np.float64) for name in NAMES),
    *((name, "plain", np.float32) for name in NAMES),
    ("autoencoder", "direct", np.float32),
    *((name, "fast", np.float32) for name in NAMES),
)
TOLERANCE: Mapping[type, float] = {np.float64: 1e-9, np.float32: 2e-5}
# Winograd's sums cancel, so the error is relative to the norm of the whole gradient.
FAST_ERROR = 2e-4


def tolerance_of(form: convolution.EngineName, dtype: type) -> float:
    return FAST_ERROR if (form, dtype) == ("fast", np.float32) else TOLERANCE[dtype]


class Measured(NamedTuple):
    """Outputs, loss and gradients of a network for images and weights."""

    outputs: Array
    loss: float
    gradients: Mapping[str, Mapping[str, Array]]


@functools.cache
def loaded(name: str) -> Loaded:
    return load_experiment(EXPERIMENTS / f"{name}.yaml")


def plan_of(name: str) -> Plan:
    plan = loaded(name).plan
    assert plan is not None
    return plan


@functools.cache
def images_and_labels() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    shape = (NUM_IMAGES, 28, 28, 1)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, NUM_IMAGES, np.int32)


def keep_gradients() -> optax.GradientTransformation:
    """An optimizer that changes nothing and stores the gradients as its state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradients, _state, _params=None: (
            jax.tree.map(jnp.zeros_like, gradients),
            gradients,
        ),
    )


@functools.cache
def measured(name: str, form: convolution.EngineName, dtype: type) -> Measured:
    """The network under test, through the training and evaluation functions, without dropout."""
    network = split_network(GraphNet(plan_of(name), form=form, rngs=nnx.Rngs(0)))
    rules = make_rules(loaded(name).experiment, microbatch=None if form == "plain" else 2)
    optimizer = keep_gradients()

    @jax.jit
    def run(params: Any, arrays: Arrays, indices: jax.Array) -> Any:
        call = functools.partial(outputs_of, graphdef=network.evaluation, rules=rules)
        outputs = call(params, network.rest, arrays, indices)
        state = TrainState(params, network.rest, optimizer.init(params))
        state, loss = train_step(
            state, arrays, indices, graphdef=network.evaluation, optimizer=optimizer, rules=rules
        )
        return outputs, loss, state.opt_state

    with jax.enable_x64(dtype is np.float64):
        params = oracles.set_params(network.params, oracles.random_weights(name, 0), dtype)
        arrays = Arrays(*map(jnp.asarray, images_and_labels()))
        outputs, loss, gradients = run(params, arrays, jnp.arange(NUM_IMAGES))
        assert outputs.dtype == dtype
        return Measured(
            np.asarray(outputs),
            float(loss),
            jax.tree.map(np.asarray, oracles.get_params(gradients)),
        )


def numpy_loss(name: str, weights: oracles.Weights) -> tuple[Array, float]:
    images, labels = images_and_labels()
    x = images / 256
    outputs = oracles.NETWORKS[name](weights, x)
    if name == "autoencoder":
        return outputs, float(np.mean((outputs - x) ** 2))
    return outputs, float(np.mean(oracles.cross_entropy(outputs, labels)))


@pytest.mark.parametrize(("name", "form", "dtype"), CASES)
@pytest.mark.sampled(4)
def test_outputs_and_loss_match_numpy(name: str, form: convolution.EngineName, dtype: type) -> None:
    outputs, loss = numpy_loss(name, oracles.random_weights(name, 0))
    got = measured(name, form, dtype)
    tolerance = tolerance_of(form, dtype)
    np.testing.assert_allclose(got.outputs, outputs, rtol=tolerance, atol=tolerance)
    assert got.loss == pytest.approx(loss, rel=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_finite_differences_of_numpys_loss(name: str) -> None:
    """Central differences of the NumPy network, along random directions."""
    weights, step = oracles.random_weights(name, 0), 1e-6
    gradients = measured(name, "direct", np.float64).gradients
    for seed in (1, 2, 3):
        direction = oracles.random_weights(name, seed)
        ahead, behind = (
            numpy_loss(
                name, jax.tree.map(lambda w, d, s=sign: w + s * step * d, weights, direction)
            )[1]
            for sign in (1, -1)
        )
        slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradients, direction)))
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)


def torch_measured(name: str, dtype: type) -> Measured:
    """The post's networks in PyTorch: (n, c, h, w), flattened by channel as in Lasagne."""
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    functional = torch.nn.functional
    weights = jax.tree.map(
        lambda array: torch.tensor(array.astype(dtype), requires_grad=True),
        oracles.random_weights(name, 0),
    )

    def kernel(layer: str) -> Any:  # hwio -> oihw
        return weights[layer]["kernel"].permute(3, 2, 0, 1)

    def bias(layer: str) -> Any:
        return weights[layer]["bias"]

    def by_channel(matrix: Any, height: int, width: int) -> Any:  # rows: hwc -> chw
        return matrix.reshape(height, width, -1, matrix.shape[1]).permute(2, 0, 1, 3).flatten(0, 2)

    def pooled_conv(x: Any, layer: str, size: int, nonlinearity: Any) -> Any:
        z = functional.conv2d(x, kernel(layer), bias(layer))
        return functional.max_pool2d(nonlinearity(z), size)

    def dense(x: Any, layer: str, matrix: Any = None) -> Any:
        return functional.linear(
            x, (weights[layer]["kernel"] if matrix is None else matrix).T, bias(layer)
        )

    def trunk(x: Any) -> Any:
        x = pooled_conv(pooled_conv(x, "conv1", 2, torch.relu), "conv2", 2, torch.relu)
        matrix = by_channel(weights["dense1"]["kernel"], 4, 4)
        return torch.relu(dense(x.flatten(1), "dense1", matrix))

    def standard(x: Any) -> Any:
        return dense(trunk(x), "dense2")

    def modified(x: Any) -> Any:
        branch = pooled_conv(x, "conv1a", 5, torch.relu).flatten(1)
        matrix = weights["dense2"]["kernel"]
        matrix = torch.cat([matrix[:256], by_channel(matrix[256:], 3, 3)])
        return dense(torch.cat([trunk(x), branch], dim=1), "dense2", matrix)

    def autoencoder(x: Any) -> Any:
        x = pooled_conv(pooled_conv(x, "conv1", 2, torch.tanh), "conv2", 2, torch.tanh)
        matrix = by_channel(weights["code"]["kernel"], 4, 4)
        x = torch.tanh(dense(x.flatten(1), "code", matrix))
        x = torch.tanh(dense(x, "dense1")).reshape(-1, 4, 4, 32).permute(0, 3, 1, 2)
        for conv, deconv in (("conv2", "deconv2"), ("conv1", "deconv1")):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = torch.relu(functional.conv_transpose2d(x, kernel(conv), bias(deconv)))
        return x

    images, labels = images_and_labels()
    x = torch.tensor((images / 256).transpose(0, 3, 1, 2).astype(dtype))
    if name == "autoencoder":
        outputs = autoencoder(x)
        loss = functional.mse_loss(outputs, x)
        outputs = outputs.permute(0, 2, 3, 1)
    else:
        outputs = {"standard": standard, "modified": modified}[name](x)
        loss = functional.cross_entropy(outputs, torch.tensor(labels, dtype=torch.int64))
    loss.backward()
    return Measured(
        outputs.detach().numpy(),
        loss.item(),
        jax.tree.map(lambda tensor: tensor.grad.numpy(), weights),
    )


@pytest.mark.parametrize(("name", "form", "dtype"), CASES)
def test_outputs_and_gradients_match_pytorch(
    name: str, form: convolution.EngineName, dtype: type
) -> None:
    want = torch_measured(name, dtype)
    got, tolerance = measured(name, form, dtype), tolerance_of(form, dtype)
    np.testing.assert_allclose(got.outputs, want.outputs, rtol=tolerance, atol=tolerance)
    assert got.loss == pytest.approx(want.loss, rel=tolerance)
    for layer, names in oracles.random_weights(name, 0).items():
        assert set(got.gradients[layer]) == set(names)
        for key in names:
            wanted = want.gradients[layer][key]
            assert np.abs(wanted).max() > 0
            if tolerance == FAST_ERROR:
                error = np.linalg.norm(got.gradients[layer][key] - wanted)
                assert error < tolerance * np.linalg.norm(wanted), f"{layer}.{key}"
                continue
            np.testing.assert_allclose(
                got.gradients[layer][key],
                wanted,
                rtol=tolerance,
                atol=tolerance * np.abs(wanted).max(),
                err_msg=f"{layer}.{key}",
            )


@pytest.mark.parametrize(
    ("name", "count"), [("standard", 160_362), ("modified", 166_474), ("autoencoder", 289_409)]
)
def test_parameters_match_the_post(name: str, count: int) -> None:
    params = split_network(GraphNet(plan_of(name), form="direct", rngs=nnx.Rngs(0))).params
    shapes = jax.tree.map(jnp.shape, oracles.get_params(params), is_leaf=lambda x: x is None)
    assert shapes == {
        layer: {"bias": (num_biases,)} | ({"kernel": kernel} if kernel else {})
        for layer, (kernel, num_biases) in oracles.TABLES[name].items()
    }
    assert num_params(params) == plan_of(name).num_params == count


SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "standard": {
        "conv1": (24, 24, 32),
        "pool1": (12, 12, 32),
        "conv2": (8, 8, 32),
        "pool2": (4, 4, 32),
        "drop1": (4, 4, 32),
        "dense1": (256,),
        "drop2": (256,),
        "dense2": (10,),
    },
    "modified": {
        "conv1": (24, 24, 32),
        "pool1": (12, 12, 32),
        "conv2": (8, 8, 32),
        "pool2": (4, 4, 32),
        "drop1": (4, 4, 32),
        "dense1": (256,),
        "conv1a": (19, 19, 32),
        "pool1a": (3, 3, 32),
        "flat1a": (288,),
        "concat": (544,),
        "drop2": (544,),
        "dense2": (10,),
    },
    "autoencoder": {
        "conv1": (24, 24, 32),
        "pool1": (12, 12, 32),
        "conv2": (8, 8, 32),
        "pool2": (4, 4, 32),
        "flat": (512,),
        "drop1": (512,),
        "code": (256,),
        "drop2": (256,),
        "dense1": (512,),
        "unflat": (4, 4, 32),
        "up2": (8, 8, 32),
        "deconv2": (12, 12, 32),
        "up1": (24, 24, 32),
        "deconv1": (28, 28, 1),
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_shapes_match_the_post(name: str) -> None:
    assert {node.name: node.layout.shape for node in plan_of(name).nodes} == SHAPES[name]


@pytest.mark.parametrize("name", NAMES)
def test_dropout_matches_the_post(name: str) -> None:
    """Half of the last pool's values (and of the second-to-last layer's), nowhere else."""
    rates = {n.name: n.op.rate for n in plan_of(name).nodes if n.op.op == "dropout"}
    assert rates == {"drop1": 0.5, "drop2": 0.5}
