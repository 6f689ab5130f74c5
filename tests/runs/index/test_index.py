"""Lists through the index are those without it, whatever happened to the folders in between."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.runs import codec
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunEntry, RunFolder, read_run_entry
from cnnbench.runs.index import entries, lookup, segments
from cnnbench.runs.index.curves import binned
from cnnbench.runs.records import RunResult, Status
from cnnbench.system.locks import hold
from tests.support.many_runs import write_run
from tests.support.samples import make_run, with_record

NUM = 12


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Index even a few runs, right after they were written."""
    monkeypatch.setattr(lookup, "MIN_RUNS", 1)
    monkeypatch.setattr(lookup, "MIN_NEW", 1)
    monkeypatch.setattr(lookup, "SETTLED_S", -1.0)
    monkeypatch.setattr(entries, "SETTLED_RUNNING_S", -1.0)
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return fill(tmp_path / "results")


@cache
def runs() -> tuple[RunResult, ...]:
    return tuple(
        with_record(
            make_run("ab"[number % 2], run_id=run_id(number), start=0.9 + number / 1000),
            tags=("x",) * (number % 3),
        )
        for number in range(NUM)
    )


def fill(folder: Path) -> Path:
    for run in runs():
        write_run(folder, run)
    return folder


def run_id(number: int) -> str:
    return f"20251123T0630{number:02}Z-a1b2"


def seen(results: Path) -> Any:
    """Everything that lists show of the runs in a folder."""
    listing = list_runs(results)
    return [as_listed(entry) for entry in listing.entries], listing.warnings


def as_listed(entry: RunEntry) -> Any:
    return entry.path, repr(entry.facts), entry.status, repr(binned(entry.curve, 6))


def seen_directly(results: Path) -> Any:
    before, lookup.MIN_RUNS = lookup.MIN_RUNS, 1_000_000
    try:
        return seen(results)
    finally:
        lookup.MIN_RUNS = before


