"""Mistakes and kernels of a classifier, against scikit-learn and by hand; small pictures."""

import io
from collections.abc import Mapping
from statistics import mode
from typing import Any

import numpy as np
import pytest
from matplotlib import image as reader
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, log_loss

from cnnbench.analysis.confusion import calibrations, confusion, first_kernels, hardest
from cnnbench.report.plots.png import Picture, kernel_sheet, photograph, read_png
from tests.support.oracles import make_plan

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 7, 200).astype(np.int32)
LOGITS = (RNG.normal(0, 2, (200, 7)) + 2 * np.eye(7)[LABELS]).astype(np.float32)
IMAGES = RNG.integers(0, 256, (200, 4, 4, 1)).astype(np.uint8)


def pixels(picture: Picture) -> np.ndarray:
    return (reader.imread(io.BytesIO(picture.png)) * 255).round().astype(int)


def test_confusion_is_that_of_scikit_learn() -> None:
    oracle = confusion_matrix(LABELS, LOGITS.argmax(axis=1), labels=range(7))
    assert (confusion(LABELS, LOGITS) == oracle).all()


def test_classes_that_never_come_have_their_line() -> None:
    counts = confusion(np.array([2, 2], np.int32), np.eye(5, dtype=np.float32)[[2, 0]])
    assert counts.shape == (5, 5)
    assert counts[2].tolist() == [1, 0, 1, 0, 0]
    assert counts.sum() == 2


def test_confusion_adds_up_seeds() -> None:
    other = RNG.normal(0, 2, (200, 7))
    total = confusion(LABELS, np.stack([LOGITS, other]))
    each = np.stack([confusion(LABELS, LOGITS), confusion(LABELS, other)])
    assert (total == each.sum(axis=0)).all()


def test_calibration_is_that_of_each_seed() -> None:
    seeds = np.stack([LOGITS, 0.1 * LOGITS])
    for bins, logits in zip(calibrations(LABELS, seeds), seeds, strict=True):
        chances = softmax(logits.astype(np.float64), axis=-1)
        right, confidence = chances.argmax(axis=1) == LABELS, chances.max(axis=1)
        edges = np.arange(16) / 15
        assert (bins.images == np.histogram(confidence, edges)[0]).all()
        assert (bins.correct == np.histogram(confidence[right], edges)[0]).all()
        np.testing.assert_allclose(
            bins.confidence, np.histogram(confidence, edges, weights=confidence)[0]
        )


def test_the_hardest_are_wrong_and_have_the_largest_losses() -> None:
    seeds = np.stack([LOGITS, LOGITS + RNG.normal(0, 1, LOGITS.shape), LOGITS])
    found = hardest(IMAGES, LABELS, seeds, 10)
    shares = softmax(seeds.astype(np.float64), axis=-1)
    losses = np.array(
        [
            np.mean([log_loss([k], [p], labels=range(7)) for p in shares[:, i]])
            for i, k in enumerate(LABELS)
        ]
    )
    missed = seeds.argmax(axis=-1) != LABELS
    wrong = np.flatnonzero(missed.any(axis=0))
    expected = wrong[np.argsort(-losses[wrong])][:10]
    assert [mistake.number for mistake in found] == list(expected)
    for mistake in found:
        i = mistake.number
        assert (mistake.image == IMAGES[i]).all()
        assert (mistake.label, mistake.seeds) == (LABELS[i], 3)
        assert mistake.wrong == missed[:, i].sum()
        answers = [int(a) for a in seeds[:, i].argmax(axis=-1) if a != LABELS[i]]
        assert mistake.answer == mode(sorted(answers))
        assert mistake.loss == pytest.approx(losses[i])
        assert mistake.probability == pytest.approx(shares[:, i, mistake.answer].mean())


def test_who_makes_no_mistake_has_no_hardest() -> None:
    assert hardest(IMAGES, LABELS, 9 * np.eye(7, dtype=np.float32)[LABELS][None], 10) == ()


def test_the_kernels_of_every_layer_that_reads_the_image() -> None:
    layers: Mapping[str, Mapping[str, Any]] = {
        "near": {"op": "conv", "filters": 2, "kernel": 3},
        "after": {"op": "conv", "filters": 2, "kernel": 3},
        "flat": {"op": "flatten"},
        "drop": {"op": "dropout", "rate": 0.5, "inputs": "input"},
        "bare": {"op": "flatten"},
        "side": {"op": "dense", "units": 5},
        "join": {"op": "concat", "inputs": ["flat", "side"]},
        "out": {"op": "dense", "units": 10},
    }
    plan = make_plan(layers, (6, 6, 1), (10,))
    near, side = RNG.normal(size=(3, 3, 1, 2)), RNG.normal(size=(36, 5))
    parameters = {"near": {"kernel": near}, "side": {"kernel": side}}
    first, second = first_kernels(plan, parameters, 4)
    assert (first.layer, first.total, first.images.shape) == ("near", 2, (2, 3, 3, 1))
    assert (first.images[1] == near[..., 1]).all()
    assert (second.layer, second.total, second.images.shape) == ("side", 5, (4, 6, 6, 1))
    assert (second.images[3].ravel() == side[:, 3]).all()


def test_weights_are_blue_below_zero_white_at_it_and_red_above() -> None:
    kernels = np.zeros((10, 10, 10, 1))
    kernels[0, 0, 0], kernels[0, 0, 1], kernels[1] = -0.5, 0.25, 0.5
    picture, largest = kernel_sheet(kernels)
    seen = pixels(picture)
    assert largest == 0.5
    assert (picture.width, picture.height) == (8 * 40 + 7 * 4, 2 * 40 + 4)
    assert tuple(seen[0, 0]) == (33, 102, 172, 255)
    assert tuple(seen[3, 3]) == (33, 102, 172, 255)
    assert tuple(seen[0, 4]) == (212, 136, 145, 255)  # half of the way from white to red
    assert tuple(seen[20, 20]) == (247, 247, 247, 255)
    assert tuple(seen[20, 46]) == (178, 24, 43, 255)
    assert seen[20, 41, 3] == 0  # between two kernels
    assert seen[60, 300, 3] == 0  # nothing there


def test_kernels_of_three_channels_are_colours() -> None:
    kernels = np.zeros((1, 20, 20, 3))
    kernels[0, 0, 0] = (1, 0, -1)
    seen = pixels(kernel_sheet(kernels)[0])
    assert tuple(seen[0, 0]) == (255, 128, 0, 255)


def test_kernels_of_other_numbers_of_channels_are_summed_up() -> None:
    two = RNG.normal(size=(3, 5, 5, 2))
    assert kernel_sheet(two)[0] == kernel_sheet(two.sum(axis=-1, keepdims=True))[0]


def test_kernels_that_are_zero_are_white() -> None:
    picture, largest = kernel_sheet(np.zeros((1, 5, 5, 1)))
    assert largest == 1
    assert (pixels(picture)[..., :3] == 247).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_kept_pixel_by_pixel(channels: int) -> None:
    image = RNG.integers(0, 256, (5, 7, channels)).astype(np.uint8)
    picture = photograph(image)
    assert (picture.width, picture.height) == (7, 5)
    assert read_png(picture.png) == picture
    seen = pixels(picture)
    assert (seen.reshape(5, 7, -1)[..., :channels] == image).all()
    assert picture.uri.startswith("data:image/png;base64,iVBOR")
