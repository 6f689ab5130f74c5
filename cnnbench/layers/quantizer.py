"""The vector quantizer of a VQ-VAE."""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from cnnbench.layers.base import Layer, LayerOutput, Owner, Rule, Shape, Site
from cnnbench.layers.fields import Count, NonNegative
from cnnbench.layers.parameters import OWN_WEIGHTS, TRAINABLE, TrainableKey, WeightsKey
from cnnbench.system.arrays import Array


class VectorQuantizer(Layer):
    """Replaces vectors with their nearest ones in a codebook (VQ-VAE; van den Oord et al. 2017).

    The vectors are those of the pixels of an image, or the vector of an image. The gradient is
    straight-through. The loss gains the mean squared distance that moves the codebook to the
    vectors, and `commitment` times the one that moves the vectors to the codebook.
    """

    op: Literal["vector_quantizer"]
    codes: Count = Field(description="number of vectors in the codebook")
    commitment: NonNegative = Field(0.25, description="weight of the commitment loss (beta)")
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("VectorQuantizer", "VectorQuantization", "VQ", "codebook", "quantizer")
    main_options = ("codes",)

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape."""
        *places, channels = shapes[0]
        codebook = (self.codes, channels)
        return LayerOutput(
            shapes[0], {"codebook": codebook}, math.prod(places) * math.prod(codebook)
        )

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (V1)."""
        return quantizer_rule(weights["codebook"])


def quantizer_rule(codebook: Array) -> Rule:
    """Equation (V1): the error is passed through, and the codebook gets none of it."""
    import numpy as np

    def forward(a: Array) -> Array:
        distances = ((a[..., None, :] - codebook) ** 2).sum(axis=-1)
        nearest: Array = codebook[distances.argmin(axis=-1)]
        return nearest

    return Rule(
        forward,
        lambda delta, _: (delta,),
        lambda *_: {"codebook": np.zeros_like(codebook)},
    )
