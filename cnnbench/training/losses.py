"""Per-image losses and metrics, so that means over any number of images are exact."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, assert_never, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import DTypeLike
from numpy.typing import NDArray

from cnnbench.data.scaling import BRIGHTEST, TargetScaling
from cnnbench.layers import Sample
from cnnbench.nn.ops.activation import softplus
from cnnbench.nn.result import Result
from cnnbench.runs.experiment import loss_name, metric_names
from cnnbench.spec.experiment import Experiment, Task
from cnnbench.spec.metrics import (
    BINARY_METRICS,
    SSIM_WINDOW,
    ImageMetricName,
    SplitMetricName,
)

SIGMA = 1.5  # pixels: standard deviation of SSIM's Gaussian window
K1, K2 = 0.01, 0.03
_LEAST_ERROR = 1e-10  # limits the PSNR of a perfect reconstruction: 100 dB for a data range of 1

PerImage = Callable[[jax.Array, jax.Array], jax.Array]

Score = Callable[[Result, jax.Array], jax.Array]
"""Score of each image, (n,), from a result and targets."""


def objective(experiment: Experiment, *, training: bool = True) -> Score:
    """The training objective: the loss, KL divergences of samples, and distances of quantizers.

    Losses other than cross-entropy are means over an image's values, targets or labels, so the
    divergence is divided by their number too. With weight 1, binary cross-entropy then gives the
    negative evidence lower bound (ELBO) for Bernoulli pixels, in nats per value (Kingma & Welling
    2014), and squared error, up to a constant, the negative ELBO for Gaussian pixels of variance
    1/2. Distances from a codebook are means, too, and added as they are (van den Oord et al. 2017,
    equation 3).

    Args:
      experiment: loss, label smoothing, weights, normalization of targets, and layers. With class
        weights, divide the sum over images by `total_weight`.
      training: False for evaluation, without label smoothing and weights: losses stay comparable.
    """
    smoothing = experiment.train.label_smoothing if training else 0.0
    loss = per_image_loss(loss_name(experiment))
    class_weights = class_weights_of(experiment) if training else None
    if smoothing or class_weights:
        loss = partial(weighted_cross_entropy, smoothing=smoothing, class_weights=class_weights)
    if training and (pos_weight := experiment.train.pos_weight):
        assert not isinstance(pos_weight, str), pos_weight
        loss = partial(weighted_binary_cross_entropy, pos_weight=pos_weight)
    if scaling := experiment.dataset.target_scaling:
        loss = _of_normalized(loss, scaling)
    weights = {
        name: op.kl_weight
        for name, op in experiment.model.layers.items()
        if isinstance(op, Sample) and op.kl_weight
    }
    by_value = experiment.task is not Task.CLASSIFY

    def score(result: Result, targets: jax.Array) -> jax.Array:
        values = loss(result.output, targets)
        share = result.output[0].size if by_value else 1
        for name, weight in weights.items():
            values += weight / share * result.divergences[name]
        return sum(result.distances.values(), values)

    return score


def class_weights_of(experiment: Experiment) -> tuple[float, ...] | None:
    """The class weights; None for none. `balanced` must have been replaced by numbers."""
    weights = experiment.train.class_weights
    assert not isinstance(weights, str), weights
    return weights


def total_weight(
    class_weights: tuple[float, ...] | None, labels: jax.Array, dtype: DTypeLike = jnp.float32
) -> jax.Array | int:
    """Divisor of the sum of the losses of images: their number, or the sum of their weights.

    As in PyTorch, where soft labels (of mixed images) have the number of images in any case.

    Args:
      class_weights: weight of each class; None for none.
      labels: labels or other targets of the images, (n, ...).
      dtype: dtype of the sum of weights.
    """
    if class_weights is None:
        return len(labels)
    return jnp.asarray(class_weights, dtype)[labels].sum()


def score_in_mean(experiment: Experiment) -> Score:
    """The training objective per image; the mean over all images given is that of a batch."""
    score, weights = objective(experiment), class_weights_of(experiment)

    def scaled(result: Result, targets: jax.Array) -> jax.Array:
        total = total_weight(weights, targets, result.output.dtype)
        return score(result, targets) * (len(targets) / total)

    return scaled if weights else score


def scores(experiment: Experiment) -> dict[str, Score]:
    """The metrics other than the loss that are means over images, by name."""
    data_range = BRIGHTEST / experiment.dataset.pixel_scale
    return {
        name: partial(per_image_metric, name, data_range=data_range)
        for name in get_args(ImageMetricName)
        if name in metric_names(experiment)
    }


def per_image_loss(name: str) -> PerImage:
    """The function that computes the loss of each image, (n,), from outputs (n, ...) and targets.

    For cross_entropy, outputs are logits and targets are labels (n,). For the others, targets have
    the shape of the outputs, and the loss is the mean over an image's values. huber is PyTorch's
    `HuberLoss` with delta 1, the same as `SmoothL1Loss` with beta 1 (Huber 1964).
    """
    match name:
        case "cross_entropy":
            return _cross_entropy
        case "mse":
            return _image_mean(lambda output, target: (output - target) ** 2)
        case "mae":
            return _image_mean(_absolute_error)
        case "binary_cross_entropy":
            return _image_mean(_binary_cross_entropy)
        case "huber":
            return _image_mean(optax.huber_loss)
        case "binary_cross_entropy_with_logits":
            return _image_mean(_binary_cross_entropy_with_logits)
        case _:
            raise AssertionError(name)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of each image, (n,); its digits are lost neither far from zero nor near certainty.

    Far from zero, the logarithm of a sum and the label's logit would cancel. A certain network's
    sum is one plus small terms, which would be rounded with the one.
    """
    logits -= lax.stop_gradient(logits.max(axis=1, keepdims=True))
    rounded: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    largest = jax.nn.one_hot(logits.argmax(axis=1), logits.shape[1], dtype=bool)
    others = jnp.where(largest, 0, jnp.exp(logits)).sum(axis=1)
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return rounded + lax.stop_gradient(jnp.log1p(others) - own - rounded)


