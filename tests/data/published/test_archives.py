"""Published datasets in their original files, made by the tests in the true formats."""

import gzip
import hashlib
import importlib.util
import io
import operator
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from cnnbench.data.catalog import KNOWN, describe
from cnnbench.data.dataset import Dataset, load_dataset
from cnnbench.data.published import sources, tfds
from cnnbench.data.published.archives import decode_npy, read_tar
from cnnbench.data.published.idx import FILENAMES
from cnnbench.data.published.pickles import read_pickle
from cnnbench.data.published.readers import cifar as cifar_files
from cnnbench.data.published.readers import emnist, medmnist, stl10
from cnnbench.data.published.readers import svhn as svhn_files
from cnnbench.errors import DataError
from cnnbench.system.arrays import Array
from tests.support.servers import Ranged, serving
from tests.support.tinysets import checksum_text, idx_bytes, register

REMEDY = "remove it or replace it with the right file"
SHAPES = {"train": 50, "test": 10}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _load(name: str, data_dir: Path | None, **kwargs: Any) -> Dataset:
    return load_dataset(name, data_dir=data_dir, **{"notify": pytest.fail, **kwargs})


def _images(data: Dataset) -> tuple[Array, Array, Array, Array]:
    """Images and labels for training (with those for validation), then for testing."""
    train, held_out, test = data.train, data.validation, data.test
    return (
        np.concatenate([train.images, held_out.images]),
        np.concatenate([train.labels, held_out.labels]),
        test.images,
        test.labels,
    )


