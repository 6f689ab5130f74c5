"""The executor that the option `--on` names."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnbench.errors import UsageError, quoted
from cnnbench.executors.cores import available_cores, divided
from cnnbench.executors.local import LocalExecutor, WorkerPlace

FORMS = "local, local:N, slurm or slurm:N"


@dataclass(frozen=True, slots=True)
class On:
    """Where seeds are trained.

    Args:
      text: the value of `--on`.
      places: where each worker process runs.
    """

    text: str
    places: tuple[WorkerPlace, ...]

    def start(self, preload: str) -> LocalExecutor:
        """Starts the workers.

        Args:
          preload: module that workers import while they wait for their first task.
        """
        return LocalExecutor(self.places, preload)


def parse_on(text: str, device: str = "auto") -> On:
    """Parses the value of `--on`.

    Args:
      text: the value.
      device: value of `--device`.

    Raises:
      UsageError: it names no executor, or more workers than this machine has cores or GPUs.
    """
    name, colon, number = text.partition(":")
    valid = number.isascii() and number.isdigit() and int(number) > 0 if colon else True
    if name != "local" or not valid:
        raise UsageError(f"--on: {quoted(text)} is not {FORMS}; write, for example, local:2.")
    gpus = [] if device == "cpu" else _gpus()
    if gpus:
        return On(text, tuple(_beside_gpus(gpus, int(number or len(gpus)))))
    cores = available_cores()
    return On(text, tuple(WorkerPlace(own) for own in divided(cores, int(number or len(cores)))))


def _gpus() -> list[str]:
    """Numbers of the NVIDIA GPUs that JAX would use in this process."""
    platforms = os.environ.get("JAX_PLATFORMS", "") or os.environ.get("JAX_PLATFORM_NAME", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [number for number in visible.split(",") if number not in {"", "-1"}]
    return sorted(p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*"))


def _beside_gpus(gpus: Sequence[str], workers: int) -> list[WorkerPlace]:
    if workers > len(gpus):
        have = "1 GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs"
        message = f"--on: {workers} workers, but this process sees {have}"
        raise UsageError(f"{message}; write --on local:{len(gpus)}, or add --device cpu.")
    cores = available_cores()
    shares = divided(cores, workers) if workers <= len(cores) else [cores] * workers
    return [
        WorkerPlace(own, {"CUDA_VISIBLE_DEVICES": gpu})
        for own, gpu in zip(shares, gpus[:workers], strict=True)
    ]
