"""Trains an experiment on its devices and tells what happens, epoch by epoch.

Steps are compiled ahead of time and the data stay on the device, so that an
epoch's time holds neither compilation nor copying. Nothing here prints or
writes: the caller consumes a stream of events.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

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
    set_up,
)
from cnnbench.results import Direction, Engine, EpochRecord
from cnnbench.sampling import batches
from cnnbench.spec import Experiment
from cnnbench.strategy import seeds_at_once
from cnnbench.summary import summarize_seed
from cnnbench.train import TrainState, num_params, weights_of
from cnnbench.tuning import known_choice, measure

PROGRESS_INTERVAL_S = 0.1


def run_job(job: Job) -> Iterator[Event]:
    """Trains every seed of an experiment: the first alone, whose epochs tell the time.

    The others follow one after another, or several at once where that is faster.

    Args:
      job: what to train.

    Yields:
      `Tuning` where strategies have to be measured, `Compiled` once; then for
      each seed `StepDone` about ten times a second, an `EpochRecord` after each
      epoch, and `SeedDone`; `Trained` at the end.

    Raises:
      UsageError: a Python model cannot be imported or gives the wrong shape.
    """
    events = _run(job)
    while True:
        # Not around the loop: the caller may do something else between two events.
        with jax.default_device(job.devices[0]):
            event = next(events, None)
        if event is None:
            return
        yield event


class _Ready(NamedTuple):
    """Programs with what they were compiled for."""

    setup: Setup
    programs: Programs


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
    with lookups() as cache:
        alone, state = _compile(setup, (first,))
    compile_s, strategy = job.watch.last("compile_s"), choice.strategy
    yield Compiled(num_params(state.params), compile_s, cache.state, strategy.text)
    yield from _run_seeds(alone, state, (first,), compile_s)
    started = job.watch.now()
    together = _faster_together(alone, others, job.watch.last("train_s"))
    tune_s += job.watch.now() - started
    at_once = together.setup.at_once if together else 1
    for seeds in _groups(others, at_once):
        ready = together if together and len(seeds) > 1 else alone
        state = ready.setup.state(*map(setup.network, seeds))
        yield from _run_seeds(ready, state, seeds, 0.0)
    yield Trained(
        Engine(
            requested=job.engine,
            form=strategy.form,
            row=strategy.row,
            num_devices=strategy.num_devices,
            steps_per_call=strategy.steps_per_call,
            seeds_at_once=at_once,
            step_s=choice.step_s,
            tune_s=tune_s,
            compile_cache=cache.state,
            first_step_s=job.watch.first_step_s,
            peak_memory_bytes=_peak_memory_bytes(job.devices[0]),
        )
    )


def _compile(setup: Setup, seeds: Sequence[int]) -> tuple[_Ready, TrainState]:
    """Programs for seeds that are trained at once, and what these start from."""
    with setup.job.watch.part("compile_s"):
        networks = [setup.network(seed) for seed in seeds]
        if setup.job.plan is None:
            check_output(setup, networks[0])
        state = setup.state(*networks)
        return _Ready(setup, compile_all(setup, networks[0], state)), state


def _faster_together(alone: _Ready, seeds: Sequence[int], epoch_s: float) -> _Ready | None:
    """Programs for several seeds at once, if a trial epoch takes less than `epoch_s` a seed.

    Only accelerators are so large that one of these networks leaves some of them idle.
    """
    job, size = alone.setup.job, seeds_at_once(len(seeds))
    if size < 2 or not job.accelerator:
        return None
    together, state = _compile(replace(alone.setup, at_once=size), seeds[:size])
    start = job.watch.now()
    for indices in _calls(together.setup, seeds[:size], epoch=1):
        state, losses = together.programs.train(state, alone.setup.arrays, indices)
    jax.block_until_ready((state, losses))
    return together if (job.watch.now() - start) / size < epoch_s else None


def _groups(seeds: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Seeds in groups; those that fill none are trained alone."""
    whole = len(seeds) // size * size
    yield from (tuple(seeds[i : i + size]) for i in range(0, whole, size))
    yield from ((seed,) for seed in seeds[whole:])


