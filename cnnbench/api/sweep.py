"""`cnnbench.sweep`: trains an experiment with several values of its keys."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from cnnbench.api.criteria import require_alpha
from cnnbench.api.frames import require_pandas
from cnnbench.api.messages import names_parameters, warn_all
from cnnbench.api.notebook import sweep_html
from cnnbench.api.requests import (
    DeviceChoice,
    EngineChoice,
    Experiments,
    Overrides,
    Training,
    option_words,
    override_texts,
    progress_console,
    requests_of,
    require_member,
    value_text,
)
from cnnbench.api.run import RunList
from cnnbench.api.selection import printed
from cnnbench.cli.options import SamplerName
from cnnbench.cli.sweeps.running import (
    SweepBoard,
    SweepOptions,
    cost_text,
    known_sweep,
    plan_with,
    train_with,
)
from cnnbench.comparisons.sweeps.results import SweepResult, read_sweep
from cnnbench.errors import CnnbenchError, UsageError
from cnnbench.report.sweeps.files import csv_sweep, json_sweep
from cnnbench.report.sweeps.table import terminal_sweep
from cnnbench.runner.run import Request, check_all
from cnnbench.runner.sweeps.space import SweepAxis, parse_axes, with_file_sweep
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import read_run
from cnnbench.runs.sweeps.plans import trained_runs

if TYPE_CHECKING:
    import pandas as pd

SweepSpace: TypeAlias = Mapping[str, object] | Sequence[str]
"""Values by key, or texts as on the command line."""


@dataclass(frozen=True, slots=True, repr=False)
class SweepOutcome:
    """A sweep; `print` shows what ``cnnbench sweep show`` begins with.

    Args:
      result: the trials, with the metric of each seed.
      runs: the runs of the trials that are trained, in the order of the trials.
      failed: why other trials failed, by what differs.
    """

    result: SweepResult
    runs: RunList
    failed: Mapping[str, str]

    @property
    def best(self) -> tuple[str, ...]:
        """The overrides of the best trial, which is optimistic; empty if all diverged."""
        best = self.result.best
        pairs = zip(self.result.plan.keys, best.values if best else (), strict=False)
        return tuple(f"{key}={value}" for key, value in pairs)

    def to_frame(self) -> "pd.DataFrame":
        """Returns a row for each trial and seed, the best trial first.

        Raises:
          UsageError: pandas is not installed.
        """
        return require_pandas("to_frame").read_csv(io.StringIO(self.to_csv()))

    def to_csv(self) -> str:
        """Returns what ``sweep show --format csv`` prints."""
        return csv_sweep(self.result)

    def to_json(self) -> str:
        """Returns what ``sweep show --format json`` prints."""
        return json_sweep(self.result)

    def __str__(self) -> str:
        return printed(terminal_sweep(self.result))

    def __repr__(self) -> str:
        return f"<SweepOutcome: best of {len(self.result.trained)}: {' '.join(self.best)}>"

    def _repr_html_(self) -> str:
        return sweep_html(self.result)


@names_parameters()
def sweep(  # noqa: PLR0913 - one parameter per option
    *experiments: Experiments,
    values: SweepSpace = (),
    trials: int | None = None,
    sampler: Literal["quasi-random", "optuna"] | None = None,
    sweep_seed: int | None = None,
    race: bool = False,
    alpha: float = 0.05,
    dataset: str | None = None,
    seeds: int | str | Iterable[int] | None = None,
    epochs: int | None = None,
    overrides: Overrides = (),
    results_dir: str | Path = "results",
    data_dir: str | Path | None = None,
    device: DeviceChoice = "auto",
    engine: EngineChoice | None = None,
    workers: int | None = None,
    on: str | None = None,
    tags: str | Iterable[str] = (),
    needed: bool = False,
    tensorboard: bool = False,
    allow_python: bool = False,
    progress: bool = True,
) -> SweepOutcome:
    """Trains the trials of a sweep, as ``cnnbench run FILE KEY=1,2`` does.

    Args:
      *experiments: files, or names such as ``"standard"``, one by one or in lists. Each gets the
        same trials.
      values: the values of each key, ``{"train.optimizer.learning_rate": [0.01, 0.03]}``, or a
        range, ``{"train.optimizer.learning_rate": "log(0.003..0.3)"}``, or texts as on the command
        line, ``["model.params.n=3,5"]``. They replace those of ``sweep`` in the files.
      trials: number of trials; all combinations by default. Ranges need it.
      sampler: what draws the trials: ``"quasi-random"`` by default, or ``"optuna"``.
      sweep_seed: seed of the trials; 0 by default.
      race: drop trials that are decided worse than the leader.
      alpha: probability that a race drops the best trial.
      dataset: as in `run`, and so are the others.
      seeds: seeds of each trial.
      epochs: number of epochs.
      overrides: other values by dotted path.
      results_dir: folder of all results.
      data_dir: prepared datasets.
      device: where to train.
      engine: algorithms of convolutions and pooling.
      workers: processes that decode the images of a dataset that is streamed.
      on: train trials side by side in worker processes, such as ``"local:2"``.
      tags: a name for the runs, or several.
      needed: skip finished trials and resume those that were interrupted.
      tensorboard: also write event files.
      allow_python: import ``model.python`` from anywhere.
      progress: report progress on standard error.

    Returns:
      The trials. For each that failed, a warning is issued.

    Raises:
      CnnbenchError: the space or an experiment is invalid, or all trials failed. Epochs that were
        trained are kept, also after a KeyboardInterrupt.
    """
    require_alpha(alpha)
    if sampler is not None:
        require_member(SamplerName, "sampler", sampler)
    for name, number, least in (("trials", trials, 1), ("sweep_seed", sweep_seed, 0)):
        if number is not None and number < least:
            raise UsageError(f"{name}: {number} is too small; use {least} or more.")
    texts = [*override_texts(overrides), *values_texts(values)]
    axes, others = parse_axes(texts)
    training = Training(
        dataset,
        seeds,
        epochs,
        others,
        results_dir,
        data_dir,
        device,
        engine,
        workers,
        tags,
        needed,
        tensorboard,
        allow_python,
    )
    words = option_words(
        {
            "trials": trials,
            "sampler": sampler,
            "sweep-seed": sweep_seed,
            "race": race,
            "alpha": None if alpha == 0.05 else alpha,
            "on": on,
        }
    )
    own = [text for text in texts if text not in others]
    made = requests_of(experiments, training, [*words, *own])
    requests = [replace(request, on=on or "") for request in made]
    axes, own_trials = with_file_sweep(requests, axes)
    if not axes:
        example = "{'train.optimizer.learning_rate': [0.01, 0.03]}"
        raise UsageError(f"values: none given; write, for example, {example}.")
    options = SweepOptions(
        trials or own_trials,
        sweep_seed,
        {},
        quiet=not progress,
        race=alpha if race else None,
        sampler=sampler,
    )
    outcome = _trained(requests, axes, options)
    warn_all(f"trial {label}: failed: {reason}" for label, reason in outcome.failed.items())
    return outcome


def _trained(
    requests: Sequence[Request], axes: Sequence[SweepAxis], options: SweepOptions
) -> SweepOutcome:
    """Trains a sweep.

    Raises:
      CnnbenchError: no trial could be trained, or the sweep is not valid.
    """
    planned = plan_with(requests, axes, options)
    sweep = known_sweep(planned)
    check_all(requests)
    board = SweepBoard(progress_console(), sweep, options)
    board.say(cost_text(sweep, needed=requests[0].needed))
    failures = train_with(planned, board, options)
    plan, results_dir = board.sweep.plan, sweep.results_dir
    entries = list_runs(results_dir).entries
    found = [entry for row in trained_runs(plan, entries) for entry in row if entry]
    failed = {failure.trial.label: failure.reason for failure in failures}
    if not found:
        label, reason = next(iter(failed.items()))
        raise CnnbenchError(f"all trials failed; {label}: {reason}")
    runs = RunList(read_run(entry.path) for entry in found)
    return SweepOutcome(read_sweep(plan, results_dir), runs, failed)


def values_texts(values: SweepSpace) -> list[str]:
    """Writes the values of a sweep as on the command line.

    Raises:
      UsageError: a key has a single value, or one that is not plain data.

    >>> values_texts({"train.epochs": [1, 2], "train.batch_size": "uniform(8..64)"})
    ['train.epochs=choice(1,2)', 'train.batch_size=uniform(8..64)']
    """
    if isinstance(values, str):
        return [values]
    if not isinstance(values, Mapping):
        return list(values)
    return [f"{key}={_values_text(key, value)}" for key, value in values.items()]


def _values_text(key: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, Iterable):
        message = f"values: {key}: {value} is a single value"
        raise UsageError(f"{message}; write a list such as [0.01, 0.03], or 'log(0.001..0.1)'.")
    plain = [item.item() if isinstance(item, np.generic) else item for item in value]
    return f"choice({','.join(value_text('values', key, item) for item in plain)})"
