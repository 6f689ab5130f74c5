"""Selects devices for training: accelerators, or CPU cores as JAX host devices."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import jax
from jax.sharding import AxisType, Mesh

from cnnbench.errors import UsageError
from cnnbench.system import settings
from cnnbench.system.host import free_bytes, num_cpus, peak_memory_bytes

BATCH = "batch"  # mesh axis that splits a batch across devices
MOST_HOST_DEVICES = 16


def use_all_cores(notify: Callable[[str], None]) -> None:
    """Configures one host device per core; no effect once JAX is initialized.

    Args:
      notify: receives a message if an environment variable requests another number.
    """
    count = min(num_cpus(), MOST_HOST_DEVICES)
    wanted = settings.env_setting("jax_num_cpu_devices")
    if wanted and jax.config.values["jax_num_cpu_devices"] != count:
        notify(f"ignoring {wanted}: cnnbench uses one device per available core, here {count}.")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # the calling program has already initialized JAX
        return


def has_started() -> bool:
    """True if JAX has started, so that its threads and devices are fixed."""
    name = "jax_num_cpu_devices"
    number = jax.config.values[name]
    try:  # JAX refuses another number then
        jax.config.update(name, number + 1)
    except RuntimeError:
        return True
    jax.config.update(name, number)
    return False


def pick_devices(kind: str) -> tuple[jax.Device, ...]:
    """All devices of a kind: ``auto``, ``cpu``, ``gpu`` or ``tpu``.

    If several processes train together, the devices of all of them, in their order.

    Raises:
      UsageError: no such device, or JAX is configured to use others.
    """
    try:
        return _cpus() if kind == "cpu" else _devices(None if kind == "auto" else kind)
    except _NONE:
        if kind == "auto" and not _chosen():
            raise
        raise UsageError(_lack(kind)) from None


_NONE = (RuntimeError, AssertionError)  # AssertionError: none of JAX_PLATFORMS exist


def _devices(backend: str | None) -> tuple[jax.Device, ...]:
    if jax.process_count() > 1:
        return tuple(sorted(jax.devices(backend), key=lambda each: (each.process_index, each.id)))
    return tuple(jax.local_devices(backend=backend))


def own_device(devices: Sequence[jax.Device]) -> jax.Device:
    """The first of some devices that belongs to this process."""
    return next(each for each in devices if each.process_index == jax.process_index())


def _cpus() -> tuple[jax.Device, ...]:
    """CPU devices, even if JAX is configured to use other platforms."""
    before = jax.config.values
    try:
        if before["jax_platform_name"] not in {"", "cpu"}:
            jax.config.update("jax_platform_name", "")
        return _devices("cpu")
    except _NONE:
        for choice in (f"{before['jax_platforms']},cpu", "cpu"):
            jax.config.update("jax_platforms", choice)
            with suppress(*_NONE):
                return _devices("cpu")
        raise


def _chosen() -> str:
    """Environment variables that select JAX devices, with their values."""
    return " and ".join(filter(None, map(settings.env_setting, settings.DEVICE_CHOICES)))


def _lack(kind: str) -> str:
    """Message and remedy for a device or variable that is not available."""
    chosen = _chosen()
    if kind == "auto":
        names = " and ".join(
            name.upper() for name in settings.DEVICE_CHOICES if settings.env_setting(name)
        )
        remedy = ", or set it to cpu" if names in {"JAX_PLATFORMS", "JAX_PLATFORM_NAME"} else ""
        return f"{chosen}: JAX finds no such device; unset {names}{remedy}."
    message = f"--device {kind}: JAX finds no {kind} on this machine"
    if chosen:
        return f"{message} with {chosen}; unset it, or use --device auto."
    have = ", ".join(sorted({device.platform for device in jax.devices()}))
    return f"{message}, only {have}; use --device auto."


def make_mesh(devices: Sequence[jax.Device]) -> Mesh | None:
    """One-dimensional mesh of devices; None for a single one."""
    if len(devices) == 1:
        return None
    return jax.make_mesh((len(devices),), (BATCH,), axis_types=(AxisType.Auto,), devices=devices)


def spans_processes(mesh: Mesh) -> bool:
    """True if the devices of a mesh belong to several processes."""
    return len({device.process_index for device in mesh.devices.flat}) > 1


def free_memory(device: jax.Device) -> int | None:
    """Available memory in bytes; None if unknown."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats["bytes_in_use"])
    return free_bytes() if device.platform == "cpu" else None


def peak_memory(device: jax.Device) -> int | None:
    """Peak memory in bytes, of the accelerator or (on a CPU) of this process; None if unknown."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    return int(stats["peak_bytes_in_use"]) if stats else peak_memory_bytes()
