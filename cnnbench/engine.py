"""Trains an experiment on a device and tells what happens, epoch by epoch.

Steps are compiled ahead of time and the data stay on the device, so that an
epoch's time holds neither compilation nor copying. Nothing here prints or
writes: the caller consumes a stream of events.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnbench import ops
from cnnbench.data import Dataset
from cnnbench.errors import UsageError
from cnnbench.events import Compiled, Event, SeedDone, StepDone
from cnnbench.graph import Plan
from cnnbench.layers import Conv, ConvTranspose
from cnnbench.losses import metric_names
from cnnbench.models import GraphNet, import_class, make_module
from cnnbench.results import Direction, EpochRecord, summarize_seed
from cnnbench.shapes import shape_text
from cnnbench.spec import Experiment, Task
from cnnbench.timing import Stopwatch
from cnnbench.train import (
    Arrays,
    Network,
    Rules,
    TrainState,
    build_optimizer,
    epoch_order,
    eval_step,
    init_state,
    make_rules,
    num_params,
    outputs_of,
    take_apart,
    train_step,
)

MICROBATCH = 10  # images; see docs/architecture.md, "Why a step is cut into micro-batches"
EVAL_BATCH = 500  # images
NUM_SAMPLES = 10  # reconstructions kept for the picture
PROGRESS_INTERVAL_S = 0.1


class Programs(NamedTuple):
    """Compiled steps; their arguments are those of `train`'s functions of like names."""

    train: Callable[..., tuple[TrainState, jax.Array]]
    evaluate: Callable[..., dict[str, jax.Array]]
    outputs: Callable[..., jax.Array] | None


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained, on what, where.

    Args:
      experiment: all that was asked for.
      plan: its network; None where the model is a Python class.
      folder: the experiment file's folder, where a Python class may lie.
      dataset: the images.
      device: where it runs.
      watch: charged with the seconds of each part.
    """

    experiment: Experiment
    plan: Plan | None
    folder: Path
    dataset: Dataset
    device: jax.Device
    watch: Stopwatch

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self.dataset.train.labels)

    @property
    def batch_size(self) -> int:
        """Images in a step: all of them where there are fewer than were asked for."""
        return min(self.experiment.train.batch_size, self.num_train)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch; images that fill no batch wait for the next shuffle."""
        return self.num_train // self.batch_size


def pick_device(kind: str) -> jax.Device:
    """A device by kind: ``auto``, ``cpu``, ``gpu`` or ``tpu``.

    Raises:
      UsageError: this machine has none of that kind.
    """
    if kind == "auto":
        return jax.devices()[0]
    try:
        return jax.devices(kind)[0]
    except RuntimeError:
        have = ", ".join(sorted({device.platform for device in jax.devices()}))
        message = f"--device {kind}: JAX finds no {kind} on this machine, but {have}"
        raise UsageError(f"{message}; write --device auto.") from None


def form_for(device: jax.Device) -> ops.Form:
    """XLA's own convolutions are slow on a CPU and fast elsewhere."""
    return "direct" if device.platform == "cpu" else "plain"


def microbatch_size(plan: Plan | None, network: Network, form: ops.Form) -> int | None:
    """Images whose gradients are computed at a time, or None for a whole batch.

    Small parts pay where convolutions are matrix products over patches, which
    would not fit into a cache otherwise. Batch statistics need the whole batch.
    """
    convolves = plan is not None and any(isinstance(n.op, Conv | ConvTranspose) for n in plan.nodes)
    small = form == "direct" and convolves and not network.uses_batch_statistics
    return MICROBATCH if small else None


def run_job(job: Job) -> Iterator[Event]:
    """Trains every seed of an experiment, one after another.

    Args:
      job: what to train.

    Yields:
      `Compiled` once; then for each seed `StepDone` about ten times a second,
      an `EpochRecord` after each epoch, and `SeedDone`.

    Raises:
      UsageError: a Python model cannot be imported or gives the wrong shape.
    """
    with jax.default_device(job.device):
        with job.watch.part("data_s"):
            arrays = jax.block_until_ready(_to_device(job.dataset))
        first, *others = job.experiment.seeds
        with job.watch.part("compile_s"):
            network = _build_network(job, first)
            optimizer = build_optimizer(job.experiment.train, job.num_steps)
            state = init_state(network, optimizer)
            programs = _compile(job, network, optimizer, state, arrays)
        compile_s = job.watch.last("compile_s")
        yield Compiled(num_params(network.params), compile_s)
        yield from _run_seed(job, programs, arrays, state, first, compile_s)
        for seed in others:
            state = init_state(_build_network(job, seed), optimizer)
            yield from _run_seed(job, programs, arrays, state, seed, 0.0)


def _build_network(job: Job, seed: int) -> Network:
    """A model with the initial parameters of a seed."""
    if job.plan is not None:
        return take_apart(GraphNet(job.plan, form=form_for(job.device), rngs=nnx.Rngs(seed)))
    make = import_class(str(job.experiment.model.python), job.folder)
    return take_apart(make_module(make, job.experiment.model.args, seed))


