"""PyTorch's side of the GPU benchmark: eager, compiled, and as CUDA graphs, from our weights.

The images stay on the GPU, as in ours, and batches are gathered there by index. Several seeds are
trained as separate networks in turn, or as one network under `torch.vmap` with a seed axis
(PyTorch's tutorial on model ensembling).
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad_and_value, stack_module_state

from benchmarks.gpu_worker import WARM_UP, TrainingSetup, weights_file
from cnnbench.bench.frameworks.torch import build_optimizer, mean_loss
from cnnbench.bench.frameworks.torch_net import TorchNet
from cnnbench.bench.worker import WorkerAnswer, read_weights
from cnnbench.data.batches import batches
from cnnbench.errors import UsageError
from cnnbench.graph.plan import Plan
from cnnbench.runs.experiment import loss_name
from cnnbench.spec.experiment import Experiment, Task
from cnnbench.spec.optimizers import Sgd

VARIANTS = (
    "torch-eager-nchw",
    "torch-eager-channels_last",
    "torch-compile-nchw",
    "torch-compile-channels_last",
    "torch-graphs-nchw",
    "torch-graphs-channels_last",
    "torch-compile-graphs-nchw",
    "torch-compile-graphs-channels_last",
    "torch-vmap",
    "torch-vmap-graphs",
)
StepFunction = Callable[[torch.Tensor], torch.Tensor]  # indices (seeds, batch) to losses (seeds,)


@dataclass(slots=True)
class CountedStep:
    """A training step with its counter."""

    step: StepFunction
    experiment: Experiment
    batch: int
    steps: int = 0


class TorchTrainers:
    """Handles the requests of `benchmarks.gpu`.

    Args:
      folder: folder of the images and the initial weights.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        num = len(np.load(folder / "labels.npy")) * 5 // 7
        images = torch.tensor(np.load(folder / "images.npy")[:num])
        self._images = images.permute(0, 3, 1, 2).contiguous().to(self._device)
        labels = torch.tensor(np.load(folder / "labels.npy")[:num], dtype=torch.int64)
        self._labels = labels.to(self._device)
        self._trainers: dict[str, CountedStep] = {}

    def facts(self, tf32: bool) -> WorkerAnswer:
        """Package versions, after setting the precision of products to JAX's.

        Args:
          tf32: True to allow TF32 for float32 products.
        """
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        on_gpu = self._device.type == "cuda"
        return {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if on_gpu else None,
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        }

    def start(self, training: TrainingSetup) -> WorkerAnswer:
        """Build the networks and train the first steps, which compile everything."""
        began = time.perf_counter()
        loaded = training.load()
        assert loaded.plan is not None
        nets = [self._net(training, loaded.plan, seed) for seed in range(training.seeds)]
        work = Work(self._images, self._labels, loaded.experiment, training)
        captured = "graphs" in training.variant
        if captured and self._device.type != "cuda":
            raise UsageError("CUDA graphs need a GPU")
        prepared = time.perf_counter()
        shared = self._measure_memory()
        step = together(work, nets) if "vmap" in training.variant else one_by_one(work, nets)
        trainer = CountedStep(step, loaded.experiment, training.batch)
        self._trainers[training.key] = trainer
        if captured:
            first = torch.tensor(self._order(trainer, WARM_UP), device=self._device)
            trainer.step, trainer.steps = capture(step, first), WARM_UP
        else:
            self.train(training, 1)
        self._finish()
        compiled = time.perf_counter()
        epoch = len(self._labels) // training.batch
        if not captured:
            self.train(training, WARM_UP - 1)
        return {
            "prepare_s": prepared - began,
            "compile_s": compiled - prepared,
            "memory_mb": self._peak_mb() - shared,
            "epoch_steps": epoch,
            "whole_epochs": False,
            "first_epoch": self.train(training, max(1, epoch - WARM_UP)),
        }

    def train(self, training: TrainingSetup, steps: int) -> WorkerAnswer:
        """Train a number of steps.

        Returns:
          Seconds from the first step until the device has finished, and the mean loss.
        """
        trainer = self._trainers[training.key]
        indices = torch.tensor(self._order(trainer, steps), device=self._device)
        losses = torch.zeros(steps, training.seeds, device=self._device)
        self._finish()
        began = time.perf_counter()
        for number in range(steps):
            losses[number] = trainer.step(indices[number])
        self._finish()
        seconds = time.perf_counter() - began
        trainer.steps += steps
        return {"seconds": seconds, "steps": steps, "loss": float(losses.mean())}

    def _order(self, trainer: CountedStep, steps: int) -> Any:
        """Image indices of the next steps, (steps, seeds, batch)."""
        num, seeds = len(self._labels), trainer.experiment.seeds
        per_epoch = num // trainer.batch
        rows: list[Any] = []
        for step in range(trainer.steps, trainer.steps + steps):
            epoch, part = divmod(step, per_epoch)
            if part == 0 or not rows:
                orders = [batches(seed, epoch + 1, num, trainer.batch) for seed in seeds]
            rows.append(np.stack([order[part] for order in orders]))
        return np.stack(rows).astype(np.int64)

    def _net(self, training: TrainingSetup, plan: Plan, seed: int) -> TorchNet:
        last = training.variant.endswith("channels_last")
        form = torch.channels_last if last else torch.contiguous_format
        weights = read_weights(weights_file(self._folder, training.network, seed))
        net: TorchNet = TorchNet(plan, weights).to(self._device, memory_format=form).train()
        return net

    def _measure_memory(self) -> float:
        """Start measuring the peak; returns the MB in use by images and other networks."""
        if self._device.type != "cuda":
            return math.nan
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated()) / 1e6

    def _peak_mb(self) -> float:
        on_gpu = self._device.type == "cuda"
        return float(torch.cuda.max_memory_allocated()) / 1e6 if on_gpu else math.nan

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


