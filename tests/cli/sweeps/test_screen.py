"""Progress of trials: counts, names, and what is printed without a terminal."""

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from cnnbench.cli.progress import Bars, Board, Lines, seed_line
from cnnbench.cli.screen.tally import RunProgress, Tally, shortened
from cnnbench.cli.sweeps.running import SweepBoard, SweepOptions
from cnnbench.cli.sweeps.screen import SweepBars, TrialLog, trials_listening
from cnnbench.runs.records import EpochRecord
from cnnbench.spec.loader import load_experiment
from cnnbench.training.events import SeedDone, StepDone
from tests.support.golden import approved
from tests.support.paths import EXPERIMENTS
from tests.support.samples import make_run

LABELS = [f"learning_rate={rate} conv1.filters=32" for rate in (0.01, 0.03, 0.1)]
EPOCH = EpochRecord(0, 1, 0.5, 0.25, {"accuracy": 0.9}, 20.0, 1.0, 2000.0)


def trials(number: int = 3) -> Any:
    """Trials of 2 seeds and 3 epochs."""
    loaded = load_experiment(EXPERIMENTS / "standard.yaml", ["seeds=2", "train.epochs=3"])
    request = SimpleNamespace(load=lambda: loaded)
    return [
        SimpleNamespace(number=n + 1, label=LABELS[n % 3], requests=(request,))
        for n in range(number)
    ]


def board(
    *, terminal: bool, number: int = 3, every: float = 60.0, height: int = 24
) -> tuple[Board, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, height=height, color_system=None)
    return Board(
        console, Tally([RunProgress(2, 3, trial=n + 1) for n in range(number)], every)
    ), out


def train(listener: Lines, seed: int) -> None:
    """Passes the events of a seed to a listener."""
    summary = make_run(seeds=(0, 1)).summary
    assert summary is not None
    for epoch in (1, 2, 3):
        listener.event(dataclasses.replace(EPOCH, seed=seed, epoch=epoch))
    listener.event(SeedDone(summary.seeds[seed], np.empty(0), None, {}))


def test_without_a_terminal_a_line_says_from_time_to_time_what_is_done_and_left() -> None:
    shown, out = board(terminal=False, every=-1.0)
    told: list[tuple[int, str]] = []
    fail = lambda trial, reason: told.append((trial.number, reason))  # noqa: E731
    with trials_listening(shown, trials(), fail, quiet=False, verbose=False) as listeners:
        first, second, third = listeners
        assert isinstance(first, TrialLog)
        assert isinstance(third, TrialLog)
        for listener in listeners:
            listener.loaded(trials()[0].requests[0].load())
        train(first, 0)
        second.failed("out of memory; use smaller batches.")
        train(first, 1)
        first.finished(Path("x"))
        third.note("a stand-in is used")
        train(third, 0)
    assert told == [(2, "out of memory; use smaller batches.")]
    text = out.getvalue()
    assert text == approved("sweep_progress.txt", text)
    assert max(map(cell_len, text.splitlines())) <= 80


def test_a_trial_that_left_a_race_counts_the_seeds_that_it_has() -> None:
    """Also if it did so in an earlier command, and has no events in this one."""
    shown, _ = board(terminal=False)
    with trials_listening(shown, trials(), lambda *_: None, quiet=False, verbose=False) as some:
        for listener in some:
            listener.loaded(trials()[0].requests[0].load())
        assert isinstance(some[0], TrialLog)
        train(some[0], 0)
        some[0].finished(Path("x"))
        some[1].finished(Path("y"))
        options = SweepOptions(None, None, {}, quiet=True)
        planned: Any = SimpleNamespace(trials=trials(), number_of_all=3)
        sweep = SweepBoard(shown.progress.console, planned, options)
        sweep.bars = shown
        assert shown.tally.text() == "2 of 3 trials, 3 of 5 seeds, 2:06 left"
        sweep.dropped(trials()[1], 1)
        assert shown.tally.text() == "2 of 3 trials, 2 of 4 seeds, 2:06 left"


def test_lines_are_rare() -> None:
    """One a minute, whatever happens meanwhile; none for a single seed."""
    tally = Tally([RunProgress(2, 10, trial=1, seconds=30.0, timed=1, done=1.0)])
    said = [now for now in range(200) if tally.line(float(now))]
    assert said == [60, 120, 180]
    assert tally.text() == "0 of 1 trials, 0 of 2 seeds, 9:30 left"
    assert not any(Tally([RunProgress(1, 10)]).line(float(now)) for now in range(200))


def test_a_terminal_shows_the_trials_that_are_trained_and_the_counts_of_all() -> None:
    """Of 20 trials, 2 have a bar."""
    shown, _ = board(terminal=True, number=20)
    told: list[int] = []
    fail = lambda trial, _: told.append(trial.number)  # noqa: E731
    with trials_listening(shown, trials(20), fail, quiet=False, verbose=False) as listeners:
        for listener in listeners:
            listener.loaded(trials()[0].requests[0].load())
        bars = [listener for listener in listeners if isinstance(listener, SweepBars)]
        train(bars[0], 0)
        train(bars[0], 1)
        bars[0].finished(Path("x"))
        bars[5].failed("out of memory")
        for trial in (1, 2):
            bars[trial].event(StepDone(0, 1, 5, 10))
        texts = [task.description for task in shown.progress.tasks if task.visible]
    assert told == [6]
    assert texts[-1] == "1 of 20 trials, 1 failed, 2 of 40 seeds, 2 running"
    assert [text.partition(":")[0] for text in texts[:-1]] == LABELS[1:]
    assert shown.progress.tasks == []


def test_a_terminal_of_few_lines_keeps_the_counts() -> None:
    shown, _ = board(terminal=True, number=6, height=5)
    fail = lambda *_: None  # noqa: E731
    with trials_listening(shown, trials(6), fail, quiet=False, verbose=False) as listeners:
        for listener in listeners:
            listener.loaded(trials()[0].requests[0].load())
            listener.event(StepDone(0, 1, 5, 10))
        assert sum(task.visible for task in shown.progress.tasks) == 4
        shown.progress.console.height = 24
        listeners[0].event(StepDone(0, 1, 6, 10))
        assert sum(task.visible for task in shown.progress.tasks) == 7


@pytest.mark.parametrize(
    ("label", "line"),
    [
        (LABELS[0], "learning_rate=0.01 conv1.filters=32, seed 0 (1/2): "),
        (
            "learning_rate=0.01 weight_decay=0.0005 conv1.filters=32",
            "lr=0.01 wd=0.0005 filters=32, seed 0 (1/2): ",
        ),
    ],
)
def test_a_long_name_keeps_every_value(label: str, line: str) -> None:
    summary = make_run().summary
    assert summary is not None
    text = seed_line(summary.seeds[0], (1, 2), label)
    assert text.startswith(line)
    assert cell_len(text) <= 80


def test_names_that_would_be_the_same_are_left_out() -> None:
    assert shortened("a.rate=1 b.rate=2", 16) == "1 2"


def test_a_run_with_several_seeds_says_what_is_left() -> None:
    out = io.StringIO()
    lines = Lines(Console(file=out, width=80), tally=Tally(every=-1.0))
    lines.loaded(trials()[0].requests[0].load())
    out.truncate(0)
    lines.started(make_run(seeds=(0, 1)).record, 10)
    train(lines, 0)
    assert out.getvalue().splitlines()[-1] == "1 of 2 seeds, 1:03 left"
    assert not isinstance(lines, Bars)
