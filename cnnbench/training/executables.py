"""Executables: a job's steps compiled ahead of time for its devices, with the data on them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from numpy.typing import NDArray

from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import joined
from cnnbench.data.streaming.schedule import ALL, BatchSchedule, Share
from cnnbench.graph.autoencoder import code_layer
from cnnbench.graph.plan import Plan
from cnnbench.layers import Conv
from cnnbench.nn.augment import first_stream
from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.initializers import num_whitening_images, whitening_kernel
from cnnbench.nn.microbatch import Microbatching
from cnnbench.nn.python_model import import_class, make_module, require_output
from cnnbench.nn.submodules import count_slow
from cnnbench.spec.experiment import Experiment, Task, output_shape
from cnnbench.system.buffers import mapped
from cnnbench.system.compile_cache import (
    Program,
    compiled,
    compiled_together,
    rare_collections,
)
from cnnbench.system.devices import BATCH, make_mesh, own_device, spans_processes
from cnnbench.system.host import num_cpus
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.feed.feed import Feed
from cnnbench.training.inference import activations_of, outputs_of
from cnnbench.training.optim.optimizer import build_optimizer
from cnnbench.training.resume import Resume
from cnnbench.training.state import Arrays, Network, TrainState, init_state, split_network, stack
from cnnbench.training.step import Evaluated, StepConfig, eval_step, make_rules, train_step
from cnnbench.training.strategy import Strategy, for_batch, has_batch_statistics

EVAL_BATCH = 500  # images that are evaluated at a time,
EVAL_BYTES = 24 * 2**20  # or fewer large ones: 128x128 in color is the largest size for all 500
_NOTHING: Any = (np.zeros(0), np.zeros(0))
NUM_SAMPLES = 10  # reconstructions kept for figures


@dataclass(frozen=True, slots=True)
class Job:
    """A training job: experiment, data and devices.

    Args:
      experiment: the experiment.
      plan: its network; None for a Python model.
      folder: folder of the experiment file, from which Python models are imported.
      dataset: the dataset.
      devices: devices to train on.
      watch: stopwatch that accumulates the seconds of each part.
      engine: ``auto``, or the requested form of the operations.
      profile: folder for a trace of the first epoch; None for no trace.
      snapshots: True to emit the weights after each epoch.
      reference: class of a Python model, ``module:Class``.
      resume: finished part of an interrupted run; None for a new run.
      workers: worker processes that decode the images of a streamed dataset.
      stops: numbers of seeds after which training may stop; empty if it trains all of them.
      retune: True to measure the engine ``auto`` again.
    """

    experiment: Experiment
    plan: Plan | None
    folder: Path
    dataset: Dataset
    devices: tuple[jax.Device, ...]
    watch: Stopwatch
    engine: str = "auto"
    profile: Path | None = None
    snapshots: bool = False
    reference: str = ""
    resume: Resume | None = None
    workers: int = 1
    stops: tuple[int, ...] = ()
    retune: bool = False

    @property
    def stops_of_others(self) -> tuple[int, ...]:
        """`stops`, counted without the first seed."""
        return tuple(stop - 1 for stop in self.stops)

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.dataset.train.labels)

    @property
    def batch_size(self) -> int:
        """Images per step, at most the number of training images."""
        return min(self.experiment.train.batch_size, self.num_train)

    @property
    def eval_batch(self) -> int:
        """Images that are evaluated at a time, whether or not they are streamed.

        Sums of losses are rounded alike, so that a streamed run has the numbers of one in memory.
        """
        return max(1, min(EVAL_BATCH, EVAL_BYTES // math.prod(self.dataset.info.shape)))

    @property
    def num_full(self) -> int:
        """Steps per epoch with a full batch."""
        return self.num_train // self.batch_size

    @property
    def num_last(self) -> int:
        """Images of the incomplete last batch; 0 if there is none or it is dropped."""
        return 0 if self.experiment.train.drop_last else self.num_train % self.batch_size

    @property
    def num_steps(self) -> int:
        """Steps per epoch."""
        return self.num_full + bool(self.num_last)

    @property
    def num_seen(self) -> int:
        """Training images per epoch."""
        return self.num_full * self.batch_size + self.num_last

    @property
    def device(self) -> jax.Device:
        """The first device of this process."""
        return own_device(self.devices)

    @property
    def num_processes(self) -> int:
        """Number of processes that train together."""
        return len({device.process_index for device in self.devices})

    @property
    def accelerator(self) -> bool:
        """True for GPUs and TPUs."""
        return str(self.devices[0].platform) != "cpu"

    def schedule(self, seed: int) -> BatchSchedule:
        """Order in which the images of a seed are needed."""
        train, validation, test = map(len, self.dataset.rows(seed))
        return BatchSchedule(
            seed=seed,
            epochs=self.experiment.train.epochs,
            sizes=(train, validation, test),
            batch_size=self.batch_size,
            chunk=self.eval_batch,
            drop_last=self.experiment.train.drop_last,
        )


def _not_compiled(*_: object) -> Any:
    raise RuntimeError("compile_all has not been called")


@dataclass(frozen=True, slots=True)
class Executables:
    """Devices, data and compiled functions of a job.

    `set_up` places the data; `compile_all` compiles. Functions for several seeds in parallel
    have a seed axis: first in the state and in the results of `evaluate` and `outputs`, second
    in indices and losses.

    Args:
      job: the training job.
      strategy: the training strategy.
      mesh: devices that share a batch; None for a single device.
      arrays: all images, on every device; of a streamed dataset, zeros as large as a batch.
      at_once: seeds trained in parallel by one program.
      train: (state, arrays, indices (steps, batch)) to state and losses (steps,).
      train_last: the same for the incomplete last batch, (1, batch); None without one.
      evaluate: compiled `step.eval_step`.
      outputs: compiled `inference.outputs_of`; None for classifiers.
      codes: (params, rest, arrays, indices) to the code of those images, compiled on first call;
        None unless a graph of layers reconstructs.
      num_slow: number of slow convolutions of a Python model, as counted by `check_output`.
      feed: the batches of a streamed dataset; None if all images are on the devices.
    """

    job: Job
    strategy: Strategy
    mesh: Mesh | None
    arrays: Arrays
    at_once: int = 1
    train: Callable[..., tuple[TrainState, jax.Array]] = _not_compiled
    train_last: Callable[..., tuple[TrainState, jax.Array]] | None = None
    evaluate: Callable[..., Evaluated] = _not_compiled
    outputs: Callable[..., jax.Array] | None = None
    codes: Callable[..., jax.Array] | None = None
    num_slow: int = 0
    feed: Feed | None = None

    @property
    def own_rows(self) -> bool:
        """True if indices and weights of `evaluate` have a seed axis, for images of their own."""
        return self.at_once > 1 and self.job.dataset.pool is not None

    @property
    def own_labels(self) -> bool:
        """True if the arrays of `train` have a seed axis of labels, for label noise."""
        return self.at_once > 1 and self.job.dataset.has_own_labels

    def training_arrays(self, seeds: Sequence[int], number: int) -> Arrays:
        """Arrays that `train` takes for some seeds, in batches of this many images."""
        if self.feed is not None or not self.job.dataset.has_own_labels:
            return self.arrays_for(number)
        labels = np.stack([self.job.dataset.labels(seed) for seed in seeds])
        own: Any = self.place(labels if self.at_once > 1 else labels[0])
        return self.arrays._replace(labels=own)

    def network(self, seed: int) -> Network:
        """The model with the initial parameters of a seed, and its random numbers."""
        augments = self.rules(training=True).augment is not None
        return self._model(seed)._replace(stream=first_stream(seed) if augments else None)

    def _model(self, seed: int) -> Network:
        job = self.job
        if job.plan is None:
            make = import_class(job.reference, job.folder)
            return split_network(make_module(make, job.experiment.model.args, seed))
        form, row = self.strategy.form, self.strategy.row
        cut = Microbatching(row, self.mesh) if row and has_batch_statistics(job.plan) else None
        net = GraphNet(job.plan, form=form, rngs=nnx.Rngs(seed), cut=cut)
        _whiten(net, job.plan, job, seed)
        return split_network(net)

    def state(self, *networks: Network) -> TrainState:
        """The initial state on the devices, stacked over networks (one per parallel seed)."""
        optimizer = build_optimizer(self.job.experiment.train, self.job.num_steps, self.job.plan)
        states = [init_state(network, optimizer) for network in networks]
        state: TrainState = self.place(stack(states))
        return state

    def state_shapes(self, *networks: Network) -> TrainState:
        """Shapes and devices of `state`, to trace programs before it is computed."""
        optimizer = build_optimizer(self.job.experiment.train, self.job.num_steps, self.job.plan)
        shapes = jax.eval_shape(lambda: stack([init_state(each, optimizer) for each in networks]))
        device = _sharding(self.mesh, self.job.device)
        state: TrainState = jax.tree.map(lambda leaf: leaf.update(sharding=device), shapes)
        return state

    def each_seed(self, function: Callable[..., Any], axes: Sequence[int | None]) -> Any:
        """A function of one seed, vectorized over the seeds trained in parallel."""
        return jax.vmap(function, in_axes=axes) if self.at_once > 1 else function

    def place(self, tree: Any) -> Any:
        """Put values on every device."""
        return _place(tree, self.mesh, self.job.device)

    def rules(self, *, training: bool) -> StepConfig:
        """Configuration of a step; batch statistics need the whole batch in training."""
        plan, row = self.job.plan, self.strategy.row
        whole = training and plan is not None and has_batch_statistics(plan)
        rows = None if whole else row
        # Otherwise the model itself splits the batch into micro-batches and shards them.
        mesh = None if whole and row else self.mesh
        options: Any = {"training": training, "prepares": plan is not None, "mesh": mesh}
        found = make_rules(self.job.experiment, rows, **options)
        return found._replace(streamed=self.feed is not None)

    def arrays_for(self, number: int) -> Arrays:
        """Arrays that a program for this number of images takes."""
        if self.feed is None:
            return self.arrays
        test: Any = self.job.dataset.test
        sizes = zip(
            (self.feed.share.padded(number), number), (test.images, test.labels), strict=True
        )
        shapes = [(size, *each.shape[1:]) for size, each in sizes]
        zeros: Any = Arrays(*map(mapped, shapes, (np.uint8, test.labels.dtype)))  # type: ignore[arg-type]
        return _place_batch(zeros, self.mesh, self.job.device)

    def gathering(self, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        """A function that takes a batch whose images are divided among processes.

        Every device gets all of them, as 8-bit integers: which ones it needs depends on how rows
        are cut and images mixed.

        Args:
          function: the function, of arrays with a whole batch.
          place: place of the arrays among its arguments.
        """
        if self.feed is None or self.feed.share == ALL or self.mesh is None:
            return function
        everywhere = NamedSharding(self.mesh, PartitionSpec())

        def gathered(*args: Any) -> Any:
            arrays = lax.with_sharding_constraint(args[place], everywhere)
            return function(*args[:place], arrays, *args[place + 1 :])

        return gathered

    def arrays_with(self, indices: NDArray[np.int32]) -> tuple[Arrays, NDArray[np.int32]]:
        """Arrays that contain some images of the dataset, and their places there."""
        if self.feed is None:
            return self.arrays, indices
        return self.feed.images_at(indices), np.arange(len(indices), dtype=np.int32)


def _first_images(dataset: Dataset, seed: int, number: int) -> NDArray[np.uint8]:
    """The images that whitening needs; if they are streamed, they are decoded once."""
    if dataset.streamed:
        return _decoded_first(dataset, seed, number)
    return dataset.of_seed(seed).train.images[:number]


@lru_cache(maxsize=1)
def _decoded_first(dataset: Dataset, seed: int, number: int) -> NDArray[np.uint8]:
    return np.asarray(dataset.of_seed(seed).train.images[:number])


def _whiten(net: GraphNet, plan: Plan, job: Job, seed: int) -> None:
    """Set the kernels that depend on the training images."""
    for node in plan.nodes:
        if isinstance(node.op, Conv) and node.op.init == "whitening":
            number = num_whitening_images(job.dataset.info.shape, node.op.kernel)
            pixels = _first_images(job.dataset, seed, number).astype(np.float32)
            images = job.experiment.dataset.scaling.apply(pixels)
            net.weights[node.name]["kernel"][...] = whitening_kernel(images, node.op.kernel)


def set_up(job: Job, strategy: Strategy) -> Executables:
    """Put the data on the devices of a strategy, without compiling anything."""
    mesh = make_mesh(job.devices[: strategy.num_devices])
    place = partial(_place, mesh=mesh, first=job.device)
    if job.dataset.streamed:
        batch = partial(_place_batch, mesh=mesh, first=job.device)
        feed = Feed(job.dataset, job.schedule, job.workers, job.watch, batch, _share(mesh))
        setup = Executables(job, strategy, mesh, Arrays(*_NOTHING), feed=feed)
        return replace(setup, arrays=setup.arrays_for(job.batch_size))
    arrays = place(to_arrays(job.dataset))
    return Executables(job, strategy, mesh, jax.block_until_ready(arrays))


def _place(tree: Any, mesh: Mesh | None, first: jax.Device) -> Any:
    sharding = _sharding(mesh, first)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(partial(_everywhere, sharding=sharding), tree)


def _place_batch(batch: Arrays, mesh: Mesh | None, first: jax.Device) -> Arrays:
    """Put a streamed batch on the devices; on those of several processes, each has a part."""
    if _share(mesh) == ALL:
        placed: Arrays = _place(batch, mesh, first)
        return placed
    assert mesh is not None
    sharding, images = NamedSharding(mesh, PartitionSpec(BATCH)), np.asarray(batch.images)
    parts = jax.make_array_from_process_local_data(sharding, images, images.shape)
    return Arrays(parts, _place(batch.labels, mesh, first))


def _share(mesh: Mesh | None) -> Share:
    """The part of this process in a batch."""
    if mesh is None or not spans_processes(mesh):
        return ALL
    devices = list(mesh.devices.flat)
    own = [n for n, each in enumerate(devices) if each.process_index == jax.process_index()]
    return Share(own[0], own[-1] + 1, len(devices))


def _everywhere(leaf: Any, sharding: Sharding) -> jax.Array:
    """A value that every process has, as one array on the devices of all processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    found: jax.Array
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _everywhere(jax.random.key_data(leaf), sharding)
        found = jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    else:
        host = np.asarray(leaf)
        found = jax.make_array_from_process_local_data(sharding, host, host.shape)
    return found


