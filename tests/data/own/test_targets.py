"""Regression targets and several labels per image in array files."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.preprocessing import MultiLabelBinarizer

from cnnbench.data.catalog import ArrayOptions, LabelKind
from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.data.own.array_files import ArrayData, read_array_files
from cnnbench.errors import DataError
from cnnbench.spec.experiment import DatasetSpec
from tests.support.array_files import keras_npz

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (12, 4, 5), np.uint8)
VALUES = RANDOM.normal(50, 20, (12, 2)).astype(np.float32)
ROWS = np.tile([[1, 0, 1], [0, 1, 1], [0, 0, 0]], (4, 1))
TEXTS = ["cat red", "dog  red", ""] * 4
NAMES = ("cat", "dog", "red")


def npz(folder: Path, labels: Any, images: Any = IMAGES, **more: Any) -> Path:
    return keras_npz(folder, images, labels, **more)


def table(folder: Path, columns: Mapping[str, Any], name: str = "data.csv") -> Path:
    pixels = pd.DataFrame(IMAGES.reshape(12, -1)).add_prefix("p")
    frame = pd.concat([pd.DataFrame(columns), pixels], axis=1)
    frame.to_csv(folder / name, index=False)
    return folder / name


def read(path: Path, kind: LabelKind, keys: Mapping[str, Any] | None = None) -> ArrayData:
    options = ArrayOptions(tuple((keys or {}).items()), shape=(4, 5, 1), labels=kind)
    return read_array_files(path, options)


def refused(path: Path, kind: LabelKind, keys: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(DataError) as error:
        read(path, kind, keys)
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("labels", [VALUES, VALUES[:, 0], VALUES[:, :1], VALUES.astype(">f8")])
def test_targets_are_float32_with_a_column_each(tmp_path: Path, labels: Any) -> None:
    data = read(npz(tmp_path, labels), "targets")
    wanted = labels.reshape(12, -1).astype(np.float32)
    for role, part in (("train_labels", slice(8)), ("test_labels", slice(8, None))):
        assert data.arrays[role].dtype == np.float32
        np.testing.assert_array_equal(data.arrays[role], wanted[part])
    assert (data.num_classes, data.class_names) == (wanted.shape[1], ())


def test_integers_are_targets_too(tmp_path: Path) -> None:
    data = read(npz(tmp_path, np.arange(12, dtype=np.int16) * 7), "targets")
    np.testing.assert_array_equal(data.arrays["test_labels"][:, 0], [56, 63, 70, 77])


def test_names_of_targets_in_an_archive(tmp_path: Path) -> None:
    path = npz(tmp_path, VALUES, target_names=["x", "y"])
    assert read(path, "targets").class_names == ("x", "y")


def test_targets_in_columns_of_a_table(tmp_path: Path) -> None:
    path = table(tmp_path, {"y": VALUES[:, 1], "x": VALUES[:, 0]})
    data = read(path, "targets", {"labels": ("x", "y")})
    np.testing.assert_allclose(data.arrays["train_labels"], VALUES, rtol=1e-6)
    np.testing.assert_array_equal(data.arrays["train_images"][..., 0], IMAGES)
    assert data.class_names == ("x", "y")
    with_one = read(table(tmp_path, {"label": VALUES[:, 1]}), "targets")
    np.testing.assert_allclose(with_one.arrays["train_labels"], VALUES[:, 1:], rtol=1e-6)
    assert with_one.class_names == ("label",)


def test_columns_without_a_header_have_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    np.savetxt(path, np.hstack([IMAGES.reshape(12, -1), VALUES]), "%.6g", delimiter=",")
    data = read(path, "targets", {"labels": ("20", "-1")})
    np.testing.assert_allclose(data.arrays["train_labels"], VALUES, rtol=1e-4)
    np.testing.assert_array_equal(data.arrays["train_images"][..., 0], IMAGES)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float64])
def test_rows_of_zeros_and_ones(tmp_path: Path, dtype: Any) -> None:
    data = read(npz(tmp_path, ROWS.astype(dtype), class_names=NAMES), "multilabel")
    assert data.arrays["train_labels"].dtype == np.uint8
    np.testing.assert_array_equal(data.arrays["train_labels"], ROWS[:8])
    assert (data.num_classes, data.class_names) == (3, NAMES)


def test_columns_of_zeros_and_ones(tmp_path: Path) -> None:
    path = table(tmp_path, dict(zip(NAMES, ROWS.T, strict=True)))
    data = read(path, "multilabel", {"labels": NAMES})
    np.testing.assert_array_equal(data.arrays["train_labels"], ROWS)
    assert data.class_names == NAMES


@pytest.mark.parametrize("separator", [" ", "|", " | "])
def test_names_in_a_cell_are_as_scikit_learn_binarizes_them(tmp_path: Path, separator: str) -> None:
    cells = [separator.join(text.split()) for text in TEXTS]
    data = read(table(tmp_path, {"label": cells}), "multilabel")
    binarizer = MultiLabelBinarizer()
    rows = binarizer.fit_transform([text.split() for text in TEXTS])
    np.testing.assert_array_equal(data.arrays["train_labels"], rows)
    assert data.class_names == tuple(binarizer.classes_)


def test_names_with_spaces_and_numbers(tmp_path: Path) -> None:
    cells = ["red car|10", "2", "2|red car"] * 4
    assert read(table(tmp_path, {"label": cells}), "multilabel").class_names == (
        "10",
        "2",
        "red car",
    )
    cells = ["10|2", "2", "9"] * 4
    assert read(table(tmp_path, {"label": cells}), "multilabel").class_names == ("2", "9", "10")
    data = read(npz(tmp_path, np.array(TEXTS)), "multilabel")
    np.testing.assert_array_equal(data.arrays["train_labels"], ROWS[:8])


def parquet(folder: Path, names: tuple[str, ...] = (), **columns: Any) -> Path:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def png(image: Any) -> bytes:
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        return content.getvalue()

    whole = pa.table({"image": [{"bytes": png(image)} for image in IMAGES], **columns})
    if names:
        features = {name: {"feature": {"names": names}} for name in columns}
        about = json.dumps({"info": {"features": features}})
        whole = whole.replace_schema_metadata({"huggingface": about})
    path: Path = folder / "train.parquet"
    pq.write_table(whole, path)
    return path


def test_targets_in_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path, x=VALUES[:, 0], y=VALUES[:, 1])
    data = read(path, "targets", {"labels": ("x", "y")})
    np.testing.assert_array_equal(data.arrays["train_labels"], VALUES)
    assert data.class_names == ("x", "y")
    data = read(parquet(tmp_path, label=VALUES.tolist()), "targets")
    np.testing.assert_array_equal(data.arrays["train_labels"], VALUES)


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ([text.split() for text in TEXTS], ()),
        ([np.flatnonzero(row).tolist() for row in ROWS], NAMES),
        (ROWS.tolist(), NAMES),
        (TEXTS, ()),
    ],
)
def test_lists_of_labels_in_parquet(tmp_path: Path, cells: Any, names: Any) -> None:
    data = read(parquet(tmp_path, names, label=cells), "multilabel")
    np.testing.assert_array_equal(data.arrays["train_labels"], ROWS)
    assert data.class_names == NAMES


NOT_FINITE = np.where(np.arange(24).reshape(12, 2) == 7, np.nan, VALUES)


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        (
            "targets",
            NOT_FINITE,
            "y_train: target column 1 of image 3 is nan, not a finite number; correct it, or"
            " remove the image",
        ),
        (
            "targets",
            np.where(np.arange(12) == 3, -np.inf, VALUES[:, 0]),
            "y_train: target of image 3 is -inf, not a finite number; correct it, or remove the"
            " image",
        ),
        (
            "targets",
            np.array(["1.5", "cat", "2"] * 4),
            "y_train: 'cat' of image 1 is not a number; use numbers, or task: classify",
        ),
        (
            "targets",
            ROWS,
            "y_train: all targets are 0 or 1; use task: multilabel, or task: classify",
        ),
        (
            "targets",
            np.arange(12) % 2,
            "y_train: all targets are 0 or 1; use task: classify",
        ),
        ("targets", VALUES > 50, "y_train: has dtype bool; use task: classify or task: multilabel"),
        (
            "targets",
            np.stack([VALUES[:, 0], np.full(12, 3.0)], axis=1),
            "y_train: target column 1 is 3 for all training images; remove it",
        ),
        (
            "targets",
            np.full(12, 3.0),
            "y_train: the target is 3 for all training images; remove it",
        ),
        (
            "targets",
            VALUES[:, :, None],
            "y_train: has shape (8, 2, 1); use (n, number of targets)",
        ),
        ("targets", VALUES + 0j, "y_train: has dtype complex64; use numbers"),
        (
            "multilabel",
            np.eye(3)[np.arange(12) % 3],
            "y_train: each training image has exactly one label; use task: classify",
        ),
        (
            "multilabel",
            np.array(["cat", "dog"] * 6),
            "y_train: each training image has exactly one label; use task: classify",
        ),
        (
            "multilabel",
            np.arange(12) % 3,
            "y_train: has one label per image; use task: classify",
        ),
        (
            "multilabel",
            ROWS * 2,
            "y_train: label column 0 of image 0 is 2; use 0 or 1",
        ),
        (
            "multilabel",
            np.array([*TEXTS[:11], "bird cat"]),
            "y_test: no training image has the label 'bird' of image 3; correct or remove it",
        ),
        (
            "multilabel",
            np.array([["a", "b"]] * 12),
            "y_train: has dtype <U1; use 0 and 1",
        ),
    ],
)
def test_wrong_labels_in_an_archive(
    tmp_path: Path, kind: LabelKind, labels: Any, message: str
) -> None:
    assert refused(npz(tmp_path, labels), kind) == message


def test_different_numbers_of_targets(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x_train=IMAGES, y_train=VALUES, x_test=IMAGES, y_test=VALUES[:, :1])
    message = "y_test: has 1 targets per image, but the training images have 2; use the same"
    assert refused(path, "targets") == message
    path = npz(tmp_path, VALUES, target_names=["x", "y", "z"])
    assert refused(path, "targets") == "y_train: has 2 targets, but 3 names; use the same"


@pytest.mark.parametrize(
    ("kind", "columns", "names", "message"),
    [
        (
            "targets",
            {"x": ["1", "", *"2345678901"], "y": VALUES[:, 0]},
            ("x", "y"),
            "x and y: target 'x' of image 1 is empty; use numbers, or task: classify",
        ),
        (
            "targets",
            {"x": VALUES[:, 0], "y": ["a", *"12345678901"]},
            ("x", "y"),
            "x and y: 'a' of image 0 is not a number; use numbers, or task: classify",
        ),
        (
            "targets",
            {"x": VALUES[:, 0]},
            ("x", "width"),
            "has no column 'width', only x, p0, p1, p2, p3, p4 and 15 more; change"
            " dataset.keys.labels",
        ),
        (
            "multilabel",
            {"a": ROWS[:, 0], "b": ROWS[:, 1] + 4},
            ("a", "b"),
            "a and b: label 'b' of image 0 is 4; use 0 or 1",
        ),
    ],
)
def test_wrong_labels_in_a_table(
    tmp_path: Path, kind: LabelKind, columns: Any, names: Any, message: str
) -> None:
    assert refused(table(tmp_path, columns), kind, {"labels": names}) == message


def test_a_list_of_names_is_for_tables(tmp_path: Path) -> None:
    message = (
        "dataset.keys.labels is a list, which is for columns of a table; save one array of shape"
        " (n, k)"
    )
    assert refused(npz(tmp_path, VALUES), "targets", {"labels": ("x", "y")}) == message


def test_a_column_of_texts_in_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path, x=VALUES[:, 0], y=["a"] * 12)
    message = "x and y: 'y' is not a column of numbers; use numbers"
    assert refused(path, "targets", {"labels": ("x", "y")}) == message
    path = parquet(tmp_path, label=[[1.0], [1.0, 2.0]] * 6)
    message = "label: has several labels per image; use the same number for each image"
    assert refused(path, "targets") == message


def loaded(path: Path, kind: LabelKind) -> Dataset:
    spec = DatasetSpec(arrays=str(path)).labeled(kind)
    return dataset_of(spec, None, lambda _: None)


def test_a_dataset_of_targets_and_its_digest(tmp_path: Path) -> None:
    data = loaded(npz(tmp_path, VALUES), "targets")
    assert data.info.labels == "targets"
    assert data.info.labels_text == "2 targets"
    sizes = [len(split) for split in (data.train, data.validation, data.test)]
    assert sizes == [7, 1, 4]
    every = np.concatenate([split.labels for split in (data.train, data.validation)])
    np.testing.assert_array_equal(np.sort(every[:, 0]), np.sort(VALUES[:8, 0]))
    other = loaded(npz(tmp_path, VALUES + np.float32(1e-3)), "targets")
    assert other.digest != data.digest


def test_the_cache_knows_what_the_labels_are(tmp_path: Path) -> None:
    path = npz(tmp_path, np.arange(12) % 3)
    assert loaded(path, "class").train.labels.dtype == np.int32
    assert loaded(path, "targets").train.labels.dtype == np.float32
    assert loaded(path, "class").train.labels.dtype == np.int32
