"""A dataset written as a folder of images is the same dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.data.dataset import dataset_of
from cnnbench.data.splits import Split
from cnnbench.spec.experiment import DatasetSpec


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def export(*words: str):
    return CliRunner().invoke(app, ["data", "export", *words], catch_exceptions=False)


def write_arrays(num_classes: int, channels: int, names: list[str]) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(4 * num_classes) % num_classes
    images = rng.integers(0, 256, (len(labels), 6, 7, channels), np.uint8)
    arrays: dict[str, Any] = {"class_names": np.array(names)} if names else {}
    arrays |= {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez("data.npz", **arrays)


def contents(split: Split, order: Sequence[int]) -> list[tuple[int, bytes]]:
    pairs = zip(split.images, split.labels, strict=True)
    return sorted((order[label], image.tobytes()) for image, label in pairs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("names", [[], ["b/c", "a: x", "..d"]])
def test_it_comes_back_unchanged(channels, names):
    num_classes = 3 if names else 11
    write_arrays(num_classes, channels, names)
    done = export("data.npz", "pics")
    assert done.stdout == f"wrote {8 * num_classes} images to pics\n"
    wanted = dataset_of(DatasetSpec(arrays="data.npz"), None, lambda _: None)
    found = dataset_of(DatasetSpec(folder="pics", channels=channels), None, lambda _: None)
    if not names:
        assert found.info.classes[:2] == ("00", "01")
    order = [found.info.classes.index(n) for n in ("b-c", "a- x", "d")] if names else range(11)
    for name in ("train", "validation", "test"):
        one, two = getattr(wanted, name), getattr(found, name)
        assert contents(one, order) == contents(two, range(num_classes))


def test_errors_are_one_line():
    write_arrays(2, 2, [])
    Path("full").mkdir()
    Path("full/x").write_text("x")
    assert export("mnist_5k", "full").stderr == "full: already exists; name another folder.\n"
    assert (
        export("data.npz", "pics")
        .stderr.splitlines()[-1]
        .startswith(
            "dataset 'data.npz' has 2 channels; only gray and RGB images can be written as files"
        )
    )
    for name in "ab":
        Path("own", name).mkdir(parents=True)
        Path("own", name, "x.png").write_bytes(b"")
    message = "own: is a folder of images already; name a dataset or array files.\n"
    assert export("own", "pics").stderr == message
    assert not Path("pics").exists()
