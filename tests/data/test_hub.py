"""Datasets in the caches of Hugging Face, laid out as `huggingface_hub` and `datasets` do."""

import gzip
import hashlib
import importlib.util
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnbench.data import catalog, hub
from cnnbench.data.catalog import KNOWN
from cnnbench.data.dataset import Dataset, load_dataset
from cnnbench.data.published import idx
from cnnbench.errors import DataError
from cnnbench.system.arrays import Array
from tests.support.tinysets import (
    checksum_text,
    register,
    tiny,
    write_idx_files,
)

pa = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
FOLDERS = {
    "hub": "hub/datasets--{org}--{name}/snapshots/0123abcd/{config}",
    "old hub": "hub/datasets--{old}/snapshots/0123abcd/{config}",
    "prepared": "datasets/{org}___{name}/{config}/0.0.0/0123abcd",
    "old prepared": "datasets/{old}/{config}/1.0.0/0123abcd",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> Path:
    """The folder of Hugging Face."""
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "hf"


def png(pixels: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


def write(home: Path, kind: str, name: str, raw: Any, shards: int = 1) -> Path:
    """Writes a set as a repository of the hub, or as `datasets` prepares it."""
    import pyarrow.parquet as pq

    (first, old), config = hub.REPOSITORIES[name]
    org, _, of = first.partition("/")
    folder = home / FOLDERS[kind].format(org=org, name=of, old=old, config=config)
    folder.mkdir(parents=True)
    label = "fine_label" if name == "cifar100" else "label"
    image = "img" if name.startswith("cifar") else "image"
    for split in ("train", "test"):
        images, labels = raw[f"{split}_images"], raw[f"{split}_labels"]
        for i in range(shards):
            part = slice(i * len(images) // shards, (i + 1) * len(images) // shards)
            cells = [{"bytes": png(each), "path": None} for each in images[part]]
            table = pa.table({image: cells, label: labels[part].astype(np.int64)})
            if "hub" in kind:
                blob = home / "hub" / "blobs" / f"{split}{i}"
                blob.parent.mkdir(exist_ok=True)
                pq.write_table(table, blob)
                (folder / f"{split}-{i:05}-of-{shards:05}.parquet").symlink_to(blob)
            else:
                number = f"-{i:05}-of-{shards:05}" if shards > 1 else ""
                with pa.ipc.new_stream(folder / f"{of}-{split}{number}.arrow", table.schema) as to:
                    to.write_table(table)
    (folder / "dataset_info.json").write_text(json.dumps({}))
    (folder / "cache-77.arrow").write_bytes(b"a result of map")
    return folder


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Array]:
    """The tiny MNIST, which is registered as the real one is."""
    raw, folder = tiny(), tmp_path / "published"
    write_idx_files(folder)
    register(monkeypatch, checksum_text(folder, "http://test.invalid"))
    arrays = {
        role: getattr(raw, role) for role in ("train_images", "train_labels", "test_images")
    } | {"test_labels": raw.test_labels}
    sums = {
        hashlib.sha256((folder / name).read_bytes()).hexdigest(): hashlib.sha256(
            gzip.decompress((folder / name).read_bytes())
        ).hexdigest()
        for name in idx.FILENAMES.values()
    }
    monkeypatch.setattr(hub, "UNCOMPRESSED", sums)
    return arrays


def load(name: str, tmp_path: Path, notes: list[str]) -> Dataset:
    return load_dataset(name, data_dir=tmp_path / "sets", notify=notes.append)


def require_equal(data: Dataset, raw: Any) -> None:
    images = np.concatenate([data.train.images, data.validation.images])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    np.testing.assert_array_equal(images, raw["train_images"])
    np.testing.assert_array_equal(labels, raw["train_labels"])
    np.testing.assert_array_equal(data.test.images, raw["test_images"])
    np.testing.assert_array_equal(data.test.labels, raw["test_labels"])


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("shards", [1, 2])
def test_mnist_is_compared_with_the_published_files(
    kind: str, shards: int, mnist: dict[str, Array], home: Path, tmp_path: Path
) -> None:
    folder, notes = write(home, kind, "mnist", mnist, shards), list[str]()
    data = load("mnist", tmp_path, notes)
    require_equal(data, mnist)
    assert notes == [f"Decoding 'mnist' from {folder}."]
    assert data.source == f"the Hugging Face cache {folder}"
    assert load("mnist", tmp_path, notes).digest == data.digest  # from the cache
    assert len(notes) == 1
    write_idx_files(tmp_path / "sets")
    assert load("mnist", tmp_path, notes).source == f"IDX files in {tmp_path / 'sets'}"


def test_files_that_are_not_mnist_are_ignored(
    mnist: dict[str, Array], home: Path, tmp_path: Path
) -> None:
    wrong = {**mnist, "test_images": mnist["test_images"] ^ 1}
    folder, notes = write(home, "hub", "mnist", wrong), list[str]()
    with pytest.raises(DataError, match="is not available locally and cannot be downloaded"):
        load("mnist", tmp_path, notes)
    assert notes[1:] == [
        f"{folder}: is not 'mnist': its test images are not the published ones; ignoring it."
    ]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn_cropped"])
@pytest.mark.parametrize("kind", ["hub", "prepared"])
def test_others_are_checked_for_their_sizes(
    name: str, kind: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, raw = np.random.default_rng(0), dict[str, Any]()
    for split, num in (("train", 12), ("test", 5)):
        raw[f"{split}_images"] = rng.integers(0, 256, (num, 32, 32, 3), np.uint8)
        raw[f"{split}_labels"] = rng.integers(0, 10, num)
    folder, notes = write(home, kind, name, raw), list[str]()
    with pytest.raises(DataError, match="is not available locally and cannot be downloaded"):
        load(name, tmp_path, notes)
    assert notes[1].startswith(f"{folder}: is not '{name}': it has 12 train images, not ")
    info = replace(KNOWN[name], num_train=12, num_test=5)
    monkeypatch.setattr(catalog, "KNOWN", {**KNOWN, name: info})
    data = load(name, tmp_path, notes)
    require_equal(data, raw)
    assert data.source == f"the Hugging Face cache {folder}{hub.UNVERIFIED}"


def test_a_missing_shard_is_noticed(mnist: dict[str, Array], home: Path, tmp_path: Path) -> None:
    folder = write(home, "hub", "mnist", mnist, 2)
    (folder / "train-00001-of-00002.parquet").unlink()
    assert hub.find_hub_copy(KNOWN["mnist"]) is None


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"])
def test_the_variables_of_hugging_face(
    variable: str, mnist: dict[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "huggingface", "hub", "mnist", mnist)
    where = tmp_path if variable.startswith("XDG") else tmp_path / "huggingface" / "hub"
    monkeypatch.setenv(variable, str(where))
    if variable.startswith("XDG"):
        monkeypatch.delenv("HF_HOME")
    copy = hub.find_hub_copy(KNOWN["mnist"])
    assert copy is not None
    assert copy.folder == folder


def test_without_pyarrow_the_message_says_how_to_install_it(
    mnist: dict[str, Array], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, notes = write(home, "prepared", "mnist", mnist), list[str]()
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name)
    )
    with pytest.raises(DataError, match="is not available locally and cannot be downloaded"):
        load("mnist", tmp_path, notes)
    assert notes == [
        f"{folder}: reading 'mnist' from there requires pyarrow; pip install 'cnnbench[parquet]'."
    ]


def test_damaged_files_are_ignored(mnist: dict[str, Array], home: Path, tmp_path: Path) -> None:
    folder, notes = write(home, "prepared", "mnist", mnist), list[str]()
    (folder / "mnist-test.arrow").write_bytes(b"half")
    with pytest.raises(DataError, match="is not available locally and cannot be downloaded"):
        load("mnist", tmp_path, notes)
    assert notes[1].startswith(f"{folder}/mnist-test.arrow: is not a valid Arrow file (")
    assert notes[1].endswith("; ignoring it.")
