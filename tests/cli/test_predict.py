"""`cnnbench predict` at the command line, and what it computes."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cnnbench.analysis import trained_network
from cnnbench.analysis.predict import Guess, Reconstruction, reconstruct
from cnnbench.cli.app import app
from cnnbench.data.catalog import READABLE
from cnnbench.data.own.image_files import PreparedImage
from cnnbench.report.predictions.files import (
    Predictions,
    csv_text,
    json_text,
    markdown,
    table,
    title,
)
from cnnbench.runs.folder import read_run
from tests.support.golden import approved
from tests.support.oracles import Array
from tests.support.pages import documented, flat_keys
from tests.support.samples import make_run

SPECS = """\
name: tiny
title: Tiny CNN
task: classify
dataset: {name: mnist_5k, train_examples: 200, splits: {validation: 20, test: 30}}
model:
  layers:
    conv: {op: conv, filters: 3, kernel: 5, stride: 4, activation: relu}
    drop: {op: dropout, rate: 0.5}
    out: {op: dense, units: 10}
train: {epochs: 1, batch_size: 20, optimizer: {name: adam, learning_rate: 0.01}}
seeds: [5, 6]
---
name: copy
task: reconstruct
dataset: {name: mnist_5k, train_examples: 20, splits: {validation: 20, test: 30}, pixel_scale: 200}
model:
  layers:
    conv: {op: conv, filters: 2, kernel: 4, stride: 4, activation: tanh}
    back: {op: conv_transpose, tie: conv}
train: {epochs: 1, batch_size: 20, loss: mae}
seeds: [5, 6]
"""


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, words, catch_exceptions=False)


def predict(run: str, *words: str) -> Any:
    return invoke("predict", run, "--results-dir", ".", *words)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predicted")
    files = []
    for text in SPECS.split("---\n"):
        files.append(folder / f"{text.split()[1]}.yaml")
        files[-1].write_text(text)
    words = ["run", *map(str, files), "--quiet", "--engine", "plain"]
    assert invoke(*words, "--results-dir", str(folder)).exit_code == 0
    for number, image in enumerate(
        trained_network.load_trained(run_of(folder)).dataset(None, print).test.images
    ):
        Image.fromarray(image[..., 0]).save(folder / f"{number:02d}.png")
    return folder


def run_of(results: Path, name: str = "tiny") -> Path:
    (path,) = (results / name).iterdir()
    return path


@pytest.fixture(autouse=True)
def _here(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(results)


def files(results: Path) -> list[str]:
    return sorted(path.name for path in results.glob("[0-9][0-9].png"))


def test_saved_test_images_give_the_accuracy_of_the_run(results: Path) -> None:
    """The run evaluated them in training's own programs."""
    labels = trained_network.load_trained(run_of(results)).dataset(None, print).test.labels
    summary = read_run(run_of(results)).summary
    assert summary is not None
    for seed in summary.seeds:
        words = ("--seed", str(seed.seed), "--format", "csv", *files(results))
        lines = list(csv.DictReader(io.StringIO(predict("tiny", *words).stdout)))
        right = [int(line["class"]) == label for line, label in zip(lines, labels, strict=True)]
        assert np.mean(right) == pytest.approx(seed.test["accuracy"])
        chances = np.array([float(line["probability"]) for line in lines])
        assert ((chances >= 0.1) & (chances <= 1)).all()


def test_saved_test_images_give_the_loss_of_the_run(results: Path) -> None:
    summary = read_run(run_of(results, "copy")).summary
    assert summary is not None
    done = json.loads(predict("copy", "--format", "json", *files(results)).stdout)
    assert done["seeds"] == [5, 6]
    loss = np.mean([entry["loss"] for entry in done["images"]])
    assert loss == pytest.approx(np.mean([s.test["loss"] for s in summary.seeds]), rel=1e-5)


