"""One step of training and one of evaluation: pure functions of their arguments.

A batch is cut into rows of images: on a CPU a row fits into the cache, and each
host device takes its share of the rows. On accelerators a row is the batch.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from cnnbench.nn.ops import dense
from cnnbench.nn.python_model import split_model
from cnnbench.nn.result import Result
from cnnbench.spec.experiment import Experiment, Task
from cnnbench.system.devices import BATCH
from cnnbench.training.losses import Score, objective, scores
from cnnbench.training.state import Arrays, Indices, TrainState, Tree


class StepConfig(NamedTuple):
    """What a step needs to know besides its state and its images.

    Args:
      task: what the targets are.
      loss: what is minimised, for each image.
      metrics: further metrics by name, for each image.
      pixel_scale: pixels are divided by it.
      microbatch: images whose gradients are computed at a time; None for all.
      prepares: whether the model is a graph of layers, with kernels to prepare.
      dtype: what the network computes in; None for the dtype of its parameters.
        Parameters, losses and sums stay in theirs.
      mesh: devices that share the rows of a batch, along `BATCH`; None for one device.
    """

    task: Task
    loss: Score
    metrics: Mapping[str, Score]
    pixel_scale: float
    microbatch: int | None
    prepares: bool
    mesh: Mesh | None = None
    dtype: DTypeLike | None = None


class Part(NamedTuple):
    """Images of a batch: all, a row, or rows as the first axis.

    Args:
      indices: of the images in the dataset, (n,).
      weights: one, or zero for an image that only fills a row, (n,).
      numbers: of the images, (n,), which random layers draw by.
    """

    indices: jax.Array
    weights: jax.Array
    numbers: jax.Array


def make_rules(
    experiment: Experiment,
    microbatch: int | None,
    *,
    prepares: bool = True,
    mesh: Mesh | None = None,
) -> StepConfig:
    """The rules of an experiment."""
    return StepConfig(
        experiment.task,
        objective(experiment),
        scores(experiment),
        experiment.dataset.pixel_scale,
        microbatch,
        prepares,
        mesh,
        jnp.bfloat16 if experiment.train.precision == "bfloat16" else None,
    )


def pick(arrays: Arrays, indices: Indices, rules: StepConfig) -> tuple[jax.Array, jax.Array]:
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
    rules: StepConfig,
) -> tuple[TrainState, jax.Array]:
    """One update from the images at `indices`, (batch,); the mean loss comes with it."""
    gradient, rest, loss = gradients(state, arrays, indices, graphdef, rules)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    return TrainState(optax.apply_updates(state.params, updates), rest, opt_state), loss


def gradients(
    state: TrainState, arrays: Arrays, indices: jax.Array, graphdef: Any, rules: StepConfig
) -> tuple[Tree, Tree, jax.Array]:
    """Gradient of the mean loss over the images at `indices`, other state, and the loss."""
    sums: Callable[..., Any] = partial(_gradient_sums, graphdef=graphdef, rules=rules)
    if _shares(rules) > 1:
        sums = _shared(partial(_one_share, sums), rules)
    rows = _rows(Part(indices, jnp.ones(len(indices)), jnp.arange(len(indices))), rules)
    if rules.mesh and rules.microbatch is None:
        # XLA follows from here what each device computes of a whole batch.
        rows = lax.with_sharding_constraint(rows, NamedSharding(rules.mesh, P(None, BATCH)))
    gradient, rest, loss = sums(state.params, state.rest, arrays, rows)
    return jax.tree.map(lambda g: g / len(indices), gradient), rest, loss / len(indices)


def _shared(function: Callable[..., Any], rules: StepConfig) -> Callable[..., Any]:
    """A function of (params, rest, arrays, rows), its rows spread over the devices."""
    specs = (P(), P(), P(), P(BATCH))
    # Results end with a psum, which the check cannot see through a scan.
    return jax.shard_map(function, mesh=rules.mesh, in_specs=specs, out_specs=P(), check_vma=False)


def _one_share(
    sums: Callable[..., Any], params: Tree, rest: Tree, arrays: Arrays, rows: Part
) -> tuple[Tree, Tree, jax.Array]:
    """One device's rows of a batch; the sums are everyone's."""
    gradient, rest, loss = sums(params, rest, arrays, rows)
    gradient, loss = lax.psum((gradient, loss), BATCH)
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
    """Sums over rows of images: gradient and loss; kernels are prepared once for all rows.

    All rows begin with the same other state, so that their random layers differ by the
    images' numbers alone; what the last one leaves is that of the step.
    """
    prepared, pull = jax.vjp(lambda p: _prepared(graphdef, p, rest, rules), params)
    gradient_of = jax.value_and_grad(partial(_loss_sum, graphdef, rules), (0, 1), has_aux=True)
    number, size = rows.indices.shape
    slotted = dense.with_slots(prepared, size) if number > 1 else prepared

    def add(carry: Tree, part: Part) -> tuple[Tree, Tree]:
        gradient, _, loss = carry
        images, targets = pick(arrays, part.indices, rules)
        (more, after), (own, change) = gradient_of(params, slotted, rest, images, targets, part)
        change, slots = dense.without_slots(change)
        return (jax.tree.map(jnp.add, gradient, (own, change)), after, loss + more), slots

    carry = (jax.tree.map(jnp.zeros_like, (params, prepared)), rest, jnp.zeros(()))
    if number == 1:
        carry, slots = add(carry, Part(*(values[0] for values in rows)))
    else:
        carry, slots = lax.scan(add, carry, rows)
    (own, through), after, loss = carry
    through = pull(dense.add_products(through, slots))[0]
    return jax.tree.map(jnp.add, own, through), after, loss


def _prepared(graphdef: Any, params: Tree, rest: Tree, rules: StepConfig) -> Tree:
    """What a graph of layers makes of its kernels before it sees images."""
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
    """Results of a network for images; random layers draw by the numbers of these."""
    if numbers is not None and not rules.prepares:
        rest = _with_own_keys(rest, numbers[0])
    model = merged(graphdef, params, rest, rules)
    images, prepared = cast((images, prepared), rules.dtype)
    if not rules.prepares:
        return Result(to_float32(model(images), rules), {})
    result: Result = to_float32(model.result(images, prepared or None, numbers), rules)
    return result


def _with_own_keys(rest: Tree, number: jax.Array) -> Tree:
    """The other state of a Python model, with random numbers that depend on a number."""
    keys, others = nnx.split_state(rest, nnx.RngKey, ...)
    own = jax.tree.map(lambda key: jax.random.fold_in(key, number), keys)
    return nnx.merge_state(own, others)


def merged(graphdef: Any, params: Tree, rest: Tree, rules: StepConfig) -> Any:
    """The network, with its parameters in the dtype that it computes in."""
    # Without copy=True the merged model would write into the state that is being traced.
    return nnx.merge(graphdef, cast(params, rules.dtype), rest, copy=True)


def to_float32(result: Tree, rules: StepConfig) -> Any:
    """Results as losses and metrics want them: these are computed in float32."""
    return cast(result, rules.dtype and jnp.float32)


def cast(tree: Tree, dtype: DTypeLike | None) -> Tree:
    """Values in another dtype; as they are for None."""
    return tree if dtype is None else jax.tree.map(lambda x: x.astype(dtype), tree)


def _shares(rules: StepConfig) -> int:
    """Devices that take rows of a batch; whole batches are shared out by XLA."""
    return rules.mesh.size if rules.mesh and rules.microbatch else 1


def _rows(batch: Part, rules: StepConfig) -> Part:
    """A batch in rows; what is missing is filled up with weight zero.

    A small working set stays in a CPU's cache. Each device has as many rows.
    """
    row = rules.microbatch or len(batch.indices)
    missing = (0, -len(batch.indices) % (row * _shares(rules)))
    return Part(*(jnp.pad(values, missing).reshape(-1, row) for values in batch))


def _loss_sum(  # noqa: PLR0913, PLR0917 - it is differentiated by position
    graphdef: Any,
    rules: StepConfig,
    params: Tree,
    prepared: Tree,
    rest: Tree,
    images: jax.Array,
    targets: jax.Array,
    part: Part,
) -> tuple[jax.Array, Tree]:
    model = merged(graphdef, params, rest, rules)
    images, prepared = cast((images, prepared), rules.dtype)

    def head(result: Result, targets: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(rules.loss(to_float32(result, rules), targets) * weights)

    if not rules.prepares:
        return head(Result(model(images), {}), targets, part.weights), split_model(model)[2]
    total = model.sum_of(images, prepared, head, (targets, part.weights), part.numbers)
    return total, split_model(model)[2]


def eval_step(
    params: Tree,
    rest: Tree,
    arrays: Arrays,
    indices: jax.Array,
    weights: jax.Array,
    *,
    graphdef: Any,
    rules: StepConfig,
) -> dict[str, jax.Array]:
    """Sums of the loss and the metrics over the images at `indices` that have weight one.

    Args:
      params: the parameters.
      rest: the model's other state.
      arrays: the split.
      indices: which images, (batch,).
      weights: one, or zero for an index that only fills the batch up, (batch,).
      graphdef: the model's structure for scoring.
      rules: loss and metrics.
    """
    sums: Callable[..., Any] = partial(_metric_sums, graphdef=graphdef, rules=rules)
    if _shares(rules) > 1:
        one = sums
        sums = _shared(lambda *args: lax.psum(one(*args), BATCH), rules)
    # A variational code is sampled for each image, whichever others are evaluated with it.
    rows = _rows(Part(indices, weights, indices), rules)
    totals: dict[str, jax.Array] = sums(params, rest, arrays, rows)
    return totals


def _metric_sums(
    params: Tree,
    rest: Tree,
    arrays: Arrays,
    rows: Part,
    *,
    graphdef: Any,
    rules: StepConfig,
) -> dict[str, jax.Array]:
    prepared = _prepared(graphdef, params, rest, rules)

    def sums(part: Part) -> dict[str, jax.Array]:
        images, targets = pick(arrays, part.indices, rules)
        result = results_of(graphdef, params, rest, images, prepared, rules, part.numbers)
        values = {"loss": rules.loss(result, targets)}
        values |= {name: metric(result, targets) for name, metric in rules.metrics.items()}
        return {name: jnp.sum(value * part.weights) for name, value in values.items()}

    if len(rows.indices) == 1:  # a convolution inside of a loop would be slow on a CPU
        return sums(Part(*(values[0] for values in rows)))
    totals: dict[str, jax.Array] = jax.tree.map(jnp.sum, lax.map(sums, rows))
    return totals
