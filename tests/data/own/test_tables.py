"""Folders of images whose labels are in a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.errors import DataError, SpecError
from cnnbench.spec.experiment import DatasetSpec, Task
from cnnbench.spec.loader import load_experiment

FILES = [f"{folder}img{i}.png" for i in range(12) for folder in (["a/", "a/b/", ""][i % 3],)]
VALUES = np.random.default_rng(0).normal(50, 20, (12, 2)).round(3)
TAGS = ["cat dog", "dog", ""] * 4


def image(number: int) -> Any:
    return np.full((4, 5, 3), 20 * number, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pics"
    for number, file in enumerate(FILES):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(number)).save(path)
    return root


def table(folder: Path, files: Sequence[str] = FILES, **columns: Any) -> Path:
    path = folder.parent / "labels.csv"
    order = np.random.default_rng(1).permutation(len(files))
    pd.DataFrame({"file": files, **columns}).iloc[order].to_csv(path, index=False)
    return path


def load(folder: Path, task: Task, keys: Mapping[str, Any] | None = None, **more: Any) -> Dataset:
    path = str(folder.parent / "labels.csv")
    given: Any = {"folder": str(folder), "labels": path, "keys": keys} | more
    return dataset_of(DatasetSpec(**given).labeled(task.labels), None, lambda _: None)


def by_image(data: Dataset) -> dict[int, Any]:
    """Labels by the number of the image, which its pixels tell."""
    return {
        int(pixels[0, 0, 0]) // 20: label
        for split in (data.train, data.validation, data.test)
        for pixels, label in zip(split.images, split.labels, strict=True)
    }


@pytest.mark.parametrize(
    "written",
    [
        lambda file: file,
        lambda file: Path(file).name,
        lambda file: Path(file).stem,
        lambda file: str(Path(file).with_suffix("")),
    ],
)
def test_each_image_has_the_targets_of_its_row(folder: Path, written: Any) -> None:
    table(folder, [*map(written, FILES)], x=VALUES[:, 0], y=VALUES[:, 1], note=TAGS)
    data = load(folder, Task.REGRESS, {"labels": ["x", "y"]})
    assert data.info.classes == ("x", "y")
    assert data.info.labels == "targets"
    found = by_image(data)
    assert sorted(found) == list(range(12))
    for number, label in found.items():
        np.testing.assert_allclose(label, VALUES[number], rtol=1e-6)


def test_several_labels_and_classes_of_a_table(folder: Path) -> None:
    table(folder, label=TAGS)
    data = load(folder, Task.MULTILABEL)
    assert data.info.classes == ("cat", "dog")
    for number, label in by_image(data).items():
        assert label.tolist() == [int(name in TAGS[number]) for name in ("cat", "dog")]
    table(folder, label=[["yes", "no"][number % 2] for number in range(12)])
    data = load(folder, Task.CLASSIFY)
    assert data.info.classes == ("no", "yes")
    assert {number: int(label) for number, label in by_image(data).items()} == {
        number: 1 - number % 2 for number in range(12)
    }


def test_columns_of_zeros_and_ones(folder: Path) -> None:
    table(folder, cat=[1, 0, 0] * 4, dog=[1, 1, 0] * 4)
    data = load(folder, Task.MULTILABEL, {"labels": ["cat", "dog"]})
    for number, label in by_image(data).items():
        assert label.tolist() == [[1, 1], [0, 1], [0, 0]][number % 3]


def test_folders_of_splits(tmp_path: Path) -> None:
    root = tmp_path / "pics"
    files = [f"{split}/img{i}.png" for i, split in enumerate(["train"] * 8 + ["test"] * 4)]
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(number)).save(root / file)
    table(root, files, y=VALUES[:, 0])
    data = load(root, Task.REGRESS, {"labels": "y"})
    assert len(data.test) == 4
    wanted = VALUES[8:, 0].astype(np.float32)
    np.testing.assert_array_equal(np.sort(data.test.labels[:, 0]), np.sort(wanted))


def test_the_digest_covers_the_table(folder: Path) -> None:
    table(folder, y=VALUES[:, 0])
    first = load(folder, Task.REGRESS)
    assert load(folder, Task.REGRESS).digest == first.digest
    table(folder, y=VALUES[:, 0] + 1)
    assert load(folder, Task.REGRESS).digest != first.digest


def test_an_unreadable_image_is_skipped_with_its_row(folder: Path) -> None:
    table(folder, y=VALUES[:, 0])
    (folder / FILES[5]).write_bytes(b"broken")
    data = load(folder, Task.REGRESS, on_error="skip")
    found = by_image(data)
    assert sorted(found) == [number for number in range(12) if number != 5]
    assert all(found[n] == np.float32(VALUES[n, 0]) for n in found)


Y = VALUES[:, 0]


@pytest.mark.parametrize(
    ("files", "columns", "keys", "message"),
    [
        (
            FILES[:10],
            {"y": Y[:10]},
            None,
            "{table}: has no row for a/b/img10.png and 1 more; add one, or remove the image",
        ),
        (
            [*FILES, "img99.png"],
            {"y": [*Y, 1]},
            None,
            "{table}:6: {folder} has no image 'img99.png'; correct or remove the row",
        ),
        (
            [*FILES[:11], FILES[10]],
            {"y": Y},
            None,
            "{table}:11: 'a/b/img10.png' is in line 3, too; remove one",
        ),
        (
            FILES,
            {"y": [*Y[:3], "old", *Y[4:]]},
            None,
            "{table}: y: 'old' of a/img3.png is not a number; use numbers, or task: classify",
        ),
        (
            FILES,
            {"y": [*Y[:3], np.nan, *Y[4:]]},
            None,
            "{table}: y: the target of a/img3.png is empty; use numbers, or task: classify",
        ),
        (
            FILES,
            {"y": Y},
            {"labels": ["age"]},
            "{table}: has no column 'age', only file and y; change dataset.keys.labels",
        ),
        (
            FILES,
            {"x": Y, "z": Y},
            None,
            "{table}: has several columns that may be labels, x and z; set dataset.keys:"
            " {{labels: [NAME]}}",
        ),
        (
            FILES,
            {"y": Y},
            {"train_labels": "y"},
            "{table}: dataset.keys.train_labels has no effect on a table; use images or labels",
        ),
    ],
)
def test_mistakes_in_a_table(
    folder: Path, files: Any, columns: Any, keys: Any, message: str
) -> None:
    path = table(folder, files, **columns)
    with pytest.raises(DataError) as error:
        load(folder, Task.REGRESS, keys)
    assert str(error.value) == message.format(table=path, folder=folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read (no such file or directory); check dataset.labels"),
        ("file,y\n", "has no rows; check the file"),
        ("a,b\nimg0.png,1\n", "no column of file names among a and b; set dataset.keys: "),
        ("file,y\nimg0.png,1,2\n", "has 3 columns, but the header has 2"),
    ],
)
def test_files_that_are_no_tables(folder: Path, text: str | None, message: str) -> None:
    path = folder.parent / "labels.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        load(folder, Task.REGRESS)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


SPEC = """
name: pics
task: regress
dataset: {{folder: pics{more}}}
model: {{layers: {{out: {{op: dense, units: 1}}}}}}
"""


@pytest.mark.parametrize(
    ("more", "where", "message"),
    [
        (
            "",
            "dataset.folder",
            "targets of a folder are in a table; set dataset.labels: FILE.csv",
        ),
        (
            ", labels: labels.csv, keys: {labels: size}",
            "dataset.labels",
            "has no column 'size', only file and y; change dataset.keys.labels",
        ),
        (
            ", keys: {labels: y}",
            "dataset.keys",
            "keys are columns of a table, and a folder per class has none; add labels: FILE.csv, or"
            " remove it",
        ),
    ],
)
def test_mistakes_in_an_experiment(folder: Path, more: str, where: str, message: str) -> None:
    table(folder, y=Y)
    path = folder.parent / "spec.yaml"
    path.write_text(SPEC.format(more=more), encoding="utf-8")
    with pytest.raises(SpecError) as error:
        load_experiment(path)
    found = {problem.where: problem for problem in error.value.problems}
    assert f"{found[where].message}; {found[where].remedy}".endswith(message)


def test_an_experiment_on_a_table(folder: Path) -> None:
    table(folder, y=Y)
    path = folder.parent / "spec.yaml"
    path.write_text(SPEC.format(more=", labels: labels.csv"), encoding="utf-8")
    loaded = load_experiment(path)
    assert (loaded.info.shape, loaded.info.labels_text) == ((4, 5, 3), "1 target")
    assert "labels.csv" in loaded.resolved()
    moved = loaded.experiment.dataset.model_copy(update={"labels": "/elsewhere/labels.csv"})
    other = loaded.experiment.model_copy(update={"dataset": moved})
    assert other.digest() == loaded.experiment.digest()
