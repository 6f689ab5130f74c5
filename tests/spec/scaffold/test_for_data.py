"""``cnnbench new --data``: an experiment that fits any folder, and trains as it is."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.data.inspection.survey import survey
from cnnbench.spec.loader import load_experiment
from cnnbench.spec.scaffold.network import (
    MULTIPLE,
    SIDE,
    WASTE,
    choose_batch_size,
    choose_layers,
    choose_resize,
    num_pools,
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CNNBENCH_ENGINE", "plain")
    monkeypatch.chdir(tmp_path)


def invoke(*words: str, code: int = 0):
    done = CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)
    assert done.exit_code == code, done.stderr + done.stdout
    return done


def new(*words: str) -> str:
    return str(invoke("new", *words).stdout)


def refused(*words: str) -> str:
    return str(invoke("new", *words, code=2).stderr)


def make(
    folder: str,
    counts: list[int],
    size: Callable[[int], tuple[int, int]] = lambda _: (20, 24),
    mode: str = "RGB",
) -> None:
    """Images of noise, `counts` of each class; `size` is the height and width of each."""
    rng = np.random.default_rng(0)
    for label, count in enumerate(counts):
        place = Path(folder, f"class {label}")
        place.mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (*size(number), 4), np.uint8)
            Image.fromarray(pixels).convert(mode).save(place / f"{number}.png")


FOLDERS: dict[str, Callable[[], None]] = {
    "thirty": lambda: make("pics", [15, 15]),
    "two of each": lambda: make("pics", [2, 2]),
    "one and three": lambda: make("pics", [1, 3]),
    "tiny": lambda: make("pics", [9, 9], lambda _: (8, 8)),
    "pixels": lambda: make("pics", [9, 9], lambda _: (1, 1)),
    "strips": lambda: make("pics", [9, 9], lambda number: (20, 300 + number)),
    "mixed": lambda: make("pics", [9, 9], lambda number: (3 + 9 * number, 90 - 9 * number)),
    "huge": lambda: make("pics", [2, 1], lambda _: (700, 1000)),
    "gray": lambda: make("pics", [9, 9], mode="L"),
    "alpha": lambda: make("pics", [9, 9], mode="RGBA"),
    "imbalanced": lambda: make("pics", [40, 9]),
    "splits": lambda: (make("pics/train", [9, 9]), make("pics/test", [2, 2])),  # type: ignore[func-returns-value, dict-item]
    "many classes": lambda: make("pics", [3] * 200, lambda _: (8, 8)),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_an_experiment_for_any_folder_is_valid(kind):
    FOLDERS[kind]()
    new("--data", "pics")
    loaded = load_experiment(Path("pics.yaml"))
    assert loaded.plan is not None
    assert loaded.plan.by_name[loaded.plan.output].layout.shape == (loaded.info.num_classes,)
    height, width = loaded.info.shape[:2]
    assert height * width <= SIDE**2 * 1.1
    assert loaded.info.num_test
    invoke("show", "pics.yaml")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind == "one and three" else pytest.mark.slow)
        for kind in FOLDERS
    ],
)
def test_an_experiment_for_any_folder_trains(kind):
    FOLDERS[kind]()
    new("--data", "pics")
    done = invoke("run", "pics.yaml", "--epochs", "1")
    assert "val" in done.stderr or "test" in done.stderr


def test_what_is_written_and_printed():
    make("flowers", [40, 9], lambda number: (48, 64 + number % 2), mode="RGBA")
    Path("flowers/class 0/broken.png").write_bytes(b"no image")
    assert new("--data", "flowers") == (
        "Found 50 images in 2 classes, 9 (class 1) to 41 (class 0) per class.\n"
        "Height: 48 to 48 pixels, median 48.\n"
        "Width: 64 to 65 pixels, median 64.\n"
        "Formats and modes: PNG RGBA 49.\n"
        "Cannot be read: class 0/broken.png.\n"
        "wrote flowers.yaml\n"
        "Next:\n\n"
        "    cnnbench data inspect flowers -o flowers.png\n"
        "    cnnbench run flowers.yaml\n"
        "    cnnbench new flowers.yaml my_idea.yaml\n"
    )
    assert (
        Path("flowers.yaml").read_text()
        == """\
