"""Ten thousand runs: what they cost, what is shown while they are indexed, how many are listed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.cli.commands import list as list_command
from cnnbench.cli.console import LegibleConsole
from cnnbench.runs.find import list_runs
from cnnbench.runs.index import lookup
from cnnbench.runs.index.resolved import read_resolved
from cnnbench.system.progress import CountDone, FileWork, shown_by
from tests.support.limits import can_take
from tests.support.many_runs import write_runs

NUM = 70
ASKED = (
    ("list",),
    ("list", "--where", "test_accuracy > 0.98"),
    ("list", "--where", "learning_rate < 0.001", "--sort-by", "accuracy"),
    ("compare",),
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_runs(folder, NUM)
    return folder


class Recorded:
    """A display that keeps what it would show last."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def showing(self, work: FileWork) -> Iterator[CountDone]:
        counts: list[int] = []
        yield counts.append
        assert counts == list(range(1, counts[-1] + 1))
        self.lines.append(work.text(counts[-1]))


def test_indexing_is_shown(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "SETTLED_S", -1.0)
    monkeypatch.setattr(lookup, "MIN_SHOWN", 60)
    display = Recorded()
    with shown_by(display):
        entries = list_runs(results).entries
        read_resolved([entry.path for entry in entries])
    of = f"{NUM} of {NUM} runs"
    assert display.lines == [f"indexed {of}", f"indexed the settings of {of}"]
    with shown_by(display):
        assert len(list_runs(results).entries) == NUM
    assert len(display.lines) == 2


@pytest.mark.parametrize(
    ("options", "part", "which"),
    [
        ((), slice(-3, None), "newest 3 of 70"),
        (("--reverse",), slice(3), "newest 3 of 70"),
        (("--sort-by", "run"), slice(3), "first 3 of 70"),
        (("--where", "status == 'failed'"), slice(None), None),
    ],
)
def test_a_terminal_shows_no_more_rows_than_anyone_reads(
    options: tuple[str, ...],
    part: slice,
    which: str | None,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(list_command, "MOST_ON_TERMINAL", 3)
    words = ["list", *options, "--results-dir", str(results)]
    piped = CliRunner().invoke(app, words)
    assert piped.stderr == ""
    assert len(rows(piped)) == (NUM if which else 1)
    monkeypatch.setattr(list_command, "stdout", terminal)
    done = CliRunner().invoke(app, words)
    note = f"Showing the {which} runs; --limit N shows more.\n" if which else ""
    assert (rows(done), done.stderr) == (rows(piped)[part], note)
    every = CliRunner().invoke(app, [*words, "--limit", "99"])
    assert (rows(every), every.stderr) == (rows(piped), "")


def rows(done: Any) -> list[str]:
    return [line.split()[0] for line in done.stdout.splitlines() if line.startswith("20")]


def terminal() -> LegibleConsole:
    return LegibleConsole(force_terminal=True, width=90, color_system=None)


@pytest.mark.slow
def test_ten_thousand_runs_take_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU time of a whole command with an index: two seconds, twice that on a busy machine."""
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    write_runs(tmp_path / "results", 10_000)
    place = ("--results-dir", str(tmp_path / "results"))
    for words in ASKED:
        code = f"import sys; sys.argv[1:] = {[*words, *place]}"
        code += "; from cnnbench.cli.app import main; main()"
        assert can_take(code, 4.0), words
