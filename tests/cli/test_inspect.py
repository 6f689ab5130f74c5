"""`cnnbench inspect` at the command line."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cnnbench.analysis.trained_network import load_trained
from cnnbench.cli.app import app
from cnnbench.runs.folder import read_run_entry

SPEC = """\
name: tiny
title: Tiny CNN
task: classify
dataset: {name: mnist_5k, train_examples: 20, splits: {validation: 20, test: 30}}
model:
  layers:
    conv: {op: conv, filters: 3, kernel: 5, stride: 4, activation: relu}
    flat: {op: flatten}
    out: {op: dense, units: 10}
train: {epochs: 1, batch_size: 20}
seeds: [5, 6]
"""


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    (folder / "tiny.yaml").write_text(SPEC)
    words = ["run", str(folder / "tiny.yaml"), "--quiet", "--engine", "plain"]
    assert invoke(*words, "--results-dir", str(folder)).exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _here(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(results)


def inspect(*words: str) -> Any:
    return invoke("inspect", "tiny", "--results-dir", ".", *words)


def run_of(results: Path) -> Path:
    (path,) = (results / "tiny").iterdir()
    return path


def test_every_layer_has_a_line(results: Path) -> None:
    done = inspect()
    assert done.exit_code == 0
    title, *lines = done.stdout.splitlines()
    assert title.rstrip() == "Tiny CNN, seed 5: 30 test images of mnist_5k"
    assert [line.split()[:2] for line in lines if re.match(r"(conv|flat|out) ", line)] == [
        ["conv", "6x6x3"],
        ["flat", "108"],
        ["out", "10"],
    ]
    assert "excites" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_seeds_differ_and_a_run_can_be_named_by_its_folder(results: Path) -> None:
    other = invoke("inspect", str(run_of(results)), "--seed", "6")
    assert other.exit_code == 0
    assert "seed 6: 30 test images" in other.stdout
    assert other.stdout.splitlines()[3:] != inspect().stdout.splitlines()[3:]


def test_images_are_predicted_and_units_asked_of_all_images(results: Path) -> None:
    done = inspect("--image", "7", "--image", "2", "--layer", "conv")
    assert done.exit_code == 0
    assert "seed 5: 2 of 30 test images of mnist_5k" in done.stdout
    network = load_trained(run_of(results))
    images = network.dataset(None, pytest.fail).test
    classes = network.outputs(images.images).argmax(axis=1)
    for number in (7, 2):
        line = rf"^ +{number} +{images.labels[number]} +{classes[number]} +[\d.]+% *$"
        assert re.search(line, done.stdout, re.MULTILINE)
    largest = network.activations(images.images, ["conv"])["conv"].max()
    assert "Top activations of conv: value, image (label)" in done.stdout
    assert f" {largest:.4g}, " in done.stdout


def test_activations_are_saved_for_numpy(results: Path, tmp_path: Path) -> None:
    file = tmp_path / "some.npz"
    done = inspect("--image", "7", "--image", "2", "--npz", str(file))
    assert (done.exit_code, done.stderr) == (0, f"wrote {file}\n")
    network = load_trained(run_of(results))
    test = network.dataset(None, pytest.fail).test
    with np.load(file) as found:
        assert found["input.numbers"].tolist() == [7, 2]
        np.testing.assert_array_equal(found["input"], test.images[[7, 2]])
        np.testing.assert_array_equal(found["input.labels"], test.labels[[7, 2]])
        for name, values in network.activations(test.images[[7, 2]]).items():
            np.testing.assert_array_equal(found[name], values)
    assert inspect("--layer", "out", "--npz", str(file)).exit_code == 0
    with np.load(file) as found:
        assert set(found) == {"input", "input.labels", "input.numbers", "out"}
        assert found["out"].shape == (30, 10)
        assert found["input.numbers"].tolist() == list(range(30))


def test_some_units_are_shown_and_all_that_are_asked_for() -> None:
    some, everything = (inspect("--layer", "out", "--units", n).stdout for n in ("3", "10"))
    title = "Top activations of out, 3 of 10 units (all: --units 10): value, image (label)\n"
    assert title in some
    assert "Top activations of out: value, image (label)\n" in everything
    assert len(everything.splitlines()) - len(some.splitlines()) == 7


@pytest.mark.parametrize("name", ["layer.png", "layer.svg"])
def test_pictures_are_drawn(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    done = inspect("--layer", "conv", "-o", str(file))
    assert (done.exit_code, done.stderr) == (0, f"wrote {file}\n")
    content = file.read_bytes()
    if name.endswith("svg"):
        for text in (b"conv: 3 filters of 5x5", b"image 0", b"top activations of conv"):
            assert text in content
    else:
        assert content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("-o", "a.pdf"), 2, "--output: unsupported file type 'a.pdf'; use .svg or .png."),
        (
            ("--npz", "a.npz"),
            2,
            "--npz: all layers of all images are too large; add --layer or --image.",
        ),
        (("--image", "30"), 2, "--image: there is no test image 30; write 0 to 29."),
        (
            ("--layer", "con"),
            2,
            "{run}: there is no layer 'con' (did you mean 'conv'?); write conv, flat or out.",
        ),
        (("--seed", "1"), 2, "{run}: no weights of seed 1; write 5 or 6."),
        (
            ("--layer", "out", "-o", "no/a.png"),
            1,
            "--output no/a.png: cannot be written: no such file or directory; name another.",
        ),
        (
            ("--layer", "out", "--npz", "no/a.npz"),
            1,
            "--npz no/a.npz: cannot be written: no such file or directory; name another.",
        ),
    ],
)
def test_mistakes_end_in_a_message(
    results: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = inspect(*words)
    run = run_of(results).relative_to(results)
    assert (done.exit_code, done.stderr) == (code, message.format(run=run) + "\n")


def test_an_older_run_says_that_it_kept_nothing(results: Path, tmp_path: Path) -> None:
    for file in (f for f in run_of(results).iterdir() if f.is_file()):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = invoke("inspect", str(tmp_path))
    message = f"{tmp_path}: no saved weights (older version, or no seed has finished)"
    again = shlex.join(read_run_entry(tmp_path).record.environment.command)
    assert (done.exit_code, done.stderr) == (1, f"{message}; retrain with: {again}\n")
