"""`--sampler optuna`: a sweep whose trials are proposed from earlier results."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol

from cnnbench.comparisons.comparability import finished_runs, values
from cnnbench.errors import CnnbenchError, SpecError, UsageError
from cnnbench.executors.choice import num_workers
from cnnbench.runner.distributed import run_requests
from cnnbench.runner.recorder import Listener
from cnnbench.runner.run import Request
from cnnbench.runner.sweeps.optuna import Scored, propose, require_optuna
from cnnbench.runner.sweeps.planning import (
    PlannedSweep,
    Proposed,
    TrialRequests,
    plan_points,
    typed_axes,
)
from cnnbench.runner.sweeps.space import MOST_TRIALS, SweepAxis, TrialValues, choose_points
from cnnbench.runner.sweeps.training import Failure, SweepWatcher, TrainTrial, train_trial
from cnnbench.runs.records import Direction, RunResult
from cnnbench.runs.sweeps.plans import known_plan, sweep_id, write_plan
from cnnbench.spec.cross_checks import lacks_validation
from cnnbench.spec.sweeps import Choices, Range

OPTUNA = "optuna"
FIRST = 10  # startup trials of the default sampler, before Optuna proposes
_TRIES = 32  # proposals for each new, valid trial


class ProposingWatcher(SweepWatcher, Protocol):
    """Receives the progress of a sweep that grows."""

    def grown(self, sweep: PlannedSweep) -> None:
        """Called after trials were proposed."""

    def together(
        self, trials: Sequence[TrialRequests]
    ) -> AbstractContextManager[Sequence[Listener]]:
        """Makes a listener for each of several concurrent trials."""

    def exhausted(self, number: int) -> None:
        """Called when the space has only `number` different trials."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """A sweep that grows.

    Args:
      request: the experiment, without the keys of the sweep.
      axes: the keys.
      seed: sampler seed.
      known: the sweep with its first trials, or those of an earlier command.
      at_once: number of trials proposed together.
    """

    request: Request
    axes: tuple[SweepAxis, ...]
    seed: int
    known: PlannedSweep
    at_once: int


def plan_proposals(
    requests: Sequence[Request], axes: Sequence[SweepAxis], trials: int | None, seed: int
) -> Proposals:
    """Plans a sweep with proposed trials and checks the ends of its space.

    Args:
      requests: the experiment, without the keys of the sweep.
      axes: the keys, at least one.
      trials: number of trials.
      seed: sampler seed.

    Raises:
      UsageError: the space or a value is invalid, or Optuna is not installed.
      SpecError: the experiment is invalid.
    """
    if len(requests) > 1:
        raise UsageError("--sampler optuna: learns from the trials of one experiment; name one.")
    if trials is None:
        message = "--sampler optuna: needs a number of trials"
        raise UsageError(f"{message}; add, for example, --trials 12.")
    require_optuna()
    axes = tuple(typed_axes(axes, requests[0]))
    _check_size(axes, trials)
    at_once = _at_once(requests[0])
    ends = plan_points(requests, list(_ends(axes)))
    _require_validation(ends)
    words = [[axis.key, _axis_text(axis)] for axis in axes]
    identity = Proposed(sweep_id(ends.plan.trials, OPTUNA, seed, words), OPTUNA, trials)
    known = _known(requests, axes, identity, seed)
    return Proposals(requests[0], axes, seed, known, at_once)


def _known(
    requests: Sequence[Request], axes: Sequence[SweepAxis], identity: Proposed, seed: int
) -> PlannedSweep:
    """The sweep with its first trials, and trials of an earlier command."""
    first = choose_points(axes, min(identity.number, FIRST), seed)
    earlier = known_plan(identity.sweep, requests[0].results_dir)
    if not earlier:
        return plan_points(requests, first, identity)
    points = [trial.values for trial in earlier.trials]
    known = plan_points(requests, [*points, *first[len(points) :]], identity)
    return replace(known, plan=replace(known.plan, created_at=earlier.created_at))


def _axis_text(axis: SweepAxis) -> str:
    values = axis.values
    return values.text if isinstance(values, Range) else ",".join(values.values)


def _check_size(axes: Sequence[SweepAxis], trials: int) -> None:
    sizes = [_size(axis) for axis in axes]
    size = math.prod(sizes)
    if trials > size:
        message = f"--trials: {trials} is more than the {size:g} combinations"
        raise UsageError(f"{message}; write fewer, or add values.")
    if trials > MOST_TRIALS:
        raise UsageError(f"--trials: {trials:,} is more than {MOST_TRIALS:,}; write fewer.")


def _size(axis: SweepAxis) -> float:
    if isinstance(axis.values, Choices):
        return len(axis.values.values)
    return axis.values.integers if axis.whole else math.inf


def _at_once(request: Request) -> int:
    """Number of concurrent trials that keeps the workers busy.

    Raises:
      UsageError: the number of workers is unknown.
    """
    if not request.on:
        return 1
    number = num_workers(request.on, request.device, request.cpus, request.gpus)
    if number is None:
        message = "--sampler optuna: needs the number of workers"
        raise UsageError(f"{message}; write it, such as --on {request.on}:4.")
    return -(-number // len(request.load().experiment.seeds))


def _ends(axes: Sequence[SweepAxis]) -> Iterator[TrialValues]:
    """Points with all values of every key, or both ends of its range."""
    options = [
        axis.values.values if isinstance(axis.values, Choices) else (axis.at(0.0), axis.at(1.0))
        for axis in axes
    ]
    first = {axis.key: values[0] for axis, values in zip(axes, options, strict=True)}
    yield first
    for axis, own in zip(axes, options, strict=True):
        yield from (first | {axis.key: value} for value in own[1:])


def _require_validation(sweep: PlannedSweep) -> None:
    request = sweep.trials[0].requests[0]
    loaded = request.load()
    dataset = loaded.experiment.dataset
    if lacks_validation(dataset, loaded.info):
        key = "split" if dataset.random_split else "splits"
        message = f"--sampler optuna: {request.path} has no validation images, and test images"
        raise UsageError(f"{message} must not choose; set dataset.{key}.validation.")


def sampler_note(sweep: PlannedSweep) -> str:
    """Note that the sampler has no trials to propose; empty if it has."""
    if not sweep.plan.sampler or sweep.number > FIRST:
        return ""
    return f" Optuna proposes trials only after the first {FIRST}; there are no more."


def run_proposals(
    proposals: Proposals, watcher: ProposingWatcher, train: TrainTrial = run_requests
) -> list[Failure]:
    """Trains the trials, each proposed from earlier results.

    With `--needed`, the trials of an earlier command come first: the sampler gets the finished
    trials, and the others are trained.

    Args:
      proposals: the sweep.
      watcher: receives the progress.
      train: trains the runs of some trials.

    Returns:
      The trials that failed.

    Raises:
      StoreError: the plan cannot be written.
      SpecError: the sampler proposes no valid trial.
      KeyboardInterrupt: as `run_by_turns`.
    """
    sweep = proposals.known
    if not proposals.request.needed:
        sweep = first_trials(sweep)
    losses: dict[int, float | None] = {}  # by trial; None if it failed
    failures: list[Failure] = []
    while waiting := [trial for trial in sweep.trials if trial.number not in losses]:
        write_plan(sweep.plan, sweep.results_dir, replace=True)
        watcher.grown(sweep)
        for trial, found in _train(waiting[: proposals.at_once], watcher, train):
            if isinstance(found, Failure):
                failures.append(found)
            losses[trial.number] = None if isinstance(found, Failure) else _loss(found[0])
        if len(losses) == len(sweep.trials):
            sweep = _grown(proposals, sweep, losses)
    if len(sweep.trials) < sweep.number:
        watcher.exhausted(len(sweep.trials))
    return failures


def first_trials(sweep: PlannedSweep) -> PlannedSweep:
    """The sweep with only those trials that do not depend on results."""
    number = min(FIRST, sweep.plan.number)
    plan = replace(sweep.plan, trials=sweep.plan.trials[:number])
    return PlannedSweep(plan, sweep.trials[:number])


def _train(
    trials: Sequence[TrialRequests], watcher: ProposingWatcher, train: TrainTrial
) -> Iterator[tuple[TrialRequests, list[RunResult] | Failure]]:
    """Trains trials concurrently; if one fails, continues each alone."""
    alone = list(trials)
    if len(trials) > 1:
        try:
            with watcher.together(trials) as listeners:
                runs = train([trial.requests[0] for trial in trials], listeners)
        except (CnnbenchError, MemoryError):
            alone = [replace(trial, requests=_needed(trial)) for trial in trials]
        else:
            for trial, run in zip(trials, runs, strict=True):
                watcher.trained(trial, [run])
                yield trial, [run]
            return
    for trial in alone:
        yield trial, train_trial(trial, watcher, train)


def _needed(trial: TrialRequests) -> tuple[Request, ...]:
    return tuple(replace(request, needed=True) for request in trial.requests)


def _loss(run: RunResult) -> float:
    """Loss for the sampler, from the validation metric that ranks the trials."""
    (finished,) = finished_runs([run], None, images=False)
    found = list(values(finished, finished.metric).values())
    mean = math.fsum(found) / len(found)
    if not math.isfinite(mean):
        return math.inf
    higher = finished.summary.metrics.get(finished.metric) is Direction.HIGHER
    return -mean if higher else mean


def _grown(
    proposals: Proposals, sweep: PlannedSweep, losses: Mapping[int, float | None]
) -> PlannedSweep:
    """The sweep with the next trials, if there are more."""
    finished = [
        (trial.point, loss) for trial in sweep.trials if (loss := losses[trial.number]) is not None
    ]
    last = min(sweep.number, len(sweep.trials) + proposals.at_once)
    known = len(sweep.trials)
    while len(sweep.trials) < last:
        running = [trial.point for trial in sweep.trials[known:]]
        new = _new_trial(proposals, sweep, finished, running)
        if new is None:
            break
        plan = replace(sweep.plan, trials=sweep.plan.trials + new.plan.trials)
        sweep = PlannedSweep(plan, sweep.trials + new.trials)
    return sweep


def _new_trial(
    proposals: Proposals,
    sweep: PlannedSweep,
    finished: Sequence[Scored],
    running: Sequence[TrialValues],
) -> PlannedSweep | None:
    """A sweep with one new, valid trial; None if there is none.

    Raises:
      SpecError: all new trials are invalid.
    """
    taken = [dict(trial.point) for trial in sweep.trials]
    number = len(taken) + 1
    identity = Proposed(sweep.plan.sweep, OPTUNA, sweep.number, number)
    error: SpecError | None = None
    for point in _candidates(proposals, number, finished, running):
        if dict(point) in taken:
            continue
        try:
            return plan_points([proposals.request], [point], identity)
        except SpecError as found:
            error = found
    if error:
        raise error
    return None


def _candidates(
    proposals: Proposals,
    number: int,
    finished: Sequence[Scored],
    running: Sequence[TrialValues],
) -> Iterator[TrialValues]:
    """Some proposals, then all points of a finite space."""
    axes, seed = proposals.axes, proposals.seed
    for attempt in range(_TRIES):
        yield propose(axes, (seed, number, attempt), finished, running)
    if math.isfinite(math.prod(map(_size, axes))):
        for point in product(*map(_values, axes)):
            yield dict(zip([axis.key for axis in axes], point, strict=True))


def _values(axis: SweepAxis) -> Iterator[str]:
    if isinstance(axis.values, Choices):
        yield from axis.values.values
    else:
        low, high = math.ceil(axis.values.low), math.floor(axis.values.high)
        yield from map(str, range(low, high + 1))
