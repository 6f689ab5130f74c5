"""Every operation, loss and optimizer in PyTorch, Keras and plain Flax against our networks."""

import dataclasses
import functools
import importlib.util
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import nnx

from cnnbench.bench import frameworks
from cnnbench.bench.frameworks import VARIANTS, initial_weights, make_trainer
from cnnbench.data.scaling import Scaling
from cnnbench.errors import UsageError
from cnnbench.graph.plan import Plan
from cnnbench.layers import (
    OPERATIONS,
    Activate,
    BatchNorm,
    Dropout,
    DropPath,
    GaussianNoise,
    MaskingNoise,
    SpatialDropout,
)
from cnnbench.layers.parameters import is_kernel
from cnnbench.nn.graph_net import ACTIVATIONS, GraphNet
from cnnbench.nn.ops import convolution
from cnnbench.spec.experiment import LOSSES, Augment, Evaluation, Experiment
from cnnbench.spec.loader import load_experiment
from cnnbench.spec.optimizers import OPTIMIZERS
from cnnbench.system.arrays import LayerWeights
from cnnbench.training.inference import outputs_of
from cnnbench.training.optim.optimizer import build_optimizer
from cnnbench.training.state import Arrays, init_state, split_network
from cnnbench.training.step import make_rules, train_step
from tests.support.oracles import Array, make_plan
from tests.support.paths import ROOT

NUM_IMAGES, NUM_STEPS = 5, 3
TOLERANCE = 1e-4  # relative to the largest entry
Layers = Mapping[str, Mapping[str, Any]]


def conv(**keys: Any) -> dict[str, Any]:
    return {"op": "conv", "filters": 3, "kernel": 3} | keys


def back(**keys: Any) -> dict[str, Any]:
    return {"op": "conv_transpose"} | keys


def dense(units: int = 3, **keys: Any) -> dict[str, Any]:
    return {"op": "dense", "units": units} | keys


FLAT: dict[str, Any] = {"op": "flatten"}
NORM: dict[str, Any] = {"op": "batch_norm", "epsilon": 0.01, "momentum": 0.7}
DROP: dict[str, Any] = {"op": "dropout", "rate": 0.4}

