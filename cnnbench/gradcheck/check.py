"""Backpropagation by hand beside autodiff and central differences, layer by layer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import jax
import numpy as np

from cnnbench.errors import UsageError, did_you_mean, or_list
from cnnbench.gradcheck.autodiff import Derivatives, Reference
from cnnbench.gradcheck.backprop import (
    Forward,
    Gradients,
    ReferenceNetwork,
    backpropagate,
    cost,
    crossings,
    feedforward,
    forward_and_backward,
    gradients,
    sides,
)
from cnnbench.gradcheck.finite_differences import DELTA, Landscape, Slopes
from cnnbench.gradcheck.losses import Objective, divergence
from cnnbench.gradcheck.roundoff import perturbed
from cnnbench.graph.plan import Node, Plan
from cnnbench.spec.experiment import Task
from cnnbench.spec.loader import Loaded
from cnnbench.system.arrays import Array
from cnnbench.system.devices import pick_devices
from cnnbench.system.settings import pinned
from cnnbench.training.losses import loss_name, objective, objective_name

Dtype = Literal["float32", "float64"]

NUM_IMAGES = 4
ATTEMPTS = 8  # to find images where rounding puts no unit on the other side of a kink
PROBES = 4  # points nearby, to see whether errors of float32 are random
SHRUNK = 1e-7  # of an error in float32 is left in float64, if it is rounding's: 4e-9 or so
MARGIN = 8.0  # how many times as large as their largest change random errors may be
WIDER = MARGIN * 2.0**-29  # of an error that is expected in float32 is left in float64
SPREAD = 0.1  # of biases: at zero, many units would stand on their kinks
NOTHING = 1e-6  # of the cost; a derivative that is smaller is taken for zero


class Agreement(StrEnum):
    """Meaning of the errors of a layer's derivatives."""

    OK = "ok"
    IMPRECISE = "imprecise"  # the dtype is short of digits, or of range
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Largest errors that are taken for rounding.

    Args:
      autodiff: between the gradients by hand and by `jax.grad`.
      differences: between those by hand and central differences in float64.
    """

    autodiff: float
    differences: float


TOLERANCES: Mapping[Dtype, Tolerances] = {
    "float64": Tolerances(1e-9, 1e-6),
    "float32": Tolerances(1e-4, 1e-4),
}


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Quantity:
    """One array of derivatives.

    Args:
      name: a weight, or ``delta``, the error of the layer's z.
      by_hand: what the five steps give.
      by_autodiff: what `jax.grad` gives.
      slopes: what central differences give, for some entries.
      scale: the largest derivative by the layer's weights, or by its z; errors are parts of it.
    """

    name: str
    by_hand: Array
    by_autodiff: Array
    slopes: Slopes
    scale: float

    @property
    def size(self) -> float:
        """The array's own largest derivative, which may be far below the layer's."""
        return float(np.max([np.abs(self.by_hand).max(), np.abs(self.by_autodiff).max()]))

    @property
    def error(self) -> float:
        """The largest difference from autodiff."""
        with np.errstate(invalid="ignore"):  # inf - inf is a NaN, and shown as one
            return float(np.abs(self.by_hand - self.by_autodiff).max())

    @property
    def to_autodiff(self) -> float:
        """The largest difference from autodiff, as a part of the scale."""
        return self.error / self.scale

    def alike(self, bar: float) -> bool:
        """Tell whether the error is within a bar relative to the array's own size."""
        info = np.finfo(self.by_hand.dtype)
        return self.error <= bar * self.size + float(info.tiny / info.eps)  # underflow

    @property
    def to_differences(self) -> float | None:
        """The largest error beside the differences; None where none could be taken."""
        if not self.slopes.entries.size:
            return None
        with np.errstate(invalid="ignore"):
            errors = np.abs(self.by_hand.flat[self.slopes.entries] - self.slopes.values)
        return float(errors.max() / self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class LayerCheck:
    """A layer's derivatives.

    Args:
      node: the layer.
      quantities: delta, and one for each weight of its own.
      shares: size of each use's part of the kernel's gradient, where several layers use it.
      tolerances: what counts as rounding.
      explained: whether rounding explains errors above a bar. Those of float32 are gone in
        float64; those of float64 are as much smaller than float32's as it has more digits.
    """

    node: Node
    quantities: tuple[Quantity, ...]
    shares: Mapping[str, float]
    tolerances: Tolerances
    explained: bool = False

    @property
    def to_autodiff(self) -> float:
        """The largest error beside autodiff."""
        return _largest(quantity.to_autodiff for quantity in self.quantities)

    @property
    def to_differences(self) -> float | None:
        """The largest error beside the differences; None where none could be taken."""
        found = [e for q in self.quantities if (e := q.to_differences) is not None]
        return _largest(found) if found else None

    @property
    def taken(self) -> int:
        """Entries that were compared with differences."""
        return sum(q.slopes.entries.size for q in self.quantities)

    @property
    def skipped(self) -> int:
        """Entries that had a kink too near."""
        return sum(q.slopes.skipped for q in self.quantities)

    @property
    def verdict(self) -> Agreement:
        """Meaning of the errors."""
        return (
            Agreement.OK
            if self.right
            else Agreement.IMPRECISE
            if self.explained
            else Agreement.WRONG
        )

    @property
    def near(self) -> bool:
        """Tell whether the errors are within the tolerances; a NaN never is."""
        differences = self.to_differences
        near = self.to_autodiff <= self.tolerances.autodiff
        return near and (differences is None or differences <= self.tolerances.differences)

    @property
    def alike(self) -> bool:
        """Tell whether each array agrees with autodiff relative to its own size."""
        return all(quantity.alike(self.tolerances.autodiff) for quantity in self.quantities)

    @property
    def right(self) -> bool:
        """Tell whether the errors are within the tolerances.

        An array that is far smaller than the layer's largest derivative also has to agree relative
        to its own size, unless rounding explains that it does not: the terms of a bias before a
        batch norm cancel, and leave nothing but rounding.
        """
        return self.near and (self.alike or self.explained)


@dataclass(frozen=True, slots=True, eq=False)
class GradCheck:
    """What a check found.

    Args:
      title: of the experiment.
      dtype: of the gradients by hand and by autodiff.
      num_images: how many images.
      tolerances: what counts as rounding.
      loss: the name of the cost.
      cost: by hand.
      cost_by_jax: by the network that is trained.
      doubtful: units that rounding puts on another side of a kink in one of them.
      layers: those that were asked for.
      overflows: values exceed float32's range, and not float64's.
    """

    title: str
    dtype: Dtype
    num_images: int
    tolerances: Tolerances
    loss: str
    cost: float
    cost_by_jax: float
    doubtful: int
    layers: tuple[LayerCheck, ...]
    overflows: bool = False

    @property
    def right(self) -> bool:
        """Tell whether no layer is wrong."""
        return all(layer.verdict is not Agreement.WRONG for layer in self.layers)


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """Images and weights, and all derivatives there.

    Args:
      network: what the cost depends on.
      x: the images.
      forward: by hand.
      gradients: by hand.
      autodiff: by JAX.
      exact: the same point in float64, without derivatives.
      doubtful: units that rounding puts on another side of a kink in one of them.
    """

    network: ReferenceNetwork
    x: Array
    forward: Forward
    gradients: Gradients
    autodiff: Derivatives
    exact: Landscape
    doubtful: int


@pinned()
@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # the report names what overflows
def check_gradients(loaded: Loaded, dtype: Dtype, layer: str | None = None) -> GradCheck:
    """Backpropagates by hand, and compares.

    Images are random, biases too; what dropout draws is taken from the network.

    Args:
      loaded: the experiment.
      dtype: what is computed in; central differences are in float64 always.
      layer: only this one; all of them if None.

    Raises:
      UsageError: the model is a Python class, there is no such layer, or the loss is not finite.
    """
    plan = require_layer(loaded, layer)
    point = find_point(loaded, plan, dtype)
    if not np.isfinite(point.exact.height):
        _require_finite(loaded, plan, point)
    names = [node.name for node in plan.nodes] if layer is None else [layer]
    layers = tuple(_check_layer(plan.by_name[name], point, dtype) for name in names)
    if not all(each.near and each.alike for each in layers):
        explain = _in_float32(loaded, plan, point) if dtype == "float32" else _in_float64(point)
        layers = tuple(_explained(each, explain) for each in layers)
    return GradCheck(
        title=loaded.experiment.type_title,
        dtype=dtype,
        num_images=NUM_IMAGES,
        tolerances=TOLERANCES[dtype],
        loss=objective_name(loaded.experiment),
        cost=cost(point.network, point.forward),
        cost_by_jax=point.autodiff.cost,
        doubtful=point.doubtful,
        layers=layers,
        overflows=dtype == "float32" and _overflows(point),
    )


def _require_finite(loaded: Loaded, plan: Plan, point: Point) -> None:
    """Refuses a loss that is not finite in float64, neither by hand nor by JAX.

    Raises:
      UsageError: there are no derivatives to compare.
    """
    if np.isfinite(_in_jax_float64(loaded, plan, point)[1].cost):
        return  # a mistake by hand
    message = f"{loaded.experiment.name}: the loss at the initial weights is {point.exact.height}"
    remedy = "raise dataset.pixel_scale, or add a batch_norm before it"
    raise UsageError(f"{message}: {_first_not_finite(point.exact)}; {remedy}.")


def _first_not_finite(exact: Landscape) -> str:
    """The first layer whose values overflow, or the part of the cost that does."""
    network, forward = exact.network, exact.forward
    for node in network.plan.nodes:
        if not all(np.isfinite(each[node.name]).all() for each in (forward.z, forward.a)):
            return f"layer '{node.name}' is the first with a value that is not finite"
        if node not in network.plan.samples:
            continue
        if not np.isfinite(divergence(*forward.read_by(node))).all():
            at = f"the KL divergence of layer '{node.name}'"
            return f"{at} is the first value that is not finite"
    return f"the {network.objective.loss} of layer '{network.plan.output}' overflows"


def _overflows(point: Point) -> bool:
    """Whether float32 overflows where float64 does not: on the way, or in a derivative."""
    forward = point.exact.forward
    _, found = forward_and_backward(point.exact.network, point.exact.x)
    values = jax.tree.leaves((forward.z, forward.a, found.delta, found.weights))
    if max(float(np.abs(value).max()) for value in values) > np.finfo(np.float32).max:
        return True
    try:
        with np.errstate(over="raise"):
            cost(point.network, forward_and_backward(point.network, point.x)[0])
    except FloatingPointError:
        return True
    return False


def require_layer(loaded: Loaded, layer: str | None) -> Plan:
    """The network, if it is one of layers, and has this one.

    Raises:
      UsageError: otherwise.
    """
    plan, name = loaded.plan, loaded.experiment.name
    if plan is None:
        message = f"{name}: '{loaded.experiment.model.python}' is a Python model"
        raise UsageError(f"{message}, which has no layers to go through; write model.layers.")
    names = [node.name for node in plan.nodes]
    if layer is not None and layer not in names:
        message = f"--layer: {name} has no layer '{layer}'{did_you_mean(layer, names)}"
        raise UsageError(f"{message}; write {or_list(names)}.")
    return plan


def find_point(loaded: Loaded, plan: Plan, dtype: Dtype) -> Point:
    """A random point where rounding decides no unit's side of its kink.

    Of some points, the first such one, or the one with the fewest such units.

    Args:
      loaded: the experiment.
      plan: its network.
      dtype: what is computed in.
    """
    points: list[Point] = []
    seed, loss = loaded.experiment.seeds[0], loss_name(loaded.experiment)
    # On the CPU products are as exact as their dtype, which they need not be on a GPU.
    with jax.enable_x64(dtype == "float64"), jax.default_device(pick_devices("cpu")[0]):
        reference = Reference(plan, objective(loaded.experiment), seed)
        draws = reference.draws(NUM_IMAGES, dtype)
        while len(points) < ATTEMPTS and not (points and points[-1].doubtful == 0):
            rng = np.random.default_rng([seed, len(points)])
            x, targets = _images(loaded, plan, rng, dtype)
            weights = _weights(reference.initial(), rng, dtype)
            network = ReferenceNetwork(plan, weights, draws, Objective(loss, targets))
            points.append(_point(network, x, reference, dtype))
    return min(points, key=lambda point: point.doubtful)


def _weights(
    initial: Mapping[str, Mapping[str, Array]], rng: np.random.Generator, dtype: Dtype
) -> dict[str, dict[str, Array]]:
    """Kernels as a run begins with them; biases and scales are moved from where they begin."""
    return {
        layer: {
            name: (value + (name != "kernel") * SPREAD * rng.normal(size=value.shape)).astype(dtype)
            for name, value in own.items()
        }
        for layer, own in initial.items()
    }


def _images(
    loaded: Loaded, plan: Plan, rng: np.random.Generator, dtype: Dtype
) -> tuple[Array, Array]:
    """Random images; labels, or the images themselves, as targets."""
    brightest = 255 / loaded.experiment.dataset.pixel_scale
    x = (brightest * rng.random((NUM_IMAGES, *plan.input_shape))).astype(dtype)
    if loaded.experiment.task is Task.CLASSIFY:
        return x, rng.integers(0, plan.output_shape[0], NUM_IMAGES, np.int32)
    return x, x


def _point(network: ReferenceNetwork, x: Array, reference: Reference, dtype: Dtype) -> Point:
    forward, by_hand = forward_and_backward(network, x)
    autodiff = reference.derivatives(network.weights, x, network.objective.targets)
    exact = _exact(network, x, TOLERANCES[dtype].differences)
    doubtful = max(
        crossings(exact.home, sides(network, other)) for other in (forward, autodiff.forward)
    )
    return Point(network, x, forward, by_hand, autodiff, exact, doubtful)


def _exact(network: ReferenceNetwork, x: Array, accuracy: float) -> Landscape:
    """The same point in float64."""
    wide, exact_x = _converted(network, x, "float64")
    forward = feedforward(wide, exact_x)
    return Landscape(wide, exact_x, forward, accuracy)


def _converted(network: ReferenceNetwork, x: Array, dtype: Dtype) -> tuple[ReferenceNetwork, Array]:
    """A network and its images in another dtype."""

    def convert(value: Array) -> Array:
        return np.asarray(value, dtype)

    weights, draws = jax.tree.map(convert, (network.weights, network.draws))
    target = network.objective
    if target.targets.dtype == x.dtype:  # images, not labels
        target = replace(target, targets=convert(target.targets))
    return replace(network, weights=weights, draws=draws, objective=target), convert(x)


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Derivatives at the point, or at one whose weights and images differ in their last digits.

    Args:
      by_hand: in float32.
      autodiff: in float32.
      exact: by hand in float64.
    """

    by_hand: Gradients
    autodiff: Derivatives
    exact: Gradients


@dataclass(frozen=True, slots=True, eq=False)
class Wide:
    """Derivatives in float64 at a point.

    Args:
      gradients: by hand.
      beside: by hand, with every unit on the side of its kink where JAX has it.
      autodiff: by JAX.
      probes: at the point, and nearby.
    """

    gradients: Gradients
    beside: Gradients
    autodiff: Derivatives
    probes: tuple[Probe, ...]


def _widened(loaded: Loaded, plan: Plan, point: Point) -> Wide:
    """All derivatives at the point in float64, the random numbers too."""
    seed, rng, x = loaded.experiment.seeds[0], np.random.default_rng(0), point.exact.x
    network, autodiff = _in_jax_float64(loaded, plan, point)
    with jax.default_device(jax.devices("cpu")[0]):
        narrow = Reference(plan, objective(loaded.experiment), seed)
        first = Probe(
            point.gradients, point.autodiff, forward_and_backward(point.exact.network, x)[1]
        )
        probes = (first, *(_probe(point, narrow, rng) for _ in range(PROBES)))
    return Wide(forward_and_backward(network, x)[1], _beside(network, autodiff), autodiff, probes)


def _in_jax_float64(
    loaded: Loaded, plan: Plan, point: Point
) -> tuple[ReferenceNetwork, Derivatives]:
    """The network with random numbers drawn in float64, and its derivatives by JAX."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        reference = Reference(plan, objective(loaded.experiment), loaded.experiment.seeds[0])
        draws = reference.draws(NUM_IMAGES, "float64")
        network = replace(point.exact.network, draws=draws)
        targets = network.objective.targets
        return network, reference.derivatives(network.weights, point.exact.x, targets)


def _beside(network: ReferenceNetwork, autodiff: Derivatives) -> Gradients:
    """Derivatives by hand from the z and a that JAX has computed.

    At a kink either side's derivative is right; here it is the same one.
    """
    forward = autodiff.forward
    return gradients(network, forward, backpropagate(network, forward))


def _probe(point: Point, reference: Reference, rng: np.random.Generator) -> Probe:
    """At a random point nearby; targets stay, which moves no error by more."""

    def moved(value: Array) -> Array:
        factor = 1 + 4 * np.finfo(np.float32).eps * rng.normal(size=value.shape)
        changed: Array = (value * factor).astype(np.float32)
        return changed

    weights, x = jax.tree.map(moved, point.network.weights), moved(point.x)
    _, by_hand = forward_and_backward(replace(point.network, weights=weights), x)
    autodiff = reference.derivatives(weights, x, point.network.objective.targets)
    wide = replace(point.exact.network, weights=jax.tree.map(np.float64, weights))
    return Probe(by_hand, autodiff, forward_and_backward(wide, x.astype(np.float64))[1])


Explain = Callable[[LayerCheck, Quantity], bool]


def _explained(layer: LayerCheck, explain: Explain) -> LayerCheck:
    """A layer, with rounding's part in its errors, if one is above a bar."""
    if layer.near and layer.alike:
        return layer
    return replace(layer, explained=all(explain(layer, each) for each in layer.quantities))


def _in_float32(loaded: Loaded, plan: Plan, point: Point) -> Explain:
    """A test of whether rounding explains what disagrees in float32.

    It does where the derivatives agree in float64, and the errors of float32 are no larger than
    those of operations that round at random, or change as much as they are large from one point
    to the next, which a mistake's do not (Vignes 1993, "A stochastic arithmetic for reliable
    scientific computation"), or come from units that rounding puts on another side of a kink,
    or from values beyond float32's range.
    """
    overflows = _overflows(point)
    wide, expected = _widened(loaded, plan, point), _expected(point.exact)
    beside = _beside(point.network, point.autodiff)

    def explain(layer: LayerCheck, quantity: Quantity) -> bool:
        at = layer.node.name, quantity.name
        exact = replace(
            quantity, by_hand=_of(wide.beside, *at), by_autodiff=_of(wide.autodiff, *at)
        )
        own = replace(exact, by_hand=_of(wide.gradients, *at))
        same_side = replace(quantity, by_hand=_of(beside, *at))
        lost = _left(quantity.error, expected(*at))
        return (
            (exact.alike(TOLERANCES["float64"].autodiff) or exact.error <= lost)
            and (own.to_differences or 0.0) <= layer.tolerances.differences
            and (
                overflows
                or _is_rounding(layer, quantity, wide, expected(*at))
                or (
                    point.doubtful > 0
                    and _within(same_side, layer.tolerances.autodiff, expected(*at))
                )
            )
        )

    return explain


def _left(error: float, expected: float) -> float:
    """The largest error of float64, from float32's, unless that overflows, and the expected one."""
    return max(WIDER * expected, SHRUNK * error if np.isfinite(error) else 0.0)


def _within(quantity: Quantity, bar: float, expected: float) -> bool:
    return quantity.alike(bar) or quantity.error <= MARGIN * expected


def _is_rounding(layer: LayerCheck, quantity: Quantity, wide: Wide, expected: float) -> bool:
    """Whether the errors of both float32 derivatives are rounding's, or within the bar."""
    name, key = layer.node.name, quantity.name
    within = layer.tolerances.autodiff * quantity.size
    exact = [_of(probe.exact, name, key) for probe in wide.probes]
    for found in (
        [_of(probe.by_hand, name, key) for probe in wide.probes],
        [_of(probe.autodiff, name, key) for probe in wide.probes],
    ):
        first, *others = (got - want for got, want in zip(found, exact, strict=True))
        change = max(float(np.abs(error - first).max()) for error in others)
        if not np.abs(first).max() <= MARGIN * max(change, expected) + within:
            return False
    return True


def _in_float64(point: Point) -> Explain:
    """A test of whether rounding explains what disagrees in float64.

    Where much cancels, float64 loses as many digits as float32 does at the same point, so the
    tolerances grow with the error of float32. A mistake is in both of its derivatives, and is none
    of it.
    """
    lost, expected = _lost_in_float32(point), _expected(point.exact)
    beside = _beside(point.network, point.autodiff)

    def explain(layer: LayerCheck, quantity: Quantity) -> bool:
        at = layer.node.name, quantity.name
        narrow, exact = (_of(each, *at) for each in lost)
        error = _left(float(np.abs(narrow - exact).max()), expected(*at))
        if not np.isfinite(error):
            return False
        factor = max(1.0, error / quantity.scale / layer.tolerances.autodiff)
        same_side = replace(quantity, by_hand=_of(beside, *at))
        near = same_side.alike(layer.tolerances.autodiff) or same_side.error <= error
        return near and (quantity.to_differences or 0.0) <= factor * layer.tolerances.differences

    return explain


def _lost_in_float32(point: Point) -> tuple[Gradients, Gradients]:
    """The derivatives by hand in float32, and in float64 of the same rounded weights and images."""
    narrow = _converted(point.network, point.x, "float32")
    exact = _converted(*narrow, "float64")
    return forward_and_backward(*narrow)[1], forward_and_backward(*exact)[1]


def _expected(exact: Landscape) -> Callable[[str, str], float]:
    """The largest error that rounding in float32 is expected to make, of a layer's array."""
    right = forward_and_backward(exact.network, exact.x)[1]
    rough = [perturbed(exact.network, exact.x, seed)[1] for seed in range(PROBES)]

    def expected(layer: str, name: str) -> float:
        errors = [np.abs(_of(each, layer, name) - _of(right, layer, name)).max() for each in rough]
        return float(np.max(errors))

    return expected


def _of(found: Gradients | Derivatives, layer: str, name: str) -> Array:
    return found.delta[layer] if name == DELTA else found.weights[layer][name]


def _check_layer(node: Node, point: Point, dtype: Dtype) -> LayerCheck:
    hand, jaxs, name = point.gradients, point.autodiff, node.name
    pairs = {DELTA: (hand.delta[name], jaxs.delta[name])}
    weights = hand.weights.get(name, {})
    own = {key: (value, jaxs.weights[name][key]) for key, value in weights.items()}
    quantities = [*_quantities(name, pairs, point.exact), *_quantities(name, own, point.exact)]
    shares = {user: float(np.linalg.norm(g)) for user, g in hand.shares.get(name, {}).items()}
    return LayerCheck(node, tuple(quantities), shares, TOLERANCES[dtype])


def _quantities(
    layer: str, pairs: Mapping[str, tuple[Array, Array]], exact: Landscape
) -> Iterator[Quantity]:
    """Arrays of one scale, by hand and by autodiff, with their slopes."""
    largest = [float(np.abs(array).max()) for pair in pairs.values() for array in pair]
    if not np.isfinite(largest).all():  # float32 overflows, and float64 tells the scale
        right = forward_and_backward(exact.network, exact.x)[1]
        largest = [float(np.abs(_of(right, layer, name)).max()) for name in pairs]
    scale = max([*largest, NOTHING * abs(exact.height), float(np.finfo(float).tiny)])
    for name, (by_hand, by_autodiff) in pairs.items():
        slopes = exact.slopes(layer, name, by_hand, scale)
        yield Quantity(name, by_hand, by_autodiff, slopes, scale)


def _largest(errors: Iterable[float]) -> float:
    """NumPy's, which lets no NaN pass unseen."""
    return float(np.max(list(errors)))
