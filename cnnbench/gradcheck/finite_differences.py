"""Slopes of the cost by central differences that do not cross a kink.

A network with relu and max pooling is only piecewise smooth. A step into another piece gives a
slope between the two, which matches neither. So each step is reduced until all units stay on the
same side of their kinks; entries for which no step is small enough are skipped and counted.
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

DELTA = "delta"  # the error of a layer's z; the other names are weights
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
MOST = 32  # larger arrays are sampled
SAMPLE = 8
_CURVED = 1e-4  # largest curvature error relative to the slope; extrapolation squares it


@dataclass(frozen=True, slots=True)
class Slopes:
    """Central differences for some entries of an array.

    Args:
      entries: indices of the entries in the flat array.
      values: slope of the cost along each entry.
      skipped: number of further entries with a kink too near for any step.
    """

    entries: Array
    values: Array
    skipped: int


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Landscape:
    """The cost around a point, in float64; its slope with respect to z is delta, equation (1).

    Args:
      network: the network and its objective.
      x: images, (n, height, width, channels).
      forward: z and a at the point.
      accuracy: required accuracy of a slope, relative to the largest slope.
    """

    network: ReferenceNetwork
    x: Array
    forward: Forward
    accuracy: float

    @cached_property
    def kink_sides(self) -> dict[str, Array]:
        """Sides of all kinks at the point."""
        return sides(self.network, self.forward)

    @cached_property
    def cost_here(self) -> float:
        """The cost at the point."""
        return cost(self.network, self.forward)

    @cached_property
    def rounding_error(self) -> float:
        """Rounding error of the cost, which ill-conditioned networks amplify."""
        rough = cost(self.network, perturbed(self.network, self.x, 0)[0])
        narrow = abs(rough - self.cost_here) * np.finfo(np.float64).eps / np.finfo(np.float32).eps
        return max(np.finfo(np.float64).eps * abs(self.cost_here), float(narrow))

    def slopes(self, layer: str, name: str, like: Array, scale: float) -> Slopes:
        """Slopes along selected entries of an array.

        Args:
          layer: name of the layer.
          name: name of a weight, or `DELTA` for z.
          like: the array's gradient, which gives its shape and its zeros.
          scale: largest expected slope.
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
        """The cost as a function of the distance along one entry; None across a kink."""

        def at(distance: float) -> float | None:
            change = np.zeros(shape)
            change.flat[entry] = distance
            network, nudges = self.network, {layer: change}
            if name != DELTA:
                weights = _moved(network.weights, layer, name, change)
                network, nudges = replace(network, weights=weights), {}
            moved = feedforward(network, self.x, nudges=nudges, known=self.forward, moved=layer)
            if crossings(self.kink_sides, sides(network, moved, self.forward)):
                return None
            return cost(network, moved)

        return at

    def _slope(self, at: Callable[[float], float | None], scale: float) -> float | None:
        """Slope by the largest step that crosses no kink and is small for the curvature."""
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
                return (4 * near - far) / 3  # Richardson extrapolation removes the cubic term
        return None

    def _steps(self, scale: float) -> Iterator[float]:
        """Steps large enough for the rounding error of the cost to be negligible."""
        return (step for step in STEPS if 4 * self.rounding_error / step <= self.accuracy * scale)


def chosen(like: Array) -> Array:
    """Entries to check: all of a small array, otherwise a sample, half of it nonzero."""
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
