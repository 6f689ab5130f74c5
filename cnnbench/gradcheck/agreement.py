"""How far derivatives by hand are from autodiff's and from central differences."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from cnnbench.gradcheck.finite_differences import Slopes
from cnnbench.graph.plan import Node
from cnnbench.system.arrays import Array

Dtype = Literal["float32", "float64"]


class Agreement(StrEnum):
    """Meaning of the errors of a layer's derivatives."""

    OK = "ok"
    IMPRECISE = "imprecise"  # the dtype is short of digits, or of range
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Largest errors that are taken for rounding.

    Args:
      autodiff: between the gradients by hand and by `jax.grad`.
      differences: between those by hand and central differences in float64.
    """

    autodiff: float
    differences: float


TOLERANCES: Mapping[Dtype, Tolerances] = {
    "float64": Tolerances(1e-9, 1e-6),
    "float32": Tolerances(1e-4, 1e-4),
}


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Quantity:
    """One array of derivatives.

    Args:
      name: a weight, or ``delta``, the error of the layer's z.
      by_hand: what the five steps give.
      by_autodiff: what `jax.grad` gives.
      slopes: what central differences give, for some entries.
      scale: the largest derivative by the layer's weights, or by its z; errors are parts of it.
    """

    name: str
    by_hand: Array
    by_autodiff: Array
    slopes: Slopes
    scale: float

    @property
    def size(self) -> float:
        """The array's own largest derivative, which may be far below the layer's."""
        return float(np.max([np.abs(self.by_hand).max(), np.abs(self.by_autodiff).max()]))

    @property
    def error(self) -> float:
        """The largest difference from autodiff."""
        with np.errstate(invalid="ignore"):  # inf - inf is a NaN, and shown as one
            return float(np.abs(self.by_hand - self.by_autodiff).max())

    @property
    def to_autodiff(self) -> float:
        """The largest difference from autodiff, as a part of the scale."""
        return self.error / self.scale

    def alike(self, bar: float) -> bool:
        """Tell whether the error is within a bar relative to the array's own size."""
        info = np.finfo(self.by_hand.dtype)
        return self.error <= bar * self.size + float(info.tiny / info.eps)  # underflow

    @property
    def to_differences(self) -> float | None:
        """The largest error beside the differences; None where none could be taken."""
        if not self.slopes.entries.size:
            return None
        with np.errstate(invalid="ignore"):
            errors = np.abs(self.by_hand.flat[self.slopes.entries] - self.slopes.values)
        return float(errors.max() / self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class LayerCheck:
    """A layer's derivatives.

    Args:
      node: the layer.
      quantities: delta, and one for each weight of its own.
      shares: size of each use's part of the kernel's gradient, where several layers use it.
      tolerances: what counts as rounding.
      explained: whether rounding explains errors above a bar. Those of float32 are gone in
        float64; those of float64 are as much smaller than float32's as it has more digits.
    """

    node: Node
    quantities: tuple[Quantity, ...]
    shares: Mapping[str, float]
    tolerances: Tolerances
    explained: bool = False

    @property
    def to_autodiff(self) -> float:
        """The largest error beside autodiff."""
        return _largest(quantity.to_autodiff for quantity in self.quantities)

    @property
    def to_differences(self) -> float | None:
        """The largest error beside the differences; None where none could be taken."""
        found = [e for q in self.quantities if (e := q.to_differences) is not None]
        return _largest(found) if found else None

    @property
    def taken(self) -> int:
        """Entries that were compared with differences."""
        return sum(q.slopes.entries.size for q in self.quantities)

    @property
    def skipped(self) -> int:
        """Entries that had a kink too near."""
        return sum(q.slopes.skipped for q in self.quantities)

    @property
    def verdict(self) -> Agreement:
        """Meaning of the errors."""
        return (
            Agreement.OK
            if self.right
            else Agreement.IMPRECISE
            if self.explained
            else Agreement.WRONG
        )

    @property
    def near(self) -> bool:
        """Tell whether the errors are within the tolerances; a NaN never is."""
        differences = self.to_differences
        near = self.to_autodiff <= self.tolerances.autodiff
        return near and (differences is None or differences <= self.tolerances.differences)

    @property
    def alike(self) -> bool:
        """Tell whether each array agrees with autodiff relative to its own size."""
        return all(quantity.alike(self.tolerances.autodiff) for quantity in self.quantities)

    @property
    def right(self) -> bool:
        """Tell whether the errors are within the tolerances.

        An array that is far smaller than the layer's largest derivative also has to agree relative
        to its own size, unless rounding explains that it does not: the terms of a bias before a
        batch norm cancel, and leave nothing but rounding.
        """
        return self.near and (self.alike or self.explained)


@dataclass(frozen=True, slots=True, eq=False)
class GradCheck:
    """What a check found.

    Args:
      title: of the experiment.
      dtype: of the gradients by hand and by autodiff.
      num_images: how many images.
      tolerances: what counts as rounding.
      loss: the name of the cost.
      cost: by hand.
      cost_by_jax: by the network that is trained.
      doubtful: units that rounding puts on another side of a kink in one of them.
      layers: those that were asked for.
      overflows: values exceed float32's range, and not float64's.
    """

    title: str
    dtype: Dtype
    num_images: int
    tolerances: Tolerances
    loss: str
    cost: float
    cost_by_jax: float
    doubtful: int
    layers: tuple[LayerCheck, ...]
    overflows: bool = False

    @property
    def right(self) -> bool:
        """Tell whether no layer is wrong."""
        return all(layer.verdict is not Agreement.WRONG for layer in self.layers)


def _largest(errors: Iterable[float]) -> float:
    """NumPy's, which lets no NaN pass unseen."""
    return float(np.max(list(errors)))
