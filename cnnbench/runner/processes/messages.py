"""What the leader of several processes sends to the others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Given:
    """What the others need beside the job to make the same one.

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
      digests: of the experiment and the dataset.
      options: other values of the job, by name.
      resume: values of `Resume` without `load`; None for a new run.
      streamed: True if all processes stream the images, however much memory they have.
    """

    number: int
    given: Given
    digests: tuple[str, str]
    options: dict[str, Any]
    resume: dict[str, Any] | None
    streamed: bool


@dataclass(frozen=True, slots=True)
class TrainSeeds:
    """Some seeds of a training are next."""

    number: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """A training is over."""

    number: int


@dataclass(frozen=True, slots=True)
class End:
    """All is over."""
