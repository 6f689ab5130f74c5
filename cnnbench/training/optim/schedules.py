"""Learning-rate schedules."""

from collections.abc import Callable, Iterable
from typing import Any, assert_never

import jax.numpy as jnp
import optax

from cnnbench.spec.optimizers import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    depends_on_total,
)


def learning_rate(schedule: Schedule, base: float, epochs: int, steps: int) -> Any:
    """The learning rate, constant or as a function of the step number.

    Args:
      schedule: the learning-rate schedule.
      base: the optimizer's learning rate.
      epochs: total number of epochs.
      steps: steps per epoch.
    """
    total = epochs * steps
    if isinstance(schedule, OneCycle):
        return _one_cycle(schedule, base, total)
    rise = round(schedule.warmup_epochs * steps)
    if depends_on_total(schedule):
        rise = min(rise, total - 1)
    if isinstance(schedule, Cosine):
        start, end = 0.0 if rise else base, base * schedule.final_fraction
        return optax.warmup_cosine_decay_schedule(start, base, rise, total, end)
    after = _after_warmup(schedule, base, epochs, steps, rise)
    if not rise:
        return after
    after = after if callable(after) else optax.constant_schedule(after)
    return optax.join_schedules([optax.linear_schedule(0.0, base, rise), after], [rise])


def _after_warmup(
    schedule: Constant | Linear | Polynomial | Exponential | Step | MultiStep,
    base: float,
    epochs: int,
    steps: int,
    rise: int,
) -> Any:
    """The learning rate, constant or as a function of the number of steps after `rise`."""

    def drop(ends: Iterable[int], factor: float) -> Any:  # epochs are counted from the start
        return optax.piecewise_constant_schedule(base, {e * steps - rise: factor for e in ends})

    match schedule:
        case Constant():
            return base
        case Linear(final_fraction=final):
            return optax.linear_schedule(base, base * final, epochs * steps - rise)
        case Polynomial(power=power, final_fraction=final):
            return optax.polynomial_schedule(base, base * final, power, epochs * steps - rise)
        case Exponential(rate=rate):
            return optax.exponential_decay(base, steps, rate)
        case Step(every=every, factor=factor):
            return drop(range(every, epochs, every), factor)
        case MultiStep(milestones=milestones, factor=factor):
            return drop(milestones, factor)
        case _:
            assert_never(schedule)


def _one_cycle(schedule: OneCycle, most: float, total: int) -> Callable[[Any], Any]:
    """The rates of PyTorch's OneCycleLR; those of optax's function of this name differ."""
    first = most / schedule.div_factor
    final = first / schedule.final_div_factor
    top, last = schedule.pct_start * total - 1, total - 1

    def between(start: float, end: float, fraction: Any) -> Any:
        return end + (start - end) / 2 * (1 + jnp.cos(jnp.pi * fraction))

    def rate(step: Any) -> Any:
        rising = between(first, most, step / (top or 1))
        falling = between(most, final, (step - top) / (last - top))
        return jnp.where(step <= top, rising, falling)

    return rate
