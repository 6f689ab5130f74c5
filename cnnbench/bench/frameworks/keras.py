"""Training in Keras 3 with `fit`, on the backend chosen by `bench.frameworks`."""

from collections.abc import Mapping
from typing import Any, assert_never

import keras
import numpy as np

from cnnbench.bench.frameworks.interface import LayerGradients
from cnnbench.bench.frameworks.keras_net import build_model
from cnnbench.errors import UsageError
from cnnbench.graph.plan import Plan
from cnnbench.runs.experiment import loss_name
from cnnbench.spec.experiment import Experiment, Task
from cnnbench.spec.optimizers import (
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lamb,
    Lars,
    Lion,
    Muon,
    Optimizer,
    RAdam,
    RmsProp,
    Sgd,
)
from cnnbench.system.arrays import Array, LayerWeights
from cnnbench.training.optim.optimizer import decays

EVAL_BATCH = 500
Variables = Mapping[str, Mapping[str, keras.Variable]]  # by layer and name


class KerasTrainer:
    """A network in Keras 3, on the backend's default device.

    Args:
      experiment: loss, optimizer and pixel scale.
      plan: the network.
      weights: initial parameters, in our layout.
    """

    def __init__(self, experiment: Experiment, plan: Plan, weights: LayerWeights) -> None:
        dataset, seed = experiment.dataset, experiment.seeds[0]
        self.reconstructs = experiment.task is Task.RECONSTRUCT
        self.model, self.params = build_model(plan, weights, dataset.scaling, seed)
        scale = dataset.pixel_scale if self.reconstructs else 1.0
        self.loss = build_loss(loss_name(experiment), scale)
        optimizer = build_optimizer(experiment.train.optimizer, self.params)
        self.model.compile(optimizer=optimizer, loss=self.loss, jit_compile="auto")

    def train(self, images: Array, labels: Array) -> Array:
        """As `FrameworkTrainer.train`, by `fit`.

        Keras reports the running mean of an epoch's losses; the loss of each step is
        recovered from it, up to the float32 rounding of the mean.
        """
        steps, batch = images.shape[:2]
        joined = images.reshape(steps * batch, *images.shape[2:])
        targets = joined if self.reconstructs else labels.reshape(steps * batch, *labels.shape[2:])
        recorder = _LossRecorder()
        self.model.fit(joined, targets, batch, shuffle=False, verbose=0, callbacks=[recorder])
        self._wait()
        totals = [0.0, *((step + 1) * recorder.means[step] for step in range(steps))]
        return np.diff(totals)

    def outputs(self, images: Array) -> Array:
        """As `FrameworkTrainer.outputs`."""
        return np.asarray(self.model.predict(images, batch_size=EVAL_BATCH, verbose=0))

    def gradients(self, images: Array, labels: Array) -> tuple[float, LayerGradients]:
        """As `FrameworkTrainer.gradients`."""
        targets = images if self.reconstructs else labels
        find = _jax_gradients if keras.config.backend() == "jax" else _torch_gradients
        loss, by_id = find(self.model, self.loss, images, targets)
        found = {
            layer: {key: by_id[id(variable)] for key, variable in named.items()}
            for layer, named in self.params.items()
        }
        return loss, found

    def _wait(self) -> None:
        if keras.config.backend() == "jax":
            import jax

            jax.block_until_ready([variable.value for variable in self.model.variables])
            return
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


class _LossRecorder(keras.callbacks.Callback):
    """Records the running mean loss after each step; Keras calls it from threads, in any order."""

    async_safe = True

    def __init__(self) -> None:
        super().__init__()
        self.means: dict[int, float] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.means[batch] = float(logs["loss"])


def _jax_gradients(
    model: keras.Model, loss: keras.Loss, images: Array, targets: Array
) -> tuple[float, dict[int, Array]]:
    import jax

    def mean_loss(trainable: Any, rest: Any) -> Any:
        outputs, _ = model.stateless_call(trainable, rest, images, training=False)
        return loss(targets, outputs)

    variables = model.trainable_variables
    state = [v.value for v in variables], [v.value for v in model.non_trainable_variables]
    value, gradients = jax.jit(jax.value_and_grad(mean_loss))(*state)
    by_id = {id(v): np.asarray(g) for v, g in zip(variables, gradients, strict=True)}
    return float(value), by_id


