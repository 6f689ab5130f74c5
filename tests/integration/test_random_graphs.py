"""Random networks: the plan's shapes, all forms, PyTorch and all strategies agree.

`CNNBENCH_TEST_ALL=1` draws fifty times as many networks.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnnbench.data.batches import batches
from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import Split
from cnnbench.graph.plan import Plan
from cnnbench.layers import BatchNorm, Conv, ConvTranspose, output_of
from cnnbench.layers.activation import ACTIVATION_NAMES
from cnnbench.layers.base import INPUT, Shape
from cnnbench.layers.parameters import is_kernel
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.lowering import Fused
from cnnbench.nn.ops import convolution
from cnnbench.nn.ops.im2col import Col2im, Im2col, RowIm2col
from cnnbench.nn.ops.winograd import Winograd
from cnnbench.spec.experiment import Experiment
from cnnbench.system.devices import pick_devices
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.executables import Job, compile_train, set_up
from cnnbench.training.state import TrainState, num_params, split_network
from cnnbench.training.strategy import Strategy, has_batch_statistics
from tests.bench.frameworks.test_frameworks import need, without_dropout
from tests.support.graphs import CLASSES, CONTINUOUS, Layers, convs, graphs, parse_layer
from tests.support.oracles import Array, make_plan

FORMS: tuple[convolution.EngineName, ...] = ("plain", "whole", "direct", "fast")
NUM_IMAGES = 3
TOLERANCE = 1e-7  # relative to the largest entry, in float64
Graph = tuple[Layers, Shape, Shape]
Weights = Mapping[str, Mapping[str, Array]]


def examples(number: int) -> settings:
    """Number of networks per test; most of the time is spent compiling them."""
    number *= 50 if os.environ.get("CNNBENCH_TEST_ALL") else 1
    return settings(max_examples=number, suppress_health_check=list(HealthCheck))


def tie_of(op: object) -> str | None:
    return op.tie if isinstance(op, ConvTranspose) else None


def net(plan: Plan, form: convolution.EngineName) -> GraphNet:
    return GraphNet(plan, form=form, rngs=nnx.Rngs(0))


# Coverage of the generator.


@pytest.mark.slow
def test_the_generator_covers_the_whole_layer_language() -> None:
    seen: set[Any] = set()

    @settings(examples(240), database=None, derandomize=True)
    @given(graph=graphs())
    def draw(graph: Graph) -> None:
        plan = make_plan(*graph)
        seen.add(f"output of {len(plan.output_shape)}")
        for node in plan.nodes:
            op = node.op
            seen.update([op.op, f"{len(node.inputs)} inputs", f"tie {bool(tie_of(op))}"])
            seen.add(getattr(op, "activation", "linear"))
            seen.add(f"bias {getattr(op, 'use_bias', None)}")
            seen.update([f"shared {op.op}"] if node.owner != node.name else [])
            if isinstance(op, Conv | ConvTranspose) and op.kernel:
                seen.add(op.padding if isinstance(op.padding, str) else "zeros")
                seen.update(f"kernel {size}" for size in op.kernel)
                seen.update(f"stride {step}" for step in op.stride)
        lowered = Fused(plan, "fast")
        for conv in lowered.grouped.values():
            seen.update(["grouped"] if conv.groups > 1 else [])
            seen.update(["dilated"] if conv.dilation != (1, 1) else [])
        seen.update(type(one.conv.algorithm) for one in lowered.convs.values())
        seen.update(["deferred"] if lowered.deferred else [])
        seen.update(["absorbed"] if lowered.absorbed else [])

    draw()
    wanted: set[Any] = {*CONTINUOUS, *ACTIVATION_NAMES, "valid", "same", "zeros"}
    wanted |= {f"kernel {size}" for size in range(1, 6)}
    wanted |= {text for n in (1, 2, 3) for text in (f"stride {n}", f"{n} inputs")}
    wanted |= {f"{word} {yes}" for word in ("tie", "bias") for yes in (True, False)}
    wanted |= {"output of 1", "output of 3"}
    wanted |= {Im2col, RowIm2col, Col2im, Winograd, "deferred", "absorbed", "grouped", "dilated"}
    wanted |= {f"shared {op}" for op in ("conv", "conv_transpose", "dense")}
    assert wanted <= seen, wanted - seen


# Shapes.


def every_value(model: GraphNet, x: jax.Array) -> dict[str, jax.Array]:
    """Each layer's output, in the plain form, which computes them all."""
    values, weights = {INPUT: x}, model.prepare()
    for node in model.plan.nodes:
        inputs = [values[name] for name in node.inputs]
        part: Any = model.parts.get(node.owner)
        values[node.name] = part(*inputs) if part else model.apply(node, inputs, weights)
    return values


