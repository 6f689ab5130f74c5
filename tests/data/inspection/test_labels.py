"""Distributions of targets and labels against pandas and scikit-learn, and `data inspect`."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import multilabel_confusion_matrix
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.data.inspection.labels import BINS, label_distribution, target_distributions


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_targets_are_described_as_by_pandas(number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    splits = {
        name: rng.gamma(2, 30, (size, 2)).astype(np.float32)
        for name, size in (("train", number), ("validation", 0), ("test", 5))
    }
    found = target_distributions(splits, 1)
    assert list(found) == ["train", "test"]
    every = np.concatenate([splits[name][:, 1] for name in found])
    edges = np.linspace(every.min(), every.max(), BINS + 1)
    for name, own in found.items():
        values = pd.Series(splits[name][:, 1].astype(float))
        said = values.describe()
        assert [own.number, own.mean, own.low, own.high] == pytest.approx(
            [said["count"], said["mean"], said["min"], said["max"]]
        )
        assert own.std == pytest.approx(values.std(ddof=0))
        bins = pd.cut(values.clip(edges[0], edges[-1]), edges, right=False, labels=False)
        counts = bins.fillna(BINS - 1).value_counts().reindex(range(BINS), fill_value=0)
        assert abs(counts - np.array(own.histogram)).sum() <= 2  # a value at an edge is rounded
        assert sum(own.histogram) == own.number


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_labels_are_counted_as_by_scikit_learn(number: int, width: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, (number, width), np.uint8)
    found, frame = label_distribution(labels), pd.DataFrame(labels)
    confusion = multilabel_confusion_matrix(labels, labels, labels=range(width))
    assert found.counts == tuple(confusion[:, 1, 1].tolist())
    assert found.without == (frame.sum(axis=1) == 0).sum()
    assert found.cardinality == pytest.approx(frame.sum(axis=1).mean())
    assert found.most == frame.sum(axis=1).max()
    together = {(a, b): int((frame[a] & frame[b]).sum()) for a, b in combinations(range(width), 2)}
    assert {(a, b): n for a, b, n in found.pairs} == {k: n for k, n in together.items() if n}
    sizes = [n for *_, n in found.pairs]
    assert sizes == sorted(sizes, reverse=True)


@pytest.fixture
def inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 6), np.uint8)
    targets = np.arange(80, dtype=np.float32).reshape(40, 2) * [1, 10]
    names = np.array(["age", "price"])
    np.savez("targets.npz", images=images, labels=targets, target_names=names)
    labels = np.zeros((40, 3), np.uint8)
    labels[:30, 0], labels[10:35, 1], labels[:4, 2] = 1, 1, 1
    np.savez("labels.npz", images=images, labels=labels, class_names=np.array(["a", "b", "c d"]))
    Path("faces").mkdir()
    rows = ["file,age"]
    for number, image in enumerate(images):
        Image.fromarray(image).save(f"faces/{number}.png")
        rows.append(f"{number}.png,{number}")
    Path("faces.csv").write_text("\n".join(rows))
    Path("faces.yaml").write_text(
        "name: faces\ntask: regress\ndataset: {folder: faces, labels: faces.csv,"
        " keys: {labels: age}}\nmodel: {layers: {out: {op: dense, units: 1}}}\n"
    )

    def call(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["data", "inspect", *words], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.output

    return call


def rows_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line]


def test_targets_have_a_row_for_each_split(inspect: Callable[..., str]) -> None:
    from cnnbench.data.dataset import dataset_of
    from cnnbench.spec.experiment import DatasetSpec

    text = inspect("targets.npz", "--task", "regress")
    assert max(map(len, text.splitlines())) <= 80
    header, _, *rows = rows_of(text)
    assert header == ["Target", "Split", "Images", "Mean", "Std", "Min", "Max", "Histogram"]
    spec = DatasetSpec.model_validate({"arrays": "targets.npz"}).labeled("targets")
    dataset = dataset_of(spec, None, pytest.fail)
    for target, name in enumerate(("age", "price")):
        for at, split in enumerate(("train", "validation", "test")):
            values = getattr(dataset, split).labels[:, target].astype(float)
            numbers = [values.mean(), values.std(), values.min(), values.max()]
            expected = [name, split, str(len(values)), *(f"{number:.4g}" for number in numbers)]
            assert rows[3 * target + at][:7] == expected


def test_labels_are_counted_by_split(inspect: Callable[..., str]) -> None:
    text = inspect("labels.npz", "--task", "multilabel")
    rows = rows_of(text)
    assert rows[0] == ["Label", "Train", "Validation", "Test"]
    assert [sum(map(int, row[-3:])) for row in rows[2:5]] == [30, 25, 4]
    assert "Labels per training image: mean " in text
    assert "Training images without a label: " in text
    assert "Most frequent pairs: a and b " in text


def test_a_table_of_labels_is_inspected_through_its_experiment(
    inspect: Callable[..., str], tmp_path: Path
) -> None:
    text = inspect("faces.yaml", "-o", "faces.svg")
    assert ["age", "train", "28"] in [row[:3] for row in rows_of(text)]
    drawn = (tmp_path / "faces.svg").read_text()
    for title in ("age: smallest", "age: largest", ">train<", ">validation<", ">test<"):
        assert title in drawn


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["faces.yaml", "--task", "regress"],
            "--task: the experiment file has the task; remove it.",
        ),
        (
            ["mnist_5k", "--task", "regress"],
            "--task: is for array files; inspect an experiment file.",
        ),
        (
            ["targets.npz", "--task", "regres"],
            "--task: 'regres' is not a valid choice (did you mean 'regress'?); write classify,"
            " reconstruct, regress or multilabel.",
        ),
    ],
)
def test_tasks_that_do_not_fit_are_refused(
    words: list[str], message: str, inspect: Callable[..., str]
) -> None:
    assert " ".join(inspect(*words, code=2).split()) == message


def test_missing_values_are_named(inspect: Callable[..., str], tmp_path: Path) -> None:
    table = tmp_path / "faces.csv"
    table.write_text(table.read_text().replace("7.png,7\n", "7.png,\n", 1))
    text = " ".join(inspect("faces.yaml", code=2).split())
    assert "the target of 7.png is empty" in text
