"""Trains the trials of a sweep one after another; one that fails does not stop the others."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cnnbench.errors import CnnbenchError
from cnnbench.runner.recorder import Listener
from cnnbench.runner.run import Request, run_by_turns
from cnnbench.runner.sweeps.planning import PlannedSweep, TrialRequests
from cnnbench.runs.records import RunResult
from cnnbench.runs.sweeps.plans import write_plan


@dataclass(frozen=True, slots=True)
class Failure:
    """A trial that could not be trained.

    Args:
      trial: the trial.
      reason: the error.
    """

    trial: TrialRequests
    reason: str


class SweepWatcher(Protocol):
    """Receives the progress of a sweep."""

    def trial(self, trial: TrialRequests) -> AbstractContextManager[Sequence[Listener]]:
        """Makes a listener for each run of a trial."""

    def trained(self, trial: TrialRequests, runs: Sequence[RunResult]) -> None:
        """Called with the results of a trial."""

    def failed(self, failure: Failure) -> None:
        """Called at once when a trial fails."""


TrainTrial = Callable[[Sequence[Request], Sequence[Listener]], list[RunResult]]


def run_sweep(
    sweep: PlannedSweep,
    watcher: SweepWatcher,
    train: TrainTrial = run_by_turns,
) -> list[Failure]:
    """Trains all trials.

    Args:
      sweep: the trials.
      watcher: receives the progress.
      train: trains the runs of a trial.

    Returns:
      The trials that failed.

    Raises:
      StoreError: the plan cannot be written.
      KeyboardInterrupt: as `run_by_turns`; it has a note that says how to continue.
    """
    write_plan(sweep.plan, sweep.results_dir)
    failures = []
    for trial in sweep.trials:
        try:
            with watcher.trial(trial) as listeners:
                runs = train(trial.requests, listeners)
        except CnnbenchError as error:
            failures.append(Failure(trial, str(error)))
            watcher.failed(failures[-1])
        except MemoryError:
            failures.append(Failure(trial, "out of memory"))
            watcher.failed(failures[-1])
        else:
            watcher.trained(trial, runs)
    return failures
