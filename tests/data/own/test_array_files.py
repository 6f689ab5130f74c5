"""Array files as Keras, MedMNIST, Kaggle, PyTorch users and the Hugging Face Hub write them."""

import gzip
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.data.catalog import SPLITS, ArrayOptions, ImageForm
from cnnbench.data.dataset import dataset_of
from cnnbench.data.own import array_files
from cnnbench.data.own.array_files import ArrayData, read_array_files
from cnnbench.errors import DataError, SpecError
from cnnbench.runs.folder import read_run_entry
from cnnbench.spec.experiment import DatasetSpec
from cnnbench.spec.loader import load_experiment
from tests.support.array_files import keras_npz

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 256, (12, 6, 5), np.uint8)
COLOR = RANDOM.integers(0, 256, (12, 6, 5, 3), np.uint8)
LABELS = np.arange(12) % 3
EACH = ("train", "test")


def keras(folder: Path, images: Any, labels: Any = LABELS, **more: Any) -> Path:
    return keras_npz(folder, images, labels, **more)


def assert_read(data: ArrayData, images: Any, labels: Any = LABELS) -> None:
    """The same images, (n, h, w, c), and labels, in types of the project."""
    images = images if images.ndim == 4 else images[..., None]
    for split, part in zip(EACH, (slice(8), slice(8, None)), strict=True):
        found = data.arrays[f"{split}_images"]
        assert str(found.dtype) == "uint8"
        assert str(data.arrays[f"{split}_labels"].dtype) == "int32"
        np.testing.assert_array_equal(found, images[part])
        np.testing.assert_array_equal(data.arrays[f"{split}_labels"], labels[part])


def test_keras_npz(tmp_path: Path) -> None:
    data = read_array_files(keras(tmp_path, GRAY))
    assert_read(data, GRAY)
    assert (data.num_classes, data.class_names, data.notes) == (3, (), ())
    assert list(data.arrays) == ["train_images", "train_labels", "test_images", "test_labels"]


def test_medmnist_npz(tmp_path: Path) -> None:
    path = tmp_path / "bloodmnist.npz"
    parts = {"train": slice(0, 6), "val": slice(6, 8), "test": slice(8, 12)}
    columns = LABELS[:, None].astype(np.uint8)
    arrays: dict[str, Any] = {f"{split}_images": COLOR[part] for split, part in parts.items()}
    arrays |= {f"{split}_labels": columns[part] for split, part in parts.items()}
    np.savez_compressed(path, **arrays)
    data = read_array_files(path)
    assert sorted(data.arrays) == sorted(
        f"{split}_{kind}"
        for split in ("train", "validation", "test")
        for kind in ("images", "labels")
    )
    np.testing.assert_array_equal(data.arrays["validation_images"], COLOR[6:8])
    np.testing.assert_array_equal(data.arrays["validation_labels"], LABELS[6:8])


@pytest.mark.parametrize(
    ("store", "note"),
    [
        (lambda x: x.astype(np.int64), "int64 in [0, 255]"),
        (lambda x: x.astype(">u2"), "uint16 in [0, 255]"),
        (lambda x: x.astype(np.float64), "float64 in [0, 255]"),
        (lambda x: x.astype(np.float32) / 255, "float32 in [0, 1]"),
        (lambda x: (x / 255).astype(np.float16), "float16 in [0, 1]"),
        (lambda x: x / 255 * 1.0001 - 5e-5, "float64 in [0, 1]"),
        (np.asfortranarray, None),
        (lambda x: np.moveaxis(x, -1, 1), "channels first"),
    ],
)
def test_pixel_types(tmp_path: Path, store: Callable[[Any], Any], note: str | None) -> None:
    data = read_array_files(keras(tmp_path, store(COLOR)))
    assert data.notes == ((note,) if note else ())
    assert_read(data, COLOR)


def test_images_of_booleans_or_of_zeros_and_ones_are_black_and_white(tmp_path: Path) -> None:
    ink = GRAY > 127
    for images in (ink, ink.astype(np.uint8)):
        assert_read(read_array_files(keras(tmp_path, images)), ink * np.uint8(255))


@pytest.mark.parametrize(
    ("images", "wanted"),
    [(GRAY / 127.5 - 1, (-1.0, 1.0)), (GRAY.astype(np.uint16) * 257, (0.0, 65535.0))],
)
def test_value_range(tmp_path: Path, images: Any, wanted: tuple[float, float]) -> None:
    path = keras(tmp_path, images)
    assert_read(read_array_files(path, ArrayOptions(value_range=wanted)), GRAY)


@pytest.mark.parametrize(
    ("shape", "layout", "found"),
    [
        ((12, 6, 5, 1), None, (6, 5, 1)),
        ((12, 1, 6, 5), None, (6, 5, 1)),
        ((12, 3, 6, 5), None, (6, 5, 3)),
        ((12, 6, 5, 4), None, (6, 5, 4)),
        ((12, 2, 6, 5), None, (6, 5, 2)),
        ((12, 4, 4, 3), None, (4, 4, 3)),
        ((12, 3, 5, 3), "channels_first", (5, 3, 3)),
        ((12, 6, 5, 8), "channels_last", (6, 5, 8)),
        ((12, 25), None, (5, 5, 1)),
        ((12, 25), "channels_first", (5, 5, 1)),
    ],
)
def test_layouts(
    tmp_path: Path, shape: tuple[int, ...], layout: Any, found: tuple[int, ...]
) -> None:
    images = RANDOM.integers(0, 256, shape, np.uint8)
    data = read_array_files(keras(tmp_path, images), ArrayOptions(layout=layout))
    assert data.arrays["train_images"].shape == (8, *found)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_flat_color(tmp_path: Path, layout: Any) -> None:
    axes = (0, 3, 1, 2) if layout == "channels_first" else (0, 1, 2, 3)
    flat = COLOR.transpose(axes).reshape(12, -1)
    options = ArrayOptions(shape=(6, 5, 3), layout=layout)
    assert_read(read_array_files(keras(tmp_path, flat), options), COLOR)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.uint64),
        LABELS.astype(np.float32),
        LABELS[:, None],
        np.eye(3)[LABELS],
        np.eye(3, dtype=bool)[LABELS],
        LABELS.astype(str),
    ],
)
def test_label_types_without_names(tmp_path: Path, labels: Any) -> None:
    data = read_array_files(keras(tmp_path, GRAY, labels))
    assert_read(data, GRAY)
    assert (data.num_classes, data.class_names) == (3, ())


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["ant", "bee", "cat"])[LABELS], ("ant", "bee", "cat")),
        (np.array([b"ant", b"bee", b"c\xc3\xa4t"])[LABELS], ("ant", "bee", "cät")),
        (np.array([1, 2, 10])[LABELS], ("1", "2", "10")),
        (np.array(["1", "2", "10"])[LABELS], ("1", "2", "10")),
        (np.array([-1.0, 0.0, 1.0])[LABELS], ("-1", "0", "1")),
    ],
)
def test_label_types_with_names(tmp_path: Path, labels: Any, names: tuple[str, ...]) -> None:
    data = read_array_files(keras(tmp_path, GRAY, labels))
    assert_read(data, GRAY)
    assert (data.num_classes, data.class_names) == (3, names)


