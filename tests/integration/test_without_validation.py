"""Runs without validation images, which are only tested after the last epoch."""

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.cli.progress import epoch_line, headline, seed_line
from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.learning_curves import costs_text, curves, curves_text
from cnnbench.comparisons.thresholds import Threshold, check_threshold
from cnnbench.comparisons.verdict import Criteria, Effect, Finding
from cnnbench.errors import IncomparableError, Location, StoreError
from cnnbench.report import csv_json
from cnnbench.report.comparison import grid, notes
from cnnbench.report.html import report_page, table_page
from cnnbench.report.plots.charts import Chart, Shown
from cnnbench.report.run_list import list_table
from cnnbench.runner.tensorboard import EventFiles
from cnnbench.runs import codec
from cnnbench.runs.folder import read_run_entry
from cnnbench.runs.records import Direction, EpochRecord, RunResult
from cnnbench.runs.summary import lost_seeds, summarize_seed
from cnnbench.runs.verify import check_run
from cnnbench.training.events import Checkpoint, SeedDone
from tests.support.samples import make_run, save, without_validation
from tests.support.training import run_job
from tests.training.test_resume import numbers, resumed
from tests.training.test_trainer import CLASSES, Layers, make_dataset, make_job

LINEAR: Layers = {"dense": {"op": "dense", "units": CLASSES}}
SEEDS = tuple(range(6))


def two(**kwargs: Any) -> tuple[RunResult, RunResult]:
    """Two networks, the second better by 0.01 on the test images."""
    other = {"run_id": "20251124T063012Z-b2c3", "start": 0.92, **kwargs}
    runs = make_run(**kwargs), make_run("modified", "Modified CNN", **other)
    return without_validation(runs[0]), without_validation(runs[1])


# Training.


@pytest.fixture(scope="module")
def trained() -> list[Any]:
    job = make_job(LINEAR, make_dataset(12, 0, 5), seeds=(3, 1), epochs=3, batch_size=4)
    return run_job(job)


def test_only_the_last_epoch_is_tested(trained: list[Any]) -> None:
    """Training and test are bit-identical to those of a run with validation."""
    dataset = make_dataset(12, 0, 5)
    validated = dataclasses.replace(dataset, validation=make_dataset(7, 0, 0).train)
    usual = run_job(make_job(LINEAR, validated, seeds=(3, 1), epochs=3, batch_size=4))
    pairs = [
        [e for e in events if isinstance(e, EpochRecord | SeedDone)] for events in (trained, usual)
    ]
    for bare, full in zip(*pairs, strict=True):
        if isinstance(bare, SeedDone):
            assert bare.summary.test == full.summary.test
            assert (bare.summary.final, bare.summary.best) == ({}, {})
            assert full.summary.final
            for name, weights in bare.weights.items():
                np.testing.assert_array_equal(weights, full.weights[name])
        else:
            assert (bare.validation_loss, bare.metrics) == (None, {})
            assert not bare.validated
            assert bare.finite
            assert bare.train_loss == full.train_loss == bare.course("accuracy")
            assert math.isnan(bare.validation("accuracy"))


def test_resuming_gives_the_same_numbers(trained: list[Any]) -> None:
    job = make_job(LINEAR, make_dataset(12, 0, 5), seeds=(3, 1), epochs=3, batch_size=4)
    after = {3: 3, 1: 1}
    assert any(isinstance(event, Checkpoint) for event in trained)
    rest = run_job(resumed(job, trained, after, 1))
    assert numbers(rest, after) == numbers(trained, after)


def test_divergence_in_the_last_step_shows_in_the_test_loss() -> None:
    """The last training loss is from before that step, and no validation follows it."""
    run = without_validation(make_run())
    known: Any = {"metrics": {"loss": Direction.LOWER}, "compile_s": 0.0}
    lost = summarize_seed(run.epochs, test={"loss": math.inf}, **known)
    assert lost.diverged == 3
    assert summarize_seed(run.epochs, test={"loss": 0.5}, **known).diverged is None
    assert run.summary is not None
    summary = dataclasses.replace(run.summary, seeds=(dataclasses.replace(lost, seed=0),))
    assert lost_seeds(run.epochs, summary) == [0]
    assert lost_seeds(run.epochs) == []


def test_a_seed_that_diverges_in_its_last_step_is_not_compared() -> None:
    good, bad = two(seeds=SEEDS)
    assert bad.summary is not None
    first, *rest = bad.summary.seeds
    lost = dataclasses.replace(first, test={**first.test, "loss": math.nan}, diverged=3)
    bad = dataclasses.replace(bad, summary=dataclasses.replace(bad.summary, seeds=(lost, *rest)))
    found = compare([good, bad])
    assert found.verdicts[0].finding is Finding.DIVERGED
    assert found.remarks[0] == ("Warning: Modified CNN diverged with seed 0 (non-finite loss).")
    assert found.rows[-1].lost == "1 of 6 diverged"