def _sharding(mesh: Mesh | None, first: jax.Device) -> Sharding:
    return NamedSharding(mesh, PartitionSpec()) if mesh else SingleDeviceSharding(first)


def to_arrays(dataset: Dataset) -> Arrays:
    """All images, so that one program evaluates any of them; `Dataset.rows` says where they are."""
    every = joined(dataset.stored)
    images: Any = every.images
    labels: Any = every.labels
    return Arrays(images, labels)


def compile_train(setup: Executables, network: Network, state: TrainState) -> Callable[..., Any]:
    """Compile only the `train` function of `Executables`."""
    train: Callable[..., Any] = compiled(*lower_train(setup, network, state))
    return train


def lower_train(
    setup: Executables, network: Network, state: TrainState, batch_size: int | None = None
) -> Program:
    """Trace the `train` function of `Executables`; the default is a full batch."""
    job = setup.job
    optimizer = build_optimizer(job.experiment.train, job.num_steps, job.plan)
    rules = setup.rules(training=True)
    step = partial(train_step, graphdef=network.training, optimizer=optimizer, rules=rules)
    own: Any = Arrays(None, 0) if setup.own_labels else None  # type: ignore[arg-type]
    step = setup.each_seed(setup.gathering(step, 1), (0, own, 0))

    def steps(state: TrainState, arrays: Arrays, indices: jax.Array) -> Any:
        if len(indices) == 1:  # convolutions inside a loop are slow on CPUs
            state, loss = step(state, arrays, indices[0])
            return state, loss[None]
        return lax.scan(lambda carry, batch: step(carry, arrays, batch), state, indices)

    seeds = (setup.at_once,) if setup.at_once > 1 else ()
    size = batch_size or job.batch_size
    indices = np.zeros((setup.strategy.steps_per_call, *seeds, size), np.int32)
    # LLVM's highest optimization level takes a sixth of the compile time without a faster step.
    options = {} if job.accelerator else {"xla_backend_optimization_level": 2}
    arguments = state, setup.training_arrays(range(setup.at_once), size), indices
    return _lowered(setup, steps, *arguments, quick=options, donate_argnums=0)


