"""What training starts from: the state of model and optimiser, and the order of the images."""

from collections.abc import Callable
from typing import Any, NamedTuple, assert_never

import jax
import optax
from flax import nnx

from cnnbench.optimizers import Constant, Cosine, Exponential, Linear, Schedule, Step
from cnnbench.spec import TrainSpec

Tree = Any


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
      params: initial parameters.
      rest: initial other state.
    """

    training: Any
    evaluation: Any
    params: Tree
    rest: Tree

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether an image's result depends on the others of its batch."""
        return bool(nnx.to_flat_state(nnx.filter_state(self.rest, nnx.BatchStat)))


def take_apart(model: nnx.Module) -> Network:
    """Splits a model so that plain `jax.jit` and `jax.grad` can work on it."""
    model.eval()
    evaluation, _, _ = split(model)
    model.train()
    training, params, rest = split(model)
    return Network(training, evaluation, params, rest)


def split(model: nnx.Module) -> tuple[Any, Tree, Tree]:
    """Structure, parameters and everything else; mypy cannot follow nnx.split's filters."""
    parts: Any = nnx.split(model, nnx.Param, ...)
    structure, params, rest = parts
    return structure, params, rest


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
    return TrainState(network.params, network.rest, optimizer.init(network.params))
