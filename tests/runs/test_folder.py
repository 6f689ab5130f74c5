"""Run folders: what is written survives, what is read is whole, what is meant is found."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnbench.errors import IncomparableError, StoreError, UsageError
from cnnbench.runs.find import (
    Listing,
    Selection,
    find_newest,
    find_run,
    find_runs,
    find_unfinished,
    list_runs,
    newest_finished,
    newest_group,
)
from cnnbench.runs.folder import (
    EPOCHS_FILE,
    RunEntry,
    RunFolder,
    _curve,
    create_run,
    disk,
    kept_seeds,
    read_epochs,
    read_run,
    read_run_entry,
    read_weights,
)
from cnnbench.runs.records import RunResult, Status
from cnnbench.system import commands
from cnnbench.system.locks import hold
from tests.support.paths import ROOT
from tests.support.samples import ENVIRONMENT, MNIST, STAND_IN, make_run, save, with_record

NOW = datetime(2025, 11, 23, 6, 30, 12, tzinfo=UTC)
DAMAGED = "; restore the file from a copy, or remove the run's folder."
GONE = "; restore the run folder, or remove the rest of it."


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's clock shows Tokyo's time."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


class TestCreate:
    def test_a_run_id_is_the_start_in_utc(self, tmp_path: Path) -> None:
        east = NOW.astimezone(timezone(timedelta(hours=5)))
        folder = create_run(tmp_path / "results", "standard", east)
        assert folder.run_id.startswith("20251123T063012Z-")
        assert folder.path == tmp_path / "results" / "standard" / folder.run_id
        assert folder.path.is_dir()

    @pytest.mark.usefixtures("elsewhere")
    def test_run_ids_sort_by_start_within_a_second(self, tmp_path: Path) -> None:
        starts = [NOW.replace(microsecond=part) for part in (0, 15, 16, 500_000, 999_999)]
        ids = [create_run(tmp_path, "standard", start).run_id for start in starts]
        ends = ("0000", "0001", "0002", "8000", "ffff")
        assert ids == [f"20251123T063012Z-{end}" for end in ends]

    def test_a_taken_folder_is_never_shared(self, tmp_path: Path) -> None:
        last = NOW.replace(microsecond=999_999)
        ids = [create_run(tmp_path, "standard", last).run_id for _ in range(3)]
        assert ids == [f"20251123T063012Z-{end}" for end in ("ffff", "0000", "0001")]

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", ".hidden", "a\0b", "a\n"])
    def test_a_name_cannot_leave_the_results(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(StoreError) as caught:
            create_run(tmp_path, name, NOW)
        message = f"{tmp_path}: {name!r} is not a valid folder name; rename the experiment."
        assert str(caught.value) == message
        assert names_in(tmp_path) == []

    def test_a_path_that_is_no_text_takes_a_run(self, tmp_path: Path) -> None:
        folder = create_run(tmp_path / "r\udce9", "standard", NOW)
        folder.write("checkpoints/seed-0/epoch-1.safetensors", b"1", memoryview(b"23"))
        assert (folder.path / "checkpoints/seed-0/epoch-1.safetensors").read_bytes() == b"123"

    def test_a_run_that_is_gone_is_not_made_anew(self, tmp_path: Path) -> None:
        folder = create_run(tmp_path, "standard", NOW)
        folder.path.rmdir()
        with pytest.raises(StoreError, match="restore the run folder"):
            folder.write("checkpoints/seed-0/epoch-1.safetensors", b"1")
        assert not folder.path.exists()

    def test_a_file_in_the_way_is_one_clear_line(self, tmp_path: Path) -> None:
        results = tmp_path / "results"
        results.write_text("")
        with pytest.raises(StoreError) as caught:
            create_run(results, "standard", NOW)
        assert str(caught.value) == (
            f"{results / 'standard'}: cannot create: not a directory; "
            "choose another folder with --results-dir."
        )


class TestWrite:
    def test_everything_written_is_read_back(self, tmp_path: Path) -> None:
        run = make_run(seeds=(0, 1))
        folder = create_run(tmp_path, "standard", NOW)
        folder.write_spec(b"name: \xff standard\n")
        folder.write_resolved("name: standard\n")
        folder.write_record(dataclasses.replace(run.record, status=Status.RUNNING))
        for epoch in run.epochs:
            folder.append_epoch(epoch)
        assert run.summary is not None
        folder.write_summary(run.summary)
        folder.write_tables("| Größe |\n", "title\n\ud800\n")
        folder.write_record(run.record)
        assert read_run(folder.path) == run
        assert (folder.path / "spec.yaml").read_bytes() == b"name: \xff standard\n"
        assert (folder.path / "resolved.yaml").read_text() == "name: standard\n"
        assert (folder.path / "table.md").read_text(encoding="utf-8") == "| Größe |\n"
        assert (folder.path / "table.csv").read_text() == "title\n\\ud800\n"
        assert names_in(folder.path) == [
            "epochs.jsonl",
            "resolved.yaml",
            "run.json",
            "spec.yaml",
            "summary.json",
            "table.csv",
            "table.md",
        ]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (errno.ENOSPC, "no space left on device; free some disk space."),
            (errno.EDQUOT, "disk quota exceeded; free some disk space."),
            (
                errno.EACCES,
                "permission denied; change its permissions, or choose another folder with "
                "--results-dir.",
            ),
            (errno.EROFS, "read-only file system; choose another folder with --results-dir."),
            (errno.EIO, "input/output error; choose another folder with --results-dir."),
        ],
    )
    def test_a_failed_write_leaves_the_old_file_and_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, reason: str
    ) -> None:
        folder = RunFolder(tmp_path)
        folder.write("table.md", b"old")

        def fail(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, step, fail)
        with pytest.raises(StoreError) as caught:
            folder.write("table.md", b"new")
        assert str(caught.value) == f"{tmp_path / 'table.md'}: cannot write: {reason}"
        assert (tmp_path / "table.md").read_bytes() == b"old"
        assert names_in(tmp_path) == ["table.md"]

    def test_a_vanished_folder_is_one_clear_line(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "gone")
        reason = f"cannot write: no such file or directory{GONE}"
        with pytest.raises(StoreError) as caught:
            folder.append_epoch(make_run().epochs[0])
        assert str(caught.value) == f"{folder.path / 'epochs.jsonl'}: {reason}"
        with pytest.raises(StoreError) as caught:
            folder.write_record(make_run().record)
        assert str(caught.value) == f"{folder.path / 'run.json'}: {reason}"

    def test_a_full_disk_is_one_clear_line(self, tmp_path: Path) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("this system has no /dev/full")
        (tmp_path / "epochs.jsonl").symlink_to("/dev/full")
        with pytest.raises(StoreError) as caught:
            RunFolder(tmp_path).append_epoch(make_run().epochs[0])
        assert str(caught.value) == (
            f"{tmp_path / 'epochs.jsonl'}: cannot write: no space left on device; "
            "free some disk space."
        )

    def test_an_error_that_the_system_does_not_name_is_one_clear_line(self) -> None:
        with pytest.raises(StoreError) as caught, disk(Path("here"), "read"):
            raise OSError("The Tape tore")
        assert str(caught.value) == (
            "here: cannot read: the tape tore; choose another folder with --results-dir."
        )

    def test_appended_lines_outlive_a_killed_process(self, tmp_path: Path) -> None:
        code = """
