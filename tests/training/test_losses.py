"""Losses against NumPy, accuracies against scikit-learn, PSNR and SSIM against scikit-image."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn import metrics

from cnnbench.data.scaling import BRIGHTEST
from cnnbench.nn.augment import MixedLabels, mixed
from cnnbench.nn.result import Result
from cnnbench.runs.experiment import loss_name, metric_names
from cnnbench.spec.experiment import LOSSES, Experiment
from cnnbench.spec.metrics import METRICS, ImageMetricName
from cnnbench.training.losses import objective, per_image_loss, per_image_metric, psnr, ssim

NUM_IMAGES, NUM_CLASSES = 6, 7


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def measured(name: Any, outputs: Any, targets: Any, data_range: float = 1.0) -> Any:
    return per_image_metric(name, Result(outputs, {}, {}), targets, data_range=data_range)


def numpy_loss(name: str, outputs: Any, targets: Any) -> Any:
    match name:
        case "cross_entropy":
            chances = special.softmax(outputs, axis=1)
            return -np.log(chances[np.arange(len(targets)), targets])
        case "mse":
            return np.mean((outputs - targets) ** 2, axis=(1, 2, 3))
        case "mae":
            return np.mean(np.abs(outputs - targets), axis=(1, 2, 3))
        case "binary_cross_entropy":
            per_pixel = special.xlogy(targets, outputs) + special.xlog1py(1 - targets, -outputs)
            return -np.mean(per_pixel, axis=(1, 2, 3))
        case "huber":
            return np.mean(special.huber(1, outputs - targets), axis=(1, 2, 3))
        case "binary_cross_entropy_with_logits":
            return numpy_loss("binary_cross_entropy", special.expit(outputs), targets)
    raise AssertionError(name)


@pytest.mark.parametrize("name", sorted({n for names in LOSSES.values() for n in names}))
def test_loss_of_each_image(name: str) -> None:
    if name == "cross_entropy":
        outputs = 3 * normal(0, NUM_IMAGES, NUM_CLASSES)
        targets = np.random.default_rng(1).integers(0, NUM_CLASSES, NUM_IMAGES)
    else:
        outputs, targets = special.expit(normal(0, 2, NUM_IMAGES, 4, 3, 2))
    got = per_image_loss(name)(jnp.asarray(outputs), jnp.asarray(targets))
    assert got.shape == (NUM_IMAGES,)
    np.testing.assert_allclose(got, numpy_loss(name, outputs, targets), rtol=1e-5)


def test_cross_entropy_of_large_logits_is_finite() -> None:
    logits = jnp.array([[1e4, 0.0], [1e4, 0.0]])
    loss = per_image_loss("cross_entropy")(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(loss, [0, 1e4])


@pytest.mark.parametrize("offset", [0, 100, -1e4, 1e6])
def test_cross_entropy_keeps_its_digits_where_logits_are_far_from_zero(offset: float) -> None:
    """The logarithm of a sum minus a logit loses those that they have in common."""
    logits = (offset + normal(3, 200, NUM_CLASSES)).astype(np.float32)
    labels = np.arange(200) % NUM_CLASSES
    exact = -special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(200), labels]
    found = per_image_loss("cross_entropy")(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lead", [12, 15])
def test_cross_entropy_keeps_its_digits_where_the_network_is_certain(lead: float) -> None:
    logits = np.array([[lead] + [0] * 9], np.float32)
    found = per_image_loss("cross_entropy")(jnp.asarray(logits), jnp.zeros(1, int))
    np.testing.assert_allclose(found, np.log1p(9 * np.exp(-lead)), rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("logit", [-3, 3, 10, 15])
def test_the_gradient_of_a_certain_label_keeps_its_digits(logit: float) -> None:
    """Sigmoid minus target; as exp(x - softplus(x)), it lost one of them."""
    logits = (logit + normal(0, 1, 4, 5, 20)).astype(np.float32)
    targets = (normal(1, 1, 4, 5, 20) > 0).astype(np.float32)
    loss = per_image_loss("binary_cross_entropy_with_logits")
    found = jax.grad(lambda x: loss(x, jnp.asarray(targets)).sum())(jnp.asarray(logits))
    exact = (special.expit(logits.astype(np.float64)) - targets) / (4 * 5 * 20)
    np.testing.assert_allclose(found, exact, rtol=0, atol=4e-7 / (4 * 5 * 20))


def test_the_gradient_of_an_absolute_error_is_zero_for_exact_outputs() -> None:
    """As in PyTorch; the blank background of a first step is exact."""
    outputs, targets = jnp.array([[0.0, 1.0, 2.0]]), jnp.array([[0.0, 2.0, 1.0]])
    gradient = jax.grad(lambda x: per_image_loss("mae")(x, targets).sum())(outputs)
    np.testing.assert_allclose(gradient, [[0, -1 / 3, 1 / 3]])


@pytest.mark.parametrize("weights", [None, tuple(np.linspace(0.5, 3, NUM_CLASSES).tolist())])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.75])
def test_smoothing_and_class_weights_are_pytorchs_in_training_only(
    share: float, weights: tuple[float, ...] | None
) -> None:
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    logits = 3 * normal(0, NUM_IMAGES, NUM_CLASSES)
    labels = np.random.default_rng(1).integers(0, NUM_CLASSES, NUM_IMAGES)
    layers = {"out": {"op": "dense", "units": NUM_CLASSES}}
    experiment = Experiment.model_validate(
        {
            "name": "idea",
            "task": "classify",
            "dataset": {"name": "mnist"},
            "model": {"layers": layers},
            "train": {"label_smoothing": share, "class_weights": weights},
        }
    )
    result = Result(jnp.asarray(logits), {}, {})
    for training, smoothing, factors in ((True, share, weights), (False, 0.0, None)):
        weight = None if factors is None else torch.tensor(factors, dtype=torch.float64)
        theirs = torch.nn.CrossEntropyLoss(weight, label_smoothing=smoothing, reduction="none")
        want = theirs(torch.tensor(logits), torch.tensor(labels)).numpy()
        score = objective(experiment, training=training)
        np.testing.assert_allclose(score(result, jnp.asarray(labels)), want, rtol=1e-5)
        soft = (
            0.25 * np.eye(NUM_CLASSES)[labels]
            + 0.75 * np.eye(NUM_CLASSES)[(labels + 1) % NUM_CLASSES]
        )
        share_of_own = jnp.full(NUM_IMAGES, 0.25)
        others = (labels + 1) % NUM_CLASSES
        targets = MixedLabels(jnp.asarray(labels), jnp.asarray(others), share_of_own)
        want = theirs(torch.tensor(logits), torch.tensor(soft)).numpy()
        np.testing.assert_allclose(mixed(score, result, targets), want, rtol=1e-5)


def test_binary_cross_entropy_is_finite_where_a_probability_is_zero_or_one() -> None:
    outputs = jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(4, 1, 1, 1)
    targets = jnp.array([0.0, 1.0, 0.0, 1.0]).reshape(4, 1, 1, 1)
    loss = per_image_loss("binary_cross_entropy")(outputs, targets)
    np.testing.assert_allclose(loss[jnp.array([0, 3])], 0, atol=1e-6)
    np.testing.assert_allclose(loss[jnp.array([1, 2])], -np.log(1e-7), rtol=0.02)


scores = hnp.arrays(
    np.float32,
    st.tuples(st.just(NUM_IMAGES), st.just(NUM_CLASSES)),
    elements=st.integers(-3, 3).map(float),  # few distinct values, for many ties
)
classes = hnp.arrays(np.int32, NUM_IMAGES, elements=st.integers(0, NUM_CLASSES - 1))


@settings(max_examples=30)
@given(logits=scores, labels=classes)
def test_accuracy_matches_scikit_learn_with_ties(logits: Any, labels: Any) -> None:
    got = measured("accuracy", jnp.asarray(logits), jnp.asarray(labels))
    assert got.shape == (NUM_IMAGES,)
    want = metrics.accuracy_score(labels, logits.argmax(axis=1))
    assert float(got.mean()) == pytest.approx(want)


@settings(max_examples=30)
@given(logits=scores, labels=classes)
def test_top5_accuracy_matches_scikit_learn_with_ties(logits: Any, labels: Any) -> None:
    """scikit-learn ranks the last of ties first, so its classes are reversed."""
    got = measured("top5_accuracy", jnp.asarray(logits), jnp.asarray(labels))
    want = metrics.top_k_accuracy_score(
        NUM_CLASSES - 1 - labels, logits[:, ::-1], k=5, labels=range(NUM_CLASSES)
    )
    assert float(got.mean()) == pytest.approx(want)


@settings(max_examples=30)
@given(logits=scores, labels=classes)
def test_brier_score_matches_scikit_learn(logits: Any, labels: Any) -> None:
    got = measured("brier_score", jnp.asarray(logits), jnp.asarray(labels))
    assert got.shape == (NUM_IMAGES,)
    want = metrics.brier_score_loss(
        labels, special.softmax(logits.astype(float), axis=1), labels=range(NUM_CLASSES)
    )
    assert float(got.mean()) == pytest.approx(want, rel=1e-5, abs=1e-7)


def test_brier_score_is_zero_if_certain_and_right_and_two_if_certain_and_wrong() -> None:
    got = measured("brier_score", 1e4 * jnp.eye(2), jnp.array([0, 0]))
    np.testing.assert_array_equal(got, [0, 2])


def test_nan_logits_are_never_correct() -> None:
    """Comparisons with NaN are false; it must not count as the largest logit."""
    logits = jnp.full((3, NUM_CLASSES), jnp.nan)
    labels = jnp.array([0, 3, 6])
    for name in ("accuracy", "top5_accuracy"):
        np.testing.assert_array_equal(measured(name, logits, labels), np.zeros(3))
    assert jnp.isnan(measured("brier_score", logits, labels)).all()


def test_top5_accuracy_of_few_classes_is_one() -> None:
    logits = jnp.asarray(normal(0, 4, 3))
    got = measured("top5_accuracy", logits, jnp.array([0, 1, 2, 2]))
    np.testing.assert_array_equal(got, np.ones(4))


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_metrics_of_reconstructions_are_the_losses_of_that_name(name: str) -> None:
    outputs, targets = normal(0, 2, NUM_IMAGES, 4, 3, 1)
    got = measured(name, jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(got, numpy_loss(name, outputs, targets), rtol=1e-5)


@pytest.mark.parametrize("name", get_args(ImageMetricName))
def test_better_directions_in_the_table_are_right(name: ImageMetricName) -> None:
    labels = jnp.arange(NUM_CLASSES)
    images = jnp.asarray(special.expit(normal(0, NUM_CLASSES, 12, 12, 1)))
    zeros, ones = jnp.zeros(NUM_CLASSES), jnp.ones(NUM_CLASSES)
    if "classify" in METRICS[name].tasks:
        targets, good, bad = labels, 9 * jnp.eye(NUM_CLASSES), -9 * jnp.eye(NUM_CLASSES)
    elif METRICS[name].tasks == ("multilabel",):
        targets = jnp.eye(NUM_CLASSES, dtype=int)
        good, bad = 9.0 * (2 * targets - 1), -9.0 * (2 * targets - 1)
    else:
        targets, good, bad = images, images, images[::-1, ::-1]
    values = [
        per_image_metric(name, Result(output, {"code": nats}, {}), targets, data_range=1.0)
        for output, nats in ((good, zeros), (bad, ones))
    ]
    assert [value.shape for value in values] == [(NUM_CLASSES,)] * 2
    best, worst = (float(value.mean()) for value in values)
    assert best > worst if METRICS[name].higher_is_better else best < worst
    assert not METRICS[name].is_fraction or 0 <= min(best, worst) < max(best, worst) <= 1


def experiment(task: str, **train: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "test",
            "task": task,
            "dataset": {"name": "mnist"},
            "model": {"python": "package.module:Class"},
            "train": train,
        }
    )


@pytest.mark.parametrize(
    ("task", "train", "loss", "names"),
    [
        ("classify", {}, "cross_entropy", ("accuracy",)),
        ("reconstruct", {}, "mse", ()),
        ("reconstruct", {"loss": "mae", "metrics": ["mse"]}, "mae", ("mse",)),
        ("classify", {"metrics": []}, "cross_entropy", ()),
        ("regress", {}, "mse", ("r2", "mae")),
        (
            "multilabel",
            {},
            "binary_cross_entropy_with_logits",
            ("mean_average_precision", "macro_f1"),
        ),
        ("classify", {"metrics": ["top5_accuracy"]}, "cross_entropy", ("top5_accuracy",)),
    ],
)
def test_default_loss_and_metrics_of_each_task(
    task: str, train: dict[str, Any], loss: str, names: tuple[str, ...]
) -> None:
    wanted = experiment(task, **train)
    assert loss_name(wanted) == loss
    assert metric_names(wanted) == names


SIZES = [(28, 28, 1), (11, 15, 1), (32, 32, 3)]


def pair(size: tuple[int, ...], scale: float) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    one = rng.integers(0, BRIGHTEST + 1, (4, *size)).astype(np.float64)
    other = np.clip(
        one + rng.normal(0, [[[[5]]], [[[20]]], [[[60]]], [[[200]]]], one.shape), 0, 255
    )
    return one / scale, other / scale


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_psnr_and_ssim_match_scikit_image(size: tuple[int, ...], scale: float) -> None:
    targets, outputs = pair(size, scale)
    data_range = BRIGHTEST / scale
    expected = [
        structural_similarity(
            x,
            y,
            data_range=data_range,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in zip(targets, outputs, strict=True)
    ]
    got = ssim(jnp.asarray(outputs), jnp.asarray(targets), data_range)
    np.testing.assert_allclose(got, expected, atol=3e-6)  # float32
    ratios = [
        peak_signal_noise_ratio(x, y, data_range=data_range)
        for x, y in zip(targets, outputs, strict=True)
    ]
    got = psnr(jnp.asarray(outputs), jnp.asarray(targets), data_range)
    np.testing.assert_allclose(got, ratios, rtol=1e-5)


@pytest.mark.parametrize("contrast", [1e-1, 1e-2, 1e-3])
def test_ssim_of_bright_uniform_images_does_not_cancel(contrast: float) -> None:
    rng = np.random.default_rng(2)
    x, y = (0.95 + contrast * rng.standard_normal((2, 28, 28))).astype(np.float32)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    want = structural_similarity(
        x.astype(np.float64), y.astype(np.float64), data_range=1.0, **options
    )
    got = ssim(jnp.asarray(x)[None, ..., None], jnp.asarray(y)[None, ..., None], 1.0)
    np.testing.assert_allclose(got, [want], rtol=2e-6)


def test_ssim_with_itself_is_maximal() -> None:
    image = jnp.asarray(pair((28, 28, 1), 256.0)[0])
    np.testing.assert_allclose(ssim(image, image, 1.0), 1.0, atol=1e-5)
    np.testing.assert_allclose(psnr(image, image, 1.0), 100.0)


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_metrics_know_the_range_of_the_pixels(name: str) -> None:
    targets, outputs = pair((28, 28, 1), 1.0)
    one = measured(name, jnp.asarray(outputs), jnp.asarray(targets), 255.0)
    other = measured(name, jnp.asarray(outputs / 255), jnp.asarray(targets / 255), 1.0)
    np.testing.assert_allclose(one, other, rtol=2e-4)
