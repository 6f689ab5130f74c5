"""Training state: parameters, other model state and optimizer state."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, assert_never

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from cnnbench.errors import StoreError
from cnnbench.graph.plan import Plan
from cnnbench.layers.parameters import is_kernel
from cnnbench.nn.augment import Stream
from cnnbench.nn.python_model import split_model
from cnnbench.runs.weights import Weights
from cnnbench.spec.experiment import TrainSpec
from cnnbench.spec.optimizers import (
    Constant,
    Cosine,
    Decoupled,
    Exponential,
    Linear,
    MultiStep,
    Muon,
    OneCycle,
    OptaxOptimizer,
    Optimizer,
    Polynomial,
    Schedule,
    Step,
    depends_on_total,
    first_group,
)
from cnnbench.training.optim.muon import scale_by_muon

Tree = Any
KEPT = "chosen."  # prefix in a checkpoint: weights of the epoch that the validation images chose
Indices = jax.Array | slice  # of images


class TrainState(NamedTuple):
    """Everything that training updates.

    Args:
      params: the trainable parameters.
      rest: other model state: running statistics and dropout keys.
      opt_state: the optimizer state.
      stream: random numbers of the augmentation; None without one.
    """

    params: Tree
    rest: Tree
    opt_state: Tree
    stream: Stream | None = None

    @property
    def model(self) -> tuple[Tree, Tree]:
        """Parameters and other state to evaluate and to store: with `train.ema`, the average."""
        parts = jax.tree.leaves(self.opt_state, is_leaf=lambda part: isinstance(part, _Averages))
        averages = (part.average for part in parts if isinstance(part, _Averages))
        return next(averages, self.params), self.rest


class _Averages(NamedTuple):
    """State of `_averaging`: the number of steps, and the average of the parameters."""

    number: jax.Array
    average: Tree


class Arrays(NamedTuple):
    """A split on the device: images (n, h, w, c) uint8, labels (n,) int32."""

    images: jax.Array
    labels: jax.Array


class Network(NamedTuple):
    """A model split into graph definitions and state.

    Args:
      training: graph definition in training mode (dropout on).
      evaluation: graph definition in evaluation mode.
      scoring: graph definition in evaluation mode that samples variational codes, since the loss
        is an expectation over them.
      params: initial parameters.
      rest: initial other state.
      stream: random numbers of the augmentation, from the first step; None without one.
    """

    training: Any
    evaluation: Any
    scoring: Any
    params: Tree
    rest: Tree
    stream: Stream | None = None

    @property
    def uses_batch_statistics(self) -> bool:
        """True if the output for an image depends on the other images of its batch."""
        return bool(nnx.to_flat_state(nnx.filter_state(self.rest, nnx.BatchStat)))


def split_network(model: nnx.Module) -> Network:
    """Split a model into graph definitions and state, for plain `jax.jit` and `jax.grad`."""
    model.eval()
    evaluation, _, _ = split_model(model)
    model.set_attributes(sampling=True, raise_if_not_found=False)
    scoring, _, _ = split_model(model)
    model.train()
    training, params, rest = split_model(model)
    return Network(training, evaluation, scoring, params, rest)


def num_params(params: Tree) -> int:
    """Number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def learning_rate(schedule: Schedule, base: float, epochs: int, steps: int) -> Any:
    """The learning rate, constant or as a function of the step number.

    Args:
      schedule: the learning-rate schedule.
      base: the optimizer's learning rate.
      epochs: total number of epochs.
      steps: steps per epoch.
    """
    total = epochs * steps
    if isinstance(schedule, OneCycle):
        return _one_cycle(schedule, base, total)
    rise = round(schedule.warmup_epochs * steps)
    if depends_on_total(schedule):
        rise = min(rise, total - 1)
    if isinstance(schedule, Cosine):
        start, end = 0.0 if rise else base, base * schedule.final_fraction
        return optax.warmup_cosine_decay_schedule(start, base, rise, total, end)
    after = _after_warmup(schedule, base, epochs, steps, rise)
    if not rise:
        return after
    after = after if callable(after) else optax.constant_schedule(after)
    return optax.join_schedules([optax.linear_schedule(0.0, base, rise), after], [rise])