# yaml-language-server: $schema=cnnbench.schema.json
name: flowers
title: Flowers
task: classify
dataset:
  # 50 images: 2 classes of 9 to 41.
  folder: flowers
  # 1 image cannot be read and is left out, such as
  # class 0/broken.png.
  on_error: skip
  background: white  # behind transparent pixels, which 49 images may have
  # The median size is 48x64 pixels, height x width. Smaller ones train faster.
  # crop cuts at most 2% off three quarters of the images; fit would pad.
  resize: {size: [48, 64], method: crop}
  split: {validation: 0.15, test: 0.15}  # fractions of each class
  normalize: auto  # by mean and standard deviation of the training images
  # If mirrored images are still of their class (as most photos are):
  # augment: {random_flip: horizontal}
model:
  layers:
    # Pooling reduces 48x64 to 6x8.
    conv1: {op: conv, filters: 16, kernel: 3, padding: same, activation: relu}
    pool1: {op: max_pool, size: 2}
    conv2: {op: conv, filters: 32, kernel: 3, padding: same, activation: relu}
    pool2: {op: max_pool, size: 2}
    conv3: {op: conv, filters: 64, kernel: 3, padding: same, activation: relu}
    pool3: {op: max_pool, size: 2}
    conv4: {op: conv, filters: 128, kernel: 3, padding: same, activation: relu}
    drop: {op: dropout, rate: 0.5}  # against overfitting, with few images
    out: {op: dense, units: 2}
train:
  epochs: 30
  batch_size: 16  # 2 steps per epoch
  optimizer: {name: adam, learning_rate: 0.001}
  schedule: cosine
  # The largest class has 4.6 times as many images as the smallest. To
  # weight all classes equally in the loss:
  # class_weights: balanced
