"""`cnnbench compare --predictions`: results for each image of runs that have none."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.runner.predictions import compute_predictions, missing_predictions
from cnnbench.runs.folder import read_predictions, read_run
from cnnbench.runs.verify import check_run

# A variational autoencoder would not do: its weights do not have the random numbers of its loss.
SPEC = """\
name: {name}
title: Net {name}
task: classify
dataset: {{name: mnist_5k, train_examples: 100, splits: {{validation: 60, test: 40}}{more}}}
model:
  layers:
    conv: {{op: conv, filters: {filters}, kernel: 5, stride: 4, activation: relu}}
    norm: {{op: batch_norm}}
    out: {{op: dense, units: 10}}
train: {{epochs: 2, batch_size: 20, {train}}}
evaluation: {{augment: flip}}
seeds: [5, 6]
"""
# By name: filters, more of the dataset, and of the training.
RUNS = {
    "a": (2, "", "restore_best: loss"),
    "b": (3, "", "restore_best: loss"),
    "own": (2, ", split: {by_seed: true, validation: 0.2}", "optimizer: adam"),
}


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    files, where = [], ("--results-dir", str(folder / "results"))
    for name, (filters, more, train) in RUNS.items():
        files.append(folder / f"{name}.yaml")
        text = SPEC.format(name=name, filters=filters, more=more, train=train)
        if more:
            text = text.replace(
                "train_examples: 100, splits: {validation: 60, test: 40}", "train_examples: 100"
            )
        files[-1].write_text(text)
    for words in (files[:2], files[2:]):
        found = invoke("run", *map(str, words), "--quiet", "--engine", "fast", *where)
        assert found.exit_code == 0, found.output
    return folder / "results"


@pytest.fixture
def old(trained: Path, tmp_path: Path) -> Path:
    """The runs as an older version left them."""
    results = tmp_path / "results"
    shutil.copytree(trained, results)
    for path in results.glob("*/*/predictions"):
        shutil.rmtree(path)
    return results


def run_of(results: Path, name: str) -> Path:
    (path,) = (results / name).iterdir()
    return path


def compare(results: Path, *words: str) -> Any:
    return invoke("compare", "a", "b", "--results-dir", str(results), *words)


def test_the_weights_give_what_the_run_kept(
    trained: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, in files that `check` accepts; a second command computes nothing."""
    monkeypatch.setenv("COLUMNS", "200")
    note = (
        "a and Net b have no results for each image, as runs of older versions; add --predictions"
    )
    assert note in compare(old).stdout
    found = compare(old, "--predictions")
    assert found.exit_code == 0, found.output
    assert found.stderr == ""
    assert found.stdout.replace(str(old), "") == compare(trained).stdout.replace(str(trained), "")
    for name in ("a", "b"):
        path = run_of(old, name)
        for seed in (5, 6):
            want, own = (read_predictions(run_of(each, name), seed) for each in (trained, old))
            assert want is not None
            assert own is not None
            assert set(own) == set(want)
            assert all(np.array_equal(own[key], want[key]) for key in want)
        assert check_run(path) == []
        assert missing_predictions(read_run(path)) == ()
    monkeypatch.setattr("cnnbench.cli.commands.compare.compute_predictions", pytest.fail)
    assert compare(old, "--predictions").exit_code == 0


def test_seeds_with_images_of_their_own(trained: Path, old: Path) -> None:
    run = read_run(run_of(old, "own"))
    assert missing_predictions(run) == (5, 6)
    compute_predictions(run, None, pytest.fail)
    for seed in (5, 6):
        want, own = (read_predictions(run_of(each, "own"), seed) for each in (trained, old))
        assert want is not None
        assert own is not None
        assert all(np.array_equal(own[key], want[key]) for key in want)


def test_results_that_contradict_the_summary_are_not_stored(old: Path) -> None:
    """As of weights or images that are not those of the run."""
    path = run_of(old, "a")
    summary = json.loads((path / "summary.json").read_text())
    summary["seeds"][0]["test"]["accuracy"] += 0.025
    (path / "summary.json").write_text(json.dumps(summary))
    notes: list[str] = []
    compute_predictions(read_run(path), None, notes.append)
    assert notes == [
        f"{path}, seed 5: computed from its weights, test_accuracy differs from summary.json; not"
        " stored"
    ]
    assert read_predictions(path, 5) is None
    assert read_predictions(path, 6) is not None


def test_without_weights_nothing_is_computed(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for path in old.glob("*/*/weights"):
        shutil.rmtree(path)
    found = compare(old, "--predictions")
    assert found.exit_code == 0
    assert "as runs of older versions; without weights, they cannot be computed." in found.stdout
    assert not list(old.glob("*/*/predictions"))


def test_predictions_and_over_are_refused(old: Path) -> None:
    found = compare(old, "--predictions", "--over", "epochs")
    assert found.exit_code == 2
    assert found.stderr == ("--predictions: cannot be combined with --over; remove one of them.\n")
