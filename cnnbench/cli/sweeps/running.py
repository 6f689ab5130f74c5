"""Several values of keys in `cnnbench run`: plans the sweep, trains it, and prints its table."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from time import monotonic
from typing import TYPE_CHECKING

import typer

from cnnbench.cli.progress import Board, print_line
from cnnbench.cli.screen.tally import Tally, seconds_left
from cnnbench.cli.sweeps.screen import trials_listening, works_of
from cnnbench.cli.terminal import continued_by, print_document, stderr, stdout, tell
from cnnbench.comparisons.sweeps.results import read_sweep, sweep_result
from cnnbench.errors import UsageError
from cnnbench.report.sweeps.files import json_sweep
from cnnbench.report.sweeps.table import next_steps, score_text, terminal_sweep
from cnnbench.runner.batches.shards import Shard, share
from cnnbench.runner.run import Request, check_all
from cnnbench.runner.sweeps.cost import duration_text, left_of_trials, sweep_cost
from cnnbench.runner.sweeps.planning import PlannedSweep, TrialRequests, plan_sweep
from cnnbench.runner.sweeps.proposing import (
    OPTUNA,
    Proposals,
    first_trials,
    plan_proposals,
    run_proposals,
    sampler_note,
)
from cnnbench.runner.sweeps.race import check_race, racing, run_race
from cnnbench.runner.sweeps.space import SweepAxis
from cnnbench.runner.sweeps.training import Failure, run_side_by_side, run_sweep
from cnnbench.runs.find import list_runs
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
      sampler: what chooses the trials; None for the default.
      shard: the part of the trials that this machine trains; None for all.
    """

    trials: int | None
    seed: int | None
    others: Mapping[str, object]
    dry_run: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    race: float | None = None
    sampler: str | None = None
    shard: Shard | None = None

    @property
    def first(self) -> str:
        """An option that needs values."""
        given = {"--sampler": self.sampler, "--race": self.race is not None}
        return next((name for name, value in given.items() if value), "--sweep-seed")

    @property
    def proposes(self) -> bool:
        """True if trials are proposed from the results of others."""
        return self.sampler == OPTUNA


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
    planned = plan_with(requests, axes, options)
    sweep = known_sweep(planned)
    if not sweep.trials:  # of this shard
        tell("--shard: there are fewer trials than parts; nothing to train.")
        return
    if options.dry_run or not options.quiet:
        tell(cost_text(sweep, needed=requests[0].needed), err=not options.dry_run)
    if options.dry_run:
        for line in _trial_lines(sweep):
            tell(line, err=False)
        return
    check_all(requests)
    board = SweepBoard(stderr(), sweep, options)
    try:
        with continued_by(sweep.again), handle_signals():
            failures = train_with(planned, board, options)
    finally:
        _print(board, json=options.json)
    if failures:
        _report(failures, board.sweep)
        raise typer.Exit(1)


def known_sweep(planned: PlannedSweep | Proposals) -> PlannedSweep:
    """A sweep with the trials that are known before the first is trained."""
    return planned.known if isinstance(planned, Proposals) else planned


def cost_text(sweep: PlannedSweep, *, needed: bool) -> str:
    """What a sweep costs.

    Args:
      sweep: the sweep.
      needed: True if finished runs are skipped.

    Raises:
      StoreError: the folder of results cannot be read.
    """
    cost = sweep_cost(sweep, needed=needed).text(needed=needed)
    return f"Sweep {sweep.plan.sweep}: {cost}.{sampler_note(sweep)}"


def plan_with(
    requests: Sequence[Request], axes: Sequence[SweepAxis], options: SweepOptions
) -> PlannedSweep | Proposals:
    """Plans a sweep.

    Args:
      requests: the experiments, without the keys of the sweep.
      axes: the keys.
      options: what is trained.

    Raises:
      UsageError: options or trials are not valid.
    """
    if not axes:
        message = f"{options.first}: has no effect without values"
        raise UsageError(f"{message}; add, for example, KEY=1,2.")
    if given := next((name for name, value in options.others.items() if value), None):
        key = axes[0].key
        raise UsageError(f"{given}: cannot be combined with several values of {key}; remove one.")
    if options.seed is not None and options.trials is None:
        message = "--sweep-seed: has no effect on all combinations"
        raise UsageError(f"{message}; add --trials N, or remove it.")
    if options.proposes:
        if options.race is not None:
            message = "--race: trains a seed of all trials first, and --sampler optuna proposes"
            raise UsageError(f"{message} trials from the results of others; remove one.")
        return plan_proposals(requests, axes, options.trials, options.seed or 0)
    sweep = plan_sweep(requests, axes, options.trials, options.seed or 0)
    if options.race is not None:
        check_race(sweep, options.race)
        return racing(sweep, options.race)
    if options.shard is not None:
        return replace(sweep, trials=tuple(share(sweep.trials, options.shard)))
    return sweep


def _trial_lines(sweep: PlannedSweep) -> Iterator[str]:
    """The trials that would be trained; with `--needed`, without those that are finished."""
    needed = sweep.trials[0].requests[0].needed
    known = sweep if needed or not sweep.plan.sampler else first_trials(sweep)
    lefts = left_of_trials(known, list_runs(known.results_dir).entries) if needed else []
    for trial, own in zip_longest(known.trials, lefts):
        verb = "resume" if own and any(left.resumed for left in own) else "try"
        if own is None or any(left.seeds for left in own):
            yield f"would {verb} {trial.number}: {trial.label}"
    if needed and not any(left.seeds for own in lefts for left in own):
        yield "nothing to train: all known trials are finished"
    if more := sweep.number - len(known.trials) if sweep.plan.sampler else 0:
        several = f"{sweep.number - more + 1} to {sweep.number}" if more > 1 else sweep.number
        yield f"would try {several}: proposed by Optuna, from the results of those before"


