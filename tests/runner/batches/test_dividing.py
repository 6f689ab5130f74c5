"""A command with --needed beside interrupted runs of some of its seeds."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cnnbench
from cnnbench.cli.app import app
from cnnbench.runner.batches.dividing import DividedRequests, with_interrupted
from cnnbench.runner.run import Request
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunResult, Status
from cnnbench.system.locks import hold
from tests.runner.batches.test_batches import ARMS, numbers, requests, train
from tests.runner.batches.test_growing import stopped
from tests.support.samples import make_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[RunResult]:
    """Two arms with three seeds, from the start."""
    folder = tmp_path_factory.mktemp("whole")
    return train(requests(folder, folder / "results", *ARMS))[0]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one seed, and one that was interrupted in the second of two others."""
    folder = tmp_path_factory.mktemp("interrupted")
    train(asked(folder, "a", seeds=(4,)))
    assert stopped(asked(folder, "a", seeds=(0, 1)), 3)
    return folder


def asked(folder: Path, *names: str, seeds: Sequence[int], **more: object) -> list[Request]:
    words = (f"seeds=[{','.join(map(str, seeds))}]",)
    made = requests(folder, folder / "results", *names)
    return [dataclasses.replace(each, overrides=words, **more) for each in made]  # type: ignore[arg-type]


def seeds_of(parts: DividedRequests) -> list[tuple[int, ...]]:
    return [request.load().experiment.seeds for request in parts.requests]


def runs(folder: Path, name: str = "a") -> list[RunResult]:
    return [read_run(path) for path in sorted((folder / "results" / name).iterdir())]


def test_both_arms_are_resumed_and_get_the_other_seeds(
    whole: list[RunResult], tmp_path: Path
) -> None:
    """Interrupted in the second seed of two, then asked for three."""
    assert stopped(asked(tmp_path, *ARMS, seeds=(0, 1)), 3)
    before = [runs(tmp_path, name)[0] for name in ARMS]
    parts = with_interrupted(asked(tmp_path, *ARMS, seeds=(0, 1, 2), needed=True))
    assert seeds_of(parts) == [(0, 1), (2,)] * 2
    results, _ = train(parts.requests)
    found = parts.joined(results)
    assert [numbers(run) for run in found] == [numbers(run) for run in whole]
    for name, start in zip(ARMS, before, strict=True):
        resumed, other = runs(tmp_path, name)
        assert start.record.status is Status.INTERRUPTED
        assert resumed.epochs[:2] == start.epochs[:2]  # of the first seed, also their times
        assert other.record.seeds == (2,)


def test_the_command_resumes_and_shows_all_seeds(
    whole: list[RunResult], interrupted: Path, tmp_path: Path
) -> None:
    for each in ("results", "a.yaml"):
        move = shutil.copytree if each == "results" else shutil.copy
        move(interrupted / each, tmp_path / each)
    results, file = str(tmp_path / "results"), str(tmp_path / "a.yaml")
    words = ["run", file, "--needed", "--results-dir", results, "--engine", "plain"]
    done = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "over 3 seeds" in done.stdout
    assert [run.record.seeds for run in runs(tmp_path)] == [(4,), (0, 1), (2,)]
    again = cnnbench.run(file, needed=True, results_dir=results, engine="plain", progress=False)
    assert numbers(again[0]) == numbers(whole[0])
    assert len(runs(tmp_path)) == 3


def test_seeds_of_finished_runs_are_left_out(interrupted: Path) -> None:
    parts = with_interrupted(asked(interrupted, "a", seeds=(0, 1, 2, 4), needed=True))
    assert seeds_of(parts) == [(0, 1), (2, 4)]
    (request,) = with_interrupted(asked(interrupted, "a", seeds=(0, 2, 4), needed=True)).requests
    assert request.load().experiment.seeds == (0, 2, 4)


def test_runs_that_cannot_be_continued_are_named(interrupted: Path) -> None:
    path = runs(interrupted)[1].path
    assert path
    wanted = asked(interrupted, "a", seeds=(0, 2), needed=True)
    parts = with_interrupted(wanted)
    assert seeds_of(parts) == [(0, 2)]
    resume = f"cnnbench run --resume {path}"
    told = f"{path} (interrupted, seed 0) also has other seeds, so it is not used; resume: {resume}"
    assert parts.notes == [told]
    with hold(path):
        (note,) = with_interrupted(wanted).notes
    assert note == (
        f"{path} (interrupted, seed 0) is being trained; its seeds are trained here, too"
    )


@pytest.mark.parametrize("change", ["no needed", "other settings", "exact seeds", "other engine"])
def test_other_requests_are_left_alone(interrupted: Path, change: str) -> None:
    seeds = (0, 1) if change == "exact seeds" else (0, 1, 2)
    (request,) = asked(interrupted, "a", seeds=seeds, needed=change != "no needed")
    if change == "other settings":
        request = dataclasses.replace(request, overrides=[*request.overrides, "train.epochs=7"])
    if change == "other engine":
        request = dataclasses.replace(request, engine="fast")
    assert with_interrupted([request]) == DividedRequests([request], [], [0])


@pytest.mark.slow
def test_statistics_of_the_images_do_not_hide_an_interrupted_run(tmp_path: Path) -> None:
    words = ("dataset.normalize=auto", "train.class_weights=balanced")
    first, wanted = (
        [
            dataclasses.replace(each, overrides=(*each.overrides, *words), needed=True)
            for each in asked(tmp_path, "a", seeds=seeds)
        ]
        for seeds in ((0,), (0, 1))
    )
    assert stopped(first, 1)
    assert seeds_of(with_interrupted(wanted)) == [(0,), (1,)]
    (other,) = wanted
    other = dataclasses.replace(other, overrides=(*other.overrides, "train.epochs=7"))
    assert with_interrupted([other]).requests == [other]


def test_parts_of_an_experiment_are_joined_also_if_another_one_fails() -> None:
    one, two = make_run(seeds=(0, 1)), make_run(seeds=(2,), run_id="20261124T063012Z-c3d4")
    other = make_run("modified", seeds=(0, 1))
    request = Request(Path("a.yaml"))
    parts = DividedRequests([request] * 4, [], [0, 0, 1, 1])
    assert [run.record.seeds for run in parts.joined([other, one, two])] == [(0, 1), (0, 1, 2)]
    joined = parts.joined([one, two, other, make_run("modified", seeds=(5,))])
    assert [run.record.seeds for run in joined] == [(0, 1, 2), (0, 1, 5)]
