"""``cnnbench run --tune``: trials with progress, then both verdicts."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cnnbench.cli.progress import Board, Lines, Silent, TrialBars, listening
from cnnbench.cli.terminal import continued_by, print_document, stderr, stdout, tell
from cnnbench.cli.tuned_text import json_tuning, terminal_tuning, trial_line
from cnnbench.comparisons.comparability import TEST
from cnnbench.comparisons.comparison import JUDGED
from cnnbench.comparisons.tuning import Trial, TunedComparison
from cnnbench.comparisons.verdict import Criteria
from cnnbench.comparisons.verdict_text import criteria_words
from cnnbench.errors import UsageError
from cnnbench.report.columns import TableOptions
from cnnbench.runner.distributed import run_requests
from cnnbench.runner.run import Request, check_all
from cnnbench.runner.tuning import (
    TuningPlan,
    judge_tuned,
    plan_tuning,
    run_trials,
    verdict_requests,
)
from cnnbench.runs.folder import RunFolder
from cnnbench.system import commands
from cnnbench.system.signals import handle_signals

if TYPE_CHECKING:
    from rich.console import Console

    from cnnbench.runs.records import RunResult


PICTURE = "tuning.svg"


@contextmanager
def trial_listening(
    console: "Console", title: str, *, quiet: bool, verbose: bool
) -> Iterator[Silent]:
    """Makes the listener of a trial; its bar is removed at the end.

    Args:
      console: where progress is printed.
      title: what the trial is.
      quiet: print notes only.
      verbose: print a line per epoch.
    """
    if quiet or not (verbose or console.is_terminal):
        yield Silent(console)
        return
    if verbose:
        yield Lines(console, several=True, tables=False, verbose=True)
        return
    bars = TrialBars(Board(console), title)
    try:
        yield bars
    finally:
        bars.close()


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """Options of the command.

    Args:
      keys: the values of ``--tune``.
      trials: number of trials of each experiment; None for all points.
      seeds: seeds of each trial.
      others: values of options that cannot be combined with ``--tune``, by name.
      criteria: settings of the verdicts.
    """

    keys: Sequence[str]
    trials: int | None
    seeds: int | None
    others: Mapping[str, object]
    criteria: Criteria = JUDGED


@dataclass(frozen=True, slots=True)
class TuneDisplay:
    """What the command prints.

    Args:
      dry_run: shows the experiments of a command that trains nothing; None to train.
      json: print JSON.
      quiet: print no progress.
      verbose: print every epoch.
      tables: print the layers of each network.
    """

    dry_run: Callable[[], None] | None
    json: bool
    quiet: bool
    verbose: bool
    tables: bool = True


SEEDS = 2  # of each trial
_REMEDIES = {
    "resume": "run the command of the tuning again, which continues where it stopped",
    "metric": "trials and verdicts use the first of train.metrics",
}


def tune_experiments(
    requests: Sequence[Request], options: TuneOptions, display: TuneDisplay
) -> None:
    """Tunes experiments, trains the verdicts, and prints them.

    Args:
      requests: the experiments.
      options: what is tuned.
      display: what is printed.

    Raises:
      UsageError: options or space are not valid.
      CnnbenchError: a run cannot be trained, or the experiments cannot be compared.
    """
    _check(options)
    plan = plan_tuning(requests, options.keys, options.trials, options.seeds or SEEDS)
    if display.dry_run:
        display.dry_run()
        _show_plan(plan)
        return
    check_all(requests)
    with continued_by(commands.command_line(requests[0].command)), handle_signals():
        tuned = train_tuned(plan, options.criteria, stderr(), display)
    _print(tuned, options.criteria, display)


def _check(options: TuneOptions) -> None:
    if not options.keys:
        name = "--trials" if options.trials is not None else "--tune-seeds"
        or_values = " or several values of a key" if options.trials is not None else ""
        message = f"{name}: has no effect without --tune{or_values}"
        raise UsageError(f"{message}; add --tune learning_rate.")
    if given := next((name for name, value in options.others.items() if value), None):
        remedy = _REMEDIES.get(given, "remove one of them")
        raise UsageError(f"--{given}: cannot be combined with --tune; {remedy}.")


def _show_plan(plan: TuningPlan) -> None:
    """Prints the trials that `--dry-run` does not train, and their cost."""
    for arm in plan.arms:
        for trial in arm.trials:
            written = " (as written)" if trial.written else ""
            tell(f"would try {arm.label}: {' '.join(trial.overrides)}{written}", err=False)
    for line in plan.cost:
        tell(line, err=False)


class TrainedTuning(NamedTuple):
    """A tuning with its verdicts.

    Args:
      found: the trials and the verdicts.
      requests: those of the verdicts, see `verdict_requests`.
      runs: their results.
      places: for each experiment the place of its best run.
      pictures: the pictures of the trials.
    """

    found: TunedComparison
    requests: Sequence[Request]
    runs: "Sequence[RunResult]"
    places: Sequence[int]
    pictures: Sequence[Path]


def train_tuned(
    plan: TuningPlan, criteria: Criteria, console: "Console", display: TuneDisplay
) -> TrainedTuning:
    """Trains the trials and the runs of the verdicts, and compares these.

    Args:
      plan: the trials.
      criteria: settings of the verdicts.
      console: where progress is printed.
      display: whether it is.

    Raises:
      CnnbenchError: a run cannot be trained, or the experiments cannot be compared.
    """
    quiet, verbose = display.quiet, display.verbose

    def listen(title: str) -> AbstractContextManager[Silent]:
        return trial_listening(console, title, quiet=quiet, verbose=verbose)

    def told(text: str) -> None:
        if not quiet:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    def say(title: str, trial: Trial, metric: str) -> None:
        told(trial_line(title, trial, metric))

    told("\n".join(plan.cost))
    tuned = run_trials(plan, listen, say)
    session = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    requests, places = verdict_requests(plan, tuned, session)
    with listening(
        console, len(requests), quiet=quiet, tables=display.tables, verbose=verbose
    ) as listeners:
        runs = run_requests(requests, listeners)
    found = judge_tuned(tuned, runs, places, criteria)
    return TrainedTuning(found, requests, runs, places, keep_tuning(found, runs))


def _print(tuned: TrainedTuning, criteria: Criteria, display: TuneDisplay) -> None:
    """Prints trials, verdicts, files, and commands that repeat them."""
    found = tuned.found
    if display.json:
        print_document(json_tuning(found), "json")
        return
    for part in terminal_tuning(found, TableOptions(verbose=display.verbose)):
        stdout().print(part)
    judged = criteria_words(replace(criteria, metric=f"{TEST}{found.tuning.metric}"))
    for number, picture in enumerate(tuned.pictures):
        tell(f"{'' if number else 'Files:':6} {picture}", err=False)
    for line in _ending(tuned.requests, tuned.runs, tuned.places, judged):
        tell(line, err=False)


def keep_tuning(found: TunedComparison, runs: "Sequence[RunResult]") -> list[Path]:
    """Writes `tuning.json`, `tuning.svg` and `tuning.png` into the folders of the judged runs.

    Returns:
      The pictures.

    Raises:
      StoreError: the disk cannot be written.
    """
    from cnnbench.report.plots.tuning import tuning_picture

    text = json_tuning(found).encode()
    svg, png = (tuning_picture(found.tuning, form) for form in ("svg", "png"))
    paths = [run.path for run in runs if run.path]
    for path in paths:
        RunFolder(path).write("tuning.json", text)
        RunFolder(path).write(PICTURE, svg)
        RunFolder(path).write("tuning.png", png)
    return [path / PICTURE for path in paths]


def _ending(
    requests: Sequence[Request],
    runs: "Sequence[RunResult]",
    places: Sequence[int],
    judged: Sequence[str],
) -> Iterator[str]:
    """Says how to train the chosen networks again, and how to compare them."""
    tuned = [place for place in places if place >= len(places)]
    for number, place in enumerate(tuned):
        yield f"{'' if number else 'Again:':6} {commands.command_line(requests[place].command)}"
    where = commands.results_dir_option(requests[0].results_dir)
    ids = [run.record.run_id for run in runs]
    best = [ids[place] for place in places]
    first = [] if len(places) > 1 else ["--baseline", ids[0]]
    pairs = [ids[: len(places)], best] if len(places) > 1 else [[ids[0], best[0]]]
    for number, own in enumerate(pairs if tuned else pairs[:1]):
        if len(set(own)) > 1:
            words = commands.cnnbench("compare", *own, *judged, *first, *where)
            yield f"{'' if number else 'Next:':6} {words}"
