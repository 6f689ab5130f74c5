"""The environment of a run: versions, hardware, devices, settings and git state."""

import dataclasses
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench._version import __version__
from cnnbench.runs.records import Environment, Machine
from cnnbench.system import settings
from cnnbench.system.host import chosen_cpus, load_per_cpu, num_cpus, processor

if TYPE_CHECKING:
    import jax


def environment(devices: "Sequence[jax.Device]", command: Sequence[str]) -> Environment:
    """Collects the environment of a run, without a host name.

    Args:
      devices: the devices to train on.
      command: the command line, word by word.
    """
    commit, dirty = _git_state(Path())
    return Environment(
        **dataclasses.asdict(machine(devices)),
        platform=f"{platform.system()}-{platform.machine()}",
        commit=commit,
        dirty=dirty,
        command=tuple(command),
        load_per_cpu=load_per_cpu(),
        settings=settings.current(),
        num_processes=len({device.process_index for device in devices}),
        cores=chosen_cpus(),
    )


def machine(devices: "Sequence[jax.Device]") -> Machine:
    """Describes the machine that trains, without its name.

    Args:
      devices: the devices to train on.
    """
    device = devices[0]
    return Machine(
        processor=processor(),
        num_cpus=num_cpus(),
        device_kind=device.platform,
        device=device.device_kind if device.platform != "cpu" else processor(),
        num_devices=len(devices),
        python=platform.python_version(),
        cnnbench=__version__,
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
    )


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None, None
    return commit, bool(_git(folder, "status", "--porcelain"))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
