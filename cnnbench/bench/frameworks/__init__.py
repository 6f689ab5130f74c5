"""The same network in other frameworks: any `Plan` in PyTorch, Keras 3 and plain Flax NNX.

Each trainer is idiomatic code in its framework, starts from our weights and returns results in our
layout, so it serves as an oracle for tests and as a competitor in benchmarks. The frameworks are
only imported by `make_trainer`.

Remaining differences, inherent in the frameworks: random numbers of dropout; the running variance
of PyTorch's batch norm, which is unbiased; `eps` of PyTorch's rmsprop, which is added outside the
square root; Nadam and NAdamW in PyTorch and Keras, whose momentum follows Dozat's schedule.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnnbench.bench.frameworks.interface import (
    VARIANTS,
    Family,
    FrameworkTrainer,
    LayerGradients,
    TorchSettings,
    settings_of,
)
from cnnbench.errors import UsageError, did_you_mean, or_list
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import Conv
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.optimizers import Constant, Muon
from cnnbench.system import commands
from cnnbench.system.arrays import Array, LayerWeights

__all__ = [
    "VARIANTS",
    "Family",
    "FrameworkTrainer",
    "LayerGradients",
    "initial_weights",
    "make_trainer",
]

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "keras-jax": ("keras",),
    "keras-torch": ("keras", "torch"),
    "flax": (),
}


def make_trainer(
    variant: str, experiment: Experiment, plan: Plan, weights: LayerWeights
) -> FrameworkTrainer:
    """Build a network in another framework.

    Args:
      variant: a key of `VARIANTS`.
      experiment: loss, optimizer and pixel scale; its first seed also seeds dropout.
      plan: the network.
      weights: initial parameters in our layout, as from `initial_weights`.

    Raises:
      UsageError: the variant is unknown, a package is missing, the framework does not have
        the optimizer, or Keras already runs on another backend.
    """
    _check_variant(variant)
    _check_training(experiment, plan)
    _check_recipe(experiment)
    family = VARIANTS[variant]
    if family == "torch":
        from cnnbench.bench.frameworks.torch import TorchTrainer

        return TorchTrainer(variant, experiment, plan, weights)
    if family == "keras":
        _check_keras(plan)
        _choose_backend(variant)
        from cnnbench.bench.frameworks.keras import KerasTrainer

        return KerasTrainer(experiment, plan, weights)
    from cnnbench.bench.frameworks.flax import FlaxTrainer

    return FlaxTrainer(experiment, plan, weights)


def initial_weights(plan: Plan, seed: int) -> LayerWeights:
    """Initial parameters of our network, including batch norm's scale and bias.

    Args:
      plan: the network.
      seed: seed of its `nnx.Rngs`.
    """
    from flax import nnx

    from cnnbench.nn.graph_net import GraphNet

    net = GraphNet(plan, form="plain", rngs=nnx.Rngs(seed))
    found: dict[str, dict[str, Array]] = {}
    for node in plan.nodes:
        part: Any = net.parts.get(node.name) if node.op.uses_batch else None
        for key in node.params:
            value = net.weights[node.name][key] if part is None else getattr(part, key)
            found.setdefault(node.name, {})[key] = np.array(value[...])
    return found


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        guess = did_you_mean(variant, VARIANTS)
        message = f"--against: unknown variant '{variant}'{guess}"
        default = [name for name in VARIANTS if settings_of(name) is TorchSettings.DEFAULT]
        raise UsageError(f"{message}; write {or_list(default)}.")
    for package in _PACKAGES.get(variant, (VARIANTS[variant],)):
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            message = f"--against {variant}: the package '{package}' is not installed"
            raise UsageError(f"{message}; run {commands.pip_install('cnnbench[peers]')}.")


def _check_keras(plan: Plan) -> None:
    for node in plan.nodes:
        if isinstance(node.op, Conv) and max(node.op.stride) > 1 and max(node.op.dilation) > 1:
            message = f"model.layers.{node.name}: Keras does not support stride with dilation"
            raise UsageError(f"{message}; remove one of them, or use other frameworks.")


def _check_recipe(experiment: Experiment) -> None:
    train, evaluation = experiment.train, experiment.evaluation
    lacking: Mapping[str, tuple[object, str]] = {
        "dataset.augment": (experiment.dataset.augment, "augmentation"),
        "evaluation.augment": (evaluation.augment, "test-time augmentation"),
        "train.clip": (train.clip, "gradient clipping"),
        "train.label_smoothing": (train.label_smoothing, "label smoothing"),
        "train.groups": (train.groups, "parameter groups"),
        "train.class_weights": (train.class_weights, "class weights"),
        "train.pos_weight": (train.pos_weight, "weights of labels"),
        "dataset.normalize_targets": (
            experiment.dataset.normalize_targets,
            "normalization of targets",
        ),
        "train.ema": (train.ema, "averages of parameters"),
    }
    for place, (value, name) in lacking.items():
        if value:
            raise UsageError(f"{place}: bench does not support {name}; remove it.")


def _check_training(experiment: Experiment, plan: Plan) -> None:
    if isinstance(experiment.train.optimizer, Muon):
        message = "train.optimizer: bench does not support muon"
        raise UsageError(f"{message}; choose another optimizer, such as adamw.")
    schedule, only = experiment.train.schedule, "bench only supports a constant learning rate"
    if not isinstance(schedule, Constant):
        raise UsageError(f"train.schedule: {only}, not '{schedule.name}'; write constant.")
    if schedule.warmup_epochs:
        raise UsageError(f"train.schedule.warmup_epochs: {only}; write 0.")
    if experiment.train.precision != "float32":
        message = f"train.precision: bench only supports float32, not {experiment.train.precision}"
        raise UsageError(f"{message}; write float32.")
    if plan.samples:
        message = f"model.layers.{plan.samples[0].name}: bench does not support sampling layers"
        raise UsageError(f"{message}; choose a network without one.")
    if plan.quantizers:
        message = f"model.layers.{plan.quantizers[0].name}: bench does not support vector_quantizer"
        raise UsageError(f"{message}; choose a network without one.")
    if experiment.train.loss == "binary_cross_entropy" and experiment.dataset.pixel_scale < 255:
        message = "dataset.pixel_scale: bench needs pixels in [0, 1] for binary_cross_entropy"
        raise UsageError(f"{message}; write 255 or more.")
    if frozen := next((node.name for node in plan.nodes if not node.op.is_trained), None):
        message = f"model.layers.{frozen}: bench does not support trainable: false"
        raise UsageError(f"{message}; remove it.")
    if (user := _unlike_owner(plan)) is not None:
        message = (
            f"model.layers.{user.name}.weights: bench only shares weights with an earlier layer"
        )
        why = f"of the same options and input shape, unlike '{user.owner}'"
        raise UsageError(f"{message} {why}; choose another network.")
    if plan.num_params == 0:
        message = "model.layers: the network has no trainable parameters"
        raise UsageError(f"{message}; add a layer with parameters, such as dense.")


def _unlike_owner(plan: Plan) -> Node | None:
    """A layer that cannot be another call of the layer whose weights it uses."""
    made: dict[str, Node] = {}
    for node in plan.nodes:
        made[node.name] = node
        if node.owner != node.name and (
            node.owner not in made or _options(made[node.owner]) != _options(node)
        ):
            return node
    return None


def _options(node: Node) -> object:
    options = node.op.model_dump(exclude={"inputs", "weights", "tie"})
    return options, node.in_shapes, node.kernel_owner


def _choose_backend(variant: str) -> None:
    """Set Keras' backend, which it reads once, when it is first imported."""
    backend = variant.removeprefix("keras-")
    keras = sys.modules.get("keras")
    if keras is None:
        os.environ["KERAS_BACKEND"] = backend
    elif keras.config.backend() != backend:
        message = f"--against {variant}: Keras already runs on {keras.config.backend()} here"
        raise UsageError(f"{message}; start a new process for {backend}.")
