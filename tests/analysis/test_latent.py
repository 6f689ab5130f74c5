"""What an autoencoder's code can do, on two networks that were trained for a moment."""

import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from cnnbench.analysis.latent import (
    SAMPLES,
    SIDE,
    STEPS,
    codes,
    decode,
    denoise,
    from_prior,
    plane,
    walk,
)
from cnnbench.analysis.trained_network import TrainedNetwork, load_trained
from cnnbench.cli.app import app
from cnnbench.cli.progress import Silent
from cnnbench.data.dataset import Dataset
from cnnbench.errors import CnnbenchError
from cnnbench.graph.autoencoder import decoder, decoder_input, input_noise_layers
from cnnbench.report.plots.image_grid import Plane, latent_panels
from cnnbench.runner.run import Request, run_experiment
from cnnbench.runs.folder import read_run
from cnnbench.spec.loader import load_experiment
from tests.support.paths import EXPERIMENTS

FEW = (
    "dataset={name: mnist_5k, offline: null, splits: {train: 200, validation: 20, test: 60}}",
    "train.epochs=1",
    "train.batch_size=50",
)
NAMES = ("vae_2d", "denoising")


def train(name: str, folder: Path, overrides: tuple[str, ...]) -> None:
    request = Request(EXPERIMENTS / f"{name}.yaml", overrides, folder, engine="direct")
    run_experiment(request, Silent(Console(quiet=True)))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("results")
    paths = {}
    for name in NAMES:
        train(name, folder, FEW)
        (paths[name],) = (folder / name).iterdir()
    return paths


@pytest.fixture(scope="module")
def networks(results: Mapping[str, Path]) -> Mapping[str, TrainedNetwork]:
    return {name: load_trained(path) for name, path in results.items()}


def data_of(network: TrainedNetwork) -> Dataset:
    return network.dataset(None, lambda _: None)


@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_is_the_rest_of_the_network(
    networks: Mapping[str, TrainedNetwork], name: str
) -> None:
    """What is decoded from an image's code is its reconstruction."""
    network = networks[name]
    images = data_of(network).test.images[:7]
    decoded = decode(network, codes(network, images))
    assert decoded is not None
    whole = network.outputs(images) * network.experiment.dataset.pixel_scale
    np.testing.assert_allclose(decoded, whole, atol=1e-3)


def test_a_walk_goes_straight_from_one_code_to_the_other(
    networks: Mapping[str, TrainedNetwork],
) -> None:
    network = networks["vae_2d"]
    ends = data_of(network).test.images[[3, 9]]
    steps = walk(network, ends)
    assert steps is not None
    assert steps.shape == (STEPS, 28, 28, 1)
    one, other = codes(network, ends)
    third = decode(network, (2 / 3 * one + 1 / 3 * other)[None])
    assert third is not None
    np.testing.assert_allclose(steps[3], third[0], atol=1e-3)


