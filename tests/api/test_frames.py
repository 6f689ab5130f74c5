"""`cnnbench.load_runs`: a row per run, seed and epoch."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

import cnnbench
from cnnbench.errors import StoreError, UsageError
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import Status
from tests.support.samples import make_run, on_other, save, with_record, without_validation

COLUMNS = [
    "run_id",
    "name",
    "title",
    "tags",
    "status",
    "task",
    "dataset",
    "device",
    "num_params",
    "seed",
    "epoch",
    "train_loss",
    "validation_loss",
    "validation_accuracy",
    "train_s",
    "eval_s",
    "samples_per_s",
    "test_accuracy",
    "test_loss",
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    save(with_record(make_run(seeds=(0, 1)), tags=("a", "b")), tmp_path)
    save(make_run("code", "Autoencoder", headline="loss", run_id="b"), tmp_path)
    return tmp_path


def test_rows_are_seeds_and_epochs_in_long_format(results: Path) -> None:
    frame = cnnbench.load_runs(results_dir=results)
    assert list(frame.columns) == COLUMNS
    assert list(zip(frame.name, frame.seed, frame.epoch, strict=True)) == [
        *(("standard", seed, epoch) for seed in (0, 1) for epoch in (1, 2, 3)),
        *(("code", 0, epoch) for epoch in (1, 2, 3)),
    ]
    assert list(frame.tags) == ["a, b"] * 6 + [""] * 3
    assert {*frame.status} == {"finished"}


def test_values_are_those_of_the_files(results: Path) -> None:
    frame = cnnbench.load_runs("standard", results_dir=results)
    (path,) = (results / "standard").iterdir()
    lines = (path / "epochs.jsonl").read_text().splitlines()
    oracle = pd.DataFrame(map(json.loads, lines))
    for column in ("seed", "epoch", "train_loss", "validation_loss", "validation_accuracy"):
        assert list(frame[column]) == list(oracle[column])
    tests = frame.dropna(subset=["test_accuracy"])
    assert list(zip(tests.seed, tests.epoch, strict=True)) == [(0, 3), (1, 3)]
    assert tests.test_accuracy.tolist() == pytest.approx([0.98, 0.981])
    # Numbers, so that mean() and plots work; not objects.
    assert all(pd.api.types.is_numeric_dtype(frame[name]) for name in COLUMNS[8:])


def test_rows_name_the_hardware_of_their_seed(tmp_path: Path) -> None:
    save(on_other(make_run(seeds=(0, 1)), 1), tmp_path)
    frame = cnnbench.load_runs(results_dir=tmp_path)
    assert frame.groupby("seed").device.first().tolist() == ["Example CPU @ 2.10GHz", "Other CPU"]


def test_a_run_without_validation_images_has_nan(tmp_path: Path) -> None:
    save(without_validation(make_run()), tmp_path)
    frame = cnnbench.load_runs(results_dir=tmp_path)
    assert "validation_accuracy" not in frame
    assert frame.validation_loss.isna().all()
    assert pd.api.types.is_numeric_dtype(frame.validation_loss)


def test_unfinished_runs_are_loaded_without_test_values(tmp_path: Path) -> None:
    run = dataclasses.replace(with_record(make_run(), status=Status.INTERRUPTED), summary=None)
    save(run, tmp_path)
    frame = cnnbench.load_runs(results_dir=tmp_path)
    assert {*frame.status} == {"interrupted"}
    assert frame.num_params.isna().all()
    assert not [name for name in frame if name.startswith("test_")]


def test_results_are_loaded_as_they_are(results: Path) -> None:
    (path,) = (results / "standard").iterdir()
    run = read_run(path)
    frame = cnnbench.load_runs([run])
    pd.testing.assert_frame_equal(frame, cnnbench.load_runs("standard", results_dir=results))
    pd.testing.assert_frame_equal(frame, cnnbench.RunList([run]).to_frame())
    assert len(cnnbench.load_runs(run, "code", results_dir=results)) == 9


def test_an_empty_selection_is_not_all_runs(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results.rename(results.with_name("results"))
    monkeypatch.chdir(results.parent)
    message = "runs: empty; name a run, or call load_runs() without runs to use all."
    for call in (lambda: cnnbench.load_runs([]), cnnbench.RunList().to_frame):
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            call()


def test_runs_that_cannot_be_read_are_warned_of(results: Path) -> None:
    (path,) = (results / "standard").iterdir()
    (path / "run.json").write_text("{")
    with pytest.warns(UserWarning, match=re.escape(f"skipped: {path}")) as found:
        frame = cnnbench.load_runs(results_dir=results)
    assert found[0].filename == __file__
    assert {*frame.name} == {"code"}


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(StoreError) as caught:
        cnnbench.load_runs(results_dir=gone)
    assert str(caught.value) == (
        f"results_dir: no runs in '{gone}'; start one with: cnnbench run standard --results-dir"
        f" {gone}"
    )


def test_without_pandas_the_extra_is_named(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    result = cnnbench.compare("standard", results_dir=results)
    for name, call in (
        ("load_runs", lambda: cnnbench.load_runs(results_dir=results)),
        ("to_frame", result.to_frame),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value) == (
            f"{name}: the package 'pandas' is not installed; run pip install 'cnnbench[pandas]'."
        )


def test_a_diverged_seed_has_the_epochs_that_it_trained(tmp_path: Path) -> None:
    run = make_run()
    first = dataclasses.replace(run.epochs[0], train_loss=math.inf)
    save(dataclasses.replace(run, epochs=(first,)), tmp_path)
    frame = cnnbench.load_runs(results_dir=tmp_path)
    assert frame.train_loss.tolist() == [math.inf]
    assert frame.test_accuracy.notna().all()
