"""Networks of papers that torchvision lacks, in PyTorch."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class CifarResNet(nn.Sequential):
    """The ResNet-(6n+2) for CIFAR of He et al. 2016, section 4.2, with `same` padding."""

    def __init__(self, n: int, option: Literal["A", "B"]) -> None:
        blocks = []
        before = 16
        for filters in (16, 32, 64):
            for i in range(n):
                stride = 2 if i == 0 and filters > 16 else 1
                blocks.append(_Basic(before, filters, stride, option))
                before = filters
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        super().__init__(_SameConv(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), *blocks, *head)


class Airbench94(nn.Sequential):
    """The network of airbench94.py (Keller Jordan 2024), without its initial values."""

    def __init__(self) -> None:
        groups = [_ConvGroup(24, 64), _ConvGroup(64, 256), _ConvGroup(256, 256)]
        head = (nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, 10, bias=False))
        super().__init__(nn.Conv2d(3, 24, 2), nn.GELU(), *groups, *head)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 9


class _ConvGroup(nn.Sequential):
    def __init__(self, before: int, filters: int) -> None:
        super().__init__(
            nn.Conv2d(before, filters, 3, padding="same", bias=False),
            nn.MaxPool2d(2),
            _biased_norm(filters),
            nn.GELU(),
            nn.Conv2d(filters, filters, 3, padding="same", bias=False),
            _biased_norm(filters),
            nn.GELU(),
        )


def _biased_norm(filters: int) -> nn.BatchNorm2d:
    """Batch norm whose scale stays 1."""
    norm = nn.BatchNorm2d(filters, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad = False
    return norm


class _SameConv(nn.Conv2d):
    """A 3x3 convolution, padded as TensorFlow does for even sizes."""

    def __init__(self, before: int, filters: int, stride: int) -> None:
        super().__init__(before, filters, 3, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = 0 if self.stride == (2, 2) else 1
        return super().forward(functional.pad(x, (first, 1, first, 1)))


class _Basic(nn.Module):
    def __init__(self, before: int, filters: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = _SameConv(before, filters, stride)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = _SameConv(filters, filters, 1)
        self.bn2 = nn.BatchNorm2d(filters)
        self.stride, self.added = stride, filters - before
        self.projection: nn.Module | None = None
        if option == "B" and stride == 2:
            conv = nn.Conv2d(before, filters, 1, stride, bias=False)
            self.projection = nn.Sequential(conv, nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.projection is not None:
            return torch.relu(y + self.projection(x))
        half = self.added // 2
        skip = x[:, :, :: self.stride, :: self.stride]
        return torch.relu(y + functional.pad(skip, (0, 0, 0, 0, half, self.added - half)))