def test_class_names_beside_the_arrays(tmp_path: Path) -> None:
    names = np.array(["zebra", "ant", "bee", "never"])
    data = read_array_files(keras(tmp_path, GRAY, class_names=names))
    assert_read(data, GRAY)
    assert (data.num_classes, data.class_names) == (4, tuple(names))
    data = read_array_files(keras(tmp_path, GRAY, names[LABELS], class_names=names))
    assert_read(data, GRAY)


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, inputs=GRAY, classes=LABELS, x_train=GRAY[:1], extra=LABELS)
    keys = {"images": "inputs", "train_labels": "classes"}
    data = read_array_files(path, ArrayOptions(keys=tuple(keys.items())))
    np.testing.assert_array_equal(data.arrays["train_images"], GRAY[..., None])
    assert list(data.arrays) == ["train_images", "train_labels"]


def test_npy_files(tmp_path: Path) -> None:
    files = {}
    for split, part in zip(EACH, (slice(8), slice(8, None)), strict=True):
        for kind, array in (("images", GRAY), ("labels", LABELS)):
            files[f"{split}_{kind}"] = tmp_path / f"{split}_{kind[0]}.npy"
            np.save(files[f"{split}_{kind}"], array[part])
    assert_read(read_array_files(files), GRAY)


def test_folder_of_npy_files(tmp_path: Path) -> None:
    for split, part in zip(EACH, (slice(8), slice(8, None)), strict=True):
        np.save(tmp_path / f"X_{split}.npy", GRAY[part])
        np.save(tmp_path / f"y_{split}.npy", LABELS[part])
    (tmp_path / "readme.txt").write_text("about")
    assert_read(read_array_files(tmp_path), GRAY)


def table(labels: Any = LABELS, name: str = "label", at: int = 0) -> pd.DataFrame:
    """Kaggle's form of MNIST: the label, then pixels; square images."""
    square = GRAY[:, :5].reshape(12, -1)
    frame = pd.DataFrame(square, columns=[f"pixel{i}" for i in range(25)])
    frame.insert(at, name, labels)
    return frame


def write(
    frame: pd.DataFrame, folder: Path, suffix: str = ".csv", **options: Any
) -> dict[str, Path]:
    files = {split: folder / f"{split}{suffix}" for split in EACH}
    frame[:8].to_csv(files["train"], **{"index": False} | options)
    frame[8:].to_csv(files["test"], **{"index": False} | options)
    return files


@pytest.mark.parametrize(
    ("frame", "options"),
    [
        (table(), {}),
        (table(), {"header": False}),
        (table(), {"index": True}),
        (table(), {"sep": ";", "quoting": 1}),
        (table(), {"sep": "\t", "encoding": "utf-8-sig", "lineterminator": "\r\n"}),
        (table(name="class", at=25), {"float_format": "%.6e"}),
        (table(LABELS.astype(float)), {"header": False}),
        (table().set_axis(range(26), axis=1), {}),
        (table().set_axis(["label", *range(25)], axis=1), {}),
    ],
)
def test_csv(tmp_path: Path, frame: pd.DataFrame, options: dict[str, Any]) -> None:
    data = read_array_files(write(frame, tmp_path, **options))
    assert_read(data, GRAY[:, :5])
    assert data.class_names == ()


def test_csv_with_a_named_column_and_names_of_classes(tmp_path: Path) -> None:
    animals = np.array(["ant", "bee", "cat, wild"])[LABELS]
    files = write(table(animals, "animal", 3), tmp_path, ".csv.gz")
    assert gzip.decompress(files["train"].read_bytes()).startswith(b"pixel0")
    for source in (files, tmp_path):
        data = read_array_files(source, ArrayOptions(keys=(("labels", "animal"),)))
        assert_read(data, GRAY[:, :5])
        assert data.class_names == ("ant", "bee", "cat, wild")


@pytest.mark.parametrize("number", ["25", "-1"])
def test_csv_without_a_header_and_with_a_numbered_column(tmp_path: Path, number: str) -> None:
    files = write(table(at=25), tmp_path, header=False)
    assert_read(read_array_files(files, ArrayOptions((("labels", number),))), GRAY[:, :5])
    spec = DatasetSpec.model_validate({"arrays": "a.csv", "keys": {"labels": int(number)}})
    assert spec.keys == {"labels": number}


USAGE = np.array(["Training"] * 6 + ["PublicTest"] * 3 + ["PrivateTest"] * 3)
ROLES_OF_USAGE = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}


def faces(images: Any = GRAY[:, :5], **columns: Any) -> pd.DataFrame:
    """FER-2013: all pixels of an image in a cell, and its split."""
    texts = [" ".join(map(str, image.ravel())) for image in images]
    return pd.DataFrame({"emotion": LABELS, "pixels": texts, "Usage": USAGE, **columns})