import os, signal, sys
from pathlib import Path
from cnnbench.runs.folder import RunFolder
from tests.support.samples import make_run
for epoch in make_run().epochs[:2]:
    RunFolder(Path(sys.argv[1])).append_epoch(epoch)
os.kill(os.getpid(), signal.SIGKILL)
"""
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
        assert done.returncode == -9
        RunFolder(tmp_path).write_record(make_run().record)
        assert read_run(tmp_path).epochs == make_run().epochs[:2]


class TestWeights:
    def test_what_each_seed_has_learnt_is_read_back(self, tmp_path: Path) -> None:
        learnt = {seed: {"out.kernel": np.full((2, 3), seed, np.float32)} for seed in (10, 9)}
        assert kept_seeds(tmp_path) == ()
        for seed, weights in learnt.items():
            RunFolder(tmp_path).write_weights(seed, weights)
        assert names_in(tmp_path / "weights") == ["seed-10.safetensors", "seed-9.safetensors"]
        assert kept_seeds(tmp_path) == (9, 10)
        for seed, weights in learnt.items():
            read = read_weights(tmp_path, seed)
            assert list(read) == ["out.kernel"]
            np.testing.assert_array_equal(read["out.kernel"], weights["out.kernel"])

    def test_their_folder_is_on_the_disk_before_a_file_is_in_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder's name is an entry of the folder around it."""
        synced: list[tuple[str, list[str]]] = []

        def sync(folder: Path) -> None:
            synced.append((folder.name, names_in(folder)))

        monkeypatch.setattr("cnnbench.runs.folder.sync_folder", sync)
        folder = create_run(tmp_path / "results", "standard", NOW)
        for seed in (0, 1):
            folder.write_weights(seed, {"out.bias": np.zeros(3)})
        assert synced == [("standard", [folder.run_id]), (folder.run_id, ["weights"])]

    def test_other_files_beside_them_are_no_seeds(self, tmp_path: Path) -> None:
        folder = tmp_path / "weights"
        folder.mkdir()
        for name in ("seed-3.safetensors", ".seed-4.safetensors.0a.partial", "seed-5.txt", "a"):
            (folder / name).write_bytes(b"")
        assert kept_seeds(tmp_path) == (3,)

    def test_a_missing_or_damaged_file_is_one_clear_line(self, tmp_path: Path) -> None:
        path = tmp_path / "weights" / "seed-3.safetensors"
        with pytest.raises(StoreError) as caught:
            read_weights(tmp_path, 3)
        assert str(caught.value) == f"{path}: cannot read: no such file or directory{GONE}"
        path.parent.mkdir()
        path.write_bytes(b"seed")
        with pytest.raises(StoreError) as caught:
            read_weights(tmp_path, 3)
        assert str(caught.value).startswith(f"{path}: not a valid safetensors file (")

    def test_a_folder_that_cannot_be_read_is_one_clear_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: Path) -> None:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

        (tmp_path / "weights").mkdir()
        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(StoreError) as caught:
            kept_seeds(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path / 'weights'}: cannot read: permission denied; change its permissions, or "
            "choose another folder with --results-dir."
        )


