"""What the engine tells while it trains."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from cnnbench.results import EpochRecord, SeedSummary


@dataclass(frozen=True, slots=True)
class Compiled:
    """The steps are compiled, in `compile_s` seconds."""

    num_params: int
    compile_s: float


@dataclass(frozen=True, slots=True)
class StepDone:
    """A training step ended; `step` counts from 1 to `num_steps` in each epoch."""

    seed: int
    epoch: int
    step: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class SeedDone:
    """A seed ended.

    Args:
      summary: its final, best and test values.
      inputs: the first test images, (n, h, w, c), pixels from 0 to 255.
      outputs: what the network makes of them, scaled to the same pixels; None
        unless it reconstructs.
    """

    summary: SeedSummary
    inputs: NDArray[Any]
    outputs: NDArray[Any] | None


Event = Compiled | StepDone | EpochRecord | SeedDone