# Images are 9x8 with 2 channels. Networks with an output other than 3 values reconstruct.
CASES: Mapping[str, Layers] = {
    "strides": {
        "a": conv(kernel=[4, 2], stride=[2, 3], padding="same", activation="elu"),
        "b": conv(kernel=[2, 3], padding=[1, 0], use_bias=False, activation="softplus"),
        "c": dense(activation="linear"),
    },
    "pools": {
        "a": conv(kernel=2, padding="same", activation="gelu"),
        "b": {"op": "max_pool", "size": [3, 2]},
        "c": {"op": "avg_pool", "size": 2, "stride": [1, 3], "inputs": "a"},
        "d": dense(4, inputs="b", activation="silu"),
        "e": dense(4, inputs="c", activation="sigmoid", use_bias=False),
        "f": {"op": "concat", "inputs": ["d", "e"]},
        "g": dense(),
    },
    "overlapping windows": {
        "a": {"op": "max_pool", "size": 3, "stride": 2},
        "b": {"op": "avg_pool", "size": [2, 1], "stride": [2, 1]},
        "c": dense(),
    },
    "activations": {
        "a": conv(filters=6, activation="relu6"),
        "b": conv(filters=6, padding="same", activation="hard_silu"),
        "c": conv(filters=6, padding="same", activation="mish"),
        "d": {"op": "max_pool", "size": 2},
        "e": conv(kernel=2, activation="gelu_exact"),
        "f": dense(8, activation="selu"),
        "g": dense(8, activation="hard_sigmoid"),
        "h": dense(),
    },
    "prelu": {
        "a": conv(padding="same"),
        "b": {"op": "prelu", "per_channel": True},
        "c": conv(filters=4, kernel=2),
        "d": {"op": "prelu"},
        "e": FLAT,
        "f": {"op": "prelu", "per_channel": True, "init": -0.5},
        "g": dense(6),
        "h": {"op": "prelu", "per_channel": True},
        "i": dense(),
    },
    "shared weights": {  # modules that are called twice
        "stem": conv(padding="same", filters=4, stride=3),
        "a.0": conv(padding="same", filters=4, use_bias=False),
        "b.0": NORM,
        "c.0": {"op": "prelu", "per_channel": True},
        "a.1": conv(padding="same", filters=4, use_bias=False, weights="a.0"),
        "b.1": NORM | {"weights": "b.0"},
        "c.1": {"op": "prelu", "per_channel": True, "weights": "c.0"},
        "mixed.0": {"op": "attention", "heads": 2},
        "mixed.1": {"op": "attention", "heads": 2, "weights": "mixed.0"},
        "flat": FLAT,
        "d.0": dense(36, activation="tanh"),
        "e.0": NORM,
        "d.1": dense(36, activation="tanh", weights="d.0"),
        "e.1": NORM | {"weights": "e.0"},
        "out": dense(),
    },
    "shared and tied": {
        "a": conv(kernel=[3, 2], padding="same", filters=2, activation="tanh"),
        "b": conv(kernel=[3, 2], padding="same", filters=2, activation="tanh", weights="a"),
        "c": back(tie="b", activation="sigmoid"),
        "d": back(tie="b", activation="sigmoid", weights="c"),
    },
    "norm without parameters": {
        "a": conv(use_bias=False),
        "b": NORM | {"scale": False},
        "c": {"op": "activation", "activation": "leaky_relu"},
        "d": conv(filters=4, kernel=2, use_bias=False),
        "e": NORM | {"center": False},
        "f": dense(6, activation="tanh"),
        "g": NORM | {"scale": False, "center": False},
        "h": dense(),
    },
    "norms of an image": {
        "a": conv(padding="same", filters=6, activation="tanh"),
        "b": {"op": "layer_norm", "epsilon": 0.01},
        "c": {"op": "scale", "value": 0.5},
        "d": {"op": "group_norm", "groups": 3, "epsilon": 0.02},
        "e": {"op": "scale", "value": 0.25, "trainable": False},
        "f": {"op": "layer_norm", "scale": False, "epsilon": 0.01},
        "g": {"op": "group_norm", "groups": 2, "center": False, "epsilon": 0.01},
        "h": {"op": "layer_norm", "scale": False, "center": False, "epsilon": 0.03},
        "i": {"op": "scale", "value": 1.5, "per": "all"},
        "j": dense(),
    },
    "norms of a vector": {
        "a": conv(padding="same", filters=2, activation="tanh"),
        "b": FLAT,
        "c": {"op": "layer_norm", "epsilon": 0.01},
        "d": {"op": "scale", "value": 2.0},
        "e": dense(6, activation="tanh"),
        "one": {"op": "scale", "value": 1.5, "per": "all"},
        "f": {"op": "layer_norm", "center": False, "epsilon": 0.01},
        "g": {"op": "scale", "value": 3.0, "trainable": False},
        "h": dense(),
    },
    "padded pools": {
        "a": conv(padding="same", activation="tanh"),
        "b": {"op": "max_pool", "size": 3, "stride": 2, "padding": 1},
        "c": {"op": "avg_pool", "size": 3, "stride": [2, 1], "padding": 1, "inputs": "a"},
        "d": {
            "op": "avg_pool", "size": [4, 3], "stride": 2, "padding": [2, 1], "inputs": "a",
            "count_include_pad": False,
        },
        "e": dense(4, inputs="b"),
        "f": dense(4, inputs="c"),
        "g": dense(4, inputs="d"),
        "h": {"op": "add", "inputs": ["e", "f", "g"]},
        "i": dense(),
    },
    "same pools": {  # TensorFlow's padding differs between the sides
        "a": conv(padding="same", activation="relu"),
        "b": {"op": "max_pool", "size": [3, 2], "stride": 2, "padding": "same"},
        "c": {"op": "avg_pool", "size": [2, 3], "padding": "same", "inputs": "a"},
        "d": {
            "op": "avg_pool", "size": [2, 3], "padding": "same", "inputs": "a",
            "count_include_pad": False,
        },
        "e": dense(4, inputs="b"),
        "f": dense(4, inputs="c"),
        "g": dense(4, inputs="d"),
        "h": {"op": "add", "inputs": ["e", "f", "g"]},
        "i": dense(),
    },
    "ceiled pools": {
        "a": conv(padding="same", activation="relu"),
        "b": {"op": "max_pool", "size": [2, 3], "stride": [2, 3], "ceil_mode": True},
        "c": {"op": "avg_pool", "size": 4, "stride": 3, "ceil_mode": True, "inputs": "a"},
        "d": {
            "op": "avg_pool", "size": 3, "stride": 3, "padding": 1, "ceil_mode": True,
            "inputs": "a",
        },
        "e": {
            "op": "avg_pool", "size": 3, "stride": 3, "padding": 1, "ceil_mode": True,
            "inputs": "a", "count_include_pad": False,
        },
        "f": {"op": "add", "inputs": ["b", "b"]},
        "g": dense(4, inputs="f"),
        "h": dense(4, inputs="c"),
        "i": {"op": "concat", "inputs": ["d", "e"]},
        "j": dense(4),
        "k": {"op": "add", "inputs": ["g", "h", "j"]},
        "l": dense(),
    },
    "norm": {  # with names of layers in blocks
        "block.a.a": conv(use_bias=False),
        "block.b.b": NORM,
        "block.c.c": {"op": "activation", "activation": "leaky_relu"},
        "block.d.d": FLAT,
        "block.e.e": NORM | {"momentum": 0.0},
        "block.f.f": dense(6, activation="tanh"),
        "block.g.g": NORM,
        "block.h.h": dense(),
    },
    "residual": {
        "a": conv(padding="same", activation="relu"),
        "b": conv(padding="same"),
        "c": {"op": "add", "inputs": ["a", "b", "a"]},
        "d": {"op": "concat", "inputs": ["c", "a"]},
        "e": {"op": "global_avg_pool"},
        "f": dense(),
    },
    "orders": {
        "a": conv(padding="same", filters=2),
        "b": FLAT,
        "c": dense(144, activation="tanh"),
        "d": {"op": "add", "inputs": ["c", "b"]},  # by row and by channel
        "e": {"op": "concat", "inputs": ["b", "d"]},
        "f": NORM,
        "g": {"op": "reshape", "shape": [4, 9, 8], "inputs": "f"},  # unlike any earlier shape
        "h": conv(kernel=2),
        "i": {"op": "reshape", "shape": [2, 12, 3]},
        "j": {"op": "reshape", "shape": [72]},
        "k": DROP,
        "l": dense(),
    },
    "gates": {  # squeeze-and-excitation
        "a": conv(padding="same", filters=4, activation="tanh"),
        "b": {"op": "global_avg_pool"},
        "c": dense(2, activation="tanh"),
        "d": dense(4, activation="sigmoid"),
        "e": {"op": "multiply", "inputs": ["d", "a"]},
        "f": conv(kernel=[9, 8], filters=4, inputs="a"),
        "g": {"op": "multiply", "inputs": ["e", "f", "a", "b"]},
        "h": {"op": "multiply", "inputs": ["f", "b"]},
        "i": {"op": "add", "inputs": ["f", "h"]},
        "j": {"op": "multiply", "inputs": ["g", "i"]},
        "k": dense(),
    },
    "attention": {
        "patches": conv(kernel=2, stride=2, filters=6),
        "mixed": {"op": "attention", "heads": 3},
        "sum": {"op": "add", "inputs": ["patches", "mixed"]},
        "act": {"op": "activation", "activation": "tanh"},
        "again": {"op": "attention", "heads": 1, "use_bias": False},
        "out": dense(),
    },
    "transformer": {
        "patches": conv(kernel=2, stride=2, filters=8),
        "fixed": {"op": "position_embedding", "kind": "sincos2d"},
        "token": {"op": "class_token"},
        "learned": {"op": "position_embedding"},
        "mixed": {"op": "attention", "heads": 4},
        "sum": {"op": "add", "inputs": ["learned", "mixed"]},
        "hidden": conv(kernel=1, filters=5, activation="gelu"),
        "first": {"op": "crop", "cropping": [0, 16, 0, 0]},
        "out": dense(),
    },
    "shares": {
        "a": conv(padding="same", filters=4),
        "b": {"op": "softmax"},
        "c": {"op": "multiply", "inputs": ["a", "b"]},
        "d": FLAT,
        "e": {"op": "softmax"},  # by channel, in PyTorch
        "f": {"op": "multiply", "inputs": ["d", "e"]},
        "g": dense(),
    },
    "largest": {
        "a": conv(padding="same", filters=4, activation="tanh"),
        "b": {"op": "global_max_pool"},
        "c": {"op": "global_avg_pool", "inputs": "a"},
        "d": {"op": "add", "inputs": ["b", "c"]},  # the gate of CBAM
        "e": dense(4, activation="sigmoid"),
        "f": {"op": "multiply", "inputs": ["a", "e"]},
        "g": {"op": "global_max_pool"},
        "h": {"op": "concat", "inputs": ["g", "b"]},
        "i": dense(),
    },
    "products": {
        "a": conv(padding="same", filters=2),
        "b": FLAT,
        "c": dense(144, activation="tanh"),
        "d": {"op": "multiply", "inputs": ["b", "c", "b"]},  # by channel and by row
        "e": {"op": "reshape", "shape": [9, 8, 2]},
        "f": {"op": "slice", "start": 1, "size": 2, "inputs": "b"},
        "g": {"op": "multiply", "inputs": ["e", "f", "a"]},  # a gate by channel
        "h": dense(),
    },
    "slices": {
        "noise": {"op": "gaussian_noise", "stddev": 0.5},
        "mask": {"op": "masking_noise", "rate": 0.5},
        "path": {"op": "drop_path", "rate": 0.5},
        "a": conv(padding="same", filters=4),
        "maps": {"op": "spatial_dropout", "rate": 0.5},
        "b": {"op": "slice", "start": 1, "size": 3},
        "c": FLAT,
        "d": {"op": "slice", "start": 30, "size": 50},  # by row and by channel
        "e": dense(),
    },
    "groups": {
        "a": conv(filters=4, kernel=[4, 2], padding="same", stride=[2, 1]),
        "b": conv(filters=8, groups="depthwise", padding="same", activation="relu"),
        "c": conv(filters=6, groups=2, kernel=1, use_bias=False),
        "d": conv(filters=6, groups="depthwise", kernel=2, stride=2),
        "e": dense(),
    },
    "dilation": {
        "a": conv(filters=4, dilation=2, padding="same"),
        "b": conv(filters=4, dilation=[1, 3], kernel=[3, 2], groups=2, activation="tanh"),
        "c": dense(),
    },
    "edges": {
        "a": {"op": "zero_pad", "padding": [1, 0, 2, 1]},
        "b": conv(filters=4),
        "c": {"op": "zero_pad", "channels": [1, 2]},
        "d": {"op": "crop", "cropping": [2, 1, 0, 1]},
        "e": {"op": "zero_pad", "padding": 1, "channels": [0, 1]},
        "f": dense(),
    },
    "blocks of pixels": {
        "a": conv(padding="same", filters=6),
        "b": {"op": "crop", "cropping": [0, 1, 0, 0]},
        "c": {"op": "space_to_depth", "size": 2},
        "d": {"op": "channel_shuffle", "groups": 3},
        "e": conv(kernel=1, filters=18, activation="tanh"),
        "f": {"op": "depth_to_space", "size": 3},
        "g": dense(),
    },
    "axes": {  # a block of MLP-Mixer, and every kind of order
        "patches": conv(kernel=2, stride=2, filters=5),
        "sequence": {"op": "reshape", "shape": [16, 1, 5]},
        "tokens": {"op": "permute", "order": [3, 2, 1]},
        "mixed": conv(filters=16, kernel=1, activation="gelu"),
        "back": {"op": "permute", "order": [3, 2, 1]},
        "sum": {"op": "add", "inputs": ["sequence", "back"]},
        "cycle": {"op": "permute", "order": [2, 3, 1]},
        "other": {"op": "permute", "order": [2, 3, 1]},
        "pool": {"op": "global_avg_pool"},
        "out": dense(),
    },
    "vector to image": {
        "a": dense(24, activation="relu"),
        "b": DROP,
        "c": {"op": "activation", "activation": "softplus"},
        "d": {"op": "reshape", "shape": [3, 2, 4]},
        "e": {"op": "upscale", "size": [3, 4]},
        "f": conv(padding="same", filters=2),
    },
    "output by row": {"a": conv(kernel=[9, 7], filters=1), "b": dense(6), "c": {
        "op": "reshape", "shape": [1, 3, 2]}, "d": conv(kernel=[1, 3], filters=3), "e": FLAT},
    "flat output": {
        "a": dense(6),
        "b": {"op": "reshape", "shape": [3, 1, 2]},
        "c": {"op": "avg_pool", "size": [1, 1]},
        "d": conv(kernel=[2, 1], stride=[2, 1], filters=3),
        "e": FLAT,
    },
    "tied": {
        "a": conv(kernel=[3, 2], stride=2, activation="tanh"),
        "b": back(tie="a", activation="sigmoid"),
    },
    "tied with remainder": {
        "a": conv(kernel=2, stride=3, padding="same"),
        "b": conv(kernel=2, stride=3),
        "c": back(tie="b", use_bias=False),
        "d": back(tie="a"),
    },
    "tied with padding and remainder": {
        "a": conv(stride=3, padding=1, activation="tanh"),
        "b": back(tie="a"),
    },
    "cut on one side": {
        "a": {"op": "max_pool", "size": 3},
        "b": back(filters=2, kernel=[3, 1], stride=[2, 1], padding="same"),
        "c": dense(4),
        "d": back(inputs="a", filters=2, kernel=[1, 3], stride=[1, 2], padding="same"),
        "e": dense(4),
        "f": {"op": "add", "inputs": ["c", "e"]},
        "g": dense(),
    },
    "tied elsewhere": {  # the adjoint at a size other than the convolution's
        "a": conv(kernel=[4, 3], stride=2, padding="same"),
        "b": {"op": "upscale", "size": 2},
        "c": back(tie="a"),
        "d": dense(),
    },
    "transposed": {
        "a": conv(kernel=2, stride=2),
        "b": back(filters=2, kernel=3, stride=2, padding="same", activation="elu"),
        "c": back(filters=4, kernel=[2, 3], use_bias=False),
        "d": back(filters=2, kernel=3, stride=2, padding=[1, 2]),
        "e": back(filters=2, kernel=[1, 2], stride=[2, 3]),
        "f": back(filters=1, kernel=1, stride=2, padding="same"),
        "g": back(filters=2, kernel=4, stride=1, padding="same"),
        "h": back(filters=2, kernel=5, stride=2, padding="same"),
        "i": {"op": "avg_pool", "size": 7},
        "j": dense(),
    },
    "two ties": {
        "a": conv(kernel=3, padding=1, filters=2),
        "b": back(tie="a"),
        "c": conv(kernel=2),
        "d": back(tie="c"),
        "e": back(tie="a"),
    },
}  # fmt: skip
SHAPE = (9, 8, 2)
RANDOM = Dropout | SpatialDropout | DropPath | GaussianNoise | MaskingNoise
EXPERIMENTS = ("standard", "modified", "autoencoder", "mlp")
SMALL: Layers = {"a": dense(6, activation="tanh"), "b": dense()}
FRAMEWORKS = ("torch-eager-nchw", "torch-eager-channels_last", "keras-jax", "keras-torch", "flax")
# Inherent differences, listed in the docstring of `cnnbench.bench.frameworks`.
OTHER_RULES: Mapping[str, frozenset[str]] = {
    "torch": frozenset({"optimizer rmsprop", "optimizer lamb", "optimizer lars", "optimizer lion"}),
    "keras": frozenset({"decay adam", "optimizer radam", "optimizer lars"}),
    "flax": frozenset(),
}
OTHER_VARIANCE = (
    "norm",
    "norm without parameters",
    "orders",
    "shared weights",
)  # after training with batch norm, in PyTorch