def test_samples_and_plane_need_a_prior(networks: Mapping[str, TrainedNetwork]) -> None:
    drawn, spread = from_prior(networks["vae_2d"]), plane(networks["vae_2d"], 3.0)
    assert drawn is not None
    assert drawn.shape == (SAMPLES, 28, 28, 1)
    assert spread is not None
    assert spread.shape == (SIDE**2, 28, 28, 1)
    middle = decode(networks["vae_2d"], np.zeros((1, 2)))
    assert middle is not None
    np.testing.assert_allclose(spread[SIDE**2 // 2], middle[0], atol=1e-3)
    step = 6.0 / SIDE  # an image has a cell of the square, its code is the cell's center
    corner = decode(networks["vae_2d"], np.array([[-3 + step / 2, 3 - step / 2]]))
    assert corner is not None
    np.testing.assert_allclose(spread[0], corner[0], atol=1e-3)
    assert from_prior(networks["denoising"]) is None
    assert plane(networks["denoising"], 3.0) is None


def test_images_are_disturbed_as_in_training(networks: Mapping[str, TrainedNetwork]) -> None:
    network = networks["denoising"]
    images = data_of(network).test.images
    found = denoise(network, images)
    assert found is not None
    zeros = found.noisy == 0
    assert abs(zeros.mean() - 0.25) < 0.01
    noise = (found.noisy - images)[~zeros] / 256
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 0.3) < 0.01
    assert found.outputs.shape == images.shape
    assert denoise(networks["vae_2d"], images) is None


def test_a_bottleneck_is_what_all_of_the_result_goes_through() -> None:
    plans = {n: load_experiment(EXPERIMENTS / f"{n}.yaml").plan for n in ("modified", *NAMES)}
    modified, vae, denoising = (plans[name] for name in ("modified", *NAMES))
    assert modified is not None
    assert vae is not None
    assert denoising is not None
    assert decoder(modified, "conv2") is None  # the branch goes around it
    assert [node.name for node in decoder(modified, "dense2") or ()] == []
    assert decoder(vae, "mean") is None  # the deviation is needed too
    assert (decoder_input(vae), decoder_input(denoising)) == ("sample", "code")
    assert [node.name for node in input_noise_layers(denoising)] == ["noise", "mask"]
    assert input_noise_layers(vae) == ()


def test_a_run_keeps_what_its_code_is_worth(results: Mapping[str, Path]) -> None:
    for name, code in zip(NAMES, ("mean", "code"), strict=True):
        summary = read_run(results[name]).summary
        assert summary is not None
        assert summary.code == code
        assert 0.15 < (summary.seeds[0].code_accuracy or 0) <= 1  # chance is 0.1


def test_panels_say_what_they_show(networks: Mapping[str, TrainedNetwork]) -> None:
    test = data_of(networks["vae_2d"]).test
    titles = [panel.title for panel in latent_panels(networks["vae_2d"], test, (0, 1))]
    assert titles == [
        "test images and their reconstructions",
        f"latent interpolation from test image 0 ({test.labels[0]}) to test image 1"
        f" ({test.labels[1]})",
        "50 samples from the prior",
        "latent space: decoded grid, and codes of 60 test images by class",
    ]
    titles = [panel.title for panel in latent_panels(networks["denoising"], test, (0, 1))]
    assert titles[1] == "corrupted as in training"


def test_both_planes_have_the_same_axes(networks: Mapping[str, TrainedNetwork]) -> None:
    from matplotlib.figure import Figure

    test = data_of(networks["vae_2d"]).test
    *_, both = latent_panels(networks["vae_2d"], test, (0, 1))
    assert isinstance(both, Plane)
    assert both.reach >= max(3, np.abs(both.places).max())
    figure = Figure(figsize=(8, 4))
    both.draw(figure, 0.45, 3.8, 1.0)
    decoded, points = figure.axes
    ends = (-both.reach, both.reach)
    for axes in (decoded, points):
        assert (axes.get_xlim(), axes.get_ylim(), axes.get_aspect()) == (ends, ends, 1.0)
        assert axes.get_xlabel() == "latent dimension 1"
    assert tuple(decoded.get_images()[0].get_extent()) == (*ends, *ends)
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in points.collections])
    assert len(drawn) == len(test)


def test_the_command_says_it_and_draws_it(results: Mapping[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "latent.png"
    words = ["latent", str(results["vae_2d"]), "-o", str(file), "--walk", "5", "6"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    number = r"-?\d+(\.\d+)?"
    lines = [
        r"Variational autoencoder, 2-D code, seed 0, 60 test images",
        r"Code: layer mean, shape 2, from 784 pixels",
        rf"Values: mean {number}, standard deviation {number}",
        rf"Linear probe: {number}% test accuracy",
        rf"KL divergence from the prior: {number} nats; \d of 2 units active",
    ]
    for line, pattern in zip(done.stdout.splitlines(), lines, strict=True):
        assert re.fullmatch(pattern, line), line
    assert Image.open(io.BytesIO(file.read_bytes())).size[0] == 880


def test_the_command_measures_denoising_as_scikit_image_does(
    results: Mapping[str, Path], networks: Mapping[str, TrainedNetwork]
) -> None:
    done = CliRunner().invoke(app, ["latent", str(results["denoising"])])
    images = data_of(networks["denoising"]).test.images
    found = denoise(networks["denoising"], images)
    assert found is not None
    before, after = (
        np.mean(
            [
                peak_signal_noise_ratio(image.astype(float), made, data_range=255)
                for image, made in zip(images, np.clip(values, 0, 255), strict=True)
            ]
        )
        for values in found
    )
    assert f"Denoising: PSNR {before:.1f} dB before, {after:.1f} dB after\n" in done.stdout


def test_what_cannot_be_looked_at_is_told(results: Mapping[str, Path]) -> None:
    words = ["latent", str(results["vae_2d"]), "--walk", "0", "60"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    message = "--walk: there is no test image 60; write two numbers from 0 to 59.\n"
    assert done.stderr == message
    folder = results["vae_2d"].parent.parent
    overrides = (*FEW[:1], "train.epochs=1", "train.batch_size=200")
    train("mlp", folder, overrides)
    done = CliRunner().invoke(app, ["latent", "mlp", "--results-dir", str(folder)])
    assert done.exit_code == 2
    message = ": a network with task: classify has no latent code; name an autoencoder.\n"
    assert done.stderr.endswith(message)
    assert not isinstance(done.exception, CnnbenchError)