def _require_equal(data: Dataset, raw: Mapping[str, Array]) -> None:
    expected = [raw[f"{split}_{kind}"] for split in SHAPES for kind in ("images", "labels")]
    for found, wanted in zip(_images(data), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int32


def _tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def _random(num_classes: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(num_classes)
    arrays: dict[str, NDArray[Any]] = {}
    for split, num in SHAPES.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (num, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, num_classes, num)
    return arrays


# CIFAR: 5 training files, or one, and a test file; the coarse labels of CIFAR-100 precede the fine

CIFAR = {"cifar10": 5, "cifar100": 1}


def _batches(name: str, raw: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    """Rows of planes and labels, by the name of the pickled file."""
    parts, (train, *_) = CIFAR[name], cifar_files.CIFAR[name].pickles["train"]
    rows = {
        split: raw[f"{split}_images"].transpose(0, 3, 1, 2).reshape(-1, 3072) for split in SHAPES
    }
    names = [train] if parts == 1 else [f"data_batch_{i}" for i in range(1, 6)]
    split = [np.array_split(each, parts) for each in (rows["train"], raw["train_labels"])]
    test = "test" if parts == 1 else "test_batch"
    return dict(zip(names, zip(*split, strict=True), strict=True)) | {
        test: (rows["test"], raw["test_labels"])
    }


_Pickler: Any = pickle._Pickler  # the pure one, which can be changed


class _Python2(_Pickler):  # type: ignore[misc]
    """Pickles bytes like the strings of Python 2, with which CIFAR was written."""

    def save_string(self, value: bytes) -> None:
        size = len(value)
        code = b"U" + bytes([size]) if size < 256 else b"T" + size.to_bytes(4, "little")
        self.write(code + value)
        self.memoize(value)

    dispatch = {**_Pickler.dispatch, bytes: save_string}  # noqa: RUF012 - as in the base class


def _pickled(name: str, rows: Array, labels: Array) -> bytes:
    key = cifar_files.CIFAR[name].labels.encode()
    coarse = {b"coarse_labels": [0] * len(labels)} if name == "cifar100" else {}
    names = [b"image_%d.png" % i for i in range(len(rows))]
    batch = {b"batch_label": b"batch", **coarse, key: labels.tolist(), b"data": rows}
    file = io.BytesIO()
    _Python2(file, 2).dump(batch | {b"filenames": names})
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def _binary(name: str, rows: Array, labels: Array) -> bytes:
    coarse = [np.zeros_like(labels)] if name == "cifar100" else []
    return np.column_stack([*coarse, labels, rows]).astype(np.uint8).tobytes()


@pytest.fixture(params=CIFAR)
def cifar(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Registers a small binary archive on a server, and small pickles, which lie in a folder."""
    name = request.param
    form, batches = cifar_files.CIFAR[name], _batches(name, _random(int(name[5:])))
    archive = f"cifar-{name[5:]}-binary.tar.gz"
    members = dict(
        zip(
            [each for names in form.binary.values() for each in names],
            [_binary(name, *batch) for batch in batches.values()],
            strict=True,
        )
    )
    _tar(tmp_path / "served" / archive, {"README.html": b"about", **members})
    content = {file: _pickled(name, *batch) for file, batch in batches.items()}
    _tar(
        tmp_path / "pickles" / form.archive.filename,
        {f"{form.folder}/{file}": each for file, each in content.items()},
    )
    sha256 = hashlib.sha256((tmp_path / "pickles" / form.archive.filename).read_bytes()).hexdigest()
    own = replace(
        form,
        pickles={
            split: {file: _md5(content[file]) for file in files}
            for split, files in form.pickles.items()
        },
        archive=replace(form.archive, checksum=sha256),
    )
    monkeypatch.setattr(cifar_files, "CIFAR", {name: own})
    (tmp_path / "torchvision" / form.folder).mkdir(parents=True)
    for file, each in content.items():
        (tmp_path / "torchvision" / form.folder / file).write_bytes(each)
    with serving(tmp_path / "served", Ranged) as base:
        register(monkeypatch, checksum_text(tmp_path / "served", base, [archive]))
        yield name


def test_cifar_is_downloaded_then_cached(cifar: str, tmp_path: Path, request: Any) -> None:
    raw, notes, data_dir = _random(int(cifar[5:])), list[str](), tmp_path / "sets"
    data = _load(cifar, data_dir, notify=notes.append)
    _require_equal(data, raw)
    place = data_dir / "downloads" / cifar / f"cifar-{cifar[5:]}-binary.tar.gz"
    assert data.source == str(place)
    (note,) = notes
    assert note.startswith(f"Downloading 1 file of '{cifar}' (")
    request.getfixturevalue("no_network")
    assert _load(cifar, data_dir).source == str(place)
    place.unlink()
    again = _load(cifar, data_dir, notify=notes.append)
    assert again.digest == data.digest
    assert notes[1:] == [
        f"{data_dir} contains no files of '{cifar}'; using images from the cache (decoded from"
        f" {place})."
    ]


@pytest.mark.parametrize("place", [".", "downloads/manual", "manual", "{}"])
@pytest.mark.usefixtures("no_network")
def test_archives_put_there_by_hand(place: str, cifar: str, tmp_path: Path) -> None:
    for kind in ("served", "pickles"):
        folder = tmp_path / kind / "sets" / place.format(cifar)
        folder.mkdir(parents=True, exist_ok=True)
        (path,) = (tmp_path / kind).glob("*.gz")
        path.rename(folder / path.name)
        data = _load(cifar, tmp_path / kind / "sets")
        _require_equal(data, _random(int(cifar[5:])))
        assert data.source == str(folder / path.name)


@pytest.mark.usefixtures("no_network")
def test_the_folder_of_torchvision_is_found(cifar: str, tmp_path: Path) -> None:
    folder = tmp_path / "torchvision" / cifar_files.CIFAR[cifar].folder
    for _ in range(2):  # from the cache, the second time
        data = _load(cifar, tmp_path / "torchvision")
        _require_equal(data, _random(int(cifar[5:])))
        assert data.source == f"{len(list(folder.iterdir()))} files in {folder}"


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.usefixtures("no_network")
def test_the_cache_of_keras_is_found(is_old: bool, cifar: str, tmp_path: Path) -> None:
    form = cifar_files.CIFAR[cifar]
    folder = tmp_path / "keras" / "datasets" / ("" if is_old else f"{form.folder}-target")
    folder.mkdir(parents=True)
    (tmp_path / "torchvision" / form.folder).rename(folder / form.folder)
    data = _load(cifar, tmp_path / "sets")
    _require_equal(data, _random(int(cifar[5:])))
    assert data.source.endswith(f" files in {folder / form.folder}")


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
def test_a_damaged_file_of_another_program_is_ignored(cifar: str, tmp_path: Path) -> None:
    folder = tmp_path / "keras" / "datasets" / "cifar-10-batches-py"
    folder.parent.mkdir(parents=True)
    (tmp_path / "torchvision" / "cifar-10-batches-py").rename(folder)
    (folder / "data_batch_3").write_bytes(b"half")
    notes: list[str] = []
    _require_equal(_load(cifar, tmp_path / "sets", notify=notes.append), _random(10))
    assert notes[0] == (
        f"{folder}/data_batch_3: not the published file of dataset 'cifar10'; ignoring it."
    )


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
@pytest.mark.usefixtures("no_network")
def test_a_wrong_file_in_the_data_folder_is_an_error(cifar: str, tmp_path: Path) -> None:
    """Also where the cache has the images."""
    _load(cifar, tmp_path / "torchvision")
    wrong = tmp_path / "torchvision" / "cifar-10-batches-py" / "test_batch"
    expected = _md5(wrong.read_bytes())
    wrong.write_bytes(b"half")
    with pytest.raises(DataError) as caught:
        _load(cifar, tmp_path / "torchvision", offline="mnist_5k")
    assert str(caught.value) == (
        f"{wrong}: not the published file of dataset 'cifar10' (expected MD5 {expected}, found"
        f" {_md5(b'half')}); {REMEDY}"
    )


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
@pytest.mark.usefixtures("no_network")
def test_without_files_the_message_names_them(cifar: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _load(cifar, tmp_path / "nothing")
    assert str(caught.value) == (
        "dataset 'cifar10' is not available locally and cannot be downloaded (127.0.0.1: no"
        f" connection). Searched {tmp_path}/nothing and its subfolders for"
        " cifar-10-binary.tar.gz, cifar-10-batches-py/ or cifar-10-python.tar.gz; put the files"
        " there, pass their folder with --data-dir, or use --dataset mnist_5k"
    )


@pytest.mark.slow  # importing PyTorch takes seconds
@pytest.mark.usefixtures("no_network")
def test_cifar_is_as_torchvision_reads_it(
    cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from tests.support.torchvision_models import package

    reader: Any = getattr(package().datasets, cifar.upper())
    monkeypatch.setattr(reader, "_check_integrity", lambda _: True)
    monkeypatch.setattr(reader, "_load_meta", lambda _: None)
    data = _load(cifar, tmp_path / "torchvision")
    for is_train, (images, labels) in zip((True, False), _pairs(data), strict=True):
        theirs = reader(tmp_path / "torchvision", train=is_train)
        np.testing.assert_array_equal(theirs.data, images)
        np.testing.assert_array_equal(theirs.targets, labels)


def _pairs(data: Dataset) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    images, labels, *test = _images(data)
    return (images, labels), (test[0], test[1])


# SVHN


@pytest.fixture
def svhn(tmp_path: Path) -> Path:
    """A folder with small MATLAB files, in which digits 0 have the label 10."""
    folder, raw = tmp_path / "served", _random(10)
    folder.mkdir()
    for split in SHAPES:
        labels = raw[f"{split}_labels"]
        content = {
            "X": raw[f"{split}_images"].transpose(1, 2, 3, 0),
            "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None],
        }
        savemat(folder / f"{split}_32x32.mat", content, do_compression=True)
    return folder


SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")


def test_svhn_is_downloaded(svhn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(svhn, Ranged) as base:
        register(monkeypatch, checksum_text(svhn, base, SVHN_FILES))
        part = tmp_path / "sets" / "downloads" / "svhn_cropped" / "train_32x32.mat.part"
        part.parent.mkdir(parents=True)
        part.write_bytes((svhn / "train_32x32.mat").read_bytes()[:1_000])
        data = _load("svhn_cropped", tmp_path / "sets", notify=lambda _: None)
        (svhn / "test_32x32.mat").write_bytes(bytes((svhn / "test_32x32.mat").stat().st_size))
        monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "another"))
        with pytest.raises(DataError, match=r"test_32x32\.mat: not the published file of dataset"):
            _load("svhn_cropped", tmp_path / "others", notify=lambda _: None)
    _require_equal(data, _random(10))
    assert data.source == f"2 files in {part.parent}"


@pytest.mark.parametrize("place", ["", "svhn_cropped", "SVHN", "svhn"])
@pytest.mark.usefixtures("no_network")
def test_files_of_svhn_put_there_by_hand(
    place: str, svhn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, checksum_text(svhn, "http://127.0.0.1", SVHN_FILES))
    (tmp_path / "sets").mkdir()
    svhn.rename(tmp_path / "sets" / (place or "data"))
    data = _load("svhn_cropped", tmp_path / "sets" / ("" if place else "data"))
    _require_equal(data, _random(10))


@pytest.mark.slow  # importing PyTorch takes seconds
@pytest.mark.usefixtures("no_network")
def test_svhn_is_as_torchvision_reads_it(svhn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from tests.support.torchvision_models import package

    reader: Any = package().datasets.SVHN
    monkeypatch.setattr(reader, "_check_integrity", lambda _: True)
    register(monkeypatch, checksum_text(svhn, "http://127.0.0.1", SVHN_FILES))
    for split, (images, labels) in zip(SHAPES, _pairs(_load("svhn_cropped", svhn)), strict=True):
        theirs = reader(svhn, split=split)
        np.testing.assert_array_equal(theirs.data.transpose(0, 2, 3, 1), images)
        np.testing.assert_array_equal(theirs.labels, labels)


_X, _Y = np.zeros((32, 32, 3, 5), np.uint8), np.ones((5, 1), np.uint8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"X": _X}, "is not a MATLAB file of SVHN ('y')"),
        (
            {"X": _X, "y": _Y[:4]},
            "is not a MATLAB file of SVHN (X does not contain a 32x32x3 uint8 image per",
        ),
        (
            {"X": _X[:31], "y": _Y},
            "is not a MATLAB file of SVHN (X does not contain a 32x32x3 uint8 image per",
        ),
        (
            {"X": _X / 2, "y": _Y},
            "is not a MATLAB file of SVHN (X does not contain a 32x32x3 uint8 image per",
        ),
        ({"X": _X, "y": _Y - 1}, "has labels outside 1 to 10; "),
        ({"X": _X, "y": _Y + 10}, "has labels outside 1 to 10; "),
        ({"X": np.tile(_X, 3), "y": np.tile(_Y.T, 3).T}, "has 15 images, more than the 10 exp"),
    ],
)
def test_other_matlab_files_are_refused(
    content: dict[str, Array], reason: str, tmp_path: Path
) -> None:
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(DataError) as caught:
        svhn_files.read_svhn(tmp_path / "a.mat", 10)
    assert str(caught.value).startswith(f"{tmp_path}/a.mat: {reason}")
    assert str(caught.value).endswith(f"; {REMEDY}")


@pytest.mark.parametrize("cut", [0, 1, 100, 128, 150, 400, -1])
def test_garbled_matlab_files(cut: int, svhn: Path) -> None:
    path = svhn / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="is not a MATLAB file of SVHN"):
        svhn_files.read_svhn(path, 10)


# EMNIST


def _emnist(raw: Mapping[str, Array], first: int = 0) -> dict[str, bytes]:
    """Members of the archive: the images of each split are stored transposed."""
    members: dict[str, bytes] = {"gzip/": b""}
    for split in SHAPES:
        stem = f"gzip/emnist-letters-{split}"
        images = raw[f"{split}_images"][..., 0].transpose(0, 2, 1)
        members[f"{stem}-images-idx3-ubyte.gz"] = idx_bytes(images)
        labels = (raw[f"{split}_labels"] + first).astype(np.uint8)
        members[f"{stem}-labels-idx1-ubyte.gz"] = idx_bytes(labels)
    return members


def _letters() -> dict[str, Array]:
    raw = _random(26)
    return {k: v[:, :28, :28, :1] if k.endswith("images") else v for k, v in raw.items()}


def _zip(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("place", [".", "emnist", "EMNIST/raw"])
@pytest.mark.usefixtures("no_network")
def test_emnist_is_upright_and_letters_start_at_0(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _zip(tmp_path / place / "gzip.zip", _emnist(_letters(), first=1))
    register(monkeypatch, checksum_text(tmp_path / place, "http://127.0.0.1", ["gzip.zip"]))
    _require_equal(_load("emnist/letters", tmp_path), _letters())


def _read_letters(path: Path) -> Mapping[str, Array]:
    return emnist.emnist_sources("emnist/letters")[0].read([path], describe("emnist/letters"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("../a", b"", "member '../a' would be extracted outside the folder"),
        ("/a", b"", "member '/a' would be extracted outside the folder"),
        (
            "gzip/emnist-letters-train-images-idx3-ubyte.gz",
            bytes(100_000_000),
            "exceeds the expected 97,843,216 bytes at member"
            " 'gzip/emnist-letters-train-images-idx3-ubyte.gz'",
        ),
        (
            "gzip/emnist-letters-train-images-idx3-ubyte.gz",
            gzip.compress(bytes(100_000_000), 1, mtime=0),
            "exceeds the expected 97,843,216 bytes at member"
            " 'gzip/emnist-letters-train-images-idx3-ubyte.gz'",
        ),
        (
            "gzip/emnist-letters-test-labels-idx1-ubyte.gz",
            gzip.compress(b"abc", mtime=0)[:-4],
            "member gzip/emnist-letters-test-labels-idx1-ubyte.gz is truncated",
        ),
        (
            "gzip/emnist-letters-test-labels-idx1-ubyte.gz",
            b"abc",
            "member gzip/emnist-letters-test-labels-idx1-ubyte.gz is not a gzip file (Error -3"
            " while decompressing data: incorrect header check)",
        ),
        (
            "gzip/emnist-letters-test-labels-idx1-ubyte.gz",
            gzip.compress(b"abc", mtime=0),
            "not a valid IDX file of labels or images",
        ),
        (
            "gzip/emnist-letters-test-labels-idx1-ubyte.gz",
            idx_bytes(np.ones(3, np.uint8)),
            "has no 28x28 images with one label each",
        ),
        (
            "gzip/emnist-letters-test-labels-idx1-ubyte.gz",
            idx_bytes(np.full(10, 27, np.uint8)),
            "has label 26, but labels of 'emnist/letters' are 0 to 25",
        ),
    ],
)
def test_unsafe_and_damaged_archives_of_emnist(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    _zip(tmp_path / "gzip.zip", {**_emnist(_letters(), first=1), name: content})
    with pytest.raises(DataError) as caught:
        _read_letters(tmp_path / "gzip.zip")
    assert str(caught.value) == f"{tmp_path}/gzip.zip: {reason}; {REMEDY}"


def test_an_archive_without_the_split(tmp_path: Path) -> None:
    _zip(tmp_path / "gzip.zip", {"readme": b""})
    with pytest.raises(DataError, match="has no member gzip/emnist-letters-train-images-idx3"):
        _read_letters(tmp_path / "gzip.zip")
    (tmp_path / "gzip.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="is not a valid zip archive"):
        _read_letters(tmp_path / "gzip.zip")


def test_emnist_prepared_by_tensorflow_datasets_is_as_its_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It keeps the images transposed, in the order of the hashes of their indices."""
    raw = _letters()
    stored = [
        {"image": image.swapaxes(0, 1), "label": label + 1}
        for image, label in zip(raw["train_images"], raw["train_labels"], strict=True)
    ]
    monkeypatch.setattr(tfds, "supervised_keys", lambda *_: ("image", "label"))
    rows = [stored[at] for at in tfds._file_order(len(stored), "train")]
    monkeypatch.setattr(tfds, "_rows", lambda *_: rows)
    splits = {"train": SimpleNamespace(num_examples=len(stored))}
    builder = SimpleNamespace(info=SimpleNamespace(splits=splits), data_dir="data")
    info = replace(describe("emnist/letters"), num_classes=37)  # as there
    found = tfds._read_split(info, builder, "train")
    for key in ("train_images", "train_labels"):
        np.testing.assert_array_equal(found[key], raw[key])


# MedMNIST


def _medical(path: Path, channels: tuple[int, ...]) -> dict[str, Array]:
    rng, arrays = np.random.default_rng(5), dict[str, Any]()
    for split, num in (("train", 40), ("val", 10), ("test", 9)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (num, 28, 28, *channels), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(num) % 2).astype(np.uint8)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return arrays


COLORED = ("pathmnist", "dermamnist", "retinamnist", "bloodmnist")


@pytest.mark.parametrize("place", ["sets", "home/.medmnist"])
@pytest.mark.parametrize("name", sorted(set(medmnist.MEDMNIST) - {"chestmnist"}))
@pytest.mark.usefixtures("no_network")
def test_medmnist_has_its_own_validation_images(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / place / f"{name}.npz"
    raw = _medical(path, (3,) if name in COLORED else ())
    monkeypatch.setattr(medmnist, "MEDMNIST", {name: _md5(path.read_bytes())})
    data = _load(name, tmp_path / "sets")
    parts = (("train", data.train), ("val", data.validation), ("test", data.test))
    for split, part in parts:
        images = raw[f"{split}_images"].reshape(-1, *describe(name).shape)
        np.testing.assert_array_equal(part.images, images, strict=True)
        np.testing.assert_array_equal(part.labels, raw[f"{split}_labels"][:, 0])
    assert data.source == str(path)
    assert (data.info.num_train, data.info.num_test) == (50, 9)


@pytest.mark.usefixtures("no_network")
def test_medmnist_of_another_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pathmnist.npz"
    _medical(path, ())
    monkeypatch.setattr(medmnist, "MEDMNIST", {"pathmnist": _md5(path.read_bytes())})
    with pytest.raises(DataError) as caught:
        _load("pathmnist", tmp_path)
    assert str(caught.value) == (
        f"{path}: has no uint8 images of 28x28x3 with one label each; {REMEDY}"
    )


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOF: reading magic string, expected 8 bytes got 0"),
        (_npy(np.zeros(3)), "values of type float64"),
        (_npy(np.array([None])), "values of type object"),
        (_npy(np.zeros(3, np.uint8))[:-1], "cannot reshape array of size 2 into shape (3,)"),
        (
            _npy(np.zeros(300, np.uint8)).replace(b"(300,)", b"(9**9,)"),
            "malformed",
        ),
    ],
)
def test_arrays_that_are_not_integers_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_npy(content, "a.npy")
    assert str(caught.value).startswith(f"a.npy: is not an array of integers ({reason}")
    assert str(caught.value).endswith(f"); {REMEDY}")


@pytest.mark.usefixtures("no_network")
def test_chestmnist_has_several_labels_per_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = {split: rng.integers(0, 2, (9, 14), np.uint8) for split in ("train", "val", "test")}
    arrays: dict[str, Any] = {
        f"{split}_{kind}": rng.integers(0, 256, (9, 28, 28), np.uint8) if kind == "images" else own
        for split, own in rows.items()
        for kind in ("images", "labels")
    }
    path = tmp_path / "chestmnist.npz"
    np.savez(path, **arrays)
    monkeypatch.setattr(medmnist, "MEDMNIST", {"chestmnist": _md5(path.read_bytes())})
    data = _load("chestmnist", tmp_path)
    assert (data.info.labels, data.info.num_classes, data.info.classes[1]) == (
        "multilabel",
        14,
        "cardiomegaly",
    )
    for split, part in (("train", data.train), ("val", data.validation), ("test", data.test)):
        np.testing.assert_array_equal(part.labels, rows[split])
        np.testing.assert_array_equal(part.images[..., 0], arrays[f"{split}_images"])
    np.savez(path, **(arrays | {"val_labels": rows["val"] * 2}))
    monkeypatch.setattr(medmnist, "MEDMNIST", {"chestmnist": _md5(path.read_bytes())})
    message = rf"^{path}: has labels of 'chestmnist' that are not 0 or 1; "
    with pytest.raises(DataError, match=message):
        _load("chestmnist", tmp_path)
    np.savez(path, **(arrays | {"val_labels": rows["val"][:, :3]}))
    monkeypatch.setattr(medmnist, "MEDMNIST", {"chestmnist": _md5(path.read_bytes())})
    message = rf"^{path}: has no uint8 images of 28x28x1 with 14 labels each; "
    with pytest.raises(DataError, match=message):
        _load("chestmnist", tmp_path)


def test_every_set_of_medmnist_is_known() -> None:
    for name in medmnist.MEDMNIST:
        info = describe(name)
        assert (info.shape[:2], info.license.startswith("CC BY")) == ((28, 28), True)
        (source,) = sources.SOURCES[name]()
        assert source.files[0].url.endswith(f"/{name}.npz?download=1")


# CIFAR-10.1


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.usefixtures("no_network")
def test_cifar10_1_replaces_the_test_images(
    is_folder: bool, cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, raw = tmp_path / "torchvision" if is_folder else tmp_path / "served", _random(10)
    test = {"test_images": raw["test_images"][:7] ^ 255, "test_labels": np.arange(7)}
    np.save(sets / "cifar10.1_v6_data.npy", test["test_images"])
    np.save(sets / "cifar10.1_v6_labels.npy", test["test_labels"].astype(np.int32))
    names = ["cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy"]
    text = {
        "cifar10": _registered(tmp_path / "served", ["cifar-10-binary.tar.gz"]),
        "cifar10_1": _registered(sets, names),
    }
    monkeypatch.setattr("cnnbench.data.published.downloads.checksum_text", text.__getitem__)
    _require_equal(_load("cifar10_1/v6", sets), raw | test)


def _registered(folder: Path, names: list[str]) -> str:
    return checksum_text(folder, "http://127.0.0.1", names)


# STL-10


def _stl10() -> tuple[dict[str, Array], dict[str, bytes]]:
    """Images and labels, and the files: column-major planes, and labels from 1."""
    rng, arrays, files = np.random.default_rng(9), dict[str, Array](), dict[str, bytes]()
    for split, num in SHAPES.items():
        images = rng.integers(0, 256, (num, 96, 96, 3), np.uint8)
        labels = rng.integers(0, 10, num, np.uint8)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        files[f"{split}_X.bin"] = images.transpose(0, 3, 2, 1).tobytes()
        files[f"{split}_y.bin"] = (labels + 1).tobytes()
    return arrays, files


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.usefixtures("no_network")
def test_stl10(is_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (raw, files), folder = _stl10(), tmp_path / "sets" / "stl10_binary"
    members = {f"stl10_binary/{name}": content for name, content in files.items()}
    archive = "stl10_binary.tar.gz"
    _tar(tmp_path / archive, {"stl10_binary/unlabeled_X.bin": bytes(9), **members})
    register(monkeypatch, checksum_text(tmp_path, "http://127.0.0.1", [archive]))
    monkeypatch.setattr(stl10, "_STL10_MD5", {name: _md5(files[name]) for name in STL10})
    if is_folder:
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    data = _load("stl10", tmp_path / "sets" if is_folder else tmp_path)
    _require_equal(data, raw)
    assert data.source == (f"4 files in {folder}" if is_folder else str(tmp_path / archive))


STL10 = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")


# MNIST and Fashion-MNIST of Keras


def _gray() -> dict[str, Array]:
    raw = _random(10)
    return {k: v[:, :28, :28, :1] if k.endswith("images") else v for k, v in raw.items()}


@pytest.mark.usefixtures("no_network")
def test_mnist_of_keras_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, path = _gray(), tmp_path / "keras" / "datasets" / "mnist.npz"
    path.parent.mkdir(parents=True)
    x, y = ({s: raw[f"{s}_{kind}"].squeeze() for s in SHAPES} for kind in ("images", "labels"))
    labels = {f"y_{split}": y[split].astype(np.uint8) for split in SHAPES}
    np.savez(path, x_train=x["train"], x_test=x["test"], **labels)  # type: ignore[arg-type]
    (source,) = sources.COPIES["mnist"]()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    right = replace(source, files=(replace(source.files[0], checksum=sha256),))
    monkeypatch.setattr(sources, "COPIES", {"mnist": lambda: (right,)})
    data = _load("mnist", tmp_path / "sets")
    _require_equal(data, raw)
    assert data.source == str(path)


@pytest.mark.usefixtures("no_network")
def test_fashion_mnist_of_keras_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, folder = _gray(), tmp_path / "keras" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for role, name in FILENAMES.items():
        (folder / name).write_bytes(idx_bytes(raw[role].squeeze().astype(np.uint8)))
    register(monkeypatch, checksum_text(folder, "http://127.0.0.1", list(FILENAMES.values())))
    data = _load("fashion_mnist", tmp_path / "sets")
    _require_equal(data, raw)
    assert data.source == f"4 files in {folder}"


# Files of CIFAR


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes, not 3,073 per image"),
        (bytes(3072), "has 3,072 bytes, not 3,073 per image"),
    ],
)
def test_binary_files_of_another_size(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        cifar_files.decode_cifar(1, content, "a.bin")
    assert str(caught.value) == f"a.bin: {message}; {REMEDY}"


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
def test_a_label_that_is_no_class_is_located(cifar: str, tmp_path: Path) -> None:
    binary, folder, _ = cifar_files.cifar_sources(cifar)
    content = _binary(cifar, np.zeros((1, 3072), np.uint8), np.array([10]))
    members = [name for names in cifar_files.CIFAR[cifar].binary.values() for name in names]
    _tar(tmp_path / "a.tar.gz", dict.fromkeys(members, content))
    message = f"has label 10, but labels of '{cifar}' are 0 to 9; {REMEDY}"
    with pytest.raises(DataError) as caught:
        binary.read([tmp_path / "a.tar.gz"], KNOWN[cifar])
    assert str(caught.value) == f"{tmp_path}/a.tar.gz: {members[0]}: {message}"
    paths = [tmp_path / "torchvision" / folder.folders[0] / each.filename for each in folder.files]
    paths[5].write_bytes(_pickled(cifar, np.zeros((1, 3072), np.uint8), np.array([10])))
    with pytest.raises(DataError) as caught:
        folder.read(paths, KNOWN[cifar])
    assert str(caught.value) == f"{paths[5]}: {message}"


# Pickles


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">f8"])
def test_unpickles_arrays(protocol: int, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    content = {"data": array, b"columns": np.asfortranarray(array[0]), "x": [1, "é", b"\xff", None]}
    found = read_pickle(pickle.dumps(content, protocol), "a.pkl")
    np.testing.assert_array_equal(found["data"].values, array, strict=True)
    np.testing.assert_array_equal(found["columns"].values, array[0])
    assert found["x"][0] == 1


class _Calls:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_Calls(os.system, "touch {}"), "refers to posix.system"),
        (_Calls(shutil.rmtree, "{}"), "refers to shutil.rmtree"),
        (_Calls(Path, "{}"), "refers to pathlib.Path"),
        (_Calls(operator.attrgetter, "tofile"), "refers to operator.attrgetter"),
        (_Calls(np.load, "{}"), "refers to numpy.load"),
        (_Calls(np.dtype, "O"), "array of type 'O'"),
        (_Calls(np.dtype, "S999999999"), "array of type 'S999999999'"),
        (np.array([print]), "array of type 'O8'"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_pickle_is_refused(
    content: Any, reason: str, protocol: int, tmp_path: Path
) -> None:
    target = tmp_path / "written"
    if isinstance(content, _Calls):
        function, args = content.call
        args = tuple(a.format(target) if isinstance(a, str) else a for a in args)
        content = _Calls(function, *args)
    with pytest.raises(DataError) as caught:
        read_pickle(pickle.dumps({"data": content}, protocol), "a.pkl")
    assert str(caught.value) == (
        "a.pkl: is not a pickle of only NumPy arrays, strings, lists and dictionaries"
        f" ({reason}); {REMEDY}"
    )
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\x80\x02}q\x00.more"[:4],
        b"\x80\x02cnumpy\nndarray\n(K\x01b.",
        b"\x80\x02cnumpy\nndarray\n)RK\x01b.",  # a state that is no tuple
        b"\x80\x02cnumpy\ndtype\n)R.",
        b"\x80\x02cnumpy\ndtype\n(U\x02u1tRK\x01b.",
        b"\x80\x02c_codecs\nencode\n(K\x01K\x02tR.",
        # an attribute of a function, in a dictionary
        b"\x80\x02}U\x01kc_codecs\nencode\nN}X\x01\x00\x00\x00aX\x01\x00\x00\x00bs\x86bs.",
        b"P0\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension
    ],
)
def test_garbled_pickles_are_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(DataError) as caught:
        read_pickle(content, "a.pkl")
    assert "\n" not in str(caught.value)


