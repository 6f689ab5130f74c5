"""experiments/published: networks of public recipes, and the figures that README gives of them."""

import re

import pytest
from scipy import stats

from cnnbench.spec.loader import load_experiment
from tests.support.paths import ROOT

FOLDER = ROOT / "experiments" / "published"
README = (ROOT / "README.md").read_text()
REPRODUCTIONS = (ROOT / "docs" / "reproductions.md").read_text()

# As the sources print them (Keras, PyTorch) or as their layers add up (Caffe).
PARAMETERS = {
    "keras_convnet": 34_826,
    "caffe_lenet": 431_080,
    "pytorch_mnist": 1_199_882,
    "tuomaso": 215_194,
    "fashion_mlp": 242_762,
    "fashion_tiny": 83_466,
    "fashion_tf_convnet": 3_274_634,
    "fashion_three_conv": 2_688_522,
    "fashion_resnet": 308_074,  # ours; the source's has 11 million
}
IN_README = ("keras_convnet", "caffe_lenet", "pytorch_mnist")  # one seed each
IMAGES = {
    "keras_convnet": (54_000, 6_000),
    "caffe_lenet": (60_000, 0),
    "pytorch_mnist": (60_000, 0),
    "tuomaso": (60_000, 0),
    "fashion_mlp": (60_000, 0),
    "fashion_tiny": (60_000, 0),
    "fashion_tf_convnet": (60_000, 0),
    "fashion_three_conv": (60_000, 0),
    "fashion_resnet": (60_000, 0),
}


def test_every_recipe_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_published_number_of_parameters(name: str) -> None:
    loaded = load_experiment(FOLDER / f"{name}.yaml")
    assert loaded.plan is not None
    assert loaded.plan.num_params == PARAMETERS[name]
    splits = loaded.experiment.dataset.splits
    assert (splits.train, splits.validation, splits.test) == (*IMAGES[name], 10_000)
    assert loaded.experiment.name == name


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) - set(IN_README)))
def test_reproductions_have_the_figures_of_the_headers(name: str) -> None:
    header = " ".join((FOLDER / f"{name}.yaml").read_text().split("\nname:")[0].split("\n# "))
    experiment = load_experiment(FOLDER / f"{name}.yaml").experiment
    (row,) = (line for line in REPRODUCTIONS.splitlines() if line.startswith(f"| `{name}`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == f"{PARAMETERS[name]:,}"
    assert cells[5] == str(len(experiment.seeds))
    if "Result:  not run yet" in header:
        assert cells[3:5] == ["not run yet", ""]
        return
    found = re.search(
        r"accuracy ([\d.]+)% \(standard deviation ([\d.]+)\) after (\d+) epoch", header
    )
    assert found, header
    mean, deviation, epochs = found.groups()
    assert int(epochs) == experiment.train.epochs
    assert cells[3] == f"{mean} ± {deviation}%"


@pytest.mark.parametrize("name", ["keras_convnet", *sorted(set(PARAMETERS) - set(IN_README))])
def test_intervals_are_those_of_the_seeds_and_say_whether_a_number_agrees(name: str) -> None:
    """Up to rounding: an interval needs the deviation, which the page rounds to 0.01."""
    published, low, high, mean, deviation, seeds, agrees = _figures(name)
    half = stats.t.ppf(0.975, seeds - 1) * deviation / seeds**0.5
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.015)
    assert agrees == (low <= published <= high)


def _figures(name: str) -> tuple[float, float, float, float, float, int, bool]:
    (row,) = (line for line in REPRODUCTIONS.splitlines() if line.startswith(f"| `{name}`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    published = float(re.findall(r"[\d.]+", cells[2])[0])
    mean, deviation, low, high = map(float, re.findall(r"[\d.]+", cells[3] + cells[4]))
    return published, low, high, mean, deviation, int(cells[5]), cells[7] == "yes"


@pytest.mark.parametrize("name", ["plain", "augmented", "decayed"])
def test_verdicts_on_fashion_mnist_have_the_figures_of_the_headers(name: str) -> None:
    file = ROOT / "experiments" / "fashion" / f"{name}.yaml"
    found = re.search(
        r"validation accuracy ([\d.]+ ± [\d.]+%) after (\d+) epochs, "
        r"test accuracy ([\d.]+ ± [\d.]+%); (\d+) seeds",
        file.read_text(),
    )
    assert found
    validation, epochs, test, seeds = found.groups()
    experiment = load_experiment(file).experiment
    assert (int(epochs), int(seeds)) == (experiment.train.epochs, len(experiment.seeds))
    assert f"| {experiment.title:20} |    {epochs} | {validation} |" in REPRODUCTIONS
    assert f"{experiment.title} {test}" in REPRODUCTIONS.replace("\n", " ")


@pytest.mark.parametrize("name", IN_README)
def test_readme_has_the_figures_of_the_headers(name: str) -> None:
    header = (FOLDER / f"{name}.yaml").read_text().split("\nname:")[0]
    found = re.search(r"test accuracy ([\d.]+)% after (\d+) epochs; .*?: ([\d. to]+%);", header)
    assert found, header
    ours, epochs, published = found.groups()
    assert int(epochs) == load_experiment(FOLDER / f"{name}.yaml").experiment.train.epochs
    (row,) = (line for line in README.splitlines() if f"experiments/published/{name}.yaml" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [f"{PARAMETERS[name]:,}", published, f"{ours}%"]