def _after_warmup(
    schedule: Constant | Linear | Polynomial | Exponential | Step | MultiStep,
    base: float,
    epochs: int,
    steps: int,
    rise: int,
) -> Any:
    """The learning rate, constant or as a function of the number of steps after `rise`."""

    def drop(ends: Iterable[int], factor: float) -> Any:  # epochs are counted from the start
        return optax.piecewise_constant_schedule(base, {e * steps - rise: factor for e in ends})

    match schedule:
        case Constant():
            return base
        case Linear(final_fraction=final):
            return optax.linear_schedule(base, base * final, epochs * steps - rise)
        case Polynomial(power=power, final_fraction=final):
            return optax.polynomial_schedule(base, base * final, power, epochs * steps - rise)
        case Exponential(rate=rate):
            return optax.exponential_decay(base, steps, rate)
        case Step(every=every, factor=factor):
            return drop(range(every, epochs, every), factor)
        case MultiStep(milestones=milestones, factor=factor):
            return drop(milestones, factor)
        case _:
            assert_never(schedule)


def _one_cycle(schedule: OneCycle, most: float, total: int) -> Callable[[Any], Any]:
    """The rates of PyTorch's OneCycleLR; those of optax's function of this name differ."""
    first = most / schedule.div_factor
    final = first / schedule.final_div_factor
    top, last = schedule.pct_start * total - 1, total - 1

    def between(start: float, end: float, fraction: Any) -> Any:
        return end + (start - end) / 2 * (1 + jnp.cos(jnp.pi * fraction))

    def rate(step: Any) -> Any:
        rising = between(first, most, step / (top or 1))
        falling = between(most, final, (step - top) / (last - top))
        return jnp.where(step <= top, rising, falling)

    return rate


def build_optimizer(
    spec: TrainSpec, steps: int, plan: Plan | None = None
) -> optax.GradientTransformation:
    """The optax optimizer of an experiment.

    Args:
      spec: the training section of the experiment.
      steps: steps per epoch, for the schedule.
      plan: the network; None for a Python model.
    """

    def scheduled(base: float) -> Any:
        return learning_rate(spec.schedule, base, spec.epochs, steps)

    parts = [_grouped(spec, scheduled, plan)]
    if spec.clip and spec.clip.norm:
        parts.insert(0, optax.clip_by_global_norm(spec.clip.norm))
    if spec.clip and spec.clip.value:
        parts.insert(0, optax.clip(spec.clip.value))
    if spec.ema:
        parts.append(_averaging(spec.ema.decay))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _averaging(decay: float) -> optax.GradientTransformation:
    """Keep the moving average of the parameters, which starts with those after the first step.

    It is the last transformation of a chain, and changes no updates.
    """

    def init(params: Tree) -> _Averages:
        # A copy, since the buffers of parameters and optimizer state are donated.
        return _Averages(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Tree, state: _Averages, params: Tree = None) -> tuple[Tree, _Averages]:
        kept = jnp.where(state.number == 0, 0.0, decay)
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, state.average, new)
        return updates, _Averages(state.number + 1, average)

    return optax.GradientTransformation(init, update)


def _grouped(
    spec: TrainSpec, scheduled: Callable[[float], Any], plan: Plan | None
) -> optax.GradientTransformation:
    """The update rules of all parameter groups."""
    rest = _rule(spec.optimizer, scheduled, plan)
    if not spec.groups:
        return rest
    groups = spec.groups

    def group_of(path: tuple[Any, ...], _: Any) -> str:
        first, *others = _keys(path)
        return str(first_group(groups, others[0] if first in _ROOTS else first))

    own = {
        str(i): _rule(group.of_group(spec.optimizer), scheduled, plan)
        for i, group in enumerate(groups)
    }
    label = partial(jax.tree_util.tree_map_with_path, group_of)
    return optax.partition({**own, str(None): rest}, label)


def _rule(
    spec: Optimizer, scheduled: Callable[[float], Any], plan: Plan | None
) -> optax.GradientTransformation:
    """The update rule, with weight decay.

    Args:
      spec: the optimizer.
      scheduled: the learning rate, constant or as a function of the step, from an initial one.
      plan: the network; None for a Python model.
    """
    if isinstance(spec, Muon):
        return _muon_with_adamw(spec, scheduled, plan)
    return _with_decay(spec, scheduled(spec.learning_rate))


