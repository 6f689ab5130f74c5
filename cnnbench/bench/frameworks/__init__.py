"""The same network in other frameworks: any `Plan` in PyTorch, Keras 3 and plain Flax NNX.

Each peer is what a good user of that framework would write, starts from our
weights, and gives results in our layout, so that it is an oracle for tests and
a rival for benchmarks. The frameworks are imported by `make_peer` alone.

What stays different, because it is the framework's own: dropout's random
numbers; PyTorch's running variance of batch norm, which is the unbiased one;
`eps` of rmsprop in PyTorch, which is added outside of the square root; Nadam in
PyTorch and Keras, whose momentum follows Dozat's schedule.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnnbench.bench.frameworks.interface import VARIANTS, Family, LayerGradients, Peer
from cnnbench.errors import UsageError, did_you_mean, or_list
from cnnbench.graph.plan import Plan
from cnnbench.layers import BatchNorm
from cnnbench.spec.experiment import Experiment
from cnnbench.system import commands
from cnnbench.system.arrays import Array, LayerWeights

__all__ = [
    "VARIANTS",
    "Family",
    "LayerGradients",
    "Peer",
    "initial_weights",
    "make_peer",
]

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "keras-jax": ("keras",),
    "keras-torch": ("keras", "torch"),
    "flax": (),
}


def make_peer(variant: str, experiment: Experiment, plan: Plan, weights: LayerWeights) -> Peer:
    """Builds a network in another framework.

    Args:
      variant: a key of `VARIANTS`.
      experiment: loss, optimiser and pixel scale; its first seed starts dropout.
      plan: the network.
      weights: initial parameters in our layout, as from `initial_weights`.

    Raises:
      UsageError: no such variant, a package is missing, the framework has no
        such optimiser, or Keras already runs on another backend.
    """
    _check_variant(variant)
    _check_training(experiment, plan)
    family = VARIANTS[variant]
    if family == "torch":
        from cnnbench.bench.frameworks.torch import TorchPeer

        return TorchPeer(variant, experiment, plan, weights)
    if family == "keras":
        _choose_backend(variant)
        from cnnbench.bench.frameworks.keras import KerasPeer

        return KerasPeer(experiment, plan, weights)
    from cnnbench.bench.frameworks.flax import FlaxPeer

    return FlaxPeer(experiment, plan, weights)


def initial_weights(plan: Plan, seed: int) -> LayerWeights:
    """The parameters that our network starts from, batch norm's scale and bias among them.

    Args:
      plan: the network.
      seed: of its `nnx.Rngs`.
    """
    from flax import nnx

    from cnnbench.nn.graph_net import GraphNet

    net = GraphNet(plan, form="plain", rngs=nnx.Rngs(seed))
    found: dict[str, dict[str, Array]] = {}
    for node in plan.nodes:
        part: Any = net.parts[node.name] if isinstance(node.op, BatchNorm) else None
        for key in node.layout.params:
            value = net.weights[node.name][key] if part is None else getattr(part, key)
            found.setdefault(node.name, {})[key] = np.array(value[...])
    return found


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        guess = did_you_mean(variant, VARIANTS)
        message = f"peer '{variant}': there is no such variant{guess}"
        raise UsageError(f"{message}; write {or_list(VARIANTS)}.")
    for package in _PACKAGES.get(variant, (VARIANTS[variant],)):
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            message = f"peer '{variant}': the package '{package}' is not installed"
            raise UsageError(f"{message}; run {commands.pip_install('cnnbench[peers]')}.")


def _check_training(experiment: Experiment, plan: Plan) -> None:
    schedule = experiment.train.schedule.name
    if schedule != "constant":
        message = f"train.schedule: peers train at one learning rate, not by '{schedule}'"
        raise UsageError(f"{message}; write constant.")
    if experiment.train.precision != "float32":
        message = f"train.precision: peers train in float32, not in {experiment.train.precision}"
        raise UsageError(f"{message}; write float32.")
    if plan.samples:
        message = f"model.layers.{plan.samples[0].name}: peers have no divergence in their losses"
        raise UsageError(f"{message}; compare a network without sample.")
    if experiment.train.loss == "binary_cross_entropy" and experiment.dataset.pixel_scale < 255:
        message = "dataset.pixel_scale: peers take binary_cross_entropy of pixels up to 1 only"
        raise UsageError(f"{message}; write 255 or more.")
    if plan.num_params == 0:
        message = "model.layers: the network has no parameters to train"
        raise UsageError(f"{message}; add a layer that has some, such as dense.")


def _choose_backend(variant: str) -> None:
    """Keras reads its backend once, at its first import."""
    backend = variant.removeprefix("keras-")
    keras = sys.modules.get("keras")
    if keras is None:
        os.environ["KERAS_BACKEND"] = backend
    elif keras.config.backend() != backend:
        message = f"peer '{variant}': Keras already runs on {keras.config.backend()} here"
        raise UsageError(f"{message}; start a new process for {backend}.")
