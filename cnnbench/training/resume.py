"""Where an unfinished run goes on, from what its folder holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnbench.errors import StoreError, UsageError
from cnnbench.formatting import epochs_text
from cnnbench.runs.checkpoints import Checkpoints
from cnnbench.runs.records import EngineRecord, EpochRecord, RunResult, Status
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.optimizers import depends_on_total
from cnnbench.system import commands
from cnnbench.system.arrays import NamedArrays
from cnnbench.training.strategy import Strategy, groups


@dataclass(frozen=True, slots=True)
class Resume:
    """What is done already.

    Args:
      engine: how it was trained so far; None where it had not been compiled.
      at_once: seeds that one program trains; None where it was not decided yet.
      epochs: how many epochs of each seed are done; zero where a seed begins anew.
      records: those epochs, by seed; fewer where a seed diverged.
      load: (seed, epoch) to what training goes on from.
    """

    engine: EngineRecord | None
    at_once: int | None
    epochs: Mapping[int, int]
    records: Mapping[int, tuple[EpochRecord, ...]]
    load: Callable[[int, int], NamedArrays]

    @property
    def strategy(self) -> Strategy | None:
        """How it was trained so far: another way would round differently."""
        if (known := self.engine) is None:
            return None
        return Strategy(known.form, known.row, known.num_devices, known.steps_per_call)  # type: ignore[arg-type]  # the codec holds any text

    @property
    def kept(self) -> tuple[EpochRecord, ...]:
        """The epochs that need not be trained again, in the order of the seeds."""
        return tuple(record for seed in self.records for record in self.records[seed])


def is_active(records: Sequence[EpochRecord]) -> bool:
    """Whether a seed has not diverged."""
    return not records or records[-1].finite


def is_kept(
    experiment: Experiment, epoch: int, records: Mapping[int, Sequence[EpochRecord]]
) -> bool:
    """Whether there is a checkpoint after an epoch: also after the last one.

    Args:
      experiment: what is trained.
      epoch: the epoch.
      records: so far, of each seed that is trained at once.
    """
    every = experiment.checkpoint.every
    ends = epoch == experiment.train.epochs or not any(map(is_active, records.values()))
    return bool(every) and (ends or epoch % every == 0)


def require_epochs(run: RunResult, path: Path, experiment: Experiment) -> None:
    """Checks that a run can be continued to the number of epochs of an experiment.

    It can where the result equals a run that had this number from the start.

    Args:
      run: as it was left.
      path: its folder.
      experiment: what it was begun with, with another number of epochs.

    Raises:
      UsageError: more epochs are done, or the learning rates would have been others.
    """
    asked, wanted = run.record.epochs, experiment.train.epochs
    finished = run.record.status is Status.FINISHED
    done = asked if finished else max((e.epoch for e in run.epochs), default=0)
    if wanted == asked:
        return
    if wanted < done:
        message = f"--epochs: {path} has trained {epochs_text(done)} already, more than {wanted}"
        raise UsageError(f"{message}; write {done + 1} or more, or {_anew(run, wanted)}.")
    schedule = experiment.train.schedule
    if done and depends_on_total(schedule):
        message = (
            f"--epochs: {path} was trained with the schedule '{schedule.name}', whose learning"
            f" rates depend on the total number of epochs, so its first {done} are not those of"
            f" a run of {wanted}"
        )
        raise UsageError(f"{message}; {_anew(run, wanted)}.")


def require_checkpoints(run: RunResult, path: Path, resume: Resume, epochs: int) -> None:
    """Checks that a finished run has what it is extended from.

    Args:
      run: the run.
      path: its folder.
      resume: where each seed would be continued.
      epochs: the new number of epochs.

    Raises:
      StoreError: a seed would have to be trained from the start.
    """
    lost = [str(seed) for seed, done in resume.epochs.items() if not done]
    if run.record.status is Status.FINISHED and lost:
        message = f"{path}: there is no usable checkpoint of seed {', '.join(lost)} to extend"
        why = "older versions removed them at the end, and 'checkpoint.every: 0' writes none"
        raise StoreError(f"{message} ({why}); {_anew(run, epochs)}.")


def _anew(run: RunResult, epochs: int) -> str:
    """The command that trains the same with another number of epochs."""
    command = (*run.record.environment.command, f"train.epochs={epochs}")
    return f"train from scratch with: {commands.command_line(command)}"


def plan_resume(run: RunResult, checkpoints: Checkpoints, notify: Callable[[str], None]) -> Resume:
    """Where each seed of a run goes on: after its newest whole checkpoint.

    Args:
      run: as it was left.
      checkpoints: those in its folder.
      notify: is told of checkpoints that cannot be used.

    Raises:
      StoreError: the folder cannot be read.
    """
    first, *others = run.record.seeds
    begun = [epoch for epoch in run.epochs if epoch.seed in others]
    at_once = max((epoch.at_once for epoch in begun), default=None)
    epochs: dict[int, int] = {}
    for group in [(first,), *groups(others, at_once or 1)]:
        epochs |= dict.fromkeys(group, _common(group, run.epochs, checkpoints, notify))
    records = {
        seed: tuple(e for e in run.epochs if e.seed == seed and e.epoch <= epochs[seed])
        for seed in run.record.seeds
    }
    return Resume(run.record.engine, at_once, epochs, records, checkpoints.load)


def _common(
    seeds: Sequence[int],
    records: Sequence[EpochRecord],
    checkpoints: Checkpoints,
    notify: Callable[[str], None],
) -> int:
    """The last epoch after which all of some seeds have a checkpoint that can be used."""
    return next(
        (
            epoch
            for epoch in reversed(checkpoints.epochs(seeds[0]))
            if all(_usable(seed, epoch, records, checkpoints, notify) for seed in seeds)
        ),
        0,
    )


def _usable(
    seed: int,
    epoch: int,
    records: Sequence[EpochRecord],
    checkpoints: Checkpoints,
    notify: Callable[[str], None],
) -> bool:
    own = [record for record in records if record.seed == seed and record.epoch <= epoch]
    numbers = [record.epoch for record in own]
    # A seed that diverged has no further records.
    whole = numbers == list(range(1, epoch + 1)) or bool(own and not own[-1].finite)
    if not whole or epoch not in checkpoints.epochs(seed):
        return False
    try:
        checkpoints.load(seed, epoch)
    except StoreError as error:
        notify(str(error))
        return False
    return True
