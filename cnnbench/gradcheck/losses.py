"""The cost C of the post and its gradient, in NumPy.

Deliberately duplicates `training.losses` and `nn.noise` (in JAX), as an independent oracle.
"""

from dataclasses import dataclass, field
from typing import assert_never

import numpy as np

from cnnbench.layers.activation import log_softmax, softmax
from cnnbench.layers.noise import unit_divergence
from cnnbench.spec.experiment import Loss
from cnnbench.system.arrays import Array

_CLIP = 1e-7  # as in `training.losses`: keeps the logarithm of a probability finite


def divergence(mean: Array, log_variance: Array) -> Array:
    """Equation (19): KL divergence of Gaussian codes from the standard normal, in nats, (n,).

    >>> divergence(np.array([[0.0, 2.0]]), np.zeros((1, 2))).tolist()
    [2.0]
    """
    each = unit_divergence(mean, log_variance)
    return np.asarray(each.reshape(len(mean), -1).sum(axis=1))


def divergence_gradient(mean: Array, log_variance: Array) -> tuple[Array, Array]:
    """The derivatives of (19): ``mean`` and ``(variance - 1) / 2``."""
    return mean, np.expm1(log_variance) / 2


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Objective:
    """A loss averaged over images.

    Args:
      loss: name of the loss.
      targets: labels (n,) for cross_entropy, otherwise of the shape of the outputs.
      label_smoothing: share of the target spread evenly over all classes, for cross_entropy.
      class_weights: weight of each class, for cross_entropy; None for equal weights.
      pos_weight: weight of the images that have each label, for binary_cross_entropy_with_logits;
        None for 1.
    """

    loss: Loss
    targets: Array
    label_smoothing: float = field(default=0.0, kw_only=True)
    class_weights: tuple[float, ...] | None = field(default=None, kw_only=True)
    pos_weight: tuple[float, ...] | None = field(default=None, kw_only=True)

    def weight(self, kl_weight: float, outputs: Array) -> float:
        """Factor of an image's divergence, given that image losses are means over values."""
        values = 1 if self.loss == "cross_entropy" else outputs[0].size
        return kl_weight / values / len(outputs)

    def value(self, outputs: Array) -> float:
        """The cost C of the outputs (n, ...), without divergences."""
        match self.loss:
            case "cross_entropy" if self.class_weights:
                return float(-np.sum(self._shares(outputs) * log_softmax(outputs)))
            case "cross_entropy":
                logs, share = log_softmax(outputs), self.label_smoothing
                chosen = logs[np.arange(len(outputs)), self.targets]
                if share:
                    chosen = (1 - share) * chosen + share * logs.mean(axis=1)
                return 0.0 - float(np.mean(chosen))  # perfect outputs cost 0.0, not -0.0
            case "mse":
                return float(np.mean((outputs - self.targets) ** 2))
            case "mae":
                return float(np.mean(np.abs(outputs - self.targets)))
            case "binary_cross_entropy":
                p, t = np.clip(outputs, _CLIP, 1 - _CLIP), self.targets
                return float(np.mean(-(t * np.log(p) + (1 - t) * np.log1p(-p))))
            case "huber":
                size = np.abs(outputs - self.targets)
                return float(np.mean(np.where(size <= 1, size**2 / 2, size - 1 / 2)))
            case "binary_cross_entropy_with_logits":
                costs = np.logaddexp(0, self._sign(outputs) * outputs)
                return float(np.mean(self._factors(outputs) * costs))
            case _:
                assert_never(self.loss)

    def gradient(self, outputs: Array) -> Array:
        """The derivative of C with respect to each output: nabla_a C of step 3."""
        match self.loss:
            case "cross_entropy" if self.class_weights:
                shares = self._shares(outputs)
                return np.asarray(shares.sum(axis=1, keepdims=True) * softmax(outputs) - shares)
            case "cross_entropy":
                # Softmax is not elementwise, so its derivative is included here.
                errors = softmax(outputs) - self.label_smoothing / outputs.shape[1]
                errors[np.arange(len(outputs)), self.targets] -= 1 - self.label_smoothing
                return np.asarray(errors / len(outputs))
            case "mse":
                return 2 * (outputs - self.targets) / outputs.size
            case "mae":
                return np.asarray(np.sign(outputs - self.targets) / outputs.size)
            case "binary_cross_entropy":
                p, t = np.clip(outputs, _CLIP, 1 - _CLIP), self.targets
                slope = (1 - t) / (1 - p) - t / p
                return np.asarray((p == outputs) * slope / outputs.size)
            case "huber":
                return np.asarray(np.clip(outputs - self.targets, -1, 1) / outputs.size)
            case "binary_cross_entropy_with_logits":
                # The same as sigmoid(outputs) - targets, without cancellation.
                sign = self._sign(outputs)
                log_share = -np.logaddexp(0, -sign * outputs)
                return np.asarray(self._factors(outputs) * sign * np.exp(log_share) / outputs.size)
            case _:
                assert_never(self.loss)

    def share_of_image(self, outputs: Array) -> Array:
        """Share of the cost of each image's cross-entropy, (n, 1)."""
        if not self.class_weights:
            return np.full((len(outputs), 1), 1 / len(outputs))
        return np.asarray(self._shares(outputs).sum(axis=1, keepdims=True))

    def _shares(self, outputs: Array) -> Array:
        """Share of the cost of each logarithm of a probability, (n, classes)."""
        weights = np.asarray(self.class_weights, outputs.dtype)
        smoothing = outputs.dtype.type(self.label_smoothing)
        shares = np.full_like(outputs, smoothing / outputs.shape[1])
        shares[np.arange(len(outputs)), self.targets] += 1 - smoothing
        return np.asarray(shares * weights / weights[self.targets].sum())

    def _sign(self, outputs: Array) -> Array:
        """1 for labels that an image does not have, else -1, in the dtype of the outputs."""
        return np.asarray(1 - 2 * self.targets.astype(outputs.dtype))

    def _factors(self, outputs: Array) -> Array:
        """Weights of the labels of each image, in the dtype of the outputs; 1 without any."""
        weights = np.asarray(self.pos_weight or 1, outputs.dtype)
        return np.where(self.targets != 0, weights, outputs.dtype.type(1))

    def side(self, outputs: Array) -> Array:
        """Side of the loss's kinks on which each output lies."""
        match self.loss:
            case "cross_entropy" | "mse" | "binary_cross_entropy_with_logits":
                return np.zeros(0)
            case "huber":
                return np.asarray(np.abs(outputs - self.targets) <= 1)
            case "mae":
                return np.asarray(np.sign(outputs - self.targets))
            case "binary_cross_entropy":
                return np.asarray(np.clip(outputs, _CLIP, 1 - _CLIP) == outputs)
            case _:
                assert_never(self.loss)