@examples(15)
@given(graph=graphs())
def test_plan_has_the_shapes_and_parameters_of_the_network(graph: Graph) -> None:
    layers, input_shape, output_shape = graph
    plan = make_plan(layers, input_shape, output_shape)
    x = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)

    def run(model: GraphNet, x: jax.Array) -> tuple[dict[str, jax.Array], Any]:
        return every_value(model, x), nnx.state(model, nnx.Param)

    values, params = nnx.eval_shape(run, net(plan, "plain"), x)
    assert {name: value.shape for name, value in values.items()} == {INPUT: (2, *input_shape)} | {
        node.name: (2, *node.layout.shape) for node in plan.nodes
    }
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(params))
    assert shapes == sorted(s for node in plan.nodes for s in node.params.values())
    assert num_params(params) == plan.num_params
    for form in FORMS[1:]:
        one = nnx.eval_shape(lambda model, x: model(x), net(plan, form), x)
        assert one.shape == (2, *output_shape)


# Outputs and gradients.


@dataclasses.dataclass(frozen=True)
class Measured:
    """Outputs, and gradients of a weighted sum of them, in float64."""

    outputs: Array
    gradients: Mapping[str, Mapping[str, Array]]
    of_images: Array


@dataclasses.dataclass(frozen=True)
class Question:
    """A network with values for everything; `training` normalizes by batch statistics."""

    plan: Plan
    weights: Weights
    images: Array
    head: Array
    training: bool


@st.composite
def questions(draw: st.DrawFn) -> Question:
    layers, input_shape, output_shape = draw(graphs(samples=False))
    plan = make_plan(layers, input_shape, output_shape)
    rng, training = np.random.default_rng(draw(st.integers(0, 99))), draw(st.booleans())
    images = rng.normal(size=(NUM_IMAGES, *input_shape))
    head = rng.normal(size=(NUM_IMAGES, *output_shape))
    # Every framework draws its own dropout masks.
    plan = without_dropout(plan) if training else plan
    return Question(plan, weights_of(plan, rng), images, head, training)


def weights_of(plan: Plan, rng: np.random.Generator) -> Weights:
    """Parameter values that are exact in float32 and preserve the scale of layers."""

    def value(key: str, shape: Shape) -> Array:
        size = 0.2 if key == "scale" else 0.3
        if is_kernel(key):
            size = 1 / math.sqrt(math.prod(shape[:-1]))
        return (rng.normal(key == "scale", size, shape)).astype(np.float32)

    return {
        node.name: {key: value(key, shape) for key, shape in node.params.items()}
        for node in plan.nodes
        if node.params
    }


def ours(question: Question) -> list[Measured]:
    """Results of each form of our network."""
    plan = question.plan
    networks = [split_network(net(plan, form)) for form in FORMS]
    tree: dict[str, dict[str, Any]] = {"weights": {}, "parts": {}}
    for name, values in question.weights.items():
        part = "parts" if isinstance(plan.by_name[name].op, BatchNorm) else "weights"
        tree[part][name] = values
    with jax.enable_x64(True):
        params = nnx.clone(networks[0].params)
        wide = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), tree)
        nnx.replace_by_pure_dict(params, {k: v for k, v in wide.items() if v})
        head = jnp.asarray(question.head)

        @jax.jit
        def run(params: Any, images: jax.Array) -> Any:
            def value(params: Any, images: jax.Array, graphdef: Any, rest: Any) -> Any:
                outputs = nnx.merge(graphdef, params, rest, copy=True)(images)
                return jnp.vdot(outputs, head), outputs

            slopes = jax.grad(value, (0, 1), has_aux=True)
            graphdefs = [n.training if question.training else n.evaluation for n in networks]
            rests = [jax.tree.map(widened, n.rest) for n in networks]
            pairs = zip(graphdefs, rests, strict=True)
            return [slopes(params, images, *pair) for pair in pairs]

        found = run(params, jnp.asarray(question.images))
    return [
        Measured(np.asarray(outputs), by_layer(gradient), np.asarray(of_images))
        for (gradient, of_images), outputs in found
    ]


