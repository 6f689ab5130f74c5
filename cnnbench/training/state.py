"""Training state: parameters, other model state and optimizer state."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from cnnbench.errors import StoreError
from cnnbench.nn.augment import Stream
from cnnbench.nn.python_model import split_model
from cnnbench.runs.weights import Weights
from cnnbench.training.optim.optimizer import ROOTS, Averages, keys_of

Tree = Any
KEPT = "chosen."  # prefix in a checkpoint: weights of the epoch that the validation images chose
BEGUN = "epoch."  # prefix in a checkpoint: the part of the next epoch that is trained
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
        parts = jax.tree.leaves(self.opt_state, is_leaf=lambda part: isinstance(part, Averages))
        averages = (part.average for part in parts if isinstance(part, Averages))
        return next(averages, self.params), self.rest


class Begun(NamedTuple):
    """Losses and times of an epoch so far.

    Args:
      losses: mean loss of each step, float32 (steps, seeds).
      train_s: training time of all seeds together.
      data_s: seconds in which the device waited for images.
    """

    losses: NDArray[np.float32]
    train_s: float
    data_s: float

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return len(self.losses)

    @classmethod
    def none(cls, num_seeds: int) -> "Begun":
        """An epoch of which nothing is trained."""
        return cls(np.zeros((0, num_seeds), np.float32), 0.0, 0.0)

    def values(self, number: int) -> dict[str, NDArray[Any]]:
        """The part of a checkpoint for one of the seeds."""
        times = np.array([self.train_s, self.data_s])
        return {BEGUN + "losses": self.losses[:, number], BEGUN + "seconds": times}

    @classmethod
    def of(cls, checkpoints: Sequence[Mapping[str, NDArray[Any]]]) -> "Begun":
        """The epoch that is begun in the checkpoints of all seeds trained in parallel."""
        losses = np.stack([values[BEGUN + "losses"] for values in checkpoints], axis=1)
        return cls(losses, *checkpoints[0][BEGUN + "seconds"].tolist())


class Arrays(NamedTuple):
    """All splits on the device: images (n, h, w, c) uint8, labels as in `dataset.Split`."""

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


def _named(state: Tree, *, layers: bool) -> Iterator[tuple[str, Any]]:
    """Names and values, in the order of the tree's leaves."""
    for path, value in jax.tree_util.tree_flatten_with_path(state)[0]:
        keys = keys_of(path)
        yield ".".join(keys[1:] if layers and keys[0] in ROOTS else keys), value