def experiment_of(
    task: str, layers: Layers, pixel_scale: float = 300.0, normalize: Any = None, **train: Any
) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "case",
            "task": task,
            "dataset": {"name": "mnist", "pixel_scale": pixel_scale, "normalize": normalize},
            "model": {"layers": {name: dict(op) for name, op in layers.items()}},
            "train": {"batch_size": NUM_IMAGES} | train,
        }
    )


@functools.cache
def case(name: str) -> tuple[Experiment, Plan]:
    if name in EXPERIMENTS:
        loaded = load_experiment(ROOT / "experiments" / f"{name}.yaml")
        assert loaded.plan is not None
        return loaded.experiment, loaded.plan
    train: dict[str, Any] = {}
    kind, _, choice = name.partition(" ")
    if kind in {"optimizer", "decay"}:
        decay = {"weight_decay": 0.5, "decay_on": "kernels"} if kind == "decay" else {}
        train = {"optimizer": {"name": choice, **decay}}
        return experiment_of("classify", SMALL, **train), make_plan(SMALL, SHAPE, (3,))
    if kind == "loss":
        tied = CASES["tied"]
        return experiment_of("reconstruct", tied, loss=choice), make_plan(tied, SHAPE, SHAPE)
    layers = CASES[name]
    last = layers[list(layers)[-1]]
    vector = last["op"] in ("dense", "flatten")
    plan = make_plan(layers, SHAPE, (3,) if vector else SHAPE)
    # Pixels are large numbers here, and larger steps would diverge.
    train = {} if vector else {"optimizer": {"name": "sgd", "learning_rate": 1e-4}}
    return experiment_of("classify" if vector else "reconstruct", layers, **train), plan


