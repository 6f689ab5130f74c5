"""Modules for plans that PyTorch does not provide."""

import operator
from collections.abc import Callable
from functools import reduce
from typing import assert_never

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cnnbench.layers.activation import Activation
from cnnbench.system.arrays import Array


class TopLeft(nn.Module):
    """Crop to the top left corner of an image."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.height, self.width = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        return x[:, :, : self.height, : self.width]


class TorchTransposedConv(nn.Module):
    """A transposed convolution with the kernel of another layer, or with zeros appended."""

    def __init__(
        self, owner: nn.Module, bias: bool, grow: tuple[int, int], **numbers: tuple[int, int]
    ) -> None:
        super().__init__()
        self.owner, self.grow, self.numbers = owner, grow, numbers
        self.bias = nn.Parameter(torch.zeros(owner.weight.shape[1])) if bias else None

    @property
    def weight(self) -> torch.Tensor:
        """The shared kernel."""
        return self.owner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        if not any(self.grow):
            return functional.conv_transpose2d(x, self.weight, self.bias, **self.numbers)
        y = functional.conv_transpose2d(x, self.weight, None, **self.numbers)
        y = functional.pad(y, (0, self.grow[1], 0, self.grow[0]))
        return y if self.bias is None else y + self.bias[:, None, None]


class Affine(nn.Module):
    """Product with a weight and sum with a bias per channel of images, or per entry of vectors."""

    def __init__(self, shape: tuple[int, ...], *, scale: bool, center: bool) -> None:
        super().__init__()
        channels, ones = shape[-1], (1,) * (len(shape) - 1)
        self.view = (channels, *ones)
        self.weight = nn.Parameter(torch.ones(channels)) if scale else None
        self.bias = nn.Parameter(torch.zeros(channels)) if center else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        y = x if self.weight is None else x * self.weight.view(self.view)
        return y if self.bias is None else y + self.bias.view(self.view)


class Times(nn.Module):
    """Product with constants."""

    def __init__(self, factors: Array) -> None:
        super().__init__()
        self.register_buffer("factors", torch.from_numpy(factors.astype(np.float32)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        return x * self.factors


class Join(nn.Module):
    """Concatenation of channels or of vectors."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        return torch.cat(inputs, dim=1)


class Pick(nn.Module):
    """Selection of channels, or of entries of vectors."""

    def __init__(self, places: Array) -> None:
        super().__init__()
        self.register_buffer("places", torch.tensor(places))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        return torch.index_select(x, 1, self.places)


class Disturb(nn.Module):
    """Additive Gaussian noise or random zeroing of values, in training only."""

    def __init__(self, strength: float, *, masks: bool) -> None:
        super().__init__()
        self.strength, self.masks = strength, masks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        if not self.training:
            return x
        if self.masks:
            return x * (torch.rand_like(x) >= self.strength)
        return x + self.strength * torch.randn_like(x)


class SkipImages(nn.Module):
    """Stochastic depth, as timm's DropPath: zeroes whole images in training and scales the rest."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        if not self.training or not self.rate:
            return x
        kept = torch.rand((len(x),) + (1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * (kept / (1 - self.rate))


class Fold(nn.Module):
    """Left fold of a binary function over all inputs.

    Args:
      function: binary function such as ``torch.add``.
      before: module applied to each input first, such as a `Reorder`.
    """

    def __init__(
        self,
        function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        before: list[nn.Module],
    ) -> None:
        super().__init__()
        self.function, self.before = function, nn.ModuleList(before)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        return reduce(self.function, map(operator.call, self.before, inputs))


class Reorder(nn.Module):
    """Permutation of the entries of a vector; the identity if the orders are equal."""

    def __init__(self, have: Array, want: Array) -> None:
        super().__init__()
        index = None if np.array_equal(have, want) else torch.tensor(np.argsort(have)[want])
        self.register_buffer("index", index)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        return x if self.index is None else x[:, self.index]


class TorchAttention(nn.Module):
    """Multi-head self-attention over the pixels of an image."""

    def __init__(self, channels: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, bias=bias, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        pixels = x.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(pixels, pixels, pixels, need_weights=False)
        return mixed.transpose(1, 2).reshape(x.shape)


class TorchPositions(nn.Module):
    """Learned or fixed vectors that are added to the pixels of an image.

    Args:
      shape: height, width and channels.
      fixed: the vectors, of this shape; None if they are learned.
    """

    def __init__(self, shape: tuple[int, ...], fixed: Array | None) -> None:
        super().__init__()
        if fixed is None:
            self.embedding = nn.Parameter(torch.zeros(shape[2], *shape[:2]))
        else:
            self.register_buffer("embedding", torch.tensor(fixed.transpose(2, 0, 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        return x + self.embedding


class TorchClassToken(nn.Module):
    """A learned token before the pixels of an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        first = self.token[:, None].expand(len(x), -1, 1)
        return torch.cat([first, x.flatten(2)], dim=2)[..., None]


class Mean(nn.Module):
    """Mean over the pixels of each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        return x.mean(dim=(2, 3))


class Permuted(nn.Module):
    """Permutation of the axes of images."""

    def __init__(self, order: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        return x.permute(self.order)


def activation(name: Activation) -> nn.Module:
    """PyTorch's module for an activation."""
    match name:
        case "linear":
            return nn.Identity()
        case "relu":
            return nn.ReLU()
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
        case "leaky_relu":
            return nn.LeakyReLU(0.01)
        case "elu":
            return nn.ELU()
        case "gelu":
            return nn.GELU(approximate="tanh")
        case "silu":
            return nn.SiLU()
        case "softplus":
            return nn.Softplus()
        case "relu6":
            return nn.ReLU6()
        case "hard_sigmoid":
            return nn.Hardsigmoid()
        case "hard_silu":
            return nn.Hardswish()
        case "mish":
            return nn.Mish()
        case "selu":
            return nn.SELU()
        case "gelu_exact":
            return nn.GELU()
        case _:
            assert_never(name)
