"""Worker process for one variant of a framework.

``python -m cnnbench.bench.worker FOLDER VARIANT MODULE [DATA_DIR]`` reads requests from standard
input and writes answers to standard output, one JSON object per line; `worker_process` is the
parent's side. Output of libraries goes to standard error.

FOLDER is shared by all variants: ``spec.yaml``, ``weights.npz`` with ``LAYER/NAME``, and
``images``, ``labels``, ``test_images`` and ``test_labels`` as ``.npy``. JAX is only imported by
variants that use it, so that the memory measured is the framework's.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.batches import batches
from cnnbench.errors import CnnbenchError
from cnnbench.gradcheck.losses import Objective
from cnnbench.spec.experiment import LOSSES, Experiment, Task
from cnnbench.spec.loader import load_experiment
from cnnbench.system.host import peak_memory_bytes
from cnnbench.training.matmul_peak import SIZE, multiplier, product_seconds

PRODUCT = "product-"  # prefix of variants that multiply matrices
WorkerRequest = Mapping[str, Any]
WorkerAnswer = dict[str, Any]


class Trainable(Protocol):
    """Interface of a network that can be trained."""

    def train(self, images: NDArray[np.uint8], labels: NDArray[Any]) -> NDArray[Any]:
        """Train one step per batch and return the losses, blocking until done."""

    def outputs(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Outputs for images, in evaluation mode."""


class RequestHandler(Protocol):
    """Interface of a worker."""

    def answer(self, request: WorkerRequest) -> WorkerAnswer:
        """Handle a request."""


class VariantTrainer:
    """Handles requests to train one variant.

    Args:
      folder: folder shared by all variants.
      variant: name of the variant.
      module: module with its `make_trainer`.
      data_dir: TFDS data directory.
    """

    def __init__(self, folder: Path, variant: str, module: str, data_dir: Path | None) -> None:
        self._folder, self._variant, self._module = folder, variant, module
        self._loaded = load_experiment(folder / "spec.yaml", data_dir=data_dir)
        self._images, self._labels = self._load("images"), self._load("labels")
        train = self._loaded.experiment.train
        self._batch_size = min(train.batch_size, len(self._labels))
        self._step = 0
        self._trainer: Trainable | None = None

    def answer(self, request: WorkerRequest) -> WorkerAnswer:
        """Handle a request."""
        match request["do"]:
            case "start":
                return self._start()
            case "train":
                return self._train(request["steps"])
            case "finish":
                return self._finish()
            case other:
                raise ValueError(f"unknown request: {other}")

    def _load(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self._folder / f"{name}.npy", mmap_mode="r")
        return array

    def _start(self) -> WorkerAnswer:
        start = time.perf_counter()
        make_trainer = importlib.import_module(self._module).make_trainer
        weights = read_weights(self._folder / "weights.npz")
        loaded = self._loaded
        self._trainer = make_trainer(self._variant, loaded.experiment, loaded.plan, weights)
        prepare_s = time.perf_counter() - start
        return {"prepare_s": prepare_s, "compile_s": self._train(1)["seconds"]}

    def _train(self, steps: int) -> WorkerAnswer:
        rows = self._rows(steps)
        images, labels = self._images[rows], self._labels[rows]
        self._step += steps
        assert self._trainer is not None
        start = time.perf_counter()
        losses = self._trainer.train(images, labels)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "loss": float(np.mean(losses))}

    def _rows(self, steps: int) -> NDArray[Any]:
        seed = self._loaded.experiment.seeds[0]
        count, size = len(self._labels), self._batch_size
        rows = []
        for step in range(self._step, self._step + steps):
            epoch, part = divmod(step, count // size)
            rows.append(batches(seed, epoch + 1, count, size)[part])
        return np.stack(rows)

    def _finish(self) -> WorkerAnswer:
        # Before the evaluation, whose memory is not compared.
        memory = peak_memory_bytes()
        images, labels = self._load("test_images"), self._load("test_labels")
        size = min(self._batch_size, len(labels))
        # Full batches only: another batch size would be recompiled.
        starts = range(0, len(labels) - size + 1, size)
        assert self._trainer is not None
        outputs = np.concatenate([self._trainer.outputs(images[i : i + size]) for i in starts])
        count = len(outputs)
        values = metrics(self._loaded.experiment, outputs, images[:count], labels[:count])
        return {"peak_memory_bytes": memory, "metrics": values}


class Multiplier:
    """Handles requests to multiply matrices with one library."""

    def __init__(self, library: str) -> None:
        self._multiply = multiplier(library, SIZE)

    def answer(self, request: WorkerRequest) -> WorkerAnswer:  # noqa: ARG002
        """Seconds of the fastest of a few products, for any request."""
        return {"seconds": product_seconds(self._multiply)}


def metrics(
    experiment: Experiment,
    outputs: NDArray[Any],
    images: NDArray[np.uint8],
    labels: NDArray[Any],
) -> dict[str, float]:
    """Loss, and accuracy of classifiers, on test images; in NumPy for all frameworks."""
    outputs = outputs.astype(np.float64)
    reconstructs = experiment.task is Task.RECONSTRUCT
    target = images / experiment.dataset.pixel_scale if reconstructs else np.asarray(labels)
    name = experiment.train.loss or LOSSES[experiment.task][0]
    loss = Objective(name, target).value(outputs)
    if experiment.task is Task.CLASSIFY:
        return {"accuracy": float(np.mean(outputs.argmax(axis=1) == labels)), "loss": loss}
    return {"loss": loss}


def read_weights(path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Initial weights by layer and name."""
    weights: dict[str, dict[str, NDArray[Any]]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            layer, _, name = key.rpartition("/")
            weights.setdefault(layer, {})[name] = arrays[key]
    return weights


def serve(make: Callable[[], RequestHandler], requests: TextIO, answers: TextIO) -> None:
    """Answer requests until the end of the input.

    A request that the variant does not support is answered with its error; other errors end the
    process.
    """
    worker = make()
    for line in requests:
        try:
            answer = worker.answer(json.loads(line))
        except CnnbenchError as error:
            answer = {"refused": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main(arguments: Sequence[str]) -> None:
    """Serve requests on the standard streams."""
    folder, variant, module, *rest = arguments
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def make() -> RequestHandler:
        if variant.startswith(PRODUCT):
            return Multiplier(variant.removeprefix(PRODUCT))
        return VariantTrainer(Path(folder), variant, module, Path(rest[0]) if rest else None)

    serve(make, sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
