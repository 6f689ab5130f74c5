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
from cnnbench.runner.batches.dividing import with_interrupted
from cnnbench.runner.run import Request
from cnnbench.runs import folder
from cnnbench.runs.find import list_runs
from cnnbench.runs.index import entries, lookup
from cnnbench.runs.index.resolved import read_resolved
from cnnbench.system.progress import CountDone, FileWork, shown_by
from tests.support.limits import can_take
from tests.support.many_runs import write_runs
from tests.support.paths import EXPERIMENTS

NUM = 70
RATES = "train.optimizer.learning_rate=0.01,0.1"
SWEEP = ("run", str(EXPERIMENTS / "standard.yaml"), RATES, "--needed", "--dry-run")
ASKED = (
    ("list",),
    ("list", "--where", "test_accuracy > 0.98"),
    ("list", "--where", "learning_rate < 0.001", "--sort-by", "accuracy"),
    ("compare",),
    SWEEP,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("many")
    write_runs(found, NUM)
    return found


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
        read_resolved([entry.path for entry in list_runs(results).entries])
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


@pytest.fixture
def read(results: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs whose record is read from now on; all are indexed."""
    monkeypatch.setattr(lookup, "SETTLED_S", -1.0)
    monkeypatch.setattr(lookup, "MIN_NEW", 1)
    monkeypatch.setattr(entries, "SETTLED_RUNNING_S", -1.0)
    list_runs(results)
    found: list[Path] = []
    files = folder._read_files

    def read_files(path: Path) -> Any:
        found.append(path)
        return files(path)

    monkeypatch.setattr(folder, "_read_files", read_files)
    return found


def test_the_cost_of_a_sweep_is_from_the_newest_runs(results: Path, read: list[Path]) -> None:
    words = [*SWEEP, "--results-dir", str(results)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "2 runs x 1 seed, about " in done.stdout
    assert len(read) == 5  # of 24


def test_needed_reads_runs_of_the_experiment_only(results: Path, read: list[Path]) -> None:
    request = Request(EXPERIMENTS / "standard.yaml", results_dir=results, needed=True)
    assert with_interrupted([request]).requests == [request]
    assert read == []


@pytest.mark.slow
def test_ten_thousand_runs_take_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPU time of a whole command with an index."""
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    write_runs(tmp_path / "results", 10_000)
    place = ("--results-dir", str(tmp_path / "results"))
    for words in ASKED:
        code = f"import sys; sys.argv[1:] = {[*words, *place]}"
        code += "; from cnnbench.cli.app import main; main()"
        assert can_take(code, 2.0), words
