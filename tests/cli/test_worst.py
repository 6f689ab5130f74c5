"""`cnnbench predict --worst`: the test images with the largest loss."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import log_loss
from typer.testing import CliRunner

import cnnbench
from cnnbench.analysis.trained_network import TrainedNetwork, load_seeds
from cnnbench.cli.app import app
from cnnbench.report.plots.contact_sheet import contact_sheet
from cnnbench.report.plots.terminal_image import ImageGroup
from tests.support.pages import documented, flat_keys

NAMES = {
    "classify": ["bag", "dress", "shoe"],
    "regress": ["mass", "price"],
    "multilabel": ["cat", "dog"],
}
SPEC = """
name: {task}
task: {task}
dataset: {{arrays: {task}.npz{more}}}
model: {{layers: {{out: {{op: dense, units: {units}}}}}}}
train: {{epochs: 1, batch_size: 20}}
seeds: 2
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, rng = tmp_path_factory.mktemp("worst"), np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 4, 6), np.uint8)
    targets = rng.normal([3, 200], [1, 50], (80, 2)).astype(np.float32)
    labels: dict[str, tuple[Any, str]] = {
        "classify": (rng.integers(0, 3, 80), "class_names"),
        "regress": (targets, "target_names"),
        "multilabel": ((targets > [3, 200]).astype(np.uint8), "class_names"),
    }
    found = {}
    for task, (values, key) in labels.items():
        named: Any = {key: np.array(NAMES[task])}
        np.savez(folder / f"{task}.npz", images=images, labels=values, **named)
        more = ", normalize_targets: auto" if task == "regress" else ""
        (folder / f"{task}.yaml").write_text(
            SPEC.format(task=task, more=more, units=len(NAMES[task]))
        )
        (run,) = cnnbench.run(folder / f"{task}.yaml", results_dir=folder / "r", progress=False)
        assert run.path is not None
        found[task] = run.path
    return found


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def worst(path: Path, *words: str) -> Any:
    words = ("predict", str(path), "--worst", "5", *words)
    return CliRunner().invoke(app, words, catch_exceptions=False)


def shares(logits: Any) -> Any:
    powers = np.exp(logits.astype(float))
    return powers / powers.sum(axis=1, keepdims=True)


def losses_of(task: str, network: TrainedNetwork) -> Any:
    test = network.dataset(None, pytest.fail).test
    outputs = network.outputs(test.images).astype(float)
    match task:
        case "classify":
            rows = zip(shares(outputs), test.labels, strict=True)
            return [log_loss([label], [row], labels=range(3)) for row, label in rows]
        case "regress":
            scale: Any = network.experiment.dataset.normalize_targets
            return (((outputs - test.labels) / np.array(scale.std)) ** 2).mean(axis=1)
    chances = 1 / (1 + np.exp(-outputs))
    return -np.log(np.where(test.labels == 1, chances, 1 - chances)).mean(axis=1)


@pytest.mark.parametrize("task", list(NAMES))
def test_they_are_the_images_with_the_largest_mean_loss(task: str, runs: dict[str, Path]) -> None:
    networks = load_seeds(runs[task])
    expected = np.mean([losses_of(task, network) for network in networks], axis=0)
    shown = json.loads(worst(runs[task], "--format", "json").stdout)
    order = np.argsort(-expected)[:5]
    assert shown["num_test"] == len(expected)
    assert [image["test_image"] for image in shown["images"]] == order.tolist()
    np.testing.assert_allclose([i["loss"] for i in shown["images"]], expected[order], rtol=1e-4)
    truth = networks[0].dataset(None, pytest.fail).test.labels[order]
    first = shown["images"][0]
    if task == "classify":
        names = [NAMES[task][label] for label in truth]
        assert [image["true_class_name"] for image in shown["images"]] == names
        assert [image["true_class"] for image in shown["images"]] == truth.tolist()
    elif task == "regress":
        assert [first["true_mass"], first["true_price"]] == pytest.approx(truth[0])
        outputs = [n.outputs(n.dataset(None, pytest.fail).test.images[order[:1]]) for n in networks]
        assert [first["mass"], first["price"]] == pytest.approx(np.mean(outputs, axis=0)[0])
    else:
        own = "|".join(name for name, has in zip(NAMES[task], truth[0], strict=True) if has)
        assert first["true_labels"] == own


