"""Slopes of the cost by central differences, with no step across a kink.

A network with relu and max pooling is smooth only in pieces. A step that ends on another piece
gives a slope between the two, which says nothing about either. So every step is shortened until
all units are on the same side of their kinks at its ends as without it; an entry for which none
is short enough is left out, and counted.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cnnbench.gradcheck.backprop import (
    Forward,
    ReferenceNetwork,
    cost,
    crossings,
    feedforward,
    sides,
)
from cnnbench.gradcheck.roundoff import perturbed
from cnnbench.system.arrays import Array

DELTA = "delta"  # the error of a layer's z, beside the names of its weights
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
MOST = 32  # an array of more entries is sampled
SAMPLE = 8
_CURVED = 1e-4  # of the layer's largest slope; the rest of the error is of its square


@dataclass(frozen=True, slots=True)
class Slopes:
    """What the differences say of an array.

    Args:
      entries: numbers of the entries that were looked at, in the flat array.
      values: the slope of the cost along each.
      skipped: how many others had a kink too near for any step.
    """

    entries: Array
    values: Array
    skipped: int


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Landscape:
    """The cost around a point, in float64; its slope by a z is delta, equation (1).

    Args:
      network: what the cost depends on.
      x: images, (n, height, width, channels).
      forward: z and a at the point.
      accuracy: how exact a slope has to be, in parts of the largest.
    """

    network: ReferenceNetwork
    x: Array
    forward: Forward
    accuracy: float

    @cached_property
    def home(self) -> dict[str, Array]:
        """Sides of the kinks at the point."""
        return sides(self.network, self.forward)

    @cached_property
    def height(self) -> float:
        """The cost at the point."""
        return cost(self.network, self.forward)

    @cached_property
    def digit(self) -> float:
        """How far rounding may move the cost, which ill-conditioned networks amplify."""
        rough = cost(self.network, perturbed(self.network, self.x, 0)[0])
        narrow = abs(rough - self.height) * np.finfo(np.float64).eps / np.finfo(np.float32).eps
        return max(np.finfo(np.float64).eps * abs(self.height), float(narrow))

    def slopes(self, layer: str, name: str, like: Array, scale: float) -> Slopes:
        """Slopes by some entries of an array.

        Args:
          layer: whose it is.
          name: a weight, or `DELTA` for z.
          like: its gradient, to know its shape and where it is zero.
          scale: the largest slope that is expected.
        """
        found, skipped = [], 0
        for entry in chosen(like):
            value = self._slope(self._along(layer, name, like.shape, int(entry)), scale)
            if value is None:
                skipped += 1
            else:
                found.append((entry, value))
        entries, values = zip(*found, strict=True) if found else ((), ())
        return Slopes(np.asarray(entries, int), np.asarray(values), skipped)

    def _along(
        self, layer: str, name: str, shape: tuple[int, ...], entry: int
    ) -> Callable[[float], float | None]:
        """The cost at some distance along one entry; None on another side of a kink."""

        def at(distance: float) -> float | None:
            change = np.zeros(shape)
            change.flat[entry] = distance
            network, nudges = self.network, {layer: change}
            if name != DELTA:
                weights = _moved(network.weights, layer, name, change)
                network, nudges = replace(network, weights=weights), {}
            moved = feedforward(network, self.x, nudges=nudges, known=self.forward, moved=layer)
            if crossings(self.home, sides(network, moved, self.forward)):
                return None
            return cost(network, moved)

        return at

    def _slope(self, at: Callable[[float], float | None], scale: float) -> float | None:
        """By the largest step that crosses no kink and is short for the cost's curvature."""
        for step in self._steps(scale):
            ends: list[float] = []
            for distance in (2 * step, -2 * step, step, -step):
                end = at(distance)
                if end is None:
                    break
                ends.append(end)
            if len(ends) < 4:
                continue
            near, far = (ends[2] - ends[3]) / (2 * step), (ends[0] - ends[1]) / (4 * step)
            if abs(near - far) <= _CURVED * scale:
                return (4 * near - far) / 3  # Richardson: the cubic term is gone
        return None

    def _steps(self, scale: float) -> Iterator[float]:
        """Steps that are long enough for the cost's last digit not to matter."""
        return (step for step in STEPS if 4 * self.digit / step <= self.accuracy * scale)


def chosen(like: Array) -> Array:
    """Entries to look at: all of a small array, else a sample, half of it where it is not zero."""
    if like.size <= MOST:
        return np.arange(like.size)
    rng = np.random.default_rng(like.size)
    nonzero = np.flatnonzero(like)
    some = rng.choice(nonzero, min(SAMPLE, len(nonzero)), replace=False)
    others = rng.choice(like.size, SAMPLE, replace=False)
    return np.unique(np.concatenate([some, others]))


def _moved(
    weights: Mapping[str, Mapping[str, Array]], layer: str, name: str, change: Array
) -> Mapping[str, Mapping[str, Array]]:
    own = {**weights[layer], name: weights[layer][name] + change}
    return {**weights, layer: own}
