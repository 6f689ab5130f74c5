"""Losses and metrics, for each image, so that a mean over any number of images is exact."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from cnnbench.spec import Experiment, Task

PerImage = Callable[[jax.Array, jax.Array], jax.Array]


def per_image_loss(name: str) -> PerImage:
    """Loss of each image, (n,), from outputs (n, ...) and targets.

    Targets are labels (n,) for cross_entropy, from logits, and images like the
    outputs for the others, averaged over an image's values.
    """
    match name:
        case "cross_entropy":
            return _cross_entropy
        case "mse":
            return _image_mean(lambda output, target: (output - target) ** 2)
        case "mae":
            return _image_mean(lambda output, target: jnp.abs(output - target))
        case "binary_cross_entropy":
            return _image_mean(_binary_cross_entropy)
        case _:
            raise AssertionError(name)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    loss: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return loss


def _binary_cross_entropy(output: jax.Array, target: jax.Array) -> jax.Array:
    """Of probabilities; kept finite at 0 and 1 as in Keras."""
    output = jnp.clip(output, 1e-7, 1 - 1e-7)
    return -(target * jnp.log(output) + (1 - target) * jnp.log1p(-output))


def _image_mean(value: PerImage) -> PerImage:
    return lambda outputs, targets: value(outputs, targets).reshape(len(outputs), -1).mean(axis=1)


def per_image_metric(name: str) -> PerImage:
    """A metric for each image, (n,); its mean over the images is the metric."""
    match name:
        case "accuracy":
            return partial(_in_top, k=1)
        case "top5_accuracy":
            return partial(_in_top, k=5)
        case _:
            return per_image_loss(name)


def _in_top(logits: jax.Array, labels: jax.Array, *, k: int) -> jax.Array:
    """1 where fewer than k classes stand before the label's: ties by class number, NaN last."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    classes = jnp.arange(logits.shape[1])
    before = ~((logits < own) | ((logits == own) & (classes >= labels[:, None])))
    return (before.sum(axis=1) < k).astype(jnp.float32)


def loss_name(experiment: Experiment) -> str:
    """The loss that is minimised."""
    default = "cross_entropy" if experiment.task is Task.CLASSIFY else "mse"
    return experiment.train.loss or default


def metric_names(experiment: Experiment) -> tuple[str, ...]:
    """The metrics that are reported beside the loss."""
    default = ("accuracy",) if experiment.task is Task.CLASSIFY else ()
    return default if experiment.train.metrics is None else experiment.train.metrics
