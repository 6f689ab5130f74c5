"""Events that the trainer emits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from cnnbench.runs.cost import Cost
from cnnbench.runs.records import EngineRecord, EpochRecord, Machine, SeedSummary


@dataclass(frozen=True, slots=True)
class Compiled:
    """The training and evaluation steps are compiled.

    Args:
      num_params: number of trainable parameters.
      compile_s: seconds of compilation.
      compile_cache: `warm` if all programs came from the cache on disk, otherwise `cold`.
      strategy: the training strategy as text.
      engine: the strategy for the run's record, as far as it is known.
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
    """An interrupted run was resumed.

    Args:
      records: the epochs trained before the interruption.
    """

    records: Sequence[EpochRecord]


@dataclass(frozen=True, slots=True)
class StepDone:
    """A training step ended; `step` counts from 1 to `num_steps` in each epoch.

    If several seeds are trained in parallel, `seed` is the first of them.
    """

    seed: int
    epoch: int
    step: int
    num_steps: int
    at_once: int = 1


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Snapshot:
    """Weights of a seed after an epoch, if the job requests snapshots.

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
    """State of a seed after an epoch or within one, from which training can resume.

    Args:
      seed: the seed.
      epoch: number of finished epochs.
      values: parameters, other model state and optimizer state, by name; within an epoch also its
        losses and times so far.
      step: number of finished steps of the next epoch.
      machine: what trained the seed up to it; None if unknown.
    """

    seed: int
    epoch: int
    values: Mapping[str, NDArray[Any]]
    step: int = 0
    machine: Machine | None = None


@dataclass(frozen=True, slots=True)
class SeedDone:
    """A seed is trained and tested.

    Args:
      summary: its final, best and test values.
      inputs: the first test images, (n, h, w, c), pixels from 0 to 255.
      outputs: their reconstructions on the same pixel scale; None for classifiers.
      weights: trained weights, by names such as `conv1.kernel`.
      predictions: results for each validation and test image, by names such as `test_accuracy`.
    """

    summary: SeedSummary
    inputs: NDArray[Any]
    outputs: NDArray[Any] | None
    weights: Mapping[str, NDArray[Any]]
    predictions: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """All seeds are trained.

    Args:
      engine: the training strategy and its measurements.
      cost: cost of the network.
    """

    engine: EngineRecord
    cost: Cost


@dataclass(frozen=True, slots=True)
class Tuning:
    """Autotuning has started: strategies are timed, once per network and device."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence for the user, such as a doubt about the chosen engine."""

    text: str


Event = (
    Tuning
    | Remark
    | Compiled
    | Resumed
    | StepDone
    | EpochRecord
    | Snapshot
    | Checkpoint
    | SeedDone
    | Trained
)
