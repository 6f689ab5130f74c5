"""The layer language: one frozen model per operation, in a closed union.

`graph.py` and `models.py` match on `LayerOp` and end with `assert_never`, so a
type checker names each place that does not handle a new operation.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from cnnbench.layers.fields import (
    Count,
    Fraction,
    Inputs,
    Model,
    NonNegative,
    Padding,
    Positive,
    Shape,
    Size,
    members,
)

INPUT = "input"  # the name of the image in a graph of layers

Activation = Literal[
    "linear", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "silu", "softplus"
]
Init = Literal[
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "orthogonal",
    "zeros",
]


class Layer(Model):
    """What all layers share."""

    inputs: Inputs = Field(
        None, description="the layers read, by name; the previous layer if left out"
    )


class Conv(Layer):
    """Convolution (cross-correlation, as in JAX, PyTorch and Keras), kernel (h, w, in, out)."""

    op: Literal["conv"]
    filters: Count = Field(description="number of output channels")
    kernel: Size = Field(description="height and width of the kernel")
    stride: Size = Field((1, 1), description="step between two outputs")
    padding: Padding = Field("valid", description="valid (none), same, or zeros on each side")
    activation: Activation = Field("linear", description="function applied to the result")
    use_bias: bool = Field(True, description="whether a bias per filter is added")
    init: Init = Field("glorot_uniform", description="initial kernel; a bias starts at zero")


class ConvTranspose(Layer):
    """Adjoint of a convolution; with `tie`, of that very convolution."""

    op: Literal["conv_transpose"]
    tie: str | None = Field(None, description="the conv whose kernel, stride and padding it shares")
    filters: Count | None = Field(None, description="number of output channels; not with tie")
    kernel: Size | None = Field(None, description="height and width of the kernel; not with tie")
    stride: Size = Field((1, 1), description="step between two inputs' stamps; not with tie")
    padding: Padding = Field("valid", description="the padding of the adjoint conv; not with tie")
    activation: Activation = Field("linear", description="function applied to the result")
    use_bias: bool = Field(True, description="whether a bias of its own per channel is added")
    init: Init = Field("glorot_uniform", description="initial kernel; not with tie")


class MaxPool(Layer):
    """Largest value of each window; rows and columns that fill no window are dropped."""

    op: Literal["max_pool"]
    size: Size = Field(description="height and width of the window")
    stride: Size | None = Field(None, description="step between windows; the size if left out")


class AvgPool(Layer):
    """Mean of each window; rows and columns that fill no window are dropped."""

    op: Literal["avg_pool"]
    size: Size = Field(description="height and width of the window")
    stride: Size | None = Field(None, description="step between windows; the size if left out")


class Upscale(Layer):
    """Repeats rows and columns (Lasagne's Upscale2DLayer)."""

    op: Literal["upscale"]
    size: Size = Field(description="how often each row and column is repeated")


class Dense(Layer):
    """Fully connected layer; an image is flattened first, as in Lasagne."""

    op: Literal["dense"]
    units: Count = Field(description="number of outputs")
    activation: Activation = Field("linear", description="function applied to the result")
    use_bias: bool = Field(True, description="whether a bias per unit is added")
    init: Init = Field("glorot_uniform", description="initial kernel; a bias starts at zero")


class Dropout(Layer):
    """Zeroes values at random in training and divides the rest by 1 - rate."""

    op: Literal["dropout"]
    rate: Fraction = Field(description="the share of values that are zeroed")


class GaussianNoise(Layer):
    """Adds normal noise in training."""

    op: Literal["gaussian_noise"]
    stddev: Positive = Field(description="standard deviation, where 1 is the brightest pixel")


class MaskingNoise(Layer):
    """Zeroes values at random in training and keeps the others (Vincent et al. 2010)."""

    op: Literal["masking_noise"]
    rate: Fraction = Field(description="the share of values that are zeroed")


class Sample(Layer):
    """A normal sample where the loss is computed, else the mean (Kingma & Welling 2014).

    It reads two layers of one shape: the mean and the logarithm of the variance. Its
    divergence from the standard normal distribution is part of the loss.
    """

    op: Literal["sample"]
    kl_weight: NonNegative = Field(
        1.0, description="weight of the divergence in the loss; 1 for the evidence lower bound"
    )


class Slice(Layer):
    """Some neighbouring channels of an image, or entries of a vector."""

    op: Literal["slice"]
    start: Annotated[int, Field(ge=0)] = Field(0, description="the first one, from 0")
    size: Count = Field(description="how many")


class Flatten(Layer):
    """An image as a vector, in the order height, width, channel."""

    op: Literal["flatten"]


class Reshape(Layer):
    """The same values in another shape."""

    op: Literal["reshape"]
    shape: Shape = Field(description="[height, width, channels] or [units]")


class Concat(Layer):
    """Inputs side by side: channels of images, entries of vectors."""

    op: Literal["concat"]


class Add(Layer):
    """Sum of inputs of one shape."""

    op: Literal["add"]


class Activate(Layer):
    """An activation as a layer of its own."""

    op: Literal["activation"]
    activation: Activation = Field(description="function applied to each value")


class BatchNorm(Layer):
    """Normalises each channel over the batch (Ioffe & Szegedy 2015)."""

    op: Literal["batch_norm"]
    momentum: Fraction = Field(
        0.9, description="memory of the running mean and variance (1 minus PyTorch's momentum)"
    )
    epsilon: Positive = Field(1e-5, description="added to the variance")


class GlobalAvgPool(Layer):
    """Mean of each channel over the image."""

    op: Literal["global_avg_pool"]


LayerOp = Annotated[
    Conv
    | ConvTranspose
    | MaxPool
    | AvgPool
    | Upscale
    | Dense
    | Dropout
    | GaussianNoise
    | MaskingNoise
    | Sample
    | Slice
    | Flatten
    | Reshape
    | Concat
    | Add
    | Activate
    | BatchNorm
    | GlobalAvgPool,
    Field(discriminator="op"),
]

OPERATIONS: dict[str, type[Model]] = members(LayerOp, "op")
ACTIVATION_NAMES: tuple[str, ...] = get_args(Activation)
INIT_NAMES: tuple[str, ...] = get_args(Init)
