"""Executors for the values of `--on`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cnnbench.errors import UsageError, quoted
from cnnbench.executors.cores import available_cores, divided
from cnnbench.executors.local import LocalExecutor, WorkerPlace
from cnnbench.executors.ray import RayExecutor, require_ray
from cnnbench.executors.ray_worker import Wanted

FORMS = "local, local:N, ray, ray:N, slurm or slurm:N"


class Where(Protocol):
    """Workers for training seeds."""

    def start(self, preload: str) -> LocalExecutor | RayExecutor:
        """Starts the workers.

        Args:
          preload: module that workers import while they wait for their first task.
        """


@dataclass(frozen=True, slots=True)
class On:
    """Workers on this machine.

    Args:
      text: the value of `--on`.
      places: place of each worker process.
    """

    text: str
    places: tuple[WorkerPlace, ...]

    def start(self, preload: str) -> LocalExecutor:
        """Starts the workers.

        Args:
          preload: module that workers import while they wait for their first task.
        """
        return LocalExecutor(self.places, preload)


@dataclass(frozen=True, slots=True)
class OnRay:
    """Workers on a Ray cluster.

    Args:
      text: the value of `--on`.
      wanted: resources per worker.
      workers: number of workers; None for as many as fit.
    """

    text: str
    wanted: Wanted
    workers: int | None

    def start(self, preload: str) -> RayExecutor:
        """Starts the workers.

        Args:
          preload: as in `On.start`.

        Raises:
          UsageError: as in `RayExecutor`.
        """
        return RayExecutor(self.wanted, self.workers, preload)


def parse_on(
    text: str, device: str = "auto", cpus: int | None = None, gpus: float | None = None
) -> On | OnRay:
    """Parses the value of `--on`.

    Args:
      text: the value.
      device: value of `--device`.
      cpus: value of `--cpus`.
      gpus: value of `--gpus`.

    Raises:
      UsageError: unknown executor, more workers than cores or GPUs, or incompatible options.
    """
    if not text or text.startswith("local"):
        _refuse_sizes({"--cpus": cpus, "--gpus": gpus})
    name, colon, number = text.partition(":")
    valid = number.isascii() and number.isdigit() and int(number) > 0 if colon else True
    if name not in {"local", "ray"} or not valid:
        raise UsageError(f"--on: {quoted(text)} is not {FORMS}; write, for example, local:2.")
    if name == "ray":
        return _on_ray(text, device, Wanted(cpus or 1, gpus or 0))
    return _on_local(text, device)


def _refuse_sizes(given: Mapping[str, float | None]) -> None:
    """Rejects options that only Ray supports."""
    for option, value in given.items():
        if value is not None:
            message = f"{option}: applies only to workers on Ray"
            raise UsageError(f"{message}; add --on ray, or choose their number with --on local:N.")


def _on_ray(text: str, device: str, wanted: Wanted) -> OnRay:
    require_ray()
    if wanted.gpus > 1 and wanted.gpus != int(wanted.gpus):
        message = f"--gpus: {wanted.gpus:g} is neither a fraction of one GPU nor a whole number"
        raise UsageError(f"{message}; write, for example, 0.5 or 2.")
    if device == "gpu" and not wanted.gpus:
        raise UsageError("--device gpu: workers on Ray have no GPU; add --gpus 1.")
    number = text.partition(":")[2]
    return OnRay(text, wanted, int(number) if number else None)


def _on_local(text: str, device: str) -> On:
    number = text.partition(":")[2]
    gpus = [] if device == "cpu" else _gpus()
    if gpus:
        return On(text, tuple(_beside_gpus(gpus, int(number or len(gpus)))))
    cores = available_cores()
    return On(text, tuple(WorkerPlace(own) for own in divided(cores, int(number or len(cores)))))


def _gpus() -> list[str]:
    """Indices of the NVIDIA GPUs that JAX would use in this process."""
    platforms = os.environ.get("JAX_PLATFORMS", "") or os.environ.get("JAX_PLATFORM_NAME", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [number for number in visible.split(",") if number not in {"", "-1"}]
    return sorted(p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*"))


def num_workers(text: str, device: str, cpus: int | None, gpus: float | None) -> int | None:
    """Number of workers for a value of `--on`; None for as many as fit on a cluster.

    Args:
      text: the value.
      device: kind of device.
      cpus: number of cores of a worker on Ray.
      gpus: number of GPUs of a worker on Ray.

    Raises:
      UsageError: as `parse_on`.

    >>> num_workers("local:1", "auto", None, None)
    1
    """
    on = parse_on(text, device, cpus, gpus)
    return len(on.places) if isinstance(on, On) else on.workers


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
