"""The memory that a training cannot do without, from shapes alone, before anything is compiled."""

import math
from dataclasses import dataclass

from cnnbench.errors import OutOfMemoryError
from cnnbench.formatting import bytes_text
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import shape_text
from cnnbench.training.strategy import Strategy

VALUE = 4  # bytes of a float32
LARGEST = 3  # layers that a message names


@dataclass(frozen=True, slots=True)
class Footprint:
    """A lower bound of the bytes of one process on a CPU, or of one accelerator.

    Args:
      fixed: parameters, their gradients, and what the optimiser keeps of each.
      per_image: every layer's result, which its gradient needs.
      images: that are in memory at a time.
    """

    fixed: int
    per_image: int
    images: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.fixed + self.images * self.per_image

    def images_within(self, free: int) -> int:
        """How many images would fit; zero or less where none would."""
        return (free - self.fixed) // self.per_image


def footprint(plan: Plan, strategy: Strategy, batch_size: int, slots: int) -> Footprint:
    """What a step needs at least.

    Args:
      plan: the network.
      strategy: how it is trained.
      batch_size: images of a step.
      slots: values that the optimiser keeps of each parameter.
    """
    params = sum(node.num_params for node in plan.nodes)
    values = sum(math.prod(node.layout.shape) for node in plan.nodes)
    images = min(batch_size, (strategy.row or batch_size) * strategy.num_devices)
    return Footprint((2 + slots) * params * VALUE, values * VALUE, images)


def require_room(plan: Plan, need: Footprint, free: int | None, *, rows: bool) -> None:
    """Refuses a training that cannot fit.

    Args:
      plan: the network.
      need: what it needs at least.
      free: bytes that are free; None where the system does not say.
      rows: whether a batch is computed in rows, so that a smaller one needs no less.

    Raises:
      OutOfMemoryError: it needs more than there is.
    """
    if free is None or need.total <= free:
        return
    size = f"training needs at least {bytes_text(need.total)}, and {bytes_text(free)} are free"
    raise OutOfMemoryError(
        f"{size}: {largest_layers(plan, need.images)}; {remedy(need, free, rows=rows)}."
    )


def out_of_memory(plan: Plan | None, batch_size: int) -> OutOfMemoryError:
    """What to say when there was too little memory after all.

    Args:
      plan: the network; None for a Python model.
      batch_size: images of a step.
    """
    size = f"the memory was too small for batches of {batch_size:,} images"
    layers = f": {largest_layers(plan, batch_size)}" if plan else ""
    return OutOfMemoryError(
        f"{size}{layers}; write train.batch_size={max(1, batch_size // 2)} or less."
    )


def remedy(need: Footprint, free: int, *, rows: bool) -> str:
    """What would fit."""
    images = min(need.images_within(free), need.images - 1)
    if images >= 1 and not rows:
        return f"write train.batch_size={images} or less"
    return "write smaller layers"


def largest_layers(plan: Plan, images: int) -> str:
    """The layers that need the most for so many images, with their sizes."""

    def values(node: Node) -> int:
        return node.num_params + images * math.prod(node.layout.shape)

    order = sorted(plan.nodes, key=values, reverse=True)
    return ", ".join(map(_layer_text, order[:LARGEST]))


def _layer_text(node: Node) -> str:
    result = f"{shape_text(node.layout.shape)} an image"
    return f"{node.name} ({node.num_params:,} parameters, {result})"
