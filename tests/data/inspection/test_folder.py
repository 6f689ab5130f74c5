"""What `cnnbench data inspect` finds in folders, array files and datasets by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.data.inspection import folder as inspection
from cnnbench.data.inspection.folder import inspect_folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def inspect(path: Path) -> inspection.FolderInspection:
    return inspect_folder(path, lambda _: None)


def photo(seed: int, side: int = 80) -> Image.Image:
    """Smooth noise, like a photo out of focus."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def names(groups: tuple[inspection.SameImages, ...] | None) -> list[list[str]]:
    return [[file for file, _ in group] for group in groups or ()]


def test_copies_that_were_resized_or_saved_again_are_similar(tmp_path):
    for split in ("train/a", "train/b", "test/a"):
        (tmp_path / "pics" / split).mkdir(parents=True)
    pics = tmp_path / "pics"
    for seed in range(12):
        photo(seed).save(pics / f"train/{'ab'[seed % 2]}/{seed}.png")
    photo(0).save(pics / "test/a/again.jpg", quality=80)
    photo(2).resize((200, 200), Image.Resampling.BICUBIC).save(pics / "test/a/larger.webp")
    (pics / "test/a/same.png").write_bytes((pics / "train/a/4.png").read_bytes())
    found = inspect(pics)
    assert names(found.duplicates) == [["test/a/same.png", "train/a/4.png"]]
    assert names(found.similar) == [
        ["test/a/again.jpg", "train/a/0.png"],
        ["test/a/larger.webp", "train/a/2.png"],
    ]


def test_statistics_are_those_of_all_training_images(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 5, 64, 64, 3), np.uint8)
    for label, each in enumerate(images):
        for split in ("train", "val", "test"):
            (tmp_path / f"pics/{split}/{label}").mkdir(parents=True)
        for number, pixels in enumerate(each):
            Image.fromarray(pixels).save(tmp_path / f"pics/train/{label}/{number}.png")
        for split in ("val", "test"):
            Image.new("RGB", (64, 64)).save(tmp_path / f"pics/{split}/{label}/black.png")
    monkeypatch.setattr(inspection, "DRAWN", 3)
    found = inspect(tmp_path / "pics")
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 1, 2, 3)) / 255, rtol=1e-12)
    np.testing.assert_allclose(found.std, images.std(axis=(0, 1, 2, 3)) / 255, rtol=1e-9)
    assert [len(each) for each in found.samples] == [3, 3]
    assert list(found.counts["test"]) == [1, 1]


def test_every_header_is_read_once(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / f"pics/{name}").mkdir(parents=True)
        for seed in range(4):
            photo(seed, 64).save(tmp_path / f"pics/{name}/{seed}.bmp")
    opened: list[str] = []
    real = Image.open

    def counting(file, *args, **kwargs):
        opened.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(Image, "open", counting)
    inspect(tmp_path / "pics")
    assert len(opened) == len(set(opened)) == 8


def test_a_dataset_by_name_and_array_files(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8), np.uint8)
    images[17] = images[3]
    np.savez(
        "cells.npz",
        x_train=images[:12],
        y_train=np.arange(12) % 2,
        x_test=images[12:],
        y_test=np.arange(8) % 2,
        class_names=["cat", "dog"],
    )
    done = CliRunner().invoke(app, ["data", "inspect", "cells.npz", "-o", "cells.png"])
    lines = done.stdout.splitlines()
    assert done.exit_code == 0, done.stderr
    assert [line.split() for line in lines[2:4]] == [["cat", "5", "1", "4"], ["dog", "5", "1", "4"]]
    assert lines[5:7] == ["Images: 8x8x1.", "Exact duplicates: 1."]
    assert lines[7].startswith("  In several splits: ")
    assert "test" in lines[7]
    with Image.open("cells.png") as sheet:
        assert sheet.width > 50
    named = CliRunner().invoke(app, ["data", "inspect", "mnist_5k"])
    assert "Images: 28x28x1.\nExact duplicates: 0.\nTraining images, pixels" in named.stdout


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nope", "nope: no such file or folder; unknown dataset 'nope'; see `cnnbench data list`"),
        (
            "x.md",
            "x.md: is neither a folder of images nor an array file; use a folder, or an .npz,",
        ),
        ("empty", "empty: contains no folders; put the images of each class into a folder named"),
        ("bad", "bad: none of the training images can be read; save them again"),
    ],
)
def test_errors_are_one_line(word, message):
    Path("x.md").write_text("x")
    Path("empty").mkdir()
    for name in "ab":
        Path("bad", name).mkdir(parents=True)
        Path("bad", name, "x.png").write_bytes(b"")
    done = CliRunner().invoke(app, ["data", "inspect", word], catch_exceptions=False)
    assert done.exit_code == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(message)
