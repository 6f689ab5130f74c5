"""Every operation's rule against autodiff, PyTorch and SciPy; the post's claims on rotation."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
from scipy import signal, special

from cnnbench.gradcheck import worked_example
from cnnbench.gradcheck.autodiff import Reference
from cnnbench.gradcheck.backprop import (
    ReferenceNetwork,
    feedforward,
    forward_and_backward,
    output_error,
    rule_of,
)
from cnnbench.gradcheck.check import TOLERANCES
from cnnbench.gradcheck.losses import Objective, divergence, divergence_gradient
from cnnbench.graph.plan import Plan
from cnnbench.layers import OPERATIONS
from cnnbench.layers.activation import ACTIVATION_NAMES, KINKS, sigma, sigma_prime
from cnnbench.layers.base import Shape
from cnnbench.layers.correlation import (
    ConvGeometry,
    convolve_full,
    correlate,
    kernel_gradient,
    rot180,
)
from cnnbench.layers.noise import sample_rule
from cnnbench.nn.graph_net import ACTIVATIONS
from cnnbench.nn.result import Result
from cnnbench.spec.experiment import LOSSES
from cnnbench.training.losses import per_image_loss
from tests.support.oracles import Array, make_plan

Layers = Mapping[str, Mapping[str, Any]]
NUM_IMAGES = 3


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def one_channel(array: Array) -> Array:
    return array[None, :, :, None]


# The post's claims, on single channels, against SciPy's convolutions.


def test_feedforward_is_a_valid_correlation() -> None:
    """Equation (4), and the flipped kernel of frameworks."""
    a, w = normal(0, 7, 6), normal(1, 3, 2)
    z = correlate(one_channel(a), w[:, :, None, None], ConvGeometry((7, 6), w.shape))[0, :, :, 0]
    np.testing.assert_allclose(z, signal.correlate2d(a, w, "valid"), rtol=1e-12)
    np.testing.assert_allclose(z, signal.convolve2d(a, np.rot90(w, 2), "valid"), rtol=1e-12)
    np.testing.assert_allclose(
        worked_example.convolve_valid(a, w), signal.convolve2d(a, w, "valid"), rtol=1e-12
    )


def test_error_flows_back_as_a_full_convolution_with_the_rotated_kernel() -> None:
    """Equations (5) to (9), for the post's convolution, which flips, and for ours."""
    a, w, delta = normal(0, 7, 6), normal(1, 3, 2), normal(2, 5, 5)
    with jax.enable_x64(True):
        pull = jax.vjp(lambda x: jax.scipy.signal.convolve2d(x, w, "valid"), a)[1]
        flips = pull(delta)[0]
    posts = signal.convolve2d(delta, np.rot90(w, 2), "full")
    np.testing.assert_allclose(posts, flips, rtol=1e-12, atol=1e-14)
    back = convolve_full(one_channel(delta), w[:, :, None, None], ConvGeometry((7, 6), w.shape))[
        0, :, :, 0
    ]
    np.testing.assert_allclose(back, signal.correlate2d(delta, rot180(w), "full"), rtol=1e-12)
    # The sums of the derivation, index by index: x' = x - a, y' = y - b.
    sums = np.zeros_like(a)
    for x, y in np.ndindex(a.shape):
        for p, q in np.ndindex(w.shape):
            if 0 <= x - p < 5 and 0 <= y - q < 5:
                sums[x, y] += delta[x - p, y - q] * w[p, q]
    np.testing.assert_allclose(back, sums, rtol=1e-12, atol=1e-14)


def test_rot180_is_index_negation() -> None:
    """Equation (10), counted from the end of an array."""
    w = normal(0, 3, 4)
    negated = np.array([[w[-x - 1, -y - 1] for y in range(4)] for x in range(3)])
    np.testing.assert_array_equal(rot180(w), negated)
    np.testing.assert_array_equal(rot180(rot180(w)), w)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_rotating_z_inside_sigma_is_rotating_a(name: Any) -> None:
    """Equation (11): the post's delta * sigma(ROT180(z)) is delta * ROT180(a)."""
    z = normal(0, 6, 5)
    np.testing.assert_array_equal(sigma(name, rot180(z)), rot180(sigma(name, z)))


