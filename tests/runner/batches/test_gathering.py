"""Runs that `merge` unites, by the words of its command line, and what it says about them."""

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cnnbench
from cnnbench.cli.app import app
from cnnbench.errors import UsageError
from cnnbench.runner.batches.gathering import doubts, merge_named
from cnnbench.runs.records import RunResult, Status
from tests.runner.batches.test_batches import SECOND, numbers, only
from tests.support.samples import make_run, on_device, save, with_record


def sharded(shard: str, **changes: object) -> RunResult:
    """A run of a shard, with changes to its environment."""
    run = make_run(seeds=(int(shard[0]),), run_id=f"2025112{shard[0]}T063012Z-a1b2")
    return on_device(run, command=("cnnbench", "run", "a", "--shard", shard), **changes)


def merge(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["merge", *words])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_and_the_function_unite_folders(machines: Path, tmp_path: Path) -> None:
    folders = [str(machines / each) for each in ("m1", "m2")]
    code, said, warned = merge(*folders, "--output", str(tmp_path))
    paths = [next((tmp_path / name).iterdir()) for name in ("a", "b")]
    assert (code, warned) == (0, "")
    lines = [f"{path}: 3 seeds of 2 runs" for path in paths]
    assert said.splitlines()[:2] == lines
    found = cnnbench.merge(folders, output=tmp_path)
    assert [run.path for run in found] == paths
    assert numbers(found[0]) == numbers(only(machines / "whole", "a"))
    again = cnnbench.merge([only(machines / each, "b") for each in ("m1", "m2")], output=tmp_path)
    assert [run.path for run in again] == paths[1:]
    assert merge(*folders, "--output", str(tmp_path))[1].splitlines()[0] == (
        f"{paths[0]}: has all 3 seeds already"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["{m}", "{m}"],
            "merge: there is one run of each of a and b; name the folders of other machines, too.",
        ),
        (["nowhere"], "merge: no folder 'nowhere'; name folders of results, or runs in results."),
        (
            ["../m1", "{m}"],
            "merge: no folder '../m1'; name folders of results, or runs in results.",
        ),
        (
            ["m1", "m2", "--results-dir", "{m}"],
            "merge: no folder 'm1', and 'm1' is not a run folder, run ID, tag or experiment in {m};"
            " write a or b, or list all with: cnnbench list --results-dir {m}",
        ),
        (
            ["empty"],
            "merge: empty is not a folder of results, since it has no runs; name folders of"
            " results, or runs.",
        ),
        (
            ["{above}"],
            "merge: {above} is not a folder of results, since it has no runs; name {m}, {two} or"
            " {whole}.",
        ),
        (
            ["{m}", "--output", "{file}"],
            "merge: --output: '{file}' is not a folder; name a new one.",
        ),
    ],
)
def test_mistakes(
    machines: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    places = {"m": str(machines / "m1"), "two": str(machines / "m2"), "file": "file"}
    places |= {"above": str(machines), "whole": str(machines / "whole")}
    code, said, warned = merge(*(word.format(**places) for word in words))
    assert (code, said, warned) == (2, "", f"{message.format(**places)}\n")


def test_nothing_is_named() -> None:
    with pytest.raises(UsageError) as found:
        cnnbench.merge([])
    assert str(found.value) == "runs: none given; name runs, or folders of results."


def test_missing_shards_and_other_versions_are_told() -> None:
    notes = [
        "standard: runs have jax 0.10.2 and 0.11.0, so results may differ slightly",
        "standard: shards 2/4 and 4/4 are missing",
    ]
    assert list(doubts([sharded("1/4"), sharded("3/4", jax="0.11.0")])) == notes
    assert not list(doubts([sharded("1/2"), sharded("2/2")]))


def test_experiments_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Runs of one second, whose ids are in no order."""
    for name, run_id in (("a", SECOND), ("b", "20251123T063012Z-0000")):
        save(with_record(make_run(run_id=run_id), name=name), tmp_path)
    with pytest.raises(UsageError, match="there is one run of each of a and b; "):
        merge_named([tmp_path], tmp_path, tmp_path)


def test_unfinished_runs_of_a_folder_are_told(tmp_path: Path) -> None:
    save(make_run(seeds=(0,)), tmp_path)
    stopped = with_record(make_run(seeds=(1,), run_id=SECOND), status=Status.INTERRUPTED)
    path = save(dataclasses.replace(stopped, summary=None), tmp_path)
    with pytest.raises(UsageError) as found:
        merge_named([tmp_path], tmp_path, tmp_path)
    assert str(found.value) == (
        f"{path} is interrupted, so it is left out; resume it with: cnnbench run --resume {path}\n"
        "merge: there is one run of standard; name the folders of other machines, too."
    )