def _peak_memory_bytes(device: jax.Device) -> int | None:
    """The most memory held so far: by an accelerator, or by this process on a CPU."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    return int(stats["peak_bytes_in_use"]) if stats else peak_memory_bytes()


def _run_seeds(
    ready: _Ready, state: TrainState, seeds: tuple[int, ...], compile_s: float
) -> Iterator[Event]:
    """Trains seeds at once; the first of them is charged with the compilation."""
    job = ready.setup.job
    n, m = job.num_train, len(job.dataset.validation.labels)
    test = range(n + m, n + m + len(job.dataset.test.labels))
    records: dict[int, list[EpochRecord]] = {seed: [] for seed in seeds}
    for epoch in range(1, job.experiment.train.epochs + 1):
        traced = job.profile and (seeds[0], epoch) == (job.experiment.seeds[0], 1)
        with jax.profiler.trace(str(job.profile)) if traced else nullcontext():
            state, losses = yield from _train_epoch(ready, state, seeds, epoch)
        with job.watch.part("eval_s"):
            values = _evaluate(ready, state, range(n, n + m))
        for number, seed in enumerate(seeds):
            record = _record(job, (seed, epoch), losses[:, number], values[number], len(seeds))
            records[seed].append(record)
            yield record
    tests = _evaluate(ready, state, test)
    inputs, outputs = _samples(ready, state, test.start)
    weights = weights_of(state.params, state.rest, layers=job.plan is not None)
    for number, seed in enumerate(seeds):
        summary = summarize_seed(
            records[seed],
            metrics=metric_directions(job.experiment),
            test=tests[number],
            compile_s=0.0 if number else compile_s,
        )
        own = {k: v[number] for k, v in weights.items()} if len(seeds) > 1 else weights
        yield SeedDone(summary, inputs, None if outputs is None else outputs[number], own)


def _record(
    job: Job, place: tuple[int, int], losses: Any, values: dict[str, float], at_once: int
) -> EpochRecord:
    """An epoch of a seed that has just ended, with its share of the seconds."""
    train_s = job.watch.last("train_s") / at_once
    return EpochRecord(
        *place,
        train_loss=float(np.mean(losses, dtype=np.float64)),
        validation_loss=values["loss"],
        metrics={name: value for name, value in values.items() if name != "loss"},
        train_s=train_s,
        eval_s=job.watch.last("eval_s") / at_once,
        samples_per_s=job.num_steps * job.batch_size / train_s,
        at_once=at_once,
    )


def metric_directions(experiment: Experiment) -> dict[str, Direction]:
    """Every metric of an experiment, and which of its values are better."""
    names = metric_names(experiment)
    higher = {n: Direction.HIGHER if n.endswith("accuracy") else Direction.LOWER for n in names}
    return higher | {"loss": Direction.LOWER}


def _calls(setup: Setup, seeds: Sequence[int], epoch: int) -> Any:
    """What each call of the program trains on: indices (calls, steps, [seeds,] batch)."""
    job = setup.job
    sizes = job.num_train, job.batch_size
    orders = np.stack([batches(seed, epoch, *sizes) for seed in seeds], axis=1)
    orders = orders if setup.at_once > 1 else orders[:, 0]
    return orders.reshape(-1, setup.strategy.steps_per_call, *orders.shape[1:])


def _train_epoch(
    ready: _Ready, state: TrainState, seeds: tuple[int, ...], epoch: int
) -> Generator[Event, None, tuple[TrainState, Any]]:
    """Returns the state and the losses, (steps, seeds)."""
    setup, job = ready.setup, ready.setup.job
    calls, size = _calls(setup, seeds, epoch), setup.strategy.steps_per_call
    losses: list[jax.Array] = []
    with job.watch.part("train_s"):
        shown = job.watch.now()
        for done, indices in enumerate(calls, start=1):
            state, loss = ready.programs.train(state, setup.arrays, indices)
            # One call ahead of the device: it is never idle, and progress is true.
            if losses:
                jax.block_until_ready(losses[-1])
                job.watch.mark_first_step()
            losses.append(loss)
            if job.watch.now() - shown >= PROGRESS_INTERVAL_S:
                shown = job.watch.now()
                yield StepDone(seeds[0], epoch, done * size, job.num_steps, len(seeds))
        jax.block_until_ready((state, losses))
        job.watch.mark_first_step()
    return state, np.concatenate(jax.device_get(losses)).reshape(-1, len(seeds))


def _evaluate(ready: _Ready, state: TrainState, rows: range) -> list[dict[str, float]]:
    """Means over every one of `rows`, by seed; the last chunk is filled up with weight zero."""
    sums = []
    for start in range(rows.start, rows.stop, EVAL_BATCH):
        indices = np.arange(start, start + EVAL_BATCH, dtype=np.int32)
        weights = (indices < rows.stop).astype(np.float32)
        indices = np.minimum(indices, rows.stop - 1)
        sums.append(ready.programs.evaluate(*state[:2], ready.setup.arrays, indices, weights))
    host = jax.device_get(sums)
    totals = {
        key: np.sum([np.float64(part[key]) for part in host], axis=0).reshape(-1) for key in host[0]
    }
    return [
        {key: float(total[number] / len(rows)) for key, total in totals.items()}
        for number in range(ready.setup.at_once)
    ]


def _samples(
    ready: _Ready, state: TrainState, start: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """The first test images, and what each seed makes of them, (seeds, n, h, w, c)."""
    job = ready.setup.job
    inputs = job.dataset.test.images[:NUM_SAMPLES]
    if ready.programs.outputs is None:
        return inputs, None
    indices = np.arange(start, start + len(inputs), dtype=np.int32)
    outputs = np.asarray(ready.programs.outputs(*state[:2], ready.setup.arrays, indices))
    return inputs, outputs.reshape(-1, *inputs.shape) * job.experiment.dataset.pixel_scale