def train_with(
    planned: PlannedSweep | Proposals, board: "SweepBoard", options: SweepOptions
) -> list[Failure]:
    """Trains a sweep.

    Args:
      planned: from `plan_with`.
      board: shows the progress.
      options: as of `plan_with`.

    Returns:
      The trials that failed.

    Raises:
      CnnbenchError: the plan cannot be written, or no trial could be trained.
      KeyboardInterrupt: as `run_by_turns`.
    """
    if isinstance(planned, Proposals):
        return run_proposals(planned, board)
    sweep = planned
    on = sweep.trials[0].requests[0].on
    if options.race is None and not on:
        return run_sweep(sweep, board)
    with board.together(sweep.trials) as listeners:
        if options.race is None:
            return run_side_by_side(sweep, listeners, board)
        failures = run_race(sweep, listeners, board)
    board.say(_saved(sweep))
    return failures


def _saved(sweep: PlannedSweep) -> str:
    """How many seeds a race has not trained; without trials that failed, which save nothing."""
    runs = [run for trial in sweep.plan.trials for run in trial.runs]
    entries = list_runs(sweep.results_dir).entries
    found = chain.from_iterable(trained_runs(sweep.plan, entries))
    pairs = [(run, entry) for run, entry in zip(runs, found, strict=True) if entry]
    planned = sum(len(run.seeds) for run, _ in pairs)
    trained = sum(len(entry.facts.seeds) for _, entry in pairs)
    saved = f", {1 - trained / planned:.0%} saved" if planned else ""
    return f"Race: {trained} of {planned} seeds{saved}."


class SweepBoard:
    """Progress of a sweep: a bar for each run, and a line for each trial."""

    def __init__(self, console: "Console", sweep: PlannedSweep, options: SweepOptions) -> None:
        self.console, self.sweep, self.options = console, sweep, options
        self.started, self.done = monotonic(), 0
        self.reasons: dict[int, str] = {}  # of the trials that failed
        self.bars = Board(console, Tally(works_of(sweep.trials)))

    def together(
        self, trials: Sequence[TrialRequests]
    ) -> "AbstractContextManager[Sequence[Silent]]":
        """Makes a listener for each run of several trials that are trained side by side."""
        quiet, verbose = self.options.quiet, self.options.verbose
        return trials_listening(self.bars, trials, self._fail, quiet=quiet, verbose=verbose)

    def _fail(self, trial: TrialRequests, reason: str) -> None:
        self.failed(Failure(trial, reason))

    def grown(self, sweep: PlannedSweep) -> None:
        """Shows a sweep with more trials from now on."""
        for work in works_of(sweep.trials):
            if not self.bars.tally.begin(work.trial):
                self.bars.tally.add(work)
        self.sweep = sweep

    def exhausted(self, number: int) -> None:
        """Prints that there are fewer trials than were wanted."""
        self.say(f"The sampler proposes no other trials: {number} in all.")

    def trial(self, trial: TrialRequests) -> "AbstractContextManager[Sequence[Silent]]":
        """Makes a listener for each run of a trial."""
        return self.together([trial])

    def trained(self, trial: TrialRequests, runs: "Sequence[RunResult]") -> None:
        """Prints the value of each run, and the time left unless a bar shows it."""
        self.done += 1
        rows = sweep_result(self.sweep.plan, [runs] * len(self.sweep.plan.trials))
        values = [
            f"{row.title} {score_text(rows, row)}" if len(runs) > 1 else score_text(rows, row)
            for row in rows.rows
            if row.number == trial.number
        ]
        name = words(rows.metric if rows.by_test else f"validation_{rows.metric}")
        seconds = self._seconds_left(trial)
        has_bar = self.console.is_terminal and not self.options.verbose
        time = f"; about {duration_text(seconds)} left" if seconds and not has_bar else ""
        self.say(f"{self._place(trial)}: {name} {', '.join(values)}{time}")

    def _seconds_left(self, trial: TrialRequests) -> float | None:
        """The time left: by trials, or by epochs if several trials are trained side by side."""
        if trial.requests[0].on:
            return seconds_left(self.bars.tally.works)
        left = self.sweep.number - self.done - len(self.reasons)
        return (monotonic() - self.started) / self.done * left

    def _place(self, trial: TrialRequests) -> str:
        return f"trial {trial.number} of {self.sweep.number_of_all}, {trial.label}"

    def failed(self, failure: Failure) -> None:
        """Prints why a trial failed, once."""
        if failure.trial.number in self.reasons:
            return
        self.reasons[failure.trial.number] = failure.reason
        self.bars.tally.fail(failure.trial.number)
        text = f"{self._place(failure.trial)}: failed: {failure.reason}"
        print_line(self.console, text, "red")

    def dropped(self, trial: TrialRequests, seeds: int) -> None:
        """Prints that a trial is decided worse than the leader."""
        for work in self.bars.tally.begin(trial.number):
            work.finish(seeds)
        self.say(f"{self._place(trial)}: dropped after {seeds} seeds, worse than the leader")

    def say(self, text: str) -> None:
        """Prints a line, unless progress is not wanted."""
        if not self.options.quiet:
            print_line(self.console, text)


def _print(board: SweepBoard, *, json: bool) -> None:
    sweep = board.sweep
    result = read_sweep(sweep.plan, sweep.results_dir).with_errors(board.reasons)
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
