"""One framework in a process of its own, for `benchmarks.gpu`.

``python -m benchmarks.gpu_worker FOLDER VARIANT MODULE`` reads requests from standard input and
answers on standard output, one JSON object a line; `cnnbench.bench.worker_process` is the other
end. MODULE has `make_trainers`; the methods of what it makes are the requests.
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
WARM_UP = 3  # steps before CUDA captures a graph, as PyTorch's documentation says


@dataclass(frozen=True, slots=True)
class Contestant:
    """What is trained, and how.

    Args:
      network: the experiment's name, or its file without ``.yaml``.
      variant: ``cnnbench``, or a way to train in PyTorch.
      precision: ``float32`` or ``bfloat16``.
      seeds: networks that are trained side by side.
      batch: images in a step.
    """

    network: str
    variant: str
    precision: str
    seeds: int
    batch: int

    @property
    def key(self) -> str:
        """One word for it."""
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
        return load_experiment(EXPERIMENTS / f"{self.network}.yaml", [*own, *overrides])


def weights_file(folder: Path, network: str, seed: int) -> Path:
    """Where the initial parameters of a seed are kept."""
    return folder / f"{Path(network).name}-{seed}.npz"


class Answerer:
    """Answers requests by the methods of a framework's trainers.

    Args:
      trainers: has a method for every request.
    """

    def __init__(self, trainers: Any) -> None:
        self._trainers = trainers

    def answer(self, request: Mapping[str, Any]) -> WorkerAnswer:
        """Does what a request asks for.

        Raises:
          UsageError: the framework cannot do it; its memory or a kernel failed.
        """
        options = dict(request)
        do = options.pop("do")
        if contestant := options.pop("contestant", None):
            options["contestant"] = Contestant(**contestant)
        try:
            answer: WorkerAnswer = getattr(self._trainers, do)(**options)
        except RuntimeError as error:  # of XLA, of CUDA, of PyTorch's compiler
            first = next((line for line in str(error).splitlines() if line.strip()), "no reason")
            raise UsageError(f"{type(error).__name__}: {first.strip()[:300]}") from error
        return answer


def main(arguments: Sequence[str]) -> None:
    """Serves on the standard streams; what libraries print goes to standard error."""
    folder, _, module = arguments
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def make() -> Answerer:
        return Answerer(importlib.import_module(module).make_trainers(Path(folder)))

    serve(make, sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
