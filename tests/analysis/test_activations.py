"""What `inspect` finds and draws, compared with all activations at once in NumPy."""

import io
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as reader
from rich.console import Console

from cnnbench.analysis.activations import (
    EXAMPLES,
    LayerStatistics,
    Prediction,
    Responses,
    _Sums,
    choose,
    examine,
    predictions,
)
from cnnbench.analysis.trained_network import TrainedNetwork, load_trained
from cnnbench.cli.progress import Silent
from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import Split
from cnnbench.errors import UsageError
from cnnbench.report.inspection import layers_table, predictions_table, units_table
from cnnbench.report.plots.image_grid import Panel, activation_panels, layer_panels, page
from cnnbench.report.plots.png import mosaic
from cnnbench.runner.run import Request, run_experiment
from tests.support.golden import approved

SPEC = """\
name: looked_at
title: Looked at
task: {task}
dataset: {{name: mnist_5k, train_examples: 20, splits: {{validation: 20, test: 230}}}}
model:
  layers:
{layers}
train: {{epochs: 1, batch_size: 20}}
"""
CLASSIFIER = """\
    conv: {op: conv, filters: 5, kernel: 5, stride: 4, activation: relu}
    pool: {op: max_pool, size: 2}
    deep: {op: conv, filters: 20, kernel: 2}
    flat: {op: flatten}
    out: {op: dense, units: 10}"""
AUTOENCODER = """\
    flat: {op: flatten}
    code: {op: dense, units: 70, activation: tanh}
    wide: {op: dense, units: 784}
    image: {op: reshape, shape: [28, 28, 1]}"""


def trained(folder: Path, task: str, layers: str) -> tuple[TrainedNetwork, Dataset]:
    (folder / "spec.yaml").write_text(SPEC.format(task=task, layers=layers))
    request = Request(folder / "spec.yaml", results_dir=folder, engine="plain")
    run = run_experiment(request, Silent(Console(quiet=True)))
    network = load_trained(folder / run.record.name / run.record.run_id)
    return network, network.dataset(None, pytest.fail)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedNetwork, Dataset]:
    return trained(tmp_path_factory.mktemp("classify"), "classify", CLASSIFIER)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedNetwork, Dataset]:
    return trained(tmp_path_factory.mktemp("reconstruct"), "reconstruct", AUTOENCODER)


def test_layers_in_numbers(classifier: tuple[TrainedNetwork, Dataset]) -> None:
    network, dataset = classifier
    images = dataset.test.images
    layers, responses = examine(network, images)
    assert responses is None
    activations = network.activations(images)
    assert [layer.name for layer in layers] == ["conv", "pool", "deep", "flat", "out"]
    for layer in layers:
        values = activations[layer.name].astype(np.float64)
        assert layer.shape == values.shape[1:]
        assert layer.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-12)
        assert layer.std == pytest.approx(values.std(), rel=1e-6)
        assert layer.zeros == (values == 0).mean()
        assert (layer.least, layer.most) == (values.min(), values.max())
    assert layers[0].zeros > 0.1  # rectified


@pytest.mark.parametrize("layer", ["conv", "deep", "out"])
def test_units_by_example(classifier: tuple[TrainedNetwork, Dataset], layer: str) -> None:
    network, dataset = classifier
    _, found = examine(network, dataset.test.images, layer)
    assert found is not None
    values = network.activations(dataset.test.images, [layer])[layer]
    units = values.shape[-1]
    flat = values.reshape(len(values), -1, units)
    for unit in range(units):
        largest = flat[..., unit].max(axis=1)
        order = sorted(range(len(largest)), key=lambda n: (-largest[n], n))[:EXAMPLES]
        assert found.images[:, unit].tolist() == order
        np.testing.assert_array_equal(found.values[:, unit], largest[order])
        for example, image in enumerate(order):
            place = tuple(found.places[example, unit])
            assert values[(image, *place, unit)] == largest[image]
    tops = [found.values[0, unit] for unit in found.strongest]
    assert tops == sorted(tops, reverse=True)


