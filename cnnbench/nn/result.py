"""Output of a network, as the input of losses and metrics."""

from collections.abc import Mapping
from typing import NamedTuple

import jax


class Result(NamedTuple):
    """Output of a network for a batch of images, as the input of losses and metrics.

    Args:
      output: output of the network, (n, ...).
      divergences: KL divergence from the standard normal distribution by sampling layer, in nats,
        (n,).
      distances: codebook and commitment loss by vector quantizer, (n,).
    """

    output: jax.Array
    divergences: Mapping[str, jax.Array]
    distances: Mapping[str, jax.Array]