def _torch_gradients(
    model: keras.Model, loss: keras.Loss, images: Array, targets: Array
) -> tuple[float, dict[int, Array]]:
    import torch

    variables = model.trainable_variables
    value = loss(targets, model(images, training=False))
    tensors = [variable.value for variable in variables]
    gradients = torch.autograd.grad(value, tensors, materialize_grads=True)
    by_id = {id(v): g.cpu().numpy() for v, g in zip(variables, gradients, strict=True)}
    return value.item(), by_id


def build_loss(name: str, pixel_scale: float) -> keras.Loss:
    """The loss over a batch, as in `losses.per_image_loss`.

    Args:
      name: the loss.
      pixel_scale: divisor of the target images, which are uint8; 1 for other targets.
    """
    match name:
        case "cross_entropy":
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        case "mse":
            return _OfPixels(keras.losses.MeanSquaredError(), pixel_scale)
        case "mae":
            return _OfPixels(keras.losses.MeanAbsoluteError(), pixel_scale)
        case "binary_cross_entropy":
            return _OfPixels(keras.losses.BinaryCrossentropy(), pixel_scale)
        case "huber":
            return _OfPixels(keras.losses.Huber(delta=1.0), pixel_scale)
        case "binary_cross_entropy_with_logits":
            return _OfPixels(keras.losses.BinaryCrossentropy(from_logits=True), pixel_scale)
        case _:
            raise AssertionError(name)


class _OfPixels(keras.losses.Loss):
    """A loss with uint8 target images, which take a quarter of the memory of float32."""

    def __init__(self, loss: keras.Loss, pixel_scale: float) -> None:
        super().__init__()
        self.loss, self.pixel_scale = loss, pixel_scale

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.loss.call(y_true / self.pixel_scale, y_pred)


def build_optimizer(spec: Optimizer, params: Variables) -> keras.optimizers.Optimizer:
    """Keras' optimizer of the same name with the same hyperparameters.

    Args:
      spec: the optimizer.
      params: parameters by layer and name.

    Raises:
      UsageError: Keras has no optimizer of this name, or one with a different update rule.
    """
    if spec.weight_decay and not isinstance(spec, AdamW | Lion):  # Keras' decay is decoupled
        message = f"train.optimizer.weight_decay: Keras' {spec.name} decays weights differently"
        raise UsageError(f"{message}; write 0.")
    rule = _rule(spec)
    if spec.weight_decay and spec.decay_on == "kernels":
        named = [item for variables in params.values() for item in variables.items()]
        others = [value for key, value in named if not decays(key, len(value.shape))]
        rule.exclude_from_weight_decay(var_list=others)
    return rule


def _rule(spec: Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer, with weight decay of all parameters."""
    rate, make = spec.learning_rate, keras.optimizers
    match spec:
        case Sgd(momentum=momentum, nesterov=nesterov):
            return make.SGD(rate, momentum=momentum, nesterov=nesterov)
        case Adam(b1=b1, b2=b2, eps=eps, nesterov=nesterov):
            kind = make.Nadam if nesterov else make.Adam
            return kind(rate, beta_1=b1, beta_2=b2, epsilon=eps)
        case AdamW(b1=b1, b2=b2, eps=eps, weight_decay=decay):
            kind = make.Nadam if spec.nesterov else make.AdamW
            return kind(rate, weight_decay=decay, beta_1=b1, beta_2=b2, epsilon=eps)
        case Adamax(b1=b1, b2=b2, eps=eps):
            return make.Adamax(rate, beta_1=b1, beta_2=b2, epsilon=eps)
        case RmsProp(decay=decay, eps=eps, momentum=momentum):
            return make.RMSprop(rate, rho=decay, momentum=momentum, epsilon=eps)
        case Adagrad(initial_accumulator_value=start, eps=eps):
            return make.Adagrad(rate, initial_accumulator_value=start, epsilon=eps)
        case Adadelta(rho=rho, eps=eps):
            return make.Adadelta(rate, rho=rho, epsilon=eps)
        case Lamb(b1=b1, b2=b2, eps=eps):
            return make.Lamb(rate, beta_1=b1, beta_2=b2, epsilon=eps)
        case Lion(b1=b1, b2=b2, weight_decay=decay):
            return make.Lion(rate, beta_1=b1, beta_2=b2, weight_decay=decay)
        case RAdam() | Lars():
            message = f"train.optimizer: Keras has no '{spec.name}'"
            raise UsageError(f"{message}; choose another optimizer, such as adamw.")
        case Muon():
            raise AssertionError("refused by make_trainer")
        case _:
            assert_never(spec)
