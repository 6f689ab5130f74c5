"""Every operation, loss and optimiser in PyTorch, Keras and plain Flax against our networks."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnbench import ops, peers
from cnnbench.graph import Plan
from cnnbench.layers import Activate, BatchNorm, Dropout
from cnnbench.loader import load_experiment
from cnnbench.models import GraphNet
from cnnbench.optimizers import OPTIMIZERS
from cnnbench.peers import Weights, initial_weights
from cnnbench.spec import Experiment
from cnnbench.steps import make_rules, outputs_of, train_step
from cnnbench.train import Arrays, build_optimizer, init_state, take_apart
from tests.oracles import Array, make_plan

ROOT = Path(__file__).parent.parent
NUM_IMAGES, NUM_STEPS = 5, 3
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

# Images are 9x8 with 2 channels. Those whose output is not 3 values reconstruct them.
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
    "windows that overlap": {
        "a": {"op": "max_pool", "size": 3, "stride": 2},
        "b": {"op": "avg_pool", "size": [2, 1], "stride": [2, 1]},
        "c": dense(),
    },
    "norm": {
        "a": conv(use_bias=False),
        "b": NORM,
        "c": {"op": "activation", "activation": "leaky_relu"},
        "d": FLAT,
        "e": NORM | {"momentum": 0.0},
        "f": dense(6, activation="tanh"),
        "g": NORM,
        "h": dense(),
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
        "g": {"op": "reshape", "shape": [4, 9, 8], "inputs": "f"},  # other than any before it
        "h": conv(kernel=2),
        "i": {"op": "reshape", "shape": [2, 12, 3]},
        "j": {"op": "reshape", "shape": [72]},
        "k": DROP,
        "l": dense(),
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
    "tied elsewhere": {  # the adjoint at another size than the convolution's own
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
EXPERIMENTS = ("standard", "modified", "autoencoder", "mlp")
IN_PROCESS = ("torch-eager-nchw", "torch-eager-channels_last", "keras-jax", "flax")
PEERS = (*IN_PROCESS, "keras-torch")
EXACT_OPTIMIZERS: Mapping[str, frozenset[str]] = {
    # lamb and lion are refused; PyTorch adds rmsprop's eps elsewhere
    "torch": frozenset(OPTIMIZERS) - {"lamb", "lion"},
    "keras": frozenset(OPTIMIZERS),
}


def experiment_of(task: str, layers: Layers, **train: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "case",
            "task": task,
            "dataset": {"name": "mnist", "pixel_scale": 200.0},
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
    layers = CASES[name]
    last = layers[list(layers)[-1]]
    vector = last["op"] in ("dense", "flatten")
    plan = make_plan(layers, SHAPE, (3,) if vector else SHAPE)
    return experiment_of("classify" if vector else "reconstruct", layers), plan


def without_dropout(plan: Plan) -> Plan:
    """The same network, trained as it is evaluated."""
    keep = Activate(op="activation", activation="linear")
    nodes = (
        dataclasses.replace(n, op=keep) if isinstance(n.op, Dropout) else n for n in plan.nodes
    )
    return dataclasses.replace(plan, nodes=tuple(nodes))


def weights_of(plan: Plan) -> Weights:
    """Kernels as we start them, and biases and scales that are neither zero nor one."""
    rng = np.random.default_rng(5)
    return {
        layer: {
            key: (value if key == "kernel" else value + rng.uniform(0.1, 0.5, value.shape)).astype(
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


class Ours:
    """Our network in one form, with the same three verbs."""

    def __init__(self, form: ops.Form, experiment: Experiment, plan: Plan, weights: Weights):
        net = GraphNet(plan, form=form, rngs=nnx.Rngs(0))
        for node in plan.nodes:
            for key in node.layout.params:
                part: Any = net.parts if isinstance(node.op, BatchNorm) else net.weights
                value = jnp.asarray(weights[node.name][key])
                if isinstance(node.op, BatchNorm):
                    getattr(part[node.name], key)[...] = value
                else:
                    part[node.name][key][...] = value
        self.plan, self.network = plan, take_apart(net)
        self.rules = make_rules(experiment, None)
        self.optimizer = build_optimizer(experiment.train, 1)
        self.state = init_state(self.network, self.optimizer)

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
        arrays = Arrays(jnp.asarray(images), jnp.zeros(len(images), jnp.int32))
        call = functools.partial(outputs_of, graphdef=self.network.evaluation, rules=self.rules)
        return np.asarray(
            jax.jit(call)(self.state.params, self.state.rest, arrays, jnp.arange(len(images)))
        )

    def gradients(self, images: Array, labels: Array) -> tuple[float, peers.Gradients]:
        scaled = jnp.asarray(images, jnp.float32) / self.rules.pixel_scale
        targets = jnp.asarray(labels) if self.rules.task == "classify" else scaled

        def mean_loss(params: Any) -> jax.Array:
            net = nnx.merge(self.network.evaluation, params, self.state.rest, copy=True)
            return self.rules.loss(net(scaled), targets).mean()

        loss, found = jax.jit(jax.value_and_grad(mean_loss))(self.state.params)
        tree = nnx.to_pure_dict(found)
        every = dict(tree.get("weights", {})) | dict(tree.get("parts", {}))
        return float(loss), jax.tree.map(np.asarray, every)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a network makes of a case."""

    outputs: Array
    loss: float
    gradients: Mapping[str, Mapping[str, Array]]
    losses: Array
    after: Array


Make = Callable[[Experiment, Plan, Weights], Any]


def measure(make: Make, name: str) -> Measured:
    experiment, plan = case(name)
    plan = without_dropout(plan)
    weights = weights_of(plan)
    images, labels = images_for(plan)
    peer = make(experiment, plan, weights)
    outputs = peer.outputs(images)
    loss, gradients = peer.gradients(images, labels)
    many, targets = images_for(plan, NUM_STEPS * NUM_IMAGES)
    steps = many.reshape(NUM_STEPS, NUM_IMAGES, *plan.input_shape)
    losses = peer.train(steps, targets.reshape(NUM_STEPS, NUM_IMAGES))
    return Measured(outputs, loss, gradients, losses, peer.outputs(images))