def without_dropout(plan: Plan) -> Plan:
    """The network without dropout and noise."""
    keep = Activate(op="activation", activation="linear")
    nodes = (dataclasses.replace(n, op=keep) if isinstance(n.op, RANDOM) else n for n in plan.nodes)
    return dataclasses.replace(plan, nodes=tuple(nodes))


def weights_of(plan: Plan) -> LayerWeights:
    """Our initial kernels, with biases and scales that are neither zero nor one."""
    rng = np.random.default_rng(5)
    return {
        layer: {
            key: (value if is_kernel(key) else value + rng.uniform(0.1, 0.5, value.shape)).astype(
                np.float32
            )
            for key, value in named.items()
        }
        for layer, named in initial_weights(plan, 3).items()
    }


def images_for(plan: Plan, num: int = NUM_IMAGES) -> tuple[Array, Array]:
    rng = np.random.default_rng(2)
    shape = plan.output_shape
    images = rng.integers(0, 256, (num, *plan.input_shape), np.uint8)
    return images, rng.integers(0, shape[0] if len(shape) == 1 else 10, num, np.int32)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """Reduce XLA's compile time, which dominates these tests."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


class Ours:
    """Our network in one form, with the interface of a trainer."""

    def __init__(
        self,
        form: convolution.EngineName,
        experiment: Experiment,
        plan: Plan,
        weights: LayerWeights,
    ):
        net = GraphNet(plan, form=form, rngs=nnx.Rngs(0))
        for node in plan.nodes:
            for key in node.params:
                part: Any = net.parts if isinstance(node.op, BatchNorm) else net.weights
                value = jnp.asarray(weights[node.name][key])
                if isinstance(node.op, BatchNorm):
                    getattr(part[node.name], key)[...] = value
                else:
                    part[node.name][key][...] = value
        self.plan, self.network = plan, split_network(net)
        self.rules = make_rules(experiment, None)
        self.optimizer = build_optimizer(experiment.train, 1)
        self.state = init_state(self.network, self.optimizer)
        self.evaluation = jax.jit(self._evaluation)

    def train(self, images: Array, labels: Array) -> Array:
        step = jax.jit(
            functools.partial(
                train_step,
                graphdef=self.network.training,
                optimizer=self.optimizer,
                rules=self.rules,
            )
        )
        losses, everything = [], jnp.arange(images.shape[1])
        for batch, targets in zip(images, labels, strict=True):
            arrays = Arrays(jnp.asarray(batch), jnp.asarray(targets))
            self.state, loss = step(self.state, arrays, everything)
            losses.append(float(loss))
        return np.array(losses)

    def outputs(self, images: Array) -> Array:
        return np.asarray(self._evaluate(images, np.zeros(len(images), np.int32))[0])

    def gradients(self, images: Array, labels: Array) -> tuple[float, frameworks.LayerGradients]:
        _, loss, found = self._evaluate(images, labels)
        tree = nnx.to_pure_dict(found)
        every = dict(tree.get("weights", {})) | dict(tree.get("parts", {}))
        return float(loss), jax.tree.map(np.asarray, every)

    def _evaluate(self, images: Array, labels: Array) -> Any:
        """Outputs, loss and gradients in one program."""
        return self.evaluation(self.state.params, self.state.rest, Arrays(images, labels))

    def _evaluation(self, params: Any, rest: Any, arrays: Arrays) -> Any:
        scaled = self.rules.scaling.apply(jnp.asarray(arrays.images, jnp.float32))
        targets = arrays.labels if self.rules.task == "classify" else scaled

        def mean_loss(params: Any) -> jax.Array:
            net = nnx.merge(self.network.evaluation, params, rest, copy=True)
            return self.rules.loss(net.result(scaled), targets).mean()

        everything = jnp.arange(len(scaled))
        outputs = outputs_of(
            params, rest, arrays, everything, graphdef=self.network.evaluation, rules=self.rules
        )
        return outputs, *jax.value_and_grad(mean_loss)(params)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Results of a network for a case."""

    outputs: Array
    loss: float
    gradients: Mapping[str, Mapping[str, Array]]
    losses: Array
    after: Array


