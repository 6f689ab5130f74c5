"""Progress of the trials of a sweep: one screen for all of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cnnbench.cli.progress import Board, Lines, Silent, TrialBars, shown
from cnnbench.cli.screen.tally import RunProgress, Tally
from cnnbench.runner.sweeps.planning import TrialRequests
from cnnbench.training.events import Event, Remark

if TYPE_CHECKING:
    from rich.console import Console

    from cnnbench.spec.loader import Loaded

Fail = Callable[[str], None]


class TrialLog(Lines):
    """Counts from time to time, for files and pipes: a trial is a line once it is trained.

    Args:
      console: where lines are printed.
      said: what the trial is.
      tally: the runs of the sweep.
      work: that of the trial.
      fail: called with the reason if it fails.
    """

    def __init__(
        self, console: "Console", said: str, tally: Tally, work: RunProgress, fail: Fail
    ) -> None:
        super().__init__(console, several=True, tables=False, tally=tally, work=work)
        self._said, self._fail = said, fail

    def loaded(self, loaded: "Loaded") -> None:
        """Prints nothing."""
        super().loaded(loaded)
        self.title = self._said

    def say(self, text: str, style: str | None = None) -> None:
        """Prints notes only."""
        if style is not None:
            super().say(text, style)

    def failed(self, reason: str) -> None:
        """Passes on why the trial failed."""
        self.work.fail()
        self._fail(reason)

    def _print(self, event: Event) -> None:
        if isinstance(event, Remark):
            self.note(f"{self.prefix}{event.text}")


class SweepBars(TrialBars):
    """The bar of a trial of a sweep.

    Args:
      board: the bars of the sweep.
      said: what the trial is.
      work: that of the trial.
      fail: called with the reason if it fails.
    """

    def __init__(self, board: Board, said: str, work: RunProgress, fail: Fail) -> None:
        super().__init__(board, said, work)
        self._fail = fail

    def failed(self, reason: str) -> None:
        """Passes on why the trial failed."""
        self.work.fail()
        self.close()
        self._fail(reason)


def works_of(trials: Sequence[TrialRequests]) -> list[RunProgress]:
    """What is to be trained of each run of trials."""
    return [
        RunProgress(len(spec.seeds), spec.train.epochs, trial=trial.number)
        for trial in trials
        for spec in (request.load().experiment for request in trial.requests)
    ]


@contextmanager
def trials_listening(
    board: Board,
    trials: Sequence[TrialRequests],
    fail: Callable[[TrialRequests, str], None],
    *,
    quiet: bool,
    verbose: bool,
) -> Iterator[list[Silent]]:
    """Makes a listener for each run of trials that are trained at the same time.

    Args:
      board: the bars of the sweep, and its tally, which has the runs.
      trials: the trials.
      fail: called if one fails while others continue.
      quiet: print notes only.
      verbose: print a line per epoch.
    """
    console, tally = board.progress.console, board.tally
    listeners: list[Silent] = []
    for trial in trials:
        for work, request in zip(tally.begin(trial.number), trial.requests, strict=True):
            title = request.load().experiment.type_title
            said = trial.label if len(trial.requests) == 1 else title
            fails = _failing(fail, trial)
            if quiet:
                listeners.append(Silent(console))
            elif verbose:
                listeners.append(
                    Lines(console, several=True, tables=False, verbose=True, tally=tally, work=work)
                )
            elif console.is_terminal:
                listeners.append(SweepBars(board, said, work, fails))
            else:
                listeners.append(TrialLog(console, said, tally, work, fails))
    with shown(listeners):
        yield listeners


def _failing(fail: Callable[[TrialRequests, str], None], trial: TrialRequests) -> Fail:
    return lambda reason: fail(trial, reason)