# Files.


def test_files_round_trip(tmp_path: Path) -> None:
    run = without_validation(make_run(seeds=(0, 1)))
    line = codec.encode_epoch(run.epochs[0])
    assert json.loads(line)["validation_loss"] is None
    assert codec.decode_epoch(line, Location("epochs.jsonl")) == run.epochs[0]
    assert run.summary is not None
    assert codec.decode_summary(codec.encode_summary(run.summary), "summary.json") == run.summary


def test_half_a_summary_is_refused() -> None:
    run = make_run()
    assert run.summary is not None
    (seed,) = run.summary.seeds
    half = dataclasses.replace(run.summary, seeds=(dataclasses.replace(seed, best={}),))
    with pytest.raises(StoreError, match=r"seeds\.0\.best: metrics differ from those of the run"):
        codec.decode_summary(codec.encode_summary(half), "summary.json")


def test_check_verifies_the_validation_losses(tmp_path: Path) -> None:
    def complaints(run: RunResult, folder: str) -> list[str]:
        path = save(run, tmp_path / folder)
        return [line for line in check_run(path) if line.startswith(("epochs", "summary"))]

    bare, full = without_validation(make_run()), make_run()
    assert complaints(bare, "bare") == []
    mixed = (full.epochs[0], *bare.epochs[1:])
    assert complaints(dataclasses.replace(bare, epochs=mixed), "more") == [
        "epochs.jsonl: seed 0, epoch 1 has a validation loss, with 0 validation images"
    ]
    mixed = (bare.epochs[0], *full.epochs[1:])
    assert complaints(dataclasses.replace(full, epochs=mixed), "fewer") == [
        "epochs.jsonl: seed 0, epoch 1 has no validation loss, with 10,000 validation images"
    ]
    with pytest.raises(IncomparableError, match=r"no accuracy of seed 0, epoch 1 in epochs\.jsonl"):
        compare([dataclasses.replace(full, epochs=mixed)])


# Comparisons.


def test_the_table_shows_the_test_after_the_last_epoch() -> None:
    found = compare(two(seeds=SEEDS))
    assert grid(found, wide=False) == [
        ["Type", "Epoch", "Test accuracy", "Time"],
        ["Standard CNN", "3", "98.25 ± 0.19%", "6.83 s"],
        ["Modified CNN", "3", "99.25 ± 0.19%", "6.83 s"],
    ]
    assert "Test" not in grid(found, wide=True)[0]
    assert notes(found, wide=False)[:4] == (
        "Test accuracy: test set; mean ± standard deviation over 6 seeds.",
        "Time: one training epoch, excluding compilation and evaluation; mean over seeds.",
        "No validation set: tested after the last epoch. Verdicts use the test set. The test "
        "accuracy is optimistic if it was used for model selection.",
        "Data: MNIST; 60,000 training, no validation and 10,000 test images.",
    )


def test_verdicts_always_use_the_test_images() -> None:
    runs = two(seeds=SEEDS)
    for metric in (None, "accuracy", "test_accuracy"):
        (verdict,) = compare(runs, Criteria(metric=metric)).verdicts
        assert (verdict.metric, verdict.finding) == ("test_accuracy", Finding.BETTER)
        assert verdict.differences == pytest.approx([0.01] * 6)
    (verdict,) = compare(runs, Criteria(metric="loss")).verdicts
    assert verdict.metric == "test_loss"
    judged = check_threshold(Threshold("loss", 1, Effect(0.05, "relative"), "loss:+5%"), verdict)
    assert judged.text.startswith("loss:+5% passed: Modified CNN: test_loss +0.01 (")


def test_runs_with_and_without_validation_are_not_comparable() -> None:
    with pytest.raises(IncomparableError) as caught:
        compare([without_validation(make_run()), make_run("modified", run_id="b")])
    assert "60,000 / 0 / 10,000 images" in str(caught.value)


def test_a_target_is_checked_after_the_last_epoch_only() -> None:
    """Six seeds of 0.98 to 0.985; training takes 20.3 s, slightly more for each further seed."""
    first = compare(two(seeds=SEEDS), Criteria(target="0.982")).costs[0].target
    assert first is not None
    assert (first.reached, first.seeds) == (4, 6)
    whole = [sum(6.75 + seed / 100 + epoch / 50 for epoch in (1, 2, 3)) for seed in SEEDS]
    # Kaplan-Meier: seeds 2 to 5 reach it; 0 and 1 are censored before.
    assert first.median_s == pytest.approx(whole[3])
    nothing = compare(two(seeds=SEEDS), Criteria(target="1")).costs[0].target
    assert nothing is not None
    assert (nothing.reached, nothing.median_s) == (0, None)