@pytest.mark.parametrize(
    ("task", "header"),
    [
        ("classify", "Image True Predicted Probability Runner-up Agreement Loss"),
        ("regress", "Image mass true price true mass predicted price predicted Loss"),
        ("multilabel", "Image True Predicted (probability) Loss"),
    ],
)
def test_tables_name_truth_and_prediction(task: str, header: str, runs: dict[str, Path]) -> None:
    text = worst(runs[task], "--format", "md").stdout
    assert " ".join(text.splitlines()[2].replace("|", " ").split()) == header
    table = worst(runs[task]).stdout
    assert re.search(r"the 5 of \d+ test images with the largest", " ".join(table.split()))
    assert max(map(len, table.splitlines())) <= 80
    rows = list(csv.DictReader(io.StringIO(worst(runs[task], "--format", "csv").stdout)))
    assert len(rows) == 5


def test_the_picture_has_every_image_with_its_caption(
    tmp_path: Path, runs: dict[str, Path]
) -> None:
    done = worst(runs["classify"], "-o", str(tmp_path / "sheet.svg"))
    text = (tmp_path / "sheet.svg").read_text()
    images = json.loads(worst(runs["classify"], "--format", "json").stdout)["images"]
    assert text.count("<image") == 5
    for image in images:
        assert f"{image['test_image']}: {image['true_class_name']}" in text
        assert f"\N{RIGHTWARDS ARROW} {image['class_name']}" in text
    assert f"wrote {tmp_path / 'sheet.svg'}" in " ".join(done.output.split())


def test_long_captions_end_in_an_ellipsis(tmp_path: Path) -> None:
    images = [np.zeros((4, 4, 3), np.uint8)]
    group = ImageGroup(["7: " + "a long name " * 20, "\N{RIGHTWARDS ARROW} b"], images)
    (tmp_path / "sheet.png").write_bytes(contact_sheet([group] * 7, "Two rows", "png"))
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.width == 880
    text = contact_sheet([group], "", "svg").decode()
    assert text.count("\N{HORIZONTAL ELLIPSIS}") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["7.png"], "--worst: shows test images, on which image files have no effect; remove them"),
        (["--trim"], "--worst: shows test images, on which --trim has no effect; remove it"),
        (["--invert", "yes"], "--worst: shows test images, on which --invert has no effect;"),
    ],
)
def test_arguments_without_effect_are_refused(
    words: list[str], message: str, runs: dict[str, Path]
) -> None:
    done = worst(runs["classify"], *words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_neither_files_nor_worst_is_an_error(runs: dict[str, Path]) -> None:
    done = CliRunner().invoke(app, ["predict", str(runs["classify"])])
    assert done.exit_code == 2
    assert " ".join(done.output.split()) == (
        "predict: IMAGE is missing; name one or more image files, or add --worst 16 for test"
        " images."
    )


def test_the_keys_of_json_are_documented(runs: dict[str, Path]) -> None:
    keys = set(flat_keys(json.loads(worst(runs["classify"], "--format", "json").stdout)))
    assert documented("json.md", "`predict --worst`") == keys


@pytest.mark.parametrize("task", ["regress", "multilabel"])
def test_reports_show_the_images_with_the_highest_loss(
    task: str, tmp_path: Path, runs: dict[str, Path]
) -> None:
    page = tmp_path / "report.html"
    words = ["report", str(runs[task]), "-o", str(page)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    text = page.read_text()
    assert "Errors on the test images" in text
    assert f"{task}, mean over 2 seeds: test images with the highest loss." in text
