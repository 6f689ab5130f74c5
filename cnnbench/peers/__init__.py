"""The same network in other frameworks; in this tree only the interface, until the peers land."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import UsageError
from cnnbench.graph import Plan
from cnnbench.layers import BatchNorm
from cnnbench.spec import Experiment

Weights = Mapping[str, Mapping[str, NDArray[Any]]]

VARIANTS: Mapping[str, str] = MappingProxyType(
    {
        "torch-eager-nchw": "torch",
        "torch-eager-channels_last": "torch",
        "torch-compile-nchw": "torch",
        "torch-compile-channels_last": "torch",
        "keras-jax": "keras",
        "keras-torch": "keras",
        "flax": "flax",
    }
)


def make_peer(variant: str, experiment: Experiment, plan: Plan, weights: Weights) -> Any:  # noqa: ARG001
    """Builds a network in another framework.

    Raises:
      UsageError: the framework cannot do it.
    """
    raise UsageError(f"peer '{variant}': it is not in this version; leave it out.")


def initial_weights(plan: Plan, seed: int) -> Weights:
    """The parameters that our network starts from, by layer and name."""
    from flax import nnx

    from cnnbench.models import GraphNet

    net = GraphNet(plan, form="plain", rngs=nnx.Rngs(seed))
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for node in plan.nodes:
        part: Any = net.parts[node.name] if isinstance(node.op, BatchNorm) else None
        for key in node.layout.params:
            value = net.weights[node.name][key] if part is None else getattr(part, key)
            found.setdefault(node.name, {})[key] = np.array(value[...])
    return found
