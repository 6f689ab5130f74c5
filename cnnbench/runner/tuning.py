"""Tunes experiments with equal budgets, and compares them as written and at their best.

Every trial is a run of its own in the results, tagged `TRIAL`. Finished trials are not repeated and
interrupted ones are resumed, so that a tuning continues where it stopped.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

from cnnbench.comparisons.comparability import TEST, finished_runs, run_path, values
from cnnbench.comparisons.comparison import JUDGED, compare
from cnnbench.comparisons.tuning import (
    Trial,
    TunedArm,
    TunedAxis,
    TunedComparison,
    TuningResult,
    budget_text,
)
from cnnbench.comparisons.verdict import Criteria
from cnnbench.errors import SpecError, UsageError
from cnnbench.formatting import named_seeds, numbered
from cnnbench.runner.distributed import run_requests
from cnnbench.runner.recorder import Listener
from cnnbench.runner.run import Request
from cnnbench.runner.tuning_space import Axis, Setting, choose_points, parse_axes, settings_at
from cnnbench.runs.records import TRIAL, TUNED, Direction, RunResult
from cnnbench.spec.cross_checks import lacks_validation
from cnnbench.spec.loader import Loaded
from cnnbench.spec.shipped import short_path
from cnnbench.system import commands

FIRST_SEED = 1000  # of the trials
_OPTIONS = {"dataset.name": "--dataset", "seeds": "--seeds", "train.epochs": "--epochs"}
_OF_DATASET = ("dataset.splits=null", "dataset.offline=null")  # of the option

Listening = Callable[[str], AbstractContextManager[Listener]]
"""Makes the listener of a trial from its title."""


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """A trial of an experiment.

    Args:
      point: index on each axis.
      settings: values that it gives to keys.
      request: the run.
    """

    point: tuple[int, ...]
    settings: tuple[Setting, ...]
    request: Request

    @property
    def written(self) -> bool:
        """True if the file has these values."""
        return all(setting.written for setting in self.settings)

    @property
    def overrides(self) -> tuple[str, ...]:
        """The overrides that make it."""
        return tuple(setting.override for setting in self.settings)


@dataclass(frozen=True, slots=True)
class PlannedArm:
    """An experiment to tune.

    Args:
      label: its title.
      request: the run as written.
      loaded: the experiment as written.
      trials: one for each point.
    """

    label: str
    request: Request
    loaded: Loaded
    trials: tuple[PlannedTrial, ...]

    @property
    def num_seeds(self) -> int:
        """Number of seeds of the verdict."""
        return len(self.loaded.experiment.seeds)

    @property
    def epochs(self) -> int:
        """Epochs of each seed."""
        return self.loaded.experiment.train.epochs


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """All trials of a tuning.

    Args:
      axes: the tuned keys.
      seeds: the seeds of each trial, which no verdict uses.
      arms: the experiments.
    """

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    arms: tuple[PlannedArm, ...]

    @property
    def cost(self) -> tuple[str, ...]:
        """The budget of each experiment, and that of the verdict, in sentences."""
        first, arms = self.arms[0], len(self.arms)
        budget = budget_text(len(first.trials), len(self.seeds), first.epochs)
        each = "for each experiment" if arms > 1 else "for the experiment"
        seeds = sum(arm.num_seeds for arm in self.arms)
        epochs = sum(arm.num_seeds * arm.epochs for arm in self.arms)
        total = arms * len(first.trials) * len(self.seeds) * first.epochs
        return (
            f"Tuning: {budget} {each}, {named_seeds(self.seeds)}.",
            f"Verdict: {seeds:,} seeds, {epochs:,} epochs as written, and as many at most for those"
            f" that are better with other values. In all at most {total + 2 * epochs:,} epochs.",
        )


def plan_tuning(
    requests: Sequence[Request], keys: Sequence[str], trials: int | None, num_seeds: int
) -> TuningPlan:
    """Plans the same trials for every experiment, and checks them.

    Args:
      requests: the experiments, at least one.
      keys: the values of ``--tune``.
      trials: number of trials of each experiment; None for all points.
      num_seeds: seeds of each trial.

    Raises:
      UsageError: the space is not valid for every experiment, or one has no validation images.
      SpecError: an experiment is invalid.
    """
    axes = parse_axes(keys)
    points = choose_points(axes, trials)
    loaded = [request.load() for request in requests]
    for request, each in zip(requests, loaded, strict=True):
        _require_validation(each, request.path)
    _require_equal_epochs(loaded, requests)
    used = {seed for each in loaded for seed in each.experiment.seeds}
    seeds = tuple(islice((seed for seed in count(FIRST_SEED) if seed not in used), num_seeds))
    labels = numbered([each.experiment.type_title for each in loaded])
    arms = (
        PlannedArm(label, request, each, _trials(request, each, axes, points, seeds))
        for label, request, each in zip(labels, requests, loaded, strict=True)
    )
    return TuningPlan(axes, seeds, tuple(arms))


def _require_validation(loaded: Loaded, path: Path) -> None:
    dataset = loaded.experiment.dataset
    if lacks_validation(dataset, loaded.info):
        key = "split" if dataset.random_split else "splits"
        message = f"--tune: {path} has no validation images, and test images must not choose"
        raise UsageError(f"{message}; set dataset.{key}.validation.")


def _require_equal_epochs(loaded: Sequence[Loaded], requests: Sequence[Request]) -> None:
    """Requires equal epochs, so that trials of all experiments cost the same."""
    epochs = [each.experiment.train.epochs for each in loaded]
    for request, other in zip(requests, epochs, strict=True):
        if other != epochs[0]:
            message = (
                f"--tune: {requests[0].path} has train.epochs: {epochs[0]}, {request.path} {other}"
            )
            raise UsageError(f"{message}; give all the same budget with --epochs N.")


def _trials(
    request: Request,
    loaded: Loaded,
    axes: Sequence[Axis],
    points: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
) -> tuple[PlannedTrial, ...]:
    """The trials of an experiment.

    Raises:
      UsageError: a point is not valid, or two are the same.
    """
    found: dict[tuple[str, ...], PlannedTrial] = {}
    for point in points:
        names = zip(axes, point, strict=True)
        settings = tuple(
            setting
            for axis, place in names
            for setting in settings_at(axis, place, loaded.experiment, str(request.path))
        )
        trial = PlannedTrial(point, settings, _trial_request(request, settings, seeds))
        _check(trial, axes)
        if other := found.get(trial.overrides):
            both = f"{point_text(axes, other.point)} and {point_text(axes, point)}"
            same = f"{both} are both {' '.join(trial.overrides)} in {request.path}"
            raise UsageError(f"--tune: {same}; try other values.")
        found[trial.overrides] = trial
    return tuple(found.values())


def point_text(axes: Sequence[Axis], point: tuple[int, ...]) -> str:
    """A point as text, such as ``x0.3`` or ``x1, x3``."""
    return ", ".join(axis.points[place] for axis, place in zip(axes, point, strict=True))


def _check(trial: PlannedTrial, axes: Sequence[Axis]) -> None:
    request = trial.request
    try:
        request.load()
    except SpecError as error:
        keys = ",".join(axis.key for axis in axes)
        message = f"--tune {keys}: {point_text(axes, trial.point)} is not valid for {request.path}"
        raise UsageError(f"{message}:\n{error}") from None


def _trial_request(request: Request, settings: Sequence[Setting], seeds: Sequence[int]) -> Request:
    kept = (text for text in request.overrides if not re.match(r"seeds\s*(\.|=)", text))
    changes = (s.override for s in settings if not s.written)
    overrides = (*kept, *changes, f"seeds=[{','.join(map(str, seeds))}]")
    return _alone(replace(request, overrides=overrides, tags=(TRIAL,), tensorboard=False, track=()))


def _alone(request: Request) -> Request:
    """The request with a command line of its own, that trains it if it is not trained yet."""
    return replace(request, command=own_command(request), again=request.command, needed=True)


def own_command(request: Request) -> tuple[str, ...]:
    """The command line that trains a run alone."""
    options = {
        "--device": "" if request.device == "auto" else request.device,
        "--engine": "" if request.engine == "auto" else request.engine,
        "--data-dir": request.data_dir or "",
        "--workers": request.workers or "",
    }
    given = [word for name, value in options.items() if value for word in (name, str(value))]
    where = map(str, commands.results_dir_option(request.results_dir))
    flags = ["--allow-python"] * request.allow_python
    words = as_options(request.overrides)
    return ("cnnbench", "run", short_path(request.path), *words, *given, *where, *flags)


def as_options(overrides: Sequence[str]) -> list[str]:
    """Overrides as the options that `option_overrides` made them from, which are shorter.

    >>> as_options(["seeds=[1000,1001]", "train.epochs=3", "train.batch_size=8"])
    ['train.batch_size=8', '--seeds', '1000,1001', '--epochs', '3']
    """
    words, options = list(overrides), []
    for place, text in enumerate(overrides):
        key, _, value = text.partition("=")
        reset = key != "dataset.name" or tuple(overrides[place + 1 : place + 3]) == _OF_DATASET
        if key in _OPTIONS and reset:
            numbers = f"{value[1:-1]}{',' * (',' not in value)}"
            options += [_OPTIONS[key], numbers if value.startswith("[") else value]
            for word in (text, *(_OF_DATASET if key == "dataset.name" else ())):
                words.remove(word)
    return [*words, *options]


def run_trials(
    plan: TuningPlan, listening: Listening, said: Callable[[str, Trial, str], None]
) -> TuningResult:
    """Trains all trials, point by point, so that an interrupt leaves equal budgets.

    Args:
      plan: the trials.
      listening: makes the listener of each.
      said: called with title and result of each trial, and the metric.

    Raises:
      CnnbenchError: as `run_by_turns`.
      KeyboardInterrupt: as `run_by_turns`; it says how to continue.
    """
    found: list[list[Trial]] = [[] for _ in plan.arms]
    total, done = len(plan.arms) * len(plan.arms[0].trials), 0
    metric, higher = "", True
    for place in range(len(plan.arms[0].trials)):
        for arm, own in zip(plan.arms, found, strict=True):
            done += 1
            trial = arm.trials[place]
            title = f"trial {done} of {total}: {arm.label}, {point_text(plan.axes, trial.point)}"
            with listening(title) as listener:
                (run,) = run_requests([trial.request], [listener])
            result, metric, higher = _result(trial, run)
            own.append(result)
            said(title, result, metric)
    axes = tuple(TunedAxis(axis.key, axis.points) for axis in plan.axes)
    arms = (
        TunedArm(arm.label, tuple(own), higher) for arm, own in zip(plan.arms, found, strict=True)
    )
    return TuningResult(axes, metric, plan.seeds, plan.arms[0].epochs, tuple(arms))


def _result(trial: PlannedTrial, run: RunResult) -> tuple[Trial, str, bool]:
    """The result of a trial, the metric that chooses, and whether higher values are better."""
    (finished,) = finished_runs([run], None)
    metric = finished.metric
    own = tuple(values(finished, metric).values())
    spent = sum(epoch.train_s + epoch.eval_s for epoch in run.epochs)
    path = run_path(run.record)
    result = Trial(trial.point, trial.overrides, trial.written, own, path, spent)
    return result, metric, finished.summary.metrics[metric] is Direction.HIGHER


def verdict_requests(
    plan: TuningPlan, tuned: TuningResult, session: str
) -> tuple[list[Request], list[int]]:
    """The runs of the verdicts, on fresh seeds.

    Args:
      plan: the plan.
      tuned: its results.
      session: a name for these runs, which are interleaved.

    Returns:
      The experiments as written and those that are better with other values; for each experiment
      the place of the request at its best.
    """
    requests = [_alone(replace(arm.request, session=session)) for arm in plan.arms]
    places: list[int] = []
    for number, (arm, own) in enumerate(zip(plan.arms, tuned.arms, strict=True)):
        if own.best is None or own.best.written:
            places.append(number)
            continue
        places.append(len(requests))
        overrides = (*arm.request.overrides, *own.best.overrides)
        tags = (*arm.request.tags, TUNED)
        best = replace(arm.request, overrides=overrides, tags=tags, session=session)
        requests.append(_alone(best))
    return requests, places


def judge_tuned(
    tuned: TuningResult,
    runs: Sequence[RunResult],
    places: Sequence[int],
    criteria: Criteria = JUDGED,
) -> TunedComparison:
    """The verdicts on fresh seeds, by the test images.

    Args:
      tuned: the results of the trials.
      runs: those of `verdict_requests`.
      places: for each experiment the place of its best run.
      criteria: settings of the verdicts, except for baseline and metric.

    Raises:
      IncomparableError: the experiments cannot be compared.
    """
    arms, best = len(tuned.arms), [runs[place] for place in places]
    written = compare(runs[:arms], _criteria(tuned, runs[0], criteria))
    if list(places) == list(range(arms)):
        return TunedComparison(tuned, written, None)
    compared = best if arms > 1 else [runs[0], *best]
    own = _criteria(tuned, compared[0], criteria)
    return TunedComparison(tuned, written, compare(compared, own, steps=False))


def _criteria(tuned: TuningResult, baseline: RunResult, criteria: Criteria) -> Criteria:
    metric = f"{TEST}{tuned.metric}"
    return replace(criteria, baseline=run_path(baseline.record), metric=metric)
