"""What training starts from: the state of model and optimiser, and the order of the images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, assert_never

import jax
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from cnnbench.errors import StoreError
from cnnbench.nn.python_model import split_model
from cnnbench.runs.weights import Weights
from cnnbench.spec.experiment import TrainSpec
from cnnbench.spec.optimizers import Constant, Cosine, Exponential, Linear, Schedule, Step

Tree = Any
Indices = jax.Array | slice  # of images


class TrainState(NamedTuple):
    """All that training changes.

    Args:
      params: the trained parameters.
      rest: the model's other state: running statistics and dropout keys.
      opt_state: the optimiser's.
    """

    params: Tree
    rest: Tree
    opt_state: Tree


class Arrays(NamedTuple):
    """A split on the device: images (n, h, w, c) uint8, labels (n,) int32."""

    images: jax.Array
    labels: jax.Array


class Network(NamedTuple):
    """A model taken apart into structure and state.

    Args:
      training: structure in training mode (dropout on).
      evaluation: structure in evaluation mode.
      scoring: likewise, but variational codes are sampled, since the loss is an expectation
        over them.
      params: initial parameters.
      rest: initial other state.
    """

    training: Any
    evaluation: Any
    scoring: Any
    params: Tree
    rest: Tree

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether an image's result depends on the others of its batch."""
        return bool(nnx.to_flat_state(nnx.filter_state(self.rest, nnx.BatchStat)))


def take_apart(model: nnx.Module) -> Network:
    """Splits a model so that plain `jax.jit` and `jax.grad` can work on it."""
    model.eval()
    evaluation, _, _ = split_model(model)
    model.set_attributes(sampling=True, raise_if_not_found=False)
    scoring, _, _ = split_model(model)
    model.train()
    training, params, rest = split_model(model)
    return Network(training, evaluation, scoring, params, rest)


def num_params(params: Tree) -> int:
    """Number of trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def learning_rate(schedule: Schedule, base: float, epochs: int, steps: int) -> Any:
    """The learning rate, or a function from the step's number to it.

    Args:
      schedule: how it changes.
      base: the optimiser's learning rate.
      epochs: epochs of the whole training.
      steps: steps of an epoch.
    """
    total = epochs * steps
    match schedule:
        case Constant():
            return base
        case Cosine(warmup_epochs=warmup, final_fraction=final):
            rise = min(round(warmup * steps), total - 1)
            start = 0.0 if rise else base
            return optax.warmup_cosine_decay_schedule(start, base, rise, total, base * final)
        case Linear(final_fraction=final):
            return optax.linear_schedule(base, base * final, total)
        case Exponential(rate=rate):
            return optax.exponential_decay(base, steps, rate)
        case Step(every=every, factor=factor):
            drops = range(every, epochs, every)
            return optax.piecewise_constant_schedule(base, {e * steps: factor for e in drops})
        case _:
            assert_never(schedule)


def build_optimizer(spec: TrainSpec, steps: int) -> optax.GradientTransformation:
    """The optax optimiser of an experiment.

    Args:
      spec: the training section.
      steps: steps of an epoch, for the schedule.
    """
    options = spec.optimizer.model_dump(exclude={"name", "learning_rate"})
    rate = learning_rate(spec.schedule, spec.optimizer.learning_rate, spec.epochs, steps)
    make: Callable[..., optax.GradientTransformation] = getattr(optax, spec.optimizer.name)
    return make(rate, **options)


def init_state(network: Network, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    # As one program: alone, every array of zeros would be one.
    begun = jax.jit(optimizer.init)(network.params)
    return TrainState(network.params, network.rest, begun)


def values_of(state: TrainState) -> dict[str, NDArray[Any]]:
    """All that training goes on from, by name, on the host: a checkpoint's content."""
    named = jax.tree_util.tree_flatten_with_path(state)[0]
    return {_path_name(path): np.asarray(jax.device_get(_plain(leaf))) for path, leaf in named}