class TestRead:
    def test_a_run_that_just_began_has_no_epochs(self, tmp_path: Path) -> None:
        record = with_record(make_run(), status=Status.RUNNING).record
        RunFolder(tmp_path).write_record(record)
        assert read_run(tmp_path) == RunResult(record, None, ())
        assert read_run_entry(tmp_path) == RunEntry(tmp_path, record, None)

    def test_a_run_that_begins_while_nobody_holds_its_folder_was_killed(
        self, tmp_path: Path
    ) -> None:
        run = with_record(make_run(), status=Status.RUNNING)
        entry = read_run_entry(save(run, tmp_path))
        assert entry.status == "killed"
        with hold(entry.path):
            assert entry.status == "running"
        assert RunEntry(tmp_path, make_run().record, None).status == "finished"

    def test_epochs_that_are_replaced_are_those_that_are_read(self, tmp_path: Path) -> None:
        folder, epochs = RunFolder(tmp_path), make_run().epochs
        folder.append_epoch(epochs[0])
        folder.write_epochs(epochs[1:])
        assert read_epochs(tmp_path) == (epochs[1:], ())
        folder.write_epochs([])
        assert read_epochs(tmp_path) == ((), ())
        assert names_in(tmp_path) == ["epochs.jsonl"]

    @pytest.mark.parametrize("name", ["run.json", "summary.json", "epochs.jsonl"])
    def test_a_folder_in_the_place_of_a_file_is_one_clear_line(
        self, tmp_path: Path, name: str
    ) -> None:
        path = save(make_run(), tmp_path) / name
        path.unlink()
        path.mkdir()
        with pytest.raises(StoreError) as caught:
            read_run(path.parent)
        assert str(caught.value) == (
            f"{path}: cannot read: is a directory; choose another folder with --results-dir."
        )

    def test_a_line_that_is_no_epoch_is_refused_by_its_number(self, tmp_path: Path) -> None:
        path = save(make_run(), tmp_path) / "epochs.jsonl"
        first, *lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first + b"[]\n" + b"".join(lines))
        with pytest.raises(StoreError) as caught:
            read_run(path.parent)
        assert str(caught.value) == f"{path}:2: [] is not an object{DAMAGED}"

    @pytest.mark.parametrize("kept", [1, 40, -2, -1])
    def test_a_torn_last_line_is_a_warning(self, tmp_path: Path, kept: int) -> None:
        path = save(make_run(), tmp_path) / "epochs.jsonl"
        *lines, last = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines) + last[:kept])
        run = read_run(path.parent)
        assert run.epochs == make_run().epochs[:2]
        assert run.warnings == (
            f"{path}:3: ignored the last line, which is incomplete; "
            "the run was killed, or is writing it now.",
        )

    def test_a_torn_line_before_others_is_refused(self, tmp_path: Path) -> None:
        path = save(make_run(), tmp_path) / "epochs.jsonl"
        first, *lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first[:20] + b"\n" + b"".join(lines))
        with pytest.raises(StoreError) as caught:
            read_run(path.parent)
        assert str(caught.value) == f"{path}:1:21: not JSON: Expecting value{DAMAGED}"

    def test_an_epoch_that_stands_twice_is_refused(self, tmp_path: Path) -> None:
        path = save(make_run(), tmp_path) / "epochs.jsonl"
        path.write_bytes(path.read_bytes() + path.read_bytes())
        with pytest.raises(StoreError) as caught:
            read_run(path.parent)
        message = f"{path}:4: duplicate line for seed 0, epoch 1; remove one of the two."
        assert str(caught.value) == message

    def test_a_missing_record_is_one_clear_line(self, tmp_path: Path) -> None:
        for read in (read_run, read_run_entry):
            with pytest.raises(StoreError) as caught:
                read(tmp_path)
            message = f"{tmp_path / 'run.json'}: cannot read: no such file or directory{GONE}"
            assert str(caught.value) == message

    def test_a_truncated_file_is_refused_by_its_path(self, tmp_path: Path) -> None:
        for name in ("run.json", "summary.json"):
            path = save(make_run(), tmp_path / name) / name
            path.write_bytes(b"")
            with pytest.raises(StoreError) as caught:
                read_run(path.parent)
            assert str(caught.value) == f"{path}:1:1: not JSON: Expecting value{DAMAGED}"


