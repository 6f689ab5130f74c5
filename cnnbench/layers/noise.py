"""Layers that draw at random: dropout, noise, and a variational autoencoder's sample."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from cnnbench.layers.base import Layer, LayerOutput, Owner, Rule, Shape, ShapeError, Site, identity
from cnnbench.layers.fields import Fraction, NonNegative, Positive
from cnnbench.layers.merge import same_shape
from cnnbench.system.arrays import Array


class Noise(Layer):
    """What layers share that are random in training and keep the shape."""

    elementwise = training_only = True

    @property
    def draws(self) -> bool:
        """Always, unless a rate is zero."""
        return getattr(self, "rate", 1) > 0

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The shape that it reads."""
        return LayerOutput(shapes[0])


class Dropout(Noise):
    """Zeroes values at random in training and divides the rest by 1 - rate."""

    op: Literal["dropout"]
    rate: Fraction = Field(description="the share of values that are zeroed")

    aliases = ("DropoutLayer",)
    main_options = ("rate",)
    masks = True

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return dropout_rule(drawn, 1 / (1 - self.rate))


class GaussianNoise(Noise):
    """Adds normal noise in training."""

    op: Literal["gaussian_noise"]
    stddev: Positive = Field(description="standard deviation, where 1 is the brightest pixel")

    aliases = ("GaussianNoise", "noise")
    main_options = ("stddev",)
    corrupts = True

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return gaussian_noise_rule(drawn, self.stddev)


class MaskingNoise(Noise):
    """Zeroes values at random in training and keeps the others (Vincent et al. 2010)."""

    op: Literal["masking_noise"]
    rate: Fraction = Field(description="the share of values that are zeroed")

    main_options = ("rate",)
    corrupts = masks = keeps_range = True

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return dropout_rule(drawn, 1.0)


class Sample(Layer):
    """A normal sample where the loss is computed, else the mean (Kingma & Welling 2014).

    It reads two layers of one shape: the mean and the logarithm of the variance. Its
    divergence from the standard normal distribution is part of the loss.
    """

    op: Literal["sample"]
    kl_weight: NonNegative = Field(
        1.0, description="weight of the divergence in the loss; 1 for the evidence lower bound"
    )

    aliases = ("sampling", "reparameterize", "reparametrize")
    main_options = ("kl_weight",)

    @property
    def draws(self) -> bool:
        """Always."""
        return True

    def check_inputs(self, num_inputs: int) -> None:
        """Mean and logarithm of the variance."""
        if num_inputs != 2:
            number = "one layer" if num_inputs == 1 else f"{num_inputs} layers"
            message = f"sample reads {number}, and needs two"
            raise ShapeError("inputs", message, "write inputs: [MEAN, LOG_VARIANCE]")

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The shape that both have."""
        return LayerOutput(same_shape(self.op, shapes))

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (18)."""
        return sample_rule(drawn)


def dropout_rule(kept: Array | None, gain: float) -> Rule:
    """Equation (14): what was dropped takes no error, and the rest as much more as it gave.

    Args:
      kept: whether each value was; None for all.
      gain: what the kept ones are multiplied by; masking noise has none.
    """
    if kept is None:
        return identity()
    return Rule(lambda a: a * kept * gain, lambda delta, _: (delta * kept * gain,))


def gaussian_noise_rule(noise: Array | None, stddev: float) -> Rule:
    """Equation (14): what is added takes no part of the error."""
    assert noise is not None
    return Rule(lambda a: a + stddev * noise, lambda delta, _: (delta,))


def sample_rule(noise: Array | None) -> Rule:
    """Equation (18): z = mean + exp(log variance / 2) noise; both take their share.

    The divergence that it adds to the cost is `unit_divergence`.
    """
    import numpy as np

    assert noise is not None

    def backward(delta: Array, _: Array, log_variance: Array) -> tuple[Array, Array]:
        return delta, delta * noise * np.exp(log_variance / 2) / 2

    return Rule(lambda mean, lv: mean + np.exp(lv / 2) * noise, backward)


def unit_divergence(mean: Array, log_variance: Array) -> Array:
    """Equation (19) of each unit: normal codes' divergence from the standard normal, in nats.

    In NumPy; `nn.noise.divergence` is the same in JAX, and each is the other's oracle.

    >>> import numpy as np
    >>> unit_divergence(np.array([0.0, 2.0]), np.zeros(2)).tolist()
    [0.0, 2.0]
    """
    import numpy as np

    return np.asarray((np.expm1(log_variance) - log_variance + mean**2) / 2)
