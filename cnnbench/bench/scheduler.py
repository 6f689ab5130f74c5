"""Interleaved training of one network in several frameworks.

Each variant has its own process, which stays alive and idle while the others train. Only one
trains at a time; the order alternates from round to round.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.bench.measurements import (
    OWN,
    OWN_BFLOAT16,
    Benchmark,
    Measurement,
    Product,
    VariantStatus,
    plan_rounds,
    take_turns,
)
from cnnbench.bench.worker import PRODUCT
from cnnbench.bench.worker_process import BenchVariant, LostError, RefusedError, Worker, closing_all
from cnnbench.data.splits import Split
from cnnbench.errors import CnnbenchError, Notify, UsageError
from cnnbench.graph.flops import training_flops
from cnnbench.spec.loader import Loaded
from cnnbench.training.matmul_peak import SIZE, libraries, product_flops

OURS = BenchVariant(OWN, OWN, "cnnbench.bench.frameworks.cnnbench")
OURS_BFLOAT16 = BenchVariant(OWN_BFLOAT16, OWN, OURS.module)
STEPS_BEFORE = 3  # steps before the rounds
SHORTEST_LIMIT_S = 120.0  # minimum timeout of a request, whatever the budget
START_LIMIT_S = 900.0  # timeout of the first step: slow compilation excludes no variant


class BenchError(CnnbenchError):
    """Our own variant could not be measured, so there is no baseline."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a benchmark.

    Args:
      rounds: largest number of timed rounds.
      budget_s: seconds of training per network, without startup and compilation; exceeded if
        three rounds of one step take longer.
      pause_s: seconds between turns, for the threads of the previous variant to sleep.
      most_steps: largest number of steps per round; None for an epoch.
      libraries: libraries whose matrix products are measured for comparison.
    """

    rounds: int = 7
    budget_s: float = 300.0
    pause_s: float = 0.1
    most_steps: int | None = None
    libraries: tuple[str, ...] = field(default_factory=libraries)


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class BenchTask:
    """Network, images and initial weights that every variant trains.

    Args:
      loaded: the experiment, with a plan.
      train: training images.
      test: images for the final evaluation.
      dataset: name of the dataset.
      weights: initial parameters by layer and name.
      data_dir: TFDS data directory.
    """

    loaded: Loaded
    train: Split
    test: Split
    dataset: str
    weights: Mapping[str, Mapping[str, NDArray[Any]]]
    data_dir: Path | None = None

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return min(self.loaded.experiment.train.batch_size, len(self.train))


def run_benchmark(
    task: BenchTask, variants: Sequence[BenchVariant], settings: Settings, notify: Notify
) -> Benchmark:
    """Measure a network in several frameworks.

    Args:
      task: network and data to train.
      variants: the variants to measure; ratios need `OURS` among them.
      settings: settings of the benchmark.
      notify: called with progress messages.

    Raises:
      UsageError: the model is a Python class, which other frameworks cannot run.
      BenchError: our own variant failed.
    """
    if task.loaded.plan is None:
        message = f"{task.loaded.experiment.name}: model.python only runs in Flax"
        raise UsageError(f"{message}; write model.layers to compare frameworks.")
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as name, closing_all() as workers:
        folder = Path(name)
        write_task(folder, task)
        run = _Run(task, folder, settings, workers, notify)
        run.start(variants)
        run.run()
        return run.finish()


def write_task(folder: Path, task: BenchTask) -> None:
    """Write the files that the workers read."""
    (folder / "spec.yaml").write_text(task.loaded.resolved(), encoding="utf-8")
    np.save(folder / "images.npy", task.train.images)
    np.save(folder / "labels.npy", task.train.labels)
    np.save(folder / "test_images.npy", task.test.images)
    np.save(folder / "test_labels.npy", task.test.labels)
    flat = {f"{layer}/{k}": v for layer, values in task.weights.items() for k, v in values.items()}
    np.savez(folder / "weights.npz", allow_pickle=False, **flat)


@dataclass(slots=True)
class _Entry:
    """State and measurements of a variant."""

    variant: BenchVariant
    worker: Worker | None = None
    outcome: VariantStatus = VariantStatus.MEASURED
    reason: str = ""
    prepare_s: float = 0.0
    compile_s: float = 0.0
    step_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    peak_memory_bytes: int = 0
    metrics: dict[str, float] | None = None


class _Run:
    def __init__(
        self,
        task: BenchTask,
        folder: Path,
        settings: Settings,
        workers: list[Worker],
        notify: Notify,
    ) -> None:
        self._task, self._folder, self._settings = task, folder, settings
        self._workers, self._notify = workers, notify
        self._name = task.loaded.experiment.name
        self._limit_s = max(SHORTEST_LIMIT_S, settings.budget_s)
        self._entries: dict[str, _Entry] = {}
        self._products: dict[str, _Entry] = {}
        self._rounds = self._steps = 0

    def start(self, variants: Sequence[BenchVariant]) -> None:
        """Start every process and train three steps: one to compile, two to estimate the time."""
        for variant in variants:
            entry = self._entries[variant.name] = _Entry(variant)
            if variant.lacking:
                entry.outcome, entry.reason = VariantStatus.SKIPPED, variant.lacking
                continue
            self._notify(f"{self._name}: starting {variant.name}")
            if started := self._ask(entry, "start"):
                entry.prepare_s, entry.compile_s = started["prepare_s"], started["compile_s"]
                paces = [self._seconds(entry, 1) for _ in range(STEPS_BEFORE - 1)]
                entry.step_s = min((pace for pace in paces if pace is not None), default=0.0)
        for library in self._settings.libraries:
            entry = self._products[library] = _Entry(BenchVariant(PRODUCT + library, "product"))
            self._seconds(entry, 1)  # warm-up

    def run(self) -> None:
        """Run one warm-up round with the final number of steps, then the timed rounds."""
        wanted, epoch = self._settings.rounds, len(self._task.train) // self._task.batch_size
        step_s = sum(entry.step_s for entry in self._running)
        most, budget_s = self._settings.most_steps or epoch, self._settings.budget_s
        self._rounds, self._steps = plan_rounds(budget_s, step_s, wanted, most)
        for number in range(self._rounds + 1):
            done = f"round {number} of {self._rounds}" if number else "warming up"
            self._notify(f"{self._name}: {done}, {self._steps} x {self._task.batch_size} images")
            self._round(number)

    def _round(self, number: int) -> None:
        names = [entry.variant.name for entry in self._running]
        for name in take_turns(names, number):
            seconds = self._seconds(self._entries[name], self._steps)
            if seconds is not None and number:
                self._entries[name].seconds.append(seconds)
        for entry in self._products.values():
            if (seconds := self._seconds(entry, 1)) is not None:
                entry.seconds.append(seconds)

    def finish(self) -> Benchmark:
        """Evaluate every network and collect the results."""
        for entry in self._running:
            if answer := self._ask(entry, "finish"):
                entry.peak_memory_bytes = answer["peak_memory_bytes"]
                entry.metrics = answer["metrics"]
        experiment, plan = self._task.loaded.experiment, self._task.loaded.plan
        assert plan is not None
        return Benchmark(
            name=experiment.name,
            title=experiment.type_title,
            dataset=self._task.dataset,
            num_train=len(self._task.train),
            batch_size=self._task.batch_size,
            training_flops=training_flops(plan),
            product=self._product(),
            measurements=tuple(map(self._measurement, self._entries.values())),
        )

    @property
    def _running(self) -> list[_Entry]:
        return [e for e in self._entries.values() if e.outcome is VariantStatus.MEASURED]

    def _seconds(self, entry: _Entry, steps: int) -> float | None:
        time.sleep(self._settings.pause_s)
        answer = self._ask(entry, "train", steps=steps)
        return answer["seconds"] if answer else None

    def _ask(self, entry: _Entry, do: str, **request: Any) -> dict[str, Any] | None:
        """Send a request; returns None and drops the variant if it refuses or fails."""
        if entry.outcome is not VariantStatus.MEASURED:
            return None
        if entry.worker is None:
            entry.worker = Worker(entry.variant, self._folder, self._task.data_dir)
            self._workers.append(entry.worker)
        try:
            limit_s = max(START_LIMIT_S, self._limit_s) if do == "start" else self._limit_s
            return entry.worker.ask(do, limit_s, **request)
        except RefusedError as error:
            entry.outcome, entry.reason = VariantStatus.SKIPPED, str(error)
        except LostError as error:
            entry.outcome, entry.reason = VariantStatus.FAILED, str(error)
        entry.worker.close()
        if entry.variant.name == OWN:
            message = f"{self._name}: {OWN} itself could not be measured"
            raise BenchError(f"{message}: {entry.reason}")
        status = f"{entry.variant.name} {entry.outcome}"
        self._notify(f"{self._name}: {status}: {entry.reason}")
        return None

    def _product(self) -> Product | None:
        best = {n: min(e.seconds) for n, e in self._products.items() if e.seconds}
        if not best:
            return None
        library = min(best, key=best.__getitem__)
        return Product(library, SIZE, product_flops(SIZE) / best[library])

    def _measurement(self, entry: _Entry) -> Measurement:
        variant = entry.variant
        if entry.outcome is not VariantStatus.MEASURED:
            return Measurement(variant.name, variant.family, entry.outcome, entry.reason)
        return Measurement(
            variant.name,
            variant.family,
            seconds=tuple(entry.seconds),
            images=self._steps * self._task.batch_size,
            steps=STEPS_BEFORE + (self._rounds + 1) * self._steps,
            prepare_s=entry.prepare_s,
            compile_s=entry.compile_s,
            peak_memory_bytes=entry.peak_memory_bytes,
            metrics=entry.metrics,
        )