Make = Callable[[Experiment, Plan, LayerWeights], Any]


def measure(make: Make, name: str) -> Measured:
    experiment, plan = case(name)
    plan = without_dropout(plan)
    weights = weights_of(plan)
    images, labels = images_for(plan)
    trainer = make(experiment, plan, weights)
    outputs = trainer.outputs(images)
    loss, gradients = trainer.gradients(images, labels)
    many, targets = images_for(plan, NUM_STEPS * NUM_IMAGES)
    steps = many.reshape(NUM_STEPS, NUM_IMAGES, *plan.input_shape)
    losses = trainer.train(steps, targets.reshape(NUM_STEPS, NUM_IMAGES))
    return Measured(outputs, loss, gradients, losses, trainer.outputs(images))


@functools.cache
def ours(form: convolution.EngineName, name: str) -> Measured:
    return measure(functools.partial(Ours, form), name)


@functools.cache
def theirs(variant: str, name: str) -> Measured:
    return measure(functools.partial(make_trainer, variant), name)


def every_case() -> tuple[str, ...]:
    losses = [f"loss {loss}" for loss in LOSSES["reconstruct"]]
    ours = sorted({*OPTIMIZERS} - {"muon"})
    rules = [*(f"optimizer {name}" for name in ours), "decay adam", "decay adamw"]
    return (*CASES, *EXPERIMENTS, *losses, *rules)


def cases_of(variant: str) -> list[str]:
    if variant == "keras-torch":  # the same layers as keras-jax on another backend
        return ["strides", "norm", "orders", "residual", "tied", "vector to image", "standard"]
    if variant == "torch-eager-channels_last":
        return [*CASES, *EXPERIMENTS]  # the rest is tested with the other variant
    return [name for name in every_case() if name not in OTHER_RULES[VARIANTS[variant]]]


def need(variant: str) -> None:
    """Skip if a package is missing, without importing Keras, which would fix its backend."""
    for package in frameworks._PACKAGES.get(variant, (VARIANTS[variant],)):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}, of the peers extra")


def save_measured(variant: str, path: str) -> None:
    """Results from a separate process, for the Keras backend that this process does not use."""
    make = functools.partial(make_trainer, variant)
    found = {name: measure(make, name) for name in cases_of(variant)}
    Path(path).write_bytes(pickle.dumps(found))


@pytest.fixture(scope="session")
def keras_torch(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Measured]:
    path = tmp_path_factory.mktemp("keras") / "measured.pickle"
    code = f"from {__name__} import save_measured; save_measured('keras-torch', {str(path)!r})"
    quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=quick, check=True)
    found: Mapping[str, Measured] = pickle.loads(path.read_bytes())
    return found


def close(got: Any, want: Any, what: str) -> None:
    assert np.shape(got) == np.shape(want), what
    distance = np.abs(np.asarray(got, np.float64) - want).max()
    assert distance <= TOLERANCE * np.abs(want).max(), what


