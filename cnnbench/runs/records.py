"""What a run measured, as frozen values; `codec` gives them their JSON form."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from html import escape
from pathlib import Path
from statistics import fmean

from cnnbench.formatting import clean, lost_text
from cnnbench.runs.cost import Cost
from cnnbench.spec.metrics import heading, metric_text
from cnnbench.system.stopwatch import Timing

FORMAT_VERSION = 3  # of these values in files; docs/reference/run-folder.md has its history


class Status(StrEnum):
    """How far a run has come."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Direction(StrEnum):
    """Which values of a metric are better."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one epoch of one seed measured.

    Args:
      seed: the seed of the run.
      epoch: number of the epoch, from 1.
      train_loss: mean loss over the training images of the epoch, with dropout.
      validation_loss: mean loss over the validation images after the epoch; None without any.
      metrics: further ones over the validation images; in a file they begin with `validation_`.
        Empty without validation images.
      train_s: seconds the training took, without compilation and evaluation.
      eval_s: seconds the evaluation took.
      samples_per_s: training images per second of `train_s`.
      at_once: seeds that one program trained in that time; the seconds are its share.
    """

    seed: int
    epoch: int
    train_loss: float
    validation_loss: float | None
    metrics: Mapping[str, float]
    train_s: float
    eval_s: float
    samples_per_s: float
    at_once: int = 1

    @property
    def finite(self) -> bool:
        """Whether the losses are; a seed whose loss is not has diverged."""
        losses = (self.train_loss, 0.0 if self.validation_loss is None else self.validation_loss)
        return all(map(math.isfinite, losses))

    @property
    def validated(self) -> bool:
        """True if there are validation images."""
        return self.validation_loss is not None

    def validation(self, metric: str) -> float:
        """The validation value of `metric`, which may be `loss`; NaN without validation images."""
        if self.validation_loss is None:
            return math.nan
        return self.validation_loss if metric == "loss" else self.metrics[metric]

    def course(self, metric: str) -> float:
        """Value of a learning curve: on validation images, or the training loss without any."""
        return self.validation(metric) if self.validated else self.train_loss


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """How the engine trained: choices that change the speed, and rounding.

    Args:
      requested: what was asked for: `auto` or a form.
      form: which algorithms computed convolutions and pooling.
      row: images computed at a time; None for whole batches.
      num_devices: devices that shared a batch.
      steps_per_call: training steps of a call of the compiled program.
      seeds_at_once: the most seeds that one program trained; the first is always alone.
      step_s: seconds of a step of each form, where `auto` measured them.
      tune_s: seconds that choosing took, with the compilation of all candidates.
      compile_cache: `warm` where all programs came from the cache on disk, else `cold`.
      first_step_s: seconds from the start of the run to the end of its first step.
      peak_memory_bytes: the most that the process held (host), or an accelerator; None if unknown.
    """

    requested: str
    form: str
    row: int | None
    num_devices: int
    steps_per_call: int
    seeds_at_once: int
    step_s: Mapping[str, float]
    tune_s: float
    compile_cache: str
    first_step_s: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """The images that a run used.

    Args:
      name: the dataset, or its stand-in.
      title: what people call it.
      digest: digest of the images and labels.
      stand_in_for: the dataset that was asked for and could not be had, if so.
      num_train: number of training images.
      num_validation: number of validation images; 0 where only the end of a training is judged,
        on the test images.
      num_test: number of test images.
      source: where they came from.
    """

    name: str
    title: str
    digest: str
    stand_in_for: str | None
    num_train: int
    num_validation: int
    num_test: int
    source: str

    @property
    def judged_on(self) -> str:
        """The images that accuracies and losses in tables are taken on."""
        return "validation" if self.num_validation else "test"


@dataclass(frozen=True, slots=True)
class Environment:
    """The software and the machine of a run; deliberately without a host name.

    Args:
      python: version, as those of the packages that follow.
      cnnbench: version.
      jax: version.
      jaxlib: version.
      flax: version.
      optax: version.
      numpy: version.
      platform: operating system and architecture, such as `Linux-x86_64`.
      processor: model name of the processor.
      num_cpus: number of CPUs that the process may use.
      device_kind: `cpu`, `gpu` or `tpu`.
      device: model name of the device that trained.
      num_devices: number of devices that trained.
      commit: git commit of the working directory; None outside a repository.
      dirty: whether the commit had local changes; None outside a repository.
      command: the command line, word by word.
      load_per_cpu: load average of the minute before the process first trained, or what others
        used of the CPUs just then if that is less, over their number; None where nothing tells.
      settings: of JAX, Flax and XLA that the numbers depend on; None in older runs.
    """

    python: str
    cnnbench: str
    jax: str
    jaxlib: str
    flax: str
    optax: str
    numpy: str
    platform: str
    processor: str
    num_cpus: int
    device_kind: str
    device: str
    num_devices: int
    commit: str | None
    dirty: bool | None
    command: tuple[str, ...]
    load_per_cpu: float | None = None
    settings: Mapping[str, str] | None = None

    @property
    def device_model(self) -> str:
        """Model name of the hardware that trained."""
        # JAX calls every processor "cpu"; its model name says more.
        return self.processor if self.device_kind == "cpu" else self.device