def test_machine_readable_output_names_the_images() -> None:
    bare, full = compare(two(seeds=(0, 1))), compare([make_run()])
    for found, images, rows in ((bare, "test", 2), (full, "validation", 2)):
        read = list(csv.DictReader(io.StringIO(csv_json.csv_text([found]))))
        assert {row["images"] for row in read} == {images}
        assert len(read) == rows
        assert {row["best_epoch_mean"] for row in read} == {"" if found is bare else "3.0"}
        assert json.loads(csv_json.json_text([found]))["comparisons"][0]["images"] == images


def test_curves_show_the_training_loss() -> None:
    runs = two(seeds=(0, 1))
    found = compare(runs)
    drawn = curves(found, runs)
    assert [value.mean for value in drawn[0].values] == [0.5, 0.25, 0.5 / 3]
    assert curves_text(drawn, found, by_time=False) == (
        "Loss on the training images vs. epoch. "
        "Standard CNN: from 0.5000 (0.5000 to 0.5000) to 0.1667 (0.1667 to 0.1667) after 3 epochs. "
        "Modified CNN: from 0.5000 (0.5000 to 0.5000) to 0.1667 (0.1667 to 0.1667) after 3 epochs."
    )
    assert costs_text(found, by_time=False).startswith(
        "Accuracy on the test images vs. number of parameters. Standard CNN: 98.05% ("
    )


def test_charts_are_labeled() -> None:
    from tests.report.plots.test_charts import axes_of

    runs = two(seeds=(0, 1))
    drawn = Shown(compare(runs), curves(compare(runs), runs))
    texts = {
        chart: [text.get_text() for text in axes_of(chart, drawn).texts] for chart in drawn.charts()
    }
    assert "train loss (lower is better)" in texts[Chart.EPOCHS]
    assert "test accuracy (higher is better)" in texts[Chart.PARAMETERS]


def test_pages_and_lists(tmp_path: Path) -> None:
    from cnnbench.report.run_artifacts import RunArtifacts

    runs = two(seeds=(0, 1))
    found = compare(runs)
    shown = [RunArtifacts(run, row.label) for run, row in zip(runs, found.rows, strict=True)]
    page = report_page([found], runs, shown)
    for text in (
        "Test accuracy and time",
        "Loss on the training images",
        "Test accuracy after the last epoch, and its cost",
    ):
        assert text in page
    assert "validation images" not in page.replace("No validation images", "")
    assert "reaches test accuracy 98.00%" in table_page([compare([without_validation(make_run())])])
    entry = read_run_entry(save(runs[0], tmp_path))
    assert entry.curve == (0.5, 0.25, 0.5 / 3)
    from rich.console import Console

    listed = io.StringIO()
    Console(file=listed, width=90).print(list_table([entry], [entry.curve], "utf-8"))
    assert "test 98.05%" in listed.getvalue()


def test_lines_of_progress() -> None:
    run = without_validation(make_run(seeds=(0, 1)))
    assert headline(run.epochs[0]) == ", train loss 0.5000"
    assert epoch_line(run.epochs[0], 3) == (
        "seed 0, epoch 1/3: train loss 0.5000, 6.77 s, 7,386 images/s"
    )
    assert run.summary is not None
    assert seed_line(run.summary.seeds[1], (2, 6)) == (
        "seed 1 (2/6): test loss 0.9810, test accuracy 98.10%, 20.40 s"
    )


def test_tensorboard_gets_the_available_values(trained: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tests.runner.test_tensorboard import read

    job = make_job(LINEAR, make_dataset(12, 0, 5), seeds=(3, 1), epochs=3, batch_size=4)
    files = EventFiles(tmp_path, job.experiment)
    for event in trained:
        files.event(event)
    tags = set(read(tmp_path, 3).Tags()["scalars"])
    assert {"loss/train", "loss/test", "accuracy/test"} <= tags
    assert not [tag for tag in tags if "validation" in tag]


# From the command line.


def test_from_a_file_to_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        """
name: tiny
task: classify
dataset: {name: mnist_5k, splits: {train: 300, validation: 0}}
model: {layers: {out: {op: dense, units: 10}}}
train: {epochs: 2, batch_size: 50}
"""
    )
    done = CliRunner().invoke(app, ["run", "tiny.yaml"])
    assert done.exit_code == 0, done.output
    assert "seed 0: test loss " in done.stderr
    assert "Test accuracy" in done.stdout
    for words in (
        ["compare", "tiny", "--target", "0.2", "--metric", "loss"],
        ["list"],
        ["check"],
        ["report", "-o", "page.html"],
        ["plot", "tiny", "-o", "plot.svg"],
        ["inspect", "tiny"],
        ["run", "tiny.yaml", "--needed"],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output)