def equal_before_training(got: Measured, want: Measured) -> None:
    close(got.outputs, want.outputs, "outputs")
    close(got.loss, want.loss, "loss")
    assert {layer: set(named) for layer, named in got.gradients.items()} == {
        layer: set(named) for layer, named in want.gradients.items()
    }
    for layer, named in want.gradients.items():
        for key, gradient in named.items():
            assert np.abs(gradient).max() > 0, f"{layer}.{key} is not tested"
            close(got.gradients[layer][key], gradient, f"{layer}.{key}")


def is_slow(variant: str, name: str) -> bool:
    """Layers are the same on Keras' second backend and in PyTorch's second memory format.

    Of Flax and Keras, `make test` compares every third case, and `make proofs` the others.
    """
    if variant in ("flax", "keras-jax"):
        return cases_of(variant).index(name) % 3 > 0
    other_format = variant == "torch-eager-channels_last" and name in CASES
    return variant == "keras-torch" or (other_format and name not in ("orders", "norm", "pools"))


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        pytest.param(variant, name, marks=[pytest.mark.slow] if is_slow(variant, name) else [])
        for variant in FRAMEWORKS
        for name in cases_of(variant)
    ],
)
def test_every_framework_computes_the_same_network(
    variant: str, name: str, request: pytest.FixtureRequest
) -> None:
    need(variant)
    if variant == "keras-torch":
        got = request.getfixturevalue("keras_torch")[name]
    else:
        got = theirs(variant, name)
    want = ours("plain", name)
    equal_before_training(got, want)
    close(got.losses, want.losses, "losses of three steps")
    if VARIANTS[variant] != "torch" or name not in OTHER_VARIANCE:
        close(got.after, want.after, "outputs after training")


@pytest.mark.sampled(20)
@pytest.mark.parametrize("name", [*EXPERIMENTS, *CASES])
def test_our_forms_match_pytorch(name: str) -> None:
    need("torch-eager-nchw")
    got = ours("direct", name)
    want = theirs("torch-eager-nchw", name)
    equal_before_training(got, want)
    close(got.losses, want.losses, "losses of three steps")


def test_the_cases_cover_every_operation_and_activation() -> None:
    layers = [op for layers in CASES.values() for op in layers.values()]
    refused = {"sample", "vector_quantizer"}  # by `make_trainer`: other losses lack their terms
    assert {op["op"] for op in layers} == set(OPERATIONS) - refused
    assert {op.get("activation", "linear") for op in layers} == set(ACTIVATIONS)


# PyTorch's compiler imports a deprecated PyTorch module.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.slow
def test_a_compiled_trainer_trains_the_same() -> None:
    need("torch-compile-nchw")
    got = measure(functools.partial(make_trainer, "torch-compile-nchw"), "tied")
    want = ours("plain", "tied")
    close(got.losses, want.losses, "losses of three steps")
    close(got.after, want.after, "outputs after training")


@pytest.mark.parametrize("variant", [v for v in FRAMEWORKS if v != "keras-torch"])
def test_dropout_is_on_in_training_and_off_after_it(variant: str) -> None:
    need(variant)
    experiment, plan = case("vector to image")
    weights = weights_of(plan)
    images, labels = images_for(plan)
    trainer = make_trainer(variant, experiment, plan, weights)
    still = trainer.gradients(images, labels)[0]
    (first,) = trainer.train(images[None], labels[None])
    assert abs(first - still) > 1e-3 * still
    np.testing.assert_array_equal(trainer.outputs(images), trainer.outputs(images))


def in_training(variant: str, plan: Plan, images: Array) -> Array:
    """Outputs of a framework's network without parameters, in training."""
    if variant.startswith("torch"):
        import torch

        from cnnbench.bench.frameworks.torch_net import TorchNet

        outputs = TorchNet(plan, {}).train()(torch.tensor(images).permute(0, 3, 1, 2))
        return outputs.movedim(1, -1).numpy()
    if variant.startswith("keras"):
        from cnnbench.bench.frameworks.keras_net import build_model

        return np.asarray(build_model(plan, {}, Scaling(1.0), 3)[0](images, training=True))
    from cnnbench.bench.frameworks.flax_net import FlaxNet

    return np.asarray(FlaxNet(plan, {}, nnx.Rngs(3))(jnp.asarray(images)))


@pytest.mark.parametrize("variant", ["torch-eager-nchw", "keras-jax", "flax"])
def test_pixels_are_normalized_by_channel(variant: str) -> None:
    need(variant)
    statistics = {"mean": [0.3, 0.6], "std": [0.2, 0.4]}
    experiment = experiment_of("classify", SMALL, 256.0, normalize=statistics)
    plan = make_plan(SMALL, SHAPE, (3,))
    weights, (images, labels) = weights_of(plan), images_for(plan)
    trainer = make_trainer(variant, experiment, plan, weights)
    x = (images / 255 - statistics["mean"]) / statistics["std"]
    hidden = np.tanh(x.reshape(len(x), -1) @ weights["a"]["kernel"] + weights["a"]["bias"])
    want = hidden @ weights["b"]["kernel"] + weights["b"]["bias"]
    np.testing.assert_allclose(trainer.outputs(images), want, rtol=1e-4, atol=1e-5)
    shares = scipy.special.log_softmax(want, axis=1)
    loss = -shares[np.arange(len(labels)), labels].mean()
    assert trainer.gradients(images, labels)[0] == pytest.approx(loss, rel=1e-5)
    assert trainer.train(images[None], labels[None])[0] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("variant", ["torch-eager-nchw", "keras-jax", "flax"])
