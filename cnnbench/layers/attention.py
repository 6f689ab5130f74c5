"""Layers of vision transformers.

An image is a sequence of its pixels, row by row; a sequence is an image (length, 1, channels). So
patches are a convolution with a stride of its kernel, and a layer for each token is a 1x1
convolution.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from cnnbench.layers.activation import softmax, softmax_error
from cnnbench.layers.base import (
    Box,
    Layer,
    LayerOutput,
    Owner,
    Rule,
    Shape,
    ShapeError,
    Site,
    image,
    whole_image,
)
from cnnbench.layers.fields import Count, NonNegative
from cnnbench.layers.parameters import (
    OWN_WEIGHTS,
    TRAINABLE,
    Init,
    TrainableKey,
    WeightsKey,
    add_bias,
    bias_gradient,
)
from cnnbench.system.arrays import Array

INITIAL_STDDEV = 0.02  # of position embeddings, as in BERT and torchvision


class Attention(Layer):
    """Multi-head self-attention (Vaswani et al. 2017); an image is a sequence of its pixels.

    The output has the channels of the input. `kernel` (channels, 3 x channels) holds the
    projections to queries, keys and values, as PyTorch's `in_proj_weight` transposed; `out_kernel`
    is the output projection.
    """

    op: Literal["attention"]
    heads: Count = Field(description="number of heads, each with an equal part of the channels")
    use_bias: bool = Field(True, description="add biases to the four projections")
    init: Init = Field(
        "glorot_uniform",
        description="initializer of both kernels (fan-out of the first: 3 x channels, as in"
        " PyTorch); biases start at zero",
    )
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = (
        "self_attention",
        "multi_head_attention",
        "MultiheadAttention",
        "MultiHeadDotProductAttention",
        "mha",
    )
    main_options = ("heads",)
    sums_places = True

    @property
    def channel_parts(self) -> int:
        """Number of heads."""
        return self.heads

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape."""
        height, width, channels = image(shapes[0], self.op)
        if channels % self.heads:
            message = f"{channels} channels cannot be divided into {self.heads} heads"
            raise ShapeError("heads", message, f"use a divisor of {channels}")
        params: dict[str, Shape] = {
            "kernel": (channels, 3 * channels),
            "out_kernel": (channels, channels),
        }
        if self.use_bias:
            params |= {"bias": (3 * channels,), "out_bias": (channels,)}
        pixels = height * width
        products = 2 * pixels * pixels * channels  # queries with keys, and weights with values
        return LayerOutput(shapes[0], params, 4 * pixels * channels**2 + products)

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The whole image."""
        return whole_image(shape)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (22)."""
        return attention_rule(self.heads, weights)

    def options(self) -> list[str]:
        """Number of heads."""
        return [f"{self.heads} head{'s' * (self.heads > 1)}"]