@pytest.mark.parametrize(
    "frame",
    [
        faces(),
        faces().rename(columns=lambda name: f" {name}"),  # as in Kaggle's icml_face_data.csv
        faces()[["Usage", "pixels", "emotion"]],
        table(name="emotion").rename(columns={"emotion": "label"}).assign(split=USAGE),
        table(name="kind").assign(Subset=list(map(ROLES_OF_USAGE.get, USAGE))),
    ],
)
def test_csv_with_a_column_of_splits(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame.to_csv(tmp_path / "a.csv", index=False)
    options = ArrayOptions((("labels", "kind"),) if "kind" in frame else ())
    data = read_array_files(tmp_path / "a.csv", options)
    assert set(data.arrays) == {f"{s}_{k}" for s in SPLITS for k in ("images", "labels")}
    for usage, split in ROLES_OF_USAGE.items():
        chosen = usage == USAGE
        np.testing.assert_array_equal(data.arrays[f"{split}_images"][..., 0], GRAY[chosen, :5])
        np.testing.assert_array_equal(data.arrays[f"{split}_labels"], LABELS[chosen])


def test_csv_with_pixels_in_a_named_column(tmp_path: Path) -> None:
    frame = faces(COLOR, id=range(12)).rename(columns={"pixels": "face", "emotion": "label"})
    files = write(frame.drop(columns="Usage"), tmp_path)
    options = ArrayOptions((("images", "face"),), (6, 5, 3), "channels_last")
    assert_read(read_array_files(files, options), COLOR)


def encoded(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def parquet(path: Path, columns: Mapping[str, Any], names: tuple[str, ...] = ()) -> Path:
    """A file as `datasets.Dataset.to_parquet` writes it."""
    pa = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    import pyarrow.parquet as pq

    arrow = pa.table(dict(columns))
    if names:
        label = next(name for name in columns if name.endswith("label"))
        features = {
            label: {"names": list(names), "_type": "ClassLabel"},
            "image": {"_type": "Image"},
        }
        info = {"info": {"features": features}}
        arrow = arrow.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(arrow, path)
    return path


def cells(images: Any) -> list[dict[str, Any]]:
    return [{"bytes": encoded(image), "path": f"{i}.png"} for i, image in enumerate(images)]


@pytest.mark.parametrize(("images", "column"), [(GRAY, "image"), (COLOR, "img")])
def test_parquet(tmp_path: Path, images: Any, column: str) -> None:
    for shard, part in {
        "train-00000": slice(5),
        "train-00001": slice(5, 8),
        "test": slice(8, 12),
    }.items():
        content = {
            column: cells(images[part]),
            "fine_label": LABELS[part],
            "coarse_label": LABELS[part] * 0,
        }
        parquet(tmp_path / f"{shard}.parquet", content, ("ant", "bee", "cat"))
    data = read_array_files(tmp_path)
    assert_read(data, images)
    assert data.class_names == ("ant", "bee", "cat")


def test_parquet_of_mixed_modes_is_rgb_on_white(tmp_path: Path) -> None:
    clear = np.zeros((6, 5, 4), np.uint8)
    deep = encoded(GRAY[1].astype(np.uint16) * 257)
    contents = [encoded(COLOR[0]), deep, encoded(clear), encoded(GRAY[0], "BMP")]
    path = parquet(tmp_path / "a.parquet", {"image": contents, "label": ["a", "b", "a", "b"]})
    found = read_array_files(path).arrays["train_images"]
    wanted = [COLOR[0], *(np.repeat(x[..., None], 3, -1) for x in (GRAY[1],))]
    np.testing.assert_array_equal(found[:2], wanted)
    assert found[2].min() == 255
    np.testing.assert_array_equal(found[3, ..., 0], GRAY[0])


def test_parquet_of_mixed_sizes_is_resized_on_the_background(tmp_path: Path) -> None:
    tall = np.full((8, 4), 9, np.uint8)
    clear = np.zeros((4, 4, 4), np.uint8)
    path = parquet(
        tmp_path / "a.parquet", {"image": [*map(encoded, (tall, clear))], "label": [0, 1]}
    )
    form = ImageForm((4, 4), "fit", 3, (10, 20, 30))
    found = read_array_files(path, ArrayOptions(form=form)).arrays["train_images"]
    assert found.shape == (2, 4, 4, 3)
    assert (found[0, :, 1:3] == 9).all()
    assert (found[1] == form.background).all()


def test_numbers_in_parquet(tmp_path: Path) -> None:
    """As of datasets with a column of arrays, or of pandas with a column of lists."""
    pa = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    flat = pa.FixedSizeListArray.from_arrays(pa.array(COLOR.ravel()), 90)
    cases: tuple[tuple[Any, Any, dict[str, Any]], ...] = (
        (GRAY, pa.array(GRAY.tolist(), pa.list_(pa.list_(pa.uint8()))), {}),
        (COLOR, pa.array(COLOR.tolist()), {}),  # int64
        (COLOR, pa.array((COLOR.transpose(0, 3, 1, 2) / 255).tolist()), {}),
        (COLOR, flat, {"shape": (6, 5, 3), "layout": "channels_last"}),
    )
    for images, stored, options in cases:
        columns = {"label": LABELS, "image": stored}
        parquet(tmp_path / "train.parquet", {k: v[:8] for k, v in columns.items()})
        parquet(tmp_path / "test.parquet", {k: v[8:] for k, v in columns.items()})
        assert_read(read_array_files(tmp_path, ArrayOptions(**options)), images)


@pytest.mark.parametrize("kind", ["stream", "file", "feather"])
@pytest.mark.parametrize("saved", ["dict", "cache", "one"])
def test_arrow(tmp_path: Path, kind: str, saved: str) -> None:
    """As `save_to_disk` and the cache of datasets write it, or pandas' `to_feather`."""
    pa = pytest.importorskip("pyarrow", reason="Arrow files need pyarrow")
    from pyarrow import feather

    arrow = pa.table({"image": cells(COLOR), "label": LABELS})
    parts = {"": slice(12)} if saved == "one" else {"train": slice(8), "test": slice(8, 12)}
    for split, part in parts.items():
        name = f"mnist-{split}" if saved == "cache" else f"{split}/data-00000-of-00001"
        suffix = "feather" if kind == "feather" else "arrow"
        path = tmp_path / f"{name.removeprefix('/')}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        rows = arrow.slice(part.start or 0, part.stop - (part.start or 0))
        if kind == "feather":
            feather.write_feather(rows, path)
        else:
            new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
            with new(str(path), rows.schema) as writer:
                writer.write_table(rows, max_chunksize=3)
        (path.parent / "cache-17.arrow").write_bytes(b"a result of map")
        (path.parent / "state.json").write_text("{}")
    data = read_array_files(tmp_path)
    if saved == "one":
        np.testing.assert_array_equal(data.arrays["train_images"], COLOR)
    else:
        assert_read(data, COLOR)


@pytest.mark.parametrize("offsets", [[0, -5, 9], [0, 2**20, 9]])
@pytest.mark.parametrize("damaged", ["image", "label"])
def test_arrow_with_offsets_out_of_the_file(
    tmp_path: Path, damaged: str, offsets: list[int]
) -> None:
    """They are not checked by pyarrow, which would read any memory, or end the process."""
    pa = pytest.importorskip("pyarrow", reason="Arrow files need pyarrow")
    columns = {"image": pa.array([PNG, PNG]), "label": pa.array([b"a", b"b"])}
    places = pa.py_buffer(np.array(offsets, np.int32))
    columns[damaged] = pa.Array.from_buffers(pa.binary(), 2, [None, places, pa.py_buffer(b"x" * 9)])
    table = pa.table(columns)
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    message = error_of(tmp_path / "a.arrow", tmp_path)
    assert re.fullmatch(
        r"a\.arrow: is not a valid Arrow file \(.*offset.*\); save it again", message
    ), message


def resized_by_pillow(images: Any, method: str) -> Any:
    """4x8 from 6x5: stretched, or the whole image on black, or cropped to its middle."""
    found = []
    for image in images:
        of = Image.fromarray(image)
        if method == "stretch":
            scaled = of.resize((8, 4), Image.Resampling.BILINEAR)
        elif method == "crop":
            box = (0, 1.75, 5, 4.25)  # 2:1
            scaled = of.resize((8, 4), Image.Resampling.BILINEAR, box)
        else:
            scaled = Image.new(of.mode, (8, 4))
            scaled.paste(of.resize((3, 4), Image.Resampling.BILINEAR), (2, 0))
        found.append(np.asarray(scaled))
    return np.stack(found)


@pytest.mark.parametrize("method", ["stretch", "crop", "fit"])
@pytest.mark.parametrize("images", [GRAY, COLOR])
def test_arrays_are_resized_as_image_files(tmp_path: Path, method: Any, images: Any) -> None:
    form = ImageForm((4, 8), method, 3, (0, 0, 0))
    wanted = resized_by_pillow(images, method)
    assert_read(read_array_files(keras(tmp_path, images), ArrayOptions(form=form)), wanted)
    unchanged = ImageForm((6, 5), method, 3, (0, 0, 0))
    assert_read(read_array_files(keras(tmp_path, images), ArrayOptions(form=unchanged)), images)


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_are_no_colors_are_resized_one_by_one(tmp_path: Path, channels: int) -> None:
    images = np.concatenate([COLOR, COLOR[..., ::-1]], axis=-1)[..., :channels]
    form = ImageForm((4, 8), "stretch", 3, (0, 0, 0))
    found = read_array_files(keras(tmp_path, images), ArrayOptions(form=form))
    each = [resized_by_pillow(images[..., i], "stretch") for i in range(channels)]
    assert_read(found, np.stack(each, axis=-1))


def test_resizing_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    form = ImageForm((30_000, 30_000), "stretch", 3, (0, 0, 0))
    assert error_of(keras(tmp_path, GRAY), tmp_path, form=form) == (
        "dataset.resize: 8 images need 6.7 GiB of memory, more than the 4 GiB allowed; use a "
        "smaller size"
    )


# Errors


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "a.npz"
    np.savez(path, **arrays)
    return path


def error_of(files: Any, folder: Path, keys: Any = None, **options: Any) -> str:
    options["keys"] = tuple((keys or {}).items())
    with pytest.raises(DataError) as caught:
        read_array_files(files, ArrayOptions(**options))
    text = str(caught.value).replace(f"{folder}/", "")
    assert "\n" not in text
    return text


OBJECTS = np.array([{"a": 1}, None], object)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (
            {"x_train": OBJECTS, "y_train": LABELS},
            {},
            "a.npz: x_train: contains pickled Python objects, which are never loaded; save "
            "np.stack(x) for images of the same size, or x.astype(str) for labels",
        ),
        (
            {"x_train": GRAY, "y_train": np.zeros(12, [("a", "i4")])},
            {},
            "a.npz: y_train: has dtype [('a', '<i4')]; use integers or strings",
        ),
        (
            {"x_train": GRAY.astype(complex), "y_train": LABELS},
            {},
            "a.npz: x_train: has dtype complex128; save pixels as uint8",
        ),
        (
            {"a": GRAY, "b": LABELS},
            {},
            "a.npz: no array has a name like x_train or train_images, only a and b; set "
            "dataset.keys: {train_images: NAME, train_labels: NAME}",
        ),
        (
            {"a": GRAY, "inputs": LABELS},
            {"keys": {"labels": "input"}},
            "a.npz: has no array 'input' (did you mean 'inputs'?); change dataset.keys.labels",
        ),
        (
            {"a": GRAY, "b": LABELS},
            {"keys": {"labels": "xyz"}},
            "a.npz: has no array 'xyz', only a and b; change dataset.keys.labels",
        ),
        (
            {"x": GRAY, "images": GRAY, "y": LABELS},
            {},
            "a.npz: x and images both look like train_images; choose one with dataset.keys: "
            "{train_images: images}",
        ),
        ({"x_train": GRAY}, {}, "a.npz: has no train_labels; add it"),
        ({}, {}, "a.npz: has no arrays; save it with np.savez"),
        (
            {"a\n\x1b[31mb": GRAY},
            {},
            "a.npz: no array has a name like x_train or train_images, only a [31mb; set "
            "dataset.keys: {train_images: NAME, train_labels: NAME}",
        ),
        (
            {"x_test": GRAY, "y_test": LABELS},
            {},
            "a.npz: has no train_images and train_labels; add them",
        ),
        (
            {"x_train": GRAY, "y_train": LABELS[:9]},
            {},
            "a.npz: y_train: has 9 labels for the 12 images of x_train; use one per image",
        ),
        (
            {"x_train": np.moveaxis(COLOR, 0, -1), "y_train": LABELS},
            {},
            "a.npz: y_train: has 12 labels for the 6 images of x_train; move the last axis to "
            "the front with np.moveaxis(x, -1, 0)",
        ),
        (
            {"x_train": GRAY[:0], "y_train": LABELS[:0]},
            {},
            "a.npz: x_train: has no images (shape (0, 6, 5)); check the file",
        ),
        (
            {"x_train": GRAY, "y_train": LABELS, "x_test": GRAY[:, :5], "y_test": LABELS},
            {},
            "a.npz: x_test: each image has shape (5, 5), but those of x_train have (6, 5); use "
            "images of the same size",
        ),
        (
            {"x_train": LABELS, "y_train": LABELS},
            {},
            "a.npz: x_train: has shape (12,); use (n, height, width) or (n, height, width, "
            "channels)",
        ),
        (
            {"x_train": RANDOM.random((12, 3, 5, 3)), "y_train": LABELS},
            {},
            "a.npz: x_train: the channel axis is ambiguous in shape (12, 3, 5, 3); set "
            "dataset.layout: channels_first or channels_last",
        ),
        (
            {"x_train": np.zeros((12, 3072)), "y_train": LABELS},
            {},
            "a.npz: x_train: has 3072 pixel values per image, which is not a square number; set "
            "dataset.shape: [32, 32, 3]",
        ),
        (
            {"x_train": np.zeros((12, 30)), "y_train": LABELS},
            {},
            "a.npz: x_train: has 30 pixel values per image, which is not a square number; set "
            "dataset.shape: [HEIGHT, WIDTH, CHANNELS]",
        ),
        (
            {"x_train": np.zeros((12, 3072)), "y_train": LABELS},
            {"shape": (32, 32, 3)},
            "a.npz: x_train: the channel axis is ambiguous in shape (12, 3072); set "
            "dataset.layout: channels_first or channels_last",
        ),
        (
            {"x_train": np.zeros((12, 30)), "y_train": LABELS},
            {"shape": (6, 6, 1)},
            "a.npz: x_train: has 30 pixel values per image, not 36 as in dataset.shape: "
            "[6, 6, 1]; correct the shape",
        ),
        (
            {"x_train": GRAY, "y_train": LABELS},
            {"shape": (5, 6, 1)},
            "a.npz: x_train: has images of shape [6, 5, 1], not [5, 6, 1]; correct or remove "
            "dataset.shape",
        ),
        (
            {"x_train": np.linspace(-2, 2.5, 120).reshape(12, 5, 2), "y_train": LABELS},
            {},
            "a.npz: x_train: has pixel values from -2 to 2.5; set dataset.value_range: "
            "[-2, 2.5], the values of black and white",
        ),
        (
            {"x_train": np.linspace(0, 16, 300).reshape(12, 5, 5), "y_train": LABELS},
            {},
            "a.npz: x_train: has pixel values from 0 to 16; set dataset.value_range: [0, 16], "
            "the values of black and white",
        ),
        (
            {"x_train": GRAY.astype(int) * 10, "y_train": LABELS},
            {"value_range": (0.0, 1.0)},
            "a.npz: x_train: has pixel values from 0 to 2550, "
            "outside dataset.value_range: [0, 1]; set dataset.value_range: [0, 4095], the "
            "values of black and white",
        ),
        (
            {
                "x_train": np.where(np.arange(12) == 7, np.nan, 0.5)[:, None, None],
                "y_train": LABELS,
            },
            {},
            "a.npz: x_train: image 7 has non-finite values; remove it",
        ),
        (
            {"x_train": GRAY, "y_train": np.ones((12, 14))},
            {},
            "a.npz: y_train: has shape (12, 14), and row 0 is not one-hot; use one class per image",
        ),
        (
            {"x_train": GRAY, "y_train": LABELS / 4},
            {},
            "a.npz: y_train: label 0.25 of image 1 is not an integer; correct it",
        ),
        (
            {"x_train": GRAY, "y_train": LABELS * 0 + 3},
            {},
            "a.npz: y_train: has only one class, 3; use two or more",
        ),
        (
            {"x_train": GRAY, "y_train": LABELS, "x_test": GRAY[:2], "y_test": [0, 7]},
            {},
            "a.npz: y_test: label 7 of image 1 is not one of the training labels; correct it",
        ),
        (
            {"x_train": GRAY, "y_train": LABELS - 1, "class_names": ["a", "b", "c"]},
            {},
            "a.npz: y_train: label -1 of image 0 is not one of the 3 class names; correct it",
        ),
        (
            {"x_train": GRAY, "y_train": LABELS, "class_names": ["a", "b", "b"]},
            {},
            "a.npz: class_names: two classes are named 'b'; rename one",
        ),
        (
            {"x_train": np.zeros((2_002, 1, 1)), "y_train": np.arange(2_002)},
            {},
            "a.npz: y_train: has 2,002 classes for 2,002 images; use class labels, not image "
            "indices",
        ),
    ],
)
def test_bad_arrays(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    assert error_of(npz(tmp_path, **arrays), tmp_path, **options) == message


def header(shape: tuple[int, ...]) -> bytes:
    content = io.BytesIO()
    description = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, description)
    return content.getvalue()