def _muon_with_adamw(
    spec: Muon, scheduled: Callable[[float], Any], plan: Plan | None
) -> optax.GradientTransformation:
    """Muon for kernels, but by choice the last one, and AdamW for the rest."""
    last = last_kernel_layer(plan) if plan and spec.last_layer == "adamw" else None
    mask = kernels if spec.decay_on == "kernels" else None

    def rule_of(path: tuple[Any, ...], value: jax.Array) -> str:
        *layer, name = _keys(path)
        return "muon" if decays(name, value.ndim) and last not in layer else "adamw"

    muon = optax.chain(
        scale_by_muon(spec.momentum, spec.ns_steps, nesterov=spec.nesterov),
        optax.add_decayed_weights(spec.weight_decay, mask),
        optax.scale_by_learning_rate(scheduled(spec.learning_rate)),
    )
    adamw = optax.adamw(
        scheduled(spec.adam_learning_rate),
        spec.adam_b1,
        spec.adam_b2,
        spec.adam_eps,
        weight_decay=spec.weight_decay,
        mask=mask,
    )
    label = partial(jax.tree_util.tree_map_with_path, rule_of)
    return optax.partition({"muon": muon, "adamw": adamw}, label)


def last_kernel_layer(plan: Plan) -> str | None:
    """Name of the last layer with a kernel of its own; None if there is none."""
    nodes = reversed(plan.nodes)
    return next((n.name for n in nodes if any(map(is_kernel, n.layout.params))), None)


def _with_decay(spec: OptaxOptimizer, rate: Any) -> optax.GradientTransformation:
    """The update rule of optax, with weight decay."""
    options = spec.model_dump(exclude={"name", "learning_rate", "weight_decay", "decay_on"})
    make: Callable[..., optax.GradientTransformation] = getattr(optax, spec.name)
    mask = kernels if spec.decay_on == "kernels" else None
    if isinstance(spec, Decoupled):
        return make(rate, weight_decay=spec.weight_decay, mask=mask, **options)
    rule = make(rate, **options)
    if not spec.weight_decay:
        return rule
    return optax.chain(optax.add_decayed_weights(spec.weight_decay, mask), rule)


def kernels(params: Tree) -> Tree:
    """True for each parameter that decays by default: the kernels."""

    def decide(path: tuple[Any, ...], value: jax.Array) -> bool:
        return decays(_keys(path)[-1], value.ndim)

    return jax.tree_util.tree_map_with_path(decide, params)


def decays(name: str, ndim: int) -> bool:
    """True for arrays of two or more axes, except biases, scales and vectors that are looked up.

    Args:
      name: name of the parameter, without its layer.
      ndim: number of its axes.

    >>> decays("out_kernel", 2), decays("codebook", 2), decays("scale", 1)
    (True, False, False)
    """
    return ndim > 1 and not name.endswith(("bias", "scale", "embedding", "token", "codebook"))


