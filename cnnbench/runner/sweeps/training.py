"""Trains the trials of a sweep in sequence; a failed trial does not stop the others."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cnnbench.errors import CnnbenchError
from cnnbench.runner.distributed import run_requests
from cnnbench.runner.recorder import Listener
from cnnbench.runner.run import Request
from cnnbench.runner.sweeps.planning import PlannedSweep, TrialRequests
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunEntry
from cnnbench.runs.records import RunResult, Status
from cnnbench.runs.sweeps.plans import trained_runs, write_plan

OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed trial.

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
    train: TrainTrial = run_requests,
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
    found = [train_trial(trial, watcher, train) for trial in sweep.trials]
    return [each for each in found if isinstance(each, Failure)]


def train_trial(
    trial: TrialRequests, watcher: SweepWatcher, train: TrainTrial = run_requests
) -> list[RunResult] | Failure:
    """Trains a trial.

    Args:
      trial: the trial.
      watcher: receives the progress.
      train: trains the runs.

    Returns:
      Its runs, or the failure.

    Raises:
      KeyboardInterrupt: as `run_by_turns`.
    """
    try:
        with watcher.trial(trial) as listeners:
            runs = train(trial.requests, listeners)
    except (CnnbenchError, MemoryError) as error:
        failure = Failure(trial, str(error) if isinstance(error, CnnbenchError) else OUT_OF_MEMORY)
        watcher.failed(failure)
        return failure
    watcher.trained(trial, runs)
    return runs


def run_side_by_side(
    sweep: PlannedSweep, listeners: Sequence[Listener], watcher: SweepWatcher
) -> list[Failure]:
    """Trains all trials concurrently on workers; see `run_on`.

    Args:
      sweep: the trials; requests name the workers.
      listeners: one for each run.
      watcher: notified of each trial.

    Returns:
      The trials that failed.

    Raises:
      CnnbenchError: no trial could be trained, or the plan cannot be written.
      KeyboardInterrupt: as `run_by_turns`.
    """
    write_plan(sweep.plan, sweep.results_dir)
    requests = [request for trial in sweep.trials for request in trial.requests]
    try:
        run_requests(requests, listeners, _Collected(sweep, watcher).add)
    except CnnbenchError as error:
        entries = list_runs(sweep.results_dir).entries
        found = trained_runs(sweep.plan, entries)
        if not any(entry for row in found for entry in row):
            raise
        failures = [
            Failure(trial, _reason(trial, entries) or str(error))
            for trial in sweep.trials
            if not all(found[trial.number - 1])
        ]
        for failure in failures:
            watcher.failed(failure)
        return failures
    return []


class _Collected:
    """Collects the runs of a sweep as they complete.

    Args:
      sweep: the trials.
      watcher: notified of each complete trial.
    """

    def __init__(self, sweep: PlannedSweep, watcher: SweepWatcher) -> None:
        self._watcher = watcher
        self._trials = {trial.number: trial for trial in sweep.trials}
        self._waiting = [
            (trial.number, place, planned)
            for trial in sweep.trials
            for place, planned in enumerate(sweep.plan.trials[trial.number - 1].runs)
        ]
        self._runs: dict[int, dict[int, RunResult]] = {}

    def add(self, run: RunResult) -> None:
        """Adds a run; a reused run may have another name."""
        name, digest = run.record.name, run.record.spec_digest
        fitting = [each for each in self._waiting if each[2].spec_digest == digest]
        if not fitting:
            return
        own = next((each for each in fitting if each[2].name == name), fitting[0])
        self._waiting.remove(own)
        number, place, _ = own
        runs = self._runs.setdefault(number, {})
        runs[place] = run
        if len(runs) == len(self._trials[number].requests):
            self._watcher.trained(self._trials[number], [runs[key] for key in sorted(runs)])


def _reason(trial: TrialRequests, entries: Sequence[RunEntry]) -> str:
    """Error of the newest failed run of a trial."""
    wanted = trial.requests[0].sweep
    failed = (entry for entry in reversed(entries) if entry.facts.status is Status.FAILED)
    found = (entry.record.error for entry in failed if entry.record.sweep == wanted)
    return next(filter(None, found), "")
