"""Classes, subset, imbalance and label noise of an experiment, for every source of images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.errors import DataError
from cnnbench.spec.experiment import DatasetSpec

NAMES = ("cat", "dog", "owl")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def load(**keys: Any) -> Dataset:
    return dataset_of(DatasetSpec.model_validate(keys), None, lambda _: None)


def folder(path: Path) -> dict[str, Any]:
    """40 images of each class, whose gray level is 100 times the label plus a number."""
    for label, name in enumerate(NAMES):
        (path / name).mkdir(parents=True)
        for number in range(40):
            pixels = np.full((4, 4), 80 * label + number, np.uint8)
            Image.fromarray(pixels).save(path / name / f"{number}.png")
    return {"folder": str(path), "channels": 1}


def arrays(path: Path) -> dict[str, Any]:
    """The same as a file of arrays."""
    labels = np.repeat(np.arange(3), 40)
    levels = (80 * labels + np.tile(np.arange(40), 3)).astype(np.uint8)
    images = np.broadcast_to(levels[:, None, None], (120, 4, 4))
    np.savez(path, x_train=images, y_train=labels, class_names=np.array(NAMES))
    return {"arrays": str(path.with_suffix(".npz")), "value_range": [0, 255]}


def true_labels(images: Any) -> Any:
    return images[:, 0, 0, 0] // 80


@pytest.mark.parametrize("source", [folder, arrays])
def test_classes_of_own_images(tmp_path: Path, source: Any) -> None:
    own = source(tmp_path / "pics")
    every, two = load(**own), load(**own, classes=["owl", "cat"])
    assert two.info.classes == ("owl", "cat")
    assert two.info.num_classes == 2
    for name in ("train", "validation", "test"):
        part, whole = getattr(two, name), getattr(every, name)
        assert (true_labels(part.images) == np.where(part.labels == 0, 2, 0)).all()
        kept = true_labels(whole.images) != 1
        assert (part.images == whole.images[kept]).all()
    merged = load(**own, classes={"pet": ["cat", 1], "bird": "owl"})
    assert merged.info.classes == ("pet", "bird")
    assert len(merged.train) == len(every.train)
    assert (merged.train.labels == (true_labels(merged.train.images) == 2)).all()
    assert merged.changes == ("classes pet (cat, 1) and bird (owl)",)


@pytest.mark.parametrize("source", [folder, arrays])
def test_distortions_of_own_images(tmp_path: Path, source: Any) -> None:
    own = source(tmp_path / "pics")
    plain = load(**own)
    wanted = {"subset": {"per_class": 20}, "imbalance": {"ratio": 4, "kind": "step"}}
    found = load(**own, **wanted, label_noise={"rate": 0.4, "to": {"cat": "owl"}})
    true = true_labels(found.train.images)
    assert np.bincount(true).tolist() == [20, 5, 5]
    assert found.train.labels[true == 0].tolist().count(2) == 8
    assert (found.train.labels == true)[true > 0].all()
    for name in ("validation", "test"):
        one, other = getattr(plain, name), getattr(found, name)
        assert (one.images == other.images).all()
        assert (one.labels == other.labels).all()


def test_digest_covers_every_change() -> None:
    changes: list[dict[str, Any]] = [
        *({}, {"classes": [3, 8]}, {"classes": [8, 3]}, {"subset": 1000}),
        *({"subset": {"size": 1000, "seed": 1}}, {"imbalance": 10}, {"label_noise": 0.1}),
        *({"label_noise": 0.2}, {"label_noise": {"rate": 0.1, "kind": "pair"}}),
        {"label_noise": {"rate": 0.1, "seed": 1}},
    ]
    digests = [load(name="mnist_5k", **each).digest for each in changes]
    assert len(set(digests)) == len(digests)
    assert load(name="mnist_5k", label_noise=0.1).digest == digests[6]
    for same in ({"subset": 1.0}, {"imbalance": 1}, {"label_noise": 0.0}):
        assert load(name="mnist_5k", **same).digest == digests[0]


def test_splits_are_those_of_the_chosen_classes() -> None:
    """Narrowed before the images are divided, so that sizes are those that are written."""
    found = load(name="mnist_5k", classes=["3", 8], splits={"train": 500, "validation": 100})
    assert [len(part) for part in (found.train, found.validation, found.test)] == [500, 100, 100]
    assert found.info.num_train == 900
    with pytest.raises(DataError) as caught:
        load(name="mnist_5k", classes=["3", 8], splits={"train": 801})
    assert str(caught.value) == (
        "dataset 'mnist_5k': splits.train: 801 is out of range for 800 images; use 1 to 800"
    )


def test_random_splits_come_before_the_subset() -> None:
    split = {"validation": 0.2, "seed": 3}
    plain = load(name="mnist_5k", split=split)
    found = load(name="mnist_5k", split=split, subset={"per_class": 10})
    assert (plain.validation.images == found.validation.images).all()
    rows = {image.tobytes() for image in plain.train.images}
    assert all(image.tobytes() in rows for image in found.train.images)
    assert np.bincount(found.train.labels).tolist() == [10] * 10


def test_each_seed_has_its_own_images_of_the_chosen_classes() -> None:
    found = load(name="mnist_5k", classes=[3, 8], split={"folds": 5})
    one, other = found.of_seed(0), found.of_seed(1)
    assert found.info.classes == ("3", "8")
    assert len(one.train) == len(other.train) == 720
    assert not (one.validation.images == other.validation.images).all()


@pytest.mark.usefixtures("no_network")
def test_fallback_has_the_classes_too(tmp_path: Path) -> None:
    spec = DatasetSpec.model_validate(
        {"name": "mnist", "offline": "mnist_5k", "classes": [3, 8], "label_noise": 0.5}
    )
    found = dataset_of(spec, tmp_path, lambda _: None)
    assert found.stand_in_for == "mnist"
    assert found.info.classes == ("3", "8")
    assert found.changes == (
        "classes 3 and 8",
        "label noise 50%, symmetric: 400 of 800 training labels changed",
    )


def test_label_noise_is_independent_of_the_rest_of_the_training_set() -> None:
    """Labels of the same images, of a run without validation images, are changed alike."""
    few = load(name="mnist_5k", label_noise=0.2, splits={"validation": 0})
    more = load(name="mnist_5k", label_noise=0.2)
    assert (few.train.labels == more.train.labels).all()


def test_streamed_images_are_those_of_memory(tmp_path: Path) -> None:
    own = folder(tmp_path / "pics")
    wanted = {"classes": {"pet": ["cat", "dog"], "owl": "owl"}, "subset": 30, "label_noise": 0.2}
    one, other = (load(**own, **wanted, streaming=streamed) for streamed in (False, True))
    for name in ("train", "validation", "test"):
        part, streamed = getattr(one, name), getattr(other, name)
        assert (part.images == np.asarray(streamed.images)).all()
        assert (part.labels == streamed.labels).all()
    assert one.changes == other.changes
    assert other.streamed
