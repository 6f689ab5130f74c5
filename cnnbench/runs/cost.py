"""What an architecture costs, as a frozen value."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network costs on the device that trained it, measured once a run.

    Args:
      training_flops: floating-point operations of one training image in its matrix
        products, by `flops.training_flops`; None for a Python model.
      forward_flops: XLA's count for one image, in evaluation, of the plain form: that of
        the architecture, whichever algorithm trained it; None where XLA does not count.
      backward_flops: XLA's count for the loss and its gradient in training, for one image
        of a batch, less `forward_flops`; likewise.
      memory_bytes: the most memory that the program of a training step needs on all
        devices together, with parameters and optimiser, without the dataset; None where
        XLA does not say.
      latency_p50_s: median seconds of one image through the compiled plain form.
      latency_p99_s: their 99th percentile; None where too few calls were timed.
      latency_calls: how many were timed.
      product_flops: floating-point operations a second of the fastest float32 matrix
        product that the device did in the same process.
      latency_spread: by how much the median latency of one round of calls was above that of
        another, as a share of the lowest; None in runs of older versions.
      product_spread: by how much the median product of the fastest library was slower than
        the fastest, as a share of it; None likewise.
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

    def product_share(self, images_per_s: float) -> float | None:
        """The arithmetic of training as a share of the fastest matrix product.

        Args:
          images_per_s: training images per second.

        Returns:
          The share; None where one of the two was not measured.

        >>> Cost(2_000, None, None, None, 0.1, None, 20, 1e6).product_share(100.0)
        0.2
        """
        if not self.training_flops or not self.product_flops or not math.isfinite(images_per_s):
            return None
        return self.training_flops * images_per_s / self.product_flops
