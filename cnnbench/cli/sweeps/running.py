"""Several values of keys in `cnnbench run`: plans the sweep, trains it, and prints its table."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import typer

from cnnbench.cli.progress import listening
from cnnbench.cli.terminal import print_document, stderr, stdout, tell
from cnnbench.cli.tuning import trial_listening
from cnnbench.comparisons.sweeps.results import read_sweep, sweep_result
from cnnbench.errors import UsageError
from cnnbench.report.sweeps.files import json_sweep
from cnnbench.report.sweeps.table import next_steps, score_text, terminal_sweep
from cnnbench.runner.run import Request, check_all
from cnnbench.runner.sweeps.cost import duration_text, sweep_cost
from cnnbench.runner.sweeps.planning import PlannedSweep, TrialRequests, plan_sweep
from cnnbench.runner.sweeps.race import check_race, run_race
from cnnbench.runner.sweeps.space import SweepAxis
from cnnbench.runner.sweeps.training import Failure, run_side_by_side, run_sweep
from cnnbench.runs.sweeps.plans import trained_runs
from cnnbench.spec.metrics import words
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
      race: probability that a race drops the best trial; None to train all seeds of all trials.
    """

    trials: int | None
    seed: int | None
    others: Mapping[str, object]
    dry_run: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    race: float | None = None


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
        name = "--sweep-seed" if options.seed is not None else "--race"
        raise UsageError(f"{name}: has no effect without values; add, for example, KEY=1,2.")
    if given := next((name for name, value in options.others.items() if value), None):
        key = axes[0].key
        raise UsageError(f"{given}: cannot be combined with several values of {key}; remove one.")
    sweep = plan_sweep(requests, axes, options.trials, options.seed or 0)
    if options.race is not None:
        check_race(sweep, options.race)
    needed = requests[0].needed
    cost = sweep_cost(sweep, needed=needed)
    if options.dry_run or not options.quiet:
        tell(f"Sweep {sweep.plan.sweep}: {cost.text(needed=needed)}.", err=not options.dry_run)
    if options.dry_run:
        for trial in sweep.trials:
            tell(f"would try {trial.number}: {trial.label}", err=False)
        return
    check_all(requests)
    board = _Board(stderr(), sweep, options)
    try:
        with handle_signals():
            failures = _train(sweep, board, options)
    except KeyboardInterrupt as stop:
        if not getattr(stop, "__notes__", ()):
            stop.add_note(sweep.again)
            tell(f"interrupted; continue with: {sweep.again}")
        raise
    finally:
        _print(sweep, json=options.json)
    if failures:
        _report(failures, sweep)
        raise typer.Exit(1)


def _train(sweep: PlannedSweep, board: "_Board", options: SweepOptions) -> list[Failure]:
    on = sweep.trials[0].requests[0].on
    if options.race is None and not on:
        return run_sweep(sweep, board)
    number, quiet, verbose = len(sweep.plan.trials), options.quiet, options.verbose
    number *= len(sweep.plan.names)
    with listening(board.console, number, quiet=quiet, tables=False, verbose=verbose) as listeners:
        if options.race is None:
            return run_side_by_side(sweep, listeners, board)
        failures = run_race(sweep, options.race, listeners, board)
    tell(_saved(sweep))
    return failures


def _saved(sweep: PlannedSweep) -> str:
    """How many seeds a race has not trained."""
    planned = sum(len(run.seeds) for trial in sweep.plan.trials for run in trial.runs)
    found = [e for row in trained_runs(sweep.plan, sweep.results_dir) for e in row if e]
    trained = sum(len(entry.record.seeds) for entry in found)
    return f"Race: {trained} of {planned} seeds, {1 - trained / planned:.0%} saved."


class _Board:
    """Progress of a sweep: a bar for each run, and a line for each trial."""

    def __init__(self, console: "Console", sweep: PlannedSweep, options: SweepOptions) -> None:
        self.console, self.sweep, self.options = console, sweep, options
        self.started, self.done = monotonic(), 0

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
        title = trial.requests[0].load().experiment.type_title
        with trial_listening(self.console, title, quiet=quiet, verbose=verbose) as listener:
            yield [listener]

    def trained(self, trial: TrialRequests, runs: "Sequence[RunResult]") -> None:
        """Prints the value of each run, and the time left."""
        self.done += 1
        rows = sweep_result(self.sweep.plan, [runs] * len(self.sweep.trials))
        values = [
            f"{row.title} {score_text(rows, row)}" if len(runs) > 1 else score_text(rows, row)
            for row in rows.rows
            if row.number == trial.number
        ]
        name = words(rows.metric if rows.by_test else f"validation_{rows.metric}")
        left = len(self.sweep.trials) - trial.number
        seconds = (monotonic() - self.started) / self.done * left
        time = f"; about {duration_text(seconds)} left" if left else ""
        self._say(f"{self._place(trial)}: {name} {', '.join(values)}{time}")

    def _place(self, trial: TrialRequests) -> str:
        return f"trial {trial.number} of {len(self.sweep.trials)}, {trial.label}"

    def failed(self, failure: Failure) -> None:
        """Prints why a trial failed."""
        text = f"{self._place(failure.trial)}: failed: {failure.reason}"
        self.console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)

    def dropped(self, trial: TrialRequests, seeds: int) -> None:
        """Prints that a trial is decided worse than the leader."""
        self._say(f"{self._place(trial)}: dropped after {seeds} seeds, worse than the leader")

    def _say(self, text: str) -> None:
        if not self.options.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _print(sweep: PlannedSweep, *, json: bool) -> None:
    result = read_sweep(sweep.plan, sweep.results_dir)
    if json:
        print_document(json_sweep(result), "json")
        return
    if not result.trained:
        return
    for part in terminal_sweep(result):
        stdout().print(part)
    for line in next_steps(result, sweep.results_dir):
        tell(line, err=False)


def _report(failures: Sequence[Failure], sweep: PlannedSweep) -> None:
    tell(f"{len(failures)} of {len(sweep.trials)} trials failed:")
    for failure in failures:
        tell(f"  trial {failure.trial.number}, {failure.trial.label}: {failure.reason}")
