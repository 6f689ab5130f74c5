"""Options and arguments that commands share: experiment files, overrides, runs."""

import os
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli.completion import complete_experiments, complete_metrics, complete_runs
from cnnbench.cli.terminal import tell
from cnnbench.errors import UsageError, quoted
from cnnbench.runs.records import TRIAL
from cnnbench.spec.shipped import find_named

if TYPE_CHECKING:
    from cnnbench.comparisons.samples import Pairing

Specs = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC|KEY=VALUE",
        help="Experiment files or names such as standard, and overrides such as train.epochs=5.",
        show_default=False,
        autocompletion=complete_experiments,
    ),
]

MaybeSpecs = Annotated[list[str] | None, Specs.__metadata__[0]]

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN|NAME[@TAG]|PATH",
        help="Runs to compare; default: the newest comparable run of each experiment.",
        show_default=False,
        autocompletion=complete_runs,
    ),
]

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Folder, RUN-ID or tag of a run, or an experiment's name for its newest finished run.",
        show_default=False,
        autocompletion=complete_runs,
    ),
]

Tags = Annotated[
    list[str] | None,
    typer.Option(
        "--tag",
        help="Tag the run, to refer to it as NAME@TEXT or TEXT (repeatable).",
        metavar="TEXT",
        show_default=False,
    ),
]


class TrackerName(StrEnum):
    """Choices of `--track`."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


TrackOption = Annotated[
    list[TrackerName] | None,
    typer.Option(
        "--track",
        help="Also log to a tracker, in local files: --tensorboard, MLflow or W&B (repeatable).",
        show_default=False,
    ),
]


class SamplerName(StrEnum):
    """Choices of `--sampler`."""

    QUASI_RANDOM = "quasi-random"
    OPTUNA = "optuna"


SamplerOption = Annotated[
    SamplerName | None,
    typer.Option(
        "--sampler",
        help="What draws the --trials of a sweep: points that fill the space evenly, the default,"
        " or Optuna, from the results of earlier trials.",
        show_default=False,
    ),
]

All = Annotated[
    bool,
    typer.Option("--all", help="Use all experiments, in groups of comparable runs."),
]

ProcessesOption = Annotated[
    int | None,
    typer.Option(
        help="Processes that train each network together, on disjoint cores; under srun or mpirun,"
        " all that it starts unless this is 1.",
        metavar="N",
        min=1,
        show_default=False,
    ),
]

ShardOption = Annotated[
    str | None,
    typer.Option(
        help="Train one of N equal parts of the seeds, or of the trials of a sweep, such as 1/4;"
        " each machine takes another I.",
        metavar="I/N",
        show_default=False,
    ),
]

OverOption = Annotated[
    str | None,
    typer.Option(
        "--over",
        help="Compare at each value of a key, such as train_examples=1000,2000, epochs, batch_size"
        " or dataset; without values, at all that the runs have.",
        metavar="KEY=VALUE,VALUE",
        show_default=False,
    ),
]

Seed = Annotated[
    int | None, typer.Option(help="Seed whose network is used; default: the first.", metavar="N")
]

Baseline = Annotated[
    str | None,
    typer.Option(
        help="Run that the others are compared with: experiment name, title or RUN-ID. Default:"
        " the first RUN, or without RUN the experiment that ran first.",
        metavar="NAME|RUN-ID",
        autocompletion=complete_runs,
    ),
]

MetricOption = Annotated[
    str | None,
    typer.Option(
        help="Metric to compare, such as loss or test_accuracy.",
        metavar="NAME",
        autocompletion=complete_metrics,
    ),
]

LEAST_ALPHA, MOST_ALPHA = 0.0001, 0.5

Alpha = Annotated[
    float,
    typer.Option(
        metavar="P",
        min=LEAST_ALPHA,
        max=MOST_ALPHA,
        help="Significance level (false-positive rate).",
    ),
]


class SeedTest(StrEnum):
    """Tests over seeds."""

    UNPAIRED = "unpaired"
    PAIRED = "paired"


TestOption = Annotated[
    SeedTest | None,
    typer.Option(
        "--test",
        help="Test of the metric: a permutation test of the seeds of both runs, or a sign-flip test"
        " of the differences of equal seeds. Default: unpaired; folds and by_seed have their own.",
        show_default=False,
    ),
]


def test_name(test: SeedTest | None) -> "Pairing | None":
    """Returns the test as criteria name it."""
    return None if test is None else test.value


MinEffect = Annotated[
    str,
    typer.Option(help="Smallest difference that matters: 0.1pp, 2% or 0.003.", metavar="SIZE"),
]


Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print every timing warning in full.")
]


class Format(StrEnum):
    """Output formats; each command annotates those that it supports."""

    TABLE = "table"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    HTML = "html"
    LATEX = "latex"


class Device(StrEnum):
    """Kinds of devices."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"
    TPU = "tpu"


class Engine(StrEnum):
    """Algorithms for convolutions and pooling."""

    AUTO = "auto"
    PLAIN = "plain"
    WHOLE = "whole"
    ONEDNN = "onednn"
    WINOGRAD = "winograd"
    DIRECT = "direct"
    FAST = "fast"


DeviceOption = Annotated[Device, typer.Option(help="Device to train on.")]