def test_kernel_gradient_is_a_valid_convolution_with_the_rotated_layer() -> None:
    """Equation (11): right for the post's flipped kernel; rotated once more for ours."""
    a, delta = normal(0, 7, 6), normal(1, 5, 5)
    ours = kernel_gradient(
        one_channel(a), one_channel(delta), (3, 2, 1, 1), ConvGeometry((7, 6), (3, 2))
    )
    posts = signal.convolve2d(rot180(a), delta, "valid")
    np.testing.assert_allclose(ours[:, :, 0, 0], rot180(posts), rtol=1e-12)
    # Without rotation the shape is the same, but the values differ.
    assert np.abs(signal.convolve2d(a, delta, "valid") - posts).max() > 0.1


def test_divergence_and_its_gradient_match_pytorch() -> None:
    """Equations (18) and (19) against torch.distributions."""
    torch = pytest.importorskip("torch")
    mean, logs, noise = (normal(i, 3, 4) for i in range(3))
    ends = [torch.tensor(v, requires_grad=True) for v in (mean, logs)]
    code = torch.distributions.Normal(ends[0], (ends[1] / 2).exp())
    standard = torch.distributions.Normal(torch.zeros(3, 4), torch.ones(3, 4))
    nats = torch.distributions.kl_divergence(code, standard).sum(dim=1)
    np.testing.assert_allclose(divergence(mean, logs), nats.detach(), rtol=1e-9)
    nats.sum().backward(retain_graph=True)
    for got, end in zip(divergence_gradient(mean, logs), ends, strict=True):
        np.testing.assert_allclose(got, end.grad, rtol=1e-9, atol=1e-12)
        end.grad = None
    rule, delta = sample_rule(noise), normal(3, 3, 4)
    z = ends[0] + (ends[1] / 2).exp() * torch.tensor(noise)
    z.backward(torch.tensor(delta))
    np.testing.assert_allclose(rule.forward(mean, logs), z.detach(), rtol=1e-12)
    for got, end in zip(rule.backward(delta, mean, logs), ends, strict=True):
        np.testing.assert_allclose(got, end.grad, rtol=1e-12)


def test_gradient_of_a_shared_bias_is_the_sum_of_the_errors() -> None:
    """Equation (12); the gradient of the post's per-position b[x, y] would be delta[x, y]."""
    plan = make_plan({"c": {"op": "conv", "filters": 2, "kernel": 3}}, (5, 5, 1), (3, 3, 2))
    network, x = some_network(plan, 0)
    gradients = forward_and_backward(network, x)[1]
    np.testing.assert_allclose(
        gradients.weights["c"]["bias"], gradients.delta["c"].sum(axis=(0, 1, 2)), rtol=1e-12
    )


# Every operation against autodiff.

