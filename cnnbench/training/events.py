"""What the engine tells while it trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from cnnbench.runs.cost import Cost
from cnnbench.runs.records import EngineRecord, EpochRecord, SeedSummary


@dataclass(frozen=True, slots=True)
class Compiled:
    """The steps are compiled.

    Args:
      num_params: trained values.
      compile_s: seconds it took.
      compile_cache: `warm` where all programs came from the cache on disk, else `cold`.
      strategy: how it will train, for people.
      engine: the same for the record, as far as it is known by now.
      num_slow: depthwise convolutions of a Python model that `cnnbench.depthwise` makes faster.
    """

    num_params: int
    compile_s: float
    compile_cache: str
    strategy: str
    engine: EngineRecord | None = None
    num_slow: int = 0


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run goes on.

    Args:
      records: the epochs that were trained before it was stopped.
    """

    records: Sequence[EpochRecord]


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


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Snapshot:
    """What a seed has learnt after an epoch, where the job asks for it.

    Args:
      seed: the seed.
      epoch: number of the epoch, from 1.
      weights: by names such as `conv1.kernel`.
    """

    seed: int
    epoch: int
    weights: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """All that a seed's training goes on from after an epoch.

    Args:
      seed: the seed.
      epoch: number of the epoch, from 1.
      values: parameters, other state and the optimiser's, by name.
    """

    seed: int
    epoch: int
    values: Mapping[str, NDArray[Any]]


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
      cost: what the network costs.
    """

    engine: EngineRecord
    cost: Cost


@dataclass(frozen=True, slots=True)
class Tuning:
    """Strategies are being measured, once for this network on this device."""


Event = (
    Tuning
    | Compiled
    | Resumed
    | StepDone
    | EpochRecord
    | Snapshot
    | Checkpoint
    | SeedDone
    | Trained
)
