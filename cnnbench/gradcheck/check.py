"""Gradient check: backpropagation by hand vs. autodiff and central differences, by layer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, assert_never

import jax
import numpy as np

from cnnbench.data.scaling import Scaling
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
from cnnbench.layers.parameters import is_kernel
from cnnbench.runs.experiment import loss_name, objective_name
from cnnbench.spec.experiment import AUTO, BALANCED, Experiment, Task
from cnnbench.spec.loader import Loaded
from cnnbench.system.arrays import Array
from cnnbench.system.devices import pick_devices
from cnnbench.system.settings import pinned
from cnnbench.training.losses import score_in_mean

Dtype = Literal["float32", "float64"]

NUM_IMAGES = 4
ATTEMPTS = 8  # attempts to find images where rounding moves no unit across a kink
PROBES = 4  # nearby points, to test whether float32 errors are random
SHRUNK = 1e-7  # largest float64 error relative to float32's if due to rounding; typically 4e-9
MARGIN = 8.0  # largest random error relative to its largest change between points
WIDER = MARGIN * 2.0**-29  # largest float64 error relative to the expected float32 error
SPREAD = 0.1  # standard deviation of biases; at zero, many units would be at their kinks
_THAWED = {"trainable": True}  # the rules of frozen layers are checked, too
NEGLIGIBLE = 1e-6  # relative to the cost; smaller derivatives count as zero


class Agreement(StrEnum):
    """Interpretation of the errors of a layer's derivatives."""

    OK = "ok"
    IMPRECISE = "imprecise"  # the dtype lacks precision or range
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Largest errors attributed to rounding.

    Args:
      autodiff: tolerance between the gradients by hand and by `jax.grad`.
      differences: tolerance between the gradients by hand and central differences in float64.
    """

    autodiff: float
    differences: float


TOLERANCES: Mapping[Dtype, Tolerances] = {
    "float64": Tolerances(1e-9, 1e-6),
    "float32": Tolerances(1e-4, 1e-4),
}


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Quantity:
    """One array of derivatives, computed in three ways.

    Args:
      name: a weight, or ``delta``, the error of the layer's z.
      by_hand: result of the five steps.
      by_autodiff: result of `jax.grad`.
      slopes: central differences for some entries.
      scale: the largest derivative with respect to the layer's weights, or to its z; errors are
        relative to it.
    """

    name: str
    by_hand: Array
    by_autodiff: Array
    slopes: Slopes
    scale: float

    @property
    def size(self) -> float:
        """The largest derivative in this array, which may be far below the layer's."""
        return float(np.max([np.abs(self.by_hand).max(), np.abs(self.by_autodiff).max()]))

    @property
    def error(self) -> float:
        """The largest difference from autodiff."""
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, and shown as NaN
            return float(np.abs(self.by_hand - self.by_autodiff).max())

    @property
    def to_autodiff(self) -> float:
        """The largest difference from autodiff, relative to the scale."""
        return self.error / self.scale

    def agrees(self, tolerance: float) -> bool:
        """True if the error is within a tolerance relative to the array's own size."""
        info = np.finfo(self.by_hand.dtype)
        return self.error <= tolerance * self.size + float(info.tiny / info.eps)  # underflow

    @property
    def to_differences(self) -> float | None:
        """The largest difference from central differences; None if none could be computed."""
        if not self.slopes.entries.size:
            return None
        with np.errstate(invalid="ignore"):
            errors = np.abs(self.by_hand.flat[self.slopes.entries] - self.slopes.values)
        return float(errors.max() / self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class LayerCheck:
    """The check of one layer's derivatives.

    Args:
      node: the layer.
      quantities: delta, and one quantity for each weight that the layer owns.
      shares: norm of each layer's contribution to the gradient of a shared kernel.
      tolerances: largest errors attributed to rounding.
      explained: True if rounding explains the errors above a tolerance: float32 errors vanish in
        float64, and float64 errors are smaller than float32's by the ratio of their precisions.
    """

    node: Node
    quantities: tuple[Quantity, ...]
    shares: Mapping[str, float]
    tolerances: Tolerances
    explained: bool = False

    @property
    def to_autodiff(self) -> float:
        """The largest difference from autodiff."""
        return _largest(quantity.to_autodiff for quantity in self.quantities)

    @property
    def to_differences(self) -> float | None:
        """The largest difference from central differences; None if none could be computed."""
        found = [e for q in self.quantities if (e := q.to_differences) is not None]
        return _largest(found) if found else None

    @property
    def num_compared(self) -> int:
        """Number of entries compared with central differences."""
        return sum(q.slopes.entries.size for q in self.quantities)

    @property
    def skipped(self) -> int:
        """Number of entries skipped because of a nearby kink."""
        return sum(q.slopes.skipped for q in self.quantities)

    @property
    def verdict(self) -> Agreement:
        """Interpretation of the errors."""
        return (
            Agreement.OK
            if self.right
            else Agreement.IMPRECISE
            if self.explained
            else Agreement.WRONG
        )

    @property
    def within_tolerances(self) -> bool:
        """True if the errors are within the tolerances; NaN never is."""
        differences = self.to_differences
        near = self.to_autodiff <= self.tolerances.autodiff
        return near and (differences is None or differences <= self.tolerances.differences)

    @property
    def agrees(self) -> bool:
        """True if each array agrees with autodiff relative to its own size."""
        return all(quantity.agrees(self.tolerances.autodiff) for quantity in self.quantities)

    @property
    def right(self) -> bool:
        """True if the errors are within the tolerances.

        An array far smaller than the layer's largest derivative must also agree relative to its
        own size, unless rounding explains the difference: the terms of a bias before a batch norm
        cancel and leave only rounding errors.
        """
        return self.within_tolerances and (self.agrees or self.explained)


@dataclass(frozen=True, slots=True, eq=False)
class GradCheck:
    """Result of a gradient check.

    Args:
      title: title of the experiment.
      dtype: dtype of the gradients by hand and by autodiff.
      num_images: number of images.
      tolerances: largest errors attributed to rounding.
      loss: name of the cost.
      cost: the cost by hand.
      cost_by_jax: the cost by the network that is trained.
      doubtful: number of units that rounding moves across a kink, by hand or in JAX.
      layers: the layers checked.
      overflows: True if values exceed float32's range but not float64's.
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
        """True if no layer is wrong."""
        return all(layer.verdict is not Agreement.WRONG for layer in self.layers)


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """Images and weights, with all derivatives at that point.

    Args:
      network: the network and its objective.
      x: the images.
      forward: z and a, by hand.
      gradients: derivatives by hand.
      autodiff: derivatives by JAX.
      exact: the same point in float64, without derivatives.
      doubtful: number of units that rounding moves across a kink, by hand or in JAX.
    """

    network: ReferenceNetwork
    x: Array
    forward: Forward
    gradients: Gradients
    autodiff: Derivatives
    exact: Landscape
    doubtful: int


@pinned()
@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # overflows are reported
def check_gradients(loaded: Loaded, dtype: Dtype, layer: str | None = None) -> GradCheck:
    """Compare backpropagation by hand with autodiff and central differences.

    Images, biases and kernels that start at zero are random; dropout masks are the network's.

    Args:
      loaded: the experiment.
      dtype: dtype of the computation; central differences are always in float64.
      layer: name of the layer to check; all layers if None.

    Raises:
      UsageError: the model is a Python class, the layer is unknown, or the loss is not finite.
    """
    plan = require_layer(loaded, layer)
    point = find_point(loaded, plan, dtype)
    if not np.isfinite(point.exact.cost_here):
        _require_finite(loaded, plan, point)
    names = [node.name for node in plan.nodes] if layer is None else [layer]
    layers = tuple(_check_layer(plan.by_name[name], point, dtype) for name in names)
    if not all(each.within_tolerances and each.agrees for each in layers):
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
    """Reject a loss that is not finite in float64, by hand as well as in JAX.

    Raises:
      UsageError: there are no derivatives to compare.
    """
    if np.isfinite(_in_jax_float64(loaded, plan, point)[1].cost):
        return  # only the computation by hand fails: the check reports it
    message = (
        f"{loaded.experiment.name}: the loss at the initial weights is {point.exact.cost_here}"
    )
    key = "normalize.std" if loaded.experiment.dataset.normalize else "pixel_scale"
    remedy = f"raise dataset.{key}, or add a batch_norm before it"
    raise UsageError(f"{message}: {_first_not_finite(point.exact)}; {remedy}.")


def _first_not_finite(exact: Landscape) -> str:
    """The first layer whose values overflow, or the term of the cost that does."""
    network, forward = exact.network, exact.forward
    for node in network.plan.nodes:
        if not all(np.isfinite(each[node.name]).all() for each in (forward.z, forward.a)):
            return f"the first non-finite value is in layer '{node.name}'"
        if node not in network.plan.samples:
            continue
        if not np.isfinite(divergence(*forward.read_by(node))).all():
            return f"the first non-finite value is the KL divergence of layer '{node.name}'"
    return f"the {network.objective.loss} of layer '{network.plan.output}' overflows"


def _overflows(point: Point) -> bool:
    """True if float32 overflows, in a derivative or on the way, where float64 does not."""
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
    """The network of an experiment with all layers trained, after checking that it has the layer.

    Raises:
      UsageError: the model is a Python class, it has quantizers, or the layer is unknown.
    """
    plan, name = loaded.plan, loaded.experiment.name
    if plan is None:
        message = f"{name}: gradient checks need a graph of layers"
        python = f"'{loaded.experiment.model.python}' is a Python model"
        raise UsageError(f"{message}, and {python}; write model.layers.")
    if plan.quantizers:
        message = f"{name}: the gradient of layer '{plan.quantizers[0].name}' is straight-through"
        raise UsageError(f"{message}, not the derivative; check a network without quantizers.")
    names = [node.name for node in plan.nodes]
    if layer is not None and layer not in names:
        message = f"--layer: {name} has no layer '{layer}'{did_you_mean(layer, names)}"
        raise UsageError(f"{message}; write {or_list(names)}.")
    nodes = (
        node if node.op.is_trained else replace(node, op=node.op.model_copy(update=_THAWED))
        for node in plan.nodes
    )
    return replace(plan, nodes=tuple(nodes))


def find_point(loaded: Loaded, plan: Plan, dtype: Dtype) -> Point:
    """A random point where rounding moves no unit across a kink.

    The first such point of a few attempts, otherwise the one with the fewest such units.

    Args:
      loaded: the experiment.
      plan: its network.
      dtype: dtype of the computation.
    """
    points: list[Point] = []
    seed, loss = loaded.experiment.seeds[0], loss_name(loaded.experiment)
    train = _experiment(loaded).train
    keys = ("label_smoothing", "class_weights", "pos_weight")
    options: Any = {key: getattr(train, key) for key in keys}
    # On CPUs, products have the full precision of their dtype; on GPUs they may not.
    with jax.enable_x64(dtype == "float64"), jax.default_device(pick_devices("cpu")[0]):
        reference = Reference(plan, score_in_mean(_experiment(loaded)), seed)
        draws = reference.draws(NUM_IMAGES, dtype)
        while len(points) < ATTEMPTS and not (points and points[-1].doubtful == 0):
            rng = np.random.default_rng([seed, len(points)])
            x, targets = _images(loaded, plan, rng, dtype)
            weights = _weights(reference.initial(), rng, dtype)
            target = Objective(loss, targets, **options)
            network = ReferenceNetwork(plan, weights, draws, target)
            points.append(_point(network, x, reference, dtype))
    return min(points, key=lambda point: point.doubtful)


def _weights(
    initial: Mapping[str, Mapping[str, Array]], rng: np.random.Generator, dtype: Dtype
) -> dict[str, dict[str, Array]]:
    """Initial kernels of a run; biases and scales are perturbed.

    So are kernels of zeros (`init: zeros`), through which no derivative would reach other layers.
    """
    return {
        layer: {
            name: (value + spread * rng.normal(size=value.shape)).astype(dtype)
            for name, value in own.items()
            for spread in [0 if is_kernel(name) and value.any() else SPREAD]
        }
        for layer, own in initial.items()
    }


def _images(
    loaded: Loaded, plan: Plan, rng: np.random.Generator, dtype: Dtype
) -> tuple[Array, Array]:
    """Random images, with random labels or targets, or the images themselves as targets."""
    brightness = rng.random((NUM_IMAGES, *plan.input_shape))
    x = _scaling(loaded).of_unit(brightness).astype(dtype)
    shape = (NUM_IMAGES, *plan.output_shape)
    match loaded.experiment.task:
        case Task.CLASSIFY:
            return x, rng.integers(0, plan.output_shape[0], NUM_IMAGES, np.int32)
        case Task.REGRESS:
            return x, rng.normal(size=shape).astype(dtype)
        case Task.MULTILABEL:
            return x, rng.integers(0, 2, shape, np.int32)
        case Task.RECONSTRUCT:
            return x, x
        case _:
            assert_never(loaded.experiment.task)


def _experiment(loaded: Loaded) -> Experiment:
    """The experiment; random labels are balanced, so that `balanced` weights are equal.

    Random targets are normalized already.
    """
    train, dataset = loaded.experiment.train, loaded.experiment.dataset
    keys = [key for key in ("class_weights", "pos_weight") if getattr(train, key) == BALANCED]
    equal = train.model_copy(update=dict.fromkeys(keys))
    dataset = dataset.model_copy(update={"normalize_targets": None})
    return loaded.experiment.model_copy(update={"train": equal, "dataset": dataset})


def _scaling(loaded: Loaded) -> Scaling:
    """Scaling of the images; for `auto`, by the statistics of the uniform distribution."""
    dataset = loaded.experiment.dataset
    return Scaling(256.0, (0.5,), (12**-0.5,)) if dataset.normalize == AUTO else dataset.scaling


def _point(network: ReferenceNetwork, x: Array, reference: Reference, dtype: Dtype) -> Point:
    forward, by_hand = forward_and_backward(network, x)
    autodiff = reference.derivatives(network.weights, x, network.objective.targets)
    exact = _exact(network, x, TOLERANCES[dtype].differences)
    doubtful = max(
        crossings(exact.kink_sides, sides(network, other)) for other in (forward, autodiff.forward)
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
    """Derivatives at the point, or at a nearby point that differs in the last digits.

    Args:
      by_hand: derivatives by hand in float32.
      autodiff: derivatives by JAX in float32.
      exact: derivatives by hand in float64.
    """

    by_hand: Gradients
    autodiff: Derivatives
    exact: Gradients


@dataclass(frozen=True, slots=True, eq=False)
class Float64Derivatives:
    """Derivatives in float64 at a point.

    Args:
      gradients: derivatives by hand.
      same_side: derivatives by hand, with every unit on the same side of its kink as in JAX.
      autodiff: derivatives by JAX.
      probes: derivatives at the point and nearby.
    """

    gradients: Gradients
    same_side: Gradients
    autodiff: Derivatives
    probes: tuple[Probe, ...]


def _float64_derivatives(loaded: Loaded, plan: Plan, point: Point) -> Float64Derivatives:
    """All derivatives at the point in float64, with random numbers drawn in float64."""
    seed, rng, x = loaded.experiment.seeds[0], np.random.default_rng(0), point.exact.x
    network, autodiff = _in_jax_float64(loaded, plan, point)
    with jax.default_device(jax.devices("cpu")[0]):
        narrow = Reference(plan, score_in_mean(_experiment(loaded)), seed)
        first = Probe(
            point.gradients, point.autodiff, forward_and_backward(point.exact.network, x)[1]
        )
        probes = (first, *(_probe(point, narrow, rng) for _ in range(PROBES)))
    by_hand = forward_and_backward(network, x)[1]
    return Float64Derivatives(by_hand, _on_same_side(network, autodiff), autodiff, probes)


def _in_jax_float64(
    loaded: Loaded, plan: Plan, point: Point
) -> tuple[ReferenceNetwork, Derivatives]:
    """The network with random numbers drawn in float64, and its derivatives by JAX."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        reference = Reference(plan, score_in_mean(_experiment(loaded)), loaded.experiment.seeds[0])
        draws = reference.draws(NUM_IMAGES, "float64")
        network = replace(point.exact.network, draws=draws)
        targets = network.objective.targets
        return network, reference.derivatives(network.weights, point.exact.x, targets)


def _on_same_side(network: ReferenceNetwork, autodiff: Derivatives) -> Gradients:
    """Derivatives by hand from the z and a that JAX has computed.

    At a kink the derivative of either side is right; this one uses JAX's side.
    """
    forward = autodiff.forward
    return gradients(network, forward, backpropagate(network, forward))


def _probe(point: Point, reference: Reference, rng: np.random.Generator) -> Probe:
    """Derivatives at a random nearby point, with the same targets."""

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
    """The layer with `explained` set, if an error is above a tolerance."""
    if layer.within_tolerances and layer.agrees:
        return layer
    return replace(layer, explained=all(explain(layer, each) for each in layer.quantities))


def _in_float32(loaded: Loaded, plan: Plan, point: Point) -> Explain:
    """A function that decides whether rounding explains a disagreement in float32.

    It does if the derivatives agree in float64, and the errors of float32 are no larger than with
    random rounding, or vary from point to point as much as they are large, which those of a bug
    do not (Vignes 1993, "A stochastic arithmetic for reliable scientific computation"), or come
    from units that rounding moves across a kink, or from values beyond float32's range.
    """
    overflows = _overflows(point)
    wide, expected = _float64_derivatives(loaded, plan, point), _expected(point.exact)
    moved_back = _on_same_side(point.network, point.autodiff)

    def explain(layer: LayerCheck, quantity: Quantity) -> bool:
        at = layer.node.name, quantity.name
        exact = replace(
            quantity, by_hand=_of(wide.same_side, *at), by_autodiff=_of(wide.autodiff, *at)
        )
        own = replace(exact, by_hand=_of(wide.gradients, *at))
        same_side = replace(quantity, by_hand=_of(moved_back, *at))
        lost = _left(quantity.error, expected(*at))
        return (
            (exact.agrees(TOLERANCES["float64"].autodiff) or exact.error <= lost)
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
    """Largest float64 error explained by the error in float32 and by the expected one."""
    return max(WIDER * expected, SHRUNK * error if np.isfinite(error) else 0.0)


def _within(quantity: Quantity, tolerance: float, expected: float) -> bool:
    return quantity.agrees(tolerance) or quantity.error <= MARGIN * expected


def _is_rounding(
    layer: LayerCheck, quantity: Quantity, wide: Float64Derivatives, expected: float
) -> bool:
    """True if the errors of both float32 derivatives look random, or are within the tolerance."""
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
    """A function that decides whether rounding explains a disagreement in float64.

    With cancellation, float64 loses as many digits as float32 does at the same point, so the
    tolerances grow with the error of float32. That error compares two derivatives by hand, so a
    bug in them does not enlarge it.
    """
    lost, expected = _lost_in_float32(point), _expected(point.exact)
    moved_back = _on_same_side(point.network, point.autodiff)

    def explain(layer: LayerCheck, quantity: Quantity) -> bool:
        at = layer.node.name, quantity.name
        narrow, exact = (_of(each, *at) for each in lost)
        error = _left(float(np.abs(narrow - exact).max()), expected(*at))
        if not np.isfinite(error):
            return False
        factor = max(1.0, error / quantity.scale / layer.tolerances.autodiff)
        same_side = replace(quantity, by_hand=_of(moved_back, *at))
        near = same_side.agrees(layer.tolerances.autodiff) or same_side.error <= error
        return near and (quantity.to_differences or 0.0) <= factor * layer.tolerances.differences

    return explain


def _lost_in_float32(point: Point) -> tuple[Gradients, Gradients]:
    """Derivatives by hand in float32, and in float64 at the same rounded weights and images."""
    narrow = _converted(point.network, point.x, "float32")
    exact = _converted(*narrow, "float64")
    return forward_and_backward(*narrow)[1], forward_and_backward(*exact)[1]


def _expected(exact: Landscape) -> Callable[[str, str], float]:
    """A function from (layer, name) to the largest expected float32 rounding error."""
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
    """Quantities with a common scale, with their central differences."""
    largest = [float(np.abs(array).max()) for pair in pairs.values() for array in pair]
    if not np.isfinite(largest).all():  # float32 overflows: take the scale from float64
        right = forward_and_backward(exact.network, exact.x)[1]
        largest = [float(np.abs(_of(right, layer, name)).max()) for name in pairs]
    scale = max([*largest, NEGLIGIBLE * abs(exact.cost_here), float(np.finfo(float).tiny)])
    for name, (by_hand, by_autodiff) in pairs.items():
        slopes = exact.slopes(layer, name, by_hand, scale)
        yield Quantity(name, by_hand, by_autodiff, slopes, scale)


def _largest(errors: Iterable[float]) -> float:
    """The maximum, which is NaN if any error is NaN (unlike Python's `max`)."""
    return float(np.max(list(errors)))
