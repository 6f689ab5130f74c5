"""Trains an experiment on its devices, epoch by epoch, and emits events.

Steps are compiled ahead of time and the data stay on the device, so that an
epoch's time includes neither compilation nor copying. Nothing here prints or
writes: the caller's `emit` does.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from cnnbench.data.batches import batches
from cnnbench.runs.cost import Cost
from cnnbench.runs.records import EngineRecord, EpochRecord
from cnnbench.runs.summary import summarize_seed
from cnnbench.runs.weights import Weights
from cnnbench.system.compile_cache import count_cache_hits
from cnnbench.system.devices import peak_memory
from cnnbench.training.autotune import Choice, known_choice, measure
from cnnbench.training.evaluation import (
    code_accuracies,
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
from cnnbench.training.executables import Executables, Job, check_output, compile_all, set_up
from cnnbench.training.footprint import out_of_memory
from cnnbench.training.profiling import measure_cost
from cnnbench.training.resume import is_active, is_kept
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

Records = dict[int, list[EpochRecord]]  # by seed


class Trainer:
    """Trains the seeds of a job, and emits events as they happen.

    The first seed is trained alone: its epochs give the time that training several at once has
    to beat. Call `prepare` once, `train_seeds` with each group of `remaining` in turn, and
    `finish` once; between two calls other trainers may be called.

    Args:
      job: what is trained.
      emit: called with each event: `Tuning` where strategies have to be measured, `Compiled`
        once; then for each seed `StepDone` about ten times a second, an `EpochRecord` after each
        epoch, a `Snapshot` where it is asked for, and `SeedDone`; `Trained` at the end.

    Attributes:
      remaining: groups of seeds still to be trained, those of a group at once.

    Raises:
      UsageError: by any method: a Python model cannot be imported or gives the wrong shape.
      OutOfMemoryError: by any method: the memory is too small.
    """

    def __init__(self, job: Job, emit: Callable[[Event], None]) -> None:
        first, *others = job.experiment.seeds
        self.job, self.watch, self.emit = job, job.watch, emit
        self.remaining: list[tuple[int, ...]] = [(first,), *groups(others, 1)]
        self._alone: Executables
        self._together: Executables | None = None
        self._first_state: TrainState | None
        self._engine: EngineRecord
        self._cost: Cost

    def run(self) -> None:
        """Trains all seeds of the job, one group after another."""
        self.prepare()
        while self.remaining:
            self.train_seeds(self.remaining[0])
        self.finish()

    def prepare(self) -> None:
        """Chooses the strategy, puts the data on the devices and compiles."""
        with _on_device(self.job):
            started = self.watch.now()
            choice = known_choice(self.job)
            if choice is None:
                self.emit(Tuning())
                choice = measure(self.job)
            tune_s = self.watch.now() - started
            with self.watch.part("data_s"):
                setup = set_up(self.job, choice.strategy)
            with count_cache_hits() as cache:
                self._alone, self._first_state = _compile(setup, self.remaining[0])
            self._engine = _engine(self.job, choice, tune_s, cache.state)
            self.emit(
                Compiled(
                    num_params(self._first_state.params),
                    self.watch.last("compile_s"),
                    cache.state,
                    choice.strategy.text,
                    self._engine,
                    self._alone.num_slow,
                )
            )
            if self.job.resume:
                self.emit(Resumed(self.job.resume.kept))

    def train_seeds(self, seeds: tuple[int, ...]) -> None:
        """Trains seeds at once, epoch by epoch, and tests them.

        Args:
          seeds: the first of `remaining`.
        """
        with _on_device(self.job):
            self._train_group(seeds)
            self.remaining = self.remaining[1:]
            if seeds[0] == self.job.experiment.seeds[0]:
                self._measure()

    def train_epoch(
        self, executables: Executables, state: TrainState, seeds: tuple[int, ...], epoch: int
    ) -> tuple[TrainState, list[EpochRecord]]:
        """Trains seeds for one epoch and evaluates them on the validation images.

        Args:
          executables: compiled for as many seeds.
          state: of all of them; it is used up.
          seeds: trained at once.
          epoch: its number, from 1.

        Returns:
          The new state, and a record for each seed.
        """
        job, num_train = self.job, self.job.num_train
        num_validation = len(job.dataset.validation.labels)
        traced = job.profile and (seeds[0], epoch) == (job.experiment.seeds[0], 1)
        with jax.profiler.trace(str(job.profile)) if traced else nullcontext():
            state, losses = self._train_steps(executables, state, seeds, epoch)
        values: list[dict[str, float]] = [{}] * len(seeds)
        with self.watch.part("eval_s"):
            if num_validation:
                rows = range(num_train, num_train + num_validation)
                values = evaluate(executables, state, rows)
        return state, [
            _record(job, (seed, epoch), losses[:, number], values[number], len(seeds))
            for number, seed in enumerate(seeds)
        ]

    def finish(self) -> None:
        """Emits how the seeds were trained, and what the network costs."""
        engine = replace(
            self._engine,
            seeds_at_once=self._together.at_once if self._together else 1,
            first_step_s=self.watch.first_step_s,
            peak_memory_bytes=peak_memory(self.job.devices[0]),
        )
        self.emit(Trained(engine, self._cost))

    def _train_group(self, seeds: tuple[int, ...]) -> None:
        executables = self._together if self._together and len(seeds) > 1 else self._alone
        compile_s = self.watch.last("compile_s") if self._first_state else 0.0
        state, records, done = _restored(executables, self._new_state(executables, seeds), seeds)
        for epoch in range(done + 1, self.job.experiment.train.epochs + 1):
            if not any(map(is_active, records.values())):
                break
            state, ended = self.train_epoch(executables, state, seeds, epoch)
            for record in ended:
                if is_active(records[record.seed]):
                    records[record.seed].append(record)
                    self.emit(record)
            self._emit_states(state, records, epoch)
        self._emit_results(executables, state, records, compile_s)

    def _new_state(self, executables: Executables, seeds: tuple[int, ...]) -> TrainState:
        """The state before the first step; that of the first seed is left from its compilation."""
        state, self._first_state = self._first_state, None
        return state or executables.state(*map(executables.network, seeds))

    def _train_steps(
        self, executables: Executables, state: TrainState, seeds: tuple[int, ...], epoch: int
    ) -> tuple[TrainState, Any]:
        """Returns the state and the losses, (steps, seeds)."""
        calls, size = _calls(executables, seeds, epoch), executables.strategy.steps_per_call
        losses: list[jax.Array] = []
        with self.watch.part("train_s"):
            shown = self.watch.now()
            for done, indices in enumerate(calls, start=1):
                state, loss = executables.train(state, executables.arrays, indices)
                # One call ahead of the device: it is never idle, and progress is true.
                if losses:
                    jax.block_until_ready(losses[-1])
                    self.watch.mark_first_step()
                losses.append(loss)
                if self.watch.now() - shown >= PROGRESS_INTERVAL_S:
                    shown = self.watch.now()
                    steps = done * size, self.job.num_steps
                    self.emit(StepDone(seeds[0], epoch, *steps, len(seeds)))
            jax.block_until_ready((state, losses))
            self.watch.mark_first_step()
        return state, np.concatenate(jax.device_get(losses)).reshape(-1, len(seeds))

    def _emit_states(self, state: TrainState, records: Records, epoch: int) -> None:
        """Emits the weights and the checkpoint of an epoch, where they are asked for."""
        if self.job.snapshots:
            for seed, weights in _weights(self.job, state, tuple(records)):
                self.emit(Snapshot(seed, epoch, weights))
        if is_kept(self.job.experiment, epoch, records):
            for seed, one in zip(records, unstack(state, len(records)), strict=True):
                self.emit(Checkpoint(seed, epoch, values_of(one)))

    def _emit_results(
        self, executables: Executables, state: TrainState, records: Records, compile_s: float
    ) -> None:
        """Tests trained seeds; the first of them is charged with the compilation."""
        splits = self.job.dataset
        first = self.job.num_train + len(splits.validation.labels)
        tests = evaluate(executables, state, range(first, first + len(splits.test.labels)))
        worths = code_accuracies(executables, state)
        inputs, outputs = samples(executables, state, first)
        for number, (seed, weights) in enumerate(_weights(self.job, state, tuple(records))):
            summary = summarize_seed(
                records[seed],
                metrics=metric_directions(self.job.experiment),
                test=tests[number],
                compile_s=0.0 if number else compile_s,
                code_accuracy=worths[number],
            )
            own = None if outputs is None else outputs[number]
            self.emit(SeedDone(summary, inputs, own, weights))

    def _measure(self) -> None:
        """Measures what the network costs, and how many of the other seeds to train at once."""
        self._cost = measure_cost(self._alone)
        started = self.watch.now()
        others = self.job.experiment.seeds[1:]
        self._together = _together(self._alone, others, _epoch_s(self.job))
        tune_s = self._engine.tune_s + self.watch.now() - started
        self._engine = replace(self._engine, tune_s=tune_s)
        if self._together:
            self.remaining = list(groups(others, self._together.at_once))


@contextmanager
def _on_device(job: Job) -> Iterator[None]:
    """Computes on the job's first device; memory that runs out is a `OutOfMemoryError`."""
    try:
        with jax.default_device(job.devices[0]):
            yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        raise out_of_memory(job.plan, job.batch_size) from None


