"""``cnnbench run``: trains experiments and prints a table of accuracy and time."""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cnnbench.cli.commands.show import show_layers
from cnnbench.cli.completion import complete_datasets, complete_runs
from cnnbench.cli.options import (
    DataDir,
    Device,
    DeviceOption,
    Engine,
    EngineOption,
    MaybeSpecs,
    ResultsDir,
    Tags,
    check_tags,
    option_overrides,
    split_words,
)
from cnnbench.cli.progress import listening
from cnnbench.cli.terminal import print_document, stderr, stdout, tell, warn
from cnnbench.comparisons.comparison import compare_groups
from cnnbench.errors import UsageError
from cnnbench.formatting import epochs_text
from cnnbench.graph.widen import MatchedSize
from cnnbench.report.comparison import terminal_table
from cnnbench.report.csv_json import json_text
from cnnbench.runner.match_size import with_match
from cnnbench.runner.run import Request, check_all, run_by_turns
from cnnbench.runs.find import find_newest, find_unfinished
from cnnbench.runs.folder import RESOLVED_FILE, read_run, read_run_entry
from cnnbench.runs.records import RunResult
from cnnbench.system.signals import handle_signals
from cnnbench.training.resume import require_epochs


class Match(StrEnum):
    """What a widened copy has as much of as the largest other."""

    PARAMS = "params"
    FLOPS = "flops"


def run(  # noqa: PLR0913, PLR0917 - one parameter per option
    specs: MaybeSpecs = None,
    seeds: Annotated[
        str | None, typer.Option(help="A number of seeds, or a list as in 0,1,2.", metavar="N|LIST")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", metavar="N")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Train on another dataset.", metavar="NAME", autocompletion=complete_datasets
        ),
    ] = None,
    device: DeviceOption = Device.AUTO,
    engine: EngineOption = Engine.AUTO,
    match: Annotated[
        Match | None,
        typer.Option(
            help="Also run the first, widened to the parameters (or flops) of the largest other.",
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Trace the first epoch for XProf, TensorBoard or Perfetto; it takes longer then.",
            metavar="DIR",
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Also write event files: tensorboard --logdir results shows all runs.",
        ),
    ] = False,
    resume: Annotated[
        list[str] | None,
        typer.Option(
            help="Resume a run that was stopped; with --epochs, also train a finished one further."
            " Can be repeated.",
            metavar="RUN",
            autocompletion=complete_runs,
        ),
    ] = None,
    needed: Annotated[
        bool,
        typer.Option(
            "--needed", help="Train only what is not done yet, and go on with what was stopped."
        ),
    ] = False,
    allow_python: Annotated[
        bool,
        typer.Option(
            "--allow-python",
            help="Import model.python from anywhere, not only if installed or beside the file.",
        ),
    ] = False,
    tag: Tags = None,
    results_dir: ResultsDir = Path("results"),
    data_dir: DataDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show; train nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, only results.")
    ] = False,
) -> None:
    """Train each experiment and end with a table of accuracy and time."""
    known = data_dir is None or str(data_dir) == os.environ.get("TFDS_DATA_DIR")
    if not (known or os.path.isdir(str(data_dir))):  # noqa: PTH112 - Path raises for a long name
        raise UsageError(f"--data-dir: there is no folder '{data_dir}'; name an existing one.")
    if profile is not None and os.path.exists(profile) and not os.path.isdir(profile):  # noqa: PTH110, PTH112
        raise UsageError(f"--profile: '{profile}' is no folder; name a new one.")
    check_tags(tag or ())
    given = option_overrides(seeds, epochs, dataset)
    make = partial(
        Request,
        results_dir=results_dir,
        data_dir=data_dir,
        device=device.value,
        engine=engine.value,
        profile=profile,
        tensorboard=tensorboard,
        allow_python=allow_python,
        tags=tag or (),
        command=["cnnbench", *sys.argv[1:]],
    )
    if resume:
        words = [*option_overrides(seeds, epochs, dataset), *(specs or ())]
        requests = _resumed(make, resume, words)
    else:
        paths, overrides = split_words(specs or ())
        # An option speaks of the file; what is written beside it may say more.
        requests = [make(path, given + overrides, needed=needed) for path in paths]
    if match:
        requests = with_match(requests, MatchedSize(match.value), tell)
    if dry_run:
        _dry_run(requests)
        return
    results: list[RunResult] = []
    try:
        with handle_signals():
            _run_all(requests, results, quiet=quiet)
    finally:
        _print_results(results, json=json)


def _resumed(make: partial[Request], runs: Sequence[str], words: Sequence[str]) -> list[Request]:
    """Runs that go on as they were begun, or to another number of epochs."""
    epochs = [word for word in words if word.startswith("train.epochs=")]
    if others := [word for word in words if word not in epochs]:
        message = f"--resume: a run goes on as it was begun, so '{others[0]}' cannot be set"
        raise UsageError(f"{message}; leave it out, or train from scratch without --resume.")
    find = find_newest if epochs or make.keywords["tags"] else find_unfinished
    found = [find(run, make.keywords["results_dir"]) for run in runs]
    warn(list(dict.fromkeys(warning for _, warnings in found for warning in warnings)))
    folders = dict.fromkeys(folder for folder, _ in found)  # each once, however it is named
    return [
        make(
            folder / RESOLVED_FILE,
            epochs or read_run_entry(folder).record.overrides,
            resume=folder,
        )
        for folder in folders
    ]


def _run_all(requests: Sequence[Request], results: list[RunResult], *, quiet: bool) -> None:
    check_all(requests)
    with listening(stderr(), len(requests), quiet=quiet) as listeners:
        results[:] = run_by_turns(requests, listeners, results.append)


def _print_results(results: Sequence[RunResult], *, json: bool) -> None:
    if not results:
        return
    comparisons = compare_groups(results)
    if json:
        print_document(json_text(comparisons), "json")
    else:
        stdout().print(terminal_table(comparisons, wide=False))


def _dry_run(requests: Sequence[Any]) -> None:
    first = None
    for request in requests:
        loaded, _ = show_layers(
            request.path,
            request.overrides,
            request.data_dir,
            first,
            allow_python=request.allow_python,
        )
        if request.resume:
            require_epochs(read_run(request.resume), request.resume, loaded.experiment)
        first, experiment, train = first or loaded, loaded.experiment, loaded.experiment.train
        tell(
            f"would train {epochs_text(train.epochs)} in batches of {train.batch_size} on"
            f" {experiment.dataset.name}, seeds {', '.join(map(str, experiment.seeds))}",
            err=False,
        )