class PositionEmbedding(Layer):
    """Adds a position-dependent vector to each pixel.

    `learned` vectors are parameters. `sincos2d` vectors are fixed: sines and cosines of the column,
    then of the row, as in Beyer et al. 2022 (arXiv:2205.01580).
    """

    op: Literal["position_embedding"]
    kind: Literal["learned", "sincos2d"] = Field(
        "learned",
        description="learned vectors, or sincos2d: fixed sines and cosines of column and row",
    )
    stddev: NonNegative = Field(
        INITIAL_STDDEV,
        description="standard deviation of the initial values of learned vectors",
    )
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("PositionEmbedding", "positional_embedding", "positional_encoding", "pos_embed")
    elementwise = True

    @property
    def channel_parts(self) -> int:
        """Sines and cosines of columns and rows."""
        return 4 if self.kind == "sincos2d" else 1

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """The input shape."""
        shape = image(shapes[0], self.op)
        if self.kind == "learned":
            return LayerOutput(shape, {"embedding": shape})
        key = "stddev" if self.stddev != INITIAL_STDDEV else "trainable" * (not self.trainable)
        if key:
            raise ShapeError(key, "sincos2d has no parameters", "remove it, or use kind: learned")
        if shape[2] % 4:
            message = f"sincos2d needs a multiple of 4 channels, but its input has {shape[2]}"
            raise ShapeError("kind", message, "use learned, or a multiple of 4 channels")
        return LayerOutput(shape)

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (12)."""
        return position_rule(weights.get("embedding"), site.out_shape)

    def variations(self) -> list[str]:
        """The kind."""
        return [] if self.kind == "learned" else [self.kind]


class ClassToken(Layer):
    """Turns an image into a sequence (1 + pixels, 1, channels) that starts with a learned token.

    The classifier of a vision transformer reads the token alone, after `crop`.
    """

    op: Literal["class_token"]
    stddev: NonNegative = Field(0.0, description="standard deviation of the initial values")
    trainable: TrainableKey = TRAINABLE
    weights: WeightsKey = OWN_WEIGHTS

    aliases = ("cls_token", "class_embedding", "cls")

    def output(self, shapes: tuple[Shape, ...], owner: Owner | None = None) -> LayerOutput:
        """A sequence with one more pixel."""
        height, width, channels = image(shapes[0], self.op)
        return LayerOutput((1 + height * width, 1, channels), {"token": (channels,)})

    def reads(self, box: Box, shape: Shape, site: Site) -> Box:
        """The pixels of a part of the sequence; the token reads none, reported as the first."""
        first, last = (max(place - 1, 0) for place in box[0])
        rows, columns = (first // shape[1], last // shape[1]), (first % shape[1], last % shape[1])
        return rows, columns if rows[0] == rows[1] else whole_image(shape)[1]

    def rule(self, site: Site, weights: Mapping[str, Array], drawn: Array | None) -> Rule:
        """Equation (12) for the token, (14) for the pixels."""
        return class_token_rule(weights["token"], site.in_shapes[0])


def attention_rule(heads: int, weights: Mapping[str, Array]) -> Rule:
    """Equation (22): the errors of values, weights, queries and keys, in this order.

    Args:
      heads: number of heads; each has contiguous channels.
      weights: `kernel` (c, 3c), `out_kernel` (c, c), and optionally `bias` and `out_bias`.
    """
    import numpy as np

    w, w_out = weights["kernel"], weights["out_kernel"]
    size = len(w) // heads

    def split(x: Array) -> Array:  # to (n, heads, pixels, size)
        return x.reshape(len(x), -1, heads, size).swapaxes(1, 2)

    def merge(x: Array) -> Array:
        return x.swapaxes(1, 2).reshape(len(x), -1, heads * size)

    def attend(a: Array) -> tuple[Array, ...]:
        z = add_bias(_sequence(a) @ w, weights.get("bias"))
        q, k, v = map(split, np.split(z, 3, axis=-1))
        shares = softmax(q @ k.swapaxes(2, 3) / np.sqrt(size).astype(z.dtype))
        return q, k, v, shares, merge(shares @ v)

    def forward(a: Array) -> Array:
        return add_bias(attend(a)[-1] @ w_out, weights.get("out_bias")).reshape(a.shape)

    def errors(delta: Array, a: Array) -> Array:
        """Errors of queries, keys and values, (n, pixels, 3c)."""
        q, k, v, shares, _ = attend(a)
        of_heads = split(_sequence(delta) @ w_out.T)
        of_shares = softmax_error(shares, of_heads @ v.swapaxes(2, 3))
        of_shares = of_shares / np.sqrt(size).astype(of_shares.dtype)
        parts = of_shares @ k, of_shares.swapaxes(2, 3) @ q, shares.swapaxes(2, 3) @ of_heads
        return np.concatenate([merge(part) for part in parts], axis=-1)

    def gradient(delta: Array, a: Array) -> dict[str, Array]:
        inner, last = errors(delta, a), _sequence(delta)
        found = {
            "kernel": _rows(a).T @ _rows(inner),
            "out_kernel": _rows(attend(a)[-1]).T @ _rows(last),
        }
        out = bias_gradient(last, weights.get("out_bias"))
        return (
            found
            | bias_gradient(inner, weights.get("bias"))
            | {f"out_{key}": value for key, value in out.items()}
        )

    return Rule(forward, lambda delta, a: ((errors(delta, a) @ w.T).reshape(a.shape),), gradient)


def position_rule(embedding: Array | None, shape: Shape) -> Rule:
    """Equation (12) without the sum over positions: the gradient of a bias per position.

    Args:
      embedding: learned vectors, (h, w, c); None for sines and cosines.
      shape: shape of the images.
    """
    added = sincos2d(shape) if embedding is None else embedding

    def gradient(delta: Array, _: Array) -> dict[str, Array]:
        return {} if embedding is None else {"embedding": delta.sum(axis=0)}

    return Rule(lambda a: a + added.astype(a.dtype), lambda delta, _: (delta,), gradient)


def class_token_rule(token: Array, shape: Shape) -> Rule:
    """Equation (12): the gradient of the token; the pixels move as in (14)."""
    import numpy as np

    def forward(a: Array) -> Array:
        first = np.broadcast_to(token, (len(a), 1, 1, len(token)))
        return np.concatenate([first, a.reshape(len(a), -1, 1, len(token))], axis=1)

    return Rule(
        forward,
        lambda delta, _: (delta[:, 1:].reshape(-1, *shape),),
        lambda delta, _: {"token": delta[:, 0, 0].sum(axis=0)},
    )


def sincos2d(shape: Shape) -> Array:
    """Sines and cosines of the column and the row, with periods from 2 pi to 20,000 pi pixels.

    Args:
      shape: height, width and channels, a multiple of 4.

    >>> # sin 2, cos 2, sin 1, cos 1
    >>> [f"{value:.3f}" for value in sincos2d((2, 3, 4))[1, 2]]
    ['0.909', '-0.416', '0.841', '0.540']
    """
    import numpy as np

    height, width, channels = shape
    num = channels // 4
    rates = 10_000 ** -(np.arange(num) / max(num - 1, 1))
    rows, columns = (
        np.arange(height)[:, None, None] * rates,
        np.arange(width)[None, :, None] * rates,
    )
    parts = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
    each = [np.broadcast_to(part, (height, width, num)) for part in parts]
    return np.concatenate(each, axis=-1).astype(np.float32)


def _sequence(a: Array) -> Array:
    """Images as sequences of pixels, (n, pixels, channels)."""
    return a.reshape(len(a), -1, a.shape[-1])


def _rows(a: Array) -> Array:
    return a.reshape(-1, a.shape[-1])
