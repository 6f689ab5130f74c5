"""Worker process for one framework, for `benchmarks.gpu`.

``python -m benchmarks.gpu_worker FOLDER VARIANT MODULE`` reads requests from standard input and
writes answers to standard output, one JSON object per line; `cnnbench.bench.worker_process` is the
parent's side. MODULE has `make_trainers`; the methods of its result handle the requests.
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.bench.worker import WorkerAnswer, serve
from cnnbench.errors import UsageError
from cnnbench.spec.loader import Loaded, load_experiment

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
_RESNET = ("zoo/resnet", "dataset.name=mnist")
_VIT = (
    "zoo/vit_tiny",
    "dataset.name=mnist",
    "model.params.patch=4",
    "model.params.patches=49",
    "model.layers.head.units=10",
    "model.layers.head.init=lecun_normal",  # zeros would stop the first gradients
)
# Networks of other datasets, for images of MNIST's size: experiment and overrides.
ADAPTED: Mapping[str, tuple[str, ...]] = {
    "resnet20": _RESNET,
    "resnet8_silu": (
        *_RESNET,
        "model.params.n=1",
        "model.blocks.basic.layers.act.activation=silu",
        "model.blocks.basic.layers.out.activation=silu",
        "model.layers.stem_act.activation=silu",
    ),
    "vit_tiny": _VIT,
    "vit_tiny_depth2": (*_VIT, "model.params.depth=2"),
}
# What is compared with a CPU instead: shallow networks, since a CPU compiles for a minute, and
# smooth ones, since a relu whose sign differs by rounding changes ResNet-20's gradients by 1%.
CHECKED: Mapping[str, str] = {"resnet20": "resnet8_silu", "vit_tiny": "vit_tiny_depth2"}
WARM_UP = 3  # steps before capturing a CUDA graph, as recommended by PyTorch's documentation


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """A network, and the way to train it.

    Args:
      network: name of the experiment or of `ADAPTED`, or a file without ``.yaml``.
      variant: ``cnnbench``, or a way to train in PyTorch.
      precision: ``float32`` or ``bfloat16``.
      seeds: number of networks trained in parallel.
      batch: images per step.
    """

    network: str
    variant: str
    precision: str
    seeds: int
    batch: int

    @property
    def key(self) -> str:
        """Identifier."""
        return f"{self.network}/{self.variant}/{self.precision}/{self.seeds}"

    def load(self, *overrides: str) -> Loaded:
        """The experiment, without reading its dataset."""
        own = [
            f"train.batch_size={self.batch}",
            f"train.precision={self.precision}",
            f"seeds={self.seeds}",
            "dataset.splits=null",
            "dataset.offline=null",
        ]
        experiment, *adapted = ADAPTED.get(self.network, (self.network,))
        return load_experiment(EXPERIMENTS / f"{experiment}.yaml", [*adapted, *own, *overrides])


def weights_file(folder: Path, network: str, seed: int) -> Path:
    """File of the initial parameters of a seed."""
    return folder / f"{Path(network).name}-{seed}.npz"


class Answerer:
    """Handles requests with the methods of a framework's trainers.

    Args:
      trainers: object with a method for every request.
    """

    def __init__(self, trainers: Any) -> None:
        self._trainers = trainers

    def answer(self, request: Mapping[str, Any]) -> WorkerAnswer:
        """Handle a request.

        Raises:
          UsageError: the framework does not support it, ran out of memory or failed in a kernel.
        """
        options = dict(request)
        do = options.pop("do")
        if training := options.pop("training", None):
            options["training"] = TrainingSetup(**training)
        try:
            answer: WorkerAnswer = getattr(self._trainers, do)(**options)
        except RuntimeError as error:  # from XLA, CUDA or PyTorch's compiler
            first = next((line for line in str(error).splitlines() if line.strip()), "no message")
            raise UsageError(f"{type(error).__name__}: {first.strip()[:300]}") from error
        return answer


def main(arguments: Sequence[str]) -> None:
    """Serve requests on the standard streams; output of libraries goes to standard error."""
    folder, _, module = arguments
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def make() -> Answerer:
        return Answerer(importlib.import_module(module).make_trainers(Path(folder)))

    serve(make, sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