def test_whole_channels_and_images_are_dropped(variant: str) -> None:
    need(variant)
    images = np.ones((40, 2, 3, 20), np.float32)
    for op, shape in (("spatial_dropout", (40, 1, 1, 20)), ("drop_path", (40, 1, 1, 1))):
        plan = make_plan({"op": {"op": op, "rate": 0.25}}, (2, 3, 20), (2, 3, 20))
        found = in_training(variant, plan, images)
        one = found[tuple(slice(size) for size in shape)]
        np.testing.assert_array_equal(found, np.broadcast_to(one, found.shape))
        np.testing.assert_allclose(np.unique(one), [0, 4 / 3], rtol=1e-6)
        assert scipy.stats.binomtest(int((one > 0).sum()), one.size, 0.75).pvalue > 0.001


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_pytorch_runs_our_experiments_without_permutations(name: str) -> None:
    need("torch-eager-nchw")
    from cnnbench.bench.frameworks.torch_modules import Permuted, Reorder
    from cnnbench.bench.frameworks.torch_net import TorchNet

    plan = case(name)[1]
    modules = list(TorchNet(plan, weights_of(plan)).modules())
    assert not [m for m in modules if isinstance(m, Permuted)]
    assert all(m.index is None for m in modules if isinstance(m, Reorder))


def test_initial_weights_are_our_networks() -> None:
    plan = case("norm")[1]
    net = GraphNet(plan, form="direct", rngs=nnx.Rngs(7))
    weights = initial_weights(plan, 7)
    assert {n.name: dict(n.layout.params) for n in plan.nodes if n.layout.params} == {
        layer: {key: value.shape for key, value in named.items()}
        for layer, named in weights.items()
    }
    np.testing.assert_array_equal(
        weights["block.f.f"]["kernel"], net.weights["block.f.f"]["kernel"][...]
    )
    np.testing.assert_array_equal(weights["block.b.b"]["scale"], np.ones(3))


def test_pytorch_flattens_by_channel() -> None:
    pytest.importorskip("torch", reason="the peers extra is not installed")
    from cnnbench.bench.frameworks.torch_net import by_channel

    image = np.arange(24).reshape(2, 3, 4)
    want = [image[i, j, c] for c in range(4) for i in range(2) for j in range(3)]
    np.testing.assert_array_equal(image.ravel()[by_channel((2, 3, 4))], want)


# Unsupported requests are refused with a reason.


def refusal(variant: str, experiment: Experiment, plan: Plan | None = None) -> str:
    plan = plan or make_plan(SMALL, SHAPE, (3,))
    with pytest.raises(UsageError) as caught:
        make_trainer(variant, experiment, plan, initial_weights(plan, 0))
    return str(caught.value)


def test_an_unknown_variant() -> None:
    every = (
        "torch-eager-nchw, torch-eager-channels_last, torch-compile-nchw, "
        "torch-compile-channels_last, keras-jax, keras-torch or flax"
    )
    assert refusal("keras-jaks", experiment_of("classify", SMALL)) == (
        f"--against: unknown variant 'keras-jaks' (did you mean 'keras-jax'?); write {every}."
    )


@pytest.mark.parametrize(
    ("variant", "package"),
    [("torch-eager-nchw", "torch"), ("keras-jax", "keras"), ("keras-torch", "keras")],
)
def test_a_missing_package(variant: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert refusal(variant, experiment_of("classify", SMALL)) == (
        f"--against {variant}: the package '{package}' is not installed; "
        "run pip install 'cnnbench[peers]'."
    )


def test_keras_with_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    need("keras-torch")
    config = types.SimpleNamespace(backend=lambda: "jax")
    monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace(config=config))
    assert refusal("keras-torch", experiment_of("classify", SMALL)) == (
        "--against keras-torch: Keras already runs on jax here; start a new process for torch."
    )


@pytest.mark.parametrize(
    ("variant", "library", "name"),
    [
        ("torch-eager-nchw", "PyTorch", "lamb"),
        ("torch-eager-nchw", "PyTorch", "lars"),
        ("torch-eager-nchw", "PyTorch", "lion"),
        ("keras-jax", "Keras", "radam"),
        ("keras-jax", "Keras", "lars"),
    ],
)
def test_optimizers_missing_in_frameworks(variant: str, library: str, name: str) -> None:
    need(variant)
    assert refusal(variant, experiment_of("classify", SMALL, optimizer=name)) == (
        f"train.optimizer: {library} has no '{name}'; choose another optimizer, such as adamw."
    )


def test_muon_is_refused() -> None:
    assert refusal("flax", experiment_of("classify", SMALL, optimizer="muon")) == (
        "train.optimizer: bench does not support muon; choose another optimizer, such as adamw."
    )


