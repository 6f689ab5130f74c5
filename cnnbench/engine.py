"""Trains an experiment on its devices and tells what happens, epoch by epoch.

Steps are compiled ahead of time and the data stay on the device, so that an
epoch's time holds neither compilation nor copying. Nothing here prints or
writes: the caller consumes a stream of events.
"""

from collections.abc import Generator, Iterator
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np

from cnnbench.compilation import lookups
from cnnbench.events import Compiled, Event, SeedDone, StepDone, Trained, Tuning
from cnnbench.losses import metric_names
from cnnbench.memory import peak_memory_bytes
from cnnbench.programs import (
    EVAL_BATCH,
    NUM_SAMPLES,
    Job,
    Programs,
    Setup,
    check_output,
    compile_all,
    compile_train,
    set_up,
)
from cnnbench.results import Direction, Engine, EpochRecord
from cnnbench.sampling import batches
from cnnbench.spec import Experiment
from cnnbench.summary import summarize_seed
from cnnbench.train import Arrays, TrainState, num_params
from cnnbench.tuning import known_choice, measure

PROGRESS_INTERVAL_S = 0.1


def run_job(job: Job) -> Iterator[Event]:
    """Trains every seed of an experiment, one after another.

    Args:
      job: what to train.

    Yields:
      `Tuning` where strategies have to be measured, `Compiled` once; then for
      each seed `StepDone` about ten times a second, an `EpochRecord` after each
      epoch, and `SeedDone`; `Trained` at the end.

    Raises:
      UsageError: a Python model cannot be imported or gives the wrong shape.
    """
    with jax.default_device(job.devices[0]):
        yield from _run(job)


def _run(job: Job) -> Iterator[Event]:
    started = job.watch.now()
    choice = known_choice(job)
    if choice is None:
        yield Tuning()
        choice = measure(job)
    tune_s = job.watch.now() - started
    with job.watch.part("data_s"):
        setup = set_up(job, choice.strategy)
    first, *others = job.experiment.seeds
    with job.watch.part("compile_s"), lookups() as cache:
        network = setup.network(first)
        if job.plan is None:
            check_output(setup, network)
        state = setup.state(network)
        programs = compile_all(setup, network, state, compile_train(setup, network, state))
    compile_s, strategy = job.watch.last("compile_s"), choice.strategy
    yield Compiled(num_params(network.params), compile_s, cache.state, strategy.text)
    yield from _run_seed(setup, programs, state, first, compile_s)
    for seed in others:
        state = setup.state(setup.network(seed))
        yield from _run_seed(setup, programs, state, seed, 0.0)
    yield Trained(
        Engine(
            requested=job.engine,
            form=strategy.form,
            row=strategy.row,
            num_devices=strategy.num_devices,
            steps_per_call=strategy.steps_per_call,
            step_s=choice.step_s,
            tune_s=tune_s,
            compile_cache=cache.state,
            first_step_s=job.watch.first_step_s,
            peak_memory_bytes=_peak_memory_bytes(job.devices[0]),
        )
    )


def _peak_memory_bytes(device: jax.Device) -> int | None:
    """The most memory held so far: by an accelerator, or by this process on a CPU."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    return int(stats["peak_bytes_in_use"]) if stats else peak_memory_bytes()


def _run_seed(
    setup: Setup, programs: Programs, state: TrainState, seed: int, compile_s: float
) -> Iterator[Event]:
    job, arrays = setup.job, setup.arrays
    n, m = job.num_train, len(job.dataset.validation.labels)
    test = range(n + m, n + m + len(job.dataset.test.labels))
    records = []
    for epoch in range(1, job.experiment.train.epochs + 1):
        traced = job.profile and (seed, epoch) == (job.experiment.seeds[0], 1)
        with jax.profiler.trace(str(job.profile)) if traced else nullcontext():
            state, losses = yield from _train_epoch(setup, programs, state, seed, epoch)
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
    setup: Setup, programs: Programs, state: TrainState, seed: int, epoch: int
) -> Generator[Event, None, tuple[TrainState, Any]]:
    job, size = setup.job, setup.strategy.steps_per_call
    calls = batches(seed, epoch, job.num_train, job.batch_size).reshape(-1, size, job.batch_size)
    losses: list[jax.Array] = []
    with job.watch.part("train_s"):
        shown = job.watch.now()
        for done, indices in enumerate(calls, start=1):
            state, loss = programs.train(state, setup.arrays, indices)
            # One call ahead of the device: it is never idle, and progress is true.
            if losses:
                jax.block_until_ready(losses[-1])
                job.watch.mark_first_step()
            losses.append(loss)
            if job.watch.now() - shown >= PROGRESS_INTERVAL_S:
                shown = job.watch.now()
                yield StepDone(seed, epoch, done * size, job.num_steps)
        jax.block_until_ready((state, losses))
        job.watch.mark_first_step()
    return state, np.concatenate(jax.device_get(losses))


def _evaluate(
    programs: Programs, state: TrainState, arrays: Arrays, rows: range
) -> dict[str, float]:
    """Means over every one of `rows`; the last chunk is filled up with weight zero."""
    sums = []
    for start in range(rows.start, rows.stop, EVAL_BATCH):
        indices = np.arange(start, start + EVAL_BATCH, dtype=np.int32)
        weights = (indices < rows.stop).astype(np.float32)
        indices = np.minimum(indices, rows.stop - 1)
        sums.append(programs.evaluate(*state[:2], arrays, indices, weights))
    host = jax.device_get(sums)
    return {key: float(sum(float(part[key]) for part in host) / len(rows)) for key in host[0]}


def _samples(
    job: Job, programs: Programs, state: TrainState, arrays: Arrays, start: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    inputs = job.dataset.test.images[:NUM_SAMPLES]
    if programs.outputs is None:
        return inputs, None
    indices = np.arange(start, start + len(inputs), dtype=np.int32)
    outputs = programs.outputs(*state[:2], arrays, indices)
    return inputs, np.asarray(outputs) * job.experiment.dataset.pixel_scale
