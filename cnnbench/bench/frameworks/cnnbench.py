"""This project's engine behind the interface of the other frameworks."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from cnnbench.bench.frameworks.interface import LayerGradients, TorchSettings, settings_of
from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import Split
from cnnbench.graph.plan import Plan
from cnnbench.spec.experiment import Experiment
from cnnbench.system.arrays import LayerWeights
from cnnbench.system.devices import pick_devices, use_all_cores
from cnnbench.system.host import keep_malloc_arenas
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.autotune import known_choice, measure
from cnnbench.training.executables import Executables, Job, compile_train, set_up
from cnnbench.training.inference import outputs_of
from cnnbench.training.state import Arrays, Network, TrainState, Tree
from cnnbench.training.step import pick
from cnnbench.training.strategy import Strategy


def make_trainer(
    variant: str,
    experiment: Experiment,
    plan: Plan,
    weights: LayerWeights,
    engine: str | None = None,
) -> "OwnTrainer":
    """Our engine as `cnnbench run` uses it, with given initial weights.

    The variant ``cnnbench-bfloat16`` trains with `precision: bfloat16`. The default engine is
    ``CNNBENCH_ENGINE``, or ``auto``.
    """
    if settings_of(variant) is TorchSettings.BFLOAT16:
        train = experiment.train.model_copy(update={"precision": "bfloat16"})
        experiment = experiment.model_copy(update={"train": train})
    use_all_cores(lambda _: None)  # the command has already reported it
    keep_malloc_arenas()
    engine = engine or os.environ.get("CNNBENCH_ENGINE") or "auto"
    return OwnTrainer(experiment, plan, weights, engine)


class OwnTrainer:
    """Trains a plan with this project's engine.

    Args:
      experiment: loss, optimizer and pixel scale.
      plan: the network.
      weights: initial values by layer and name, in the layout of `GraphNet`.
      engine: convolution algorithms, as in `run`.
    """

    def __init__(
        self, experiment: Experiment, plan: Plan, weights: LayerWeights, engine: str
    ) -> None:
        self._experiment, self._plan, self._weights = experiment, plan, weights
        self._engine = engine
        self._setup: Executables | None = None
        self._network: Network
        self._state: TrainState
        self._program: Any = None

    def train(self, images: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        """Train one step per batch; the first call compiles.

        Args:
          images: (steps, batch, h, w, c).
          labels: (steps, batch).

        Returns:
          The loss of each step, (steps,), after the device has finished.
        """
        setup = self._set_up(images[0], labels[0])
        if self._program is None:
            self._program = compile_train(setup, self._network, self._state)
        indices = np.arange(images.shape[1], dtype=np.int32)[None]
        losses: list[jax.Array] = []
        for batch in zip(images, labels, strict=True):
            arrays = setup.place(_arrays(*batch))
            self._state, loss = self._program(self._state, arrays, indices)
            jax.block_until_ready(losses[-1:])  # one step ahead of the device, as in the engine
            losses.append(loss)
        jax.block_until_ready(self._state)
        return np.concatenate(jax.device_get(losses))

    def outputs(self, images: NDArray[Any]) -> NDArray[Any]:
        """Outputs of the network in evaluation mode, (n, ...), for images (n, h, w, c)."""
        labels = np.zeros(len(images), np.int32)
        setup, indices = self._set_up(images, labels), jnp.arange(len(images), dtype=jnp.int32)
        rules = setup.rules(training=False)

        def call(params: Any, rest: Any, arrays: Arrays) -> jax.Array:
            graphdef = self._network.evaluation
            return outputs_of(params, rest, arrays, indices, graphdef=graphdef, rules=rules)

        arrays = setup.place(_arrays(images, labels))
        return np.asarray(jax.jit(call)(self._state.params, self._state.rest, arrays))

    def gradients(self, images: NDArray[Any], labels: NDArray[Any]) -> tuple[float, LayerGradients]:
        """Mean loss and its gradients by layer and name, in evaluation mode."""
        setup, indices = self._set_up(images, labels), jnp.arange(len(images), dtype=jnp.int32)
        rules = setup.rules(training=False)
        inputs, targets = pick(_arrays(images, labels), indices, rules)

        def mean_loss(params: Any) -> jax.Array:
            graphdef = self._network.evaluation
            model: Any = nnx.merge(graphdef, params, self._state.rest, copy=True)
            return rules.loss(model.result(inputs), targets).mean()

        loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(self._state.params)
        tree = nnx.to_pure_dict(gradients)
        layers = tree.get("weights", {}) | tree.get("parts", {})
        return float(loss), jax.tree.map(np.asarray, layers)

    @property
    def strategy(self) -> Strategy:
        """How a step is executed; known after the first one."""
        assert self._setup is not None
        return self._setup.strategy

    @property
    def program_text(self) -> str:
        """The compiled step as HLO, after the first one."""
        return str(self._program.as_text())

    @property
    def repeats(self) -> dict[str, tuple[str, ...]]:
        """Layers that run in a loop, by that of its first repetition; known after a step."""
        network = self._network
        model: Any = nnx.merge(network.training, network.params, network.rest, copy=True)
        return {names[0]: names for loop in model.loops for names in zip(*loop.names, strict=True)}

    def _set_up(self, images: NDArray[Any], labels: NDArray[Any]) -> Executables:
        """Devices and initial state, created once the batch size is known."""
        if self._setup is None:
            job = _job(self._experiment, self._plan, images, labels, self._engine)
            choice = known_choice(job) or measure(job)
            self._setup = set_up(job, choice.strategy)
            network = self._setup.network(self._experiment.seeds[0])
            self._network = _with_weights(network, self._plan, self._weights)
            self._state = self._setup.state(self._network)
        return self._setup


def _job(
    experiment: Experiment, plan: Plan, images: NDArray[Any], labels: NDArray[Any], engine: str
) -> Job:
    """A training job on one batch, which is replaced at every step."""
    labels = _stored(labels)
    batch, none = Split(images, labels), Split(images[:0], labels[:0])
    height, width, channels = plan.input_shape
    info = DatasetInfo("batch", (height, width, channels), 0, len(images), 0, "a batch")
    dataset = Dataset(
        info, train=batch, validation=none, test=none, digest="", stand_in_for=None, source=""
    )
    devices = pick_devices("auto")
    return Job(experiment, plan, Path(), dataset, devices, Stopwatch(), engine)


def _arrays(images: NDArray[Any], labels: NDArray[Any]) -> Arrays:
    return Arrays(jnp.asarray(images), jnp.asarray(_stored(labels)))


def _stored(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels as in `data.Split`: classes as int32; targets and several labels as they are."""
    return labels.astype(np.int32) if labels.ndim == 1 else labels


def _with_weights(network: Network, plan: Plan, weights: LayerWeights) -> Network:
    """The network with other parameters; those of Flax modules are in a separate subtree."""
    return network._replace(
        params=_replaced(network.params, plan, weights, trained=True),
        rest=_replaced(network.rest, plan, weights, trained=False),
    )


def _replaced(state: Tree, plan: Plan, weights: LayerWeights, *, trained: bool) -> Tree:
    """The state with the parameters of trained or of frozen layers replaced."""
    tree: dict[str, dict[str, Any]] = {}
    for name, values in weights.items():
        op = plan.by_name[name].op
        if op.is_trained == trained:
            part = tree.setdefault("parts" if op.uses_batch else "weights", {})
            part[name] = {key: jnp.asarray(value) for key, value in values.items()}
    replaced = nnx.clone(state)
    nnx.replace_by_pure_dict(replaced, tree)
    return replaced