def _lower_last(setup: Executables, state: TrainState) -> Program:
    """Trace the `train_last` function of `Executables`, in rows that fit its batch."""
    size = setup.job.num_last
    setup = replace(setup, strategy=for_batch(setup.strategy, setup.job.plan, size))
    return lower_train(setup, setup.network(0), state, size)


def compile_all(setup: Executables, networks: Sequence[Network]) -> tuple[Executables, TrainState]:
    """Compile all functions, and compute the initial state.

    Args:
      setup: from `set_up`.
      networks: networks of the seeds trained in parallel.
    """
    network, state = networks[0], setup.state_shapes(*networks)
    traces = {
        "train": partial(lower_train, setup, network, state),
        "evaluate": partial(_lower_evaluate, setup, network, state),
    }
    if setup.job.num_last:
        traces["train_last"] = partial(_lower_last, setup, state)
    if setup.job.experiment.task is Task.RECONSTRUCT:
        traces["outputs"] = partial(_lower_outputs, setup, state)
    initial: list[TrainState] = []
    functions = _compiled(setup, traces, lambda: initial.append(setup.state(*networks)))
    return replace(setup, codes=_coder(setup), **functions), initial[0]


def compile_evaluation(setup: Executables, network: Network, state: TrainState) -> Executables:
    """Compile `evaluate` only, for networks that are trained already.

    Args:
      setup: from `set_up`.
      network: network of any seed.
      state: state of a seed, on the devices.
    """
    evaluate = compiled(*_lower_evaluate(setup, network, state))
    return replace(setup, evaluate=evaluate)


