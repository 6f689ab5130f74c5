"""The training loop: trains an experiment epoch by epoch and emits events.

Steps are compiled ahead of time and the data stay on the device, so that the time of an epoch
includes neither compilation nor transfers; only a dataset that does not fit there is streamed.
Nothing here prints or writes files; the caller's `emit` does.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from cnnbench.data.batches import batches, last_batch
from cnnbench.data.streaming.schedule import TEST, TRAIN, VALIDATION
from cnnbench.errors import ProcessLostError, UsageError
from cnnbench.executors.processes import LOST, meet
from cnnbench.nn.native import library
from cnnbench.runs.cost import Cost
from cnnbench.runs.environment import machine
from cnnbench.runs.experiment import metric_directions
from cnnbench.runs.records import EngineRecord, EpochRecord, Machine
from cnnbench.runs.selection import chosen_epoch, is_active, selects
from cnnbench.runs.summary import summarize_seed
from cnnbench.runs.weights import Weights
from cnnbench.spec.experiment import TrainSpec
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.compile_cache import count_cache_hits
from cnnbench.system.devices import peak_memory
from cnnbench.system.host import trim_malloc
from cnnbench.training.autotune import Choice, advice, doubt, known_choice, measure
from cnnbench.training.evaluation import (
    SplitResults,
    code_accuracies,
    evaluate,
    predictions_of,
    samples,
)
from cnnbench.training.events import (
    Checkpoint,
    Compiled,
    Event,
    Remark,
    Resumed,
    SeedDone,
    Snapshot,
    StepDone,
    Trained,
    Tuning,
)
from cnnbench.training.executables import Executables, Job, check_output, compile_all, set_up
from cnnbench.training.feed.feed import BatchPlace, Feed
from cnnbench.training.footprint import out_of_memory
from cnnbench.training.profiling import measure_cost
from cnnbench.training.resume import Resume, is_kept
from cnnbench.training.state import (
    Begun,
    TrainState,
    evaluated,
    kept_values,
    num_params,
    stack,
    unstack,
    values_of,
    weights_of,
    with_values,
)
from cnnbench.training.strategy import NATIVE, Strategy, groups, seeds_at_once

PROGRESS_INTERVAL_S = 0.1
FEWEST_STEPS = 10  # of an epoch that shows how fast an engine is
_COLLECTIVES = "Gloo", "NCCL"  # libraries that notice when a process has ended
_ENDED = object()

Records = dict[int, list[EpochRecord]]  # by seed


class Trainer:
    """Trains the seeds of a job and emits events.

    The first seed is trained on its own: its epoch time is what training several seeds in
    parallel has to beat. Call `prepare` once, `train_seeds` with each group of `remaining` in
    turn, and `finish` once; other trainers may run between two calls.

    Args:
      job: the training job.
      emit: called with each event: `Tuning` if strategies have to be measured, `Compiled`
        once; then for each seed `StepDone` about ten times a second, an `EpochRecord` after each
        epoch, a `Snapshot` if requested, and `SeedDone`; `Trained` at the end.

    Attributes:
      remaining: groups of seeds still to be trained, each group in parallel.
      epoch_s: seconds of the training of the last epoch; None before it.

    Raises:
      UsageError: by any method: a Python model cannot be imported or has the wrong output shape.
      OutOfMemoryError: by any method: not enough memory.
    """

    def __init__(self, job: Job, emit: Callable[[Event], None]) -> None:
        first, *others = job.experiment.seeds
        self.job, self.watch, self.emit = job, job.watch, emit
        self.remaining: list[tuple[int, ...]] = [(first,), *groups(others, 1)]
        self._sequential: Executables
        self._parallel: Executables | None = None
        self._first_state: TrainState | None
        self._first_seeds: tuple[int, ...]
        self._engine: EngineRecord
        self._cost: Cost | None = None
        self._feed: Feed | None = None
        self.epoch_s: float | None = None
        self._unproven: Choice | None = None  # until an epoch shows how fast it is

    def run(self) -> None:
        """Train all seeds of the job, one group after another."""
        self.prepare()
        while self.remaining:
            self.train_seeds(self.remaining[0])
        self.finish()

    def prepare(self) -> None:
        """Choose the strategy, put the data on the devices and compile."""
        _require_validation(self.job)
        with _on_device(self.job):
            started = self.watch.now()
            choice = known_choice(self.job)
            if choice is None:
                self.emit(Tuning())
                choice = measure(self.job)
            tune_s = self.watch.now() - started
            self._unproven = choice
            if text := advice(self.job):
                self.emit(Remark(text))
            with self.watch.part("data_s"):
                setup = set_up(self.job, choice.strategy)
            self._feed = setup.feed
            self._start_feed(self.remaining[0])
            self._first_seeds = self.remaining[0]
            with count_cache_hits() as cache:
                self._sequential, self._first_state = _compile(setup, self._first_seeds)
            meet()
            if setup.feed:
                trim_malloc()
            self._engine = _engine(self.job, choice, tune_s, cache.state)
            self.emit(
                Compiled(
                    num_params(self._first_state.params),
                    self.watch.last("compile_s"),
                    cache.state,
                    choice.strategy.text,
                    self._engine,
                    self._sequential.num_slow,
                )
            )
            if self.job.resume:
                self.emit(Resumed(self.job.resume.kept))

    def train_seeds(self, seeds: tuple[int, ...]) -> None:
        """Train a group of seeds in parallel, epoch by epoch, and test them.

        Args:
          seeds: the first group of `remaining`.
        """
        for _ in self.epochs_of(seeds):
            pass

    def epochs_of(self, seeds: tuple[int, ...]) -> Iterator[None]:
        """Train a group of seeds as `train_seeds` does, with a pause after each epoch.

        Args:
          seeds: the first group of `remaining`.
        """
        parts = self._parts_of(seeds)
        while True:
            with _on_device(self.job):
                if next(parts, _ENDED) is _ENDED:
                    return
            yield

    def _parts_of(self, seeds: tuple[int, ...]) -> Iterator[None]:
        self._start_feed(seeds)
        yield from self._train_group(seeds)
        self.close()  # before latencies are measured
        self.remaining = self.remaining[1:]
        if seeds[0] == self.job.experiment.seeds[0]:
            self._measure()

    def take(self, seed: int, resume: Resume) -> None:
        """Make a seed the next one, which may be none of the job's.

        Args:
          seed: the seed.
          resume: its finished part, trained with the same strategy.
        """
        self.remaining = [(seed,)]
        self.job = replace(self.job, resume=resume)
        self._sequential = replace(self._sequential, job=self.job)

    @property
    def strategy(self) -> Strategy:
        """The training strategy."""
        return self._sequential.strategy

    def measure_cost(self) -> None:
        """Measure the cost of the network, unless it is known."""
        if self._cost is None:
            with _on_device(self.job):
                self._cost = measure_cost(self._sequential)

    def train_epoch(
        self,
        executables: Executables,
        state: TrainState,
        seeds: tuple[int, ...],
        epoch: int,
        begun: Begun | None = None,
        kept: TrainState | None = None,
    ) -> tuple[TrainState, list[EpochRecord], list[NamedArrays]]:
        """Train a group of seeds for one epoch and evaluate them on the validation images.

        Args:
          executables: executables compiled for this number of seeds.
          state: stacked state of the seeds; its buffers are donated.
          seeds: seeds trained in parallel.
          epoch: number of the epoch, from 1.
          begun: the part of the epoch that is trained already.
          kept: weights of an earlier epoch, for checkpoints.

        Returns:
          The new state, and for each seed a record, and its results for each validation image.
        """
        job = self.job
        traced = job.profile and (seeds[0], epoch) == (job.experiment.seeds[0], 1)
        begun = begun or Begun.none(len(seeds))
        with jax.profiler.trace(str(job.profile)) if traced else nullcontext():
            state, begun = self._train_steps(executables, state, seeds, epoch, begun, kept)
        found = [SplitResults({}, {})] * len(seeds)
        waited = self.watch.spent("data_s")
        with self.watch.part("eval_s"):
            if len(job.dataset.validation):
                rows = [job.dataset.rows(seed).validation for seed in seeds]
                found = evaluate(executables, state, rows, BatchPlace(seeds[0], VALIDATION, epoch))
        waited = begun.data_s + self.watch.spent("data_s") - waited
        begun, self.epoch_s = begun._replace(data_s=waited), begun.train_s
        self._prove(begun.train_s / self.job.num_steps)
        records = [
            _record(job, (seed, epoch), begun, number, found[number].values)
            for number, seed in enumerate(seeds)
        ]
        return state, records, [own.images for own in found]

    def finish(self) -> None:
        """Emit the training strategy with its measurements, and the cost of the network."""
        assert self._cost is not None
        engine = replace(
            self._engine,
            seeds_at_once=self._parallel.at_once if self._parallel else 1,
            first_step_s=self.watch.first_step_s,
            peak_memory_bytes=peak_memory(self.job.device),
        )
        self.emit(Trained(engine, self._cost))

    def close(self) -> None:
        """End worker processes, if there are any; the next group of seeds starts new ones."""
        if self._feed:
            self._feed.close()

    def _start_feed(self, seeds: tuple[int, ...]) -> None:
        """Start to decode the first images of a streamed dataset."""
        resume, seed = self.job.resume, seeds[0]
        done, step = (resume.epochs[seed], resume.steps.get(seed, 0)) if resume else (0, 0)
        if self._feed and done < self.job.experiment.train.epochs:
            self._feed.start(BatchPlace(seed, TRAIN, done + 1, step))

    def _train_group(self, seeds: tuple[int, ...]) -> Iterator[None]:
        """Train and test seeds, with a pause after each epoch."""
        executables = self._parallel if self._parallel and len(seeds) > 1 else self._sequential
        compile_s = self.watch.last("compile_s") if self._first_state else 0.0
        train = self.job.experiment.train
        state = self._new_state(executables, seeds)
        state, kept, records, done = _restored(executables, state, seeds)
        begun = _begun(self.job, seeds, done)
        chosen: dict[int, NamedArrays] = {}
        for epoch in range(done + 1, train.epochs + 1):
            if not any(is_active(train, own) for own in records.values()):
                break
            state, ended, images = self.train_epoch(executables, state, seeds, epoch, begun, kept)
            begun = None
            for record, own in zip(ended, images, strict=True):
                if is_active(train, records[record.seed]):
                    records[record.seed].append(record)
                    self.emit(record)
                    if chosen_epoch(train, records[record.seed]) == epoch:
                        chosen[record.seed] = own
            if _keeps(train, seeds):
                kept = _kept(
                    kept, state, [chosen_epoch(train, r) == epoch for r in records.values()]
                )
            self._emit_states(state, kept, records, epoch)
            yield
        self._emit_results(executables, kept or state, records, compile_s, chosen)

    def _new_state(self, executables: Executables, seeds: tuple[int, ...]) -> TrainState:
        """The initial state; compilation has already created that of the first seed."""
        state, self._first_state = self._first_state, None
        if state and seeds == self._first_seeds:
            return state
        return executables.state(*map(executables.network, seeds))

    def _train_steps(
        self,
        executables: Executables,
        state: TrainState,
        seeds: tuple[int, ...],
        epoch: int,
        begun: Begun,
        kept: TrainState | None,
    ) -> tuple[TrainState, Begun]:
        """Train the steps of one epoch, with checkpoints in between.

        Returns:
          The state, and the losses and times of the whole epoch.
        """
        for stop in _stops(executables, begun.step):
            waited = self.watch.spent("data_s")
            steps = range(begun.step, stop)
            with self.watch.part("train_s"):
                state, losses = self._train_some(executables, state, seeds, epoch, steps)
            begun = Begun(
                np.concatenate([begun.losses, losses]),
                begun.train_s + self.watch.last("train_s"),
                begun.data_s + self.watch.spent("data_s") - waited,
            )
            if stop < self.job.num_steps:
                self._emit_checkpoints(state, kept, seeds, epoch - 1, begun)
        return state, begun

    def _train_some(
        self,
        executables: Executables,
        state: TrainState,
        seeds: tuple[int, ...],
        epoch: int,
        steps: range,
    ) -> tuple[TrainState, NDArray[np.float32]]:
        """Train some steps of an epoch; returns the state and the losses, (steps, seeds)."""
        step = steps.start
        losses: list[jax.Array] = []

        def idle() -> None:
            jax.block_until_ready(losses[-1:])

        shown = self.watch.now()
        for train, arrays, indices in _calls(executables, seeds, epoch, steps, idle):
            state, loss = train(state, arrays, indices)
            # One call ahead: the device is never idle, and progress is accurate.
            if losses:
                jax.block_until_ready(losses[-1])
                self.watch.mark_first_step()
            losses.append(loss)
            step += len(indices)
            if self.watch.now() - shown >= PROGRESS_INTERVAL_S:
                shown = self.watch.now()
                self.emit(StepDone(seeds[0], epoch, step, self.job.num_steps, len(seeds)))
        jax.block_until_ready((state, losses))
        self.watch.mark_first_step()
        return state, np.concatenate(jax.device_get(losses)).reshape(-1, len(seeds))

    def _emit_states(
        self, state: TrainState, kept: TrainState | None, records: Records, epoch: int
    ) -> None:
        """Emit the weights and the checkpoint of an epoch, if requested."""
        if self.job.snapshots:
            for seed, weights in _weights(self.job, state, tuple(records)):
                self.emit(Snapshot(seed, epoch, weights))
        if is_kept(self.job.experiment, epoch, records):
            self._emit_checkpoints(state, kept, tuple(records), epoch)

    @cached_property
    def _own_machine(self) -> Machine:
        return machine(self.job.devices)

    def _emit_checkpoints(
        self,
        state: TrainState,
        kept: TrainState | None,
        seeds: tuple[int, ...],
        epoch: int,
        begun: Begun | None = None,
    ) -> None:
        """Emit a checkpoint of each seed, after an epoch and a part of the next one."""
        number, step = len(seeds), begun.step if begun else 0
        best = unstack(kept, number) if kept else [None] * number
        for place, (seed, one, own) in enumerate(
            zip(seeds, unstack(state, number), best, strict=True)
        ):
            values = values_of(one, own) | (begun.values(place) if begun else {})
            self.emit(Checkpoint(seed, epoch, values, step, self._own_machine))

    def _emit_results(
        self,
        executables: Executables,
        state: TrainState,
        records: Records,
        compile_s: float,
        chosen: Mapping[int, NamedArrays],
    ) -> None:
        """Test trained seeds; compilation time is attributed to the first of them.

        Args:
          executables: the programs.
          state: the trained state of the seeds.
          records: their epochs.
          compile_s: seconds of compilation.
          chosen: results for each validation image after the chosen epoch, by seed; without those
            of epochs before an interruption.
        """
        train, rows = self.job.experiment.train, [self.job.dataset.rows(s).test for s in records]
        tests = evaluate(
            executables, state, rows, BatchPlace(next(iter(records)), TEST, train.epochs)
        )
        validations = _validations(executables, state, tuple(records), chosen)
        worths = code_accuracies(executables, state, tuple(records))
        inputs, outputs = samples(executables, state, rows[0])
        for number, (seed, weights) in enumerate(_weights(self.job, state, tuple(records))):
            summary = summarize_seed(
                records[seed],
                metrics=metric_directions(self.job.experiment),
                test=tests[number].values,
                compile_s=0.0 if number else compile_s,
                code_accuracy=worths[number],
                chosen=chosen_epoch(train, records[seed]) if selects(train) else None,
                machine=_machine(self.job, seed),
            )
            own = None if outputs is None else outputs[number]
            splits = {"validation": validations[number], "test": tests[number].images}
            predictions = predictions_of(self.job, seed, splits)
            self.emit(SeedDone(summary, inputs, own, weights, predictions))

    def _prove(self, step_s: float) -> None:
        """Compare the steps of the first epoch with what the choice of the engine promised."""
        choice, self._unproven = self._unproven, None
        enough = self.job.num_steps >= FEWEST_STEPS
        if choice and enough and (text := doubt(choice, step_s)):
            self.emit(Remark(text))

    def _measure(self) -> None:
        """Measure the cost of the network and decide how many seeds to train in parallel."""
        self.measure_cost()
        started = self.watch.now()
        others = self.job.experiment.seeds[1:]
        self._parallel = _parallel(self._sequential, others, _epoch_s(self))
        tune_s = self._engine.tune_s + self.watch.now() - started
        self._engine = replace(self._engine, tune_s=tune_s)
        if self._parallel:
            at_once, stops = self._parallel.at_once, self.job.stops_of_others
            self.remaining = list(groups(others, at_once, stops))


def _machine(job: Job, seed: int) -> Machine:
    """The machine that trained the last epoch of a seed, maybe before an interruption."""
    resume = job.resume
    if resume and resume.is_trained(seed, job.experiment.train):
        return resume.machine_of(seed) or machine(job.devices)
    return machine(job.devices)


def _require_validation(job: Job) -> None:
    """Check that there are images to choose an epoch by.

    Raises:
      UsageError: there are none.
    """
    train = job.experiment.train
    if len(job.dataset.validation) or not selects(train):
        return
    key = "early_stopping" if train.early_stopping else "restore_best"
    message = f"train.{key} needs validation images, and {job.dataset.info.name} has none"
    raise UsageError(f"{message}; set dataset.splits.validation, or remove {key}.")


@contextmanager
def _on_device(job: Job) -> Iterator[None]:
    """Use the job's first device and translate out-of-memory errors into `OutOfMemoryError`."""
    try:
        with jax.default_device(job.device):
            yield
    except (jax.errors.JaxRuntimeError, ValueError, MemoryError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise out_of_memory(job.plan, job.batch_size) from None
        if job.num_processes == 1 or not any(name in str(error) for name in _COLLECTIVES):
            raise
        raise ProcessLostError(LOST) from None


def _engine(job: Job, choice: Choice, tune_s: float, compile_cache: str) -> EngineRecord:
    """Record of the training strategy, as far as it is known before the first step."""
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
        chosen="requested" if job.engine != "auto" else choice.how,
        load=choice.load,
        measured_at=choice.measured_at,
        onednn=library.number() if strategy.form in NATIVE else "",
    )