def _engine(job: Job, choice: Choice, tune_s: float, compile_cache: str) -> EngineRecord:
    """How a job is trained, as far as it is known before the first step."""
    strategy = choice.strategy
    return EngineRecord(
        requested=job.engine,
        form=strategy.form,
        row=strategy.row,
        num_devices=strategy.num_devices,
        steps_per_call=strategy.steps_per_call,
        seeds_at_once=1,
        step_s=choice.step_s,
        tune_s=tune_s,
        compile_cache=compile_cache,
        first_step_s=math.nan,
        peak_memory_bytes=None,
    )


def _compile(setup: Executables, seeds: Sequence[int]) -> tuple[Executables, TrainState]:
    """Executables for seeds that are trained at once, and the state these start from."""
    with setup.job.watch.part("compile_s"):
        networks = [setup.network(seed) for seed in seeds]
        slow = check_output(setup, networks[0]) if setup.job.plan is None else 0
        state = setup.state(*networks)
        return replace(compile_all(setup, networks[0], state), num_slow=slow), state


def _epoch_s(job: Job) -> float:
    """Seconds of an epoch of the first seed."""
    known = job.resume.records[job.experiment.seeds[0]] if job.resume else ()
    return known[-1].train_s if known else job.watch.last("train_s")


def _together(alone: Executables, seeds: Sequence[int], epoch_s: float) -> Executables | None:
    """Executables for several seeds at once, if a trial epoch takes less than `epoch_s` a seed.

    Only accelerators are so large that one of these networks leaves some of them idle.
    A run that goes on does as it began.
    """
    job, size = alone.job, seeds_at_once(len(seeds))
    decided = job.resume.at_once if job.resume else None
    size = decided or size
    if size < 2 or not job.accelerator:
        return None
    together, state = _compile(replace(alone, at_once=size), seeds[:size])
    if decided:
        return together
    start = job.watch.now()
    for indices in _calls(together, seeds[:size], epoch=1):
        state, losses = together.train(state, alone.arrays, indices)
    jax.block_until_ready((state, losses))
    return together if (job.watch.now() - start) / size < epoch_s else None


def _restored(
    executables: Executables, state: TrainState, seeds: tuple[int, ...]
) -> tuple[TrainState, Records, int]:
    """Where seeds go on: their state, their records so far, and how many epochs are done."""
    job = executables.job
    records: Records = {seed: [] for seed in seeds}
    done = job.resume.epochs[seeds[0]] if job.resume else 0
    if job.resume is None or not done:
        return state, records, 0
    load = job.resume.load
    own = [
        with_values(one, load(seed, done), f"seed {seed}, epoch {done}")
        for seed, one in zip(seeds, unstack(state, len(seeds)), strict=True)
    ]
    records |= {seed: list(job.resume.records[seed]) for seed in seeds}
    return executables.place(stack(own)), records, done


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


def _calls(executables: Executables, seeds: Sequence[int], epoch: int) -> Any:
    """What each call of the program trains on: indices (calls, steps, [seeds,] batch)."""
    job = executables.job
    sizes = job.num_train, job.batch_size
    orders = np.stack([batches(seed, epoch, *sizes) for seed in seeds], axis=1)
    orders = orders if executables.at_once > 1 else orders[:, 0]
    return orders.reshape(-1, executables.strategy.steps_per_call, *orders.shape[1:])