EngineOption = Annotated[
    Engine,
    typer.Option(
        help="Convolution algorithms: XLA's (plain), or with other gradients (whole), oneDNN's"
        " (onednn), or also Winograd's in C (winograd); in micro-batches, im2col and matmul"
        " (direct), or also Winograd's (fast). auto chooses by estimated cost, or times them"
        " once.",
        envvar="CNNBENCH_ENGINE",
    ),
]

OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        help="Train several seeds at a time in worker processes: local, or local:N for N of them,"
        " each on cores of its own (or a GPU). ray, or ray:N, for workers on the Ray cluster"
        " of RAY_ADDRESS. Or submit a job array of N tasks: slurm, slurm:N.",
        metavar="local[:N]|ray[:N]|slurm[:N]",
        show_default=False,
    ),
]

SbatchOption = Annotated[
    str,
    typer.Option(
        "--sbatch",
        help="Options of sbatch for --on slurm, such as '--time=2:00:00 --gres=gpu:1'.",
        metavar="OPTIONS",
        show_default=False,
    ),
]

CoresOption = Annotated[
    int | None,
    typer.Option(
        "--cores",
        min=1,
        help="Restrict the command, with all of its threads and processes, to N cores, which no"
        " other command with this option uses if there are enough.",
        metavar="N",
        show_default=False,
    ),
]

CpusOption = Annotated[
    int | None,
    typer.Option("--cpus", min=1, help="Cores of a worker on Ray; 1 by default.", metavar="N"),
]

GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus",
        min=0,
        help="GPUs of a worker on Ray, or a fraction of one; 0 by default.",
        metavar="N",
    ),
]

AllowPython = Annotated[
    bool,
    typer.Option(
        "--allow-python",
        help="Import model.python even if it is neither installed nor next to the file.",
    ),
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")]

ResultsDir = Annotated[Path, typer.Option(help="Folder of all runs.", metavar="DIR")]

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of prepared datasets, or of the original files of one.",
        metavar="DIR",
        envvar="TFDS_DATA_DIR",
        show_default=False,
    ),
]


def spec_path(word: str) -> Path:
    """Returns the experiment file of a path, or of a name such as ``standard`` and prints it.

    Raises:
      UsageError: no experiment has that name.
    """
    named = find_named(word)
    if named is None:
        return Path(word)  # reading it reports what is wrong
    tell(str(named))
    return named.path


def split_words(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Splits arguments into files and overrides; an existing file with a '=' is a file.

    Raises:
      UsageError: no experiment is given, or one does not exist.
    """
    _refuse_spaces(arguments)
    files = [a for a in arguments if "=" not in a or os.path.exists(a)]  # noqa: PTH110 - Path raises
    paths = [spec_path(a) for a in files]
    overrides = [_text(a) for a in arguments if a not in files]
    if not paths:
        raise UsageError("no experiment given; specify a file, or a built-in one such as standard.")
    return paths, overrides


def _refuse_spaces(arguments: Sequence[str]) -> None:
    """Refuses `KEY=1, 2`, which a shell splits."""
    for word, following in pairwise(arguments):
        if "=" in word and word.endswith(","):
            message = f"{word} {following}: has a space after the comma"
            raise UsageError(f"{message}; write {word}{following}.")


def _text(argument: str) -> str:
    """Decodes an argument as UTF-8; in the C locale Python may have escaped its bytes."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def option_overrides(seeds: str | None, epochs: int | None, dataset: str | None) -> list[str]:
    """Turns options into overrides.

    Raises:
      UsageError: `seeds` is neither a positive integer nor a list.

    >>> option_overrides("0,1", 5, None)
    ['seeds=[0,1]', 'train.epochs=5']
    """
    overrides = []
    if seeds is not None:
        if not _name_seeds(seeds):
            message = f"--seeds: {quoted(seeds)} is neither a positive integer nor a list of seeds"
            raise UsageError(f"{message}; write, for example, 6 or 0,1,2.")
        overrides.append(f"seeds=[{seeds}]" if "," in seeds else f"seeds={seeds}")
    if epochs is not None:
        overrides.append(f"train.epochs={epochs}")
    if dataset is not None:
        # Split sizes and the offline stand-in belong to the dataset of the file.
        overrides += [f"dataset.name={dataset}", "dataset.splits=null", "dataset.offline=null"]
    return overrides


def _name_seeds(text: str) -> bool:
    """Returns True if a text is a number of seeds or a list of seeds.

    >>> [_name_seeds(text) for text in ("3", "0,1", "7,", "0", "-1", "[0]", "")]
    [True, True, True, False, False, False, False]
    """
    numbers = [part.strip() for part in text.removesuffix(",").split(",")]
    are_numbers = all(number.isascii() and number.isdigit() for number in numbers)
    return are_numbers and ("," in text or bool(text.strip("0 ")))


MAX_TAG = 64  # characters


def check_tags(tags: Sequence[str]) -> None:
    """Checks that tags can be written as in NAME@TAG.

    Raises:
      UsageError: a tag is invalid.
    """
    for tag in tags:
        if not tag.strip() or tag != tag.strip() or len(tag) > MAX_TAG:
            remedy = f"write 1 to {MAX_TAG} characters without leading or trailing spaces"
        elif tag == TRIAL:
            raise UsageError(f"--tag: '{TRIAL}' marks the trials of --tune; write another tag.")
        elif not tag.isprintable() or {"@", "/", "\\"} & set(tag):
            remedy = "write printable characters except @, / and \\"
        else:
            continue
        raise UsageError(f"--tag: {quoted(tag)} is not a valid tag; {remedy}.")
