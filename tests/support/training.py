"""Training of a job with its events collected, and steps of an optimizer alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnnbench.graph.plan import Plan
from cnnbench.spec.experiment import TrainSpec
from cnnbench.training.events import Event
from cnnbench.training.executables import Job
from cnnbench.training.optim.optimizer import build_optimizer
from cnnbench.training.trainer import Trainer


def run_job(job: Job, meanwhile: Callable[[Event], None] = lambda _: None) -> list[Event]:
    """Train every seed of a job.

    Args:
      job: the job.
      meanwhile: called with each event as it is emitted.

    Returns:
      The events in order.
    """
    events: list[Event] = []

    def emit(event: Event) -> None:
        meanwhile(event)
        events.append(event)

    Trainer(job, emit).run()
    return events


def bowl(parameter: Any) -> Any:
    """Gradient of a bowl, in NumPy, JAX or PyTorch."""
    return 3 * parameter + 0.25


def descend(spec: TrainSpec, plan: Plan, params: Any, steps: int) -> Any:
    """Parameters after a number of steps down the bowl in float64, two per epoch."""
    with jax.enable_x64(True):
        rule = build_optimizer(spec, 2, plan)
        values = jax.tree.map(jnp.asarray, params)
        state = rule.init(values)

        @jax.jit
        def step(values: Any, state: Any) -> Any:
            moves, state = rule.update(jax.tree.map(bowl, values), state, values)
            return optax.apply_updates(values, moves), state

        for _ in range(steps):
            values, state = step(values, state)
    return values
