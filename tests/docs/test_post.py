"""experiments/post and its page: the files are what the page says, and its figures add up."""

import re
import statistics
from dataclasses import dataclass

import pytest

from cnnbench.spec.loader import load_experiment
from cnnbench.spec.optimizers import Sgd
from tests.support.paths import ROOT

EXPERIMENTS = ROOT / "experiments"
PAGE = (ROOT / "docs" / "explanation" / "post.md").read_text()
NAMES = ("standard", "modified")
TITLES = {"standard": "Standard CNN", "modified": "Modified CNN"}
POST = {"standard": ("56.75", "96.76"), "modified": ("72.51", "96.03")}
CHANGES = ("dataset.train_examples=3000", "train.batch_size=150")


@dataclass(frozen=True)
class Figures:
    """Ours on the page, in %: a value per seed, and the row of means."""

    first: list[float]
    last: list[float]
    shown: list[str]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(heading: str) -> list[list[str]]:
    """The table below a heading of the page, without its header."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [cells(line) for line in section.splitlines() if line.startswith("|")][2:]


def figures(name: str) -> Figures:
    per_seed = [row for row in rows("Accuracy by seed") if row[0] == TITLES[name]]
    first, last = ([float(v) for v in row[2:] if v] for row in per_seed)
    (shown,) = (row for row in rows("Results") if row[0] == TITLES[name])
    return Figures(first, last, shown)


@pytest.mark.parametrize("name", NAMES)
def test_networks_and_training_are_the_shipped_ones_but_for_images_and_batch(name: str) -> None:
    ours = load_experiment(EXPERIMENTS / "post" / f"{name}.yaml").experiment
    shipped = load_experiment(EXPERIMENTS / f"{name}.yaml", CHANGES).experiment
    assert ours.digest() == shipped.digest()
    assert ours.title == shipped.title == TITLES[name]


@pytest.mark.parametrize("name", NAMES)
def test_page_says_the_settings_of_the_files(name: str) -> None:
    ours = load_experiment(EXPERIMENTS / "post" / f"{name}.yaml").experiment
    train, dataset, splits = ours.train, ours.dataset, ours.dataset.splits
    assert isinstance(train.optimizer, Sgd)
    assert dataset.train_examples is not None
    assert splits is not None
    said = {row[0]: row[2] for row in rows("Settings")}
    assert said == {
        "training images": f"**the first {dataset.train_examples:,}**",
        "batch size": f"**{train.batch_size}**",
        "steps per epoch": f"{dataset.train_examples // train.batch_size}",
        "optimizer": f"Nesterov momentum {train.optimizer.momentum}, "
        f"learning rate {train.optimizer.learning_rate}",
        "validation images": f"{splits.validation:,}",
        "seeds": f"{ours.seeds[0]} to {ours.seeds[-1]}",
    }
    assert train.optimizer.nesterov
    assert list(ours.seeds) == list(range(6))
    assert train.epochs == 30


@pytest.mark.parametrize("name", NAMES)
def test_means_and_deviations_are_those_of_the_seeds(name: str) -> None:
    ours = figures(name)
    means = [
        f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}%"
        for values in (ours.first, ours.last)
    ]
    post_first, post_last = POST[name]
    assert ours.shown == [TITLES[name], f"{post_first}%", means[0], f"{post_last}%", means[1]]
    header = (EXPERIMENTS / "post" / f"{name}.yaml").read_text().split("\n\n")[0]
    assert all(mean in header for mean in means)


def test_validation_images_that_can_print_the_posts_accuracies() -> None:
    printed = [accuracy for pair in POST.values() for accuracy in pair]

    def can_print(images: int) -> bool:
        every = {f"{100 * right / images:.2f}" for right in range(images + 1)}
        return every.issuperset(printed)

    sizes = [f"{images:,}" for images in range(500, 10001, 500) if can_print(images)]
    (said,) = re.findall(r"only ([\d,]+(?:, [\d,]+)* or [\d,]+)\s+validation images", PAGE)
    assert re.findall(r"\d+,\d{3}", said) == sizes
