"""Training in PyTorch: eager or compiled, in either memory format, tuned or not."""

from collections.abc import Iterable
from typing import Any, assert_never

import torch
from torch.nn import functional

from cnnbench.bench.frameworks.interface import LayerGradients, TorchSettings, settings_of
from cnnbench.bench.frameworks.torch_net import TorchNet
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


class TorchTrainer:
    """A network in PyTorch, on the GPU if there is one.

    Args:
      variant: a key of `interface.VARIANTS`; ``compile`` compiles model and loss as one function.
        Tuned variants flush denormals in this thread and those that it starts, and use fused
        optimizers.
      experiment: loss, optimizer and pixel scale.
      plan: the network.
      weights: initial parameters, in our layout.
    """

    def __init__(
        self, variant: str, experiment: Experiment, plan: Plan, weights: LayerWeights
    ) -> None:
        torch.manual_seed(experiment.seeds[0])
        settings = settings_of(variant)
        if settings is not TorchSettings.DEFAULT:
            torch.set_flush_denormal(True)
        last = variant.endswith("channels_last")
        self.format = torch.channels_last if last else torch.contiguous_format
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.scaling = experiment.dataset.scaling
        self.offset, self.divisor = (
            torch.tensor(array, device=self.device).reshape(-1, 1, 1)
            for array in (self.scaling.offsets, self.scaling.divisors)
        )
        self.reconstructs = experiment.task is Task.RECONSTRUCT
        self.loss_name = loss_name(experiment)
        self.image_output = len(plan.output_shape) == 3
        self.net = TorchNet(plan, weights).to(self.device, memory_format=self.format)
        self.optimizer = build_optimizer(experiment.train.optimizer, self.net)
        if settings is not TorchSettings.DEFAULT:
            fuse(self.optimizer)
        self.autocast = settings is TorchSettings.BFLOAT16
        compiled = "compile" in variant.split("-")
        self.training_loss = torch.compile(self._loss) if compiled else self._loss

    def train(self, images: Array, labels: Array) -> Array:
        """As `FrameworkTrainer.train`."""
        self.net.train()
        losses = []
        for batch, targets in zip(self._images(images), self._labels(labels), strict=True):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.training_loss(batch, targets)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        result: Array = torch.stack(losses).cpu().numpy()
        return result

    def outputs(self, images: Array) -> Array:
        """As `FrameworkTrainer.outputs`."""
        self.net.eval()
        with torch.no_grad():
            parts = [self._forward(self._scaled(x)) for x in self._chunks(images)]
        outputs = torch.cat(parts)
        outputs = outputs.permute(0, 2, 3, 1) if self.image_output else outputs
        result: Array = outputs.cpu().numpy()
        return result

    def gradients(self, images: Array, labels: Array) -> tuple[float, LayerGradients]:
        """As `FrameworkTrainer.gradients`."""
        self.net.eval()
        loss = self._loss(self._images(images[None])[0], self._labels(labels[None])[0])
        gradients = torch.autograd.grad(loss, self.net.tensors, materialize_grads=True)
        return loss.item(), self.net.in_our_layout(gradients)

    def _images(self, images: Array) -> torch.Tensor:
        """uint8 images on the device, (steps, batch, c, h, w), each batch in the memory format."""
        first = torch.tensor(images).to(self.device).permute(0, 1, 4, 2, 3)
        return first if self.format == torch.channels_last else first.contiguous()

    def _labels(self, labels: Array) -> torch.Tensor:
        dtype = torch.int64 if self.loss_name == "cross_entropy" else torch.float32
        return torch.tensor(labels, dtype=dtype).to(self.device)

    def _chunks(self, images: Array) -> Iterable[torch.Tensor]:
        for start in range(0, len(images), EVAL_BATCH):
            yield self._images(images[None, start : start + EVAL_BATCH])[0]

    def _scaled(self, images: torch.Tensor) -> torch.Tensor:
        if not self.scaling.mean:
            return images.float() / self.scaling.pixel_scale
        return (images.float() - self.offset) / self.divisor

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scaled = self._scaled(images)
        outputs = self._forward(scaled)
        return mean_loss(self.loss_name, outputs, scaled if self.reconstructs else labels)

    def _forward(self, scaled: torch.Tensor) -> torch.Tensor:
        """Outputs in float32, whatever the network computes in."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            outputs: torch.Tensor = self.net(scaled)
        return outputs.float()


def mean_loss(name: str, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss over a batch, as in `losses.per_image_loss`."""
    match name:
        case "cross_entropy":
            return functional.cross_entropy(outputs, targets)
        case "mse":
            return functional.mse_loss(outputs, targets)
        case "mae":
            return functional.l1_loss(outputs, targets)
        case "binary_cross_entropy":
            return functional.binary_cross_entropy(outputs.clamp(1e-7, 1 - 1e-7), targets)
        case "huber":
            return functional.huber_loss(outputs, targets)
        case "binary_cross_entropy_with_logits":
            return functional.binary_cross_entropy_with_logits(outputs, targets)
        case _:
            raise AssertionError(name)


