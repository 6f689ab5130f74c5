"""Which devices train: accelerators, or the cores of a CPU as JAX's host devices."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from cnnbench.errors import UsageError
from cnnbench.machine import num_cpus

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
