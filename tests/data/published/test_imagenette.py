"""Imagenette in an archive of the true format, made of noise."""

import io
import os
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.data import file_digests
from cnnbench.data.catalog import KNOWN, DatasetInfo, ImageForm, private_api, resized_info
from cnnbench.data.dataset import Dataset, load_dataset
from cnnbench.data.published.readers.imagenette import ARCHIVES, SYNSETS
from cnnbench.data.resizing import MOST_BYTES
from cnnbench.errors import DataError
from cnnbench.spec.experiment import DatasetSpec
from tests.support.servers import Ranged, serving
from tests.support.tinysets import checksum_text, register

FORM = ImageForm((16, 12), "crop", 3, (255, 255, 255))
REMEDY = "remove it or replace it with the right file"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path / "fastai"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def jpeg(seed: int) -> bytes:
    """An image of random size; every fifth is gray, and one is upside down by its EXIF."""
    rng = np.random.default_rng(seed)
    shape = (*rng.integers(20, 40, 2), *([] if seed % 5 == 0 else [3]))
    file, exif = io.BytesIO(), Image.Exif()
    if seed == 7:
        exif[0x0112] = 3
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def archive(
    path: Path, stem: str = "imagenette2-160", more: Mapping[str, bytes] | None = None
) -> dict[str, bytes]:
    """An archive with two training images and a validation image of each class."""
    files = {f"{stem}/noisy_imagenette.csv": b"path,noisy_labels_0\n"}
    for at, synset in enumerate(SYNSETS):
        for i in range(2):
            files[f"{stem}/train/{synset}/{synset}_{i}.JPEG"] = jpeg(2 * at + i)
        files[f"{stem}/val/{synset}/ILSVRC2012_val_{at:08}.JPEG"] = jpeg(100 + at)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {**files, **(more or {})}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return files


def load(data_dir: Path, name: str = "imagenette", **kwargs: Any) -> Dataset:
    options: dict[str, Any] = {"form": FORM, "data_dir": data_dir, "notify": pytest.fail}
    options.update(kwargs)
    return load_dataset(name, **options)


def as_torchvision(content: bytes) -> Any:
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = max(12 / image.width, 16 / image.height)
    width, height = 12 / scale, 16 / scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize((12, 16), Image.Resampling.BILINEAR, box))


