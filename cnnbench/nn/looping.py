"""Runs equal blocks of a network as one loop, so that compilation does not depend on the depth.

Parameters and other state keep the names of the unrolled layers: they are stacked for the loop.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cnnbench.graph.repeats import Loop

Modules = Mapping[str, Any]  # modules by layer
Body = Callable[[Any, Modules, Any], Any]  # of carry, modules and others, to the next carry


def stacked(values: list[Any]) -> Any:
    """Stacks pytrees of the same structure along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)


def repeat(loop: Loop, body: Body, carry: Any, parts: Modules, stacks: Any) -> Any:
    """Runs all repetitions, and updates the state of their modules.

    Args:
      loop: the repetitions.
      body: computes one repetition, with layers named as in the first.
      carry: values that the first repetition reads.
      parts: modules by layer, of all repetitions.
      stacks: what else differs between repetitions, such as weights, along the first axis.

    Returns:
      The carry after the last repetition.
    """
    columns = {first: names for first, names in loop.columns.items() if first in parts}
    split = {first: [nnx.split(parts[name]) for name in names] for first, names in columns.items()}
    states = {first: stacked([state for _, state in each]) for first, each in split.items()}

    def step(carry: Any, own: tuple[Any, Any]) -> tuple[Any, Any]:
        modules = {
            first: nnx.merge(split[first][0][0], state, copy=True)
            for first, state in own[0].items()
        }
        carry = body(carry, modules, own[1])
        return carry, {first: nnx.state(module) for first, module in modules.items()}

    carry, after = lax.scan(step, carry, (states, stacks), length=len(loop.names))
    for first, names in columns.items():
        for number, name in enumerate(names):
            nnx.update(parts[name], jax.tree.map(lambda leaf, at=number: leaf[at], after[first]))
    return carry