def _compile(setup: Executables, seeds: Sequence[int]) -> tuple[Executables, TrainState]:
    """Executables for seeds trained in parallel, and their initial state."""
    with setup.job.watch.part("compile_s"):
        networks = [setup.network(seed) for seed in seeds]
        slow = check_output(setup, networks[0]) if setup.job.plan is None else 0
        executables, state = compile_all(setup, networks)
        return replace(executables, num_slow=slow), state


def _epoch_s(trainer: Trainer) -> float:
    """Seconds per epoch of the first seed, which may have been trained before an interruption."""
    if trainer.epoch_s is not None:
        return trainer.epoch_s
    resume, seeds = trainer.job.resume, trainer.job.experiment.seeds
    return resume.records[seeds[0]][-1].train_s if resume else math.inf


def _parallel(sequential: Executables, seeds: Sequence[int], epoch_s: float) -> Executables | None:
    """Executables for several seeds in parallel, if an epoch takes less than `epoch_s` per seed.

    Only accelerators are so large that one of these networks leaves them partly idle.
    A resumed run keeps its earlier decision.
    """
    job = sequential.job
    first = next((stop for stop in job.stops_of_others if stop), len(seeds))
    size = seeds_at_once(min(first, len(seeds)))
    decided = job.resume.at_once if job.resume else None
    size = decided or size
    if size < 2 or not job.accelerator or sequential.feed or job.num_processes > 1:
        return None
    parallel, state = _compile(replace(sequential, at_once=size), seeds[:size])
    if decided:
        return parallel
    start = job.watch.now()
    for train, arrays, indices in _calls(parallel, seeds[:size], 1, range(job.num_steps)):
        state, losses = train(state, arrays, indices)
    jax.block_until_ready((state, losses))
    return parallel if (job.watch.now() - start) / size < epoch_s else None