def weighted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    smoothing: float,
    class_weights: tuple[float, ...] | None,
) -> jax.Array:
    """Cross-entropy of each image, (n,), with smoothed targets and class weights.

    Args:
      logits: outputs, (n, classes).
      labels: (n,).
      smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7).
      class_weights: factor of each class; None for equal weights.
    """
    targets = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, smoothing)
    if class_weights:
        targets *= jnp.asarray(class_weights, logits.dtype)
    loss: jax.Array = optax.softmax_cross_entropy(logits, targets)
    return loss


def _absolute_error(output: jax.Array, target: jax.Array) -> jax.Array:
    """Elementwise, with gradient zero where the output is exact, as in PyTorch; JAX's is one."""
    error = output - target
    return error * lax.stop_gradient(jnp.sign(error))


def weighted_binary_cross_entropy(
    logits: jax.Array, targets: jax.Array, *, pos_weight: tuple[float, ...]
) -> jax.Array:
    """Binary cross-entropy of each image, (n,), the mean over its labels.

    As PyTorch's `BCEWithLogitsLoss`, it is not divided by the weights.

    Args:
      logits: outputs, (n, labels).
      targets: shares of the labels, (n, labels).
      pos_weight: factor of the labels that an image has, one per label.
    """
    weights = jnp.asarray(pos_weight, logits.dtype)
    return _image_mean(partial(_binary_cross_entropy_with_logits, pos_weight=weights))(
        logits, targets
    )


def _of_normalized(loss: PerImage, scaling: TargetScaling) -> PerImage:
    """A loss between outputs and normalized targets."""
    return lambda outputs, targets: loss(outputs, scaling.apply(targets))


def _binary_cross_entropy(output: jax.Array, target: jax.Array) -> jax.Array:
    """Elementwise, from probabilities; clipped to stay finite at 0 and 1, as in Keras."""
    output = jnp.clip(output, 1e-7, 1 - 1e-7)
    return -(target * jnp.log(output) + (1 - target) * jnp.log1p(-output))


def _binary_cross_entropy_with_logits(
    logit: jax.Array, target: jax.Array, pos_weight: jax.Array | int = 1
) -> jax.Array:
    """Elementwise; neither overflows nor loses the digits of a certain, correct output."""
    share = target.astype(logit.dtype)
    return pos_weight * share * softplus(-logit) + (1 - share) * softplus(logit)