def widened(value: Any) -> Any:
    """Running statistics in float64; keys and counts unchanged."""
    return value.astype(jnp.float64) if value.dtype == jnp.float32 else value


def by_layer(gradient: Any) -> dict[str, dict[str, Array]]:
    tree = nnx.to_pure_dict(gradient)
    found: dict[str, dict[str, Array]] = tree.get("weights", {}) | tree.get("parts", {})
    return {layer: jax.tree.map(np.asarray, values) for layer, values in found.items()}


def pytorchs(question: Question) -> Measured:
    import torch

    from cnnbench.bench.frameworks.torch_net import TorchNet

    network = TorchNet(question.plan, question.weights).double().train(question.training)
    images = torch.tensor(question.images, requires_grad=True)
    outputs = network(images.permute(0, 3, 1, 2))
    outputs = outputs.permute(0, 2, 3, 1) if outputs.ndim == 4 else outputs
    total = (outputs * torch.tensor(question.head)).sum()
    *slopes, of_images = torch.autograd.grad(
        total, [*network.tensors, images], materialize_grads=True
    )
    gradients = network.in_our_layout(slopes)
    return Measured(outputs.detach().numpy(), gradients, of_images.numpy())


def agree(got: Measured, want: Measured, what: str) -> None:
    """Compare every array relative to its largest entry.

    Gradients that are zero except for rounding, such as a bias's before a batch norm, are compared
    relative to the largest of all.
    """
    close(got.outputs, want.outputs, 0.0, f"{what}: outputs")
    assert {layer: set(named) for layer, named in got.gradients.items()} == {
        layer: set(named) for layer, named in want.gradients.items()
    }
    largest = max(np.abs(each).max() for each in jax.tree.leaves(want.gradients))
    close(got.of_images, want.of_images, largest, f"{what}: images")
    for layer, named in want.gradients.items():
        for key, gradient in named.items():
            close(got.gradients[layer][key], gradient, largest, f"{what}: {layer}.{key}")


def close(got: Array, want: Array, largest: float, what: str) -> None:
    assert got.shape == want.shape, what
    assert got.dtype == want.dtype == np.float64, what
    error, size = np.abs(got - want).max(), np.abs(want).max()
    assert error <= TOLERANCE * max(size, 1e-4 * largest), f"{what}: {error} of {size}"


@examples(2)
@given(question=questions())
def test_every_form_has_the_outputs_and_gradients_of_the_reference(question: Question) -> None:
    reference, *others = ours(question)
    assert np.isfinite(reference.outputs).all()
    for form, got in zip(FORMS[1:], others, strict=True):
        agree(got, reference, form)


@examples(5)
@given(question=questions())
def test_outputs_and_every_gradient_match_pytorch(question: Question) -> None:
    need("torch-eager-nchw")
    want = pytorchs(question)
    for form, got in zip(FORMS, ours(question), strict=True):
        agree(got, want, form)


