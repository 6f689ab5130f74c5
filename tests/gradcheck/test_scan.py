"""`cnnbench gradcheck` on random networks: no false alarms in either precision, no bug missed.

`CNNBENCH_TEST_ALL=1` draws fifty times as many networks.
"""

import contextlib
import dataclasses
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.data.catalog import DatasetInfo
from cnnbench.errors import UsageError
from cnnbench.gradcheck import backprop, check, finite_differences
from cnnbench.gradcheck.autodiff import Reference
from cnnbench.gradcheck.backprop import rule_of
from cnnbench.gradcheck.check import TOLERANCES, Agreement, Dtype
from cnnbench.gradcheck.finite_differences import DELTA
from cnnbench.gradcheck.losses import Objective
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import Rule, Shape
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.training.losses import Score
from tests.gradcheck.test_check import conclusion
from tests.integration.test_random_graphs import examples
from tests.support.graphs import CLASSES, Layers, graphs
from tests.support.oracles import Array, make_plan

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
PRECISIONS: tuple[Dtype, ...] = ("float32", "float64")
Graph = tuple[Layers, Shape, Shape]
Weights = dict[str, dict[str, Array]]


# Networks.


def loaded_graph(graph: Graph, seed: int = 0, loss: str = "mse") -> Loaded:
    """A random graph in the form of an experiment file."""
    layers, input_shape, output_shape = graph
    plan = make_plan(layers, input_shape, output_shape)
    classify = len(output_shape) == 1
    experiment = Experiment.model_validate(
        {
            "name": "random",
            "task": "classify" if classify else "reconstruct",
            "dataset": {"name": "mnist"},
            "model": {"layers": layers},
            "seeds": [seed],
            "train": {} if classify else {"loss": loss},
        }
    )
    height, width, channels = input_shape
    info = DatasetInfo("random", (height, width, channels), CLASSES, 8, 8, "noise")
    return Loaded(experiment, plan, info, b"", {})


def _scaled(factor: float) -> Callable[[Weights], Weights]:
    def change(weights: Weights) -> Weights:
        return {
            layer: {k: v * np.float32(factor) if k == "kernel" else v for k, v in own.items()}
            for layer, own in weights.items()
        }

    return change


def _offset(by: float) -> Callable[[Weights], Weights]:
    def change(weights: Weights) -> Weights:
        return {
            layer: {k: v + np.float32(by) if k == "bias" else v for k, v in own.items()}
            for layer, own in weights.items()
        }

    return change


def _last_scaled(weights: Weights) -> Weights:
    return weights | {"out": _scaled(1e3)({"out": weights["out"]})["out"]}


# Sources of ill-conditioning; the first changes nothing.
CONDITIONS: dict[str, Callable[[Weights], Weights]] = {
    "initial weights": lambda weights: weights,
    "large weights": _scaled(30),
    "small weights": _scaled(1e-3),
    "large offsets": _offset(1e3),
    "larger offsets": _offset(1e4),
    "saturated softmax": _last_scaled,
}


@contextlib.contextmanager
def conditions(change: Callable[[Weights], Weights]) -> Iterator[list[check.Point]]:
    """Use other weights than a run's and few differences, and compile each network once.

    Yields the points at which derivatives were compared.
    """
    draw, find = check._weights, check.find_point
    compiled: dict[tuple[int, int], Reference] = {}
    points: list[check.Point] = []

    def weights(initial: Any, rng: np.random.Generator, dtype: Dtype) -> Weights:
        return change(draw(initial, rng, dtype))

    def reference(plan: Plan, score: Score, seed: int) -> Reference:
        key = (id(plan), seed)
        if key not in compiled:
            compiled[key] = Reference(plan, score, seed)
        return compiled[key]

    def recorded(*args: Any) -> check.Point:
        points.append(find(*args))
        return points[-1]

    with (
        mock.patch.object(check, "_weights", weights),
        mock.patch.object(check, "Reference", reference),
        mock.patch.object(check, "find_point", recorded),
        mock.patch.object(finite_differences, "MOST", 4),
        mock.patch.object(finite_differences, "SAMPLE", 2),
    ):
        yield points


# Bugs, each in one layer's rule, in both precisions.

Mistake = Callable[[Rule, Node], Rule]


def _of_gradient(change: Callable[[Array], Array], key: str = "kernel") -> Mistake:
    """A bug in the gradient of one weight."""

    def mistake(rule: Rule, node: Node) -> Rule:
        def gradient(delta: Array, *inputs: Array) -> dict[str, Array]:
            own = rule.gradient(delta, *inputs)
            return own | {key: change(own[key])} if key in own else own

        return dataclasses.replace(rule, gradient=gradient)

    return mistake