def count_reads(results: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many runs are read from their folders by a list, which is checked."""
    found: list[Path] = []

    def read(path: Path) -> RunEntry:
        found.append(path)
        return read_run_entry(path)

    with monkeypatch.context() as patched:
        patched.setattr(entries, "read_run_entry", read)
        got = seen(results)
    assert got == seen_directly(results)
    return len(found)


def test_the_second_list_reads_no_run(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [count_reads(results, monkeypatch) for _ in range(2)] == [NUM, 0]


def test_facts_are_those_of_the_files(results: Path) -> None:
    list_runs(results)
    entry = list_runs(results).entries[5]
    assert entry == read_run_entry(entry.path)
    assert entry.facts == read_run_entry(entry.path).facts
    assert entry.summary is not None
    assert entry.facts.values["test_accuracy"] == entry.summary.seeds[0].test["accuracy"]


# What people and programs do to a results folder; each takes the folder and a number.
def change_in_place(results: Path, number: int) -> None:
    """An editor that keeps the size, the inode, and even the time of the change."""
    path = run_of(results, number) / "run.json"
    if path.exists():
        before, content = path.stat(), path.read_bytes()
        with path.open("r+b") as file:
            file.write(content.replace(b'"Standard CNN"', b'"Another CNN."'))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def finish_otherwise(results: Path, number: int) -> None:
    folder = run_of(results, number)
    if (folder / "run.json").exists():
        entry = codec.decode_record((folder / "run.json").read_bytes(), "")
        status = list(Status)[number % len(Status)]
        RunFolder(folder).write_record(dataclasses.replace(entry, status=status))


def add(results: Path, number: int) -> None:
    run = make_run("abc"[number % 3], run_id=run_id(20 + number), start=0.5)
    if not (results / run.record.name / run.record.run_id).exists():
        write_run(results, run)


def write_on(results: Path, number: int) -> None:
    """A run that is being trained: first its record, then epochs, the last one in part."""
    run = with_record(make_run("a", run_id=run_id(50), start=0.5), status=Status.RUNNING)
    folder = results / "a" / run.record.run_id
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "run.json").write_bytes(codec.encode_record(run.record))
        return
    lines = b"".join(map(codec.encode_epoch, run.epochs))
    if (folder / "run.json").exists():
        (folder / "epochs.jsonl").write_bytes(lines[: len(lines) * number // 30])


def drop(results: Path, number: int) -> None:
    shutil.rmtree(run_of(results, number), ignore_errors=True)


def rename(results: Path, number: int) -> None:
    folder = run_of(results, number)
    if folder.exists() and not (results / "moved" / folder.name).exists():
        (results / "moved").mkdir(exist_ok=True)
        folder.rename(results / "moved" / folder.name)


def swap(results: Path, number: int) -> None:
    """Two runs that exchange their names."""
    one, other = run_of(results, number), run_of(results, number + 2)
    if one.exists() and other.exists() and one != other:
        one.rename(results / "between")
        other.rename(one)
        (results / "between").rename(other)


def damage(results: Path, number: int) -> None:
    path = run_of(results, number) / "run.json"
    if path.exists():
        path.write_bytes(path.read_bytes()[: 100 * number])


def drop_summary(results: Path, number: int) -> None:
    (run_of(results, number) / "summary.json").unlink(missing_ok=True)


def add_epoch(results: Path, number: int) -> None:
    path = run_of(results, number) / "epochs.jsonl"
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines, lines[-1].replace(b'"epoch": 3', b'"epoch": 4')]))


def copy_all(results: Path, number: int) -> None:
    """A copy with all times, as from a backup or another machine."""
    shutil.copytree(results, results.with_name("copy"))
    shutil.rmtree(results)
    results.with_name("copy").rename(results)


def damage_index(results: Path, number: int) -> None:
    for path in files(results):
        content = bytearray(path.read_bytes())
        if content:
            content[number * len(content) // 40] ^= 1
        rewrite(path, bytes(content))


def cut_index(results: Path, number: int) -> None:
    for path in files(results):
        rewrite(path, path.read_bytes()[: number * 10])


def drop_index(results: Path, number: int) -> None:
    for path in files(results)[: number % 3]:
        path.unlink()


def list_between(results: Path, number: int) -> None:
    seen(results)


ACTIONS = (
    change_in_place,
    finish_otherwise,
    add,
    write_on,
    drop,
    rename,
    swap,
    damage,
    drop_summary,
    add_epoch,
    copy_all,
    damage_index,
    cut_index,
    drop_index,
    list_between,
)


def run_of(results: Path, number: int) -> Path:
    return results / "ab"[number % 2] / run_id(number % NUM)


def files(results: Path) -> list[Path]:
    return sorted(lookup.index_folder(results, entries.RUNS).glob("*.rows"))


def rewrite(path: Path, content: bytes) -> None:
    """Replace a file that no process has read before: files of the index never change."""
    path.with_name(f"{time.time_ns():020}-x.rows").write_bytes(content)
    path.unlink()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30)), max_size=8))
def test_a_list_is_right_after_any_changes(tmp_path: Path, steps: list[tuple[Any, int]]) -> None:
    with TemporaryDirectory(dir=tmp_path) as folder:
        results = fill(Path(folder) / "results")
        seen(results)
        for action, number in steps:
            action(results, number)
        assert seen(results) == seen_directly(results)
        assert seen(results) == seen_directly(results)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_list_is_right_after_each_change(results: Path, action: Any) -> None:
    seen(results)
    before = seen(results)
    action(results, 4)
    assert seen(results) == seen_directly(results)
    unseen = (copy_all, damage_index, cut_index, drop_index, list_between)
    assert (seen(results) == before) == (action in unseen)


def test_a_change_within_the_same_tick_is_seen(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of the content alone: equal times, size and inode, as within a tick of the clock."""
    monkeypatch.setattr(lookup, "SETTLED_S", 2.0)
    assert [count_reads(results, monkeypatch) for _ in range(2)] == [NUM, NUM]
    past = time.time_ns() - int(3e9)
    real = lookup.file_state
    monkeypatch.setattr(
        lookup, "file_state", lambda *of: [min(number, past) for number in real(*of) or ()]
    )
    assert [count_reads(results, monkeypatch) for _ in range(2)] == [NUM, 0]


def test_runs_of_another_version_are_read_again(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen(results)
    monkeypatch.setattr(lookup, "__version__", "another")
    assert [count_reads(results, monkeypatch) for _ in range(2)] == [NUM, 0]


def test_few_new_runs_are_not_worth_a_file(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(results)
    monkeypatch.setattr(lookup, "MIN_NEW", 2)
    add(results, 1)
    assert [count_reads(results, monkeypatch) for _ in range(2)] == [1, 1]
    add(results, 2)
    assert [count_reads(results, monkeypatch) for _ in range(2)] == [2, 0]


def test_files_are_united_and_rows_of_removed_runs_forgotten(results: Path) -> None:
    seen(results)
    drop(results, 0)
    for number in range(segments.MOST):
        add(results, number)
        assert seen(results) == seen_directly(results)
    assert len(files(results)) == 1
    rows = segments.read_rows(
        lookup.index_folder(results, entries.RUNS), lookup.full_schema(entries.RUNS)
    )
    assert len(rows) == NUM - 1 + segments.MOST


def test_a_results_folder_needs_no_writable_cache(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = results.parent / "file"
    file.touch()
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(file))
    assert [count_reads(results, monkeypatch) for _ in range(2)] == [NUM, NUM]


def test_nothing_is_written_beside_runs(results: Path) -> None:
    before = sorted(results.rglob("*"))
    seen(results)
    assert sorted(results.rglob("*")) == before


def test_few_runs_are_not_indexed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MIN_RUNS", NUM + 1)
    assert [count_reads(results, monkeypatch) for _ in range(2)] == [NUM, NUM]
    assert not files(results)


def test_processes_write_at_once(results: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cnnbench.runs.index import lookup;"
        "lookup.MIN_RUNS = lookup.MIN_NEW = 1; lookup.SETTLED_S = -1.0;"
        "from cnnbench.runs.find import list_runs;"
        "[print(len(list_runs(Path(sys.argv[1])).entries)) for _ in range(20)]"
    )
    command = [sys.executable, "-c", code, str(results)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for number in range(8):
        add(results, number)
        drop(results, number)
        assert seen(results) == seen_directly(results)
    for process in started:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert {int(line) for line in out.split()} <= set(range(NUM - 8, NUM + 9))
    assert seen(results) == seen_directly(results)


def test_a_killed_run_is_found_in_the_index(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish_otherwise(results, 0)
    path = run_of(results, 0)
    assert [entry.status for entry in list_runs(results).entries if entry.path == path] == [
        "killed"
    ]
    with hold(path):
        code = (
            "import sys; from pathlib import Path; from cnnbench.runs.index import lookup;"
            "lookup.MIN_RUNS = 1; from cnnbench.runs.find import list_runs;"
            "print(list_runs(Path(sys.argv[1])).entries[0].status)"
        )
        words = [sys.executable, "-c", code, str(results)]
        out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert out == "running\n"
    assert count_reads(results, monkeypatch) == 0


def test_the_curve_has_few_points() -> None:
    assert binned([float(n) for n in range(12)], 6) == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]


def test_the_list_of_the_command_is_the_same(results: Path) -> None:
    def listed() -> str:
        return CliRunner().invoke(app, ["list", "--results-dir", str(results)]).stdout

    first = listed()
    assert first.count("standard") == 0
    assert first.count("20251123T") == NUM
    assert listed() == first
