"""Class names of published datasets, against the sources that state them."""

import importlib.util
import re
import string
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from cnnbench.data.catalog import KNOWN, describe

# The superclasses of CIFAR-100 and their classes, from https://www.cs.toronto.edu/~kriz/cifar.html
SUPERCLASSES = """
aquatic mammals: beaver, dolphin, otter, seal, whale
fish: aquarium fish, flatfish, ray, shark, trout
flowers: orchid, poppy, rose, sunflower, tulip
food containers: bottle, bowl, can, cup, plate
fruit and vegetables: apple, mushroom, orange, pear, sweet pepper
household electrical devices: clock, keyboard, lamp, telephone, television
household furniture: bed, chair, couch, table, wardrobe
insects: bee, beetle, butterfly, caterpillar, cockroach
large carnivores: bear, leopard, lion, tiger, wolf
large man-made outdoor things: bridge, castle, house, road, skyscraper
large natural outdoor scenes: cloud, forest, mountain, plain, sea
large omnivores and herbivores: camel, cattle, chimpanzee, elephant, kangaroo
medium-sized mammals: fox, porcupine, possum, raccoon, skunk
non-insect invertebrates: crab, lobster, snail, spider, worm
people: baby, boy, girl, man, woman
reptiles: crocodile, dinosaur, lizard, snake, turtle
small mammals: hamster, mouse, rabbit, shrew, squirrel
trees: maple tree, oak tree, palm tree, pine tree, willow tree
vehicles 1: bicycle, bus, motorcycle, pickup truck, train
vehicles 2: lawn mower, rocket, streetcar, tank, tractor
"""


@pytest.mark.parametrize("name", KNOWN)
def test_every_published_dataset_has_a_name_per_class(name: str) -> None:
    names = KNOWN[name].classes
    assert len(names) == KNOWN[name].num_classes
    assert len(set(names)) == len(names)
    assert all(each == each.strip() and each.isprintable() for each in names)


@pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="needs torchvision")
def test_names_are_those_of_torchvision() -> None:
    from tests.support.torchvision_models import package

    theirs = package().datasets
    digits = [name.partition(" ")[0] for name in theirs.MNIST.classes]  # "0 - zero"
    names = {"mnist": digits, "mnist_5k": digits, "fashion_mnist": theirs.FashionMNIST.classes}
    names |= {"kmnist": theirs.KMNIST.classes}
    for split, classes in theirs.EMNIST.classes_split_dict.items():
        names[f"emnist/{split}"] = [each for each in classes if each != "N/A"]
    assert {name: list(KNOWN[name].classes) for name in names} == names


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_names_are_those_of_tensorflow_datasets(name: str, tmp_path: Path) -> None:
    label = tfds.builder(name, data_dir=tmp_path).info.features["label"]
    assert list(KNOWN[name].classes) == label.names


def test_names_of_cifar100_are_its_published_classes_in_alphabetical_order() -> None:
    lines = [line.partition(": ")[2].split(", ") for line in SUPERCLASSES.strip().splitlines()]
    published = [name.replace(" ", "_") for line in lines for name in line]
    assert list(KNOWN["cifar100"].classes) == sorted(published)


def test_names_of_cifar10_and_stl10_are_alphabetical_with_the_animal_that_differs() -> None:
    cifar, stl = KNOWN["cifar10"].classes, KNOWN["stl10"].classes
    assert sorted(cifar) == list(cifar)
    assert sorted(stl) == list(stl)
    other = {"frog": "monkey", "automobile": "car"}  # Coates et al. 2011
    assert {other.get(name, name) for name in cifar} == set(stl)
    for name in ("cifar10_1", "cifar10_1/v4", "cifar10_1/v6"):
        assert KNOWN[name].classes == cifar


def test_labels_of_svhn_are_digits() -> None:
    assert KNOWN["svhn_cropped"].classes == tuple(string.digits)


@pytest.mark.skipif(not importlib.util.find_spec("medmnist"), reason="needs medmnist")
def test_names_are_those_of_medmnist() -> None:
    """Reads its table as text, because importing it imports PyTorch."""
    spec = importlib.util.find_spec("medmnist")
    assert spec
    assert spec.origin
    text = Path(spec.origin).with_name("info.py").read_text(encoding="utf-8")
    tables = re.findall(r'^    "(\w+)": \{.*?"label": (\{.*?\})', text, re.DOTALL | re.MULTILINE)
    found = {name: re.findall(r'"\d+": "(.*?)"', table) for name, table in tables}
    own = [name for name, info in KNOWN.items() if info.license]
    assert {name: list(KNOWN[name].classes) for name in own} == {name: found[name] for name in own}


def test_other_datasets_have_the_names_of_tensorflow_datasets(tmp_path: Path) -> None:
    assert describe("rock_paper_scissors", tmp_path).classes == ("rock", "paper", "scissors")


def test_numbers_are_not_names(tmp_path: Path) -> None:
    assert describe("mnist_corrupted", tmp_path).classes == ()