@dataclass(frozen=True, slots=True)
class Extension:
    """A change of the number of epochs after a run had begun.

    Args:
      at: when it was asked for.
      epochs: number of epochs asked for until then.
      command: the command line that changed it, word by word.
    """

    at: datetime
    epochs: int
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run is and how it went: `run.json`.

    Args:
      run_id: name of the run's folder.
      name: name of the experiment.
      title: what tables call the experiment.
      task: `classify` or `reconstruct`.
      loss: name of the loss that was minimised.
      status: how far the run has come.
      started_at: start, with its time zone; written in UTC.
      finished_at: end, likewise; None while it runs.
      error: why it failed; None unless it did.
      timing: where the seconds went; None until they are known.
      engine: how it was trained; None until it is known.
      seeds: one training for each.
      epochs: number of epochs asked for.
      batch_size: images in a training step.
      spec_digest: digest of the resolved experiment.
      dataset: the images used.
      environment: software, machine and command.
      resumed_at: when it went on after it had been stopped.
      extended: changes of the number of epochs, oldest first.
      tags: what the user calls this run, beside its id.
      resumed_with: for each time in `resumed_at`, versions and devices that had changed, by name.
    """

    run_id: str
    name: str
    title: str
    task: str
    loss: str
    status: Status
    started_at: datetime
    finished_at: datetime | None
    error: str | None
    timing: Timing | None
    engine: EngineRecord | None
    seeds: tuple[int, ...]
    epochs: int
    batch_size: int
    spec_digest: str
    dataset: DatasetRecord
    environment: Environment
    resumed_at: tuple[datetime, ...] = ()
    extended: tuple[Extension, ...] = ()
    resumed_with: tuple[Mapping[str, str], ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def tags_text(self) -> str:
        """Tags behind a name, each after a space and an @; empty without any."""
        return "".join(f" @{tag}" for tag in self.tags)

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides that make `resolved.yaml` the experiment that is trained.

        A process killed while a run is extended may leave the old number of epochs there.
        """
        return (f"train.epochs={self.epochs}",) if self.extended else ()

    @property
    def command(self) -> tuple[str, ...]:
        """Command line, word by word, that trains the same run from the start."""
        return (*self.environment.command, *self.overrides)


@dataclass(frozen=True, slots=True)
class BestValue:
    """The best validation value of a metric and the epoch that reached it first."""

    value: float
    epoch: int


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """How one seed ended.

    Args:
      seed: the seed.
      final, test: of each metric on validation and test images after the last epoch.
      best: best validation value of each metric. Without validation images, it and `final` are
        empty.
      compile_s: seconds of compilation this seed caused.
      train_s, eval_s: seconds of training and of evaluation, all epochs.
      diverged: its last epoch, where the loss was not finite (without validation images, that on
        the test images too); None if it always was.
      code_accuracy: of a linear classifier on the codes of test images; None without a code.
      weights_digest: SHA-256 of its weights; None in older runs.
    """

    seed: int
    final: Mapping[str, float]
    best: Mapping[str, BestValue]
    test: Mapping[str, float]
    compile_s: float
    train_s: float
    eval_s: float
    diverged: int | None = None
    code_accuracy: float | None = None
    weights_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """How a finished run ended: `summary.json`.

    Args:
      num_params: number of trainable parameters.
      compile_s: seconds of compilation, all seeds.
      headline: the metric that tables show.
      metrics: every metric and which of its values are better.
      seeds: one summary per seed.
      cost: what the network costs; None in runs of older versions.
      code: the layer that holds the code; None where there is none.
    """

    num_params: int
    compile_s: float
    headline: str
    metrics: Mapping[str, Direction]
    seeds: tuple[SeedSummary, ...]
    cost: Cost | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class RunResult:
    """A run as read back from its folder.

    Args:
      record: what the run is and how it went.
      summary: how it ended; None unless it finished.
      epochs: what every epoch of every seed measured, in the order of writing.
      warnings: what is odd about the files, one sentence each.
      path: the folder it was read from; None for a run that was not.
    """

    record: RunRecord
    summary: Summary | None
    epochs: tuple[EpochRecord, ...]
    warnings: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        facts = self._facts()
        result = "".join(f", {name.lower()} {value}" for name, value in list(facts.items())[2:])
        run = f"{self.record.name}/{self.record.run_id}"
        return f"<RunResult {run}: {facts['Status']}, {facts['Dataset']}{result}>"

    def _repr_html_(self) -> str:
        """The table that a notebook displays."""
        facts = {"Run": f"{self.record.name}/{self.record.run_id}", "Title": self.record.title}
        facts |= self._facts() | ({"Folder": str(self.path)} if self.path else {})
        style = "text-align: left"
        rows = (
            f'<tr><th style="{style}">{escape(name)}</th>'
            f'<td style="{style}">{escape(clean(value))}</td></tr>'
            for name, value in facts.items()
        )
        return f"<table><tbody>{''.join(rows)}</tbody></table>"

    def _facts(self) -> dict[str, str]:
        """Status and settings, and the headline metric on the test images if it finished."""
        record, summary = self.record, self.summary
        facts = {
            "Status": str(record.status),
            "Dataset": record.dataset.name,
            "Seeds": str(len(record.seeds)),
            "Epochs": str(record.epochs),
        }
        if summary and summary.seeds:
            metric = f"test_{summary.headline}"
            values = [seed.test[summary.headline] for seed in summary.seeds]
            lost = sum(seed.diverged is not None for seed in summary.seeds)
            text = lost_text(lost, len(values)) or metric_text(metric, fmean(values))
            facts[heading(metric)] = text
        return facts