def run_at(name: str, hour: int, status: Status = Status.FINISHED, tail: str = "0000") -> RunResult:
    run_id = f"20251123T{hour:02}0000Z-{tail}"
    started_at = NOW.replace(hour=hour, minute=0, second=0)
    return with_record(make_run(name, run_id=run_id), started_at=started_at, status=status)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two experiments with finished runs, one without; and what is no run at all."""
    folder = tmp_path / "results"
    save(run_at("standard", 7), folder)
    save(run_at("standard", 9, Status.FAILED), folder)
    save(run_at("standard", 8), folder)
    save(run_at("modified", 6), folder)
    save(run_at("broken", 10, Status.FAILED), folder)
    save(run_at("broken", 11, Status.INTERRUPTED), folder)
    save(run_at("broken", 12, Status.FAILED), folder)
    (folder / "README.md").write_text("notes")
    (folder / "standard" / "notes").mkdir()
    (folder / ".cache" / "20251123T000000Z-0000").mkdir(parents=True)
    return folder


def hours(found: Selection) -> list[tuple[str, int]]:
    return [(run.record.name, run.record.started_at.hour) for run in found.runs]


class TestHistory:
    def test_runs_are_listed_in_the_order_of_their_start(self, results: Path) -> None:
        found = list_runs(results)
        assert [entry.record.started_at.hour for entry in found.entries] == list(range(6, 13))
        assert found.entries[0].path == results / "modified" / "20251123T060000Z-0000"
        assert found.entries[0].summary == make_run().summary
        assert found.warnings == ()

    def test_the_newest_is_the_last_that_finished(self, results: Path) -> None:
        found = newest_finished(results)
        assert hours(found) == [("modified", 6), ("standard", 8)]
        assert found.runs[1] == run_at("standard", 8)
        assert found.warnings == ()

    def test_within_a_second_the_start_decides_not_the_random_digits(self, tmp_path: Path) -> None:
        early, late = run_at("standard", 7, tail="ffff"), run_at("standard", 7, tail="0000")
        late = with_record(late, started_at=late.record.started_at + timedelta(milliseconds=1))
        save(early, tmp_path)
        save(late, tmp_path)
        assert newest_finished(tmp_path).runs == (late,)

    def test_without_results_there_are_none(self, tmp_path: Path) -> None:
        assert list_runs(tmp_path / "none") == Listing((), ())
        assert newest_finished(tmp_path / "none") == Selection((), ())

    def test_a_start_in_the_future_is_told(self, results: Path) -> None:
        """The clock was set back since: of two runs, the newest may be the other."""
        soon = datetime.now(UTC) + timedelta(seconds=30)  # another machine's clock
        save(with_record(make_run(run_id="20301231T000000Z-0000"), started_at=soon), results)
        assert list_runs(results).warnings == ()
        future = datetime(2999, 1, 2, 3, 4, tzinfo=UTC)
        path = save(
            with_record(make_run(run_id="29990102T030400Z-0000"), started_at=future), results
        )
        told = (
            f"{path} started at 2999-01-02 03:04 UTC, which is in the future by this machine's"
            " clock, so it counts as the newest; select runs by run ID, or set the clock."
        )
        assert list_runs(results).warnings[0] == told
        assert find_run("standard", results) == (path, (told,))

    def test_what_cannot_be_read_is_passed_over_with_a_warning(self, results: Path) -> None:
        path = results / "standard" / "20251123T080000Z-0000" / "run.json"
        path.write_text("{")
        (results / "standard" / "20251123T100000Z-0000").mkdir()
        found = newest_finished(results)
        assert hours(found) == [("modified", 6), ("standard", 7)]
        unwritten = results / "standard" / "20251123T100000Z-0000" / "run.json"
        warnings = (
            f"skipped: {path}:1:2: not JSON: Expecting property name enclosed in double "
            f"quotes{DAMAGED}",
            f"skipped: {unwritten}: cannot read: no such file or directory{GONE}",
        )
        assert found.warnings == warnings
        assert list_runs(results).warnings == warnings
        assert find_runs(["standard"], results).warnings == (
            *warnings,
            "standard: using 20251123T070000Z-0000; skipped newer 20251123T090000Z-0000 (failed)",
        )

    def test_results_that_are_a_file_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "results"
        path.write_text("")
        for function in (list_runs, newest_finished):
            with pytest.raises(StoreError) as caught:
                function(path)
            assert str(caught.value) == (
                f"{path}: cannot read: not a directory; choose another folder with --results-dir."
            )


class TestFind:
    def test_by_name_path_and_id(self, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(results.parent)
        arguments = [
            "standard",
            "20251123T070000Z-0000",
            "20251123T06",
            "modified/20251123T060000Z-0000",
            "results/standard/20251123T070000Z-0000/",
            "results/standard",
            str(results / "broken" / "20251123T100000Z-0000"),
        ]
        found = find_runs(arguments, Path("results"))
        assert hours(found) == [
            ("standard", 8),
            ("standard", 7),
            ("modified", 6),
            ("modified", 6),
            ("standard", 7),
            ("standard", 8),
            ("broken", 10),
        ]

    def test_a_folder_of_the_same_name_elsewhere_is_not_meant(
        self, results: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (results.parent / "standard").mkdir()
        monkeypatch.chdir(results.parent)
        assert hours(find_runs(["standard"], results)) == [("standard", 8)]

    def test_a_warning_of_a_run_comes_along(self, results: Path) -> None:
        path = results / "modified" / "20251123T060000Z-0000" / "epochs.jsonl"
        with path.open("a") as file:
            file.write("{")
        found = find_runs(["modified"], results)
        assert found.warnings == found.runs[0].warnings
        assert len(found.warnings) == 1

    @pytest.mark.parametrize(
        ("argument", "hint"),
        [
            ("standrad", " (did you mean 'standard'?)"),
            ("20251123T060000-0000", " (did you mean '20251123T060000Z-0000'?)"),
            ("zebra", ""),
            ("", ""),
            (" ", ""),
            ("a\0b", ""),
        ],
    )
    def test_an_unknown_name_is_refused_with_those_there_are(
        self, results: Path, argument: str, hint: str
    ) -> None:
        with pytest.raises(UsageError) as caught:
            find_runs([argument], results)
        assert str(caught.value) == (
            f"command line: {argument!r} is not a run folder, run ID, tag or experiment in"
            f" {results}{hint}; write broken, modified or standard, or list all with: "
            + commands.cnnbench("list", "--results-dir", results)
        )

    def test_without_results_the_message_says_how_to_get_some(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError) as caught:
            find_runs(["idea"], tmp_path)
        assert str(caught.value) == (
            "command line: 'idea' is not a run folder, run ID, tag or experiment in"
            f" {tmp_path}, which contains no runs; start one with: cnnbench run standard"
            f" --results-dir {tmp_path}"
        )

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("mlp", "'mlp' has no run in OUT; train it with: cnnbench run mlp"),
            ("my idea", "'my idea' has no run in OUT; train it with: cnnbench run 'my idea'"),
            ("-a.yaml", "'-a.yaml' has no run in OUT; train it with: cnnbench run ./-a.yaml"),
            (
                "nets/b.yml",
                "'nets/b.yml' is an experiment file; write the name of its runs, modified.",
            ),
            (
                "standard.yaml",
                "'standard.yaml' is an experiment file; write the name of its runs, standard.",
            ),
        ],
    )
    def test_an_experiment_without_runs_names_the_command(
        self,
        results: Path,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
        argument: str,
        message: str,
    ) -> None:
        here = tmp_path_factory.mktemp("here")
        monkeypatch.chdir(here)
        (here / "nets").mkdir()
        for file, text in {
            "my idea.yaml": "{}",
            "-a.yaml": "name: a",
            "nets/b.yml": "name: modified",
            "standard.yaml": "[not: valid",
        }.items():
            (here / file).write_text(text)
        option = f" --results-dir {results}" if "cnnbench run" in message else ""
        for found in (find_run, find_unfinished, find_newest):
            with pytest.raises(UsageError) as caught:
                found(argument, results)
            expected = f"command line: {message.replace('OUT', str(results))}{option}"
            assert str(caught.value) == expected

    def test_the_beginning_of_several_ids_is_refused(self, results: Path) -> None:
        with pytest.raises(UsageError) as caught:
            find_runs(["20251123T0"], results)
        assert str(caught.value) == (
            "command line: '20251123T0' matches 4 run IDs; "
            "write more characters, as in 20251123T090000Z-0000"
        )

    def test_an_experiment_without_a_finished_run_is_refused(self, results: Path) -> None:
        with pytest.raises(IncomparableError) as caught:
            find_runs(["broken"], results)
        assert str(caught.value) == (
            f"{results / 'broken'}: no finished run (2 failed, 1 interrupted); "
            "run the experiment again"
        )

    @pytest.mark.parametrize("status", [Status.INTERRUPTED, Status.RUNNING])
    def test_an_unfinished_run_is_to_be_resumed(self, tmp_path: Path, status: Status) -> None:
        save(run_at("broken", 12, status), tmp_path)
        (path,) = (tmp_path / "broken").iterdir()
        with pytest.raises(IncomparableError) as caught:
            find_runs(["broken"], tmp_path)
        state = "interrupted" if status is Status.INTERRUPTED else "killed"
        assert str(caught.value) == (
            f"{path.parent}: no finished run (1 {state}); resume it with: "
            + commands.cnnbench("run", "--resume", path)
        )

    def test_a_name_too_long_for_a_folder_is_one_clear_line(self, results: Path) -> None:
        with pytest.raises(StoreError) as caught:
            find_runs(["a" * 300], results)
        assert str(caught.value) == (
            f"{'a' * 300}: cannot read: file name too long; choose a shorter name."
        )


def recipe(path: Path, rate: float) -> None:
    (path / "resolved.yaml").write_text(f"train: {{optimizer: {{learning_rate: {rate}}}}}\n")


def with_seeds(name: str, hour: int, seeds: Sequence[int], **changes: Any) -> RunResult:
    run = run_at(name, hour)
    return with_record(run, seeds=tuple(seeds), **changes)


def ids(*found_hours: int) -> list[str]:
    return [f"20251123T{hour:02}0000Z-0000" for hour in found_hours]


class TestChoose:
    """A name is the newest run with the settings of the others."""

    def test_a_casual_run_changes_nothing(self, tmp_path: Path) -> None:
        save(with_seeds("standard", 6, range(5)), tmp_path)
        save(with_seeds("wide", 7, range(5)), tmp_path)
        save(with_seeds("standard", 8, [0], epochs=1), tmp_path)
        found = find_runs(["standard", "wide"], tmp_path)
        assert hours(found) == [("standard", 6), ("wide", 7)]
        assert found.warnings == (
            "standard: using 20251123T060000Z-0000; skipped newer 20251123T080000Z-0000 (1 epoch,"
            " not 3; 1 seed, not 5)",
        )
        assert hours(find_runs(["standard"], tmp_path)) == [("standard", 8)]

    def test_newer_runs_of_all_are_taken(self, tmp_path: Path) -> None:
        for hour, seeds in ((6, 5), (8, 2)):
            save(with_seeds("standard", hour, range(seeds)), tmp_path)
            save(with_seeds("wide", hour + 1, range(seeds)), tmp_path)
        found = find_runs(["standard", "wide"], tmp_path)
        assert (hours(found), found.warnings) == ([("standard", 8), ("wide", 9)], ())

    def test_of_two_common_settings_those_that_were_complete_last(self, tmp_path: Path) -> None:
        save(with_seeds("standard", 6, range(5)), tmp_path)
        save(with_seeds("wide", 7, [0]), tmp_path)
        save(with_seeds("wide", 8, range(5)), tmp_path)
        save(with_seeds("standard", 9, [0]), tmp_path)
        found = find_runs(["standard", "wide"], tmp_path)
        assert hours(found) == [("standard", 9), ("wide", 7)]

    def test_the_run_that_is_named_decides(self, tmp_path: Path) -> None:
        save(with_seeds("standard", 6, range(5)), tmp_path)
        save(with_seeds("standard", 7, [0]), tmp_path)
        save(with_seeds("wide", 8, range(5)), tmp_path)
        save(with_seeds("wide", 9, [0]), tmp_path)
        found = find_runs(["standard", *ids(8)], tmp_path)
        assert hours(found) == [("standard", 6), ("wide", 8)]
        assert find_runs([*ids(9), "standard"], tmp_path).warnings == ()

    def test_another_learning_rate_is_another_recipe(self, tmp_path: Path) -> None:
        recipe(save(run_at("standard", 6), tmp_path), 0.01)
        recipe(save(run_at("wide", 7), tmp_path), 0.01)
        recipe(save(run_at("standard", 8), tmp_path), 0.5)
        found = find_runs(["standard", "wide"], tmp_path)
        assert hours(found) == [("standard", 6), ("wide", 7)]
        assert found.warnings == (
            "standard: using 20251123T060000Z-0000; skipped newer 20251123T080000Z-0000"
            " (train.optimizer.learning_rate 0.5, not 0.01)",
        )

    def test_another_augmentation_is_another_recipe(self, tmp_path: Path) -> None:
        datasets = {6: "{name: mnist}", 7: "{name: mnist, augment: null}",
                    8: "{name: mnist, augment: {mixup: {alpha: 0.2}, cutmix: null}}"}  # fmt: skip
        for hour, name in ((6, "standard"), (7, "wide"), (8, "standard")):
            path = save(run_at(name, hour), tmp_path)
            (path / "resolved.yaml").write_text(f"dataset: {datasets[hour]}\n")
        found = find_runs(["standard", "wide"], tmp_path)
        assert hours(found) == [("standard", 6), ("wide", 7)]
        assert found.warnings == (
            "standard: using 20251123T060000Z-0000; skipped newer 20251123T080000Z-0000"
            " (dataset.augment.mixup.alpha is set to 0.2)",
        )

    def test_recipes_that_differ_anyway_decide_nothing(self, tmp_path: Path) -> None:
        for hour in (6, 8):
            recipe(save(run_at("standard", hour), tmp_path), 0.01)
            recipe(save(run_at("wide", hour + 1), tmp_path), 0.1)
        found = find_runs(["standard", "wide"], tmp_path)
        assert hours(found) == [("standard", 8), ("wide", 9)]

    def test_seeds_may_differ_where_they_must(self, tmp_path: Path) -> None:
        save(with_seeds("standard", 6, range(5)), tmp_path)
        save(with_seeds("wide", 7, range(3)), tmp_path)
        save(with_seeds("standard", 8, [0], epochs=1), tmp_path)
        found = find_runs(["standard", "wide"], tmp_path)
        assert hours(found) == [("standard", 6), ("wide", 7)]

    def test_without_common_settings_the_newest(self, tmp_path: Path) -> None:
        save(with_record(run_at("standard", 6), dataset=STAND_IN), tmp_path)
        save(with_record(run_at("standard", 7), dataset=STAND_IN), tmp_path)
        save(run_at("wide", 8), tmp_path)
        assert hours(find_runs(["standard", "wide"], tmp_path)) == [("standard", 7), ("wide", 8)]

    def test_twice_are_two_of_the_same_settings(self, tmp_path: Path) -> None:
        for hour, seeds in ((6, 5), (7, 5), (8, 1), (9, 2), (10, 3), (11, 4)):
            save(with_seeds("standard", hour, range(seeds)), tmp_path)
        found = find_runs(["standard", "standard"], tmp_path)
        assert hours(found) == [("standard", 6), ("standard", 7)]
        assert found.warnings == (
            "standard: using 20251123T070000Z-0000; skipped newer 20251123T110000Z-0000 (4 seeds,"
            " not 5), 20251123T100000Z-0000 (3 seeds, not 5), 20251123T090000Z-0000 (2 seeds, not"
            " 5) and 1 more",
        )

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"dataset": STAND_IN}, "on mnist_5k, not mnist"),
            ({"dataset": replace(MNIST, digest="sha256:0")}, "different images of mnist"),
            (
                {"dataset": replace(MNIST, digest="sha256:0", num_train=500)},
                "500 training images, not 50,000",
            ),
            ({"batch_size": 100, "epochs": 9}, "9 epochs, not 3; batches of 100, not 500"),
            ({"seeds": (7,)}, "different seeds"),
            ({"environment": replace(ENVIRONMENT, device_kind="gpu")}, "on gpu, not cpu"),
        ],
    )
    def test_the_reason_is_told(self, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
        save(run_at("standard", 6), tmp_path)
        save(run_at("wide", 7), tmp_path)
        save(with_record(run_at("standard", 8), **changes), tmp_path)
        (told,) = find_runs(["standard", "wide"], tmp_path).warnings
        assert told.partition("skipped newer ")[2] == f"20251123T080000Z-0000 ({reason})"


class TestNewestGroup:
    def test_a_casual_run_is_no_group(self, tmp_path: Path) -> None:
        save(run_at("modified", 6), tmp_path)
        save(run_at("standard", 7), tmp_path)
        save(with_record(run_at("mlp", 8), dataset=STAND_IN), tmp_path)
        save(with_seeds("standard", 9, [0], epochs=1), tmp_path)
        found = newest_group(tmp_path)
        assert hours(found) == [("modified", 6), ("standard", 7)]
        assert found.warnings == (
            "standard: using 20251123T070000Z-0000; skipped newer 20251123T090000Z-0000 (1 epoch,"
            " not 3)",
            "skipped, not comparable with modified and standard: mlp; show all with: "
            + commands.cnnbench("compare", "--all", "--results-dir", tmp_path),
        )
        assert hours(newest_group(tmp_path, "mlp")) == [("mlp", 8)]
        assert hours(newest_group(tmp_path, ids(9)[0])) == [("standard", 9)]

    def test_the_run_that_is_the_baseline_is_taken(self, tmp_path: Path) -> None:
        save(with_record(run_at("standard", 6), tags=("old",)), tmp_path)
        save(run_at("modified", 7), tmp_path)
        save(run_at("standard", 8), tmp_path)
        for baseline in ("old", "standard@old", *ids(6)):
            found = newest_group(tmp_path, baseline)
            assert (hours(found), found.warnings) == ([("standard", 6), ("modified", 7)], ())
        assert hours(newest_group(tmp_path, "standard")) == [("standard", 8), ("modified", 7)]

    def test_without_a_group_the_newest_run(self, tmp_path: Path) -> None:
        save(run_at("standard", 7), tmp_path)
        save(with_record(run_at("mlp", 8), dataset=STAND_IN), tmp_path)
        assert hours(newest_group(tmp_path)) == [("mlp", 8)]

    def test_without_results_there_is_none(self, tmp_path: Path) -> None:
        assert newest_group(tmp_path / "none") == Selection((), ())


class TestTags:
    @pytest.fixture
    def tagged(self, tmp_path: Path) -> Path:
        save(with_record(run_at("standard", 6), tags=("base", "v 1")), tmp_path)
        save(with_record(run_at("standard", 7), tags=("base",)), tmp_path)
        save(with_record(run_at("standard", 8, Status.FAILED), tags=("base",)), tmp_path)
        save(with_record(run_at("wide", 9), tags=("v2",)), tmp_path)
        save(run_at("standard", 10), tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ("argument", "hour"),
        [("standard@base", 7), ("base", 7), ("@base", 7), ("v 1", 6), ("standard@v 1", 6),
         ("v2", 9), ("standard", 10)],
    )  # fmt: skip
    def test_a_tag_is_its_newest_finished_run(self, tagged: Path, argument: str, hour: int) -> None:
        assert find_run(argument, tagged)[0].name == ids(hour)[0]
        assert [h for _, h in hours(find_runs([argument], tagged))] == [hour]

    def test_one_to_resume(self, tagged: Path) -> None:
        assert find_unfinished("standard@base", tagged)[0].name == ids(8)[0]
        assert find_newest("base", tagged)[0].name == ids(8)[0]
        assert find_newest("standard", tagged)[0].name == ids(10)[0]

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            (
                "standard@bose",
                "command line: no run of 'standard' has the tag 'bose' (did you mean 'base'?);"
                " write standard@base or 'standard@v 1'.",
            ),
            (
                "other@x",
                "command line: no run of 'other' has the tag 'x'; add it with: cnnbench"
                " run --resume RUN --tag x",
            ),
            (
                "bose",
                "command line: 'bose' is not a run folder, run ID, tag or experiment in RESULTS"
                " (did you mean 'base'?); write standard or wide, or list all with: cnnbench"
                " list --results-dir RESULTS",
            ),
            (
                "@v",
                "command line: no run has the tag 'v'; write @base, '@v 1' or @v2.",
            ),
        ],
    )
    def test_what_is_no_tag(self, tagged: Path, argument: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            find_run(argument, tagged)
        assert str(caught.value) == message.replace("RESULTS", str(tagged))

    def test_a_tag_of_two_experiments_is_refused(self, tagged: Path) -> None:
        save(with_record(run_at("wide", 5), tags=("base",)), tagged)
        with pytest.raises(UsageError) as caught:
            find_run("base", tagged)
        assert str(caught.value) == (
            "command line: runs of standard and wide have the tag 'base'; write standard@base or"
            " wide@base."
        )
        assert find_run("wide@base", tagged)[0].name == ids(5)[0]


class TestFindUnfinished:
    def stopped(self, results: Path, run_id: str) -> Path:
        return save(with_record(make_run(run_id=run_id), status=Status.INTERRUPTED), results)

    def damaged(self, results: Path, run_id: str) -> str:
        (self.stopped(results, run_id) / "run.json").write_text("{")
        path = results / "standard" / run_id / "run.json"
        return (
            f"skipped: {path}:1:2: not JSON: Expecting property name enclosed in double "
            "quotes; restore the file from a copy, or remove the run's folder"
        )

    def test_the_newest_that_did_not_finish(self, tmp_path: Path) -> None:
        self.stopped(tmp_path, "20251123T063013Z-a1b2")
        newest = self.stopped(tmp_path, "20251123T063014Z-a1b2")
        save(make_run(run_id="20251123T063015Z-a1b2"), tmp_path)
        assert find_unfinished("standard", tmp_path) == (newest, ())

    def test_one_that_cannot_be_read_is_told(self, tmp_path: Path) -> None:
        path = self.stopped(tmp_path, "20251123T063013Z-a1b2")
        warning = self.damaged(tmp_path, "20251123T063014Z-a1b2")
        assert find_unfinished("standard", tmp_path) == (path, (f"{warning}.",))

    def test_why_none_can_be_read_is_told(self, tmp_path: Path) -> None:
        warning = self.damaged(tmp_path, "20251123T063014Z-a1b2")
        with pytest.raises(IncomparableError) as caught:
            find_run("standard", tmp_path)
        assert str(caught.value) == f"{tmp_path}/standard: no finished run; {warning}."

    @pytest.mark.parametrize("finished", [True, False])
    @pytest.mark.parametrize("damaged", [True, False])
    def test_none_that_could_go_on(self, tmp_path: Path, finished: bool, damaged: bool) -> None:
        folder = tmp_path / "standard"
        if finished:
            save(make_run(), tmp_path)
        found = (
            f"--resume: all runs in {folder} are finished; name another, or add --epochs N to"
            " extend the newest one."
        )
        if damaged:
            others = f"all others in {folder} are finished" if finished else "there are no others"
            found = f"--resume: {self.damaged(tmp_path, '20251123T063014Z-a1b2')}; {others}."
        if not (finished or damaged):
            found = (
                f"command line: 'standard' has no run in {tmp_path}; train it with: "
                + commands.cnnbench("run", "standard", "--results-dir", tmp_path)
            )
        with pytest.raises(UsageError) as caught:
            find_unfinished("standard", tmp_path)
        assert str(caught.value) == found


def test_a_run_with_a_damaged_epoch_has_no_curve(tmp_path: Path) -> None:
    """Numbers of epochs that cannot be ordered."""
    epoch = {"seed": 0, "epoch": 1, "train_loss": 0.5, "validation_loss": 0.25}
    lines = [json.dumps(epoch | {"epoch": number}) for number in (1, None)]
    (tmp_path / EPOCHS_FILE).write_text("".join(f"{line}\n" for line in lines))
    assert _curve(tmp_path, "loss") == ()