"""
    )


def test_the_suggestions_in_comments_are_valid():
    make("flowers", [40, 9])
    new("--data", "flowers")
    text = Path("flowers.yaml").read_text()
    for line in ("augment: {random_flip: horizontal}", "class_weights: balanced"):
        assert f"  # {line}" in text
        text = text.replace(f"  # {line}", f"  {line}")
    Path("flowers.yaml").write_text(text)
    experiment = load_experiment(Path("flowers.yaml")).experiment
    assert experiment.dataset.augment is not None
    assert experiment.train.class_weights == "balanced"


@pytest.mark.parametrize("turned", [False, True])
def test_strips_keep_their_shorter_side(turned, tmp_path):
    """Padding would have shrunk it to less than a pixel."""

    def shape(*sides):
        return sides[::-1] if turned else sides

    assert choose_resize([shape(2, 300)] * 3, 100) is None
    choice = choose_resize([shape(2, 300), shape(2, 280), shape(3, 320)], 100)
    assert choice is not None
    assert (choice.size, choice.method) == (shape(8, 32), "stretch")
    wide = choose_resize([shape(50, 300), shape(48, 290)] * 2, 100)
    assert wide is not None
    assert wide.method == "fit"
    for label in ("a", "b"):
        (tmp_path / "pics" / label).mkdir(parents=True)
        for number in range(8):
            height, width = shape(2 + number % 2, 300)
            pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pics" / label / f"{number}.png")
    invoke("new", "--data", "pics")
    assert "method: stretch" in (tmp_path / "pics.yaml").read_text()
    invoke("show", "pics.yaml")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 5_000), st.integers(1, 5_000)), min_size=1, max_size=20),
    st.integers(1, 100_000),
)
def test_sizes_are_small_and_divisible(sizes, num_train):
    choice = choose_resize(sizes, num_train)
    if choice is None:
        assert len(set(sizes)) == 1
        assert max(sizes[0]) <= SIDE or min(sizes[0]) < MULTIPLE
        assert sizes[0][0] * sizes[0][1] <= SIDE**2
        return
    height, width = choice.size
    assert height % MULTIPLE == width % MULTIPLE == 0
    assert height >= MULTIPLE
    assert height * width <= (SIDE + MULTIPLE) ** 2
    # What PIL's ImageOps.fit keeps of an image: a rectangle of this aspect ratio
    kept = [min(w, h * width / height) * min(h, w * height / width) / (w * h) for h, w in sizes]
    assert (choice.method == "crop") == (
        sorted(kept)[len(kept) - 1 - 3 * len(kept) // 4] >= 1 - WASTE
    )


@given(st.integers(1, 512), st.integers(1, 512), st.integers(1, 100_000))
def test_networks_pool_no_pixel_away_unless_the_size_is_odd(height, width, num_train):
    number = num_pools((height, width))
    assert min(height, width) >> number >= min(height, width, 2)
    layers = dict(choose_layers((height, width), 3, num_train))
    assert [layer["op"] for layer in layers.values()].count("max_pool") == number
    assert 1 <= choose_batch_size(num_train) <= num_train


@pytest.mark.parametrize(
    ("file", "data", "written"),
    [
        ("flowers.yaml", "pics/flowers", "pics/flowers"),
        ("flowers", "pics/flowers", "pics/flowers"),
        ("sub/flowers.yaml", "pics/flowers", "../pics/flowers"),
        ("pics/flowers.yaml", "pics/flowers", "flowers"),
        ("sub/flowers.yaml", "./pics/../pics/flowers/", "../pics/flowers"),
    ],
)
def test_the_path_is_relative_to_the_file(file, data, written):
    make("pics/flowers", [4, 4])
    Path("sub").mkdir()
    new(file, "--data", data)
    path = Path(file).with_suffix(".yaml")
    assert yaml.safe_load(path.read_text())["dataset"]["folder"] == written
    assert load_experiment(path).info.num_classes == 2


def test_an_absolute_path_stays(tmp_path):
    make("flowers", [4, 4])
    new("--data", str(tmp_path / "flowers"))
    data = yaml.safe_load(Path("flowers.yaml").read_text())["dataset"]
    assert data["folder"] == str(tmp_path / "flowers")


@pytest.mark.parametrize("folder", ["2 cats & dogs: all #1", "-x", "Käse", "no", "'"])
def test_a_folder_of_any_name_has_a_file(folder):
    make(folder, [4, 4])
    new(f"--data={folder}")
    (path,) = Path().glob("*.yaml")
    assert load_experiment(path).info.num_classes == 2


def test_gray_images_have_one_channel_even_if_they_are_stored_in_color():
    make("pics", [6, 6], mode="L")
    for file in Path("pics").rglob("*.png"):
        with Image.open(file) as image:
            image.convert("RGB").save(file.with_suffix(".jpg"))
        file.unlink()
    new("--data", "pics")
    assert load_experiment(Path("pics.yaml")).info.shape == (20, 24, 1)


def test_a_constant_channel_is_not_normalized():
    for name in "ab":
        Path("pics", name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (number, 0, 9)).save(f"pics/{name}/{number}.png")
    new("--data", "pics")
    assert "pixel_scale: 255" in Path("pics.yaml").read_text()


def test_only_a_sample_of_a_large_folder_is_read(monkeypatch):
    monkeypatch.setattr("cnnbench.data.inspection.survey.SAMPLE", 5)
    monkeypatch.setattr("cnnbench.data.inspection.survey.PIXELS", 2 * 20 * 24)
    make("pics", [6, 6])
    found = survey(Path("pics"))
    assert (found.num_images, len(found.headers), found.is_sample) == (12, 5, True)
    assert "Of 5 of them:" in new("--data", "pics")
    assert "resize: {size: [20, 24], method: crop}" in Path("pics.yaml").read_text()


def test_arrays_and_published_datasets():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 96, 96, 3), np.uint8)
    np.savez("cells.npz", x_train=images, y_train=np.arange(40) % 4)
    assert new("--data", "cells.npz").startswith("cells.npz: images of 96x96x3, 4 classes.\n")
    loaded = load_experiment(Path("cells.yaml"))
    assert (loaded.info.shape, loaded.experiment.train.batch_size) == ((96, 96, 3), 16)
    Path("tables").mkdir()
    for split, rows in (("train", 30), ("test", 9)):
        cells = "".join(
            f"{row % 3},{','.join([str(85 * (row % 4))] * 16)}\n" for row in range(rows)
        )
        with gzip.open(f"tables/{split}.csv.gz", "wt") as file:
            file.write(cells)
    new("--data", "tables")
    assert load_experiment(Path("tables.yaml")).info.shape == (4, 4, 1)
    new("--data", "cifar10")
    assert load_experiment(Path("cifar10.yaml")).info.shape == (32, 32, 3)
    new("--data", "emnist/letters")
    assert (
        yaml.safe_load(Path("emnist_letters.yaml").read_text())["dataset"]["name"]
        == "emnist/letters"
    )


def test_a_second_file_for_an_idea():
    make("flowers", [4, 4])
    new("--data", "flowers")
    new("flowers.yaml", "my_idea.yaml")
    assert load_experiment(Path("my_idea.yaml")).info.num_classes == 2


def test_an_idea_elsewhere_would_not_find_the_images():
    make("a/flowers", [4, 4])
    new("a/flowers.yaml", "--data", "a/flowers")
    Path("b").mkdir()
    assert refused("a/flowers.yaml", "b/idea.yaml") == (
        "b/idea.yaml: the images of a/flowers.yaml have a path relative to its folder; choose a"
        " file in a.\n"
    )
    new("a/flowers.yaml", "idea.yaml")  # extends a file in a subfolder, without a copy
    assert load_experiment(Path("idea.yaml")).info.num_classes == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such file or folder; unknown dataset 'nowhere'; see"),
        (["--data", "cifar1"], "cifar1: no such file or folder; unknown dataset 'cifar1' (did you"),
        (["--data", "empty"], "empty: contains no folders; put the images of each class into a"),
        (["--data", "one"], "one: contains only the folder 'class 0'; put the images of each"),
        (["--data", "notes.md"], "notes.md: is neither a folder of images nor an array file; use"),
        (["--data", "singles"], "singles: every class has only one image, which leaves none for"),
        (["--data", "bad"], "bad: none of the images can be read; save them again"),
        (
            ["mlp", "x.yaml", "--data", "one"],
            "--data: an experiment for a dataset extends no other",
        ),
        (["no/x", "--data", "fine"], "no/x.yaml: no such folder 'no'; create it first."),
        (["1", "--data", "fine"], "1.yaml: '1' is not a valid experiment name; use --name NAME"),
        (["taken", "--data", "fine"], "taken.yaml: already exists; name another file, or add"),
        (["mlp"], "cnnbench new: FILE is missing; write: cnnbench new PARENT FILE, or cnnbench"),
        ([], "cnnbench new: PARENT is missing; write: cnnbench new PARENT FILE, or cnnbench new"),
    ],
)
def test_errors_are_one_line_and_write_nothing(words, message):
    make("fine", [4, 4])
    make("one", [4])
    make("singles", [1, 1])
    for name in "ab":
        Path("bad", name).mkdir(parents=True)
        Path("bad", name, "x.png").write_bytes(b"\x89PNG")
    Path("empty").mkdir()
    Path("notes.md").write_text("x")
    Path("taken.yaml").write_text("name: taken\n")
    before = sorted(Path().glob("*"))
    done = CliRunner().invoke(app, ["new", *words], prog_name="cnnbench", catch_exceptions=False)
    assert done.exit_code in {1, 2}
    text = done.stderr
    assert text.startswith(message)
    assert text.count("\n") == 1
    assert sorted(Path().glob("*")) == before