def test_predictions_are_softmax_of_the_outputs(
    classifier: tuple[TrainedNetwork, Dataset],
) -> None:
    from scipy.special import softmax

    network, dataset = classifier
    chosen = choose(dataset.test, [7, 3])
    np.testing.assert_array_equal(chosen.images, dataset.test.images[[7, 3]])
    shares = softmax(network.outputs(chosen.images).astype(float), axis=1)
    for found, number, share in zip(
        predictions(network, chosen, [7, 3]), (7, 3), shares, strict=True
    ):
        assert (found.image, found.label) == (number, dataset.test.labels[number])
        assert found.predicted == share.argmax()
        assert found.value == pytest.approx(share.max())


def test_reconstructions_have_a_squared_error(
    autoencoder: tuple[TrainedNetwork, Dataset],
) -> None:
    network, dataset = autoencoder
    chosen = choose(dataset.test, [5])
    (found,) = predictions(network, chosen, [5])
    error = (network.outputs(chosen.images) - chosen.images / 256) ** 2
    assert found.predicted is None
    assert found.value == pytest.approx(error.mean(), rel=1e-6)


@pytest.mark.parametrize("number", [-1, 230])
def test_an_unknown_image_is_refused(
    classifier: tuple[TrainedNetwork, Dataset], number: int
) -> None:
    message = f"^--image: there is no test image {number}; write 0 to 229\\.$"
    with pytest.raises(UsageError, match=message):
        choose(classifier[1].test, [0, number])


def test_no_number_chooses_every_image(classifier: tuple[TrainedNetwork, Dataset]) -> None:
    test: Split = classifier[1].test
    np.testing.assert_array_equal(choose(test, []).images, test.images)


def test_a_diverged_network_can_be_looked_at(classifier: tuple[TrainedNetwork, Dataset]) -> None:
    """NaN shows in every number that it touches, and colours leave it out."""

    class Diverged:
        experiment = classifier[0].experiment

        def activation_chunks(self, _images: Any) -> Any:
            yield {"a": np.asarray([[1.0, np.nan]])}
            yield {"a": np.asarray([[2.0, 0.0]])}

        def predictions(self, images: Any) -> Any:
            return np.full((len(images), 10), np.inf, np.float32)

    network: Any = Diverged()
    ((layer,), _) = examine(network, np.zeros((2, 28, 28, 1), np.uint8))
    assert np.isnan([layer.mean, layer.std, layer.least, layer.most]).all()
    assert layer.zeros == 0.25
    (found,) = predictions(network, choose(classifier[1].test, [1]), [1])
    assert np.isnan(found.value)
    panels = [Panel(kind, np.full((1, 2, 2), np.nan), 1, kind) for kind in ("signed", "values")]
    assert page(panels, "nothing", "png").startswith(b"\x89PNG")


def test_tables_are_what_they_were() -> None:
    layers = (
        LayerStatistics("conv1", (24, 24, 32), 0.0179, 0.04419, 0.626, 0.0, 0.4583),
        LayerStatistics("a_long_name_of_a_dense_layer", (800,), -12.33, 1.406e-5, 0.0, -1.2e9, 1e3),
    )
    rng = np.random.default_rng(0)
    values = -np.sort(-rng.normal(size=(4, 20)), axis=0)
    images = rng.integers(0, 10_000, (4, 20))
    labels = [0] * 10_000
    places = Responses(values, images, rng.integers(0, 28, (4, 20, 2)))
    vectors = Responses(values[:, :3], images[:, :3], np.zeros((4, 3, 0), int))
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(layers_table(layers, "Standard CNN, seed 0: 10,000 test images of mnist"))
    console.print(units_table("conv1", places, labels, 16))
    console.print(units_table("dense1", vectors, labels, 16))
    console.print(predictions_table([Prediction(12, 3, 5, 0.98765), Prediction(9999, 0, 0, 0.5)]))
    console.print(predictions_table([Prediction(12, 3, None, 0.012345)]))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text == approved("inspect.txt", text)