def _keeps(train: TrainSpec, seeds: Sequence[int]) -> bool:
    """True if the weights of the chosen epoch are kept in addition to the state.

    Seeds trained in parallel are updated until the last of them stops.
    """
    return train.restore_best is not None or (selects(train) and len(seeds) > 1)


def _kept(kept: TrainState | None, state: TrainState, taken: Sequence[bool]) -> TrainState | None:
    """The weights to keep, with those of some seeds taken from the state.

    Args:
      kept: the weights so far, as a state without an optimizer; None before the first epoch.
      state: the state of all seeds, whose buffers will be donated.
      taken: True for each seed whose weights are taken.
    """
    if not any(taken):
        return kept
    fresh: TrainState = jax.tree.map(jnp.copy, evaluated(state))
    if kept is None or all(taken):
        return fresh
    mask = np.asarray(taken)

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    chosen_state: TrainState = jax.tree.map(chosen, fresh, kept)
    return chosen_state


def _restored(
    executables: Executables, state: TrainState, seeds: tuple[int, ...]
) -> tuple[TrainState, TrainState | None, Records, int]:
    """State, kept weights, records so far, and number of finished epochs of the seeds to resume."""
    job = executables.job
    records: Records = {seed: [] for seed in seeds}
    done = job.resume.epochs[seeds[0]] if job.resume else 0
    if job.resume is None or not (done or job.resume.steps.get(seeds[0])):
        return state, None, records, 0
    own, best = [], []
    for seed, one in zip(seeds, unstack(state, len(seeds)), strict=True):
        values, where = _loaded(job.resume, seed), f"seed {seed}, epoch {done}"
        own.append(with_values(one, values, where))
        if (chosen := kept_values(values)) or (done and _keeps(job.experiment.train, seeds)):
            best.append(with_values(evaluated(one), chosen, where))
    records |= {seed: list(job.resume.records[seed]) for seed in seeds}
    kept = executables.place(stack(best)) if best else None
    return executables.place(stack(own)), kept, records, done