def test_headers_that_promise_more_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for shape, message in {
        (10**6, 1000, 1000): "a.npz: x_train: needs 7450.6 GiB of memory, more than the 4 GiB "
        "allowed; save it as uint8, or use fewer or smaller images",
        (5, 5): "a.npz: x_train: is damaged: 3 bytes are too few for float64 of shape (5, 5); "
        "save it again",
    }.items():
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x_train.npy", header(shape) + b"abc")
        assert error_of(path, tmp_path) == message


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    content = pickle.dumps(Evil(trap))
    for name in ("images.npy", "images.npz"):
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "labels.npy", np.array([Evil(trap)], object), allow_pickle=True)
    files = {kind: tmp_path / f"{kind}.npy" for kind in ("images", "labels")}
    assert error_of(files, tmp_path) == (
        "images.npy: is damaged or not in NumPy's format; save it again"
    )
    assert error_of({"labels": files["labels"]}, tmp_path) == (
        "labels.npy: contains pickled Python objects, which are never loaded; save np.stack(x) "
        "for images of the same size, or x.astype(str) for labels"
    )
    assert error_of(tmp_path / "images.npz", tmp_path) == (
        "images.npz: is not a valid .npz file (File is not a zip file); save it again"
    )
    assert not trap.exists()


def test_npz_with_a_name_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ä.npy", b"")
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xf2\xf2"))
    assert "a.npz: is not a valid .npz file ('utf-8' codec" in error_of(path, tmp_path)