def _of_error(change: Callable[[Array], Array]) -> Mistake:
    """A bug in the error that a layer propagates to its first input."""

    def mistake(rule: Rule, node: Node) -> Rule:
        def backward(delta: Array, *inputs: Array) -> tuple[Array, ...]:
            first, *others = rule.backward(delta, *inputs)
            return (change(first), *others)

        return dataclasses.replace(rule, backward=backward)

    return mistake


def _turned(kernel: Array) -> Array:
    """A square kernel is transposed, another one rotated."""
    if kernel.ndim == 2:
        return kernel.T if kernel.shape[0] == kernel.shape[1] else kernel[::-1]
    square = kernel.shape[0] == kernel.shape[1]
    return kernel.swapaxes(0, 1) if square else kernel[::-1, ::-1]


def _largest_entry(array: Array) -> Array:
    """One unit of a weight has half its derivative."""
    changed = array.copy()
    changed.flat[np.argmax(np.abs(array))] *= 0.5
    return changed


def _without_border(error: Array) -> Array:
    """The last row of an image, or the last unit, is ignored."""
    changed = error.copy()
    changed[:, -1] = 0
    return changed


MISTAKES: dict[str, Mistake] = {
    "wrong sign of the error": _of_error(lambda e: -e),
    "missing factor in the error": _of_error(lambda e: 2 * e),
    "error off by one": _of_error(lambda e: np.roll(e, 1, axis=1)),
    "border ignored": _of_error(_without_border),
    "1% in the error": _of_error(lambda e: e * e.dtype.type(1.01)),
    "wrong sign of the kernel": _of_gradient(lambda g: -g),
    "kernel transposed": _of_gradient(_turned),
    "missing factor in the kernel": _of_gradient(lambda g: g / 2),
    "a use of a kernel ignored": _of_gradient(lambda g: 0 * g),
    "1% in the kernel": _of_gradient(lambda g: g * g.dtype.type(1.01)),
    "one entry of the kernel": _of_gradient(_largest_entry),
    "one entry of the bias": _of_gradient(_largest_entry, "bias"),
    "1% in the scale": _of_gradient(lambda g: g * g.dtype.type(1.01), "scale"),
}


@contextlib.contextmanager
def mistaken(mistake: Mistake, layer: str) -> Iterator[None]:
    """Insert a bug into the backward pass of one layer."""

    def rule(plan: Plan, node: Node, *others: Any) -> Rule:
        right = rule_of(plan, node, *others)
        return mistake(right, node) if node.name == layer else right

    with mock.patch.object(backprop, "rule_of", rule):
        yield


# Bugs that have to be found.


@dataclasses.dataclass(frozen=True)
class Effect:
    """Effect of a bug on one array of derivatives.

    Args:
      change: largest change due to the bug.
      noise: largest change due to rounding.
      size: largest derivative of the array.
      scale: largest derivative of the layer's arrays of this kind.
      dtype: dtype of the derivatives.
    """

    change: float
    noise: float
    size: float
    scale: float
    dtype: Dtype

    def verdicts(self) -> set[Agreement]:
        """The verdicts that are right for the array's layer."""
        info, bar = np.finfo(self.dtype), 3 * TOLERANCES[self.dtype].autodiff
        hidden = bar * self.size + 2 * self.noise + 100 * float(info.tiny / info.eps)
        if not self.change > hidden or not np.isfinite(self.change):
            return set(Agreement)
        if self.change > 100 * self.noise:
            return {Agreement.WRONG}
        below = self.change <= bar * self.scale
        return {Agreement.WRONG, Agreement.IMPRECISE, *[Agreement.OK] * below}


def effects(point: check.Point, mistake: Mistake, at: str) -> dict[str, list[Effect]]:
    """Effect of a bug in one layer on each layer, without gradcheck's own bounds."""
    dtype: Dtype = "float64" if point.x.dtype == np.float64 else "float32"
    clean, exact = (
        point.gradients,
        backprop.forward_and_backward(point.exact.network, point.exact.x)[1],
    )
    narrow, rounded = check._lost_in_float32(point)
    with mistaken(mistake, at):
        broken = backprop.forward_and_backward(point.network, point.x)[1]

    def far(one: Any, other: Any, layer: str, key: str) -> float:
        return float(np.abs(check._of(one, layer, key) - check._of(other, layer, key)).max())

    def effect(layer: str, key: str, keys: Sequence[str]) -> Effect:
        sizes = {k: float(np.abs(check._of(clean, layer, k)).max()) for k in keys}
        noise = max(
            far(clean, exact, layer, key),
            far(point.autodiff, exact, layer, key),
            1e-8 * far(narrow, rounded, layer, key),
        )
        scale = max([*sizes.values(), check.NEGLIGIBLE * abs(point.exact.cost_here)])
        return Effect(far(broken, clean, layer, key), noise, sizes[key], scale, dtype)

    return {
        layer: [effect(layer, key, keys) for keys in ([DELTA], list(own)) for key in keys]
        for layer, own in ((n, clean.weights.get(n, {})) for n in clean.delta)
    }


