"""Trains an experiment on its devices and tells what happens, epoch by epoch.

Steps are compiled ahead of time and the data stay on the device, so that an
epoch's time holds neither compilation nor copying. Nothing here prints or
writes: the caller consumes a stream of events.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from cnnbench.data.batches import batches
from cnnbench.runs.records import EngineRecord, EpochRecord
from cnnbench.runs.summary import summarize_seed
from cnnbench.runs.weights import Weights
from cnnbench.system.compile_cache import lookups
from cnnbench.system.devices import peak_memory
from cnnbench.training.autotune import known_choice, measure
from cnnbench.training.evaluation import (
    Ready,
    code_accuracies,
    coder,
    evaluate,
    metric_directions,
    samples,
)
from cnnbench.training.events import (
    Checkpoint,
    Compiled,
    Event,
    Resumed,
    SeedDone,
    Snapshot,
    StepDone,
    Trained,
    Tuning,
)
from cnnbench.training.executables import Job, Setup, check_output, compile_all, set_up
from cnnbench.training.footprint import ran_out
from cnnbench.training.profiling import measure_cost
from cnnbench.training.resume import goes_on, is_kept
from cnnbench.training.state import (
    TrainState,
    num_params,
    stack,
    unstack,
    values_of,
    weights_of,
    with_values,
)
from cnnbench.training.strategy import groups, seeds_at_once

PROGRESS_INTERVAL_S = 0.1


def run_job(job: Job) -> Iterator[Event]:
    """Trains every seed of an experiment: the first alone, whose epochs tell the time.

    The others follow one after another, or several at once where that is faster.

    Args:
      job: what to train.

    Yields:
      `Tuning` where strategies have to be measured, `Compiled` once; then for
      each seed `StepDone` about ten times a second, an `EpochRecord` after each
      epoch, a `Snapshot` where it is asked for, and `SeedDone`; `Trained` at the end.

    Raises:
      UsageError: a Python model cannot be imported or gives the wrong shape.
      OutOfMemoryError: the memory is too small.
    """
    events = _run(job)
    while True:
        # Not around the loop: the caller may do something else between two events.
        with jax.default_device(job.devices[0]):
            try:
                event = next(events, None)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
                    raise
                raise ran_out(job.plan, job.batch_size) from None
        if event is None:
            return
        yield event


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
    engine = EngineRecord(
        requested=job.engine,
        form=strategy.form,
        row=strategy.row,
        num_devices=strategy.num_devices,
        steps_per_call=strategy.steps_per_call,
        seeds_at_once=1,
        step_s=choice.step_s,
        tune_s=tune_s,
        compile_cache=cache.state,
        first_step_s=math.nan,
        peak_memory_bytes=None,
    )
    told = compile_s, cache.state, strategy.text, engine, alone.num_slow
    yield Compiled(num_params(state.params), *told)
    if job.resume:
        yield Resumed(job.resume.kept)
    yield from _run_seeds(alone, state, (first,), compile_s)
    cost = measure_cost(alone.setup, alone.programs)
    started = job.watch.now()
    together = _together(alone, others, _epoch_s(job))
    tune_s += job.watch.now() - started
    at_once = together.setup.at_once if together else 1
    for seeds in groups(others, at_once):
        ready = together if together and len(seeds) > 1 else alone
        state = ready.setup.state(*map(setup.network, seeds))
        yield from _run_seeds(ready, state, seeds, 0.0)
    yield Trained(
        replace(
            engine,
            seeds_at_once=at_once,
            tune_s=tune_s,
            first_step_s=job.watch.first_step_s,
            peak_memory_bytes=peak_memory(job.devices[0]),
        ),
        cost,
    )


def _compile(setup: Setup, seeds: Sequence[int]) -> tuple[Ready, TrainState]:
    """Programs for seeds that are trained at once, and what these start from."""
    with setup.job.watch.part("compile_s"):
        networks = [setup.network(seed) for seed in seeds]
        slow = check_output(setup, networks[0]) if setup.job.plan is None else 0
        state = setup.state(*networks)
        return Ready(setup, compile_all(setup, networks[0], state), coder(setup), slow), state


def _epoch_s(job: Job) -> float:
    """Seconds of an epoch of the first seed."""
    known = job.resume.records[job.experiment.seeds[0]] if job.resume else ()
    return known[-1].train_s if known else job.watch.last("train_s")


def _together(alone: Ready, seeds: Sequence[int], epoch_s: float) -> Ready | None:
    """Programs for several seeds at once, if a trial epoch takes less than `epoch_s` a seed.

    Only accelerators are so large that one of these networks leaves some of them idle.
    A run that goes on does as it began.
    """
    job, size = alone.setup.job, seeds_at_once(len(seeds))
    decided = job.resume.at_once if job.resume else None
    size = decided or size
    if size < 2 or not job.accelerator:
        return None
    together, state = _compile(replace(alone.setup, at_once=size), seeds[:size])
    if decided:
        return together
    start = job.watch.now()
    for indices in _calls(together.setup, seeds[:size], epoch=1):
        state, losses = together.programs.train(state, alone.setup.arrays, indices)
    jax.block_until_ready((state, losses))
    return together if (job.watch.now() - start) / size < epoch_s else None


def _run_seeds(
    ready: Ready, state: TrainState, seeds: tuple[int, ...], compile_s: float
) -> Iterator[Event]:
    """Trains seeds at once; the first of them is charged with the compilation."""
    job = ready.setup.job
    n, m = job.num_train, len(job.dataset.validation.labels)
    test = range(n + m, n + m + len(job.dataset.test.labels))
    state, records, done = _restored(ready, state, seeds)
    for epoch in range(done + 1, job.experiment.train.epochs + 1):
        if not any(map(goes_on, records.values())):
            break
        traced = job.profile and (seeds[0], epoch) == (job.experiment.seeds[0], 1)
        with jax.profiler.trace(str(job.profile)) if traced else nullcontext():
            state, losses = yield from _train_epoch(ready, state, seeds, epoch)
        with job.watch.part("eval_s"):
            values = evaluate(ready, state, range(n, n + m)) if m else [{}] * len(seeds)
        for number, seed in enumerate(seeds):
            if goes_on(records[seed]):
                record = _record(job, (seed, epoch), losses[:, number], values[number], len(seeds))
                records[seed].append(record)
                yield record
        if job.snapshots:
            for seed, weights in _weights(job, state, seeds):
                yield Snapshot(seed, epoch, weights)
        if is_kept(job.experiment, epoch, records):
            for seed, one in zip(seeds, unstack(state, len(seeds)), strict=True):
                yield Checkpoint(seed, epoch, values_of(one))
    tests = evaluate(ready, state, test)
    worths = code_accuracies(ready, state)
    inputs, outputs = samples(ready, state, test.start)
    for number, (seed, weights) in enumerate(_weights(job, state, seeds)):
        summary = summarize_seed(
            records[seed],
            metrics=metric_directions(job.experiment),
            test=tests[number],
            compile_s=0.0 if number else compile_s,
            code_accuracy=worths[number],
        )
        own = None if outputs is None else outputs[number]
        yield SeedDone(summary, inputs, own, weights)


def _restored(
    ready: Ready, state: TrainState, seeds: tuple[int, ...]
) -> tuple[TrainState, dict[int, list[EpochRecord]], int]:
    """Where seeds go on: their state, their records so far, and how many epochs are done."""
    job = ready.setup.job
    records: dict[int, list[EpochRecord]] = {seed: [] for seed in seeds}
    done = job.resume.epochs[seeds[0]] if job.resume else 0
    if job.resume is None or not done:
        return state, records, 0
    load = job.resume.load
    own = [
        with_values(one, load(seed, done), f"seed {seed}, epoch {done}")
        for seed, one in zip(seeds, unstack(state, len(seeds)), strict=True)
    ]
    records |= {seed: list(job.resume.records[seed]) for seed in seeds}
    return ready.setup.place(stack(own)), records, done


def _weights(job: Job, state: TrainState, seeds: tuple[int, ...]) -> Iterator[tuple[int, Weights]]:
    """What each seed has learnt so far."""
    for seed, own in zip(seeds, unstack(state, len(seeds)), strict=True):
        yield seed, weights_of(own.params, own.rest, layers=job.plan is not None)


def _record(
    job: Job, place: tuple[int, int], losses: Any, values: dict[str, float], at_once: int
) -> EpochRecord:
    """An epoch of a seed that has just ended, with its share of the seconds."""
    train_s = job.watch.last("train_s") / at_once
    return EpochRecord(
        *place,
        train_loss=float(np.mean(losses, dtype=np.float64)),
        validation_loss=values.get("loss"),
        metrics={name: value for name, value in values.items() if name != "loss"},
        train_s=train_s,
        eval_s=job.watch.last("eval_s") / at_once,
        samples_per_s=job.num_steps * job.batch_size / train_s if train_s else math.inf,
        at_once=at_once,
    )


def _calls(setup: Setup, seeds: Sequence[int], epoch: int) -> Any:
    """What each call of the program trains on: indices (calls, steps, [seeds,] batch)."""
    job = setup.job
    sizes = job.num_train, job.batch_size
    orders = np.stack([batches(seed, epoch, *sizes) for seed in seeds], axis=1)
    orders = orders if setup.at_once > 1 else orders[:, 0]
    return orders.reshape(-1, setup.strategy.steps_per_call, *orders.shape[1:])


def _train_epoch(
    ready: Ready, state: TrainState, seeds: tuple[int, ...], epoch: int
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
