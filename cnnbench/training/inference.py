"""Inference as pure functions, in evaluation mode."""

from typing import Any

import jax

from cnnbench.nn.submodules import captured
from cnnbench.training.state import Arrays, Indices, Tree
from cnnbench.training.step import StepConfig, cast, merged, pick, results_of, to_float32


def outputs_of(
    params: Tree, rest: Tree, arrays: Arrays, indices: Indices, *, graphdef: Any, rules: StepConfig
) -> jax.Array:
    """Output of the network for the images at `indices`; targets in their own unit."""
    images, _ = pick(arrays, indices, rules)
    output = results_of(graphdef, params, rest, images, {}, rules).output
    found: jax.Array = rules.target_scaling.undo(output) if rules.target_scaling else output
    return found


def outputs_from(
    params: Tree, rest: Tree, values: jax.Array, *, graphdef: Any, rules: StepConfig, layer: str
) -> jax.Array:
    """Output of a graph of layers from the values of one layer, (n, ...)."""
    model = merged(graphdef, params, rest, rules)
    result: jax.Array = to_float32(model.output_from(layer, cast(values, rules.dtype)), rules)
    return result


def activations_of(
    params: Tree, rest: Tree, arrays: Arrays, indices: Indices, *, graphdef: Any, rules: StepConfig
) -> dict[str, jax.Array]:
    """Output of every layer for the images at `indices`.

    The layers of a Python model are its submodules and sown values, in call order.
    """
    images = cast(pick(arrays, indices, rules)[0], rules.dtype)
    model = merged(graphdef, params, rest, rules)
    values = model.activations(images) if rules.prepares else captured(model, images)[1]
    results: dict[str, jax.Array] = to_float32(values, rules)
    return results