def _loaded(resume: Resume, seed: int) -> NamedArrays:
    """The values of the checkpoint of a seed to resume."""
    step = resume.steps.get(seed, 0)
    return resume.load(seed, resume.epochs[seed], *[step] if step else [])


def _begun(job: Job, seeds: tuple[int, ...], done: int) -> Begun | None:
    """The part of the next epoch that is trained already; None if there is none."""
    resume = job.resume
    if resume is None or resume.epochs[seeds[0]] != done or seeds[0] not in resume.steps:
        return None
    return Begun.of([_loaded(resume, seed) for seed in seeds])


def _stops(executables: Executables, first: int) -> Iterator[int]:
    """Steps of an epoch after which a checkpoint is written, from `first` on, and the last one."""
    job, per_call = executables.job, executables.strategy.steps_per_call
    if every := job.experiment.checkpoint.every_steps:
        every = -(-every // per_call) * per_call
        yield from range((first // every + 1) * every, job.num_steps, every)
    yield job.num_steps


def _weights(job: Job, state: TrainState, seeds: tuple[int, ...]) -> Iterator[tuple[int, Weights]]:
    """Current weights of each seed."""
    for seed, own in zip(seeds, unstack(state, len(seeds)), strict=True):
        yield seed, weights_of(*own.model, layers=job.plan is not None)


def _validations(
    executables: Executables,
    state: TrainState,
    seeds: tuple[int, ...],
    chosen: Mapping[int, NamedArrays],
) -> list[NamedArrays]:
    """Results for each validation image, by seed.

    Those of epochs before an interruption are computed again.

    Args:
      executables: the programs.
      state: the trained state of the seeds.
      seeds: the seeds.
      chosen: results that are known, by seed.
    """
    dataset = executables.job.dataset
    if not len(dataset.validation) or len(chosen) == len(seeds):
        return [chosen.get(seed, {}) for seed in seeds]
    rows = [dataset.rows(seed).validation for seed in seeds]
    last = executables.job.experiment.train.epochs
    found = evaluate(executables, state, rows, BatchPlace(seeds[0], VALIDATION, last))
    return [chosen.get(seed, own.images) for seed, own in zip(seeds, found, strict=True)]


def _record(
    job: Job, place: tuple[int, int], epoch: Begun, number: int, values: dict[str, float]
) -> EpochRecord:
    """Record of the epoch of a seed that has just ended, with its share of the time.

    Args:
      job: the training.
      place: the seed and the number of the epoch.
      epoch: losses and times of all seeds trained in parallel.
      number: number of the seed among them.
      values: its values on the validation images.
    """
    at_once = epoch.losses.shape[1]
    train_s = epoch.train_s / at_once
    return EpochRecord(
        *place,
        train_loss=_mean_loss(job, epoch.losses[:, number]),
        validation_loss=values.get("loss"),
        metrics={name: value for name, value in values.items() if name != "loss"},
        train_s=train_s,
        eval_s=job.watch.last("eval_s") / at_once,
        samples_per_s=job.num_seen / train_s if train_s else math.inf,
        at_once=at_once,
        data_s=epoch.data_s / at_once,
    )


def _mean_loss(job: Job, losses: Any) -> float:
    """Mean loss of the images of an epoch, from the mean of each step, (steps,)."""
    if not job.num_last:
        return float(np.mean(losses, dtype=np.float64))
    sizes = [job.batch_size] * job.num_full + [job.num_last]
    return float(np.average(np.asarray(losses, np.float64), weights=sizes))


def _calls(
    executables: Executables,
    seeds: Sequence[int],
    epoch: int,
    steps: range,
    idle: Callable[[], object] = lambda: None,
) -> Iterator[Any]:
    """The program of each call, its arrays and its image indices, (steps, [seeds,] batch).

    Args:
      executables: the programs.
      seeds: seeds trained in parallel.
      epoch: number of the epoch, from 1.
      steps: steps of the epoch.
      idle: waits until the device has finished all calls.
    """
    job = executables.job
    if executables.feed:
        first = BatchPlace(seeds[0], TRAIN, epoch, steps.start)
        fed_batches = executables.feed.batches(first, len(steps), idle)
        for step, fed in zip(steps, fed_batches, strict=True):
            train = executables.train if step < job.num_full else executables.train_last
            yield train, fed.arrays, fed.indices[None]
        return
    arrays = executables.training_arrays(seeds, job.batch_size)
    own = [job.dataset.rows(seed).train for seed in seeds]
    numbered = list(zip(seeds, own, strict=True))
    sizes = job.num_train, job.batch_size
    orders = np.stack([rows[batches(seed, epoch, *sizes)] for seed, rows in numbered], axis=1)
    orders = (orders if executables.at_once > 1 else orders[:, 0])[slice(steps.start, steps.stop)]
    for indices in orders.reshape(-1, executables.strategy.steps_per_call, *orders.shape[1:]):
        yield executables.train, arrays, indices
    if executables.train_last and steps.stop == job.num_steps:
        rest = np.stack([rows[last_batch(seed, epoch, *sizes)] for seed, rows in numbered])
        indices = rest if executables.at_once == 1 else rest[None]
        yield executables.train_last, arrays, indices