def build_optimizer(spec: Optimizer, net: TorchNet) -> torch.optim.Optimizer:
    """PyTorch's optimizer of the same name with the same hyperparameters.

    Raises:
      UsageError: PyTorch has no optimizer of this name.
    """
    rate, params = spec.learning_rate, _parameter_groups(spec, net)
    match spec:
        case Sgd(momentum=momentum, nesterov=nesterov):
            ahead = nesterov and momentum > 0  # PyTorch rejects nesterov without momentum
            return torch.optim.SGD(params, rate, momentum=momentum, nesterov=ahead)
        case Adam():
            kind = torch.optim.NAdam if spec.nesterov else torch.optim.Adam
            return kind(params, rate, betas=(spec.b1, spec.b2), eps=spec.eps)
        case AdamW(b1=b1, b2=b2, eps=eps, nesterov=True):
            rule = torch.optim.NAdam
            return rule(params, rate, betas=(b1, b2), eps=eps, decoupled_weight_decay=True)
        case AdamW(b1=b1, b2=b2, eps=eps):
            return torch.optim.AdamW(params, rate, betas=(b1, b2), eps=eps)
        case RAdam(b1=b1, b2=b2, eps=eps):
            return torch.optim.RAdam(params, rate, betas=(b1, b2), eps=eps)
        case Adamax(b1=b1, b2=b2, eps=eps):
            return torch.optim.Adamax(params, rate, betas=(b1, b2), eps=eps)
        case RmsProp(decay=decay, eps=eps, momentum=momentum):
            return torch.optim.RMSprop(params, rate, alpha=decay, eps=eps, momentum=momentum)
        case Adagrad(initial_accumulator_value=start, eps=eps):
            return torch.optim.Adagrad(params, rate, initial_accumulator_value=start, eps=eps)
        case Adadelta(rho=rho, eps=eps):
            return torch.optim.Adadelta(params, rate, rho=rho, eps=eps)
        case Lamb() | Lars() | Lion():
            message = f"train.optimizer: PyTorch has no '{spec.name}'"
            raise UsageError(f"{message}; choose another optimizer, such as adamw.")
        case Muon():
            raise AssertionError("refused by make_trainer")
        case _:
            assert_never(spec)


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Update all parameters at once: in one kernel, or in `foreach` loops if there is none."""
    kinds = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad
    fused = type(optimizer) in kinds
    for group in optimizer.param_groups:
        on_cpu = not any(parameter.is_cuda for parameter in group["params"])
        in_one = fused and (on_cpu or not isinstance(optimizer, torch.optim.Adagrad))
        group["foreach"] = not in_one
        if fused:
            group["fused"] = in_one


def _parameter_groups(spec: Optimizer, net: TorchNet) -> list[dict[str, Any]]:
    """Parameters that decay, and the others."""
    groups: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for slots in net.slots.values():
        for name, slot in slots.items():
            decayed = spec.decay_on == "all" or decays(name, slot.parameter.ndim)
            groups[decayed].append(slot.parameter)
    decay = {True: spec.weight_decay, False: 0.0}
    return [{"params": groups[key], "weight_decay": decay[key]} for key in groups if groups[key]]