@examples(3)
@given(graph=graphs(samples=False), seed=st.integers(0, 99))
def test_blank_backgrounds_stay_exactly_zero_before_kinks(graph: Graph, seed: int) -> None:
    """First step: biases are zero, and images have a few bright pixels on black."""
    layers, input_shape, output_shape = graph
    plan, rng = make_plan(layers, input_shape, output_shape), np.random.default_rng(seed)
    images = rng.random((NUM_IMAGES, *input_shape), np.float32)
    images[rng.random(images.shape[:3]) < 0.9] = 0
    reference, fast = net(plan, "plain"), net(plan, "fast")
    reference.eval()
    values = {INPUT: jnp.asarray(images)} | reference.activations(jnp.asarray(images))
    weights, lowered = fast.prepare(), fast.lowering
    assert isinstance(lowered, Fused)
    for node in plan.nodes:
        if (
            not isinstance(node.op, Conv | ConvTranspose)
            or node.name in lowered.grouped
            or not lowered.convs[node.name].conv.exact_zeros
        ):
            continue
        kernel = reference.weights[node.kernel_owner]["kernel"][...]
        x = values[node.inputs[0]]
        met = reference.lowering.convolve(node, jnp.abs(x), jnp.ones_like(kernel))
        source = plan.by_name[node.inputs[0]].inputs if node.inputs[0] in lowered.absorbed else None
        given_x = values[source[0]] if source else x
        z = lowered.from_layout(
            lowered.convolve(node, lowered.to_layout(given_x), weights[node.name]["kernel"])
        )
        height, width = z.shape[1:3]
        blank = np.asarray(met[:, :height, :width]).sum(-1) == 0
        assert (np.asarray(z)[blank] == 0).all(), node.name


# Ties.


@st.composite
def ties(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[int, int, int]]:
    shape = (draw(st.integers(3, 10)), draw(st.integers(3, 10)), draw(st.integers(1, 5)))
    fits = convs.filter(lambda c: all(c["kernel"][i] <= shape[i] for i in (0, 1)))
    return {"op": "conv", "use_bias": False} | draw(fits), shape


@examples(4)
@given(tie=ties())
def test_a_tied_layer_is_the_exact_adjoint_of_its_owner(
    tie: tuple[dict[str, Any], tuple[int, int, int]],
) -> None:
    """<owner(x), y> = <x, tied(y)>, where y is another convolution of z."""
    conv, shape = tie
    layers: Layers = {
        "owner": conv,
        "other": conv | {"inputs": "input"},
        "tied": {"op": "conv_transpose", "tie": "owner", "inputs": "other", "use_bias": False},
        "flat_owner": {"op": "flatten", "inputs": "owner"},
        "flat_other": {"op": "flatten", "inputs": "other"},
        "flat_tied": {"op": "flatten", "inputs": "tied"},
        "all": {"op": "concat", "inputs": ["flat_owner", "flat_other", "flat_tied"]},
    }
    size = math.prod(output_of(parse_layer(conv), (shape,)).shape)
    plan = make_plan(layers, shape, (2 * size + math.prod(shape),))
    assert plan.by_name["tied"].layout.shape == shape
    rng = np.random.default_rng(3)
    images = rng.normal(size=(2, *shape))
    question = Question(
        plan, weights_of(plan, rng), images, np.ones((2, *plan.output_shape)), False
    )
    for form, got in zip(FORMS, ours(question), strict=True):
        owner, other, back = np.split(got.outputs, [size, 2 * size], axis=1)
        for one, another in ((0, 1), (1, 0)):
            left, right = np.vdot(owner[one], other[another]), np.vdot(images[one], back[another])
            bound = np.linalg.norm(owner[one]) * np.linalg.norm(other[another])
            assert abs(left - right) <= 1e-10 * bound, form


# Training strategies.

BATCH = 6


def job_of(layers: Layers, input_shape: Shape, output_shape: Shape) -> Job:
    """Two batches of noise."""
    plan = make_plan(layers, input_shape, output_shape)
    task = "classify" if len(output_shape) == 1 else "reconstruct"
    experiment = Experiment.model_validate(
        {
            "name": "random",
            "task": task,
            "dataset": {"name": "mnist"},
            "model": {"layers": layers},
            "train": {"batch_size": BATCH, "optimizer": {"name": "sgd", "learning_rate": 0.05}},
        }
    )
    rng, num = np.random.default_rng(1), 2 * BATCH
    images = rng.integers(0, 256, (num, *input_shape), np.uint8)
    split = Split(images, rng.integers(0, CLASSES, num, np.int32))
    height, width, channels = input_shape
    info = DatasetInfo("random", (height, width, channels), CLASSES, num, num, "noise")
    dataset = Dataset(
        info, train=split, validation=split, test=split, digest="", stand_in_for=None, source=""
    )
    return Job(experiment, plan, Path(), dataset, pick_devices("cpu"), Stopwatch())


