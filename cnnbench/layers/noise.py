"""Random layers: dropout, noise, and the sampling layer of a variational autoencoder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cnnbench.layers.base import (
    Layer,
    LayerOutput,
    Owner,
    Rule,
    Shape,
    ShapeError,
    Site,
    identity,
    image,
)
from cnnbench.layers.fields import Fraction, NonNegative, Positive
from cnnbench.layers.merge import same_shape
from cnnbench.system.arrays import Array


class Noise(Layer):
    """Base class of shape-preserving layers that are random in training."""

    elementwise = training_only = True

    @property
    def draws(self) -> bool:
        """True unless the rate is zero."""
        return getattr(self, "rate", 1) > 0

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape."""
        return LayerOutput(shapes[0])


class Dropping(Noise):
    """Base class of layers that randomly zero values and scale the rest by 1 / (1 - rate)."""

    main_options = ("rate",)
    masks = True

    if TYPE_CHECKING:

        @property
        def rate(self) -> float:
            """Fraction to zero; a field of each subclass."""

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return dropout_rule(drawn, 1 / (1 - self.rate))


class Dropout(Dropping):
    """Zeroes random values during training and scales the rest by 1 / (1 - rate)."""

    op: Literal["dropout"]
    rate: Fraction = Field(description="fraction of values to zero")

    aliases = ("DropoutLayer",)


class SpatialDropout(Dropping):
    """Zeroes random channels of images in training and scales the rest (Tompson et al. 2015)."""

    op: Literal["spatial_dropout"]
    rate: Fraction = Field(description="fraction of channels to zero")

    aliases = ("SpatialDropout2D", "Dropout2d", "channel_dropout", "feature_dropout")

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape."""
        return LayerOutput(image(shapes[0], self.op))

    def drawn_shape(self, shape: Shape) -> Shape:
        """A value per channel."""
        return (1, 1, shape[2])


class DropPath(Dropping):
    """Zeroes random images in training and scales the rest (stochastic depth; Huang et al. 2016).

    Placed at the end of a residual branch, it skips the branch for some images.
    """

    op: Literal["drop_path"]
    rate: Fraction = Field(description="fraction of images to zero")

    aliases = ("DropPath", "StochasticDepth", "drop_connect")

    def drawn_shape(self, shape: Shape) -> Shape:
        """A single value."""
        return (1,) * len(shape)


class GaussianNoise(Noise):
    """Adds Gaussian noise in training."""

    op: Literal["gaussian_noise"]
    stddev: Positive = Field(description="standard deviation; pixels range from 0 to 1 by default")

    aliases = ("GaussianNoise", "noise")
    main_options = ("stddev",)
    corrupts = True

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return gaussian_noise_rule(drawn, self.stddev)


class MaskingNoise(Noise):
    """Zeroes random values during training without rescaling the rest (Vincent et al. 2010)."""

    op: Literal["masking_noise"]
    rate: Fraction = Field(description="fraction of values to zero")

    main_options = ("rate",)
    corrupts = masks = keeps_range = True

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (14)."""
        return dropout_rule(drawn, 1.0)


class Sample(Layer):
    """Samples a normal distribution in losses; otherwise returns its mean (Kingma & Welling 2014).

    Its two inputs of the same shape are the mean and the log variance. The KL divergence from the
    standard normal distribution is part of the loss.
    """

    op: Literal["sample"]
    kl_weight: NonNegative = Field(
        1.0, description="weight of the KL divergence in the loss; 1 for the evidence lower bound"
    )

    aliases = ("sampling", "reparameterize", "reparametrize")
    main_options = ("kl_weight",)

    @property
    def draws(self) -> bool:
        """Always True."""
        return True

    def check_inputs(self, num_inputs: int) -> None:
        """Requires two inputs: mean and log variance."""
        if num_inputs != 2:
            number = "one" if num_inputs == 1 else str(num_inputs)
            message = f"sample takes two inputs, got {number}"
            raise ShapeError("inputs", message, "use inputs: [MEAN, LOG_VARIANCE]")

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The common shape."""
        return LayerOutput(same_shape(self.op, shapes))

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (18)."""
        return sample_rule(drawn)


def dropout_rule(kept: Array | None, gain: float) -> Rule:
    """Equation (14): dropped values get no error, the others the same gain as in the forward pass.

    Args:
      kept: mask of kept values, or of kept channels or images; None for all.
      gain: scale of kept values; 1 for masking noise.
    """
    if kept is None:
        return identity()
    return Rule(lambda a: a * kept * gain, lambda delta, _: (delta * kept * gain,))


def gaussian_noise_rule(noise: Array | None, stddev: float) -> Rule:
    """Equation (14): additive noise does not change the error."""
    assert noise is not None
    return Rule(lambda a: a + stddev * noise, lambda delta, _: (delta,))


def sample_rule(noise: Array | None) -> Rule:
    """Equation (18): z = mean + exp(log variance / 2) noise; the error is propagated to both.

    See `unit_divergence` for the KL divergence in the cost.
    """
    import numpy as np

    assert noise is not None

    def backward(delta: Array, _: Array, log_variance: Array) -> tuple[Array, Array]:
        return delta, delta * noise * np.exp(log_variance / 2) / 2

    return Rule(lambda mean, lv: mean + np.exp(lv / 2) * noise, backward)


def unit_divergence(mean: Array, log_variance: Array) -> Array:
    """Equation (19) per unit: KL divergence from the standard normal distribution, in nats.

    NumPy counterpart of `nn.noise.divergence`; they are tested against each other.

    >>> import numpy as np
    >>> unit_divergence(np.array([0.0, 2.0]), np.zeros(2)).tolist()
    [0.0, 2.0]
    """
    import numpy as np

    return np.asarray((np.expm1(log_variance) - log_variance + mean**2) / 2)
