"""Optimiser, one step of training and one of evaluation: pure functions of their arguments."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, assert_never

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from cnnbench.losses import PerImage, loss_name, metric_names, per_image_loss, per_image_metric
from cnnbench.optimizers import Constant, Cosine, Exponential, Linear, Schedule, Step
from cnnbench.spec import Experiment, Task, TrainSpec

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
    evaluation, _, _ = _split(model)
    model.train()
    training, params, rest = _split(model)
    return Network(training, evaluation, params, rest)


def _split(model: nnx.Module) -> tuple[Any, Tree, Tree]:
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


class Rules(NamedTuple):
    """What a step needs to know besides its state and its images.

    Args:
      task: what the targets are.
      loss: loss of each image.
      metrics: further metrics by name, for each image.
      pixel_scale: pixels are divided by it.
      microbatch: images whose gradients are computed at a time; None for all.
    """

    task: Task
    loss: PerImage
    metrics: Mapping[str, PerImage]
    pixel_scale: float
    microbatch: int | None


def make_rules(experiment: Experiment, microbatch: int | None) -> Rules:
    """The rules of an experiment."""
    return Rules(
        experiment.task,
        per_image_loss(loss_name(experiment)),
        {name: per_image_metric(name) for name in metric_names(experiment)},
        experiment.dataset.pixel_scale,
        microbatch,
    )


def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The order in which an epoch visits the images: (num_images,) indices.

    The same on every device: it comes from NumPy's PCG64 with ``[seed, epoch]``.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_images)
    return order.astype(np.int32)


def pick(arrays: Arrays, indices: jax.Array, rules: Rules) -> tuple[jax.Array, jax.Array]:
    """Images scaled to floats, (n, h, w, c), and their targets."""
    images = arrays.images[indices].astype(jnp.float32) / rules.pixel_scale
    labels = arrays.labels[indices]
    return images, labels if rules.task is Task.CLASSIFY else images


def train_step(
    state: TrainState,
    arrays: Arrays,
    indices: jax.Array,
    *,
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    rules: Rules,
) -> tuple[TrainState, jax.Array]:
    """One update from the images at `indices`, (batch,); the mean loss comes with it."""
    gradients, rest, loss = _gradients(state, arrays, indices, graphdef, rules)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    return TrainState(optax.apply_updates(state.params, updates), rest, opt_state), loss


def _gradients(
    state: TrainState, arrays: Arrays, indices: jax.Array, graphdef: Any, rules: Rules
) -> tuple[Tree, Tree, jax.Array]:
    """Gradient of the mean loss over a batch, the model's other state, and the loss."""
    gradient_of = jax.value_and_grad(partial(_loss_sum, graphdef, rules), has_aux=True)

    def add(carry: Tree, part: tuple[jax.Array, jax.Array]) -> tuple[Tree, None]:
        gradient, rest, loss = carry
        images, targets = pick(arrays, part[0], rules)
        (more, rest), change = gradient_of(state.params, rest, images, targets, part[1])
        return (jax.tree.map(jnp.add, gradient, change), rest, loss + more), None

    carry = (jax.tree.map(jnp.zeros_like, state.params), state.rest, jnp.zeros(()))
    if rules.microbatch is None:
        (gradient, rest, loss), _ = add(carry, (indices, jnp.ones(len(indices))))
    else:
        parts = _microbatches(indices, rules.microbatch)
        (gradient, rest, loss), _ = lax.scan(add, carry, parts)
    return jax.tree.map(lambda g: g / len(indices), gradient), rest, loss / len(indices)


def _microbatches(indices: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Indices and weights in rows of `size`; the last row is filled up with weight zero.

    A small working set stays in a CPU's cache: 10 to 25 images a row are fastest.
    """
    missing = -len(indices) % size
    padded = jnp.pad(indices, (0, missing)), jnp.pad(jnp.ones(len(indices)), (0, missing))
    return padded[0].reshape(-1, size), padded[1].reshape(-1, size)


def _loss_sum(
    graphdef: Any,
    rules: Rules,
    params: Tree,
    rest: Tree,
    images: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, Tree]:
    # Without copy=True the merged model would write into the state that is being traced.
    model = nnx.merge(graphdef, params, rest, copy=True)
    loss = rules.loss(model(images), targets)
    return jnp.sum(loss * weights), _split(model)[2]


def eval_step(
    params: Tree,
    rest: Tree,
    arrays: Arrays,
    indices: jax.Array,
    weights: jax.Array,
    *,
    graphdef: Any,
    rules: Rules,
) -> dict[str, jax.Array]:
    """Sums of the loss and the metrics over the images at `indices` that have weight one.

    Args:
      params: the parameters.
      rest: the model's other state.
      arrays: the split.
      indices: which images, (batch,).
      weights: one, or zero for an index that only fills the batch up, (batch,).
      graphdef: the model's structure in evaluation mode.
      rules: loss and metrics.
    """

    def sums(part: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        images, targets = pick(arrays, part[0], rules)
        outputs = nnx.merge(graphdef, params, rest, copy=True)(images)
        values = {"loss": rules.loss(outputs, targets)}
        values |= {name: metric(outputs, targets) for name, metric in rules.metrics.items()}
        return {name: jnp.sum(value * part[1]) for name, value in values.items()}

    if rules.microbatch is None:
        return sums((indices, weights))
    rows, _ = _microbatches(indices, rules.microbatch)
    parts = rows, jnp.pad(weights, (0, rows.size - len(weights))).reshape(rows.shape)
    totals: dict[str, jax.Array] = jax.tree.map(jnp.sum, lax.map(sums, parts))
    return totals


def outputs_of(
    params: Tree, rest: Tree, arrays: Arrays, indices: jax.Array, *, graphdef: Any, rules: Rules
) -> jax.Array:
    """The network's results for the images at `indices`, in evaluation mode."""
    images, _ = pick(arrays, indices, rules)
    result: jax.Array = nnx.merge(graphdef, params, rest, copy=True)(images)
    return result