CASES: Mapping[str, tuple[Layers, Shape]] = {
    "conv": ({"op": {"op": "conv", "filters": 3, "kernel": [3, 2]}}, (6, 5, 2)),
    "conv strided, same": (
        {
            "op": {
                "op": "conv",
                "filters": 3,
                "kernel": [3, 4],
                "stride": [2, 3],
                "padding": "same",
                "activation": "tanh",
            }
        },
        (7, 8, 2),
    ),
    "conv, border outside all windows": (
        {"op": {"op": "conv", "filters": 1, "kernel": 2, "stride": 3, "use_bias": False}},
        (7, 6, 2),
    ),
    "conv groups": (
        {"op": {"op": "conv", "filters": 6, "kernel": [2, 3], "groups": 2, "padding": "same"}},
        (4, 5, 4),
    ),
    "conv depthwise, dilated": (
        {
            "op": {
                "op": "conv",
                "filters": 6,
                "kernel": 2,
                "groups": "depthwise",
                "dilation": [2, 3],
                "stride": [1, 2],
                "padding": [0, 1],
                "use_bias": False,
            }
        },
        (5, 6, 3),
    ),
    "conv padded": (
        {"op": {"op": "conv", "filters": 2, "kernel": [1, 3], "stride": [1, 2], "padding": [1, 2]}},
        (4, 5, 1),
    ),
    "conv_transpose": (
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
        (3, 4, 2),
    ),
    "conv_transpose same": (
        {
            "op": {
                "op": "conv_transpose",
                "filters": 1,
                "kernel": 3,
                "stride": 2,
                "padding": "same",
                "use_bias": False,
            }
        },
        (3, 4, 2),
    ),
    "conv_transpose tied": (
        {
            "conv": {"op": "conv", "filters": 3, "kernel": 3, "stride": 2, "activation": "elu"},
            "op": {"op": "conv_transpose", "tie": "conv", "activation": "softplus"},
        },
        (6, 7, 2),
    ),
    "max_pool": ({"op": {"op": "max_pool", "size": 2}}, (5, 6, 2)),
    "max_pool overlapping": ({"op": {"op": "max_pool", "size": [2, 3], "stride": 1}}, (5, 6, 2)),
    "avg_pool": ({"op": {"op": "avg_pool", "size": [3, 2], "stride": [2, 1]}}, (6, 5, 2)),
    "max_pool padded": (
        {"op": {"op": "max_pool", "size": [3, 4], "stride": 2, "padding": [1, 2]}},
        (5, 6, 2),
    ),
    "max_pool same": (
        {"op": {"op": "max_pool", "size": 3, "stride": 2, "padding": "same"}},
        (4, 5, 2),
    ),
    "max_pool ceiled": ({"op": {"op": "max_pool", "size": 2, "ceil_mode": True}}, (5, 6, 2)),
    "avg_pool padded": (
        {"op": {"op": "avg_pool", "size": 3, "stride": 2, "padding": 1, "ceil_mode": True}},
        (6, 5, 2),
    ),
    "avg_pool without pads": (
        {"op": {"op": "avg_pool", "size": 3, "padding": "same", "count_include_pad": False}},
        (6, 5, 2),
    ),
    "global_avg_pool": ({"op": {"op": "global_avg_pool"}}, (3, 4, 2)),
    "global_max_pool": ({"op": {"op": "global_max_pool"}}, (3, 4, 2)),
    "upscale": ({"op": {"op": "upscale", "size": [2, 3]}}, (2, 3, 2)),
    "dense": ({"op": {"op": "dense", "units": 4, "activation": "gelu"}}, (2, 3, 2)),
    "dropout": ({"op": {"op": "dropout", "rate": 0.5}}, (4, 4, 2)),
    "dropout of nothing": ({"op": {"op": "dropout", "rate": 0.0}}, (2, 2, 1)),
    "spatial_dropout": ({"op": {"op": "spatial_dropout", "rate": 0.5}}, (2, 3, 8)),
    "drop_path": ({"op": {"op": "drop_path", "rate": 0.5}}, (2, 3, 2)),
    "masking_noise": ({"op": {"op": "masking_noise", "rate": 0.3}}, (4, 4, 2)),
    "gaussian_noise": ({"op": {"op": "gaussian_noise", "stddev": 0.5}}, (2, 3, 2)),
    "sample": (
        {
            "logs": {"op": "activation", "activation": "tanh"},
            "op": {"op": "sample", "inputs": ["input", "logs"], "kl_weight": 0.5},
        },
        (2, 3, 2),
    ),
    "slice": ({"op": {"op": "slice", "start": 1, "size": 2}}, (2, 3, 4)),
    "zero_pad": (
        {"op": {"op": "zero_pad", "padding": [1, 0, 2, 1], "channels": [1, 2]}},
        (2, 3, 2),
    ),
    "crop": ({"op": {"op": "crop", "cropping": [1, 0, 2, 1]}}, (4, 5, 2)),
    "channel_shuffle": ({"op": {"op": "channel_shuffle", "groups": 2}}, (2, 3, 6)),
    "space_to_depth": ({"op": {"op": "space_to_depth", "size": 2}}, (4, 6, 3)),
    "depth_to_space": ({"op": {"op": "depth_to_space", "size": 2}}, (2, 3, 12)),
    "flatten": ({"op": {"op": "flatten"}}, (2, 3, 2)),
    "reshape": ({"op": {"op": "reshape", "shape": [3, 1, 4]}}, (2, 3, 2)),
    "permute": ({"op": {"op": "permute", "order": [3, 1, 2]}}, (2, 3, 4)),
    "concat": (
        {
            "half": {"op": "activation", "activation": "silu"},
            "op": {"op": "concat", "inputs": ["half", "input", "half"]},
        },
        (2, 3, 2),
    ),
    "add": (
        {
            "half": {"op": "activation", "activation": "leaky_relu"},
            "op": {"op": "add", "inputs": ["half", "half", "input"]},
        },
        (2, 3, 2),
    ),
    "multiply": (
        {
            "half": {"op": "activation", "activation": "silu"},
            "op": {"op": "multiply", "inputs": ["half", "input", "half"]},
        },
        (2, 3, 2),
    ),
    "multiply by gates": (
        {
            "half": {"op": "activation", "activation": "silu"},
            "place": {"op": "avg_pool", "size": [2, 3], "inputs": ["input"]},
            "gate": {"op": "dense", "units": 2, "activation": "sigmoid", "inputs": ["half"]},
            "op": {"op": "multiply", "inputs": ["gate", "input", "place", "half"]},
        },
        (2, 3, 2),
    ),
    "multiply vectors": (
        {
            "wide": {"op": "dense", "units": 3},
            "gate": {"op": "dense", "units": 3, "activation": "sigmoid", "inputs": ["input"]},
            "op": {"op": "multiply", "inputs": ["wide", "gate", "wide"]},
        },
        (2, 2, 1),
    ),
    "multiply a 1x1 image": (
        {
            "place": {"op": "avg_pool", "size": [2, 3]},
            "gate": {"op": "dense", "units": 2},
            "op": {"op": "multiply", "inputs": ["gate", "place"]},
        },
        (2, 3, 2),
    ),
    "activation": ({"op": {"op": "activation", "activation": "relu"}}, (2, 3, 2)),
    "attention": ({"op": {"op": "attention", "heads": 2}}, (2, 3, 4)),
    "attention without bias": (
        {"op": {"op": "attention", "heads": 1, "use_bias": False}},
        (3, 1, 2),
    ),
    "vector_quantizer": ({"op": {"op": "vector_quantizer", "codes": 5}}, (2, 3, 4)),
    "position_embedding": ({"op": {"op": "position_embedding"}}, (2, 3, 4)),
    "position_embedding sincos2d": (
        {"op": {"op": "position_embedding", "kind": "sincos2d"}},
        (3, 2, 4),
    ),
    "class_token": ({"op": {"op": "class_token"}}, (2, 3, 4)),
    "conv with shared weights": (
        {
            "one": {"op": "conv", "filters": 2, "kernel": 2, "padding": "same"},
            "norm": {"op": "batch_norm"},
            "act": {"op": "prelu", "per_channel": True},
            "op": {"op": "conv", "filters": 2, "kernel": 2, "padding": "same", "weights": "one"},
        },
        (3, 2, 2),
    ),
    "norm with shared weights": (
        {
            "one": {"op": "batch_norm"},
            "act": {"op": "prelu"},
            "op": {"op": "batch_norm", "weights": "one"},
        },
        (3, 2, 2),
    ),
    "transpose with shared weights": (
        {
            "conv": {"op": "conv", "filters": 2, "kernel": 2, "padding": "same"},
            "one": {"op": "conv_transpose", "tie": "conv"},
            "op": {"op": "conv_transpose", "tie": "conv", "weights": "one"},
        },
        (3, 2, 2),
    ),
    "prelu": ({"op": {"op": "prelu"}}, (3, 2, 2)),
    "prelu per channel": ({"op": {"op": "prelu", "per_channel": True}}, (3, 2, 2)),
    "prelu of a vector": (
        {"flat": {"op": "flatten"}, "op": {"op": "prelu", "per_channel": True}},
        (3, 2, 2),
    ),
    "softmax": ({"op": {"op": "softmax"}}, (2, 3, 4)),
    "softmax of a vector": ({"flat": {"op": "flatten"}, "op": {"op": "softmax"}}, (2, 2, 2)),
    "batch_norm": ({"op": {"op": "batch_norm"}}, (3, 2, 2)),
    "batch_norm without scale": ({"op": {"op": "batch_norm", "scale": False}}, (3, 2, 2)),
    "layer_norm": ({"op": {"op": "layer_norm", "epsilon": 0.1}}, (3, 2, 4)),
    "layer_norm of a vector": (
        {"flat": {"op": "flatten"}, "op": {"op": "layer_norm", "scale": False}},
        (3, 2, 2),
    ),
    "group_norm": ({"op": {"op": "group_norm", "groups": 2}}, (3, 2, 4)),
    "group_norm of one channel": (
        {"op": {"op": "group_norm", "groups": 3, "center": False, "epsilon": 0.1}},
        (3, 2, 3),
    ),
    "scale": ({"op": {"op": "scale", "value": 0.5}}, (3, 2, 2)),
    "scale by one factor": ({"op": {"op": "scale", "value": 0.5, "per": "all"}}, (3, 2, 2)),
    "scale by a constant": ({"op": {"op": "scale", "value": 0.5, "trainable": False}}, (3, 2, 2)),
    "batch_norm of vectors": (
        {"flat": {"op": "flatten"}, "op": {"op": "batch_norm", "epsilon": 0.25}},
        (2, 2, 2),
    ),
}