def test_a_mosaic_has_gaps_of_a_pixel() -> None:
    tiles = np.arange(3 * 4).reshape(3, 2, 2)
    n = np.nan
    want = [[0, 1, n, 4, 5], [2, 3, n, 6, 7], [n] * 5, [8, 9, n, n, n], [10, 11, n, n, n]]
    np.testing.assert_array_equal(mosaic(tiles, 2), want)
    np.testing.assert_array_equal(mosaic(tiles[:1], 16), tiles[0])


def test_panels_of_every_layer(classifier: tuple[TrainedNetwork, Dataset]) -> None:
    network, dataset = classifier
    panels = activation_panels(network, dataset.test.images, [4, 9])
    names = ["conv (6x6x5)", "pool (3x3x5)", "deep = flat (2x2x20)", "out (10)"]
    assert [panel.title for panel in panels] == ["image 4", *names, "image 9", *names]
    values = network.activations(dataset.test.images[[9]])
    np.testing.assert_array_equal(panels[5].tiles[0], dataset.test.images[9, ..., 0])
    np.testing.assert_allclose(panels[6].tiles[3], values["conv"][0, ..., 3], atol=1e-6)
    deep = panels[8]  # the numbers of row and column add up to the channel's
    assert deep.rows == ("0", "16")
    assert deep.heads == tuple(map(str, range(16)))
    _, flat = activation_panels(network, dataset.test.images, [9], "flat")  # 80 values, 64 a row
    assert flat.tiles.shape == (1, 2, 64)
    np.testing.assert_allclose(flat.tiles.ravel()[:80], values["flat"][0], atol=1e-6)
    assert np.isnan(flat.tiles.ravel()[80:]).all()
    assert flat.rows == ("0", "64")
    assert [head for head in flat.heads if head] == [str(n) for n in range(0, 64, 8)]
    assert panels[9].heads == tuple(map(str, range(10)))


def test_no_two_panels_of_an_image_show_the_same_values(
    classifier: tuple[TrainedNetwork, Dataset],
) -> None:
    network, dataset = classifier
    drawn = activation_panels(network, dataset.test.images, [4])
    values = [np.sort(panel.tiles[np.isfinite(panel.tiles)]) for panel in drawn]
    for one, other in combinations(values, 2):
        assert not np.array_equal(one, other)


def test_panels_go_side_by_side_where_they_fit() -> None:
    image = Panel("image", np.zeros((1, 20, 20)), 1, "pixels")
    wide = Panel("maps", np.zeros((32, 6, 6)), 16, "values")
    alone = [float(reader.imread(io.BytesIO(page([p], "", "png"))).shape[0]) for p in (image, wide)]
    together = reader.imread(io.BytesIO(page([image, wide], "", "png"))).shape[0]
    assert together < sum(alone)
    assert together == pytest.approx(max(alone), abs=2)


