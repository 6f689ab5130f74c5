"""Event files, read back by TensorBoard itself."""

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from cnnbench.analysis.trained_network import load_trained
from cnnbench.cli.app import app
from cnnbench.cli.progress import Silent
from cnnbench.errors import StoreError
from cnnbench.runner import tensorboard
from cnnbench.runner.run import Request, run_by_turns
from cnnbench.runner.tensorboard import COLUMNS, ZOOM, EventFiles, filter_grid, hyperparameters
from cnnbench.spec.loader import load_experiment
from cnnbench.training.events import Snapshot

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")

CLASSIFIER = """\
name: lines
task: classify
dataset: {name: mnist_5k, train_examples: 40, splits: {validation: 20, test: 20}}
model:
  layers:
    conv: {op: conv, filters: 3, kernel: 5, stride: 4}
    flat: {op: flatten}
    out: {op: dense, units: 10}
train: {epochs: 2, batch_size: 20, metrics: [accuracy, top5_accuracy]}
seeds: [4, 2]
"""
AUTOENCODER = """\
name: copies
task: reconstruct
dataset: {name: mnist_5k, train_examples: 40, splits: {validation: 20, test: 20}}
model:
  layers:
    flat: {op: flatten}
    code: {op: dense, units: 4}
    wide: {op: dense, units: 784, activation: sigmoid}
    image: {op: reshape, shape: [28, 28, 1]}
train: {epochs: 2, batch_size: 20, optimizer: {name: adam, learning_rate: 0.01}}
seeds: [0]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two experiments by turns, and the folder of each."""
    folder = tmp_path_factory.mktemp("events")
    requests = []
    for text in (CLASSIFIER, AUTOENCODER):
        path = folder / f"{text.split()[1]}.yaml"
        path.write_text(text)
        request = Request(path, results_dir=folder / "results", engine="plain", tensorboard=True)
        requests.append(request)
    results = run_by_turns(requests, [Silent(Console(quiet=True)) for _ in requests])
    return {
        run.record.name: folder / "results" / run.record.name / run.record.run_id for run in results
    }


def read(run: Path, seed: int) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = str(run / "tensorboard" / f"seed-{seed}")
    return EventAccumulator(folder, size_guidance={"histograms": 0}).Reload()


def float32(values: Any) -> list[float]:
    return [float(np.float32(value)) for value in values]