def test_every_operation_is_covered() -> None:
    assert {list(layers.values())[-1]["op"] for layers, _ in CASES.values()} == set(OPERATIONS)


def between(layers: Layers, shape: Shape) -> Plan:
    """The layers behind one with weights, so that errors are propagated through them."""
    first = {"first": {"op": "conv", "filters": shape[2], "kernel": 1}}
    read = {n: {**op, "inputs": _after(op, i)} for i, (n, op) in enumerate(layers.items())}
    named = {n: {k: v for k, v in op.items() if v is not None} for n, op in read.items()}
    last = {"weigh": {"op": "dense", "units": 3}}
    return make_plan(first | named | last, shape, (3,))


def _after(op: Mapping[str, Any], number: int) -> Any:
    names = op.get("inputs")
    if names is None:
        return "first" if number == 0 else None
    return ["first" if name == "input" else name for name in names]


def some_network(plan: Plan, seed: int) -> tuple[ReferenceNetwork, Array]:
    """Random weights and images, and a mean squared error with random targets."""
    rng = np.random.default_rng(seed)
    weights = {
        node.name: {name: rng.normal(size=shape) for name, shape in node.layout.params.items()}
        for node in plan.nodes
        if node.layout.params
    }
    targets = rng.normal(size=(NUM_IMAGES, *plan.output_shape))
    return ReferenceNetwork(plan, weights, {}, Objective("mse", targets)), rng.normal(
        size=(NUM_IMAGES, *plan.input_shape)
    )