def test_several_seeds_are_one_mean_and_a_vote(results: Path) -> None:
    done = json.loads(predict("tiny", "--format", "json", *files(results)).stdout)
    networks = [trained_network.load_trained(run_of(results), seed) for seed in (5, 6)]
    images = networks[0].dataset(None, print).test.images
    logits = np.stack([network.outputs(images).astype(np.float64) for network in networks])
    shares = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    votes = shares.argmax(axis=2)
    for number, entry in enumerate(done["images"]):
        mean = shares[:, number].mean(axis=0)
        order = np.argsort(-mean)
        assert entry["image"] == f"{number:02d}.png"
        assert (entry["class"], entry["runner_up"]) == (order[0], order[1])
        np.testing.assert_allclose(entry["probabilities"], mean, rtol=1e-5)
        assert (entry["probability"], entry["runner_up_probability"]) == (
            entry["probabilities"][order[0]],
            entry["probabilities"][order[1]],
        )
        assert entry["by_seed"] == votes[:, number].tolist()
        assert entry["agreement"] == (votes[:, number] == order[0]).sum()


def test_a_reconstruction_stands_beside_what_was_seen(results: Path) -> None:
    done = predict("copy", "03.png", "07.png")
    assert done.exit_code == 0
    network = trained_network.load_trained(run_of(results, "copy"))
    images = network.dataset(None, print).test.images[[3, 7]]
    outputs = network.outputs(images)
    (first, _) = reconstruct([network], images)
    target = images.astype(np.float64) / 200
    assert first.loss == pytest.approx(np.abs(outputs - target)[0].mean(), rel=1e-5)
    assert first.squared_error == pytest.approx(((outputs - target) ** 2)[0].mean(), rel=1e-5)
    np.testing.assert_array_equal(first.pixels, np.clip(outputs[0] * 200, 0, 255).round())
    lines = done.stdout.splitlines()
    assert [line.rstrip() for line in lines[:4]] == [
        "03.png",
        "28x28",
        "dark border (0): unchanged",
        "reconstruction by seed 5",
    ]
    assert max(map(len, lines)) <= 80
    header = next(line for line in lines if line.startswith("Image"))
    assert header.split("  ")[0] == "Image"
    assert re.findall(r"\S.*?(?=  |$)", header.strip()) == [
        "Image", "Squared error", "Loss (mae)", "Inverted",
    ]  # fmt: skip


def test_many_images_are_not_all_shown(results: Path) -> None:
    done = predict("tiny", *files(results)[:9])
    assert "3 more images; draw all of them with -o FILE.\n" in done.stdout
    assert done.stdout.count("dark border (0): unchanged") == 6


@pytest.mark.parametrize("run", ["tiny", "copy"])
def test_pictures_are_drawn(run: str, tmp_path: Path) -> None:
    file = tmp_path / "seen.svg"
    done = predict(run, "00.png", "01.png", "-o", str(file))
    assert (done.exit_code, done.stderr) == (0, f"wrote {file}\n")
    text = file.read_text()
    for name in ("00.png", "01.png"):
        assert re.search(rf"{name}: \S.*; dark border \(0\): unchanged", text)
    assert text.count("<image") == 2