def test_damaged_npz(tmp_path: Path) -> None:
    path = keras(tmp_path, GRAY)
    content = bytearray(path.read_bytes())
    content[300] ^= 255
    path.write_bytes(content)
    assert error_of(path, tmp_path) == (
        "data.npz: is not a valid .npz file (Bad CRC-32 for file 'x_train.npy'); save it again"
    )


@pytest.mark.parametrize(
    ("before", "after"), [(b"(5, 5), }", b"(5, 5)   "), (b"'<f8'", b"',f8'"), (b"<f8'", b"<,8'")]
)
def test_headers_that_are_not_valid(tmp_path: Path, before: bytes, after: bytes) -> None:
    content = header((5, 5)).replace(before, after)
    (tmp_path / "x.npy").write_bytes(content + bytes(200))
    assert error_of({"images": tmp_path / "x.npy"}, tmp_path) == (
        "x.npy: is damaged or not in NumPy's format; save it again"
    )


def test_name_of_a_column_that_is_not_text(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": [b""], "label": [1]})
    path.write_bytes(path.read_bytes().replace(b"label", b"\xeb\xeb\xeb\xeb\xeb"))
    assert "a.parquet: is not a valid Parquet file ('utf-8' codec" in error_of(path, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.csv: has no rows; check the file"),
        ("label,a\n", "a.csv: has no rows; check the file"),
        ("label,a\n\n1,x\n", "a.csv:3: column 2: 'x' is not a number; use 0 to 255"),
        ("1,2\n1,\n", "a.csv:2: column 2: is empty; use 0 to 255"),
        (
            "1,2,3\n1,2\n",
            "a.csv:2: has 2 columns, but the lines above have 3; use one column per pixel and "
            "one for the label",
        ),
        (
            "kind,a,b\n1,2,3\n",
            "a.csv: no column is named label, labels, class, target, y, digit or fine_label, only "
            "kind, a and b; set dataset.keys: {labels: NAME}",
        ),
        (
            "label,a\n0.5,1\n1,2\n",
            "a.csv: label: label 0.5 of image 0 is not an integer; correct it",
        ),
        (
            "0.5,1\n1,2\n",
            "a.csv: column 1: label 0.5 of image 0 is not an integer; correct it",
        ),
        ("y,pixels\n0,1 2\n1,1 x\n", "a.csv:3: pixel 'x' is not a number; use 0 to 255"),
        (
            "y,pixels\n0,1 2\n1,1\n",
            "a.csv:3: the number of pixels is 1, but 2 in the lines above; use images of the same "
            "size",
        ),
        (
            "label,a,b,\n1,2\n3,4\n",
            "a.csv: the header has 4 columns, but the lines below have 2; add a name for each",
        ),
        (  # as R writes row names
            "label,a,b,c,d\nx,0,1,1,1,1\n",
            "a.csv: the header has 5 columns, but the lines below have 6; add a name for each",
        ),
        ("label,a,,,\n", "a.csv: has no rows; check the file"),
        ("pixels,y\n1,1\n2\n", "a.csv:3: has 1 columns, but needs 2; correct it"),
        (
            "y,pixels,usage\n0,1,train\n1,1,holdout\n",
            "a.csv: usage: 'holdout' is not a split; use train, validation or test",
        ),
        (
            "a,pixels,b\n0,1,2\n",
            "a.csv: no column is named label, labels, class, target, y, digit or fine_label, only "
            "a, pixels and b; set dataset.keys: {labels: NAME}",
        ),
        (
            "label,a,b\n0,1,1\n1,2,2\n",
            "a.csv: has 2 pixel values per image, which is not a square number; set dataset.shape: "
            "[HEIGHT, WIDTH, CHANNELS]",
        ),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert error_of(path, tmp_path) == message


def test_csv_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"label,a\n\xff\xfe,1\n")
    message = "a.csv: is not a CSV file in UTF-8 (invalid start byte); save it as UTF-8"
    assert error_of(path, tmp_path) == message


PNG = encoded(GRAY[0])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"picture": [PNG], "label": [1]},
            "a.parquet: no column is named image, img, images or x, only picture and label; set "
            "dataset.keys: {images: NAME}",
        ),
        (
            {"image": [PNG, encoded(GRAY[0, :3])], "label": [0, 1]},
            "a.parquet: image: image 1 is 3x5, but image 0 is 6x5 pixels; set "
            "dataset.resize: {size: [6, 5]}",
        ),
        (
            {"image": [PNG, PNG[:40]], "label": [0, 1]},
            "a.parquet: image: image 1: is a damaged or unsupported PNG file; save it again"
            " with 8 bits per channel, or remove it",
        ),
        (
            {"image": [{"bytes": None, "path": "a.png"}], "label": [0]},
            "a.parquet: image: image 0: contains no image bytes; embed the images, as "
            "Dataset.to_parquet of the datasets package does",
        ),
        (
            {"image": [PNG, PNG], "label": [0, None]},
            "a.parquet: label: image 1 has no label; remove it",
        ),
        (
            {"image": [PNG, PNG], "label": [[0], [1, 2]]},
            "a.parquet: label: has several labels per image; use one",
        ),
        (
            {"image": [[[1, 2], [3, 4]], [[1, 2]]], "label": [0, 1]},
            "a.parquet: image: images differ in size; use images of the same size",
        ),
        (
            {"image": [[[1, 2], [3, 4]], None], "label": [0, 1]},
            "a.parquet: image: images differ in size; use images of the same size",
        ),
        (
            {"image": [[["a"]], [["b"]]], "label": [0, 1]},
            "a.parquet: image: has dtype object; save pixels as uint8",
        ),
        ({"image": [], "label": []}, "a.parquet: image: has no images; check the file"),
    ],
)
def test_bad_parquet(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = parquet(tmp_path / "a.parquet", columns)
    assert error_of(path, tmp_path) == message


def test_columns_of_the_same_name(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    import pyarrow.parquet as pq

    arrow = pa.Table.from_arrays([pa.array([PNG]), pa.array([1]), pa.array([2])], [*"xyy"])
    pq.write_table(arrow, tmp_path / "a.parquet")
    assert error_of(tmp_path / "a.parquet", tmp_path) == (
        "a.parquet: has several columns named 'y'; rename them"
    )


def test_keys_that_have_no_effect(tmp_path: Path) -> None:
    files = write(table(), tmp_path, header=False)
    assert error_of(files, tmp_path, keys={"images": "label"}) == (
        "train.csv: has no header for dataset.keys.images: label; remove the key"
    )
    assert error_of(files, tmp_path, keys={"labels": "kind"}) == (
        "train.csv: has no header for dataset.keys.labels: kind; use the number of a column"
    )
    assert error_of(files, tmp_path, keys={"labels": "26"}) == (
        "train.csv: column 26 is out of range for 26 columns; use 0 to 25 for dataset.keys.labels"
    )
    np.save(tmp_path / "x.npy", GRAY)
    assert error_of({"images": tmp_path / "x.npy"}, tmp_path, keys={"labels": "a"}) == (
        "x.npy: dataset.keys.labels has no effect on .npy files; remove it"
    )


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"")
    np.save(tmp_path / "a.npy", GRAY)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for name, message in {
        "a.h5": "a.h5: is not an array file; use one of .npz, .npy, .csv, .tsv, .txt, .parquet, "
        ".arrow or .feather",
        "a.npy": "a.npy: contains a single array, without labels; use arrays: "
        "{train_images: a.npy, "
        "train_labels: ...}",
        "b.npz": "b.npz: no such file; check the path",
    }.items():
        assert error_of(tmp_path / name, tmp_path) == message
    assert "a.parquet: is not a valid Parquet file (" in error_of(tmp_path / "a.parquet", tmp_path)
    assert error_of({"train": tmp_path}, tmp_path) == (
        f"{tmp_path}: is a folder; specify a file in it"
    )
    assert error_of({"train_images": tmp_path / "a.h5"}, tmp_path) == (
        "a.h5: is not an .npy file, which train_images requires; save it with np.save"
    )
    assert error_of({"images": tmp_path / "a.npy"}, tmp_path) == (
        "dataset.arrays: has no train_labels; add it"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert error_of(empty, tmp_path) == (
        "empty: has no array files named after a split; use names such as train.csv and test.csv, "
        "x_train.npy and y_train.npy, or train-00000.parquet, or list the files in dataset.arrays"
    )


# Experiments


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(folder))
    return folder


def load(arrays: Any, **keys: Any) -> Any:
    spec = DatasetSpec.model_validate({"arrays": arrays, **keys})
    return dataset_of(spec, None, lambda _: None)


def test_splits_of_the_file_are_kept_and_others_are_taken_from_training(
    tmp_path: Path, cache: Path
) -> None:
    found = load(str(keras(tmp_path, GRAY)), split={"validation": 0.4})
    assert list(map(len, (found.train, found.validation, found.test))) == [5, 3, 4]
    rows = {image.tobytes(): int(label) for image, label in zip(GRAY, LABELS, strict=True)}
    for split in (found.train, found.validation, found.test):
        assert [rows.pop(image.tobytes()) for image in split.images] == split.labels.tolist()
    assert not rows
    expected = {image.tobytes() for image in GRAY[8:]}
    assert {image.tobytes() for image in found.test.images} == expected
    assert (found.info.num_train, found.info.num_validation, found.info.num_test) == (8, 3, 4)
    assert found.info.classes == ()


def test_one_array_is_divided_by_class(tmp_path: Path, cache: Path) -> None:
    images = np.arange(100, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", np.array(["odd", "even"])[images[:, 0, 0] // 50])
    files = {"images": str(tmp_path / "x.npy"), "labels": str(tmp_path / "y.npy")}
    found = load(files, split={"validation": 0.1, "test": 0.2})
    seen = []
    for split, num in ((found.train, 70), (found.validation, 10), (found.test, 20)):
        assert np.bincount(split.labels).tolist() == [num // 2, num // 2]
        np.testing.assert_array_equal(split.labels, split.images[:, 0, 0, 0] < 50)  # even is 0
        seen += split.images[:, 0, 0, 0].tolist()
    assert sorted(seen) == list(range(100))
    assert found.info.classes == ("even", "odd")
    assert found.info.name == tmp_path.name


def test_files_are_read_once_for_each_content(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    real = array_files.read_array_files

    def count(*args: Any) -> ArrayData:
        read.append(args)
        return real(*args)

    monkeypatch.setattr(array_files, "read_array_files", count)
    first = load(str(keras(tmp_path, GRAY)))
    (tmp_path / "data.npz").rename(tmp_path / "renamed.npz")
    again = load(str(tmp_path / "renamed.npz"))
    assert (len(read), again.digest) == (1, first.digest)
    assert again.source == str(tmp_path / "renamed.npz")
    other = load(str(keras(tmp_path, GRAY // 255)))
    assert (len(read), other.digest != first.digest) == (2, True)
    assert other.source == f"{tmp_path}/data.npz; uint8 in [0, 1]"
    load(str(keras(tmp_path, GRAY // 255)), value_range=[0, 255])
    assert len(read) == 3


SPEC = """\
name: own
task: classify
dataset: {arrays: data.npz}
seeds: [0]
model:
  layers:
    out: {op: dense, units: 3}
train: {epochs: 1, batch_size: 4}
"""


def messages(text: str, folder: Path, *overrides: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_experiment(path, overrides)
    return str(caught.value).replace(f"{folder}/", "")


def test_paths_are_relative_to_the_file(tmp_path: Path, cache: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "own.yaml").write_text(SPEC)
    keras(inner, GRAY)
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: inner/own.yaml\nname: child\ndataset: {keys: {train_images: x_train}}\n"
    )
    assert load_experiment(child).experiment.dataset.arrays == str(inner / "data.npz")
    np.save(tmp_path / "x.npy", GRAY)
    np.save(inner / "y.npy", LABELS)
    files = {"images": "x.npy", "labels": "inner/y.npy"}
    child.write_text(
        f"extends: inner/own.yaml\nname: child\ndataset: {{arrays: {json.dumps(files)}}}\n"
    )
    found = load_experiment(child).experiment.dataset.arrays
    assert found == {"images": str(tmp_path / "x.npy"), "labels": str(inner / "y.npy")}


def test_digest_is_of_the_content_not_the_place(tmp_path: Path, cache: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        keras(tmp_path / name, GRAY)
        (tmp_path / name / "own.yaml").write_text(SPEC)
        digests.add(load_experiment(tmp_path / name / "own.yaml").experiment.digest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            "{arrays: none.npz}",
            "own.yaml:3:19: dataset.arrays: none.npz: no such file; check the path.",
        ),
        (
            "{arrays: [data.npz]}",
            "own.yaml:3:19: dataset.arrays: ['data.npz'] is not a file path; use the path of an "
            ".npz, "
            ".csv or .parquet file, or {train: FILE, test: FILE}.",
        ),
        (
            "{arrays: {trian: a.csv}}",
            "own.yaml:3:19: dataset.arrays: 'trian' is not a known key (did you mean 'train'?); "
            "use train, validation, test, images, labels, train_images, train_labels, "
            "validation_images, validation_labels, test_images or test_labels.",
        ),
        (
            "{arrays: {train: 3}}",
            "own.yaml:3:19: dataset.arrays: train: 3 is not a string; use {train: train.csv, test: "
            "test.csv}.",
        ),
        (
            "{arrays: data.npz, keys: x_train}",
            "own.yaml:3:35: dataset.keys: 'x_train' is not a mapping; use, for example, {images: "
            "pixels, labels: kind}.",
        ),
        (
            "{arrays: data.npz, shape: [6, 5]}",
            "own.yaml:3:36: dataset.shape: [6, 5] is not an image shape; use [height, "
            "width, channels], such as [32, 32, 3].",
        ),
        (
            "{arrays: data.npz, value_range: [1, 0]}",
            "own.yaml:3:42: dataset.value_range: [1, 0] is not a range; use [black, white], two "
            "increasing numbers such as [-1, 1].",
        ),
        (
            "{arrays: data.npz, layout: last}",
            "own.yaml:3:37: dataset.layout: unknown layout 'last'; use channels_first or "
            "channels_last.",
        ),
        (
            "{arrays: data.npz, channels: 1}",
            "own.yaml:3:29: dataset.channels: channels is not available with arrays; remove it.",
        ),
        (
            "{name: random/6x5x1/3, layout: channels_last}",
            "own.yaml:3:33: dataset.layout: layout is not available with name; remove it.",
        ),
        (
            "{arrays: data.npz, name: mnist_5k}",
            "own.yaml:3:10: dataset: has name and arrays; specify exactly one of them.",
        ),
        (
            "{arrays: data.npz, value_range: [0, 9]}",
            "own.yaml:3:19: dataset.arrays: data.npz: x_train: has pixel values from 0 to 255, "
            "outside dataset.value_range: [0, 9]; set dataset.value_range: [0, 255], the values "
            "of black and white.",
        ),
        (
            "{arrays: data.npz, splits: {train: 9}}",
            "own.yaml:3:45: dataset.splits.train: 9 images requested, but data.npz has 8 for this "
            "split; use at most 8.",
        ),
    ],
)
def test_bad_experiments(tmp_path: Path, cache: Path, dataset: str, message: str) -> None:
    keras(tmp_path, GRAY)
    text = SPEC.replace("{arrays: data.npz}", dataset)
    assert messages(text, tmp_path) == message


def test_number_of_units_must_be_that_of_the_classes(tmp_path: Path, cache: Path) -> None:
    keras(tmp_path, GRAY)
    assert messages(SPEC.replace("units: 3", "units: 4"), tmp_path) == (
        "own.yaml:7:29: model.layers.out.units: the output has shape 4, but the dataset has 3 "
        "classes; use 3."
    )


def test_command_line(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains on a file, and names its classes in the record of the run."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(SPEC)
    keras(tmp_path, COLOR / np.float32(255), np.array(["ant", "bee", "cat"])[LABELS])
    result = CliRunner().invoke(app, ["run", "own.yaml", "--quiet"])
    assert result.exit_code == 0, result.output
    (folder,) = Path("results/own").iterdir()
    record = read_run_entry(folder).record.dataset
    assert (record.name, record.classes) == ("data.npz", ("ant", "bee", "cat"))
    assert (record.shape, record.num_train, record.num_test) == ((6, 5, 3), 8, 4)
    assert record.source == f"{tmp_path}/data.npz; float32 in [0, 1]"
