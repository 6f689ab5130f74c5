"""What `run` and `tune` train: their parameters as requests and as a command line."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from yaml import YAMLError

from cnnbench.api.selection import flat
from cnnbench.cli.commands.run import check_folders
from cnnbench.cli.console import LegibleConsole
from cnnbench.cli.options import Device, Engine, check_tags, option_overrides
from cnnbench.errors import UsageError, or_list, quoted
from cnnbench.runner.run import Request
from cnnbench.spec.document import inline_text
from cnnbench.spec.shipped import find_named
from cnnbench.system.commands import RESULTS_DIR

Experiments: TypeAlias = str | Path | Iterable[str | Path]
Overrides: TypeAlias = Mapping[str, object] | Sequence[str]
DeviceChoice: TypeAlias = Literal["auto", "cpu", "gpu", "tpu"]
EngineChoice: TypeAlias = Literal["auto", "plain", "whole", "onednn", "winograd", "direct", "fast"]


class Training(NamedTuple):
    """Parameters of `run`, and of the other functions that train."""

    dataset: str | None
    seeds: int | str | Iterable[int] | None
    epochs: int | None
    overrides: Overrides
    results_dir: str | Path
    data_dir: str | Path | None
    device: str
    engine: str | None
    workers: int | None
    tags: str | Iterable[str]
    needed: bool
    tensorboard: bool
    allow_python: bool


def requests_of(
    experiments: Iterable[Experiments], training: Training, words: Sequence[str] = ()
) -> list[Request]:
    """Makes a request for each experiment.

    Args:
      experiments: files and names.
      training: how they are trained.
      words: further options of the command line that trains the same runs.

    Raises:
      UsageError: a parameter is invalid.
    """
    engine_name = training.engine or os.environ.get("CNNBENCH_ENGINE") or "auto"
    require_member(Device, "device", training.device)
    require_member(Engine, "engine", engine_name)
    names = (training.tags,) if isinstance(training.tags, str) else tuple(training.tags)
    check_tags(names)
    folder = training.data_dir
    check_folders(None if folder is None else Path(folder))
    if training.workers is not None and training.workers < 1:
        raise UsageError(f"workers: {training.workers} is not positive; use 1 or more.")
    specs = list(flat(experiments))
    if not specs:
        raise UsageError("experiments: none given; name a file, or 'standard'.")
    seeds, changes = seeds_text(training.seeds), override_texts(training.overrides)
    own = [*_words(training, seeds, names), *words]
    found = folder or os.environ.get("TFDS_DATA_DIR")
    make = partial(
        Request,
        overrides=[*option_overrides(seeds, training.epochs, training.dataset), *changes],
        results_dir=Path(training.results_dir),
        data_dir=Path(found) if found else None,
        device=training.device,
        engine=engine_name,
        tensorboard=training.tensorboard,
        command=["cnnbench", "run", *map(str, specs), *own, *changes],
        needed=training.needed,
        allow_python=training.allow_python,
        tags=names,
        workers=training.workers,
    )
    return [make(_path(experiment)) for experiment in specs]


def progress_console() -> LegibleConsole:
    """Standard error; not a terminal in a notebook, where bars would need ipywidgets."""
    if LegibleConsole().is_jupyter:
        return LegibleConsole(stderr=True, force_jupyter=False, force_terminal=False)
    return LegibleConsole(stderr=True)


def criteria_options(alpha: float, min_effect: str, test: str | None) -> dict[str, object]:
    """The options of a command line that are not the defaults of verdicts.

    >>> criteria_options(0.05, "0", None), criteria_options(0.01, "0", "paired")
    ({'alpha': None, 'min-effect': None, 'test': None}, \
{'alpha': 0.01, 'min-effect': None, 'test': 'paired'})
    """
    return {
        "alpha": None if alpha == 0.05 else alpha,
        "min-effect": None if min_effect == "0" else min_effect,
        "test": test,
    }


def option_words(options: Mapping[str, object]) -> list[str]:
    """The options of a command line that are set: values, flags and lists.

    >>> option_words({"looks": "5,10", "anytime": True, "over": None, "tag": ["a", "b"]})
    ['--looks', '5,10', '--anytime', '--tag', 'a', '--tag', 'b']
    """
    return list(_option_words(options))


def _option_words(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        if value is None or value is False:
            continue
        if value is True:
            yield f"--{name}"
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            yield from (f"--{name}", str(each))


def _words(training: Training, seeds: str | None, tags: Sequence[str]) -> list[str]:
    """The options of the command line that trains the same runs."""
    results_dir = training.results_dir
    return option_words(
        {
            "dataset": training.dataset,
            "seeds": seeds,
            "epochs": training.epochs,
            "results-dir": None if Path(results_dir) == RESULTS_DIR else results_dir,
            "data-dir": training.data_dir,
            "device": None if training.device == "auto" else training.device,
            "engine": training.engine,
            "workers": training.workers,
            "needed": training.needed,
            "tensorboard": training.tensorboard,
            "allow-python": training.allow_python,
            "tag": list(tags),
        }
    )


def _path(experiment: str | Path) -> Path:
    """Finds the file of an experiment.

    Raises:
      UsageError: no experiment has that name.
    """
    named = find_named(experiment) if isinstance(experiment, str) else None
    return named.path if named else Path(experiment)


def require_member(kind: type[StrEnum], name: str, value: str) -> None:
    """Checks a choice.

    Raises:
      UsageError: there is no such choice.
    """
    if value not in list(kind):
        raise UsageError(f"{name}: {quoted(value)} is not {or_list(kind)}.")


def seeds_text(seeds: int | str | Iterable[int] | None) -> str | None:
    """Writes seeds as on the command line.

    >>> seeds_text(6), seeds_text("6"), seeds_text([7]), seeds_text(range(3))
    ('6', '6', '7,', '0,1,2')
    """
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        return None if seeds is None else str(seeds)
    numbers = list(map(str, seeds))
    return ",".join(numbers) + "," * (len(numbers) == 1)


def list_text(values: str | Iterable[object] | None) -> str | None:
    """Writes a list as on the command line.

    >>> list_text((5, 10)), list_text("5,10"), list_text(None)
    ('5,10', '5,10', None)
    """
    return values if isinstance(values, str | None) else ",".join(map(str, values))


def over_text(over: str | Mapping[str, Iterable[object]] | None) -> str | None:
    """Writes a key and its values as on the command line.

    Raises:
      UsageError: there are several keys, or a value is not plain data.

    >>> over_text({"train_examples": [1000, 2000]}), over_text("epochs")
    ('train_examples=1000,2000', 'epochs')
    """
    if not isinstance(over, Mapping):
        return over
    if len(over) != 1:
        names = ", ".join(over) or "none"
        raise UsageError(f"over: {len(over)} keys ({names}); name one, with its values.")
    ((key, values),) = over.items()
    return f"{key}={','.join(value_text('over', key, value) for value in values)}"


def override_texts(overrides: Overrides) -> list[str]:
    """Writes overrides as on the command line.

    Raises:
      UsageError: a value is not plain data.

    >>> override_texts({"train.optimizer": "adam", "model.conv1.kernel": (3, 5)})
    ['train.optimizer=adam', 'model.conv1.kernel=[3, 5]']
    """
    if not isinstance(overrides, Mapping):
        return [overrides] if isinstance(overrides, str) else list(overrides)
    return [f"{key}={value_text('overrides', key, value)}" for key, value in overrides.items()]


def value_text(parameter: str, key: str, value: object) -> str:
    """Writes a value as on the command line.

    Raises:
      UsageError: it is not plain data.
    """
    try:
        return inline_text(value)
    except YAMLError:
        kind = type(value).__name__
        message = f"{parameter}: {key}: a value of type {kind} is not plain data"
        raise UsageError(f"{message}; write a number, a string, a list or a dict.") from None
