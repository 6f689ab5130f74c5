"""Several values of keys in `cnnbench run`: plans the sweep, trains it, and prints its table."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from cnnbench.cli.progress import listening
from cnnbench.cli.terminal import stderr, stdout, tell
from cnnbench.cli.tuning import trial_listening
from cnnbench.comparisons.sweeps.results import read_sweep
from cnnbench.errors import UsageError
from cnnbench.report.sweeps.table import terminal_sweep
from cnnbench.runner.run import Request, check_all
from cnnbench.runner.sweeps.planning import PlannedSweep, TrialRequests, plan_sweep
from cnnbench.runner.sweeps.space import SweepAxis
from cnnbench.runner.sweeps.training import Failure, run_sweep
from cnnbench.runs.sweeps.plans import trained_runs
from cnnbench.system import commands
from cnnbench.system.signals import handle_signals

if TYPE_CHECKING:
    from rich.console import Console

    from cnnbench.cli.progress import Silent
    from cnnbench.runs.records import RunResult


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """Options of a sweep.

    Args:
      trials: number of trials; None for all combinations.
      seed: of the points in ranges; None for the default.
      others: values of options that cannot be combined with a sweep, by name.
      dry_run: print the trials only.
      json: print JSON.
      quiet: print no progress.
      verbose: print every epoch.
    """

    trials: int | None
    seed: int | None
    others: Mapping[str, object]
    dry_run: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False


def train_sweep(
    requests: Sequence[Request], axes: Sequence[SweepAxis], options: SweepOptions
) -> None:
    """Trains the trials of a sweep, and prints them.

    Args:
      requests: the experiments, without the keys of the sweep.
      axes: the keys.
      options: what is trained and printed.

    Raises:
      UsageError: options or trials are not valid.
      typer.Exit: a trial failed.
    """
    if not axes:
        raise UsageError("--sweep-seed: has no effect without values; add, for example, KEY=1,2.")
    if given := next((name for name, value in options.others.items() if value), None):
        key = axes[0].key
        raise UsageError(f"{given}: cannot be combined with several values of {key}; remove one.")
    sweep = plan_sweep(requests, axes, options.trials, options.seed or 0)
    tell(_cost(sweep), err=not options.dry_run)
    if options.dry_run:
        for trial in sweep.trials:
            tell(f"would try {trial.number}: {trial.label}", err=False)
        return
    check_all(requests)
    board = _Board(stderr(), sweep, options)
    try:
        with handle_signals():
            failures = run_sweep(sweep, board)
    except KeyboardInterrupt as stop:
        if not getattr(stop, "__notes__", ()):
            stop.add_note(sweep.again)
            tell(f"interrupted; continue with: {sweep.again}")
        raise
    finally:
        _print(sweep)
    if failures:
        _report(failures, sweep)
        raise typer.Exit(1)


def _cost(sweep: PlannedSweep) -> str:
    runs = [run for trial in sweep.plan.trials for run in trial.runs]
    seeds = {len(run.seeds) for run in runs}
    each = f"{max(seeds)} seed{'s' * (max(seeds) != 1)}" if len(seeds) == 1 else "their seeds"
    found = trained_runs(sweep.plan, sweep.results_dir)
    known = sum(entry is not None for row in found for entry in row)
    there = f"; {known} of {len(runs)} are there already" if known else ""
    return f"Sweep {sweep.plan.sweep}: {len(runs)} trainings x {each}{there}."


class _Board:
    """Progress of a sweep: a bar for each run, and a line for each trial."""

    def __init__(self, console: "Console", sweep: PlannedSweep, options: SweepOptions) -> None:
        self.console, self.sweep, self.options = console, sweep, options

    def _title(self, trial: TrialRequests, request: Request) -> str:
        return f"{request.load().experiment.type_title} {trial.label}"

    @contextmanager
    def trial(self, trial: TrialRequests) -> "Iterator[Sequence[Silent]]":
        """Makes a listener for each run of a trial."""
        quiet, verbose = self.options.quiet, self.options.verbose
        if len(trial.requests) > 1:
            with listening(
                self.console, len(trial.requests), quiet=quiet, tables=False, verbose=verbose
            ) as listeners:
                yield listeners
            return
        title = self._title(trial, trial.requests[0])
        with trial_listening(self.console, title, quiet=quiet, verbose=verbose) as listener:
            yield [listener]

    def trained(self, trial: TrialRequests, runs: "Sequence[RunResult]") -> None:
        """Prints a line on each run."""
        del runs
        self._say(f"trial {trial.number} of {len(self.sweep.trials)}: {trial.label}")

    def failed(self, failure: Failure) -> None:
        """Prints why a trial failed."""
        trial = failure.trial
        title = f"trial {trial.number} of {len(self.sweep.trials)}: {trial.label}"
        self.console.print(f"{title} failed: {failure.reason}", markup=False, highlight=False)

    def _say(self, text: str) -> None:
        if not self.options.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _print(sweep: PlannedSweep) -> None:
    result = read_sweep(sweep.plan, sweep.results_dir)
    for part in terminal_sweep(result):
        stdout().print(part)


def _report(failures: Sequence[Failure], sweep: PlannedSweep) -> None:
    tell(f"{len(failures)} of {len(sweep.trials)} trials failed:")
    for failure in failures:
        tell(f"  trial {failure.trial.number}, {failure.trial.label}: {failure.reason}")
    tell(f"Try them again with: {commands.command_line(commands.with_needed(sweep.plan.command))}")
