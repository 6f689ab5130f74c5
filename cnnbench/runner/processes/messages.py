"""Messages from the leader to the other processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Given:
    """Inputs from which followers build the leader's job.

    Args:
      resolved: the experiment, without defaults or references to other files.
      data_dir: `--data-dir`.
      device: `--device`.
      run: folder of the run, from which checkpoints are read.
    """

    resolved: str
    data_dir: Path | None
    device: str
    run: Path


@dataclass(frozen=True, slots=True)
class Begin:
    """A training begins.

    Args:
      number: its number.
      given: the experiment.
      digests: digests of experiment and dataset.
      options: other values of the job, by name.
      resume: values of `Resume` without `load`; None for a new run.
      streamed: True if all processes stream the images, whatever their memory.
    """

    number: int
    given: Given
    digests: tuple[str, str]
    options: dict[str, Any]
    resume: dict[str, Any] | None
    streamed: bool


@dataclass(frozen=True, slots=True)
class TrainSeeds:
    """The next seeds of a training."""

    number: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """A training is over."""

    number: int


@dataclass(frozen=True, slots=True)
class End:
    """The session is over."""
