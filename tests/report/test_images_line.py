"""The line of `cnnbench show` on the split, against the images that are loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnbench.data.dataset import dataset_of
from cnnbench.report.data_inspection import images_line
from cnnbench.spec.experiment import DatasetSpec
from cnnbench.spec.loader import load_experiment

MODEL = "model: {layers: {out: {op: dense, units: %d}}}\n"
BY_SEED = {"split": {"validation": 0.2, "by_seed": True}}
OTHERS: list[dict[str, Any]] = [
    *({}, {"split": {"validation": 0.25, "test": 0.1}}, BY_SEED, {"split": {"folds": 5}}),
    *({"subset": 20}, {**BY_SEED, "subset": {"per_class": 4}}, {"train_examples": 9}),
]
NAMED: list[dict[str, Any]] = [
    *({}, {"splits": {"train": 1000, "test": 50}}, {"split": {"validation": 0.1}}, BY_SEED),
    {"split": {"folds": 7}, "subset": 0.1},
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))


def make(path: Path, source: str) -> dict[str, Any]:
    """45 images in two classes, of which 5 are test images in some sources."""
    labels = np.repeat([0, 1], [25, 15])
    images = np.arange(45, dtype=np.uint8)[:, None, None]
    if source == "arrays":
        np.savez(path / "a.npz", x_train=images[:40], y_train=labels)
        return {"arrays": str(path / "a.npz"), "value_range": [0, 255]}
    for number, label in enumerate([*labels, 0, 0, 0, 1, 1]):
        pool = ("test/" if number >= 40 else "train/") if source == "with test" else ""
        folder = path / "pics" / f"{pool}{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(folder / f"{number}.png")
    return {"folder": str(path / "pics"), "channels": 1}


def line_and_sizes(dataset: dict[str, Any], path: Path, classes: int) -> tuple[str, list[int]]:
    file = path / "a.yaml"
    import json

    file.write_text(f"name: a\ntask: classify\ndataset: {json.dumps(dataset)}\n{MODEL % classes}")
    loaded = load_experiment(file)
    spec = loaded.experiment.dataset
    assert isinstance(spec, DatasetSpec)
    found = dataset_of(spec, None, lambda _: None).of_seed(1)
    return images_line(spec, loaded.info), [
        len(found.train),
        len(found.validation),
        len(found.test),
    ]


def numbers(line: str) -> list[int]:
    words = line.replace(",", "").split(" (")[0].split()
    return [int(words[words.index(kind) - 1]) for kind in ("training", "validation", "test")]


@pytest.mark.parametrize("source", ["arrays", "plain", "with test"])
def test_numbers_of_own_images(tmp_path: Path, source: str) -> None:
    own = make(tmp_path, source)
    for keys in OTHERS:
        line, sizes = line_and_sizes({**own, **keys}, tmp_path, 2)
        drawn = "subset" in keys or "train_examples" in keys
        assert numbers(line)[1:] == sizes[1:], keys
        assert (f"{sizes[0]} of " in line) if drawn else numbers(line)[0] == sizes[0], keys


@pytest.mark.parametrize("keys", NAMED)
def test_numbers_of_a_dataset_by_name(tmp_path: Path, keys: dict[str, Any]) -> None:
    line, sizes = line_and_sizes({"name": "mnist_5k", **keys}, tmp_path, 10)
    assert numbers(line)[1:] == sizes[1:]
    assert f"Images: {sizes[0]:,} " in line
    split = keys.get("split", {})
    assert ("another split for each seed" in line) == ("by_seed" in split)
    assert ("7-fold cross-validation, stratified)" in line) == ("folds" in split)


def test_folds_of_two_sizes(tmp_path: Path) -> None:
    own = make(tmp_path, "arrays") | {"split": {"folds": 3}}
    line, sizes = line_and_sizes(own, tmp_path, 2)
    start = f"Images: {sizes[0]} training, 11 or 12 validation and {sizes[2]} test"
    assert line == f"{start} (3-fold cross-validation, stratified)"


def test_numbers_that_are_not_known_are_not_shown(tmp_path: Path) -> None:
    line, _ = line_and_sizes({"name": "mnist_5k", "classes": [1, 2]}, tmp_path, 2)
    assert line == ""
