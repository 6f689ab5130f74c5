"""A folder of images, from the experiment to predictions with the names of its classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t as student
from typer.testing import CliRunner

from cnnbench.analysis.confusion import Mistake
from cnnbench.cli.app import app
from cnnbench.report.html import mistake_plate

SPEC = """\
name: own
task: classify
dataset:
  folder: pics
  channels: 1
  resize: {size: [8, 10], method: fit}
  pixel_scale: 255
model:
  layers:
    out: {op: dense, units: 2}
train: {epochs: 20, batch_size: 10, optimizer: {name: adam, learning_rate: 0.01}}
"""


def invoke(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label, name in enumerate(("left", "right")):
        (tmp_path / "pics" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(130, 160, (12, 15, 3), np.uint8)
            pixels[:, 7 * label : 7 * label + 8] += 90
            Image.fromarray(pixels).save(tmp_path / "pics" / name / f"{number}.webp")
    (tmp_path / "own.yaml").write_text(SPEC)
    return tmp_path


def test_from_a_folder_to_predictions(workplace: Path) -> None:
    shown = invoke("run", "own.yaml")
    assert "Data: pics; 28 training, 6 validation and 6 test images." in shown
    files = ["pics/left/3.webp", "pics/right/4.webp"]
    table = invoke("predict", "own", *files, "--format", "md")
    cells = [line.split("|")[2].strip() for line in table.splitlines() if ".webp" in line]
    assert cells == ["left", "right"]
    images = json.loads(invoke("predict", "own", *files, "--format", "json"))["images"]
    assert [(each["class"], each["class_name"]) for each in images] == [(0, "left"), (1, "right")]
    assert [each["runner_up_name"] for each in images] == ["right", "left"]
    # A light border is not inverted, unlike with a dataset of light digits on black.
    assert [each["inverted"] for each in images] == [False, False]
    inspected = invoke("inspect", "own", "--image", "0")
    label, prediction = inspected.strip().splitlines()[-1].split()[1:3]
    assert label == prediction
    assert label in {"left", "right"}
    invoke("report", "own", "-o", "report.html")
    page = (workplace / "report.html").read_text()
    assert '<table class="matrix named">' in page  # columns with vertical names
    assert '<th scope="col">Class</th><th scope="col">left</th><th scope="col">right</th>' in page
    refused = CliRunner().invoke(app, ["predict", "own", files[0], "--trim"])
    assert refused.stderr == (
        "--trim: not available for networks trained on a folder of images; remove it.\n"
    )


def test_a_run_outlives_its_folder(workplace: Path) -> None:
    invoke("run", "own.yaml", "--epochs", "1")
    (workplace / "pics").rename(workplace / "moved")
    table = invoke("predict", "own", "moved/left/3.webp", "--format", "csv")
    assert "left" in table or "right" in table
    done = CliRunner().invoke(app, ["export", "own", "--to", "safetensors"])
    assert done.exit_code == 0, done.stderr
    assert invoke("check", "own").count("ok")
    gone = CliRunner().invoke(app, ["inspect", "own", "--image", "0"])
    (run,) = Path("results/own").glob("*")
    assert gone.stderr.splitlines()[-1] == (
        f"{run}: its images are no longer in {workplace / 'pics'}; specify where they are with"
        " --data-dir"
    )
    assert "right" in invoke("inspect", "own", "--image", "0", "--data-dir", "moved")
    for file in (workplace / "moved" / "left").iterdir():
        file.write_bytes((workplace / "moved" / "right" / file.name).read_bytes())
    other = CliRunner().invoke(app, ["inspect", "own", "--image", "0", "--data-dir", "moved"])
    assert "is not what the run was trained on" in other.stderr


def test_test_errors_name_the_classes() -> None:
    image = np.zeros((8, 8, 1), np.uint8)
    mistake = Mistake(
        number=3, image=image, label=0, answer=1, probability=0.9, loss=2.0, wrong=1, seeds=1
    )
    plate = mistake_plate(mistake, ("cat", "dog").__getitem__)
    assert plate.alt == "Test image 3 of class cat, predicted as class dog"


def test_inspection_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, level in (("train/a", 0), ("train/b", 51), ("test/a", 102), ("val/b", 153)):
        (tmp_path / "pics" / name).mkdir(parents=True)
        for number in range(2):
            image = Image.new(
                "RGB", (4 + number, 6), (level, 2 * (level % 102), 255 - 255 * number)
            )
            image.save(tmp_path / "pics" / name / f"{number}.png")
    Path("pics/test/a/copy.png").write_bytes(Path("pics/train/a/1.png").read_bytes())
    Path("pics/train/b/broken.png").write_bytes(b"no image")
    shown = invoke("data", "inspect", "pics", "-o", "sheet.png").splitlines()
    cells = [line.split() for line in shown]
    assert ["a", "2", "0", "3"] in cells
    assert ["b", "3", "2", "0"] in cells
    assert shown[-9:] == [
        "Height: 6 to 6 pixels, median 6.",
        "Width: 4 to 5 pixels, median 5.",
        "Formats and modes: PNG RGB 9.",
        "Cannot be read: 1.",
        "  pics/train/b/broken.png: is damaged, or not a PNG, JPEG, WebP, GIF, BMP or TIFF file;"
        " save it again, or remove it",
        "Exact duplicates: 1.",
        "  In several splits: test/a/copy.png (test), train/a/1.png (train).",
        "Near duplicates: 0.",
        "Training images, pixels from 0 to 1: mean 0.100, 0.200, 0.500, std 0.100, 0.200, 0.500.",
    ]
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 100


def test_changes_of_a_dataset_are_shown_and_recorded(workplace: Path) -> None:
    (workplace / "noisy.yaml").write_text(
        "extends: own.yaml\nname: noisy\ndataset: {classes: {west: left, east: [right]},"
        " label_noise: 0.25}\ntrain: {epochs: 2}\n"
    )
    assert "\nDataset: label noise 25%, symmetric\n" in invoke("show", "noisy.yaml")
    shown = " ".join(invoke("run", "noisy.yaml").split())
    changes = [
        "classes west (left) and east (right)",
        "label noise 25%, symmetric: 8 of 28 training labels changed",
    ]
    assert f"Changes: {'; '.join(changes)}." in shown
    (record,) = workplace.glob("results/noisy/*/run.json")
    dataset = json.loads(record.read_text())["dataset"]
    assert (dataset["changes"], dataset["classes"]) == (changes, ["west", "east"])
    image = json.loads(invoke("predict", "noisy", "pics/left/3.webp", "--format", "json"))
    assert image["images"][0]["class_name"] in {"west", "east"}


@pytest.mark.parametrize(
    ("split", "words", "said"),
    [
        ("{validation: 0.2, by_seed: true}", ["--seeds", "4"], "4 seeds"),
        ("{folds: 4}", [], "4 folds"),
    ],
)
def test_seeds_that_share_images_are_compared_by_the_corrected_test(
    split: str, words: list[str], said: str, workplace: Path
) -> None:
    """Each seed validates on other images of the folder; the p-value allows for shared ones."""
    text = SPEC.replace("epochs: 20", "epochs: 1, metrics: [brier_score]")
    text = text.replace("  folder: pics", f"  split: {split}\n  folder: pics")
    (workplace / "own.yaml").write_text(text)
    hidden = "    hidden: {op: dense, units: 4}\n    out:"
    idea = text.replace("name: own", "name: idea").replace("    out:", hidden)
    (workplace / "idea.yaml").write_text(idea)
    invoke("run", "own.yaml", "idea.yaml", *words)
    shown = " ".join(invoke("compare", "own", "idea").split())
    assert "corrected resampled t-test (Nadeau and Bengio 2003)" in shown
    assert f", {said})" in shown
    document = json.loads(invoke("compare", "own", "idea", "--format", "json"))
    (verdict,) = document["comparisons"][0]["verdicts"]
    values = [
        {line["seed"]: line["validation_brier_score"] for line in epochs_of(workplace, name)}
        for name in ("own", "idea")
    ]
    own = np.array([values[1][seed] - values[0][seed] for seed in verdict["seeds"]])
    np.testing.assert_allclose(verdict["differences"], own, rtol=1e-6)
    records = [json.loads(path.read_text()) for path in workplace.glob("results/*/*/run.json")]
    shares = {r["dataset"]["num_validation"] / r["dataset"]["num_train"] for r in records}
    (overlap,) = shares
    error = np.sqrt(own.var(ddof=1) * (1 / len(own) + overlap))
    expected = 2 * student.sf(abs(own.mean()) / error, len(own) - 1)
    assert (verdict["test"], verdict["p"]) == ("resampled", pytest.approx(expected, rel=1e-6))


def epochs_of(workplace: Path, name: str) -> list[Any]:
    (file,) = (workplace / "results" / name).glob("*/epochs.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]
