"""Keys of an experiment file for classes, subset, imbalance and label noise."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from cnnbench.data.adjustments import Adjustments, Imbalance, LabelNoise, Subset
from cnnbench.data.catalog import KNOWN, DatasetInfo, describe
from cnnbench.data.classes import label_of, new_labels, unknown_class
from cnnbench.errors import DataError
from cnnbench.spec.experiment import DatasetSpec
from cnnbench.spec.json_schema import schema
from cnnbench.spec.loader import Loaded, load_experiment

SPEC = """\
name: a
task: classify
dataset: {name: cifar10}
model: {layers: {out: {op: dense, units: 10}}}
"""


def load(tmp_path: Path, *overrides: str, text: str = SPEC) -> Loaded:
    (tmp_path / "a.yaml").write_text(text)
    return load_experiment(tmp_path / "a.yaml", overrides)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("subset=1000", {"subset": {"size": 1000}}),
        ("subset=0.1", {"subset": {"size": 0.1}}),
        ("imbalance=100", {"imbalance": {"ratio": 100}}),
        ("label_noise=0.2", {"label_noise": {"rate": 0.2}}),
        ("label_noise.rate=0.2", {"label_noise": {"rate": 0.2, "seed": 0}}),
    ],
)
def test_short_forms(tmp_path: Path, short: str, long: dict[str, Any]) -> None:
    found = load(tmp_path, f"dataset.{short}").experiment.dataset
    assert found == DatasetSpec.model_validate({"name": "cifar10"} | long)


def test_unchanged_datasets_have_the_digest_that_they_had(tmp_path: Path) -> None:
    plain = load(tmp_path).experiment
    digests = {
        load(tmp_path, f"dataset.{each}").experiment.digest()
        for each in ("subset=100", "imbalance=10", "label_noise=0.1", "label_noise=0.2")
    }
    assert len(digests | {plain.digest()}) == 5
    nulls = [f"dataset.{key}=null" for key in ("classes", "subset", "imbalance", "label_noise")]
    assert load(tmp_path, *nulls).experiment.digest() == plain.digest()


ALL = """\
name: a
task: classify
dataset:
  name: cifar10
  classes: {animal: [cat, dog, 2], vehicle: truck}
  subset: {per_class: {animal: 100}}
  imbalance: {ratio: 10, order: [vehicle, animal]}
  label_noise: {rate: 0.1, to: {animal: vehicle}, seed: 4}
model: {layers: {out: {op: dense, units: 2}}}
"""


def test_resolved_files_give_the_same_experiment(tmp_path: Path) -> None:
    found = load(tmp_path, text=ALL)
    assert load(tmp_path, text=found.resolved()).experiment == found.experiment
    assert found.info.num_classes == 2
    assert found.info.classes == ("animal", "vehicle")
    assert found.experiment.dataset.adjustments == Adjustments(
        {"animal": ("cat", "dog", 2), "vehicle": ("truck",)},
        Subset(per_class={"animal": 100}),
        Imbalance(10, order=("vehicle", "animal")),
        LabelNoise(0.1, to={"animal": "vehicle"}, seed=4),
    )
    assert list(found.experiment.dataset.adjustments.texts()) == [
        "classes animal (cat, dog, 2) and vehicle (truck)",
        "subset of 100 of animal",
        "long-tailed, ratio 10",
        "label noise 10%, animal to vehicle, seed 4",
    ]


@pytest.mark.parametrize(
    "text",
    [
        ALL,
        *(
            f"{SPEC[:-1]}".replace("cifar10", f"cifar10, {each}")
            for each in (
                "classes: [1, cat]",
                "subset: 10",
                "subset: 0.5",
                "imbalance: 2.5",
                "label_noise: 0",
            )
        ),
    ],
)
def test_json_schema_accepts_all_forms(text: str) -> None:
    assert list(Draft202012Validator(schema()).iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    "wrong",
    ["classes: cat", "classes: []", "subset: 1.5", "subset: 0", "imbalance: 0.5", "label_noise: 2"],
)
def test_json_schema_refuses_what_the_loader_does(wrong: str) -> None:
    data = yaml.safe_load(SPEC.replace("cifar10", f"cifar10, {wrong}"))
    assert list(Draft202012Validator(schema()).iter_errors(data))


def test_a_child_replaces_or_extends_the_classes(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(ALL)
    child = "extends: parent.yaml\nname: b\ndataset: {classes: {ship: [ship]}, subset: null,"
    child += " imbalance: null, label_noise: null}\nmodel: {layers: {out: {units: 3}}}\n"
    assert load(tmp_path, text=child).info.classes == ("animal", "vehicle", "ship")
    child = child.replace("{ship: [ship]}", "[0, 1, 2]")
    assert load(tmp_path, text=child).info.classes == ("airplane", "automobile", "bird")


DIGITS = DatasetInfo("digits", (8, 8, 1), 4, None, None, "", ("0", "1", "3", "8"))
UNNAMED = DatasetInfo("noise", (8, 8, 1), 4, None, None, "")


@pytest.mark.parametrize(
    ("info", "ref", "label"),
    [
        *((describe("cifar10"), ref, 3) for ref in ("cat", 3, "3")),
        *((DIGITS, ref, 2) for ref in ("3", 3)),  # the name, not the label
        *((DIGITS, ref, None) for ref in ("2", 2)),  # names are numbers, so 2 is not a label
        *((UNNAMED, ref, 2) for ref in ("2", 2)),
        *((UNNAMED, ref, None) for ref in ("cat", 4)),
        (describe("cifar10"), 10, None),
        (describe("cifar10"), "Cat", None),
    ],
)
def test_classes_by_name_or_number(info: DatasetInfo, ref: Any, label: int | None) -> None:
    assert label_of(ref, info) == label


@pytest.mark.parametrize("name", KNOWN)
def test_every_class_of_every_dataset_can_be_named(name: str) -> None:
    info = KNOWN[name]
    assert [label_of(each, info) for each in info.classes] == list(range(info.num_classes))


def test_unknown_classes_and_what_to_write_instead() -> None:
    found = {
        info.name: unknown_class("Zero", info) for info in (DIGITS, UNNAMED, describe("cifar100"))
    }
    assert found == {
        "digits": ("digits has no class 'Zero'", "use 0, 1, 3 or 8"),
        "noise": ("noise has no class 'Zero'", "use a number from 0 to 3"),
        "cifar100": (
            "cifar100 has no class 'Zero'",
            "use a number from 0 to 99 or one of its class names",
        ),
    }
    with pytest.raises(DataError, match=r"^digits has no class 'x'; use 0, 1, 3 or 8$"):
        new_labels(DIGITS, ["x"])
    with pytest.raises(DataError, match=r"^digits: class '3' is listed twice; list it once$"):
        new_labels(DIGITS, {"a": [3, "3"]})
