"""The compiled evaluation against scikit-learn.

It works in chunks of 500 images, or fewer large ones, and pads the last one, which must not affect
the result.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import jax
import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from cnnbench.analysis.confusion import confusion
from cnnbench.data.splits import Split
from cnnbench.spec.metrics import ImageMetricName, names_of
from cnnbench.training import executables
from cnnbench.training.evaluation import SplitResults, evaluate
from cnnbench.training.executables import EVAL_BATCH, compile_all, set_up
from cnnbench.training.strategy import Strategy
from tests.support import oracles
from tests.support.oracles import Array
from tests.training.test_trainer import CLASSES, LINEAR, MIRROR, Layers, make_dataset, make_job

Values = Mapping[str, float]
BLURRED: Layers = {**MIRROR, "chance": {"op": "activation", "activation": "sigmoid"}}
NUM_TRAIN, MOST = 20, EVAL_BATCH + 503
SIZES = (1, EVAL_BATCH - 1, EVAL_BATCH, EVAL_BATCH + 1, MOST)


def of_classes(logits: Array, split: Split) -> Values:
    labels, every = split.labels, range(CLASSES)
    counts = confusion(labels, logits)
    np.testing.assert_array_equal(
        counts, metrics.confusion_matrix(labels, logits.argmax(axis=1), labels=every)
    )
    assert counts.trace() / len(labels) == metrics.accuracy_score(labels, logits.argmax(axis=1))
    return {
        "loss": metrics.log_loss(labels, special.softmax(logits, axis=1), labels=every),
        "accuracy": metrics.accuracy_score(labels, logits.argmax(axis=1)),
        "brier_score": metrics.brier_score_loss(
            labels, special.softmax(logits, axis=1), labels=every
        ),
        "top5_accuracy": metrics.top_k_accuracy_score(labels, logits, k=5, labels=every),
        "balanced_accuracy": metrics.recall_score(
            labels, logits.argmax(axis=1), labels=np.unique(labels), average="macro"
        ),
        "macro_f1": metrics.f1_score(labels, logits.argmax(axis=1), average="macro"),
        "ece": oracles.calibration_error(special.softmax(logits, axis=1), labels),
    }


def of_images(outputs: Array, split: Split) -> Values:
    pixels = (split.images / 255).reshape(len(split), -1)
    return {
        "loss": metrics.mean_squared_error(pixels, outputs),
        "mae": metrics.mean_absolute_error(pixels, outputs),
    }


def of_chances(outputs: Array, split: Split) -> Values:
    """A pixel of 0.3 is three parts white and seven parts black."""
    white, chances = (split.images / 255).ravel(), special.expit(outputs).ravel()
    label, share = np.repeat([1, 0], white.size), np.concatenate([white, 1 - white])
    return {"loss": metrics.log_loss(label, np.tile(chances, 2), sample_weight=share)}


CASES: Mapping[str, tuple[Layers, dict[str, Any], Callable[[Array, Split], Values]]] = {
    "classes": (LINEAR, {"metrics": names_of("classify")[:-1]}, of_classes),
    "images": (MIRROR, {"task": "reconstruct", "metrics": ["mae"]}, of_images),
    "chances": (BLURRED, {"task": "reconstruct", "loss": "binary_cross_entropy"}, of_chances),
}


def check_images(got: SplitResults, size: int) -> None:
    """Every metric that is a mean over images is that of its values."""
    binary = {"accuracy", "top5_accuracy", "exact_match"}
    assert set(got.images) == set(got.values) & {"loss", *get_args(ImageMetricName)}
    for name, each in got.images.items():
        assert (len(each), each.dtype.kind) == (size, "b" if name in binary else "f")
        mean = each.mean(dtype=float)
        assert mean == pytest.approx(got.values[name], rel=0 if name in binary else 1e-5)


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_evaluation_matches_scikit_learn_for_any_number_of_images(
    name: str, num_devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, options, oracle = CASES[name]
    nothing: Any = (jax.jit(lambda: 0).lower(), {})
    monkeypatch.setattr(executables, "lower_train", lambda *_: nothing)  # not tested here
    dataset = make_dataset(NUM_TRAIN, MOST, 5)
    job = make_job(layers, dataset, num_devices=num_devices, **options)
    row = 30 if num_devices == 2 else None  # does not divide a chunk
    setup = set_up(job, Strategy("direct" if row else "plain", row, num_devices, 1))
    compiled, state = compile_all(setup, [setup.network(0)])
    weights = oracles.get_params(state.params)["dense"]
    kernel, bias = (np.asarray(weights[key], np.float64) for key in ("kernel", "bias"))
    for size in SIZES:
        split = dataset.validation.first(size)
        outputs = (split.images / 255).reshape(size, -1) @ kernel + bias
        (got,) = evaluate(compiled, state, [np.arange(NUM_TRAIN, NUM_TRAIN + size, dtype=np.int32)])
        want = oracle(outputs, split)
        assert got.values == pytest.approx(want, rel=1e-5), size
        assert all(map(math.isfinite, got.values.values()))
        check_images(got, size)
        if name == "classes":
            hits = outputs.argmax(axis=1) == split.labels
            np.testing.assert_array_equal(got.images["accuracy"], hits)


@pytest.mark.parametrize(
    ("shape", "number"),
    [
        ((28, 28, 1), 500),
        ((32, 32, 3), 500),
        ((96, 96, 3), 500),
        ((128, 128, 3), 500),
        ((224, 224, 3), 167),
        ((256, 256, 3), 128),
        ((4000, 3000, 3), 1),
    ],
)
def test_fewer_large_images_are_evaluated_at_a_time(
    shape: tuple[int, int, int], number: int
) -> None:
    dataset = make_dataset(4, 1, 1)
    job = make_job(LINEAR, replace(dataset, info=replace(dataset.info, shape=shape)))
    assert job.eval_batch == number
    assert job.schedule(0).chunk == number
    assert number in {1, EVAL_BATCH} or number * math.prod(shape) <= 24 * 2**20