def _image_mean(value: PerImage) -> PerImage:
    def mean(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        assert outputs.shape == targets.shape, (outputs.shape, targets.shape)
        return value(outputs, targets).reshape(len(outputs), -1).mean(axis=1)

    return mean


def per_image_metric(
    name: ImageMetricName, result: Result, targets: jax.Array, *, data_range: float
) -> jax.Array:
    """Metric of each image, (n,); the mean over images is the metric.

    Args:
      name: the metric.
      result: result of the network for n images.
      targets: labels (n,), or images like the outputs.
      data_range: difference between the largest and smallest possible pixel value, for PSNR and
        SSIM.
    """
    outputs = result.output
    match name:
        case "accuracy":
            return _in_top(outputs, targets, k=1)
        case "top5_accuracy":
            return _in_top(outputs, targets, k=5)
        case "brier_score":
            return _brier_score(outputs, targets)
        case "mse" | "mae":
            return per_image_loss(name)(outputs, targets)
        case "exact_match":
            return 1 - _wrong_labels(outputs, targets).max(axis=1)
        case "hamming_loss":
            return _wrong_labels(outputs, targets).mean(axis=1)
        case "psnr":
            return psnr(outputs, targets, data_range)
        case "ssim":
            return ssim(outputs, targets, data_range)
        case "kl":
            return sum(result.divergences.values(), jnp.zeros(len(targets)))
        case _:
            assert_never(name)


def image_scores(
    task: Task, scores: Mapping[str, jax.Array], result: Result, targets: jax.Array
) -> dict[str, jax.Array]:
    """Loss and metrics of each image as they are stored, by name, (n,); booleans if 0 or 1.

    Classifiers always have their accuracy, whatever metrics are reported.

    Args:
      task: the task.
      scores: loss and metrics of n images, (n,) each.
      result: result of the network for them.
      targets: their targets.
    """
    found = dict(scores)
    if task is Task.CLASSIFY:
        found.setdefault("accuracy", _in_top(result.output, targets, k=1))
    return {n: each.astype(bool) if n in BINARY_METRICS else each for n, each in found.items()}


def _in_top(logits: jax.Array, labels: jax.Array, *, k: int) -> jax.Array:
    """1 if fewer than k classes rank before the label; ties by class number, NaN last."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    classes = jnp.arange(logits.shape[1])
    before = ~((logits < own) | ((logits == own) & (classes >= labels[:, None])))
    return (before.sum(axis=1) < k).astype(jnp.float32)


def _wrong_labels(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """1 for each label that is predicted incorrectly, (n, k); probability 0.5 predicts it."""
    predicted = jnp.where(jnp.isnan(logits), targets == 0, logits >= 0)  # NaN is never correct
    return (predicted != (targets != 0)).astype(jnp.float32)


def _brier_score(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The multi-class Brier score (Brier 1950); NaN if a logit is NaN."""
    wanted = jax.nn.one_hot(labels, logits.shape[1])
    return ((jax.nn.softmax(logits) - wanted) ** 2).sum(axis=1)


def psnr(outputs: jax.Array, targets: jax.Array, data_range: float) -> jax.Array:
    """Peak signal-to-noise ratio in decibels, (n,), from images (n, h, w, c).

    Args:
      outputs: reconstructions.
      targets: originals.
      data_range: difference between the largest and smallest possible pixel value.

    >>> bool(psnr(jnp.full((1, 2, 2, 1), 0.1), jnp.zeros((1, 2, 2, 1)), 1.0).round(3) == 20)
    True
    """
    error = ((outputs - targets) ** 2).reshape(len(outputs), -1).mean(axis=1)
    return 10 * jnp.log10(data_range**2 / jnp.maximum(error, _LEAST_ERROR))


def ssim(outputs: jax.Array, targets: jax.Array, data_range: float) -> jax.Array:
    """Structural similarity, (n,), from images (n, h, w, c); 1 for identical images.

    Wang, Bovik, Sheikh and Simoncelli 2004: Gaussian windows of 11 by 11 pixels inside the image,
    averaged over windows and channels.

    Args:
      outputs: reconstructions.
      targets: originals, at least as large as a window.
      data_range: difference between the largest and smallest possible pixel value.
    """
    nothing = jnp.zeros_like(outputs)
    local = _Local(outputs, targets, nothing, nothing, nothing)
    for axis in (1, 2):
        local = _weighted(local, axis)
    mean_x, mean_y, variance_x, variance_y, covariance = local
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    scale = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (likeness / scale).mean(axis=(1, 2, 3))


class _Local(NamedTuple):
    """Weighted means, variances and covariance around each pixel."""

    mean_x: jax.Array
    mean_y: jax.Array
    variance_x: jax.Array
    variance_y: jax.Array
    covariance: jax.Array


def _weighted(local: _Local, axis: int) -> _Local:
    """Merge the statistics of the parts of a window along an axis.

    E[x^2] - E[x]^2 would cancel catastrophically where an image is bright and uniform.
    """
    count = local.mean_x.shape[axis] - SSIM_WINDOW + 1
    taps = [
        _Local(*(lax.slice_in_dim(values, start, start + count, axis=axis) for values in local))
        for start in range(SSIM_WINDOW)
    ]
    pairs = list(zip(_weights().tolist(), taps, strict=True))
    mean_x = _sum(w * tap.mean_x for w, tap in pairs)
    mean_y = _sum(w * tap.mean_y for w, tap in pairs)
    deviations = [(w, tap, tap.mean_x - mean_x, tap.mean_y - mean_y) for w, tap in pairs]
    return _Local(
        mean_x,
        mean_y,
        _sum(w * (tap.variance_x + x * x) for w, tap, x, _ in deviations),
        _sum(w * (tap.variance_y + y * y) for w, tap, _, y in deviations),
        _sum(w * (tap.covariance + x * y) for w, tap, x, y in deviations),
    )


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    first, *others = terms
    return sum(others, first)


def _weights() -> NDArray[Any]:
    """Gaussian weights of a window along an axis, (SSIM_WINDOW,)."""
    weights = np.exp(-((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) ** 2) / (2 * SIGMA**2))
    return np.asarray(weights / weights.sum())


def split_metric_names(experiment: Experiment) -> tuple[SplitMetricName, ...]:
    """Names of the metrics that are functions of a whole split."""
    asked = metric_names(experiment)
    return tuple(name for name in get_args(SplitMetricName) if name in asked)
