"""A folder of images as a dataset: layouts, splits, formats, and files that are refused."""

import collections
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from cnnbench.data import file_digests
from cnnbench.data.catalog import ImageForm, Shares, divide
from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.data.own.decoding import decode
from cnnbench.data.own.folder import FolderSource
from cnnbench.errors import DataError, SpecError
from cnnbench.spec.experiment import DatasetSpec
from cnnbench.spec.loader import load_experiment
from cnnbench.system import locks, progress
from cnnbench.system.locks import in_turn
from cnnbench.system.progress import ProgressLines, shown_by

WHITE = (255, 255, 255)
AS_IT_IS = ImageForm(None, "stretch", 3, WHITE)
SPEC = """\
name: own
task: classify
dataset:
  folder: pics
  resize: {size: 4}
model:
  layers:
    out: {op: dense, units: 2}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def make(folder: Path, number: int, first: int = 0, side: int = 6) -> Path:
    """Images whose pixels all are their number."""
    folder.mkdir(parents=True)
    for level in range(first, first + number):
        Image.new("RGB", (side, side), (level, level, level)).save(folder / f"{level:03}.png")
    return folder


def load(path: Path, **keys: Any) -> tuple[Dataset, list[str]]:
    notes: list[str] = []
    spec = DatasetSpec.model_validate({"folder": str(path), "resize": {"size": 4}, **keys})
    return dataset_of(spec, None, notes.append), notes


def levels(dataset: Dataset) -> dict[str, list[tuple[int, int]]]:
    """The labels and levels of the images of `make`, by split."""
    return {
        name: list(zip(part.labels.tolist(), part.images[:, 0, 0, 0].tolist(), strict=True))
        for name, part in zip(
            ("train", "validation", "test"),
            (dataset.train, dataset.validation, dataset.test),
            strict=True,
        )
    }


def test_class_folders_are_divided_by_seed_and_by_class(tmp_path: Path) -> None:
    make(tmp_path / "cat", 20)
    make(tmp_path / "dog", 10, first=100)
    found, notes = load(tmp_path, split={"validation": 0.1, "test": 0.2})
    again, _ = load(tmp_path, split={"validation": 0.1, "test": 0.2})
    other, _ = load(tmp_path, split={"validation": 0.1, "test": 0.2, "seed": 1})
    splits = levels(found)
    counts = {
        name: collections.Counter(label for label, _ in part) for name, part in splits.items()
    }
    assert counts == {"train": {0: 14, 1: 7}, "validation": {0: 2, 1: 1}, "test": {0: 4, 1: 2}}
    whole = sorted(pair for part in splits.values() for pair in part)
    assert whole == [(0, n) for n in range(20)] + [(1, 100 + n) for n in range(10)]
    assert splits["train"] != sorted(splits["train"])  # else the first images are of one class
    assert found.digest == again.digest != other.digest
    assert (found.info.classes, found.info.shape) == (("cat", "dog"), (4, 4, 3))
    assert (found.info.num_train, found.info.num_validation, found.info.num_test) == (24, 3, 6)
    assert notes == [f"Decoding 30 images in {tmp_path}."]


def test_folders_of_splits_are_kept(tmp_path: Path) -> None:
    make(tmp_path / "train" / "a", 10)
    make(tmp_path / "train" / "b", 10, first=50)
    make(tmp_path / "Val" / "a", 2, first=100)
    make(tmp_path / "test" / "b" / "deeper", 3, first=200)
    found = levels(load(tmp_path)[0])
    assert sorted(found["test"]) == [(1, 200), (1, 201), (1, 202)]
    assert sorted(found["validation"]) == [(0, 100), (0, 101)]
    assert len(found["train"]) == 20


def test_training_images_give_the_splits_that_are_missing(tmp_path: Path) -> None:
    make(tmp_path / "train" / "a", 10)
    make(tmp_path / "train" / "b", 10, first=50)
    make(tmp_path / "test" / "a", 4, first=100)
    found = levels(load(tmp_path, split={"validation": 0.3})[0])
    assert (len(found["train"]), len(found["validation"]), len(found["test"])) == (14, 6, 4)
    assert not load(tmp_path, split={"validation": 0.0})[0].validation.labels.size


def test_most_images_keep_their_split_when_images_are_added() -> None:
    shares = Shares()
    keys = [f"{n}.png" for n in range(1000)]
    before = set(divide(keys[:900], [0] * 900, {"test": 0.2}, shares)["test"])
    after = set(divide(keys, [0] * 1000, {"test": 0.2}, shares)["test"])
    assert len(before - after) < 20


def test_a_class_of_one_image_is_trained() -> None:
    found = divide(["a", "b"], [0, 1], {"test": 0.5, "validation": 0.4}, Shares())
    assert found == {"test": [], "validation": [], "train": found["train"]}
    assert sorted(found["train"]) == [0, 1]


def test_cache_knows_the_content_of_the_files(tmp_path: Path) -> None:
    make(tmp_path / "pics" / "a", 5)
    make(tmp_path / "pics" / "b", 5)
    first, notes = load(tmp_path / "pics")
    assert len(notes) == 1
    (tmp_path / "pics").rename(tmp_path / "moved")
    moved, notes = load(tmp_path / "moved")
    assert (moved.digest, notes) == (first.digest, [])
    Image.new("RGB", (6, 6), "red").save(tmp_path / "moved" / "a" / "001.png")
    changed, notes = load(tmp_path / "moved")
    assert changed.digest != first.digest
    assert len(notes) == 1
    assert len(load(tmp_path / "moved", channels=1)[1]) == 1


def test_unchanged_files_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)  # they have not changed just now
    make(tmp_path / "pics" / "a", 5)
    make(tmp_path / "pics" / "b", 5)
    source = FolderSource(tmp_path / "pics", AS_IT_IS, Shares())
    key = source.key()
    monkeypatch.setattr(file_digests, "_read", pytest.fail)
    assert source.key() == key
    assert source.reader()[1] == f"statistics {key}"
    assert load(tmp_path / "pics")[0].info.num_classes == 2


def test_progress_of_slow_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a", 5)
    make(tmp_path / "b", 5)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    lines = list[str]()
    with shown_by(ProgressLines(lines.append)):
        load(tmp_path)
    digested = [f"Read {done} of 10 files." for done in range(1, 11)]
    assert lines == digested + [f"Decoded {done} of 10 images." for done in range(1, 11)]


def test_two_at_once_decode_once(tmp_path: Path) -> None:
    make(tmp_path / "a", 5)
    make(tmp_path / "b", 5)
    with ThreadPoolExecutor(2) as pool:
        (one, notes), (other, more) = pool.map(load, [tmp_path] * 2)
    assert one.digest == other.digest
    assert notes + more == [f"Decoding 10 images in {tmp_path}."]


def test_another_process_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.01)
    file, order = tmp_path / "data.safetensors", list[str]()
    other = FileLock(file.with_suffix(".lock"))
    other.acquire()

    def waits() -> None:
        order.append("waits")
        other.release()

    with in_turn(file, waits):
        order.append("runs")
    assert order == ["waits", "runs"]


def test_read_only_cache_needs_no_lock(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with in_turn(tmp_path / "file" / "data.safetensors", pytest.fail):
        assert not (tmp_path / "file").is_dir()


def test_unreadable_image_is_named_or_skipped(tmp_path: Path) -> None:
    make(tmp_path / "a", 5)
    make(tmp_path / "b", 5)
    broken = tmp_path / "b" / "003.png"
    broken.write_bytes(broken.read_bytes()[:45])
    with pytest.raises(DataError) as stopped:
        load(tmp_path)
    assert str(stopped.value).startswith(f"{broken}: cannot be read (")
    assert str(stopped.value).endswith("; save it again, or remove it")
    for _ in range(2):  # also from the cache
        found, notes = load(tmp_path, on_error="skip")
        pairs = sorted(pair for part in levels(found).values() for pair in part)
        assert pairs == [(0, n) for n in range(5)] + [(1, n) for n in (0, 1, 2, 4)]
        assert notes[-1] == f"{tmp_path}: skipping 1 unreadable image: b/003.png"


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load(path)
    return str(error.value)


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    missing = tmp_path / "no"
    assert refused(missing) == f"{missing}: no such folder; use the path of a folder of images"
    make(tmp_path / "one" / "a", 2)
    assert refused(tmp_path / "one") == (
        f"{tmp_path}/one: contains only the folder 'a'; put the images of each class into a "
        "folder named after the class"
    )
    (tmp_path / "one" / "b").mkdir()
    assert refused(tmp_path / "one") == (
        f"{tmp_path}/one/b: has no images; add PNG, JPEG, WebP, GIF, BMP or TIFF files, or"
        " remove the folder"
    )
    for name in ("train/cat", "train/dog", "test/cats"):
        make(tmp_path / "two" / name, 2)
    assert refused(tmp_path / "two") == (
        f"{tmp_path}/two/test/cats: the training images have no class 'cats' (did you mean "
        "'cat'?); use cat or dog"
    )


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    outside = make(tmp_path / "secret", 1)
    make(tmp_path / "pics" / "a", 3)
    make(tmp_path / "pics" / "b", 3)
    inside = tmp_path / "pics" / "b" / "same.png"
    inside.symlink_to(tmp_path / "pics" / "a" / "000.png")
    load(tmp_path / "pics")
    link = tmp_path / "pics" / "b" / "x.png"
    link.symlink_to(outside / "000.png")
    assert refused(tmp_path / "pics") == (
        f"{link}: is a symbolic link to {outside}/000.png, outside {tmp_path}/pics; copy it into"
        " the folder"
    )


def test_image_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a", 3, side=4)
    make(tmp_path / "b", 3, side=4)
    bomb = tmp_path / "b" / "bomb.png"
    Image.new("L", (8, 9)).save(bomb)
    for limit in (40, 35):  # Pillow warns up to twice its limit, and raises above
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        expected = f"{bomb}: has more than {limit} pixels; make it smaller, or remove it"
        assert refused(tmp_path) == expected


def test_sizes_must_agree_without_resize(tmp_path: Path) -> None:
    make(tmp_path / "a", 4)
    make(tmp_path / "b", 4, side=5)
    with pytest.raises(DataError) as error:
        load(tmp_path, resize=None)
    assert str(error.value) == (
        f"{tmp_path}/b/000.png: has 5x5 pixels, but other images have 6x6; add resize:"
        " {size: [6, 6]} to dataset"
    )
    for file in (tmp_path / "b").iterdir():
        Image.new("RGB", (6, 6)).save(file)
    assert load(tmp_path, resize=None)[0].info.shape == (6, 6, 3)


def write(tmp_path: Path, text: str = SPEC) -> Path:
    (tmp_path / "deep").mkdir(exist_ok=True)
    (tmp_path / "deep" / "own.yaml").write_text(text)
    return tmp_path / "deep" / "own.yaml"


def problems(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as error:
        load_experiment(path, overrides)
    return str(error.value).replace(str(path.parent), "...")


def test_paths_are_relative_to_the_file_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("deep/pics/a", "deep/pics/b", "here/x", "here/y", "here/z"):
        make(tmp_path / name, 10)
    path = write(tmp_path)
    assert load_experiment(path).info.classes == ("a", "b")
    monkeypatch.chdir(tmp_path)
    over = ("model.out.units=3", "dataset.resize.size=5", "dataset.folder=here")
    assert load_experiment(path, over).info.classes == ("x", "y", "z")
    digests = {load_experiment(path).experiment.digest()}
    (tmp_path / "deep").rename(tmp_path / "other")
    digests |= {load_experiment(tmp_path / "other" / "own.yaml").experiment.digest()}
    assert len(digests) == 1


def test_folder_replaces_the_dataset_of_a_parent(tmp_path: Path) -> None:
    for name in ("deep/pics/a", "deep/pics/b"):
        make(tmp_path / name, 10)
    child = "name: mine\nextends: standard\ndataset: {folder: pics, resize: {size: 28}}\n"
    loaded = load_experiment(write(tmp_path, child), ["model.dense2.units=2"])
    spec = loaded.experiment.dataset
    assert (spec.name, spec.offline, loaded.info.shape) == (None, None, (28, 28, 3))
    back = load_experiment(write(tmp_path, child), ["dataset.name=mnist_5k"])
    assert (back.experiment.dataset.folder, back.experiment.dataset.resize) == (None, None)


def test_wrong_keys_of_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert problems(path) == (
        ".../own.yaml:4:11: dataset.folder: .../pics: no such folder; use the path of a folder of"
        " images."
    )
    for name in ("deep/pics/a", "deep/pics/b"):
        make(tmp_path / name, 10)
    both = write(tmp_path, SPEC.replace("  folder", "  name: mnist\n  folder"))
    assert problems(both) == (
        ".../own.yaml:4:3: dataset: has name and folder; specify exactly one of them."
    )
    named = write(tmp_path, SPEC.replace("folder: pics", "name: mnist\n  split: {test: 0.1}"))
    assert problems(named, "model.out.units=10", "dataset.channels=1") == (
        ".../own.yaml:5:11: dataset.split.test: mnist has test images of its own; remove test, or"
        " set splits.test.\n"
        "command line: dataset.channels: channels is not available with name; remove it."
    )
    path = write(tmp_path, SPEC.replace("  resize: {size: 4}", "  background: [0, 0, 256]"))
    assert problems(path, "dataset.offline=mnist") == (
        ".../own.yaml:5:15: dataset.background: [0, 0, 256] is not a color; use white, black, or"
        " [red, green, blue] with numbers from 0 to 255.\n"
        "command line: dataset.offline: offline is not available with folder; remove it."
    )
    assert problems(write(tmp_path), "dataset.splits.test=5") == (
        "command line: dataset.splits.test: 5 images requested, but pics has 4 for this split; use"
        " at most 4."
    )


def test_modes_give_the_colors_that_they_stand_for(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(color).save(file)
    np.testing.assert_array_equal(decode(file, (5, 7), AS_IT_IS), color)
    Image.fromarray(color[..., 0]).save(file)
    np.testing.assert_array_equal(
        decode(file, (5, 7), AS_IT_IS), np.repeat(color[..., :1], 3, axis=2)
    )


@pytest.mark.parametrize("background", [WHITE, (10, 200, 30)])
def test_transparent_pixels_show_the_background(tmp_path: Path, background: Any) -> None:
    rng = np.random.default_rng(1)
    rgba = rng.integers(0, 256, (6, 5, 4), np.uint8)
    form = ImageForm(None, "stretch", 3, background)
    share = rgba[..., 3:] / 255
    expected = np.round(rgba[..., :3] * share + np.array(background) * (1 - share))
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", (6, 5), form)
    np.testing.assert_allclose(found, expected, atol=1)
    Image.fromarray(rgba).save(tmp_path / "a.webp", lossless=True, exact=True)
    np.testing.assert_allclose(decode(tmp_path / "a.webp", (6, 5), form), expected, atol=1)
    gray = np.stack([rgba[..., 0], rgba[..., 3]], axis=2)
    Image.fromarray(gray).save(tmp_path / "b.png")
    mixed = np.round(gray[..., :1] * share + np.array(background) * (1 - share))
    np.testing.assert_allclose(decode(tmp_path / "b.png", (6, 5), form), mixed, atol=1)


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    deep = np.arange(0, 65536, 1311, dtype=np.uint16)[:48].reshape(6, 8)
    expected = np.repeat(np.round(deep / 257)[..., None], 3, axis=2)
    for suffix in ("png", "tiff"):
        Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(decode(tmp_path / f"a.{suffix}", (6, 8), AS_IT_IS), expected)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK"])
def test_other_modes_are_converted(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (8, 4), "black")
    image.paste((255, 0, 0) if mode != "1" else (255, 255, 255), (0, 0, 3, 4))
    file = tmp_path / "a.tiff"
    image.convert(mode).save(file)
    np.testing.assert_array_equal(decode(file, (4, 8), AS_IT_IS), np.asarray(image))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    color = np.zeros((4, 8, 3), np.uint8)
    color[:, :2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn by 90 degrees clockwise
    make(tmp_path / "b", 4)
    (tmp_path / "a").mkdir()
    Image.fromarray(color).save(tmp_path / "a" / "a.png", exif=exif)
    found = decode(tmp_path / "a" / "a.png", (8, 4), AS_IT_IS)
    np.testing.assert_array_equal(found, np.rot90(color, -1))
    source = DatasetSpec(folder=str(tmp_path)).source
    assert not isinstance(source, str)
    assert source.info().shape == (8, 4, 3)


@pytest.mark.parametrize("suffix", ["gif", "tiff", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    red, blue = (Image.new("RGB", (4, 4), color) for color in ("red", "blue"))
    file = tmp_path / f"a.{suffix}"
    red.save(file, save_all=True, append_images=[blue], lossless=True)
    np.testing.assert_array_equal(decode(file, (4, 4), AS_IT_IS), np.asarray(red))


def test_resizing_averages_all_pixels(tmp_path: Path) -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    Image.fromarray(checks.astype(np.uint8)).save(tmp_path / "a.png")
    form = ImageForm((8, 8), "stretch", 1, WHITE)
    found = decode(tmp_path / "a.png", (8, 8), form)
    assert found.min() >= 126
    assert found.max() <= 129


@pytest.mark.parametrize(
    ("method", "columns"),
    [
        ("stretch", [9, 9, 0, 0]),  # 16 columns to 4: 9 in the left half
        ("crop", [9, 9, 0, 0]),  # the middle 8 columns of 16, 2 each
        ("fit", [9, 9, 0, 0]),
    ],
)
def test_methods_of_resizing(tmp_path: Path, method: Any, columns: list[int]) -> None:
    wide = np.zeros((8, 16), np.uint8)
    wide[:, :8] = 9
    Image.fromarray(wide).save(tmp_path / "a.png")
    form = ImageForm((4, 4), method, 1, (70, 70, 70))
    found = decode(tmp_path / "a.png", (4, 4), form)[..., 0]
    rows = found[1:3] if method == "fit" else found
    assert np.abs(rows.astype(int) - columns).max() <= 2
    assert (found[[0, 3]] == 70).all() == (method == "fit")