def _lower_evaluate(setup: Executables, network: Network, state: TrainState) -> Program:
    evaluate = partial(eval_step, graphdef=network.scoring, rules=setup.rules(training=False))
    own = 0 if setup.own_rows else None
    evaluate = setup.each_seed(setup.gathering(evaluate, 2), (0, 0, None, own, own))
    size = setup.job.eval_batch
    chunk = (setup.at_once, size) if setup.own_rows else size
    weights = np.ones(chunk, np.float32)
    arguments = *state[:2], setup.arrays_for(size), np.zeros(chunk, np.int32), weights
    return _lowered(setup, evaluate, *arguments, quick=_quick(setup.job))


def _lower_outputs(setup: Executables, state: TrainState) -> Program:
    # For these few images XLA's own convolutions suffice, at a third of the compile time.
    plain = replace(setup, strategy=replace(setup.strategy, form="plain", row=None))
    graphdef = plain.network(0).evaluation
    outputs = partial(outputs_of, graphdef=graphdef, rules=setup.rules(training=False))
    outputs = setup.each_seed(setup.gathering(outputs, 2), (0, 0, None, None))
    sample = np.zeros(min(NUM_SAMPLES, len(setup.job.dataset.test.labels)), np.int32)
    arguments = *state[:2], setup.arrays_for(len(sample)), sample
    return _lowered(setup, outputs, *arguments, quick=_quick(setup.job))