@pytest.mark.parametrize(
    ("kind", "numbers"), [("values", {"0.2", "0.9"}), ("signed", {"-0.9", "0", "0.9"})]
)
def test_a_color_scale_names_its_ends(kind: str, numbers: set[str]) -> None:
    tiles = np.linspace(0.2, 0.9, 9).reshape(1, 3, 3)
    drawn = page([Panel("panel", tiles, 1, kind)], "", "svg").decode()
    texts = {e.text for e in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")}
    assert texts == {"panel", *numbers}


def test_panels_of_a_layer(classifier: tuple[TrainedNetwork, Dataset]) -> None:
    network, dataset = classifier
    images = dataset.test.images
    _, responses = examine(network, images, "conv")
    assert responses is not None
    filters, examples = layer_panels(network, "conv", images, responses, [], 16)
    assert filters.title == "conv: 5 filters of 5x5"
    kernel = network.parameters["conv"]["kernel"]
    np.testing.assert_array_equal(filters.tiles[2], kernel[:, :, 0, 2])
    assert examples.rows == ("0", "1", "2", "3", "4")
    unit, example = 3, 1
    row, column = responses.places[example, unit]
    image = images[responses.images[example, unit], ..., 0]
    patch = image[4 * row : 4 * row + 5, 4 * column : 4 * column + 5]
    np.testing.assert_array_equal(examples.tiles[unit * EXAMPLES + example], patch)
    picture = np.einsum("ij,ij", patch / 256.0, kernel[:, :, 0, unit])
    bias = network.parameters["conv"]["bias"][unit]
    assert max(picture + bias, 0) == pytest.approx(responses.values[example, unit], rel=1e-4)


def test_a_page_without_a_title_has_no_room_for_one() -> None:
    panel = Panel("a panel", np.zeros((1, 20, 20)), 1, "pixels")
    heights = [reader.imread(io.BytesIO(page([panel], title, "png"))).shape[0] for title in "x "]
    assert heights[0] == heights[1]
    bare = reader.imread(io.BytesIO(page([panel], "", "png"))).shape[0]
    assert heights[0] - bare == pytest.approx(0.45 * 110, abs=1)  # inches, dots an inch


def test_many_filters_are_cut_to_a_page(classifier: tuple[TrainedNetwork, Dataset]) -> None:
    network, dataset = classifier
    _, responses = examine(network, dataset.test.images, "deep")
    assert responses is not None
    filters, examples, others = layer_panels(
        network, "deep", dataset.test.images, responses, [], 16
    )
    title = (
        "deep: 20 filters of 2x2, the first 16 of them;"
        " rows: filters, columns: 5 of 5 input channels"
    )
    assert filters.title == title
    kernel = network.parameters["deep"]["kernel"]
    np.testing.assert_array_equal(filters.tiles[5 * 3 + 4], kernel[:, :, 4, 3])
    assert filters.rows == tuple(map(str, range(16)))
    assert filters.heads == tuple(map(str, range(5)))
    units = (*examples.rows, *others.rows)
    assert len(units) == 16
    assert (examples.title, others.title) == ("top activations of deep (16 of 20 units)", "")
    filters, *both = layer_panels(network, "deep", dataset.test.images, responses, [], 20)
    assert filters.title == (
        "deep: 20 filters of 2x2; rows: filters, columns: 5 of 5 input channels"
    )
    assert [panel.title for panel in both] == ["top activations of deep", ""]
    assert both[0].rows + both[1].rows == tuple(map(str, range(20)))
    assert both[0].heads == tuple(str(rank) for rank in range(1, EXAMPLES + 1))
    tall = reader.imread(io.BytesIO(page(both, "", "png"))).shape
    assert tall[0] > reader.imread(io.BytesIO(page([examples, others], "", "png"))).shape[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_drawn_as_they_are(channels: int) -> None:
    tiles = np.full((1, 4, 4, 3), 100.0) if channels == 3 else np.full((1, 4, 4), 100.0)
    tiles[0, 0, 0] = 255.0
    content = page([Panel("", tiles, 1, "pixels")], "", "png")
    levels = np.unique((reader.imread(io.BytesIO(content))[..., :3] * 255).round())
    assert {100.0, 255.0} <= set(levels)


def test_the_same_picture_has_the_same_bytes(classifier: tuple[TrainedNetwork, Dataset]) -> None:
    network, dataset = classifier
    drawn = [
        page(activation_panels(network, dataset.test.images, [1]), "Looked at $1", "svg")
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    texts = [e.text for e in ET.fromstring(drawn[0]).iter("{http://www.w3.org/2000/svg}text")]
    assert {"Looked at $1", "conv (6x6x5)"} <= set(texts)


def test_a_layers_deviation_keeps_its_digits_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    values = (1e5 + rng.normal(0, 0.1, (3, 40, 5))).astype(np.float32)
    sums = _Sums((5,))
    for chunk in values:
        sums.add(chunk)
    exact = values.astype(np.float64)
    found = sums.statistics("layer")
    assert found.mean == pytest.approx(exact.mean(), rel=1e-14)
    assert found.std == pytest.approx(exact.std(), rel=1e-10)
