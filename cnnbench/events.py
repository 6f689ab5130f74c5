"""What the engine tells while it trains."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from cnnbench.results import Engine, EpochRecord, SeedSummary


@dataclass(frozen=True, slots=True)
class Compiled:
    """The steps are compiled.

    Args:
      num_params: trained values.
      compile_s: seconds it took.
      compile_cache: `warm` where all programs came from the cache on disk, else `cold`.
      strategy: how it will train, for people.
    """

    num_params: int
    compile_s: float
    compile_cache: str
    strategy: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """A training step ended; `step` counts from 1 to `num_steps` in each epoch.

    Where several seeds are trained at once, `seed` is the first of them.
    """

    seed: int
    epoch: int
    step: int
    num_steps: int
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class SeedDone:
    """A seed ended.

    Args:
      summary: its final, best and test values.
      inputs: the first test images, (n, h, w, c), pixels from 0 to 255.
      outputs: what the network makes of them, scaled to the same pixels; None
        unless it reconstructs.
      weights: what it has learnt, by names such as `conv1.kernel`.
    """

    summary: SeedSummary
    inputs: NDArray[Any]
    outputs: NDArray[Any] | None
    weights: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Trained:
    """All seeds ended.

    Args:
      engine: how they were trained.
    """

    engine: Engine


@dataclass(frozen=True, slots=True)
class Tuning:
    """Strategies are being measured, once for this network on this device."""


Event = Tuning | Compiled | StepDone | EpochRecord | SeedDone | Trained
