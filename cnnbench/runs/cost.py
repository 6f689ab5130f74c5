"""Cost of an architecture, as a frozen value."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a network on the device that trained it, measured once per run.

    Args:
      training_flops: FLOPs per training image in matrix products; None for a Python model.
      forward_flops: FLOPs of the forward pass per image, counted by XLA for the plain form, and
        therefore independent of the algorithm that trained it; None if XLA reports no count.
      backward_flops: FLOPs of the backward pass per image, counted by XLA: loss and gradient in
        training, minus `forward_flops`; None if XLA reports no count.
      memory_bytes: peak memory of the training step on all devices together, with parameters and
        optimizer state, without the dataset; None if XLA reports none.
      latency_p50_s: median latency of one image through the compiled plain form.
      latency_p99_s: 99th percentile of the latency: the third largest of 300 calls, and therefore
        mostly a property of the machine; None for fewer than 200 calls.
      latency_calls: number of timed calls.
      product_flops: FLOPs per second of the fastest float32 matrix product on the device, measured
        in the same process.
      latency_spread: largest median latency of three rounds, minus the smallest, relative to the
        smallest; None in runs of older versions.
      product_spread: median time of equal matrix products, minus the shortest, relative to the
        shortest; None in runs of older versions.
      latency_p90_s: 90th percentile of the latency; None in runs of older versions.
    """

    training_flops: int | None
    forward_flops: float | None
    backward_flops: float | None
    memory_bytes: int | None
    latency_p50_s: float
    latency_p99_s: float | None
    latency_calls: int
    product_flops: float
    latency_spread: float | None = None
    product_spread: float | None = None
    latency_p90_s: float | None = None

    def product_share(self, images_per_s: float) -> float | None:
        """Computes the FLOPs of training as a share of the fastest matrix product.

        Args:
          images_per_s: training images per second.

        Returns:
          The share; None if one of the two was not measured.

        >>> Cost(2_000, None, None, None, 0.1, None, 20, 1e6).product_share(100.0)
        0.2
        """
        if not self.training_flops or not self.product_flops or not math.isfinite(images_per_s):
            return None
        return self.training_flops * images_per_s / self.product_flops
