"""Which devices train: accelerators, or the cores of a CPU as JAX's host devices."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from cnnbench.errors import UsageError
from cnnbench.machine import num_cpus
from cnnbench.memory import free_bytes, peak_memory_bytes

BATCH = "batch"  # the axis along which devices share a batch
MOST_HOST_DEVICES = 16


def use_all_cores() -> None:
    """Makes a host device of every core; without effect once JAX has started."""
    try:
        jax.config.update("jax_num_cpu_devices", min(num_cpus(), MOST_HOST_DEVICES))
    except RuntimeError:  # a program that uses cnnbench as a library has started JAX itself
        return


def pick_devices(kind: str) -> tuple[jax.Device, ...]:
    """All devices of a kind: ``auto``, ``cpu``, ``gpu`` or ``tpu``.

    Raises:
      UsageError: this machine has none of that kind.
    """
    if kind == "auto":
        return tuple(jax.local_devices())
    try:
        return tuple(jax.local_devices(backend=kind))
    except RuntimeError:
        have = ", ".join(sorted({device.platform for device in jax.devices()}))
        message = f"--device {kind}: JAX finds no {kind} on this machine, but {have}"
        raise UsageError(f"{message}; write --device auto.") from None


def make_mesh(devices: Sequence[jax.Device]) -> Mesh | None:
    """The devices in a row; None for a single one."""
    if len(devices) == 1:
        return None
    return jax.make_mesh((len(devices),), (BATCH,), axis_types=(AxisType.Auto,), devices=devices)


def free_memory(device: jax.Device) -> int | None:
    """Bytes that a training can still take; None where nothing tells."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats["bytes_in_use"])
    return free_bytes() if device.platform == "cpu" else None


def peak_memory(device: jax.Device) -> int | None:
    """The most bytes held so far: by an accelerator, or by this process on a CPU."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    return int(stats["peak_bytes_in_use"]) if stats else peak_memory_bytes()
