"""The training step and the evaluation step, as pure functions.

A batch is split into rows (micro-batches): on a CPU a row fits into the cache, and the rows are
sharded over the host devices. On accelerators the whole batch is one row.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from cnnbench.data.scaling import Scaling, TargetScaling
from cnnbench.nn.augment import (
    Draws,
    MixedLabels,
    draw_augmentation,
    erase,
    label_share,
    mix_images,
    mixed,
    move_pixels,
    views_of,
)
from cnnbench.nn.ops import dense
from cnnbench.nn.python_model import split_model
from cnnbench.nn.result import Result
from cnnbench.spec.experiment import Augment, Experiment, Task
from cnnbench.system.devices import BATCH, spans_processes
from cnnbench.training.losses import (
    Score,
    class_weights_of,
    image_scores,
    objective,
    scores,
    split_metric_names,
    total_weight,
)
from cnnbench.training.metrics.split import Gathered, gathered_of
from cnnbench.training.state import Arrays, Indices, TrainState, Tree


class StepConfig(NamedTuple):
    """Static configuration of a step.

    Args:
      task: determines the targets.
      loss: objective per image, with label smoothing only in training.
      metrics: further metrics per image, by name.
      scaling: scaling of the pixel values.
      microbatch: images whose gradients are computed at a time; None for the whole batch.
      prepares: True if the model is a graph of layers, whose kernels are prepared.
      dtype: dtype of the network's computations; None for the dtype of its parameters.
        Parameters, losses and sums keep their own dtype.
      mesh: devices over which the rows of a batch are sharded, along `BATCH`; None for one device.
      augment: random changes of the training images; None for none.
      test_augment: views of the images in evaluation, `evaluation.augment`; None for one.
      class_weights: weights of the classes in the training loss; None for none.
      streamed: True if the arrays have only the images of the batch, in its order.
      target_scaling: normalization of the targets that the network predicts; None for none.
    """

    task: Task
    loss: Score
    metrics: Mapping[str, Score]
    scaling: Scaling
    microbatch: int | None
    prepares: bool
    mesh: Mesh | None = None
    dtype: DTypeLike | None = None
    augment: Augment | None = None
    class_weights: tuple[float, ...] | None = None
    test_augment: str | None = None
    gathers: bool = False
    streamed: bool = False
    target_scaling: TargetScaling | None = None


class Part(NamedTuple):
    """Images of a batch: the whole batch, one row, or all rows along the first axis.

    Args:
      indices: indices of the images in the dataset, (n,).
      weights: one, or zero for padding, (n,).
      numbers: image numbers that seed random layers, (n,).
      draws: random numbers of the augmentation, (n, ...) each; None for images as they are.
    """

    indices: jax.Array
    weights: jax.Array
    numbers: jax.Array
    draws: Draws | None = None


def make_rules(
    experiment: Experiment,
    microbatch: int | None,
    *,
    training: bool = True,
    prepares: bool = True,
    mesh: Mesh | None = None,
) -> StepConfig:
    """The step configuration of an experiment, for training or evaluation."""
    augment = experiment.dataset.augment
    return StepConfig(
        experiment.task,
        objective(experiment, training=training),
        scores(experiment),
        experiment.dataset.scaling,
        microbatch,
        prepares,
        mesh,
        jnp.bfloat16 if experiment.train.precision == "bfloat16" else None,
        None if augment == Augment() else augment,
        class_weights_of(experiment) if training else None,
        None if training else experiment.evaluation.augment,
        bool(split_metric_names(experiment)),
        target_scaling=experiment.dataset.target_scaling,
    )


def _places(indices: jax.Array, rules: StepConfig) -> jax.Array:
    """Places of the images of a batch in the arrays."""
    return jnp.arange(len(indices), dtype=indices.dtype) if rules.streamed else indices


def pick(arrays: Arrays, indices: Indices, rules: StepConfig) -> tuple[jax.Array, jax.Array]:
    """Scaled images as floats, (n, h, w, c), and their targets."""
    images = rules.scaling.apply(arrays.images[indices].astype(jnp.float32))
    labels = arrays.labels[indices]
    return images, images if rules.task is Task.RECONSTRUCT else labels


def _pick_augmented(arrays: Arrays, part: Part, rules: StepConfig) -> tuple[jax.Array, Any]:
    """Training images and targets, augmented; mixed targets are `MixedLabels`."""
    spec, draws = rules.augment, part.draws
    if spec is None or draws is None:
        return pick(arrays, part.indices, rules)

    def augmented(indices: jax.Array, own: Mapping[str, jax.Array]) -> jax.Array:
        moved = move_pixels(spec, arrays.images[indices], own)
        return erase(spec, rules.scaling.apply(moved.astype(jnp.float32)), own)

    images, labels = augmented(part.indices, draws.own), arrays.labels[part.indices]
    if (mix := draws.mix) is not None:
        images = mix_images(images, augmented(mix.indices, mix.own), mix)
        share = label_share(mix, images.shape[1:3])
        return images, MixedLabels(labels, arrays.labels[mix.indices], share)
    return images, images if rules.task is Task.RECONSTRUCT else labels


def train_step(
    state: TrainState,
    arrays: Arrays,
    indices: jax.Array,
    *,
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    rules: StepConfig,
) -> tuple[TrainState, jax.Array]:
    """Update the state with the images at `indices`, (batch,), and return the mean loss."""
    gradient, rest, loss = gradients(state, arrays, indices, graphdef, rules)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    stream = state.stream and state.stream.advanced()
    return TrainState(optax.apply_updates(state.params, updates), rest, opt_state, stream), loss


def gradients(
    state: TrainState, arrays: Arrays, indices: jax.Array, graphdef: Any, rules: StepConfig
) -> tuple[Tree, Tree, jax.Array]:
    """Gradient of the mean loss over the images at `indices`, the new other state, and the loss.

    With class weights, the mean is weighted, unless labels are mixed.
    """
    indices = _places(indices, rules)
    sums: Callable[..., Any] = partial(_gradient_sums, graphdef=graphdef, rules=rules)
    if rules.mesh and _shares(rules) > 1:
        share = _packed_share if spans_processes(rules.mesh) else _one_share
        sums = _shared(partial(share, sums), rules, P())
    draws = None
    if rules.augment and state.stream:
        draws = draw_augmentation(rules.augment, state.stream, indices, arrays.images.shape[1:3])
    rows = _rows(Part(indices, jnp.ones(len(indices)), jnp.arange(len(indices)), draws), rules)
    if rules.mesh and rules.microbatch is None and len(indices) % rules.mesh.size == 0:
        # From this constraint XLA derives the share of the batch that each device computes.
        # Without it, each device computes an incomplete last batch that has no equal shares.
        rows = lax.with_sharding_constraint(rows, NamedSharding(rules.mesh, P(None, BATCH)))
    gradient, rest, loss = sums(state.params, state.rest, arrays, rows)
    weighted = rules.class_weights and not (draws and draws.mix)
    total = total_weight(rules.class_weights, arrays.labels[indices]) if weighted else len(indices)
    return jax.tree.map(lambda g: g / total, gradient), rest, loss / total


def _shared(function: Callable[..., Any], rules: StepConfig, results: Any) -> Callable[..., Any]:
    """A function of (params, rest, arrays, rows), with the rows sharded over the devices.

    Args:
      function: the function of one device.
      rules: the step configuration.
      results: how results are sharded; `P()` if all devices have the same.
    """
    specs = (P(), P(), P(), P(BATCH))
    options: Any = {"mesh": rules.mesh, "in_specs": specs, "out_specs": results}
    # Results end with a psum, which the replication check cannot see through a scan.
    return jax.shard_map(function, **options, check_vma=False)


def _one_share(
    sums: Callable[..., Any], params: Tree, rest: Tree, arrays: Arrays, rows: Part
) -> tuple[Tree, Tree, jax.Array]:
    """Sums over the rows of one device, reduced over all devices."""
    gradient, rest, loss = sums(params, rest, arrays, rows)
    gradient, loss = lax.psum((gradient, loss), BATCH)
    return gradient, rest, loss


def _packed_share(
    sums: Callable[..., Any], params: Tree, rest: Tree, arrays: Arrays, rows: Part
) -> tuple[Tree, Tree, jax.Array]:
    """The same, with a single array to reduce: gloo exchanges one array after another."""
    gradient, rest, loss = sums(params, rest, arrays, rows)
    values, unpack = ravel_pytree((gradient, loss))
    gradient, loss = unpack(lax.psum(values, BATCH))
    return gradient, rest, loss


def _gradient_sums(
    params: Tree,
    rest: Tree,
    arrays: Arrays,
    rows: Part,
    *,
    graphdef: Any,
    rules: StepConfig,
) -> tuple[Tree, Tree, jax.Array]:
    """Gradient and loss summed over rows; kernels are prepared once for all rows.

    All rows start from the same other state, so that random layers differ only by the image
    numbers; the state after the last row is the state after the step.
    """
    prepared, pull = jax.vjp(lambda p: _prepared(graphdef, p, rest, rules), params)
    gradient_of = jax.value_and_grad(partial(_loss_sum, graphdef, rules), (0, 1), has_aux=True)
    number, size = rows.indices.shape
    slotted = dense.with_slots(prepared, size) if number > 1 else prepared

    def add(carry: Tree, part: Part) -> tuple[Tree, Tree]:
        gradient, _, loss = carry
        images, targets = _pick_augmented(arrays, part, rules)
        (more, after), (own, change) = gradient_of(params, slotted, rest, images, targets, part)
        change, slots = dense.without_slots(change)
        return (jax.tree.map(jnp.add, gradient, (own, change)), after, loss + more), slots

    carry = (jax.tree.map(jnp.zeros_like, (params, prepared)), rest, jnp.zeros(()))
    if number == 1:
        carry, slots = add(carry, _first(rows))
    else:
        carry, slots = lax.scan(add, carry, rows)
    (own, through), after, loss = carry
    through = pull(dense.add_products(through, slots))[0]
    return jax.tree.map(jnp.add, own, through), after, loss


def _prepared(graphdef: Any, params: Tree, rest: Tree, rules: StepConfig) -> Tree:
    """Kernels of a graph of layers, transformed once before any images are processed."""
    return nnx.merge(graphdef, params, rest, copy=True).prepare() if rules.prepares else {}


def results_of(
    graphdef: Any,
    params: Tree,
    rest: Tree,
    images: jax.Array,
    prepared: Tree,
    rules: StepConfig,
    numbers: jax.Array | None = None,
) -> Result:
    """Results of a network for images; random layers are seeded by the image numbers."""
    if numbers is not None and not rules.prepares:
        rest = _with_own_keys(rest, numbers[0])
    model = merged(graphdef, params, rest, rules)
    images, prepared = cast((images, prepared), rules.dtype)
    if not rules.prepares:
        return Result(to_float32(model(images), rules), {}, {})
    result: Result = to_float32(model.result(images, prepared or None, numbers), rules)
    return result


def _mean_result(
    call: Callable[[jax.Array], Result], views: Sequence[tuple[float, jax.Array]]
) -> Result:
    """Weighted mean of the results for views of the same images."""
    first, *others = [
        jax.tree.map(lambda value, weight=weight: weight * value, call(view))
        for weight, view in views
    ]
    mean: Result = first
    for other in others:
        mean = jax.tree.map(jnp.add, mean, other)
    return mean


def _with_own_keys(rest: Tree, number: jax.Array) -> Tree:
    """The other state of a Python model, with `number` folded into its random keys."""
    keys, others = nnx.split_state(rest, nnx.RngKey, ...)
    own = jax.tree.map(lambda key: jax.random.fold_in(key, number), keys)
    return nnx.merge_state(own, others)


def merged(graphdef: Any, params: Tree, rest: Tree, rules: StepConfig) -> Any:
    """The network, with parameters cast to its compute dtype."""
    # Without copy=True the merged model would modify the state being traced.
    return nnx.merge(graphdef, cast(params, rules.dtype), rest, copy=True)


def to_float32(result: Tree, rules: StepConfig) -> Any:
    """Results in float32, in which losses and metrics are computed."""
    return cast(result, rules.dtype and jnp.float32)


def cast(tree: Tree, dtype: DTypeLike | None) -> Tree:
    """Values cast to a dtype; unchanged for None."""
    return tree if dtype is None else jax.tree.map(lambda x: x.astype(dtype), tree)


def _shares(rules: StepConfig) -> int:
    """Number of devices that rows are sharded over; whole batches are sharded by XLA."""
    return rules.mesh.size if rules.mesh and rules.microbatch else 1


def _rows(batch: Part, rules: StepConfig) -> Part:
    """Split a batch into rows, padded with images of weight zero.

    A small working set stays in a CPU's cache. Every device gets the same number of rows. All of
    them know the whole batch and take their part of it; otherwise, XLA would divide the batch
    before it is padded or rolled, and the devices would have to exchange what is missing.
    """
    if rules.mesh:
        batch = lax.with_sharding_constraint(batch, NamedSharding(rules.mesh, P()))
    row = rules.microbatch or len(batch.indices)
    missing = (0, -len(batch.indices) % (row * _shares(rules)))

    def split(values: jax.Array) -> jax.Array:
        widths = (missing, *[(0, 0)] * (values.ndim - 1))
        return jnp.pad(values, widths).reshape(-1, row, *values.shape[1:])

    rows: Part = jax.tree.map(split, batch)
    if rules.mesh:
        rows = lax.with_sharding_constraint(rows, NamedSharding(rules.mesh, P()))
    return rows


def _first(rows: Part) -> Part:
    """The only row."""
    row: Part = jax.tree.map(lambda values: values[0], rows)
    return row


def _loss_sum(  # noqa: PLR0913, PLR0917 - differentiated by argument position
    graphdef: Any,
    rules: StepConfig,
    params: Tree,
    prepared: Tree,
    rest: Tree,
    images: jax.Array,
    targets: Any,
    part: Part,
) -> tuple[jax.Array, Tree]:
    model = merged(graphdef, params, rest, rules)
    images, prepared = cast((images, prepared), rules.dtype)

    def head(result: Result, targets: Any, weights: jax.Array) -> jax.Array:
        return jnp.sum(mixed(rules.loss, to_float32(result, rules), targets) * weights)

    if not rules.prepares:
        return head(Result(model(images), {}, {}), targets, part.weights), split_model(model)[2]
    total = model.sum_of(images, prepared, head, (targets, part.weights), part.numbers)
    return total, split_model(model)[2]


class Evaluated(NamedTuple):
    """Loss and metrics of some images.

    Args:
      sums: weighted sums of the loss and of metrics per image, by name.
      values: values of each image, for metrics of a whole split; empty if there are none.
      images: loss and metrics of each image, by name, (n,); boolean if they are 0 or 1.
    """

    sums: dict[str, jax.Array]
    values: Gathered
    images: dict[str, jax.Array]


def eval_step(
    params: Tree,
    rest: Tree,
    arrays: Arrays,
    indices: jax.Array,
    weights: jax.Array,
    *,
    graphdef: Any,
    rules: StepConfig,
) -> Evaluated:
    """Loss and metrics of the images at `indices`.

    Args:
      params: the parameters.
      rest: other state of the model.
      arrays: the images and labels.
      indices: indices of the images, (batch,).
      weights: one, or zero for padding, (batch,).
      graphdef: graph definition for scoring.
      rules: the step configuration, with loss and metrics.
    """
    evaluate: Callable[..., Evaluated] = partial(_evaluated, graphdef=graphdef, rules=rules)
    if _shares(rules) > 1:
        shards: Any = P(), P(BATCH), P(BATCH)
        evaluate = _shared(partial(_evaluated_share, evaluate), rules, Evaluated(*shards))
    # Variational codes are sampled by image index, independent of the rest of the batch.
    rows = _rows(Part(_places(indices, rules), weights, indices), rules)
    sums, *each = evaluate(params, rest, arrays, rows)
    values, images = jax.tree.map(lambda value: value[: len(indices)], each)
    return Evaluated(sums, values, images)


def _evaluated_share(evaluate: Callable[..., Evaluated], *args: Any) -> Evaluated:
    """Sums over the rows of all devices, and the values of the images of one device."""
    sums, values, images = evaluate(*args)
    return Evaluated(lax.psum(sums, BATCH), values, images)


def _evaluated(
    params: Tree,
    rest: Tree,
    arrays: Arrays,
    rows: Part,
    *,
    graphdef: Any,
    rules: StepConfig,
) -> Evaluated:
    prepared = _prepared(graphdef, params, rest, rules)

    def of_row(part: Part) -> Evaluated:
        images, targets = pick(arrays, part.indices, rules)
        result = _mean_result(
            lambda view: results_of(graphdef, params, rest, view, prepared, rules, part.numbers),
            views_of(rules.test_augment, images),
        )
        scores = {"loss": rules.loss(result, targets)}
        if scaling := rules.target_scaling:
            result = result._replace(output=scaling.undo(result.output))
        scores |= {name: metric(result, targets) for name, metric in rules.metrics.items()}
        sums = {name: jnp.sum(score * part.weights) for name, score in scores.items()}
        gathered = gathered_of(rules.task, result, targets) if rules.gathers else ()
        return Evaluated(sums, gathered, image_scores(rules.task, scores, result, targets))

    if len(rows.indices) == 1:  # convolutions inside a loop are slow on CPUs
        return of_row(_first(rows))
    sums, *each = lax.map(of_row, rows)
    values, images = jax.tree.map(lambda value: value.reshape(-1, *value.shape[2:]), each)
    return Evaluated(jax.tree.map(jnp.sum, sums), values, images)
