"""A run that gets more seeds is that of a training with all of them, also after a kill."""

import dataclasses
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.errors import UsageError
from cnnbench.runner.batches.growing import growing, united
from cnnbench.runner.run import Request, run_by_turns
from cnnbench.runs.folder import RESOLVED_FILE, read_run
from cnnbench.runs.records import RunResult, Status
from cnnbench.runs.verify import check_run
from cnnbench.statistics.looks import Looks
from tests.runner.batches.test_batches import numbers, requests, train
from tests.runner.test_interleaving import Diary
from tests.support.samples import make_run, save, with_record


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Three seeds from the start."""
    folder = tmp_path_factory.mktemp("whole")
    (found,), _ = train(requests(folder, folder / "results", "a"))
    return found


def part(folder: Path, stop: int | None = None) -> RunResult:
    """A run of two seeds, stopped in a number of epochs."""
    (asked,) = requests(folder, folder / "results", "a")
    ended = stopped([dataclasses.replace(asked, overrides=("seeds=2",))], stop)
    assert ended == (stop is not None)
    (path,) = (folder / "results" / "a").iterdir()
    return read_run(path)


def stopped(asked: list[Request], stop: int | None) -> bool:
    """Trains until an epoch of the last request; True if Ctrl-C came at it."""
    seen = 0

    def watch(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == stop:
            raise KeyboardInterrupt

    watches = [lambda _: None] * (len(asked) - 1) + [watch]
    diaries = [Diary(each.path.stem, [], w) for each, w in zip(asked, watches, strict=True)]
    try:
        run_by_turns(asked, diaries)
    except KeyboardInterrupt:
        return True
    return False


def wanted(run: RunResult, seeds: str = "seeds=3") -> list[Request]:
    assert run.path
    found = run.path / RESOLVED_FILE
    options = {"device": "cpu", "engine": "plain", "results_dir": run.path.parent.parent}
    resumed = Request(found, run.record.overrides, resume=run.path, **options)  # type: ignore[arg-type]
    return growing(resumed, run.record, seeds)


def grown(run: RunResult) -> RunResult:
    assert run.path
    asked = wanted(read_run(run.path))
    results, _ = train(asked)
    (found,) = united(asked, results)
    return found


def test_only_missing_seeds_are_trained(whole: RunResult, tmp_path: Path) -> None:
    run = part(tmp_path)
    (asked,) = wanted(run)
    assert asked.load().experiment.seeds == (2,)
    found = grown(run)
    assert numbers(found) == numbers(whole)
    assert found.path
    assert check_run(found.path) == check_run(whole.path)  # type: ignore[arg-type]
    assert run.path
    assert read_run(run.path) == run
    assert numbers(grown(run)) == numbers(whole)
    assert len(list((tmp_path / "results" / "a").iterdir())) == 3  # the second time writes nothing


@pytest.mark.parametrize("stop", [3])
def test_an_interrupted_run_is_resumed_and_grows(
    whole: RunResult, tmp_path: Path, stop: int
) -> None:
    run = part(tmp_path, stop)
    assert run.record.status is Status.INTERRUPTED
    assert [each.load().experiment.seeds for each in wanted(run)] == [(0, 1), (2,)]
    assert numbers(grown(run)) == numbers(whole)


def test_an_interrupted_growth_goes_on(whole: RunResult, tmp_path: Path) -> None:
    """The seeds that were there are untouched, and the new ones resume."""
    run = part(tmp_path)
    assert stopped(wanted(run), 2)
    states = {read_run(each).record.status for each in (tmp_path / "results" / "a").iterdir()}
    assert states == {Status.FINISHED, Status.INTERRUPTED}
    assert numbers(grown(run)) == numbers(whole)
    assert len(list((tmp_path / "results" / "a").iterdir())) == 3


def test_the_command_prints_the_run_with_all_seeds(whole: RunResult, tmp_path: Path) -> None:
    part(tmp_path)
    results = str(tmp_path / "results")
    words = ["run", "--resume", "a", "--results-dir", results, "--quiet", "--engine", "plain"]
    done = CliRunner().invoke(app, [*words, "--seeds", "3"])
    assert done.exit_code == 0, done.output
    assert "over 3 seeds" in done.stdout
    found = Path(done.stdout.replace("\n", "").partition("Files: ")[2])
    assert found.parent == tmp_path / "results" / "a"
    assert numbers(read_run(found)) == numbers(whole)
    done = CliRunner().invoke(app, [*words, "--seeds", "4", "--epochs", "9"])
    message = "--resume: takes either more seeds or another number of epochs"
    assert f"{message}; run --epochs first, then --seeds." in done.stderr


@pytest.mark.parametrize("at", ["its own seeds", "new seeds"])
def test_a_growth_that_was_interrupted_goes_on_with_more_seeds(tmp_path: Path, at: str) -> None:
    """--seeds 4 after --seeds 3 was interrupted: nothing is lost, and nothing is trained twice."""
    (asked,) = requests(tmp_path, tmp_path / "whole", "a")
    (whole,), _ = train([dataclasses.replace(asked, overrides=("seeds=4",))])
    run = part(tmp_path, 3 if at == "its own seeds" else None)
    assert run.path
    assert at == "its own seeds" or stopped(wanted(run), 2)
    runs = tmp_path / "results" / "a"
    before = {path: read_run(path).epochs for path in runs.iterdir()}
    resume = ["run", "--resume", str(run.path), "--seeds", "4", "--engine", "plain", "--quiet"]
    words = [*resume, "--results-dir", str(tmp_path / "results")]
    dry = CliRunner().invoke(app, [*words, "--dry-run"]).stdout.replace("\n", " ")
    left = ["1", "2 and 3"] if at == "its own seeds" else ["2", "3"]
    assert re.findall(r"would (\w+) .*?, seeds? ([\d, and]*\d)", dry) == [
        ("resume", left[0]),
        ("train", left[1]),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = read_run(Path(done.stdout.replace("\n", "").partition("Files: ")[2]))
    assert numbers(found) == numbers(whole)
    assert check_run(found.path) == check_run(whole.path)  # type: ignore[arg-type]
    parts = [read_run(path) for path in runs.iterdir() if path != found.path]
    assert sorted(seed for each in parts for seed in each.record.seeds) == [0, 1, 2, 3]
    for path, epochs in before.items():  # with their times, but for those after a checkpoint
        assert read_run(path).epochs[: len(epochs) - 1] == epochs[:-1]
    times = [each.record.timing.train_s for each in [found, *parts] if each.record.timing]
    assert times[0] == pytest.approx(sum(times[1:]))


def test_seeds_are_not_taken_away(whole: RunResult) -> None:
    with pytest.raises(UsageError) as found:
        wanted(whole, "seeds=1")
    remedy = "list all seeds of the run, such as --seeds 4."
    assert str(found.value) == f"--seeds: {whole.path} also has seeds 1 and 2; {remedy}"


def test_seeds_that_are_not_the_first_ones_are_named(tmp_path: Path) -> None:
    """The remedy is a command that works: --seeds 8 has seeds 6 and 7, and six more."""
    (asked,) = requests(tmp_path, tmp_path / "results", "a")
    (run,), _ = train([dataclasses.replace(asked, overrides=("seeds=[6,7]",))])
    with pytest.raises(UsageError) as found:
        wanted(run)
    remedy = "list all seeds of the run, such as --seeds 8."
    assert str(found.value) == f"--seeds: {run.path} also has seeds 6 and 7; {remedy}"


def test_a_run_that_a_rule_stopped_does_not_grow(tmp_path: Path) -> None:
    path = save(
        with_record(make_run(), looks=Looks((4,), (0.03,), 0.05, "unpaired", 1, "", "0", ())),
        tmp_path,
    )
    with pytest.raises(UsageError) as found:
        wanted(read_run(path))
    reason = "was stopped by a rule, or is a trial; start a new run without --resume."
    assert str(found.value) == f"--seeds: {path} {reason}"


def test_a_python_model_is_trained_from_its_file(tmp_path: Path) -> None:
    path = save(make_run(), tmp_path)
    (path / "model.py").touch()
    with pytest.raises(UsageError) as found:
        wanted(read_run(path))
    reason = "has a Python model, which cannot train from a run folder"
    remedy = "run its experiment file with --seeds and --needed instead."
    assert str(found.value) == f"--seeds: {path} {reason}; {remedy}"
