"""Plans a sweep: the same trials for every experiment, all checked before training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cnnbench.comparisons.labels import short_setting
from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.data.streaming.source import StreamOptions
from cnnbench.errors import ModelError, SpecError, UsageError
from cnnbench.runner.open_run import model_source
from cnnbench.runner.run import Request
from cnnbench.runner.sweeps.space import SweepAxis, TrialValues, choose_points
from cnnbench.runner.tuning_space import flattened
from cnnbench.runs.records import SweepTrial
from cnnbench.runs.sweeps.plans import RunPlan, SweepPlan, TrialPlan, now, sweep_id
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.inheritance import read_with_parents
from cnnbench.spec.shipped import short_path
from cnnbench.spec.sweeps import Range
from cnnbench.system import commands

OPTIONS = ("--trials", "--sweep-seed", "--sampler", "--shard")  # of a sweep, not of its runs
FLAGS = ("--race",)


@dataclass(frozen=True, slots=True)
class TrialRequests:
    """A trial of a sweep.

    Args:
      number: from 1.
      point: the value of each key.
      label: short text, such as `n=5 learning_rate=0.03`.
      requests: one per experiment.
    """

    number: int
    point: TrialValues
    label: str
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """A sweep ready to train.

    Args:
      plan: the plan as stored.
      trials: trials of this command, with the requests of their runs.
    """

    plan: SweepPlan
    trials: tuple[TrialRequests, ...]

    @property
    def number(self) -> int:
        """Number of trials of this command, including trials not yet proposed."""
        return max(self.plan.number, len(self.trials))

    @property
    def number_of_all(self) -> int:
        """Number of all trials, including those on other machines."""
        return max(self.plan.number, len(self.plan.trials))

    @property
    def results_dir(self) -> Path:
        """Folder of all results."""
        return self.trials[0].requests[0].results_dir

    @property
    def again(self) -> str:
        """The command line that resumes this command."""
        return commands.command_line(self.trials[0].requests[0].again)


def plan_sweep(
    requests: Sequence[Request], axes: Sequence[SweepAxis], trials: int | None, seed: int
) -> PlannedSweep:
    """Plans the same trials for every experiment, and checks them.

    Args:
      requests: the experiments, without the keys of the sweep.
      axes: the keys, at least one.
      trials: number of trials; None for all combinations.
      seed: seed of the sampler.

    Raises:
      UsageError: the space or a trial is invalid.
      SpecError: no trial of an experiment is valid.
    """
    return plan_points(requests, choose_points(typed_axes(axes, requests[0]), trials, seed))


def typed_axes(axes: Sequence[SweepAxis], request: Request) -> list[SweepAxis]:
    """Marks the ranges of integer keys.

    Args:
      axes: the keys.
      request: an experiment with values of these keys.

    Raises:
      UsageError: the range of an integer key has no integer.
    """
    typed = [replace(axis, whole=_is_whole(axis, request)) for axis in axes]
    for axis in typed:
        if axis.whole and isinstance(axis.values, Range) and not axis.values.integers:
            message = f"{axis.key}: takes integers, but {axis.values.text} has none"
            raise UsageError(f"{message}; write a wider range.")
    return typed


@dataclass(frozen=True, slots=True)
class Proposed:
    """Identity of a sweep whose trials are proposed from results.

    Args:
      sweep: the ID.
      sampler: name of the sampler.
      number: final number of trials.
      first: number of the first planned trial.
    """

    sweep: str
    sampler: str
    number: int
    first: int = 1


def plan_points(
    requests: Sequence[Request], points: Sequence[TrialValues], proposed: Proposed | None = None
) -> PlannedSweep:
    """Plans the trials at given points, as `plan_sweep` does.

    Args:
      requests: the experiments, without the keys of the sweep.
      points: the values of each trial.
      proposed: the sweep, if more trials follow; None if these are all.

    Raises:
      UsageError: a trial is invalid.
      SpecError: no trial of an experiment is valid.
      DataError: the images for `auto` or `balanced` cannot be read.
    """
    keys = list(points[0])
    labels = [point_label(point, keys) for point in points]
    titles = [_title(request) for request in requests]
    drafts = [
        [_trial_request(r, p, f"{t} {label}") for r, t in zip(requests, titles, strict=True)]
        for p, label in zip(points, labels, strict=True)
    ]
    for place, request in enumerate(requests):
        _check([row[place] for row in drafts], labels, request.path)
    images = _Images()
    plans = [
        TrialPlan(point, tuple(_run_plan(r, t, images) for r, t in zip(row, titles, strict=True)))
        for point, row in zip(points, drafts, strict=True)
    ]
    plan = SweepPlan(
        proposed.sweep if proposed else sweep_id(plans),
        now(),
        tuple(commands.without_options(requests[0].command, "--shard")),
        tuple(short_path(request.path) for request in requests),
        tuple(requests[0].overrides),
        tuple(keys),
        tuple(plans),
        proposed.sampler if proposed else "",
        proposed.number if proposed else 0,
    )
    return PlannedSweep(
        plan,
        tuple(
            TrialRequests(
                number, point, label, tuple(_of(plan.sweep, number, point, r) for r in row)
            )
            for number, (point, label, row) in enumerate(
                zip(points, labels, drafts, strict=True), proposed.first if proposed else 1
            )
        ),
    )


def point_label(point: TrialValues, keys: Sequence[str]) -> str:
    """Name of a trial: its values by short keys.

    >>> point_label({"model.params.n": "5", "train.optimizer.learning_rate": "0.1"}, [])
    'n=5 learning_rate=0.1'
    """
    return " ".join(f"{short_setting(key, keys)}={value}" for key, value in point.items())


def _is_whole(axis: SweepAxis, request: Request) -> bool:
    """True if the file has an integer for the key, or if unknown, both ends are integers."""
    if not isinstance(axis.values, Range):
        return False
    value: object = read_with_parents(request.path).data
    for part in axis.key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        value = dict(flattened(request.load().experiment)).get(axis.key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return isinstance(value, int)
    return axis.values.low.is_integer() and axis.values.high.is_integer()


def _title(request: Request) -> str:
    """Title of an experiment; the name in its file if the file is invalid."""
    try:
        return request.load().experiment.type_title
    except SpecError:
        data = read_with_parents(request.path).data
    found = data.get("title") or data.get("name") if isinstance(data, Mapping) else None
    return str(found or request.path.stem)


def titled(title: str) -> str:
    r"""The override that sets a title.

    >>> print(titled('Net "a" n=3'))
    title="Net \"a\" n=3"
    """
    return f"title={json.dumps(title, ensure_ascii=False)}"


def _trial_request(request: Request, point: TrialValues, title: str) -> Request:
    changes = [*(f"{key}={value}" for key, value in point.items()), titled(title)]
    command = trial_command(request.command, point)
    overrides = [*request.overrides, *changes]
    again = commands.with_needed(request.command)
    return replace(request, overrides=overrides, command=command, again=again)


def trial_command(command: Sequence[str], point: TrialValues) -> list[str]:
    """The command line of one trial.

    >>> words = ["cnnbench", "run", "a.yaml", "train.epochs=1,2", "--trials", "2", "--seeds", "3"]
    >>> trial_command(words, {"train.epochs": "2"})
    ['cnnbench', 'run', 'a.yaml', 'train.epochs=2', '--seeds', '3']
    """
    words, found, skip = [], set(), False
    for word in command:
        key, equals, _ = word.partition("=")
        if skip or key in OPTIONS or word in FLAGS:
            skip = not skip and word in OPTIONS
            continue
        if equals and key.strip() in point:
            found.add(key.strip())
            word = f"{key.strip()}={point[key.strip()]}"  # noqa: PLW2901
        words.append(word)
    return [*words, *(f"{key}={value}" for key, value in point.items() if key not in found)]


def _of(sweep: str, number: int, point: TrialValues, request: Request) -> Request:
    return replace(request, sweep=SweepTrial(sweep, number, dict(point)))


def _check(requests: Sequence[Request], labels: Sequence[str], path: Path) -> None:
    """Loads all trials of an experiment.

    Raises:
      SpecError: all are invalid for the same reason.
      UsageError: some are invalid.
    """
    errors: dict[int, SpecError] = {}
    for number, request in enumerate(requests, start=1):
        try:
            request.load()
        except SpecError as error:
            errors[number] = error
    if not errors:
        return
    first, found = next(iter(errors.items()))
    if len(errors) == len(requests) and len(set(map(str, errors.values()))) == 1:
        raise found
    more = f", and {len(errors) - 1} more of {len(requests)}" if len(errors) > 1 else ""
    what = f"trial {first} of {len(requests)}, {labels[first - 1]}{more}"
    raise UsageError(f"{what}: not valid for {path}:\n{found}")


class _Images:
    """Images of experiments; keeps the last ones for the next trial."""

    def __init__(self) -> None:
        self._known: tuple[str, Dataset] | None = None

    def with_numbers(self, request: Request) -> Experiment:
        """The experiment with `auto` and `balanced` replaced by numbers, as in its run.

        Raises:
          CnnbenchError: the images cannot be read.
        """
        loaded = request.load()
        if not loaded.experiment.depends_on_images:
            return loaded.experiment
        wanted = loaded.experiment.dataset
        key = repr(wanted)
        if self._known is None or self._known[0] != key:
            options = StreamOptions(request.workers)
            self._known = key, dataset_of(wanted, request.data_dir, lambda _: None, options)
        data = self._known[1]
        known = data.pool or data.train
        return loaded.with_statistics(known.images, data.typical_labels).experiment


def _run_plan(request: Request, title: str, images: _Images) -> RunPlan:
    spec = images.with_numbers(request)
    reference, folder = spec.model.python or "", request.path.resolve().parent
    if reference and not request.allow_python:
        _require_trust(request, reference, folder)
    source = model_source(reference, folder)
    return RunPlan(spec.name, title, spec.digest(source), spec.seeds)


def _require_trust(request: Request, reference: str, folder: Path) -> None:
    """Rejects Python models from untrusted folders, as a run does.

    Raises:
      SpecError: the model is not in the experiment's folder.
    """
    from cnnbench.nn.python_model import require_trust

    try:
        require_trust(reference, folder)
    except ModelError as error:
        raise error.at(request.load().place(error.key)) from None
