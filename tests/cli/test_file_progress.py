"""The bar while files are read."""

import io
import sys

import pytest
from rich.console import Console

from cnnbench.cli import file_progress, progress
from cnnbench.cli.file_progress import OwnBar, file_display
from cnnbench.cli.progress import Bars, FileBars, listening, make_progress
from cnnbench.spec.loader import load_experiment
from cnnbench.system.progress import FileWork, ProgressLines, counted
from tests.support.paths import EXPERIMENTS


def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)


def test_bar_shows_what_is_done_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    bars = make_progress(screen())
    with FileBars(bars).showing(FileWork("decoded", 20_000)) as count:
        count(0)
        (task,) = bars.tasks
        assert (task.description, task.fields["left"]) == ("decoded 0 of 20,000 images", "")
        count(5_000)
        assert task.description == "decoded 5,000 of 20,000 images"
        assert task.fields["left"] == "0:30 left"
        assert (task.completed, task.total) == (5_000, 20_000)
    assert bars.tasks == []


def _decode_in_vain(listener: Bars) -> None:
    with counted("decoded", 3):
        assert [task.visible for task in listener.board.progress.tasks] == [False, True]
        listener._update()  # redraws all bars
        raise ValueError("broken")


def test_bar_replaces_that_of_a_run_while_its_images_are_decoded() -> None:
    with listening(screen(), 1) as (listener,):
        assert isinstance(listener, Bars)
        listener.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
        bars = listener.board.progress
        with pytest.raises(ValueError, match="broken"):
            _decode_in_vain(listener)
        assert [task.visible for task in bars.tasks] == [True]


def test_quiet_commands_show_no_progress() -> None:
    console = screen()
    with listening(console, 1, quiet=True), counted("decoded", 3) as count:
        count(3)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    ("terminal", "term", "kind"),
    [(True, "xterm", OwnBar), (True, "dumb", ProgressLines), (False, "xterm", ProgressLines)],
)
def test_bars_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, kind: type
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert type(file_display()) is kind


def test_bar_of_its_own_disappears(monkeypatch: pytest.MonkeyPatch) -> None:
    console = screen()
    monkeypatch.setattr(file_progress, "stderr", lambda: console)
    with OwnBar().showing(FileWork("read", 200, "bytes")) as count:
        count(100)
    assert isinstance(console.file, io.StringIO)
    assert "read 0 of 200 B" in console.file.getvalue()
    assert console.file.getvalue().endswith("\r\x1b[2K\x1b[?25h\r")
