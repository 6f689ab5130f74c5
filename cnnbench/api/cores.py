"""Cores of `run`: what ``--cores`` does, in a process that may use JAX already."""

import sys

from cnnbench.cli.processes import limit_cores
from cnnbench.errors import UsageError


class _State:
    """The cores that this process keeps to, as a number."""

    number: int | None = None


def keep_to_cores(number: int | None, on: str | None) -> None:
    """Restricts this process, and what it starts, to some cores until it ends.

    Args:
      number: number of cores; None for those that it has.
      on: `on` of `run`.

    Raises:
      UsageError: there are fewer cores, or JAX has started, whose threads and devices are fixed.
    """
    if number is None or number == _State.number:
        return
    if number < 1:
        raise UsageError(f"cores: {number} is not positive; use 1 or more.")
    if _State.number is not None:
        message = f"cores: this process keeps to {_State.number} until it ends"
        raise UsageError(f"{message}; write cores={_State.number}, or start another process.")
    if _has_jax_started():
        message = "cores: JAX has started in this process, with threads for all of its cores"
        raise UsageError(f"{message}; call run with cores first, in a new process.")
    limit_cores(number, on=on)
    _State.number = number


def _has_jax_started() -> bool:
    if "jax" not in sys.modules:
        return False
    from cnnbench.system.devices import has_started

    return has_started()