def trained(job: Job, strategy: Strategy, seeds: tuple[int, ...] = (0,)) -> Any:
    """Parameters and running statistics before and after an epoch, with its losses."""
    setup = dataclasses.replace(set_up(job, strategy), at_once=len(seeds))
    networks = [setup.network(seed) for seed in seeds]
    state = setup.state(*networks)
    before, losses = numbers(state), []
    program = compile_train(setup, networks[0], state)
    orders = np.stack([batches(seed, 1, job.num_train, BATCH) for seed in seeds], axis=1)
    orders = orders if len(seeds) > 1 else orders[:, 0]
    for call in orders.reshape(-1, strategy.steps_per_call, *orders.shape[1:]):
        state, loss = program(state, setup.arrays, call)
        losses.append(np.asarray(loss))
    return before, (numbers(state), np.concatenate(losses))


def numbers(state: TrainState) -> Any:
    statistics = nnx.filter_state(state.rest, nnx.BatchStat)
    values = [state.params, state.opt_state, statistics]
    return jax.tree.map(np.asarray, jax.tree.leaves(values))


def learnt_alike(got: Any, want: Any, before: Any, tolerance: float) -> None:
    """Compare arrays relative to the change of each array in training.

    Arrays that should not change, such as a bias before a batch norm, are compared relative to all.
    """
    (values, losses), (wanted, wanted_losses) = got, want
    np.testing.assert_allclose(losses, wanted_losses, rtol=tolerance)
    moves = [np.abs(a - b).max() for a, b in zip(wanted, before, strict=True)]
    assert max(moves) > 1e-3
    for number, (a, b, move) in enumerate(zip(values, wanted, moves, strict=True)):
        error = np.abs(a - b).max()
        assert error <= tolerance * max(move, 0.01 * max(moves)), (number, a.shape, error, move)


WAYS: Mapping[str, Callable[[Plan], Strategy]] = {
    "an epoch in a scan on two devices": lambda _: Strategy("plain", None, 2, 2),
    "rows": lambda plan: Strategy("direct", rows_of(plan), 1, 1),
    "rows on two devices": lambda plan: Strategy("fast", rows_of(plan), 2, 1),
}


def rows_of(plan: Plan) -> int:
    """Rows that do not fill a device's share, unless required by batch statistics."""
    return 3 if has_batch_statistics(plan) else 2


@examples(3)
@given(graph=graphs(), way=st.sampled_from(sorted(WAYS)))
def test_random_networks_train_the_same_with_every_strategy(graph: Graph, way: str) -> None:
    job = job_of(*graph)
    assert job.plan is not None
    before, want = trained(job, Strategy("plain", None, 1, 1))
    _, got = trained(job, WAYS[way](job.plan))
    learnt_alike(got, want, before, 2e-3)


SMALL: Layers = {
    "conv": {"op": "conv", "filters": 4, "kernel": 3, "activation": "tanh"},
    "pool": {"op": "max_pool", "size": 2},
    "norm": {"op": "batch_norm"},
    "up": {"op": "upscale", "size": 2},
    "back": {"op": "conv_transpose", "tie": "conv", "activation": "sigmoid"},
}


@pytest.mark.slow
def test_a_network_trains_the_same_with_every_strategy() -> None:
    """One step per call, an epoch in a scan, two devices, rows, and parallel seeds."""
    job = job_of(SMALL, (8, 8, 2), (8, 8, 2))
    sequential = {seed: trained(job, Strategy("plain", None, 1, 1), (seed,)) for seed in (0, 7)}
    before, want = sequential[0]
    ways = [Strategy("plain", None, 1, 2), Strategy("plain", None, 2, 2)]
    ways += [Strategy("direct", 3, 2, 1), Strategy("fast", 3, 2, 1)]
    for strategy in ways:
        learnt_alike(trained(job, strategy)[1], want, before, 1e-4)
    _, (values, losses) = trained(job, Strategy("plain", None, 2, 2), (0, 7))
    for place, (before, want) in enumerate(sequential.values()):
        own = [value[place] for value in values], losses[:, place]
        learnt_alike(own, want, before, 1e-4)