# The scan.


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A network, and the points at which its derivatives are compared."""

    graph: Graph
    seed: int
    loss: str
    condition: str

    @property
    def loaded(self) -> Loaded:
        """The network as loaded from a file."""
        return loaded_graph(self.graph, self.seed, self.loss)


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """A random graph, ill-conditioned in most cases."""
    layers, input_shape, output_shape = draw(graphs())
    loss = draw(st.sampled_from(["mse", "mae", "binary_cross_entropy"]))
    epsilon = draw(st.sampled_from([None, 1e-9]))
    if loss == "binary_cross_entropy" and len(output_shape) == 3:
        layers["out"]["activation"] = "sigmoid"
    for layer in layers.values():
        if layer["op"] == "batch_norm" and epsilon:
            layer["epsilon"] = epsilon
    graph = (layers, input_shape, output_shape)
    return Drawn(graph, draw(st.integers(0, 99)), loss, draw(st.sampled_from(list(CONDITIONS))))


def scan(one: Drawn, picks: random.Random, number: int) -> Iterator[tuple[Any, ...]]:
    """False verdicts on correct code, and on bugs that change a layer's derivatives."""
    with np.errstate(all="ignore"), conditions(CONDITIONS[one.condition]) as points:
        try:
            found = {dtype: check.check_gradients(one.loaded, dtype) for dtype in PRECISIONS}
        except UsageError as error:  # a sampling layer's variance overflows: nothing to compare
            if np.isfinite(points[0].exact.cost_here):
                yield "correct code", str(error)
            return
        for dtype, right in found.items():
            wrong = [layer.node.name for layer in right.layers if layer.verdict is Agreement.WRONG]
            if wrong:
                yield "correct code", dtype, wrong
        clean = points[:2]
        for _ in range(number):
            name, at = picks.choice(list(MISTAKES)), picks.choice(list(one.graph[0]))
            effects_found = [effects(point, MISTAKES[name], at) for point in clean]
            hit = [layer for layer, all_ in effects_found[1].items() if any(e.change for e in all_)]
            if not hit:
                continue
            target = picks.choice(hit)
            for dtype, effect in zip(PRECISIONS, effects_found, strict=True):
                with mistaken(MISTAKES[name], at):
                    (layer,) = check.check_gradients(one.loaded, dtype, target).layers
                allowed = set(Agreement).intersection(*(e.verdicts() for e in effect[target]))
                if layer.verdict not in allowed:
                    yield name, at, target, dtype, layer.verdict.value, effect[target]


@pytest.mark.slow
@examples(3)
@given(one=drawn(), pick=st.integers(0, 2**32))
def test_verdicts_on_random_networks_are_right(one: Drawn, pick: int) -> None:
    """In both precisions; bugs in one layer's rule are found wherever rounding is smaller."""
    assert list(scan(one, random.Random(pick), 3)) == []


@pytest.mark.skipif("CNNBENCH_TEST_ALL" not in os.environ, reason="CNNBENCH_TEST_ALL is not set")
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(
    "path",
    sorted(path for path in EXPERIMENTS.rglob("*.yaml") if path.parent.name != "python"),
    ids=lambda p: str(p.relative_to(EXPERIMENTS)),
)
def test_shipped_experiments_agree_at_other_seeds(path: Path, dtype: Dtype) -> None:
    for seed in range(1, 4):
        loaded = load_experiment(path, (f"seeds=[{seed}]",))
        with conditions(CONDITIONS["initial weights"]):
            found = check.check_gradients(loaded, dtype)
        assert [layer.node.name for layer in found.layers if not layer.right] == []


# Ill-conditioning, case by case.

