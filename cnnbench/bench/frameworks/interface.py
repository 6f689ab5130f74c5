"""Interface of all frameworks: a network with its optimizer."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, Protocol

from cnnbench.system.arrays import Array

LayerGradients = dict[str, dict[str, Array]]
Family = Literal["torch", "keras", "flax"]

VARIANTS: Mapping[str, Family] = MappingProxyType(
    {
        "torch-eager-nchw": "torch",
        "torch-eager-channels_last": "torch",
        "torch-compile-nchw": "torch",
        "torch-compile-channels_last": "torch",
        "keras-jax": "keras",
        "keras-torch": "keras",
        "flax": "flax",
    }
)


class FrameworkTrainer(Protocol):
    """A network in another framework, with its optimizer."""

    def train(self, images: Array, labels: Array) -> Array:
        """Train one optimizer step per batch, with dropout; blocks until done.

        Args:
          images: uint8, (steps, batch, height, width, channels).
          labels: integers, (steps, batch); ignored for reconstruction.

        Returns:
          The mean loss of each step before its update, (steps,).
        """

    def outputs(self, images: Array) -> Array:
        """Outputs of the network in evaluation mode.

        Args:
          images: uint8, (n, height, width, channels).

        Returns:
          (n, *output shape of the plan), in our layout.
        """

    def gradients(self, images: Array, labels: Array) -> tuple[float, LayerGradients]:
        """Mean loss and its gradients in evaluation mode.

        Dropout is off, and batch norm uses its running statistics.

        Args:
          images: uint8, (n, height, width, channels).
          labels: integers, (n,).

        Returns:
          The loss, and gradients by layer and parameter, in our layout.
        """
