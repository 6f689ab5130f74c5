"""`cnnbench.run`: trains experiments."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from yaml import YAMLError

from cnnbench.api.frames import load_runs
from cnnbench.api.messages import names_parameters
from cnnbench.api.notebook import comparisons_html
from cnnbench.api.selection import flat
from cnnbench.cli.commands.run import check_folders
from cnnbench.cli.console import LegibleConsole
from cnnbench.cli.options import Device, Engine, check_tags, option_overrides
from cnnbench.cli.progress import listening
from cnnbench.comparisons.comparison import compare_groups
from cnnbench.errors import UsageError, or_list, quoted
from cnnbench.runner.run import Request, check_all, run_by_turns
from cnnbench.runs.records import RunResult
from cnnbench.spec.document import inline_text
from cnnbench.spec.shipped import find_named
from cnnbench.system.commands import RESULTS_DIR

if TYPE_CHECKING:
    import pandas as pd


class RunList(tuple[RunResult, ...]):
    """Finished runs, in the order in which they were requested."""

    __slots__ = ()

    def to_frame(self) -> "pd.DataFrame":
        """Returns the learning curves as `load_runs` does: a row per run, seed and epoch.

        Raises:
          UsageError: pandas is not installed, or the list is empty.
        """
        return load_runs(self)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self))}]"

    def _repr_html_(self) -> str:
        return comparisons_html(compare_groups(self), wide=False) if self else "[]"


@names_parameters()
def run(  # noqa: PLR0913 - one parameter per option
    *experiments: str | Path | Iterable[str | Path],
    dataset: str | None = None,
    seeds: int | str | Iterable[int] | None = None,
    epochs: int | None = None,
    overrides: Mapping[str, object] | Sequence[str] = (),
    results_dir: str | Path = "results",
    data_dir: str | Path | None = None,
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto",
    engine: Literal["auto", "plain", "direct", "fast"] | None = None,
    workers: int | None = None,
    tags: str | Iterable[str] = (),
    needed: bool = False,
    tensorboard: bool = False,
    allow_python: bool = False,
    progress: bool = True,
) -> RunList:
    """Trains experiments, as ``cnnbench run`` does, and writes a folder for each.

    Args:
      *experiments: files, or names such as ``"standard"``, one by one or in lists.
      dataset: another dataset than the files say.
      seeds: number of seeds, or the seeds themselves, as in ``[0, 1]`` or ``"0,1"``.
      epochs: number of epochs.
      overrides: other values by dotted path, as in ``{"train.optimizer": "adam"}``, or texts as
        on the command line, as in ``["train.optimizer=adam"]``.
      results_dir: folder of all results.
      data_dir: prepared datasets, or the original files of one; ``TFDS_DATA_DIR`` by default.
      device: where to train.
      engine: algorithms of convolutions and pooling; ``"auto"`` measures once. By default
        ``CNNBENCH_ENGINE``, or ``"auto"``.
      workers: processes that decode the images of a dataset that is streamed; by default one per
        core.
      tags: a name for the runs, or several.
      needed: skip finished experiments and resume interrupted ones.
      tensorboard: also write event files.
      allow_python: import ``model.python`` from anywhere.
      progress: report progress on standard error.

    Returns:
      The runs, in the order of the experiments.

    Raises:
      CnnbenchError: an experiment is invalid, its data are not available, or writing fails.
        Epochs that were trained are kept, also after a KeyboardInterrupt.
    """
    engine_name = engine or os.environ.get("CNNBENCH_ENGINE") or "auto"
    _require_member(Device, "device", device)
    _require_member(Engine, "engine", engine_name)
    names = (tags,) if isinstance(tags, str) else tuple(tags)
    check_tags(names)
    check_folders(None if data_dir is None else Path(data_dir))
    if workers is not None and workers < 1:
        raise UsageError(f"workers: {workers} is not positive; use 1 or more.")
    specs = list(flat(experiments))
    if not specs:
        raise UsageError("experiments: none given; name a file, or 'standard'.")
    count, changes = _seeds_text(seeds), _override_texts(overrides)
    options = {
        "dataset": dataset,
        "seeds": count,
        "epochs": epochs,
        "results-dir": None if Path(results_dir) == RESULTS_DIR else results_dir,
        "data-dir": data_dir,
        "device": None if device == "auto" else device,
        "engine": engine,
        "workers": workers,
    }
    flags = {"needed": needed, "tensorboard": tensorboard, "allow-python": allow_python}
    words = [*map(str, specs), *_words(options, flags, names), *changes]
    make = partial(
        Request,
        overrides=[*option_overrides(count, epochs, dataset), *changes],
        results_dir=Path(results_dir),
        data_dir=Path(folder) if (folder := data_dir or os.environ.get("TFDS_DATA_DIR")) else None,
        device=device,
        engine=engine_name,
        tensorboard=tensorboard,
        command=["cnnbench", "run", *words],
        needed=needed,
        allow_python=allow_python,
        tags=names,
        workers=workers,
    )
    return _train([make(_path(experiment)) for experiment in specs], progress=progress)


def _train(requests: Sequence[Request], *, progress: bool) -> RunList:
    check_all(requests)
    with listening(_console(), len(requests), quiet=not progress, tables=False) as listeners:
        return RunList(run_by_turns(requests, listeners))


def _console() -> LegibleConsole:
    """Standard error; not a terminal in a notebook, where bars would need ipywidgets."""
    if LegibleConsole().is_jupyter:
        return LegibleConsole(stderr=True, force_jupyter=False, force_terminal=False)
    return LegibleConsole(stderr=True)


def _path(experiment: str | Path) -> Path:
    """Finds the file of an experiment.

    Raises:
      UsageError: no experiment has that name.
    """
    named = find_named(experiment) if isinstance(experiment, str) else None
    return named.path if named else Path(experiment)


def _require_member(kind: type[StrEnum], name: str, value: str) -> None:
    if value not in list(kind):
        raise UsageError(f"{name}: {quoted(value)} is not {or_list(kind)}.")


def _seeds_text(seeds: int | str | Iterable[int] | None) -> str | None:
    """Writes seeds as on the command line.

    >>> _seeds_text(6), _seeds_text("6"), _seeds_text([7]), _seeds_text(range(3))
    ('6', '6', '7,', '0,1,2')
    """
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        return None if seeds is None else str(seeds)
    numbers = list(map(str, seeds))
    return ",".join(numbers) + "," * (len(numbers) == 1)


def _override_texts(overrides: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Writes overrides as on the command line.

    Raises:
      UsageError: a value is not plain data.

    >>> _override_texts({"train.optimizer": "adam", "model.conv1.kernel": (3, 5)})
    ['train.optimizer=adam', 'model.conv1.kernel=[3, 5]']
    """
    if not isinstance(overrides, Mapping):
        return [overrides] if isinstance(overrides, str) else list(overrides)
    return [f"{key}={_value_text(key, value)}" for key, value in overrides.items()]


def _value_text(key: str, value: object) -> str:
    try:
        return inline_text(value)
    except YAMLError:
        kind = type(value).__name__
        message = f"overrides: {key}: a value of type {kind} is not plain data"
        raise UsageError(f"{message}; write a number, a string, a list or a dict.") from None


def _words(
    options: Mapping[str, object], flags: Mapping[str, bool], tags: Sequence[str]
) -> Iterator[str]:
    """Yields the options of the command line that trains the same runs."""
    for name, value in options.items():
        if value is not None:
            yield from (f"--{name}", str(value))
    yield from (f"--{name}" for name, given in flags.items() if given)
    for tag in tags:
        yield from ("--tag", tag)
