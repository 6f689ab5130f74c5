"""Where an unfinished run goes on, from what its folder holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cnnbench.checkpoints import Checkpoints, Values
from cnnbench.errors import StoreError
from cnnbench.results import Engine, EpochRecord, RunResult
from cnnbench.spec import Experiment
from cnnbench.strategy import Strategy, groups


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

    engine: Engine | None
    at_once: int | None
    epochs: Mapping[int, int]
    records: Mapping[int, tuple[EpochRecord, ...]]
    load: Callable[[int, int], Values]

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


def goes_on(records: Sequence[EpochRecord]) -> bool:
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
    ends = epoch == experiment.train.epochs or not any(map(goes_on, records.values()))
    return bool(every) and (ends or epoch % every == 0)


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
