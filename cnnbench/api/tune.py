"""`cnnbench.tune`: equal tuning for every experiment, and verdicts as written and at their best."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.api.compare import ComparisonResult
from cnnbench.api.criteria import require_alpha, require_test
from cnnbench.api.frames import require_pandas
from cnnbench.api.messages import names_parameters
from cnnbench.api.notebook import tuning_html
from cnnbench.api.requests import (
    DeviceChoice,
    EngineChoice,
    Experiments,
    Overrides,
    Training,
    criteria_options,
    list_text,
    option_words,
    progress_console,
    requests_of,
)
from cnnbench.api.run import RunList
from cnnbench.api.selection import number_text, printed
from cnnbench.cli.looks import check_criteria, check_seed_test
from cnnbench.cli.tuned_text import json_tuning, terminal_tuning, trial_lines
from cnnbench.cli.tuning import TuneDisplay, train_tuned
from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.samples import Pairing
from cnnbench.comparisons.tuning import TunedComparison
from cnnbench.comparisons.verdict import Criteria
from cnnbench.comparisons.verdict_text import parse_effect
from cnnbench.errors import UsageError
from cnnbench.runner.run import check_all
from cnnbench.runner.tuning import plan_tuning

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class TunedResult:
    """Experiments that were tuned with equal budgets.

    Args:
      tuned: the trials and the verdicts.
      runs: the runs that were compared: as written, then those that are better with other values.
    """

    tuned: TunedComparison
    runs: RunList

    @property
    def headlines(self) -> tuple[str, ...]:
        """Sentences on the findings that tuning changes; empty if it changes none."""
        return self.tuned.headlines

    @property
    def best(self) -> dict[str, tuple[str, ...]]:
        """The overrides of the best trial of each experiment; without those that all diverged."""
        arms = self.tuned.tuning.arms
        return {arm.label: arm.best.overrides for arm in arms if arm.best}

    @property
    def as_written(self) -> ComparisonResult | None:
        """The verdict on the experiments as written; None for a single experiment."""
        return _result(self.tuned.written)

    @property
    def at_best(self) -> ComparisonResult | None:
        """The verdict on each at its own best; None if all are best as written."""
        return _result(self.tuned.best)

    def to_frame(self) -> "pd.DataFrame":
        """Returns a row for each trial and seed.

        Raises:
          UsageError: pandas is not installed.
        """
        return require_pandas("to_frame").DataFrame(trial_lines(self.tuned.tuning))

    def to_json(self) -> str:
        """Returns what ``run --tune --json`` prints."""
        return json_tuning(self.tuned)

    def __str__(self) -> str:
        return printed(terminal_tuning(self.tuned))

    def __repr__(self) -> str:
        best = "; ".join(f"{label}: {' '.join(own)}" for label, own in self.best.items())
        return f"<TunedResult: {best}>"

    def _repr_html_(self) -> str:
        return tuning_html(self.tuned)


def _result(comparison: Comparison | None) -> ComparisonResult | None:
    return None if comparison is None else ComparisonResult(comparison)


@names_parameters()
def tune(  # noqa: PLR0913 - one parameter per option
    *experiments: Experiments,
    keys: str | Mapping[str, Iterable[object]] | Iterable[str],
    trials: int | None = None,
    tune_seeds: int = 2,
    alpha: float = 0.05,
    min_effect: float | str = 0,
    test: Pairing | None = None,
    dataset: str | None = None,
    seeds: int | str | Iterable[int] | None = None,
    epochs: int | None = None,
    overrides: Overrides = (),
    results_dir: str | Path = "results",
    data_dir: str | Path | None = None,
    device: DeviceChoice = "auto",
    engine: EngineChoice | None = None,
    workers: int | None = None,
    tags: str | Iterable[str] = (),
    allow_python: bool = False,
    progress: bool = True,
) -> TunedResult:
    """Tunes experiments with equal budgets, as ``cnnbench run --tune`` does, and compares them.

    Finished trials are not repeated, so the same call continues after an interrupt.

    Args:
      *experiments: files, or names such as ``"standard"``, one by one or in lists.
      keys: ``"learning_rate"``, for 0.1, 0.3, 1, 3 and 10 times the value of each file; with points
        as on the command line (``"learning_rate=x0.3:x1:x3"``), or values for all experiments,
        ``{"weight_decay": [0, 1e-4]}``; or several.
      trials: number of trials of each experiment, spread over the combinations; all by default.
      tune_seeds: seeds of each trial, from 1000, which no verdict uses.
      alpha: significance level of the verdicts, as in `compare`.
      min_effect: the smallest difference that matters.
      test: the test of the verdicts.
      dataset: as in `run`, and so are the others.
      seeds: seeds of the verdicts.
      epochs: number of epochs, of trials and verdicts.
      overrides: other values by dotted path.
      results_dir: folder of all results.
      data_dir: prepared datasets.
      device: where to train.
      engine: algorithms of convolutions and pooling.
      workers: processes that decode the images of a dataset that is streamed.
      tags: a name for the runs that are compared, or several.
      allow_python: import ``model.python`` from anywhere.
      progress: report progress on standard error.

    Raises:
      CnnbenchError: the space or an experiment is invalid, or a run cannot be trained.
    """
    require_alpha(alpha)
    require_test(test)
    texts = _key_texts(keys)
    training = Training(
        dataset,
        seeds,
        epochs,
        overrides,
        results_dir,
        data_dir,
        device,
        engine,
        workers,
        tags,
        needed=False,
        tensorboard=False,
        allow_python=allow_python,
    )
    for name, value in (("trials", trials), ("tune_seeds", tune_seeds)):
        if value is not None and value < 1:
            raise UsageError(f"{name}: {value} is not positive; use 1 or more.")
    effect = number_text(min_effect)
    number = None if tune_seeds == 2 else tune_seeds
    options = {
        "tune": texts,
        "trials": trials,
        "tune-seeds": number,
        **criteria_options(alpha, effect, test),
    }
    requests = requests_of(experiments, training, option_words(options))
    criteria = Criteria(alpha=alpha, min_effect=parse_effect(effect), test=test)
    check_criteria(requests, criteria)
    check_seed_test(test, requests)
    plan = plan_tuning(requests, texts, trials, tune_seeds)
    check_all(requests)
    display = TuneDisplay(None, json=False, quiet=not progress, verbose=False, tables=False)
    trained = train_tuned(plan, criteria, progress_console(), display)
    return TunedResult(trained.found, RunList(trained.runs))


def _key_texts(keys: str | Mapping[str, Iterable[object]] | Iterable[str]) -> list[str]:
    """Writes keys as on the command line.

    Raises:
      UsageError: there are none.

    >>> _key_texts({"weight_decay": [0, 1e-4], "train.optimizer": "sgd:adam"})
    ['weight_decay=0:0.0001', 'train.optimizer=sgd:adam']
    """
    if not keys:
        raise UsageError("keys: none given; name what to tune, such as 'learning_rate'.")
    if isinstance(keys, str):
        return [keys]
    if not isinstance(keys, Mapping):
        return list(keys)
    return [f"{key}={(list_text(values) or '').replace(',', ':')}" for key, values in keys.items()]
