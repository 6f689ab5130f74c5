"""Runs and comparisons as pandas DataFrames."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.api.messages import names_parameters, warn_all
from cnnbench.api.selection import RunLike, named_runs, read_runs
from cnnbench.errors import StoreError, UsageError
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import EpochRecord, RunResult, SeedSummary
from cnnbench.system import commands

if TYPE_CHECKING:
    import pandas as pd

FrameRow = Mapping[str, object]
_RUN = ("run_id", "name", "title", "tags", "status", "task", "dataset", "device", "num_params")
_EPOCH = ("seed", "epoch", "train_loss", "validation_loss")
_SPEED = ("train_s", "eval_s", "samples_per_s")


@names_parameters()
def load_runs(
    *runs: RunLike | Iterable[RunLike], results_dir: str | Path = "results"
) -> "pd.DataFrame":
    """Loads the learning curves of runs in long format: one row per run, seed and epoch.

    Args:
      *runs: names, tags, RUN-IDs or folders, as on the command line, or results of `run`; all
        runs in `results_dir` by default, also unfinished ones.
      results_dir: folder of all results.

    Returns:
      The columns `run_id`, `name`, `title`, `tags`, `status`, `task`, `dataset`, `device` (the
      hardware that trained the seed), `num_params`, `seed`, `epoch`, `train_loss`,
      `validation_loss` and a `validation_` column for each other metric, `train_s` and `eval_s`
      (seconds), `samples_per_s` (training images per second), and a `test_` column for each metric.
      Accuracies are fractions of 1. A value that was not measured is NaN; `test_` values are on the
      row of the epoch whose weights were tested: the last of a seed, unless `restore_best` chose
      another.

    Raises:
      UsageError: pandas is not installed, a run is not found, or the arguments are empty.
      CnnbenchError: there are no runs, or one cannot be read.
    """
    pandas = require_pandas("load_runs")
    folder = Path(results_dir)
    items = named_runs(runs, "call load_runs() without runs to use all")
    found, texts = read_runs(items, folder) if items else _all_runs(folder)
    warn_all(texts)
    records = [record for run in found for record in _records(run)]
    return pandas.DataFrame.from_records(records, columns=_columns(records))


def require_pandas(caller: str) -> Any:
    """Imports pandas.

    Args:
      caller: name of the function that needs it, for the message.

    Raises:
      UsageError: it is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        install = commands.pip_install("cnnbench[pandas]")
        message = f"{caller}: the package 'pandas' is not installed; run {install}."
        raise UsageError(message) from None
    return pd


def _all_runs(results_dir: Path) -> tuple[Sequence[RunResult], Sequence[str]]:
    listing = list_runs(results_dir)
    if not listing.entries:
        start = commands.cnnbench("run", "standard", *commands.results_dir_option(results_dir))
        reasons = "".join(f"\n{text}" for text in listing.warnings)
        raise StoreError(
            f"results_dir: no runs in '{results_dir}'; start one with: {start}{reasons}"
        )
    return [read_run(entry.path) for entry in listing.entries], listing.warnings


def _records(run: RunResult) -> Iterator[FrameRow]:
    """Yields a record for each seed and epoch, in the order of the seeds."""
    record, summary = run.record, run.summary
    first = (
        record.run_id,
        record.name,
        record.title,
        ", ".join(record.tags),
        str(record.status),
        record.task,
        record.dataset.name,
        record.environment.machine.model,
        summary.num_params if summary else math.nan,
    )
    ends = {seed.seed: seed for seed in summary.seeds} if summary else {}
    for seed in record.seeds:
        epochs = [epoch for epoch in run.epochs if epoch.seed == seed]
        ended = ends.get(seed)
        tested = (ended and ended.chosen_epoch) or (epochs[-1].epoch if epochs else 0)
        for epoch in epochs:
            own = {
                **dict(zip(_RUN, first, strict=True)),
                **_trained(ended),
                **_measured(epoch),
            }
            yield {**own, **(_tested(ended) if epoch.epoch == tested else {})}


def _trained(seed: SeedSummary | None) -> FrameRow:
    """What trained a finished seed, which may not be what started its run."""
    return {"device": seed.machine.model} if seed and seed.machine else {}


def _measured(epoch: EpochRecord) -> FrameRow:
    loss = math.nan if epoch.validation_loss is None else epoch.validation_loss
    return {
        "seed": epoch.seed,
        "epoch": epoch.epoch,
        "train_loss": epoch.train_loss,
        "validation_loss": loss,
        **{f"validation_{name}": value for name, value in epoch.metrics.items()},
        **{name: getattr(epoch, name) for name in _SPEED},
    }


def _tested(seed: SeedSummary | None) -> FrameRow:
    return {f"test_{name}": value for name, value in seed.test.items()} if seed else {}


def _columns(records: Iterable[FrameRow]) -> list[str]:
    """All keys: of the run, the epoch, further validation metrics, speed, test metrics."""
    names = dict.fromkeys(name for record in records for name in record)
    known = {*_RUN, *_EPOCH, *_SPEED}
    others = [name for name in names if name not in known]
    validation = [name for name in others if name.startswith("validation_")]
    test = [name for name in others if name not in validation]
    return [*_RUN, *_EPOCH, *validation, *_SPEED, *test]