def with_values(state: TrainState, values: Mapping[str, NDArray[Any]], where: str) -> TrainState:
    """A state with the values of a checkpoint.

    Args:
      state: one like it.
      values: what `values_of` gave.
      where: where they are from, for messages.

    Raises:
      StoreError: they are not those of such a state.
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
    """Why a value cannot be gone on from; older versions trained under any settings of JAX."""
    if found is not None and _is_key(leaf):
        return (
            "is of another random number generator (JAX_DEFAULT_PRNG_IMPL), with which an older"
            f" version of cnnbench trained; {_ANEW}"
        )
    if found is not None and found.shape == plain.shape:
        return (
            f"is {found.dtype} and not {plain.dtype}: an older version of cnnbench trained with"
            f" other settings of JAX (JAX_ENABLE_X64); {_ANEW}"
        )
    return f"does not fit this network; {_AGAIN}"


def stack(states: Sequence[TrainState]) -> TrainState:
    """The states of several seeds as one, with an axis of seeds; that of a single one as it is."""
    first, *others = states
    return jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *states) if others else first


def unstack(state: TrainState, number: int) -> Iterator[TrainState]:
    """The state of each of so many seeds."""
    for place in range(number):
        yield jax.tree.map(lambda leaf, n=place: leaf[n], state) if number > 1 else state


def _path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _plain(leaf: Any) -> Any:
    """Keys of dropout as numbers; anything else as it is."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: Any, value: NDArray[Any]) -> Any:
    if _is_key(leaf):
        data = jax.numpy.asarray(value)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return value


def _is_key(leaf: Any) -> bool:
    return bool(jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key))


_ROOTS = ("weights", "parts")  # of a GraphNet; the layers' names stand below them
_ANEW = "run the experiment again"
_AGAIN = f"the file is of another run, so {_ANEW}"


def weights_of(params: Tree, rest: Tree, *, layers: bool) -> dict[str, NDArray[Any]]:
    """Parameters and batch statistics by name, on the host.

    Keys of dropout are not among them: nothing is dropped once a network is trained.

    Args:
      params: its parameters.
      rest: its other state.
      layers: whether it is a graph of layers; a Python model's names are its attributes'.

    Returns:
      Arrays by name.
    """
    learnt = jax.device_get((params, _without_keys(rest)))
    return {name: np.asarray(value, order="C") for name, value in _named(learnt, layers=layers)}


def with_weights(network: Network, weights: Weights, *, layers: bool, where: str) -> Network:
    """A network with other weights.

    Args:
      network: the network, with any parameters.
      weights: what `weights_of` gave for one like it.
      layers: as in `weights_of`.
      where: where they are from, for messages.

    Raises:
      StoreError: they are not those of such a network.
    """
    state = (network.params, _without_keys(network.rest))
    want = dict(_named(state, layers=layers))
    for name, value in want.items():
        if name not in weights:
            raise StoreError(f"{where}: there is no '{name}'; {_AGAIN}.")
        if weights[name].shape != value.shape:
            shapes = f"{list(weights[name].shape)}, and the network's {list(value.shape)}"
            raise StoreError(f"{where}: '{name}' has shape {shapes}; {_AGAIN}.")
    if unknown := sorted(set(weights) - set(want)):
        raise StoreError(f"{where}: the network has no '{unknown[0]}'; {_AGAIN}.")
    values = [jax.numpy.asarray(weights[name], value.dtype) for name, value in want.items()]
    params, learnt = jax.tree.unflatten(jax.tree.structure(state), values)
    keys = nnx.filter_state(network.rest, nnx.RngState)
    return network._replace(params=params, rest=nnx.merge_state(keys, learnt))


def _without_keys(rest: Tree) -> Tree:
    return nnx.filter_state(rest, nnx.Not(nnx.RngState))


def _named(state: Tree, *, layers: bool) -> Iterator[tuple[str, Any]]:
    """Values in the order of the tree's leaves, with their names."""
    for path, value in jax.tree_util.tree_flatten_with_path(state)[0]:
        keys = [str(step.key) for step in path if isinstance(step, jax.tree_util.DictKey)]
        yield ".".join(keys[1:] if layers and keys[0] in _ROOTS else keys), value