IMAGE = (8, 8, 1)
CONV: dict[str, Any] = {"op": "conv", "filters": 2, "kernel": 3}
TANH: dict[str, Any] = CONV | {"padding": "same", "activation": "tanh"}
NORM: dict[str, Any] = {"op": "batch_norm", "epsilon": 1e-9}
CLASSIFIER: Layers = {"out": {"op": "dense", "units": CLASSES}}
SATURATED: Layers = {
    "conv": CONV | {"activation": "tanh"},
    "out": {"op": "dense", "units": 64, "activation": "sigmoid"},
    "image": {"op": "reshape", "shape": IMAGE},
}
SHORT: dict[str, tuple[Graph, str, set[str]]] = {
    "saturated sigmoid": ((SATURATED, IMAGE, IMAGE), "large weights", {"conv", "out", "image"}),
    "saturated tanh": (
        ({f"conv{i}": TANH for i in range(12)} | CLASSIFIER, IMAGE, (CLASSES,)),
        "large weights",
        {"out", "conv11", "conv10", "conv0"},
    ),
    "variance of almost 0": (
        (
            {"conv": CONV, "norm": NORM, "pool": {"op": "avg_pool", "size": 2}, "norm2": NORM}
            | CLASSIFIER,
            IMAGE,
            (CLASSES,),
        ),
        "initial weights",
        {"norm"},
    ),
}


@pytest.mark.parametrize("case", SHORT)
@pytest.mark.sampled(1)
def test_bad_conditioning_is_imprecise_and_float64_is_suggested(case: str) -> None:
    graph, condition, short = SHORT[case]
    loaded = loaded_graph(graph, loss="binary_cross_entropy")
    with conditions(CONDITIONS[condition]):
        narrow, wide = (check.check_gradients(loaded, dtype) for dtype in PRECISIONS)
    found = [layer.node.name for layer in narrow.layers if layer.verdict is Agreement.IMPRECISE]
    assert short <= set(found)
    assert narrow.right
    assert wide.right
    assert conclusion(narrow).endswith(
        f"float32 has too little precision for {', '.join(found)}. Run with --float64 to confirm."
    )


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_bug_in_an_array_far_smaller_than_the_layers_largest_is_found(dtype: Dtype) -> None:
    """The kernel's gradient is 1e-12 of the bias's, and has the wrong sign."""
    layers = {"small": {"op": "conv", "filters": 2, "kernel": 1}, **CLASSIFIER}
    loaded = loaded_graph((layers, IMAGE, (CLASSES,)))

    def faint(weights: Weights) -> Weights:
        zeros = {"kernel": weights["small"]["kernel"] * 0, "bias": weights["small"]["bias"] * 0}
        zeros["bias"] += zeros["bias"].dtype.type(1e-12)
        return weights | {"small": zeros}

    with conditions(faint):
        (right,) = check.check_gradients(loaded, dtype, "out").layers
        with mistaken(MISTAKES["wrong sign of the kernel"], "out"):
            (wrong,) = check.check_gradients(loaded, dtype, "out").layers
    assert (right.verdict, wrong.verdict) == (Agreement.OK, Agreement.WRONG)
    assert wrong.within_tolerances  # relative to the bias's


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_cost_of_zero_does_not_divide_by_zero(dtype: Dtype) -> None:
    """Softmax is certain of the right class, so the cost and all derivatives are zero."""
    layers: Layers = {"out": {"op": "dense", "units": CLASSES}}
    loaded = loaded_graph((layers, IMAGE, (CLASSES,)))
    certain = np.zeros(CLASSES)
    certain[1] = 1e4
    draw = check._images

    def images(*args: Any) -> tuple[Array, Array]:
        x, labels = draw(*args)
        return x, np.ones_like(labels)

    def weights(initial: Weights) -> Weights:
        out = initial["out"]
        return {"out": out | {"bias": certain.astype(out["bias"].dtype)}}

    with conditions(weights), mock.patch.object(check, "_images", images):
        found = check.check_gradients(loaded, dtype)
    assert found.cost == 0
    assert [layer.verdict for layer in found.layers] == [Agreement.OK]


def test_leaky_relus_side_matches_its_slope() -> None:
    """A subnormal z that XLA flushes to 0 is on the other side, although neither is above 0."""
    layers = {"leaky": {"op": "activation", "activation": "leaky_relu"}}
    plan = make_plan(layers, (1, 1, 1), (1, 1, 1))
    network = backprop.ReferenceNetwork(plan, {}, {}, Objective("mse", np.zeros((1, 1, 1, 1))))
    sides = [
        backprop.sides(network, backprop.feedforward(network, np.full((1, 1, 1, 1), z)))["leaky"]
        for z in (-1e-42, 0.0, 1e-42)
    ]
    assert [bool(side.item()) for side in sides] == [False, True, True]