def init_state(network: Network, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    # Jitted as one program; otherwise every array of zeros would be compiled separately.
    opt_state = jax.jit(optimizer.init)(network.params)
    return TrainState(network.params, network.rest, opt_state, network.stream)


def evaluated(state: TrainState) -> TrainState:
    """The part of a state that is evaluated and stored, without an optimizer."""
    return TrainState(*state.model, ())


def values_of(state: TrainState, kept: TrainState | None = None) -> dict[str, NDArray[Any]]:
    """All values of a state by name, on the host: the content of a checkpoint.

    Args:
      state: the state.
      kept: weights of an earlier epoch, from `evaluated`; None if they are not part of it.
    """
    named = jax.tree_util.tree_flatten_with_path(state)[0]
    own = {_path_name(path): np.asarray(jax.device_get(_plain(leaf))) for path, leaf in named}
    return own | {KEPT + name: value for name, value in (values_of(kept) if kept else {}).items()}


def kept_values(values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The values of `kept` in a checkpoint."""
    return {name.removeprefix(KEPT): v for name, v in values.items() if name.startswith(KEPT)}


def with_values(state: TrainState, values: Mapping[str, NDArray[Any]], where: str) -> TrainState:
    """Restore a state from the values of a checkpoint.

    Args:
      state: a state of the same structure.
      values: the result of `values_of`.
      where: origin of the values, for error messages.

    Raises:
      StoreError: the values do not fit the state.
    """
    named, structure = jax.tree_util.tree_flatten_with_path(state)
    want = {_path_name(path): leaf for path, leaf in named}
    for name, leaf in want.items():
        found, plain = values.get(name), _plain(leaf)
        if found is None or (found.shape, found.dtype) != (plain.shape, plain.dtype):
            raise StoreError(f"{where}: '{name}' {_misfit(leaf, plain, found)}.")
    leaves = [_like(leaf, values[name]) for name, leaf in want.items()]
    restored: TrainState = jax.tree.unflatten(structure, leaves)
    return restored


def _misfit(leaf: Any, plain: Any, found: "NDArray[Any] | None") -> str:
    """Explain why a value does not fit; older versions trained under any JAX settings."""
    if found is not None and _is_key(leaf):
        return (
            "is a key of a different random number generator (JAX_DEFAULT_PRNG_IMPL), used by an"
            f" older version of cnnbench; {_RERUN}"
        )
    if found is not None and found.shape == plain.shape:
        return (
            f"is {found.dtype}, not {plain.dtype}: an older version of cnnbench trained with"
            f" different JAX settings (JAX_ENABLE_X64); {_RERUN}"
        )
    return f"does not fit this network; {_WRONG_RUN}"


def stack(states: Sequence[TrainState]) -> TrainState:
    """Stack the states of several seeds along a new first axis; a single state is unchanged."""
    first, *others = states
    return jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *states) if others else first


def unstack(state: TrainState, number: int) -> Iterator[TrainState]:
    """The state of each of `number` seeds."""
    for index in range(number):
        yield jax.tree.map(lambda leaf, n=index: leaf[n], state) if number > 1 else state


def _path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _plain(leaf: Any) -> Any:
    """Dropout keys as plain arrays; other leaves unchanged."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: Any, value: NDArray[Any]) -> Any:
    if _is_key(leaf):
        data = jax.numpy.asarray(value)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return value


def _is_key(leaf: Any) -> bool:
    return bool(jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key))


_ROOTS = ("weights", "parts")  # attributes of a GraphNet that hold the layers by name
_RERUN = "re-run the experiment"
_WRONG_RUN = f"the file belongs to another run, so {_RERUN}"


def weights_of(params: Tree, rest: Tree, *, layers: bool) -> dict[str, NDArray[Any]]:
    """Parameters and batch statistics by name, on the host.

    Dropout keys are excluded: a trained network needs none.

    Args:
      params: parameters of the network.
      rest: other state of the network.
      layers: True for a graph of layers; the names in a Python model are attribute paths.

    Returns:
      Arrays by name.
    """
    learned = jax.device_get((params, _without_keys(rest)))
    return {name: np.asarray(value, order="C") for name, value in _named(learned, layers=layers)}


def with_weights(network: Network, weights: Weights, *, layers: bool, where: str) -> Network:
    """Load weights into a network.

    Args:
      network: the network, with any parameters.
      weights: the result of `weights_of` for the same network.
      layers: as in `weights_of`.
      where: origin of the weights, for error messages.

    Raises:
      StoreError: the weights do not fit the network.
    """
    state = (network.params, _without_keys(network.rest))
    want = dict(_named(state, layers=layers))
    for name, value in want.items():
        if name not in weights:
            raise StoreError(f"{where}: '{name}' is missing; {_WRONG_RUN}.")
        if weights[name].shape != value.shape:
            shapes = f"{list(weights[name].shape)}, but the network's is {list(value.shape)}"
            raise StoreError(f"{where}: '{name}' has shape {shapes}; {_WRONG_RUN}.")
    if unknown := sorted(set(weights) - set(want)):
        raise StoreError(f"{where}: the network has no '{unknown[0]}'; {_WRONG_RUN}.")
    values = [jax.numpy.asarray(weights[name], value.dtype) for name, value in want.items()]
    params, learned = jax.tree.unflatten(jax.tree.structure(state), values)
    keys = nnx.filter_state(network.rest, nnx.RngState)
    return network._replace(params=params, rest=nnx.merge_state(keys, learned))


def _without_keys(rest: Tree) -> Tree:
    return nnx.filter_state(rest, nnx.Not(nnx.RngState))


def _keys(path: tuple[Any, ...]) -> list[str]:
    return [str(step.key) for step in path if isinstance(step, jax.tree_util.DictKey)]


def _named(state: Tree, *, layers: bool) -> Iterator[tuple[str, Any]]:
    """Names and values, in the order of the tree's leaves."""
    for path, value in jax.tree_util.tree_flatten_with_path(state)[0]:
        keys = _keys(path)
        yield ".".join(keys[1:] if layers and keys[0] in _ROOTS else keys), value