def _quick(job: Job) -> Mapping[str, Any]:
    # Evaluation is mostly matrix products, which LLVM optimization does not speed up; without
    # it, compilation takes two thirds of the time.
    return {} if job.accelerator else {"xla_backend_optimization_level": 1}


def _coder(setup: Executables) -> Callable[..., jax.Array] | None:
    """The `codes` function of `Executables`."""
    job = setup.job
    if job.experiment.task is not Task.RECONSTRUCT or job.plan is None:
        return None
    layer = code_layer(job.plan, job.experiment.model.code_layer)
    plain = replace(setup, strategy=replace(setup.strategy, form="plain", row=None))
    graphdef, rules = plain.network(0).evaluation, setup.rules(training=False)

    def codes(params: Any, rest: Any, arrays: Arrays, indices: jax.Array) -> jax.Array:
        given = activations_of(params, rest, arrays, indices, graphdef=graphdef, rules=rules)
        return given[layer]

    return jax.jit(setup.gathering(codes, 2))


def _compiled(
    setup: Executables, traces: Mapping[str, Callable[[], Program]], meanwhile: Callable[[], None]
) -> dict[str, Any]:
    """Trace and compile functions of `Executables`, each as soon as it is traced.

    While the first, the largest, is compiled, `meanwhile` is called and the others are traced.
    """

    def programs() -> Iterator[Program]:
        first, *others = traces.values()
        yield first()
        meanwhile()
        yield from (trace() for trace in others)

    return dict(zip(traces, compiled_together(programs(), compilations(setup.job)), strict=True))


def compilations(job: Job) -> int:
    """Programs to compile at a time; on an accelerator, XLA measures alternatives on it."""
    return 1 if job.accelerator else num_cpus()


def _lowered(
    setup: Executables,
    function: Callable[..., Any],
    *args: Any,
    quick: Mapping[str, Any],
    **options: Any,
) -> Program:
    if setup.mesh is not None:
        options["out_shardings"] = NamedSharding(setup.mesh, PartitionSpec())
    with rare_collections():
        return jax.jit(function, **options).lower(*args), quick


def check_output(setup: Executables, network: Network) -> int:
    """Check the output shape of a Python model.

    Returns:
      The number of its depthwise convolutions that are slow on a CPU; 0 on an accelerator.

    Raises:
      ModelError: the output is not an array of the required shape.
    """
    job, info = setup.job, setup.job.dataset.info
    want = output_shape(job.experiment.task, info)
    rules = setup.rules(training=False)
    call = partial(outputs_of, graphdef=network.evaluation, rules=rules)
    indices = jnp.zeros(1, jnp.int32)
    traced = jax.make_jaxpr(call, return_shape=True)
    program, got = traced(network.params, network.rest, setup.arrays, indices)
    require_output(got, want)
    return 0 if job.accelerator else count_slow(program.jaxpr)