make_trainers = TorchTrainers  # looked up by `benchmarks.gpu_worker`


class Work:
    """Batches and the loss of an experiment.

    Args:
      images: all images, (n, c, h, w), uint8.
      labels: all labels, (n,).
      experiment: loss, optimizer and pixel scale.
      training: precision and layout.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        experiment: Experiment,
        training: TrainingSetup,
    ) -> None:
        self._images, self._labels, self.experiment = images, labels, experiment
        self._loss = loss_name(experiment)
        self._half = training.precision == "bfloat16"
        self.compiled = "compile" in training.variant
        self.last = training.variant.endswith("channels_last")

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled images at indices of any shape, and their targets."""
        images = self._images[indices].float() / self.experiment.dataset.pixel_scale
        if self.last:
            images = images.contiguous(memory_format=torch.channels_last)
        reconstructs = self.experiment.task is Task.RECONSTRUCT
        return images, images if reconstructs else self._labels[indices]

    def loss(self, net: Any, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch, in float32 for any precision of the network."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self._half):
            outputs = net(images)
        return mean_loss(self._loss, outputs.float(), targets)


def one_by_one(work: Work, nets: Sequence[TorchNet]) -> StepFunction:
    """A step of each network in turn, as PyTorch users write it."""
    optimizers = [_fused(build_optimizer(work.experiment.train.optimizer, net)) for net in nets]
    losses = [_loss_of(work, net) for net in nets]

    def step(indices: torch.Tensor) -> torch.Tensor:
        found = []
        for loss_of, optimizer, own in zip(losses, optimizers, indices, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(*work.batch(own))
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    return step


def _fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer with one kernel for all parameters, on a GPU, as PyTorch's users tune it."""
    for group in optimizer.param_groups:
        on_gpu = all(parameter.is_cuda for parameter in group["params"])
        group["fused"], group["foreach"] = on_gpu, False if on_gpu else None
    return optimizer


def _loss_of(work: Work, net: TorchNet) -> Callable[..., torch.Tensor]:
    def loss(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return work.loss(net, images, targets)

    compiled: Callable[..., torch.Tensor] = torch.compile(loss) if work.compiled else loss
    return compiled


def together(work: Work, nets: Sequence[TorchNet]) -> StepFunction:
    """A step of all networks in parallel, with a seed axis in their parameters.

    Raises:
      UsageError: the optimizer is not SGD with momentum, the only one implemented here.
    """
    optimizer = work.experiment.train.optimizer
    if not isinstance(optimizer, Sgd):
        raise UsageError(f"torch.vmap is only measured with sgd, not {optimizer.name}")
    params, buffers = stack_module_state(list(nets))
    base = copy.deepcopy(nets[0])
    momenta = {name: torch.zeros_like(value) for name, value in params.items()}

    def loss(own: Any, rest: Any, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return work.loss(lambda x: functional_call(base, (own, rest), (x,)), images, targets)

    each = torch.vmap(grad_and_value(loss), in_dims=(0, 0, 0, 0), randomness="different")

    def step(indices: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            gradients, losses = each(params, buffers, *work.batch(indices))
            for name, gradient in gradients.items():
                momentum = momenta[name].mul_(optimizer.momentum).add_(gradient)
                ahead = gradient.add(momentum, alpha=optimizer.momentum)
                change = ahead if optimizer.nesterov else momentum
                params[name].sub_(change, alpha=optimizer.learning_rate)
        result: torch.Tensor = losses
        return result

    return step


def capture(step: StepFunction, first: torch.Tensor) -> StepFunction:
    """A step as a CUDA graph, which the GPU replays without the CPU.

    The graph reads the parameters where they were during capture and does not keep them alive.

    Args:
      step: step on indices of a fixed shape, read from a fixed buffer.
      first: indices of the warm-up steps before capture, (steps, seeds, batch), on the GPU.
    """
    indices = first[0].clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for given in first:
            indices.copy_(given)
            step(indices)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step(indices)

    def replay(given: torch.Tensor, *, keep: StepFunction = step) -> torch.Tensor:
        del keep  # owns the parameters
        indices.copy_(given)
        graph.replay()
        return losses

    return replay