def test_ink_on_paper_is_said_to_be_inverted(tmp_path: Path) -> None:
    paper = 255 - np.asarray(Image.open("04.png"))
    Image.fromarray(paper).save(tmp_path / "same.png")
    Image.fromarray(np.pad(paper, 100, constant_values=255)).save(tmp_path / "large.png")
    names = [str(tmp_path / name) for name in ("same.png", "large.png")]
    done = predict("tiny", *names, "04.png", "--format", "csv")
    same, large, want = csv.DictReader(io.StringIO(done.stdout))
    assert [each["inverted"] for each in (same, large, want)] == ["True", "True", "False"]
    assert (large["width"], large["height"], large["border"]) == ("228", "228", "255.0")
    assert same["probability"] == want["probability"]
    text = predict("tiny", names[1], "--trim").stdout
    assert "228x228, to 28x28" in text
    assert "light border (255): inverted" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("tiny", "no.png"), 2, f"no.png: no such file; specify a {READABLE} file."),
        (
            ("tiny", "tiny.yaml"),
            1,
            f"tiny.yaml: is damaged, or not a {READABLE} file; save it again, or remove it",
        ),
        (
            ("tin", "00.png"),
            2,
            "command line: 'tin' is not a run folder, run ID, tag or experiment in ."
            " (did you mean 'tiny'?); write copy or tiny, or list all with: cnnbench list"
            " --results-dir .",
        ),
        (("tiny", "00.png", "--seed", "1"), 2, "{run}: no weights of seed 1; write 5 or 6."),
        (
            ("tiny", "00.png", "-o", "a.pdf"),
            2,
            "--output: unsupported file type 'a.pdf'; use .svg or .png.",
        ),
    ],
)
def test_mistakes_end_in_a_message(
    results: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = predict(*words)
    run = run_of(results).relative_to(results)
    assert (done.exit_code, done.stderr) == (code, message.format(run=run) + "\n")


def test_a_run_without_weights_says_how_to_get_them(results: Path, tmp_path: Path) -> None:
    for file in (f for f in run_of(results).iterdir() if f.is_file()):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = invoke("predict", str(tmp_path), "00.png")
    message = f"{tmp_path}: no saved weights (older version, or no seed has finished)"
    assert (done.exit_code, done.stderr[: len(message)]) == (1, message)


def test_a_network_that_diverged_is_no_answer(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trained_network.TrainedNetwork,
        "outputs",
        lambda _, images: np.full((len(images), 10), np.nan),
    )
    done = predict("tiny", "00.png")
    run = run_of(results).relative_to(results)
    message = f"{run}: seed 5 diverged (its outputs are not finite); choose another with --seed."
    assert (done.exit_code, done.stderr) == (1, message + "\n")


def photograph(name: str, inverted: bool) -> PreparedImage:
    pixels = np.zeros((28, 28, 1), np.uint8)
    return PreparedImage(name, 640, 480, pixels, 209.25 if inverted else 0.5, inverted)


def found(reconstructs: bool = False) -> Predictions:
    photographs = [photograph("a|[b]\n.jpg", True), photograph("two.png", False)]
    answers: list[Guess | Reconstruction] = [
        Guess(7, 0.9325, 1, 0.03125, (7, 7, 1), (0.0, 0.03125, 0.9325)),
        Guess(0, 0.5, 8, 0.49951, (0, 0, 0), (0.5, 0.0, 0.49951)),
    ]
    if reconstructs:
        pixels: Array = np.zeros((28, 28, 1), np.uint8)
        answers = [Reconstruction(0.25, 0.0625, pixels), Reconstruction(0.0123456, 0.5, pixels)]
    record = make_run(seeds=(0, 1, 2)).record
    loss = "mae" if reconstructs else "cross_entropy"
    return Predictions(record, (0, 1, 2), loss, photographs, answers)


def test_predictions_look_as_they_should() -> None:
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, width=80)
    for each in (found(), found(reconstructs=True)):
        console.print(title(each), highlight=False)
        console.print(table(each))
        text.write(f"\n{markdown(each)}\n{csv_text(each)}\n{json_text(each)}\n")
    assert text.getvalue() == approved("predict.txt", text.getvalue())


def test_the_keys_of_json_are_documented() -> None:
    plain = found()
    dataset = replace(plain.record.dataset, classes=tuple("abcdefghij"))
    named = replace(plain, record=replace(plain.record, dataset=dataset))
    both = (json.loads(json_text(each)) for each in (named, found(reconstructs=True)))
    keys = {key for document in both for key in flat_keys(document)}
    assert documented("json.md", "`predict`") == keys
