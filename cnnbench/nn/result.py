"""The result of a network, which losses and metrics look at."""

from collections.abc import Mapping
from typing import NamedTuple

import jax


class Result(NamedTuple):
    """What a network makes of images, as far as losses and metrics look at it.

    Args:
      output: the result, (n, ...).
      divergences: of each layer that samples, from the standard normal distribution, in
        nats (n,).
    """

    output: jax.Array
    divergences: Mapping[str, jax.Array]