@pytest.mark.parametrize("name", ["sgd", "lamb"])
def test_weight_decay_in_keras(name: str) -> None:
    need("keras-jax")
    train: dict[str, Any] = {"optimizer": {"name": name, "weight_decay": 0.1}}
    assert refusal("keras-jax", experiment_of("classify", SMALL, **train)) == (
        f"train.optimizer.weight_decay: Keras' {name} decays weights differently; write 0."
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_learning_rate_schedules_are_refused(variant: str) -> None:
    need(variant)
    assert refusal(variant, experiment_of("classify", SMALL, schedule="cosine")) == (
        "train.schedule: bench only supports a constant learning rate, not 'cosine'; write"
        " constant."
    )


def test_gradient_clipping_is_refused() -> None:
    assert refusal("flax", experiment_of("classify", SMALL, clip={"norm": 1.0})) == (
        "train.clip: bench does not support gradient clipping; remove it."
    )


def test_label_smoothing_is_refused() -> None:
    assert refusal("flax", experiment_of("classify", SMALL, label_smoothing=0.1)) == (
        "train.label_smoothing: bench does not support label smoothing; remove it."
    )


def test_test_time_augmentation_is_refused() -> None:
    experiment = experiment_of("classify", SMALL)
    update = {"evaluation": Evaluation(augment="flip")}
    assert refusal("flax", experiment.model_copy(update=update)) == (
        "evaluation.augment: bench does not support test-time augmentation; remove it."
    )


def test_class_weights_are_refused() -> None:
    experiment = experiment_of("classify", SMALL, class_weights="balanced")
    assert refusal("flax", experiment) == (
        "train.class_weights: bench does not support class weights; remove it."
    )


def test_a_warmup_is_refused() -> None:
    schedule = {"name": "constant", "warmup_epochs": 2}
    assert refusal("flax", experiment_of("classify", SMALL, schedule=schedule)) == (
        "train.schedule.warmup_epochs: bench only supports a constant learning rate; write 0."
    )


def test_parameter_groups_are_refused() -> None:
    groups = [{"layers": "a", "weight_decay": 0}]
    assert refusal("flax", experiment_of("classify", SMALL, groups=groups)) == (
        "train.groups: bench does not support parameter groups; remove it."
    )


def test_averages_are_refused() -> None:
    assert refusal("flax", experiment_of("classify", SMALL, ema={"decay": 0.9})) == (
        "train.ema: bench does not support averages of parameters; remove it."
    )


def test_bfloat16_is_refused() -> None:
    assert refusal("flax", experiment_of("classify", SMALL, precision="bfloat16")) == (
        "train.precision: bench only supports float32, not bfloat16; write float32."
    )


def test_sampling_layers_are_refused() -> None:
    sample = {
        "a": dense(4),
        "b": dense(4, inputs="input"),
        "c": {"op": "sample", "inputs": ["a", "b"]},
    }
    layers: Layers = {**sample, "d": dense()}
    plan = make_plan(layers, SHAPE, (3,))
    assert refusal("flax", experiment_of("classify", layers), plan) == (
        "model.layers.c: bench does not support sampling layers; choose a network without one."
    )


def test_quantizers_are_refused() -> None:
    layers: Layers = {"a": {"op": "vector_quantizer", "codes": 4}, "b": dense()}
    plan = make_plan(layers, SHAPE, (3,))
    assert refusal("flax", experiment_of("classify", layers), plan) == (
        "model.layers.a: bench does not support vector_quantizer; choose a network without one."
    )


def test_keras_refuses_a_stride_with_a_dilation() -> None:
    need("keras-jax")
    layers: Layers = {"a": conv(stride=2, dilation=[1, 2]), "b": dense()}
    plan = make_plan(layers, SHAPE, (3,))
    assert refusal("keras-jax", experiment_of("classify", layers), plan) == (
        "model.layers.a: Keras does not support stride with dilation; remove one of them, or use"
        " other frameworks."
    )


def test_pixels_above_one_are_refused_for_cross_entropy() -> None:
    """PyTorch, and Keras on PyTorch, raise an error where ours continues."""
    experiment = experiment_of("reconstruct", SMALL, 254.0, loss="binary_cross_entropy")
    assert refusal("flax", experiment) == (
        "dataset.pixel_scale: bench needs pixels in [0, 1] for binary_cross_entropy; "
        "write 255 or more."
    )


def test_augmentation_is_refused() -> None:
    experiment = experiment_of("classify", SMALL)
    dataset = experiment.dataset.model_copy(update={"augment": Augment(random_flip="vertical")})
    assert refusal("flax", experiment.model_copy(update={"dataset": dataset})) == (
        "dataset.augment: bench does not support augmentation; remove it."
    )


def test_frozen_layers_are_refused() -> None:
    layers: Layers = {"a": dense(6), "b": {"op": "batch_norm", "trainable": False}, "c": dense()}
    plan = make_plan(layers, SHAPE, (3,))
    assert refusal("flax", experiment_of("classify", layers), plan) == (
        "model.layers.b: bench does not support trainable: false; remove it."
    )


@pytest.mark.parametrize(
    "layers",
    [
        {"a": conv(filters=2), "b": conv(filters=2, weights="a", activation="relu"), "c": dense()},
        {"a": conv(filters=2), "b": conv(filters=2, weights="a"), "c": dense()},
        {"a": conv(filters=2, padding="same", inputs="b"),
         "b": conv(filters=2, padding="same", weights="a", inputs="input"), "c": dense(inputs="a")},
    ],
)  # fmt: skip
def test_modules_that_cannot_be_called_twice_are_refused(layers: Layers) -> None:
    plan = make_plan(layers, SHAPE, (3,))
    assert refusal("flax", experiment_of("classify", layers), plan) == (
        "model.layers.b.weights: bench only shares weights with an earlier layer of the same"
        " options and input shape, unlike 'a'; choose another network."
    )


def test_networks_without_parameters_are_refused() -> None:
    layers: Layers = {"a": {"op": "reshape", "shape": [144]}}
    plan = make_plan(layers, SHAPE, (144,))
    assert refusal("flax", experiment_of("classify", layers), plan) == (
        "model.layers: the network has no trainable parameters; "
        "add a layer with parameters, such as dense."
    )


@pytest.mark.parametrize("variant", ["torch-eager-nchw", "keras-jax"])
@pytest.mark.parametrize(
    "options",
    [
        {"name": "sgd", "momentum": 0.0},
        {"name": "sgd", "nesterov": False},
        {"name": "adam", "nesterov": True},
        {"name": "adamw", "nesterov": True},
        {"name": "rmsprop", "momentum": 0.5},
    ],
    ids=str,
)
def test_options_of_optimizers_are_used(variant: str, options: dict[str, Any]) -> None:
    """Nadam and PyTorch's rmsprop have different update rules; the others match ours."""
    need(variant)
    experiment, plan = experiment_of("classify", SMALL, optimizer=options), case("optimizer sgd")[1]
    weights = weights_of(plan)
    images, labels = images_for(plan, NUM_STEPS * NUM_IMAGES)
    steps = images.reshape(NUM_STEPS, NUM_IMAGES, *SHAPE), labels.reshape(NUM_STEPS, NUM_IMAGES)
    got = make_trainer(variant, experiment, plan, weights).train(*steps)
    want = Ours("plain", experiment, plan, weights).train(*steps)
    own_rule = options.get("nesterov") is True or (variant, options["name"]) == (
        "torch-eager-nchw",
        "rmsprop",
    )
    assert np.abs(got / want - 1).max() < (0.02 if own_rule else TOLERANCE)
