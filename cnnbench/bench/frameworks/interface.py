"""Interface of all frameworks: a network with its optimizer."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, Protocol

from cnnbench.system.arrays import Array

LayerGradients = dict[str, dict[str, Array]]
Family = Literal["torch", "keras", "flax"]


class TorchSettings(StrEnum):
    """Settings of a variant of PyTorch; other frameworks only have `DEFAULT`.

    All but `DEFAULT` keep freed memory, pin one thread to each core, flush denormals and use fused
    optimizers. They are set by `bench.tuning`, before the process starts, and by `TorchTrainer`.
    """

    DEFAULT = "default"
    TUNED = "tuned"  # with the allocator of the C library
    JEMALLOC = "jemalloc"
    TCMALLOC = "tcmalloc"
    BFLOAT16 = "bfloat16"  # as TUNED; the network computes in bfloat16


FLOAT32 = frozenset(TorchSettings) - {TorchSettings.BFLOAT16}
ARRANGEMENTS = ("eager-nchw", "eager-channels_last", "compile-nchw", "compile-channels_last")


def torch_name(settings: TorchSettings, arrangement: str) -> str:
    """Name of a variant of PyTorch.

    >>> torch_name(TorchSettings.TUNED, "eager-nchw")
    'torch-tuned-eager-nchw'
    >>> torch_name(TorchSettings.DEFAULT, "eager-nchw")
    'torch-eager-nchw'
    """
    middle = "" if settings is TorchSettings.DEFAULT else f"{settings}-"
    return f"torch-{middle}{arrangement}"


def settings_of(variant: str) -> TorchSettings:
    """Settings of a variant, by its name.

    >>> settings_of("torch-tuned-eager-nchw").value, settings_of("keras-torch").value
    ('tuned', 'default')
    """
    parts = variant.split("-")
    return next((each for each in TorchSettings if each in parts), TorchSettings.DEFAULT)


VARIANTS: Mapping[str, Family] = MappingProxyType(
    {
        **{torch_name(each, how): "torch" for each in TorchSettings for how in ARRANGEMENTS},
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
