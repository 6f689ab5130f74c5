"""A folder that is streamed has the images of one in memory, however it is split and changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.spec.experiment import Experiment
from tests.support.streams import in_process

SIZES = {"cat": 17, "dog": 14, "owl": 11}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of different sizes, and an image that is damaged."""
    folder, rng = tmp_path_factory.mktemp("streamed") / "pictures", np.random.default_rng(0)
    for name, number in SIZES.items():
        (folder / name).mkdir(parents=True)
        for place in range(number):
            pixels = rng.integers(0, 256, (4, 5, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{place}.png")
    (folder / "dog" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cnnbench.data.streaming.statistics.results", in_process)
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path))


def load(folder: Path, keys: dict[str, Any], *, streaming: bool) -> Dataset:
    known = {"folder": str(folder), "on_error": "skip", "streaming": streaming}
    layers = {"out": {"op": "dense", "units": 3}}
    experiment = Experiment.model_validate(
        {"name": "own", "task": "classify", "dataset": known | keys, "model": {"layers": layers}}
    )
    return dataset_of(experiment.dataset, None, lambda _: None)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"split": {"validation": 0.25, "test": 0.2, "by_seed": True}},
        {"split": {"validation": 0.25, "by_seed": True, "stratified": False, "seed": 3}},
        {"split": {"folds": 3, "test": 0.1}},
        {"split": {"folds": 4, "seed": 2}, "resize": {"size": 3}},
        {"split": {"by_seed": True}, "classes": ["owl", "cat"]},
        {"classes": {"pet": ["cat", "dog"], "bird": ["owl"]}},
        {"subset": 0.5, "label_noise": 0.3, "imbalance": 3},
        {"train_examples": 9},
    ],
)
def test_it_has_the_same_images_for_every_seed(pictures: Path, keys: dict[str, Any]) -> None:
    memory, stream = (load(pictures, keys, streaming=each) for each in (False, True))
    assert (stream.streamed, memory.streamed) == (True, False)
    for name in ("info", "digest", "changes", "random"):
        assert getattr(stream, name) == getattr(memory, name)
    for seed in (0, 1, 5):
        for rows, same in zip(stream.rows(seed), memory.rows(seed), strict=True):
            np.testing.assert_array_equal(rows, same, strict=True)
        mine, other = stream.of_seed(seed), memory.of_seed(seed)
        for split in ("train", "validation", "test"):
            found, want = getattr(mine, split), getattr(other, split)
            np.testing.assert_array_equal(np.asarray(found.images), want.images, strict=True)
            np.testing.assert_array_equal(found.labels, want.labels, strict=True)
    varies = "by_seed" in keys.get("split", {}) or "folds" in keys.get("split", {})
    differ = not np.array_equal(stream.rows(0).validation, stream.rows(1).validation)
    assert differ == varies