def _to_device(dataset: Dataset) -> Arrays:
    """All splits in one pair of arrays, so that one program evaluates any of them."""
    splits = (dataset.train, dataset.validation, dataset.test)
    images = np.concatenate([split.images for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    return Arrays(jnp.asarray(images), jnp.asarray(labels))


def _compile(
    job: Job, network: Network, optimizer: Any, state: TrainState, arrays: Arrays
) -> Programs:
    microbatch = microbatch_size(job.plan, network, form_for(job.device))
    rules = make_rules(job.experiment, microbatch)
    if job.plan is None:
        _check_output(job, network, arrays, rules)
    train = partial(train_step, graphdef=network.training, optimizer=optimizer, rules=rules)
    evaluate = partial(eval_step, graphdef=network.evaluation, rules=rules)
    outputs = partial(outputs_of, graphdef=network.evaluation, rules=rules)
    batch = jnp.zeros(job.batch_size, jnp.int32)
    chunk = jnp.zeros(EVAL_BATCH, jnp.int32)
    sample = jnp.zeros(min(NUM_SAMPLES, len(job.dataset.test.labels)), jnp.int32)
    reconstructs = job.experiment.task is Task.RECONSTRUCT
    return Programs(
        _ahead_of_time(train, state, arrays, batch, donate_argnums=0),
        _ahead_of_time(evaluate, *state[:2], arrays, chunk, jnp.ones(EVAL_BATCH)),
        _ahead_of_time(outputs, *state[:2], arrays, sample) if reconstructs else None,
    )


def _ahead_of_time(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
    return jax.jit(function, **options).lower(*args).compile()


def _check_output(job: Job, network: Network, arrays: Arrays, rules: Rules) -> None:
    """A Python model's output must fit; a plan's was checked before it was built."""
    info = job.dataset.info
    want = (info.num_classes,) if job.experiment.task is Task.CLASSIFY else info.shape
    call = partial(outputs_of, graphdef=network.evaluation, rules=rules)
    got = jax.eval_shape(call, network.params, network.rest, arrays, jnp.zeros(1, jnp.int32))
    have = getattr(got, "shape", None)
    if have != (1, *want):
        found = f"has shape {shape_text(have[1:])}" if have else f"is a {type(got).__name__}"
        message = f"model.python: the output {found}, and shape {shape_text(want)} is needed"
        raise UsageError(f"{message}; change what the class returns.")


def _run_seed(
    job: Job, programs: Programs, arrays: Arrays, state: TrainState, seed: int, compile_s: float
) -> Iterator[Event]:
    n, m = job.num_train, len(job.dataset.validation.labels)
    test = range(n + m, n + m + len(job.dataset.test.labels))
    records = []
    for epoch in range(1, job.experiment.train.epochs + 1):
        state, losses = yield from _train_epoch(job, programs, arrays, state, seed, epoch)
        train_s = job.watch.last("train_s")
        with job.watch.part("eval_s"):
            values = _evaluate(programs, state, arrays, range(n, n + m))
        record = EpochRecord(
            seed=seed,
            epoch=epoch,
            train_loss=float(np.mean(losses, dtype=np.float64)),
            validation_loss=values.pop("loss"),
            metrics=values,
            train_s=train_s,
            eval_s=job.watch.last("eval_s"),
            samples_per_s=job.num_steps * job.batch_size / train_s,
        )
        records.append(record)
        yield record
    summary = summarize_seed(
        records,
        metrics=metric_directions(job.experiment),
        test=_evaluate(programs, state, arrays, test),
        compile_s=compile_s,
    )
    yield SeedDone(summary, *_samples(job, programs, state, arrays, test.start))


def metric_directions(experiment: Experiment) -> dict[str, Direction]:
    """Every metric of an experiment, and which of its values are better."""
    names = metric_names(experiment)
    higher = {n: Direction.HIGHER if n.endswith("accuracy") else Direction.LOWER for n in names}
    return higher | {"loss": Direction.LOWER}


def _train_epoch(
    job: Job, programs: Programs, arrays: Arrays, state: TrainState, seed: int, epoch: int
) -> Generator[Event, None, tuple[TrainState, list[Any]]]:
    order = epoch_order(seed, epoch, job.num_train)
    batches = np.split(order[: job.num_steps * job.batch_size], job.num_steps)
    losses: list[jax.Array] = []
    with job.watch.part("train_s"):
        shown = job.watch.now()
        for step, indices in enumerate(batches, start=1):
            state, loss = programs.train(state, arrays, jnp.asarray(indices))
            # One step ahead of the device: it is never idle, and progress is true.
            jax.block_until_ready(losses[-1:])
            losses.append(loss)
            if job.watch.now() - shown >= PROGRESS_INTERVAL_S:
                shown = job.watch.now()
                yield StepDone(seed, epoch, step, job.num_steps)
        jax.block_until_ready((state, losses))
    return state, jax.device_get(losses)


def _evaluate(
    programs: Programs, state: TrainState, arrays: Arrays, rows: range
) -> dict[str, float]:
    """Means over every one of `rows`; the last chunk is filled up with weight zero."""
    sums = []
    for start in range(rows.start, rows.stop, EVAL_BATCH):
        indices = np.arange(start, start + EVAL_BATCH, dtype=np.int32)
        weights = (indices < rows.stop).astype(np.float32)
        indices = np.minimum(indices, rows.stop - 1)
        args = (arrays, jnp.asarray(indices), jnp.asarray(weights))
        sums.append(programs.evaluate(*state[:2], *args))
    host = jax.device_get(sums)
    return {key: float(sum(float(part[key]) for part in host) / len(rows)) for key in host[0]}


def _samples(
    job: Job, programs: Programs, state: TrainState, arrays: Arrays, start: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    inputs = job.dataset.test.images[:NUM_SAMPLES]
    if programs.outputs is None:
        return inputs, None
    indices = jnp.arange(start, start + len(inputs), dtype=jnp.int32)
    outputs = programs.outputs(*state[:2], arrays, indices)
    return inputs, np.asarray(outputs) * job.experiment.dataset.pixel_scale
