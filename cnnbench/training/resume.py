"""Resuming a run from its folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cnnbench.errors import StoreError, UsageError
from cnnbench.formatting import epochs_text
from cnnbench.runs.checkpoints import Checkpoints
from cnnbench.runs.records import EngineRecord, EpochRecord, Machine, RunResult, Status
from cnnbench.runs.selection import is_active
from cnnbench.spec.experiment import Experiment, TrainSpec
from cnnbench.spec.optimizers import depends_on_total
from cnnbench.system import commands
from cnnbench.system.arrays import NamedArrays
from cnnbench.training.strategy import Strategy, groups


@dataclass(frozen=True, slots=True)
class Resume:
    """The finished part of an interrupted run.

    Args:
      engine: the training strategy so far; None if nothing was compiled.
      at_once: seeds trained in parallel by one program; None if not decided yet.
      epochs: number of finished epochs by seed; zero if the seed starts from scratch.
      records: the finished epochs by seed; fewer if the seed diverged.
      load: (seed, epoch), and the step unless it is zero, to the checkpoint to resume from.
      steps: number of finished steps of the next epoch by seed; none if they are all zero.
      machine: what started the run; None if unknown.
      machines: what trained each seed so far; none for checkpoints of older versions.
    """

    engine: EngineRecord | None
    at_once: int | None
    epochs: Mapping[int, int]
    records: Mapping[int, tuple[EpochRecord, ...]]
    load: Callable[..., NamedArrays]
    steps: Mapping[int, int] = field(default_factory=dict)
    machine: Machine | None = None
    machines: Mapping[int, Machine] = field(default_factory=dict)

    @property
    def strategy(self) -> Strategy | None:
        """The training strategy so far; another one would round differently."""
        return recorded_strategy(self.engine)

    @property
    def kept(self) -> tuple[EpochRecord, ...]:
        """The finished epochs, in the order of the seeds."""
        return tuple(record for seed in self.records for record in self.records[seed])

    def is_trained(self, seed: int, train: TrainSpec) -> bool:
        """True if a seed has no further epochs."""
        return self.epochs[seed] >= train.epochs or not is_active(train, self.records[seed])

    def machine_of(self, seed: int) -> Machine | None:
        """What trained a seed so far; None if unknown."""
        return self.machines.get(seed, self.machine)


def recorded_strategy(engine: EngineRecord | None) -> Strategy | None:
    """The training strategy of a record; None if nothing was compiled."""
    if engine is None:
        return None
    return Strategy(engine.form, engine.row, engine.num_devices, engine.steps_per_call)  # type: ignore[arg-type]  # the codec holds any text


def is_kept(
    experiment: Experiment, epoch: int, records: Mapping[int, Sequence[EpochRecord]]
) -> bool:
    """True if a checkpoint is written after an epoch, including the last one.

    Args:
      experiment: the experiment.
      epoch: the epoch.
      records: records so far of the seeds trained in parallel.
    """
    every, train = experiment.checkpoint.every, experiment.train
    ends = epoch == train.epochs or not any(is_active(train, own) for own in records.values())
    return bool(every) and (ends or epoch % every == 0)


def require_epochs(run: RunResult, path: Path, experiment: Experiment) -> None:
    """Check that a run can be extended to the number of epochs of an experiment.

    The result has to equal a run with this number of epochs from the start.

    Args:
      run: the interrupted or finished run.
      path: its folder.
      experiment: its experiment with another number of epochs.

    Raises:
      UsageError: more epochs are done, or the learning rates would have been different.
    """
    asked, wanted = run.record.epochs, experiment.train.epochs
    finished = run.record.status is Status.FINISHED
    done = asked if finished else max((e.epoch for e in run.epochs), default=0)
    if wanted == asked:
        return
    if wanted < done:
        message = f"--epochs: {path} is already trained for {epochs_text(done)}, not {wanted}"
        raise UsageError(f"{message}; write {done + 1} or more, or {_from_scratch(run, wanted)}.")
    schedule = experiment.train.schedule
    if done and depends_on_total(schedule):
        message = (
            f"--epochs: the learning rates of the schedule '{schedule.name}' in {path} depend on"
            f" the total number of epochs, so its first {epochs_text(done)} would differ in a run"
            f" of {wanted}"
        )
        raise UsageError(f"{message}; {_from_scratch(run, wanted)}.")


def require_checkpoints(run: RunResult, path: Path, resume: Resume, epochs: int) -> None:
    """Check that a finished run has the checkpoints needed to extend it.

    Args:
      run: the run.
      path: its folder.
      resume: the checkpoint of each seed.
      epochs: the new number of epochs.

    Raises:
      StoreError: a seed has no usable checkpoint.
    """
    lost = [str(seed) for seed, done in resume.epochs.items() if not done]
    if run.record.status is Status.FINISHED and lost:
        message = f"{path}: cannot extend: no usable checkpoint of seed {', '.join(lost)}"
        why = "older versions deleted them, and 'checkpoint.every: 0' writes none"
        raise StoreError(f"{message} ({why}); {_from_scratch(run, epochs)}.")


def _from_scratch(run: RunResult, epochs: int) -> str:
    """The command that trains the experiment with another number of epochs."""
    command = (*run.record.environment.command, f"train.epochs={epochs}")
    return f"train from scratch with: {commands.command_line(command)}"


def plan_resume(
    run: RunResult, checkpoints: Checkpoints, notify: Callable[[str], None], train: TrainSpec
) -> Resume:
    """Find the newest usable checkpoint of each seed.

    Args:
      run: the interrupted run.
      checkpoints: the checkpoints in its folder.
      notify: called with a message for each unusable checkpoint.
      train: the training settings.

    Raises:
      StoreError: the folder cannot be read.
    """
    first, *others = run.record.seeds
    started = [epoch for epoch in run.epochs if epoch.seed in others]
    at_once = max((epoch.at_once for epoch in started), default=None)
    points: dict[int, tuple[int, int]] = {}
    known = partial(_usable, run.epochs, checkpoints, notify, train)
    stops = [stop - 1 for stop in run.record.looks.stops] if run.record.looks else []
    for group in [(first,), *groups(others, at_once or 1, stops)]:
        points |= dict.fromkeys(group, _common(group, checkpoints, known))
    epochs = {seed: epoch for seed, (epoch, _) in points.items()}
    steps = {seed: step for seed, (_, step) in points.items() if step}
    records = {
        seed: tuple(e for e in run.epochs if e.seed == seed and e.epoch <= epochs[seed])
        for seed in run.record.seeds
    }
    places = {seed: checkpoints.machine(seed, *point) for seed, point in points.items()}
    return Resume(
        run.record.engine,
        at_once,
        epochs,
        records,
        checkpoints.load,
        steps,
        run.record.environment.machine,
        {seed: machine for seed, machine in places.items() if machine},
    )


def _common(
    seeds: Sequence[int], checkpoints: Checkpoints, usable: Callable[..., bool]
) -> tuple[int, int]:
    """The last epoch and step for which all of the seeds have a usable checkpoint."""
    return next(
        (
            point
            for point in reversed(checkpoints.points(seeds[0]))
            if all(usable(seed, *point) for seed in seeds)
        ),
        (0, 0),
    )


def _usable(
    records: Sequence[EpochRecord],
    checkpoints: Checkpoints,
    notify: Callable[[str], None],
    train: TrainSpec,
    seed: int,
    epoch: int,
    step: int,
) -> bool:
    own = [record for record in records if record.seed == seed and record.epoch <= epoch]
    numbers = [record.epoch for record in own]
    # A seed that diverged or stopped early has no further records.
    ended = numbers == list(range(1, len(own) + 1)) and not is_active(train, own)
    whole = numbers == list(range(1, epoch + 1)) or ended
    if not whole or (epoch, step) not in checkpoints.points(seed):
        return False
    try:
        checkpoints.load(seed, epoch, step)
    except StoreError as error:
        notify(str(error))
        return False
    return True
