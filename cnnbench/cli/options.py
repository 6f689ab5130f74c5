"""Words of a command line: experiment files, overrides, and options that commands share."""

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.completion import complete_experiments, complete_metrics, complete_runs
from cnnbench.cli.terminal import tell
from cnnbench.errors import UsageError, quoted
from cnnbench.spec.shipped import find_named

Specs = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC... [KEY=VALUE...]",
        help="Experiment files or names (standard), and values that override theirs, as in"
        " train.epochs=5.",
        show_default=False,
        autocompletion=complete_experiments,
    ),
]

MaybeSpecs = Annotated[list[str] | None, Specs.__metadata__[0]]

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN | NAME[@TAG] | PATH]...",
        help="Runs; the newest experiments that can be compared if left out.",
        show_default=False,
        autocompletion=complete_runs,
    ),
]

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's folder, id or tag, or an experiment's name: its newest finished run.",
        show_default=False,
        autocompletion=complete_runs,
    ),
]

Tags = Annotated[
    list[str] | None,
    typer.Option(
        "--tag",
        help="Name the run, so that NAME@TEXT or TEXT stands for it; can be repeated.",
        metavar="TEXT",
        show_default=False,
    ),
]

All = Annotated[
    bool,
    typer.Option("--all", help="Without RUN: all experiments, in groups that can be compared."),
]

Seed = Annotated[
    int | None, typer.Option(help="Of which seed; the first if left out.", metavar="N")
]

Baseline = Annotated[
    str | None,
    typer.Option(
        help="What the others are judged beside: an experiment's name, a title or a RUN-ID; the"
        " first run if left out. Where no runs are named, the experiment that ran first is first.",
        metavar="NAME|RUN-ID",
        autocompletion=complete_runs,
    ),
]

MetricOption = Annotated[
    str | None,
    typer.Option(
        help="What they are judged by, such as loss or test_accuracy.",
        metavar="NAME",
        autocompletion=complete_metrics,
    ),
]

LEAST_ALPHA, MOST_ALPHA = 0.0001, 0.5

Alpha = Annotated[
    float,
    typer.Option(
        min=LEAST_ALPHA, max=MOST_ALPHA, help="How often chance may be taken for a difference."
    ),
]

MinEffect = Annotated[
    str,
    typer.Option(help="Smaller differences do not matter: 0.1pp, 2% or 0.003.", metavar="SIZE"),
]


class Format(StrEnum):
    """How a result is written; a command's annotation names those that it has."""

    TABLE = "table"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    HTML = "html"
    LATEX = "latex"


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"
    TPU = "tpu"


class Engine(StrEnum):
    """Which algorithms compute convolutions and pooling."""

    AUTO = "auto"
    PLAIN = "plain"
    DIRECT = "direct"
    FAST = "fast"


DeviceOption = Annotated[Device, typer.Option(help="Where to train.")]

EngineOption = Annotated[
    Engine,
    typer.Option(
        help="XLA's convolutions, exact fast ones, or also Winograd's; auto measures once.",
        envvar="CNNBENCH_ENGINE",
    ),
]

ResultsDir = Annotated[Path, typer.Option(help="Where run folders are.", metavar="DIR")]

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Prepared datasets, or the original files of one.",
        metavar="DIR",
        envvar="TFDS_DATA_DIR",
        show_default=False,
    ),
]


def spec_path(word: str) -> Path:
    """The experiment file that a word names; which one a name such as ``standard`` means is told.

    Raises:
      UsageError: no experiment has that name.
    """
    named = find_named(word)
    if named is None:
        return Path(word)  # reading it says what is wrong with it
    tell(str(named))
    return named.path


def split_words(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files and overrides; an existing file whose name has a '=' is a file.

    Raises:
      UsageError: no experiment is named, or one that there is not.
    """
    files = [a for a in arguments if "=" not in a or os.path.exists(a)]  # noqa: PTH110 - Path raises
    paths = [spec_path(a) for a in files]
    overrides = [_text(a) for a in arguments if a not in files]
    if not paths:
        message = "no experiment is named; name a file, or standard, which comes with cnnbench."
        raise UsageError(message)
    return paths, overrides


def _text(argument: str) -> str:
    """UTF-8 whatever the locale: in the C locale Python may escape the bytes of an argument."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def option_overrides(seeds: str | None, epochs: int | None, dataset: str | None) -> list[str]:
    """Options are overrides with names of their own.

    Raises:
      UsageError: the seeds are none.

    >>> option_overrides("0,1", 5, None)
    ['seeds=[0,1]', 'train.epochs=5']
    """
    overrides = []
    if seeds is not None:
        if not _name_seeds(seeds):
            message = f"--seeds: {quoted(seeds)} does not name seeds"
            raise UsageError(
                f"{message}; write a number of them (1 or more), or a list as in 0,1,2."
            )
        overrides.append(f"seeds=[{seeds}]" if "," in seeds else f"seeds={seeds}")
    if epochs is not None:
        overrides.append(f"train.epochs={epochs}")
    if dataset is not None:
        # Sizes and stand-in were meant for the file's dataset.
        overrides += [f"dataset.name={dataset}", "dataset.splits=null", "dataset.offline=null"]
    return overrides


def _name_seeds(text: str) -> bool:
    """Whether a text is a number of seeds, or a list of them.

    >>> [_name_seeds(text) for text in ("3", "0,1", "7,", "0", "-1", "[0]", "")]
    [True, True, True, False, False, False, False]
    """
    numbers = [part.strip() for part in text.removesuffix(",").split(",")]
    are_numbers = all(number.isascii() and number.isdigit() for number in numbers)
    return are_numbers and ("," in text or bool(text.strip("0 ")))


MAX_TAG = 64  # characters


def check_tags(tags: Sequence[str]) -> None:
    """Checks that tags can be written in NAME@TAG.

    Raises:
      UsageError: one cannot.
    """
    for tag in tags:
        if not tag.strip() or tag != tag.strip() or len(tag) > MAX_TAG:
            remedy = f"write 1 to {MAX_TAG} characters, without spaces at the ends"
        elif not tag.isprintable() or {"@", "/", "\\"} & set(tag):
            remedy = "write printable characters but @, / and \\"
        else:
            continue
        raise UsageError(f"--tag: {quoted(tag)} cannot be a tag; {remedy}.")