def assert_near(got: Array, want: Array, what: str, scale: float = 1e-6) -> None:
    bar = TOLERANCES["float64"].autodiff * max(scale, float(np.abs(want).max()))
    np.testing.assert_allclose(got, want, rtol=0, atol=bar, err_msg=what)


def score(result: Result, targets: jax.Array) -> jax.Array:
    """The squared error plus half of the divergences, divided by the number of output values."""
    values = per_image_loss("mse")(result.output, targets)
    for nats in result.divergences.values():
        values += nats / 2 / result.output[0].size
    return values


@pytest.mark.parametrize("name", CASES)
def test_rule_is_the_vector_jacobian_product(name: str) -> None:
    """z, every delta and every weight's gradient against `jax.grad`, in float64."""
    layers, shape = CASES[name]
    plan = between(layers, shape)
    network, x = some_network(plan, 0)
    with jax.enable_x64(True):
        reference = Reference(plan, score, 0)
        draws = reference.draws(NUM_IMAGES, "float64")
        want = reference.derivatives(network.weights, x, network.objective.targets)
    drawn = ReferenceNetwork(plan, network.weights, draws, network.objective)
    forward, got = forward_and_backward(drawn, x)
    for node in plan.nodes:
        assert_near(forward.z[node.name], want.forward.z[node.name], f"z of {node.name}")
        assert_near(got.delta[node.name], want.delta[node.name], f"delta of {node.name}")
    assert {k: set(v) for k, v in got.weights.items()} == {
        k: set(v) for k, v in want.weights.items() if v
    }
    for layer, own in got.weights.items():
        # The gradient of a bias before batch norm is zero except for rounding.
        scale = max(float(np.abs(value).max()) for value in own.values())
        for key, value in own.items():
            assert_near(value, want.weights[layer][key], f"{key} of {layer}", scale)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_sigma_and_its_derivative_match_jax(name: Any) -> None:
    """Equation (3), also at 0, where some have no derivative."""
    z = np.concatenate([[0.0, -3, 3, 6, -30, 30], 3 * normal(0, 50)])
    with jax.enable_x64(True):
        value, slope = jax.vmap(jax.value_and_grad(ACTIVATIONS[name]))(z)
    np.testing.assert_allclose(sigma(name, z), value, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(sigma_prime(name, z), slope, rtol=1e-12, atol=1e-13)
    assert sigma(name, z.astype(np.float32)).dtype == np.float32
    assert sigma_prime(name, z.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_activations_have_their_kinks(name: Any) -> None:
    h, bent = 1e-4, []
    for place in range(-9, 10):
        s = sigma_prime(name, place + h * np.array([-2.0, -1, 1, 2]))
        jump, bend = abs(s[2] - s[1]), abs((s[3] - s[2]) - (s[1] - s[0])) / h
        if jump > 0.1 or bend > 0.1:
            bent.append(place)
    assert tuple(bent) == KINKS.get(name, ())


@pytest.mark.parametrize("loss", [loss for losses in LOSSES.values() for loss in losses])
def test_cost_and_its_gradient_match_jax(loss: Any) -> None:
    """Step 3: nabla_a C against the training losses."""
    outputs, targets = normal(0, 4, 5), special.expit(normal(1, 4, 5))
    if loss == "cross_entropy":
        targets = np.array([0, 4, 2, 2])
    if loss == "binary_cross_entropy_with_logits":
        targets = np.round(targets)
    if loss == "binary_cross_entropy":  # inside and outside the clipped range
        outputs = outputs / 2 + 0.5
        assert (outputs < 0).any()
        assert (outputs > 1).any()
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(lambda o: per_image_loss(loss)(o, targets).mean())(
            outputs
        )
    objective = Objective(loss, targets)
    assert objective.value(outputs) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(objective.gradient(outputs), gradient, rtol=1e-10, atol=1e-15)


# The same rules against PyTorch, an independent implementation.


@pytest.mark.parametrize("weights", [None, (0.5, 3.0, 1.0, 2.0, 0.1)])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_cost_with_shares_of_classes_and_its_gradient_match_pytorch(
    share: float, weights: tuple[float, ...] | None
) -> None:
    torch = pytest.importorskip("torch")
    outputs, labels = normal(0, 4, 5), np.array([0, 4, 2, 2])
    theirs = torch.tensor(outputs, requires_grad=True)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = torch.nn.CrossEntropyLoss(weight, label_smoothing=share)(theirs, torch.tensor(labels))
    loss.backward()
    ours = Objective("cross_entropy", labels, label_smoothing=share, class_weights=weights)
    assert ours.value(outputs) == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(ours.gradient(outputs), theirs.grad, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("pad", [0, 1])
def test_conv_and_its_adjoint_match_pytorch(stride: tuple[int, int], pad: int) -> None:
    torch = pytest.importorskip("torch")
    layers: Layers = {
        "c": {"op": "conv", "filters": 3, "kernel": [3, 2], "stride": list(stride), "padding": pad},
        "t": {"op": "conv_transpose", "tie": "c"},
    }
    plan = make_plan(layers, (8, 7, 2), (8, 7, 2))
    network, x = some_network(plan, 3)
    forward, got = forward_and_backward(network, x)
    w = torch.tensor(network.weights["c"]["kernel"]).permute(3, 2, 0, 1).requires_grad_()
    biases = [torch.tensor(network.weights[n]["bias"], requires_grad=True) for n in ("c", "t")]
    images = torch.tensor(x).permute(0, 3, 1, 2)
    z = torch.nn.functional.conv2d(images, w, biases[0], stride, pad)
    rest = [(8, 7)[i] + 2 * pad - ((z.shape[2 + i] - 1) * stride[i] + (3, 2)[i]) for i in (0, 1)]
    y = torch.nn.functional.conv_transpose2d(z, w, biases[1], stride, pad, rest)
    z.retain_grad()
    ((y.permute(0, 2, 3, 1) - torch.tensor(network.objective.targets)) ** 2).mean().backward()
    np.testing.assert_allclose(forward.z["t"], y.detach().permute(0, 2, 3, 1), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.delta["c"], z.grad.permute(0, 2, 3, 1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        got.weights["c"]["kernel"], w.grad.permute(2, 3, 1, 0), rtol=1e-9, atol=1e-12
    )
    for layer, bias in zip(("c", "t"), biases, strict=True):
        np.testing.assert_allclose(got.weights[layer]["bias"], bias.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool", "batch_norm"])
def test_pools_and_batch_norm_match_pytorch(kind: str) -> None:
    torch = pytest.importorskip("torch")
    layer = {"op": kind} if kind == "batch_norm" else {"op": kind, "size": 3, "stride": 2}
    shape = (7, 6, 2) if kind == "batch_norm" else (3, 2, 2)
    plan = make_plan({"op": layer}, (7, 6, 2), shape)
    network, x = some_network(plan, 1)
    node, delta = plan.nodes[0], normal(2, NUM_IMAGES, *shape)
    rule = rule_of(plan, node, network.weights, {})
    images = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    own = {k: torch.tensor(v, requires_grad=True) for k, v in network.weights.get("op", {}).items()}
    call = {
        "max_pool": lambda: torch.nn.functional.max_pool2d(images, 3, 2),
        "avg_pool": lambda: torch.nn.functional.avg_pool2d(images, 3, 2),
        "batch_norm": lambda: torch.nn.functional.batch_norm(
            images, None, None, own["scale"], own["bias"], training=True
        ),
    }[kind]
    z = call()
    z.backward(torch.tensor(delta).permute(0, 3, 1, 2))
    np.testing.assert_allclose(rule.forward(x), z.detach().permute(0, 2, 3, 1), rtol=1e-9)
    back = rule.backward(delta, x)[0]
    np.testing.assert_allclose(back, images.grad.permute(0, 2, 3, 1), rtol=1e-8, atol=1e-10)
    for key, value in rule.gradient(delta, x).items():
        np.testing.assert_allclose(value, own[key].grad, rtol=1e-9, atol=1e-10)


def test_ties_send_the_error_to_the_first_value() -> None:
    """Equation (13), as in XLA and PyTorch."""
    plan = make_plan({"op": {"op": "max_pool", "size": 2}}, (2, 2, 1), (1, 1, 1))
    rule = rule_of(plan, plan.nodes[0], {}, {})
    a = np.array([[1.0, 2], [2, 2]])[None, :, :, None]
    back = rule.backward(np.full((1, 1, 1, 1), 5.0), a)[0]
    assert back[0, :, :, 0].tolist() == [[0, 5], [0, 0]]


def test_ties_in_a_channel_send_the_error_to_the_first_value() -> None:
    """Equation (13), with one window."""
    plan = make_plan({"op": {"op": "global_max_pool"}}, (2, 3, 2), (2,))
    image = np.array([[[1.0, 0], [2, 0], [0, 0]], [[2, 0], [2, 0], [0, 0]]])[None]
    (back,) = rule_of(plan, plan.nodes[0], {}, {}).backward(np.array([[5.0, 7]]), image)
    assert back[0, :, :, 0].tolist() == [[0, 5, 0], [0, 0, 0]]
    assert back[0, :, :, 1].tolist() == [[7, 0, 0], [0, 0, 0]]


def test_gradient_of_a_tied_kernel_is_the_sum_of_its_uses() -> None:
    """Equation (17): each use separately, with its own copy of the kernel."""
    conv = {"op": "conv", "filters": 2, "kernel": 3}
    tied = {"op": "conv_transpose", "tie": "c", "activation": "tanh"}
    free = {"op": "conv_transpose", "filters": 1, "kernel": 3, "activation": "tanh"}
    plans = [make_plan({"c": conv, "t": t}, (5, 5, 1), (5, 5, 1)) for t in (tied, free)]
    network, x = some_network(plans[0], 0)
    kernel = network.weights["c"]["kernel"]
    apart = {**network.weights, "t": {**network.weights["t"], "kernel": kernel}}
    one = forward_and_backward(network, x)[1]
    two = forward_and_backward(ReferenceNetwork(plans[1], apart, {}, network.objective), x)[1]
    assert one.shares.keys() == {"c"}
    assert not two.shares
    for user in ("c", "t"):
        np.testing.assert_allclose(one.shares["c"][user], two.weights[user]["kernel"], rtol=1e-12)
    total = sum(one.shares["c"].values())
    np.testing.assert_allclose(one.weights["c"]["kernel"], total, rtol=1e-12)


def test_errors_of_an_mlp_are_explicit_sums() -> None:
    """Equations (M1) and (M2), unit by unit, over all images."""
    layers: Layers = {
        "one": {"op": "dense", "units": 3, "activation": "tanh"},
        "two": {"op": "dense", "units": 2, "activation": "sigmoid"},
    }
    network, x = some_network(make_plan(layers, (1, 4, 1), (2,)), 0)
    forward, found = forward_and_backward(network, x)
    kernel = network.weights["two"]["kernel"]  # (in, units): the post's w[k, j] is kernel[j, k]
    delta, a = found.delta, forward.a["one"]
    for j in range(3):
        back = sum(kernel[j, k] * delta["two"][:, k] for k in range(2))
        np.testing.assert_allclose(delta["one"][:, j], back * (1 - a[:, j] ** 2), rtol=1e-12)
        for k in range(2):
            gradient = sum(delta["two"][i, k] * a[i, j] for i in range(NUM_IMAGES))
            assert found.weights["two"]["kernel"][j, k] == pytest.approx(gradient, rel=1e-12)


def test_output_error_is_the_gradient_of_the_cost_with_respect_to_z() -> None:
    """Equation (S3), for a last layer with an activation, against JAX's derivative of both."""
    last: Layers = {"d": {"op": "dense", "units": 4, "activation": "tanh"}}
    network, x = some_network(make_plan(last, (1, 3, 1), (4,)), 0)
    forward = feedforward(network, x)
    with jax.enable_x64(True):
        want = jax.grad(lambda z: ((jax.numpy.tanh(z) - network.objective.targets) ** 2).mean())(
            forward.z["d"]
        )
    np.testing.assert_allclose(output_error(network, forward), want, rtol=1e-10)


def test_output_error_of_softmax_is_probability_minus_label() -> None:
    """Step 3: an elementwise sigma'(z) would be wrong for softmax."""
    logits, labels = normal(0, 3, 4), np.array([1, 3, 0])
    shares = special.softmax(logits, axis=1) - np.eye(4)[labels]
    np.testing.assert_allclose(
        Objective("cross_entropy", labels).gradient(logits), shares / 3, rtol=1e-12
    )
    assert math.isclose(float(shares.sum()), 0, abs_tol=1e-12)


def test_worked_example_matches_scipy() -> None:
    """The numbers printed by --show, computed with another library."""
    w = worked_example
    z2 = signal.correlate2d(w.A1, w.W2, "valid") + w.B2
    a2 = np.maximum(z2, 0)
    delta3 = signal.correlate2d(a2, w.W3, "valid") - w.Y
    delta2 = signal.convolve2d(delta3, w.W3, "full") * (z2 > 0)
    text = w.worked_convolution()
    for array in (z2, a2, delta3, delta2, signal.correlate2d(w.A1, delta2, "valid")):
        for row in array:
            assert "".join(f"{value + 0:5g}" for value in row) in text
    assert not (z2 == 0).any()
    assert max(map(len, text.splitlines())) <= 80