def test_flipped_bytes_of_a_pickle_crash_nothing() -> None:
    content = _pickled("cifar10", np.zeros((3, 3072), np.uint8), np.arange(3))
    for at in [*range(200), *range(len(content) - 200, len(content))]:
        for bits in (0x01, 0x55, 0xFF):
            garbled = content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :]
            try:
                read_pickle(garbled, "a.pkl")
            except DataError as error:
                assert str(error).startswith("a.pkl: ")  # noqa: PT017 - either is fine


def test_a_pickle_of_something_else_is_refused() -> None:
    with pytest.raises(DataError, match=r"^a.pkl: contains a list, not a dictionary; "):
        read_pickle(pickle.dumps([1]), "a.pkl")


# Archives


@pytest.mark.parametrize(
    "name", ["../a.bin", "/etc/a.bin", "set/../../a.bin", "..\\a.bin", "set/.."]
)
def test_a_member_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar.gz", {name: b"1", "set/a.bin": b"2"})
    with pytest.raises(DataError) as caught:
        read_tar(tmp_path / "a.tar.gz", ["set/a.bin"], 100)
    assert str(caught.value) == (
        f"{tmp_path}/a.tar.gz: member '{name}' would be extracted outside the folder; {REMEDY}"
    )


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("set/a.bin")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError) as caught:
        read_tar(tmp_path / "a.tar.gz", ["set/a.bin"], 100)
    assert str(caught.value) == (
        f"{tmp_path}/a.tar.gz: member 'set/a.bin' is a link or device; {REMEDY}"
    )


