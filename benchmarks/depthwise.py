"""MobileNet with XLA, with shifted products and in eager PyTorch: `python -m benchmarks.depthwise`.

All three start from the same weights and train on the same images, interleaved (A B C, C B A, ...);
ratios are computed per round. XLA and shifted products are the programs of `cnnbench run`.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cnnbench.data.batches import batches
from cnnbench.data.dataset import dataset_of
from cnnbench.runs.weights import Weights
from cnnbench.spec.loader import load_experiment
from cnnbench.system.settings import pinned
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.executables import Job, compile_train, set_up
from cnnbench.training.state import weights_of
from cnnbench.training.strategy import candidates

SPEC = Path(__file__).parents[1] / "experiments" / "python" / "mobilenet.yaml"
EPOCH = 4_000  # images

Train = Callable[[Any], list[float]]  # (steps, batch) indices of images to losses


class ConvNorm(nn.Module):  # type: ignore[misc]
    """The module of the same name in the experiment, with its weights."""

    def __init__(self, weights: Weights, name: str, *, linear: bool, stride: int) -> None:
        super().__init__()
        kernel = torch.tensor(weights[f"{name}.conv.kernel"].transpose(3, 2, 0, 1))
        outputs, inputs, size, _ = kernel.shape
        groups = outputs if inputs == 1 and size > 1 and name != "stem" else 1
        self.conv = nn.Conv2d(
            inputs * groups, outputs, size, stride, size // 2, groups=groups, bias=False
        )
        self.conv.weight.data = kernel
        self.norm = nn.BatchNorm2d(outputs)
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (n, c, h, w) to (n, c, h, w)."""
        y: torch.Tensor = self.norm(self.conv(x))
        return y if self.linear else functional.relu6(y)


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """The module of the same name in the experiment."""

    def __init__(self, weights: Weights, name: str, stride: int) -> None:
        super().__init__()
        names = [part for part in ("expand", "depthwise", "project") if _has(weights, name, part)]
        self.parts = nn.Sequential(
            *(
                ConvNorm(
                    weights,
                    f"{name}.{part}",
                    linear=part == "project",
                    stride=stride if part == "depthwise" else 1,
                )
                for part in names
            )
        )
        inputs = weights[f"{name}.{names[0]}.conv.kernel"].shape
        outputs = weights[f"{name}.project.conv.kernel"].shape[3]
        taken = inputs[3] if names[0] == "depthwise" else inputs[2]
        self.adds = stride == 1 and taken == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (n, c, h, w) to (n, c, h, w)."""
        y: torch.Tensor = self.parts(x)
        return x + y if self.adds else y


def _has(weights: Weights, name: str, part: str) -> bool:
    return f"{name}.{part}.conv.kernel" in weights


class MobileNet(nn.Module):  # type: ignore[misc]
    """The network of the experiment in PyTorch.

    Args:
      weights: initial weights, by their names in a run's `weights.safetensors`.
      strides: strides of the depthwise convolution of each block.
    """

    def __init__(self, weights: Weights, strides: Sequence[int]) -> None:
        super().__init__()
        self.stem = ConvNorm(weights, "stem", linear=False, stride=1)
        self.blocks = nn.Sequential(
            *(InvertedResidual(weights, f"blocks.{i}", s) for i, s in enumerate(strides))
        )
        self.head = ConvNorm(weights, "head", linear=False, stride=1)
        kernel = torch.tensor(weights["classify.kernel"].T)
        self.classify = nn.Linear(*reversed(kernel.shape))
        self.classify.weight.data = kernel
        self.classify.bias.data = torch.tensor(weights["classify.bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (n, c, h, w) to logits (n, classes)."""
        y: torch.Tensor = self.classify(self.head(self.blocks(self.stem(x))).mean((2, 3)))
        return y


STRIDES = (1, 2, 1, 2, 1, 1, 1)


def job_of(*overrides: str) -> Job:
    """The experiment, ready for compilation."""
    loaded = load_experiment(SPEC, overrides)
    dataset = dataset_of(loaded.experiment.dataset, None, print)
    reference = str(loaded.experiment.model.python)
    devices = (jax.devices("cpu")[0],)
    return Job(
        loaded.experiment, None, SPEC.parent, dataset, devices, Stopwatch(), reference=reference
    )


def by_jax(job: Job) -> tuple[Train, Weights]:
    """The training program of `cnnbench run`, and the initial weights."""
    found = candidates(
        None, job.batch_size, job.num_steps, 1, accelerator=False, precision="float32"
    )
    setup = set_up(job, found[0])
    network = setup.network(job.experiment.seeds[0])
    weights = weights_of(network.params, network.rest, layers=False)
    state = setup.state(network)
    program = compile_train(setup, network, state)

    def train(indices: Any) -> list[float]:
        nonlocal state
        losses = []
        for batch in indices:
            state, loss = program(state, setup.arrays, batch[None].astype(np.int32))
            losses.append(float(loss[0]))
        return losses

    return train, weights


def by_torch(job: Job, weights: Weights) -> Train:
    """Training in eager PyTorch; the experiment's optimizer is Adam with PyTorch's defaults."""
    model = MobileNet(weights, STRIDES)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images = torch.tensor(job.dataset.train.images).permute(0, 3, 1, 2)
    labels = torch.tensor(np.asarray(job.dataset.train.labels, np.int64))
    scale = job.experiment.dataset.pixel_scale

    def train(indices: Any) -> list[float]:
        model.train()
        losses = []
        for batch in indices:
            chosen = torch.tensor(batch)
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(images[chosen] / scale), labels[chosen])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    return train


def measure(num_images: int, rounds: int) -> dict[str, Any]:
    """Wall-clock and CPU seconds per epoch of 4,000 images, and their ratios."""
    with pinned():
        job = job_of(f"dataset.train_examples={num_images}")
        xla = job_of(f"dataset.train_examples={num_images}", "model.args={shifted: false}")
        ways: dict[str, Train] = {}
        ways["shifted"], weights = by_jax(job)
        ways["xla"], _ = by_jax(xla)
        ways["torch"] = by_torch(job, weights)
        indices = batches(0, 1, job.num_train, job.batch_size)
        losses = {name: train(indices[:1]) for name, train in ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                start, start_cpu = time.perf_counter(), time.process_time()
                ways[name](indices)
                elapsed, elapsed_cpu = time.perf_counter() - start, time.process_time() - start_cpu
                seconds[name].append(elapsed * EPOCH / indices.size)
                cpu_seconds[name].append(elapsed_cpu * EPOCH / indices.size)
    return {
        "images": num_images,
        "first_loss": losses,
        "load": os.getloadavg()[0],
        "epoch_s": _summary(seconds),
        "epoch_cpu_s": _summary(cpu_seconds),
    }


def _summary(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Medians, and ratios to shifted products computed per round."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: _ratios(times[name], times["shifted"]) for name in ("xla", "torch")}
    return {"median": medians, "over_shifted": ratios}


def _ratios(times: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    found = sorted(a / b for a, b in zip(times, others, strict=True))
    return {"median": statistics.median(found), "least": found[0], "most": found[-1]}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500, help="images per round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps(measure(options.images, options.rounds), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
