"""The layers that PyTorch has no module for, and its activations by our names."""

from typing import assert_never

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cnnbench.layers import Activation
from cnnbench.peers.interface import Array


class Crop(nn.Module):
    """The first rows and columns of an image."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.height, self.width = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the layer."""
        return x[:, :, : self.height, : self.width]


class Transpose(nn.Module):
    """A transposed convolution with the kernel of another layer, or with zeros put after it."""

    def __init__(
        self, owner: nn.Module, bias: bool, grow: tuple[int, int], **numbers: tuple[int, int]
    ) -> None:
        super().__init__()
        self.owner, self.grow, self.numbers = owner, grow, numbers
        self.bias = nn.Parameter(torch.zeros(owner.weight.shape[1])) if bias else None

    @property
    def weight(self) -> torch.Tensor:
        """The kernel."""
        return self.owner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the layer."""
        if not any(self.grow):
            return functional.conv_transpose2d(x, self.weight, self.bias, **self.numbers)
        y = functional.conv_transpose2d(x, self.weight, None, **self.numbers)
        y = functional.pad(y, (0, self.grow[1], 0, self.grow[0]))
        return y if self.bias is None else y + self.bias[:, None, None]


class Join(nn.Module):
    """Channels of images, or entries of vectors, side by side."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Runs the layer."""
        return torch.cat(inputs, dim=1)


class Sum(nn.Module):
    """Sum of values; vectors are first brought into the order of the first."""

    def __init__(self, orders: list[Array]) -> None:
        super().__init__()
        self.reorder = nn.ModuleList(Reorder(order, orders[0]) for order in orders)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Runs the layer."""
        first, *others = (take(x) for take, x in zip(self.reorder, inputs, strict=True))
        for other in others:
            first = first + other
        return first


class Reorder(nn.Module):
    """Entries of a vector from one order to another; does nothing where they are equal."""

    def __init__(self, have: Array, want: Array) -> None:
        super().__init__()
        index = None if np.array_equal(have, want) else torch.tensor(np.argsort(have)[want])
        self.register_buffer("index", index)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the layer."""
        return x if self.index is None else x[:, self.index]


class Mean(nn.Module):
    """The mean of each channel over the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the layer."""
        return x.mean(dim=(2, 3))


class ChannelsFirst(nn.Module):
    """(n, height, width, channels) to (n, channels, height, width)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the layer."""
        return x.permute(0, 3, 1, 2)


def activation_module(name: Activation) -> nn.Module:
    """An activation, with the numbers that Flax has for it."""
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
        case _:
            assert_never(name)
