"""Lower bound on the memory of training, from shapes alone, before compilation."""

import math
from dataclasses import dataclass

from cnnbench.errors import OutOfMemoryError
from cnnbench.formatting import bytes_text
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import shape_text
from cnnbench.training.strategy import Strategy

VALUE = 4  # bytes of a float32
LARGEST = 3  # layers named in an error message


@dataclass(frozen=True, slots=True)
class Footprint:
    """Lower bound on the bytes of one CPU process or one accelerator.

    Args:
      fixed: bytes of parameters, gradients and optimizer state.
      per_image: bytes of all layer outputs, which the backward pass needs.
      images: images in memory at a time.
    """

    fixed: int
    per_image: int
    images: int

    @property
    def total(self) -> int:
        """Total bytes."""
        return self.fixed + self.images * self.per_image

    def images_within(self, free: int) -> int:
        """Number of images that fit; zero or less if none does."""
        return (free - self.fixed) // self.per_image


def footprint(plan: Plan, strategy: Strategy, batch_size: int, slots: float) -> Footprint:
    """Minimum memory of a training step.

    Args:
      plan: the network.
      strategy: the training strategy.
      batch_size: images per step.
      slots: optimizer state values per parameter, on average.
    """
    params = sum(node.num_params for node in plan.nodes)
    values = sum(math.prod(node.layout.shape) for node in plan.nodes)
    images = min(batch_size, (strategy.row or batch_size) * strategy.num_devices)
    return Footprint(round((2 + slots) * params) * VALUE, values * VALUE, images)


def require_memory(plan: Plan, need: Footprint, free: int | None, *, rows: bool) -> None:
    """Check that training can fit in memory.

    Args:
      plan: the network.
      need: its minimum memory.
      free: free bytes; None if the system does not report them.
      rows: True if batches are split into micro-batches, so a smaller batch needs no less.

    Raises:
      OutOfMemoryError: training needs more memory than is free.
    """
    if free is None or need.total <= free:
        return
    size = f"training needs at least {bytes_text(need.total)}, but only {bytes_text(free)} are free"
    raise OutOfMemoryError(
        f"{size}: {largest_layers(plan, need.images)}; {remedy(need, free, rows=rows)}."
    )


def out_of_memory(plan: Plan | None, batch_size: int) -> OutOfMemoryError:
    """The error for a training that ran out of memory.

    Args:
      plan: the network; None for a Python model.
      batch_size: images per step.
    """
    size = f"out of memory with batch size {batch_size:,}"
    layers = f": {largest_layers(plan, batch_size)}" if plan else ""
    return OutOfMemoryError(
        f"{size}{layers}; write train.batch_size={max(1, batch_size // 2)} or less."
    )


def remedy(need: Footprint, free: int, *, rows: bool) -> str:
    """Advice on what would fit."""
    images = min(need.images_within(free), need.images - 1)
    if images >= 1 and not rows:
        return f"write train.batch_size={images} or less"
    return "use smaller layers"


def largest_layers(plan: Plan, images: int) -> str:
    """The layers that need the most memory, with their sizes."""

    def values(node: Node) -> int:
        return node.num_params + images * math.prod(node.layout.shape)

    order = sorted(plan.nodes, key=values, reverse=True)
    return ", ".join(map(_layer_text, order[:LARGEST]))


def _layer_text(node: Node) -> str:
    result = f"{shape_text(node.layout.shape)} per image"
    return f"{node.name} ({node.num_params:,} parameters, {result})"