@pytest.mark.parametrize("bomb", ["set/a.bin", "set/other.bin"])
def test_an_archive_that_grows_is_refused_before_it_does(bomb: str, tmp_path: Path) -> None:
    """Its header claims a terabyte, of which the file has nothing."""
    header = tarfile.TarInfo(bomb)
    header.size = 2**40
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header.tobuf()))
    with pytest.raises(DataError) as caught:
        read_tar(tmp_path / "a.tar.gz", ["set/a.bin"], 1_000)
    assert str(caught.value) == (
        f"{tmp_path}/a.tar.gz: exceeds the expected 1,000 bytes at member '{bomb}'; {REMEDY}"
    )


@pytest.mark.parametrize("cut", [0, 5, 60, -9])
def test_garbled_archives(cut: int, tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar.gz", {"set/a.bin": np.random.default_rng(0).bytes(500)})
    content = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"is not a valid tar\.gz archive|has no member"):
        read_tar(tmp_path / "a.tar.gz", ["set/a.bin", "b"], 1_000)


def test_a_member_that_is_missing(tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar.gz", {"./set/a.bin": b"1"})
    assert read_tar(tmp_path / "a.tar.gz", ["set/a.bin"], 100) == {"set/a.bin": b"1"}
    with pytest.raises(DataError) as caught:
        read_tar(tmp_path / "a.tar.gz", ["set/a.bin", "set/b.bin"], 100)
    assert str(caught.value) == f"{tmp_path}/a.tar.gz: has no member set/b.bin; {REMEDY}"