@pytest.mark.parametrize(("name", "seed"), [("lines", 4), ("lines", 2), ("copies", 0)])
def test_scalars_are_those_of_the_epochs(runs: dict[str, Path], name: str, seed: int) -> None:
    lines = [json.loads(line) for line in (runs[name] / "epochs.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["seed"] == seed]
    tags = {
        "loss/train": "train_loss",
        "loss/validation": "validation_loss",
        "time/train_s": "train_s",
        "time/eval_s": "eval_s",
        "time/samples_per_s": "samples_per_s",
    }
    metrics = ("accuracy", "top5_accuracy") if name == "lines" else ()
    tags |= {f"{metric}/validation": f"validation_{metric}" for metric in metrics}
    events = read(runs[name], seed)
    for tag, key in tags.items():
        found = events.Scalars(tag)
        assert [event.step for event in found] == [1, 2]
        assert [event.value for event in found] == float32(line[key] for line in lines)
    summary = json.loads((runs[name] / "summary.json").read_text())
    (test,) = [entry["test"] for entry in summary["seeds"] if entry["seed"] == seed]
    assert set(test) == {*metrics, "loss"}
    for metric, value in test.items():
        (event,) = events.Scalars(f"{metric}/test")
        assert (event.step, event.value) == (2, *float32([value]))
    assert set(events.Tags()["scalars"]) == {*tags, *(f"{metric}/test" for metric in test)}


def test_histograms_are_those_of_the_weights(runs: dict[str, Path]) -> None:
    events, weights = read(runs["lines"], 2), load_trained(runs["lines"], 2).weights
    assert set(events.Tags()["histograms"]) == {name.replace(".", "/") for name in weights}
    for name, value in weights.items():
        first, last = events.Histograms(name.replace(".", "/"))
        assert (first.step, last.step) == (1, 2)
        found = last.histogram_value
        assert (found.min, found.max, found.num) == (value.min(), value.max(), value.size)
        assert found.sum == pytest.approx(value.sum(dtype=float), rel=1e-5, abs=1e-6)
        assert found.sum_squares == pytest.approx((value.astype(float) ** 2).sum())
        assert sum(found.bucket) == value.size
        below = sum(found.bucket[:15])
        assert below == (value.astype(float) < found.bucket_limit[14]).sum()
    kernels = events.Histograms("out/kernel")
    assert kernels[0].histogram_value.sum != kernels[1].histogram_value.sum  # it has learnt


def pixels(event: Any) -> Any:
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_images_are_filters_and_reconstructions(runs: dict[str, Path]) -> None:
    events = read(runs["lines"], 4)
    assert events.Tags()["images"] == ["filters/conv"]
    (event,) = events.Images("filters/conv")
    picture = pixels(event)
    assert picture.shape == (event.height, event.width) == (5 * ZOOM, 3 * (5 * ZOOM + 2) - 2)
    kernel = load_trained(runs["lines"], 4).parameters["conv"]["kernel"]
    for number in range(3):
        left = number * (5 * ZOOM + 2)
        square = picture[: 5 * ZOOM : ZOOM, left : left + 5 * ZOOM : ZOOM]
        want = np.round(kernel[:, :, 0, number] / np.abs(kernel).max() * 127.5 + 127.5)
        np.testing.assert_array_equal(square, want)
    events = read(runs["copies"], 0)
    assert events.Tags()["images"] == ["reconstructions"]
    picture = pixels(events.Images("reconstructions")[0])
    assert picture.shape == (56, 280)
    network = load_trained(runs["copies"])
    images = network.dataset(None, pytest.fail).test.images[:10]
    for number, (image, output) in enumerate(zip(images, network.outputs(images), strict=True)):
        columns = slice(28 * number, 28 * number + 28)
        np.testing.assert_array_equal(picture[:28, columns], image[..., 0])
        np.testing.assert_allclose(picture[28:, columns], 256 * output[..., 0], atol=1.01)


def test_filters_of_a_colour_image_have_three_channels() -> None:
    kernel = np.zeros((1, 2, 3, 9))
    kernel[0, 1, 2, 8] = -4.0  # the last filter, its right column, blue
    grid = filter_grid(kernel)
    assert grid.shape == (2 * (ZOOM + 2) - 2, COLUMNS * (2 * ZOOM + 2) - 2, 3)
    assert grid[0, 0].tolist() == [128, 128, 128]
    assert grid[ZOOM + 2, ZOOM].tolist() == [128, 128, 0]
    assert filter_grid(np.zeros((3, 3, 1, 2)))[0, 0] == 128  # nothing learnt, nothing divided by


def test_hyperparameters_are_those_of_the_experiment(runs: dict[str, Path]) -> None:
    from tensorboard.plugins.hparams import metadata

    events = read(runs["lines"], 2)
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    info = metadata.parse_session_start_info_plugin_data(content)
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in info.hparams.items()}
    assert found == {
        "name": "lines",
        "dataset": "mnist_5k",
        "seed": 2,
        "model.conv.filters": 3,
        "model.conv.kernel": "[5, 5]",
        "model.conv.stride": "[4, 4]",
        "model.out.units": 10,
        "train.epochs": 2,
        "train.batch_size": 20,
        "train.optimizer.name": "sgd",
        "train.optimizer.learning_rate": 0.01,
        "train.optimizer.momentum": 0.9,
        "train.optimizer.nesterov": True,
        "train.optimizer.weight_decay": 0.0,
        "train.optimizer.decay_on": "kernels",
        "train.schedule.name": "constant",
        "train.schedule.warmup_epochs": 0.0,
        "train.precision": "float32",
        "train.label_smoothing": 0.0,
        "train.drop_last": True,
        "train.metrics": "['accuracy', 'top5_accuracy']",
    }
    assert info.group_name  # the same for all seeds of a run


def test_an_extended_run_has_the_new_number_of_epochs(tmp_path: Path) -> None:
    """Also where the first attempt to extend it was given up, and in every seed's file."""
    from tensorboard.plugins.hparams import metadata

    (tmp_path / "lines.yaml").write_text(CLASSIFIER)
    request = Request(
        tmp_path / "lines.yaml", results_dir=tmp_path / "results", engine="plain", tensorboard=True
    )
    (result,) = run_by_turns([request], [Silent(Console(quiet=True))])
    run = tmp_path / "results" / "lines" / result.record.run_id
    before = {seed: read(run, seed).Scalars("loss/train") for seed in (4, 2)}
    words = ["run", "--resume", str(run), "--epochs", "3"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    for seed in (4, 2):
        events = read(run, seed)
        content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        info = metadata.parse_session_start_info_plugin_data(content)
        assert info.hparams["train.epochs"].number_value == 3
        assert info.hparams["seed"].number_value == seed
        losses = events.Scalars("loss/train")
        assert [event.step for event in losses] == [1, 2, 3]
        assert losses[:2] == before[seed]


def test_arguments_of_a_python_model_are_hyperparameters(tmp_path: Path) -> None:
    start, end = CLASSIFIER.index("model:"), CLASSIFIER.index("train:")
    model = "model: {python: 'a:B', args: {w: 3}}\n"
    text = CLASSIFIER[:start] + model + CLASSIFIER[end:]
    (tmp_path / "python.yaml").write_text(text)
    found = hyperparameters(load_experiment(tmp_path / "python.yaml").experiment)
    assert {key: value for key, value in found.items() if key.startswith("model")} == {
        "model.w": 3,
        "model.python": "a:B",
    }


def test_file_names_tell_no_host(runs: dict[str, Path]) -> None:
    names = sorted(p.name for run in runs.values() for p in run.glob("tensorboard/*/*"))
    assert names == ["events.out.tfevents.cnnbench"] * 3


def test_a_diverged_seed_has_no_histogram(runs: dict[str, Path], tmp_path: Path) -> None:
    experiment = load_experiment(runs["lines"] / "resolved.yaml").experiment
    weights = {"a.kernel": np.asarray([1.0, np.nan]), "a.bias": np.asarray([2.0])}
    EventFiles(tmp_path, experiment).event(Snapshot(0, 1, weights))
    assert read(tmp_path, 0).Tags()["histograms"] == ["a/bias"]


def test_a_folder_in_the_way_is_one_clear_line(runs: dict[str, Path], tmp_path: Path) -> None:
    experiment = load_experiment(runs["lines"] / "resolved.yaml").experiment
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(StoreError, match=r"cannot write: .*; choose another folder with"):
        EventFiles(tmp_path, experiment).event(Snapshot(0, 1, {"a": np.ones(1)}))


def test_without_the_package_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> Any:
        return None if name == "tensorboard" else importlib.util.find_spec(name)

    monkeypatch.setattr(tensorboard, "find_spec", find)
    (tmp_path / "lines.yaml").write_text(CLASSIFIER)
    words = ["run", str(tmp_path / "lines.yaml"), "--tensorboard", "--results-dir", str(tmp_path)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 2
    message = "--tensorboard: the package 'tensorboard' is not installed"
    assert done.stderr == f"{message}; run pip install 'cnnbench[tensorboard]'.\n"
    assert not (tmp_path / "lines").exists()


def test_without_the_option_there_are_no_event_files(tmp_path: Path) -> None:
    (tmp_path / "copies.yaml").write_text(AUTOENCODER)
    request = Request(tmp_path / "copies.yaml", results_dir=tmp_path, engine="plain")
    run_by_turns([request], [Silent(Console(quiet=True))])
    assert not list(tmp_path.rglob("*tfevents*"))
