"""`--race`: trains all trials seed by seed, and drops those decided worse than the leader."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cnnbench.comparisons.comparability import finished_runs, values
from cnnbench.errors import CnnbenchError, UsageError
from cnnbench.runner.recorder import Listener
from cnnbench.runner.run import TrainingRun, opened_runs
from cnnbench.runner.sweeps.planning import PlannedSweep, TrialRequests
from cnnbench.runner.sweeps.training import Failure
from cnnbench.runs.records import Direction
from cnnbench.runs.sweeps.plans import write_plan
from cnnbench.statistics.looks import Looks, Reason
from cnnbench.statistics.sequential import fewest_seeds, losers


class RaceWatcher(Protocol):
    """Receives the progress of a race."""

    def failed(self, failure: Failure) -> None:
        """Called at once when a trial fails."""

    def dropped(self, trial: TrialRequests, seeds: int) -> None:
        """Called when a trial is decided worse than the leader after a number of seeds."""


@dataclass(slots=True)
class _Racer:
    """A trial that is still in the race."""

    trial: TrialRequests
    run: TrainingRun

    def stop(self, rule: Looks, reason: Reason) -> None:
        self.run.stop_at(replace(rule, reason=reason))
        self.run.finish()


def check_race(sweep: PlannedSweep, alpha: float) -> None:
    """Checks that a race can drop a trial.

    Raises:
      UsageError: no trial can be dropped.
    """
    first = sweep.trials[0]
    if len(first.requests) > 1:
        raise UsageError("--race: ranks the trials of one experiment; name one file.")
    if first.requests[0].on:
        raise UsageError("--race: trains in this process; remove --on.")
    if len(sweep.trials) < 2:
        raise UsageError("--race: there is a single trial; add values.")
    seeds = len(first.requests[0].load().experiment.seeds)
    least = fewest_seeds(len(sweep.trials), alpha)
    if seeds <= least:
        message = (
            f"--race: of {len(sweep.trials)} trials, one can be dropped after {least} seeds at the"
            f" earliest (alpha {alpha:g}), but there are {seeds}"
        )
        raise UsageError(f"{message}; add --seeds {2 * least}, or remove --race.")


def racing(sweep: PlannedSweep, alpha: float) -> PlannedSweep:
    """The sweep as a race, whose runs record its rule.

    Args:
      sweep: the trials of one experiment.
      alpha: probability that the best trial is dropped.
    """
    seeds = sweep.trials[0].requests[0].load().experiment.seeds
    rule = Looks((), (), alpha, "paired", len(sweep.trials) - 1, "", "0", seeds)
    session = f"race-{sweep.plan.sweep}"
    trials = (
        replace(trial, requests=(replace(trial.requests[0], looks=rule, session=session),))
        for trial in sweep.trials
    )
    return replace(sweep, trials=tuple(trials))


def run_race(
    sweep: PlannedSweep, listeners: Sequence[Listener], watcher: RaceWatcher
) -> list[Failure]:
    """Trains the trials seed by seed, all in memory, and drops the losers.

    Args:
      sweep: from `racing`.
      listeners: one for each trial.
      watcher: receives the progress.

    Returns:
      The trials that failed.

    Raises:
      CnnbenchError: the data cannot be read, or the disk cannot be written.
      KeyboardInterrupt: as `run_by_turns`.
    """
    write_plan(sweep.plan, sweep.results_dir)
    requests, failures = [trial.requests[0] for trial in sweep.trials], list[Failure]()
    rule = requests[0].looks
    assert rule
    with opened_runs(requests, listeners, TrainingRun) as runs:
        for run in runs:
            run.read_data()
        racers = [_Racer(*pair) for pair in zip(sweep.trials, runs, strict=True)]
        for number in range(1, len(rule.planned) + 1):
            racers = _round(racers, number, failures, watcher)
            lost = _lost(racers, number, len(requests), rule.alpha)
            for racer in lost if number < len(rule.planned) else ():
                racer.stop(rule, Reason.DECIDED)
                watcher.dropped(racer.trial, number)
                racers.remove(racer)
        for racer in racers:
            racer.stop(rule, Reason.LAST)
    return failures


def _round(
    racers: Sequence[_Racer], number: int, failures: list[Failure], watcher: RaceWatcher
) -> list[_Racer]:
    """Trains one seed of every racer in turn; failed racers leave the race."""
    left = []
    for racer in racers if number % 2 else reversed(racers):
        try:
            if racer.run.num_seeds < number and racer.run.remaining:
                racer.run.train(racer.run.remaining[0])
        except CnnbenchError as error:
            failures.append(Failure(racer.trial, str(error)))
            watcher.failed(failures[-1])
            continue
        if racer.run.num_seeds >= number:  # else an earlier command dropped it
            left.append(racer)
    return sorted(left, key=lambda racer: racer.trial.number)


def _lost(racers: Sequence[_Racer], number: int, arms: int, alpha: float) -> list[_Racer]:
    if not racers:
        return []
    found = finished_runs([racer.run.so_far(number) for racer in racers], None, images=False)
    scores = [list(values(run, run.metric).values()) for run in found]
    name = found[0].metric.removeprefix("test_")
    higher = found[0].summary.metrics.get(name) is Direction.HIGHER
    return [racers[place] for place in losers(scores, arms, alpha, higher=higher)]
