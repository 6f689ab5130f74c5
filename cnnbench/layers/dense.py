"""The fully connected layer."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from cnnbench.layers.activation import Activation, activation_words
from cnnbench.layers.base import Box, Layer, LayerOutput, Owner, Rule, Shape, Site, whole_image
from cnnbench.layers.fields import ADDED, Count
from cnnbench.layers.parameters import (
    OWN_WEIGHTS,
    TRAINABLE,
    BiasInit,
    Init,
    TrainableKey,
    WeightsKey,
    add_bias,
    bias_gradient,
    bias_shape,
)
from cnnbench.system.arrays import Array


class Dense(Layer):
    """Fully connected layer; an image is flattened first, as in Lasagne."""

    op: Literal["dense"]
    units: Count = Field(description="number of output units")
    activation: Activation = Field("linear", description="activation function")
    use_bias: bool = Field(True, description="add a bias per unit")
    init: Init = Field("glorot_uniform", description="kernel initializer")
    bias_init: Annotated[BiasInit, ADDED] = Field("zeros", description="bias initializer")
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("Linear", "fc", "fully_connected", "inner_product", "affine", "DenseLayer")
    main_options = ("units",)
    sums_places = True
    width_key = "units"

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """One value per unit."""
        kernel = (math.prod(shapes[0]), self.units)
        params = {"kernel": kernel, **bias_shape(self.use_bias, self.units)}
        return LayerOutput((self.units,), params, math.prod(kernel))

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The whole input."""
        return whole_image(shape)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equations (2), (M1) and (M2)."""
        return dense_rule(weights["kernel"], weights.get("bias"), site.in_shapes[0])

    def variations(self) -> list[str]:
        """The activation."""
        return activation_words(self.activation)


def dense_rule(w: Array, b: Array | None, shape: Shape) -> Rule:
    """Equations (2) forward, (M1) backward and (M2) for the kernel; an image is flattened first.

    Args:
      w: kernel, (in, units); the post's w[j, k] is w[k, j] here.
      b: bias, (units,).
      shape: shape of an input, without the batch axis.
    """
    return Rule(
        forward=lambda a: add_bias(_flat(a) @ w, b),
        backward=lambda delta, _: ((delta @ w.T).reshape(-1, *shape),),
        gradient=lambda delta, a: {"kernel": _flat(a).T @ delta} | bias_gradient(delta, b),
    )


def _flat(a: Array) -> Array:
    return a.reshape(len(a), -1)
