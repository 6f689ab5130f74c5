"""MobileNet for small images: inverted residuals (Sandler et al. 2018, arXiv:1801.04381)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax import lax

import cnnbench

# Expansion, channels, blocks and stride of the first of them, as in table 2 of the paper.
STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 64, 2, 1))
STEM, HEAD = 16, 128  # channels


class ConvNorm(nnx.Module):
    """Convolution, batch norm and, unless it is linear, relu6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 1,
        *,
        stride: int = 1,
        linear: bool = False,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        pad = size // 2  # the same on both sides, as PyTorch pads
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=((pad, pad), (pad, pad)),
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
            **options,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.linear = linear

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (n, h, w, inputs) to (n, h / stride, w / stride, outputs)."""
        x = self.norm(self.conv(x))
        return x if self.linear else jax.nn.relu6(x)


class InvertedResidual(nnx.Module):
    """Expands, convolves each channel by itself, projects; adds its input if the shapes agree."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expansion: int,
        stride: int,
        convolve: Callable[..., jax.Array],
        rngs: nnx.Rngs,
    ) -> None:
        inner = inputs * expansion
        self.expand = ConvNorm(inputs, inner, rngs=rngs) if expansion > 1 else None
        self.depthwise = ConvNorm(
            inner,
            inner,
            3,
            stride=stride,
            feature_group_count=inner,
            conv_general_dilated=convolve,
            rngs=rngs,
        )
        self.project = ConvNorm(inner, outputs, linear=True, rngs=rngs)
        self.adds = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (n, h, w, inputs) to (n, h / stride, w / stride, outputs)."""
        y = self.expand(x) if self.expand else x
        y = self.project(self.depthwise(y))
        return x + y if self.adds else y


class MobileNet(nnx.Module):
    """Inverted residuals for images of about 28x28 pixels.

    Args:
      channels: of an image.
      classes: outputs.
      shifted: whether depthwise convolutions are those of `cnnbench.depthwise`, which are faster
        on a CPU, and not XLA's. Both give the same up to rounding.
      rngs: of the initial weights.
    """

    def __init__(
        self, channels: int = 1, classes: int = 10, *, shifted: bool = True, rngs: nnx.Rngs
    ) -> None:
        convolve = cnnbench.depthwise if shifted else lax.conv_general_dilated
        make = partial(InvertedResidual, convolve=convolve, rngs=rngs)
        self.stem = ConvNorm(channels, STEM, 3, rngs=rngs)
        blocks, inputs = [], STEM
        for expansion, outputs, count, stride in STAGES:
            for number in range(count):
                step = 1 if number else stride
                blocks.append(make(inputs, outputs, expansion=expansion, stride=step))
                inputs = outputs
        self.blocks = nnx.List(blocks)
        self.head = ConvNorm(inputs, HEAD, rngs=rngs)
        self.classify = nnx.Linear(HEAD, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (n, height, width, channels) to logits (n, classes)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classify(self.head(x).mean((1, 2)))