def test_downloaded_then_cached_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = archive(tmp_path / "served" / "imagenette2-160.tgz")
    notes: list[str] = []
    with serving(tmp_path / "served", Ranged) as base:
        register(monkeypatch, checksum_text(tmp_path / "served", base, ["imagenette2-160.tgz"]))
        data = load(tmp_path / "sets", splits={"validation": 4}, notify=notes.append)
    place = tmp_path / "sets" / "downloads" / "imagenette" / "imagenette2-160.tgz"
    assert notes[1:] == [f"Decoding 'imagenette' from {place}."]
    hasher = private_api("hashing", "Hasher")
    for parts, folder, theirs in (
        ((data.train, data.validation), "train", "train"),
        ((data.test,), "val", "validation"),
    ):
        names = [name for name in files if f"/{folder}/" in name]
        names.sort(key=lambda name: hasher(theirs).hash_key(Path(name).name))
        images = np.concatenate([part.images for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        assert len(images) == len(names)
        for image, label, name in zip(images, labels, names, strict=True):
            np.testing.assert_allclose(image, as_torchvision(files[name]), atol=1)
            assert SYNSETS[label] == Path(name).parent.name
    assert (
        data.info.classes[data.test.labels[0]] == KNOWN["imagenette"].classes[data.test.labels[0]]
    )
    again = load(tmp_path / "sets", splits={"validation": 4})
    assert (again.digest, again.source) == (data.digest, str(place))
    place.unlink()
    assert (
        load(tmp_path / "sets", splits={"validation": 4}, notify=notes.append).digest == data.digest
    )
    smaller = ImageForm((8, 8), "crop", 3, (255, 255, 255))
    with pytest.raises(DataError, match="is not available locally"):  # the cache has another size
        load(tmp_path / "sets", form=smaller)


@pytest.mark.parametrize("place", ["sets", "sets/manual", "sets/imagenette", "fastai/archive"])
@pytest.mark.parametrize("name", ["imagenette", "imagenette/160px-v2", "imagenette/full-size"])
@pytest.mark.usefixtures("no_network")
def test_archives_that_are_there(
    place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / place / f"{ARCHIVES[name]}.tgz"
    archive(path, ARCHIVES[name])
    register(monkeypatch, checksum_text(path.parent, "http://127.0.0.1", [path.name]))
    data = load(tmp_path / "sets", name, notify=lambda _: None)
    assert (data.source, len(data.test)) == (str(path), 10)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train/n01440764/a.JPEG", b"no", "imagenette2-160/train/n01440764/a.JPEG cannot be"),
        ("../a", b"", "member 'imagenette2-160/../a' would be extracted outside the folder; "),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_damaged_archives(
    name: str, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "imagenette2-160.tgz"
    archive(path, more={f"imagenette2-160/{name}": content})
    register(monkeypatch, checksum_text(tmp_path, "http://127.0.0.1", [path.name]))
    with pytest.raises(DataError) as caught:
        load(tmp_path, notify=lambda _: None)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).endswith(REMEDY)


@pytest.mark.usefixtures("no_network")
def test_an_archive_of_another_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "imagenette2-160.tgz"
    archive(path, "imagewoof2-160")
    register(monkeypatch, checksum_text(tmp_path, "http://127.0.0.1", [path.name]))
    with pytest.raises(DataError) as caught:
        load(tmp_path, notify=lambda _: None)
    message = f"{path}: has no JPEG files in imagenette2-160/train; {REMEDY}"
    assert str(caught.value) == message


def test_a_size_is_required() -> None:
    for call in (lambda: load(Path(), form=None), DatasetSpec(name="imagenette").describe):
        with pytest.raises(DataError) as caught:
            call()
        assert str(caught.value) == (
            "dataset 'imagenette' has images of various sizes; set dataset.resize, such as "
            "{size: [128, 128]}"
        )
    spec = DatasetSpec.model_validate({"name": "imagenette", "resize": {"size": 64}})
    assert spec.describe().shape == (64, 64, 3)


def test_too_large_a_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "imagenette2-160.tgz"
    archive(path)
    register(monkeypatch, checksum_text(tmp_path, "http://127.0.0.1", [path.name]))
    form = ImageForm((20_000, 20_000), "crop", 3, (0, 0, 0))
    with pytest.raises(DataError, match=r"^dataset.resize: 20 images need 22.4 GiB of memory"):
        load(tmp_path, form=form, notify=lambda _: None)
    assert MOST_BYTES == 2**32


def test_every_archive_is_registered() -> None:
    """In tensorflow-datasets, with its configurations and its labels."""
    import tensorflow_datasets as tfds

    package = Path(tfds.__file__).parent
    labels = (package / "image_classification" / "imagenette_labels.txt").read_text().split()
    assert list(SYNSETS) == labels
    configs = tfds.builder_cls("imagenette").builder_configs
    assert set(ARCHIVES) == {"imagenette", *(f"imagenette/{config}" for config in configs)}
    for name, stem in ARCHIVES.items():
        assert KNOWN[name].varies
        if name != "imagenette":
            assert configs[name.partition("/")[2]].dirname == stem
    assert resized_info(KNOWN["imagenette"], FORM).shape == (16, 12, 3)
    assert isinstance(KNOWN["imagenette"], DatasetInfo)


def test_prepared_images_are_those_of_experiments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path / "sets" / "imagenette2-160.tgz")
    register(
        monkeypatch, checksum_text(tmp_path / "sets", "http://no.invalid", ["imagenette2-160.tgz"])
    )
    words = ["data", "prepare", "imagenette", "--resize", "12x16", "--data-dir"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "sets")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "Decoding 'imagenette'" in done.stderr
    wanted = DatasetSpec.model_validate({"name": "imagenette", "resize": {"size": [12, 16]}})
    assert load(tmp_path / "sets", form=wanted.form).train.images.shape[1:] == (12, 16, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "imagenette: has images of various sizes; add the size in your experiments:"
            " cnnbench data prepare imagenette --resize 128",
        ),
        *(
            (
                ["--resize", size],
                f"--resize: '{size}' is not a size; use 128, or 96x128 (height x width).",
            )
            for size in ("0", "12y", "1x2x3", "x", "1.5", "-3")
        ),
    ],
)
def test_prepare_requires_a_size(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["data", "prepare", "imagenette", *options])
    assert (done.exit_code, done.stderr) == (2, f"{message}\n")


def test_an_archive_is_hashed_once_unless_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "sets" / "imagenette2-160.tgz"
    archive(place)
    register(monkeypatch, checksum_text(place.parent, "http://no.invalid", [place.name]))
    reads, read, now = list[Path](), file_digests._read, time.time_ns

    def counted(path: Path, algorithm: file_digests.HashAlgorithm = "sha256") -> str:
        reads.append(path)
        return read(path, algorithm)

    monkeypatch.setattr(file_digests, "_read", counted)
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)  # it has not changed just now
    load(place.parent, notify=lambda _: None)
    assert reads == [place]
    place.write_bytes(place.read_bytes()[:-1] + b"x")  # of the same size
    with pytest.raises(DataError, match="not the published file"):
        load(place.parent)
    os.utime(place, (1, 2))
    with pytest.raises(DataError, match="not the published file"):
        load(place.parent)
