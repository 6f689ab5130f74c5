"""Self-attention over the pixels of an image."""

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
from cnnbench.layers.fields import Count
from cnnbench.layers.parameters import TRAINABLE, Init, TrainableKey, add_bias, bias_gradient
from cnnbench.system.arrays import Array


class Attention(Layer):
    """Multi-head self-attention (Vaswani et al. 2017); an image is a sequence of its pixels.

    The output has the channels of the input. `kernel` (channels, 3 x channels) holds the
    projections to queries, keys and values, as PyTorch's `in_proj_weight` transposed; `out_kernel`
    is the output projection.
    """

    op: Literal["attention"]
    heads: Count = Field(description="number of heads; must divide the channels")
    use_bias: bool = Field(True, description="add biases to the four projections")
    init: Init = Field(
        "glorot_uniform",
        description="initializer of both kernels (fan-out of the first: 3 x channels, as in"
        " PyTorch); biases start at zero",
    )
    trainable: TrainableKey = TRAINABLE

    aliases = (
        "self_attention",
        "multi_head_attention",
        "MultiheadAttention",
        "MultiHeadDotProductAttention",
        "mha",
    )
    main_options = ("heads",)
    sums_places = True

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


def _sequence(a: Array) -> Array:
    """Images as sequences of pixels, (n, pixels, channels)."""
    return a.reshape(len(a), -1, a.shape[-1])


def _rows(a: Array) -> Array:
    return a.reshape(-1, a.shape[-1])
