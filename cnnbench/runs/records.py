"""The results of a run as frozen values; `codec` converts them to JSON."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from html import escape
from pathlib import Path
from statistics import fmean

from cnnbench.data.splits import RandomSplit
from cnnbench.formatting import clean, diverged_text, enumeration, epochs_text, seconds_text
from cnnbench.runs.cost import Cost
from cnnbench.spec.metrics import heading, metric_text
from cnnbench.statistics.estimates import mean
from cnnbench.statistics.looks import Looks
from cnnbench.system import commands
from cnnbench.system.host import BUSY
from cnnbench.system.stopwatch import Timing

FORMAT_VERSION = 3  # of these values in files; docs/reference/run-folder.md has its history
TRIAL, TUNED = "tune", "tuned"  # tags of the trials of `run --tune`, and of what they chose


class Status(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Direction(StrEnum):
    """The direction in which a metric improves."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Losses, metrics and times of one epoch of one seed: a line of `epochs.jsonl`.

    Args:
      seed: the seed.
      epoch: number of the epoch, from 1.
      train_loss: mean loss over the training images of the epoch, with dropout and label smoothing.
      validation_loss: mean loss over the validation images after the epoch, without dropout; None
        without validation images.
      metrics: the other metrics on the validation images, such as `validation_accuracy`; none
        without validation images.
      train_s: training time, without compilation and evaluation.
      eval_s: evaluation time.
      samples_per_s: training images per second of `train_s`.
      at_once: number of seeds trained together by one program; the times are this seed's share.
        Tables use only times of epochs with 1.
      data_s: seconds of `train_s` and `eval_s` in which the device waited for images that are
        streamed; 0 if they are on the device.
      beside: other trainings that ran on the same machine at some time of the epoch, with `--on`.
        Tables use only times of epochs with 0.
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
    data_s: float = 0.0
    beside: int = 0

    @property
    def alone(self) -> bool:
        """True if nothing else of the command was trained meanwhile, so that its times count."""
        return self.at_once == 1 and not self.beside

    @property
    def finite(self) -> bool:
        """True if the losses are finite; otherwise the seed has diverged."""
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
        """The value of the learning curve: the validation value, or else the training loss."""
        return self.validation(metric) if self.validated else self.train_loss


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """Choices of the engine, which affect speed and rounding.

    Args:
      requested: value of `--engine`: `auto`, `plain`, `whole`, `onednn`, `winograd`, `direct` or
        `fast`.
      form: algorithms used for convolutions and pooling: `plain`, `whole`, `onednn`, `winograd`,
        `direct` or `fast`.
      row: images per micro-batch; None if the batch was not split.
      num_devices: number of devices that shared a batch.
      steps_per_call: training steps per call of the compiled program.
      seeds_at_once: largest number of seeds trained in parallel by one program; the first seed is
        always trained alone.
      step_s: time per step with each form that `auto` measured; empty if it measured none.
      tune_s: time spent on auto-tuning, including the compilation of the candidates.
      compile_cache: `warm` if all programs came from the cache on disk, `cold` otherwise.
      first_step_s: time from the start of the run to the end of its first step.
      peak_memory_bytes: peak memory of the process, or of the accelerator; None if unknown.
      chosen: how the form was chosen: `requested`, `estimated` (no other can be the fastest, or
        fits in memory), `measured`, or `kept` from the measurements of an earlier run; empty in
        runs of older versions.
      load: load per CPU when `step_s` was measured; None if it is unknown or nothing was measured.
      measured_at: time of measurements that were kept; None for others.
      onednn: version of oneDNN if the form is `onednn`, or `winograd` where oneDNN is installed;
        otherwise empty.
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
    chosen: str = ""
    load: float | None = None
    measured_at: datetime | None = None
    onednn: str = ""

    @property
    def multiplies_less(self) -> bool:
        """True if Winograd's algorithm may need fewer multiplications than are counted."""
        return self.form in {"fast", "winograd"}

    @property
    def reason(self) -> str:
        """Why `auto` chose the form, in words; empty if it was requested or the reason is unknown.

        >>> engine = EngineRecord("auto", "direct", 10, 2, 1, 1, {}, 0.1, "cold", 1.0, None)
        >>> replace(engine, chosen="estimated").reason
        'by estimate'
        >>> replace(engine, chosen="measured", step_s={"plain": 0.5, "direct": 0.25}).reason
        'measured: direct 0.250 s, plain 0.500 s a step'
        """
        if self.requested != "auto" or not self.chosen:
            return ""
        if not self.step_s:
            return "by estimate"
        forms = sorted(self.step_s, key=self.step_s.__getitem__)
        values = list(self.step_s.values())
        times = [f"{form} {seconds_text(self.step_s[form], others=values)}" for form in forms]
        when = f" on {self.measured_at:%Y-%m-%d}" if self.measured_at else ""
        where = " on a busy machine" if self.load is not None and self.load > BUSY else ""
        return f"measured{when}{where}: {', '.join(times)} a step"


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """The images a run used.

    Args:
      name: the dataset that was used.
      title: its display name.
      digest: digest of its images and labels.
      stand_in_for: the dataset that was requested but not available; None if there was no
        substitution.
      num_train: number of training images.
      num_validation: number of validation images; 0 if the run is evaluated on the test images
        only.
      num_test: number of test images.
      source: where the images came from: a folder, a package, or `the cache (decoded from ...)`.
      classes: names of the classes, targets or labels, in order; empty if unknown.
      shape: height, width and channels of the images; None in runs of older versions.
      changes: what the experiment changed in the dataset, such as label noise, a line each.
      streamed: True if images are decoded when they are needed, instead of kept in memory.
      num_classes: number of classes; None in runs of older versions.
      split: random split of the training images; None if validation images are chosen by number,
        or by the files of the user.
      overlap: number of validation images per training image, if seeds train on overlapping parts
        of the images; 0 if all train on the same.
    """

    name: str
    title: str
    digest: str
    stand_in_for: str | None
    num_train: int
    num_validation: int
    num_test: int
    source: str
    classes: tuple[str, ...] = ()
    shape: tuple[int, int, int] | None = None
    changes: tuple[str, ...] = ()
    streamed: bool = False
    num_classes: int | None = None
    split: RandomSplit | None = None
    overlap: float = 0.0

    def class_name(self, label: int) -> str:
        """Name of a class; its number if the dataset names none."""
        return clean(self.classes[label]) if label < len(self.classes) else str(label)

    def target_names(self, number: int) -> list[str]:
        """Names of regression targets: "value", or numbered, if the dataset names none."""
        if self.classes:
            return list(map(clean, self.classes))
        return [f"value {index}" for index in range(number)] if number > 1 else ["value"]

    @property
    def judged_on(self) -> str:
        """The images that accuracies and losses in tables are taken on."""
        return "validation" if self.num_validation else "test"


@dataclass(frozen=True, slots=True)
class Environment:
    """Software and hardware of a run; deliberately without a host name.

    Args:
      python: Python version.
      cnnbench: cnnbench version.
      jax: jax version.
      jaxlib: jaxlib version.
      flax: flax version.
      optax: optax version.
      numpy: numpy version.
      platform: operating system and architecture, such as `Linux-x86_64`.
      processor: processor model.
      num_cpus: number of CPUs available to the process.
      device_kind: `cpu`, `gpu` or `tpu`.
      device: device model, as reported by JAX.
      num_devices: number of devices used for training.
      commit: git commit of the working directory; None outside a repository.
      dirty: true if the working directory had uncommitted changes; None outside a repository.
      command: the command line, one string per argument.
      load_per_cpu: one-minute load average per CPU when training started, or the CPU share of other
        processes at that time if that is lower; None if unknown.
      settings: options of JAX and Flax that affect the results, and environment variables such as
        `XLA_FLAGS` that were set; None in runs of older versions.
      num_processes: number of processes that trained together, each with a part of the devices.
      cores: numbers of the cores that the process was restricted to, as with `--cores`; empty if it
        could use all of the machine.
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
    num_processes: int = 1
    cores: tuple[int, ...] = ()

    @property
    def device_model(self) -> str:
        """Model name of the hardware that trained."""
        # JAX calls every processor "cpu"; its model name says more.
        return self.processor if self.device_kind == "cpu" else self.device

    @property
    def machine(self) -> "Machine":
        """The machine that started the run."""
        return Machine(**{f.name: getattr(self, f.name) for f in fields(Machine)})


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware and software that trained a seed; deliberately without a host name.

    Args:
      processor: processor model.
      num_cpus: number of CPUs available to the process.
      device_kind: `cpu`, `gpu` or `tpu`.
      device: device model, as reported by JAX; the processor model on a CPU.
      num_devices: number of devices used for training.
      python: Python version.
      jax: jax version.
      jaxlib: jaxlib version.
      flax: flax version.
      optax: optax version.
      numpy: numpy version.
      cnnbench: cnnbench version.
    """

    processor: str
    num_cpus: int
    device_kind: str
    device: str
    num_devices: int
    python: str
    jax: str
    jaxlib: str
    flax: str
    optax: str
    numpy: str
    cnnbench: str

    def changed(self, now: "Machine") -> str:
        """What another machine has that can change the numbers, in words; empty if nothing.

        Args:
          now: the other machine.
        """
        names = [f.name for f in fields(Machine) if f.name != "processor"]
        return enumeration(
            [
                f"{name.removeprefix('num_').replace('_', ' ')} {getattr(now, name)}"
                f" instead of {getattr(self, name)}"
                for name in names
                if getattr(now, name) != getattr(self, name)
            ]
        )

    @property
    def device_model(self) -> str:
        """As of `Environment`."""
        return self.processor if self.device_kind == "cpu" else self.device

    @property
    def model(self) -> str:
        """Model name of the hardware that trained, with the number of several devices."""
        many = f"{self.num_devices} x " if self.num_devices > 1 else ""
        return f"{many}{self.device_model}"


@dataclass(frozen=True, slots=True)
class Extension:
    """A change of the number of epochs of an existing run.

    Args:
      at: time of the change.
      epochs: number of epochs before the change.
      command: the command line that changed it, one string per argument.
    """

    at: datetime
    epochs: int
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SweepTrial:
    """The trial of a sweep that a run is.

    Args:
      sweep: the sweep; its plan is in `.sweeps` of the folder of results.
      trial: its number, from 1.
      values: the value of each key of the sweep.
    """

    sweep: str
    trial: int
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Configuration, status and environment of a run: `run.json`.

    Args:
      run_id: name of the run folder.
      name: experiment name.
      title: experiment title, as shown in tables.
      task: `classify`, `reconstruct`, `regress` or `multilabel`.
      loss: name of the training loss.
      status: status of the run.
      started_at: start time.
      finished_at: end time; None while the run is in progress.
      error: error message of a failed run; None otherwise.
      timing: time spent in each part of the run; None until the run ends.
      engine: choices of the engine; None until training starts.
      seeds: the seeds; one network is trained per seed.
      epochs: number of epochs requested; with `early_stopping`, the largest.
      batch_size: images per training step.
      spec_digest: digest of the resolved experiment without its name, title and seeds.
      dataset: the images.
      environment: software, hardware and command line.
      resumed_at: times at which the run was resumed.
      extended: changes of the number of epochs, oldest first.
      resumed_with: for each entry of `resumed_at`, the versions and devices that differ from
        `environment`.
      tags: tags set with `--tag`, in order.
      drop_last: false if an incomplete last batch is kept.
      test_augment: test-time augmentation, `evaluation.augment`; empty for none.
      stop_metric: metric of `early_stopping`; empty without it.
      best_metric: metric of `restore_best`; empty without it.
      folds: with cross-validation, the fold that each of `seeds` validates on, from 0; otherwise
        empty.
      session: the same for runs that were trained interleaved although their command lines differ;
        otherwise empty.
      looks: how the run was stopped by `--until-decided` or `--anytime`; None without them.
      sweep: the trial of a sweep that the run was trained for; None without one.
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
    drop_last: bool = True
    test_augment: str = ""
    stop_metric: str = ""
    best_metric: str = ""
    folds: tuple[int, ...] = ()
    session: str = ""
    looks: Looks | None = None
    sweep: SweepTrial | None = None

    @property
    def split_text(self) -> str:
        """How the training images are split at random, in words; empty if they are not."""
        split = self.dataset.split
        if split is None or not self.folds:
            return split.text if split else ""
        rounds, rest = divmod(len(self.folds), split.folds or 1)
        counts = {self.folds.count(fold) for fold in range(split.folds or 1)}
        if rest or len(counts) > 1:
            return f"{split.text}, {len(self.folds)} seeds"
        return f"{split.text}{f', {rounds} repeats' if rounds > 1 else ''}"

    def of_seeds(self, number: int) -> "RunRecord":
        """The record of a run with the first of the seeds only."""
        return self.only(self.seeds[:number])

    def only(self, seeds: tuple[int, ...]) -> "RunRecord":
        """The record of a run with some of the seeds only."""
        folds = dict(zip(self.seeds, self.folds))  # noqa: B905 - empty without folds
        own = tuple(folds[seed] for seed in seeds if seed in folds)
        return replace(self, seeds=seeds, folds=own)

    @property
    def num_steps(self) -> int:
        """Training steps of all epochs."""
        full, last = divmod(self.dataset.num_train, max(1, self.batch_size))
        return self.epochs * max(1, full + (bool(last) and not self.drop_last))

    @property
    def epochs_text(self) -> str:
        """The number of epochs, in words."""
        return f"{'at most ' if self.stop_metric else ''}{epochs_text(self.epochs)}"

    @property
    def tags_text(self) -> str:
        """The tags, each after a space and an @; empty without tags."""
        return "".join(f" @{tag}" for tag in self.tags)

    @property
    def is_trial(self) -> bool:
        """True for a trial of `run --tune`, which comparisons skip unless it is named."""
        return TRIAL in self.tags

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides that turn `resolved.yaml` into the experiment that was trained.

        A process killed while it extends a run may leave the old number of epochs there, and a run
        that was stopped by looks has fewer seeds.
        """
        seeds = f"seeds=[{','.join(map(str, self.seeds))}]"
        stopped = (seeds,) if self.looks and self.looks.reason else ()
        return (*self._epochs_override, *stopped)

    @property
    def _epochs_override(self) -> tuple[str, ...]:
        return (f"train.epochs={self.epochs}",) if self.extended else ()

    def how_to_resume(self, folder: Path) -> str:
        """The command line that resumes the run, and with looks those it is compared with."""
        command = self.environment.command
        if self.looks:
            return commands.command_line(commands.with_needed(command))
        return commands.resume(command, folder)

    @property
    def command(self) -> tuple[str, ...]:
        """The command line, word by word, that trains the same run from scratch."""
        return (*self.environment.command, *self._epochs_override)


@dataclass(frozen=True, slots=True)
class BestValue:
    """Best validation value of a metric.

    Args:
      value: the value; NaN only if it was NaN after every epoch.
      epoch: the first epoch that reached it.
    """

    value: float
    epoch: int


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """Results of one seed.

    Args:
      seed: the seed.
      final: validation value of each metric after the last or the chosen epoch; empty without
        validation images.
      best: best validation value of each metric; empty without validation images.
      test: value of each metric on the test images after the last or the chosen epoch.
      compile_s: compilation time caused by this seed.
      train_s: training time, all epochs.
      eval_s: evaluation time, all epochs.
      diverged: the epoch at which training stopped because the loss was NaN or infinite (without
        validation images, the test loss counts too); None if it stayed finite.
      code_accuracy: test accuracy of a linear classifier trained on the codes; None without a code
        layer.
      weights_digest: SHA-256 of the file in `weights/`; None in runs of older versions.
      num_epochs: number of epochs trained, with `early_stopping` or `restore_best`; None without
        them.
      chosen_epoch: the epoch whose weights are tested and stored, with `early_stopping` or
        `restore_best`; None without them, when it is the last one.
      machine: what trained it; None in runs of older versions.
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
    num_epochs: int | None = None
    chosen_epoch: int | None = None
    machine: Machine | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Results of a finished run: `summary.json`.

    Args:
      num_params: number of trainable parameters; shared parameters count once.
      compile_s: compilation time, all seeds.
      headline: the metric shown in tables: `loss` for `reconstruct`, else the first of
        `train.metrics`.
      metrics: direction of each metric.
      seeds: results of each seed.
      cost: cost of the network; None in runs of older versions.
      code: the code layer that `code_accuracy` refers to; None if there is none.
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
    """A run as read from its folder.

    Args:
      record: configuration, status and environment.
      summary: final results; None unless the run finished.
      epochs: losses, metrics and times of every epoch of every seed, in the order of writing.
      warnings: irregularities of the files, a sentence each.
      path: the folder; None for a run that was not read from one.
      seed_paths: folders of seeds that are in others, if several runs are pooled.
    """

    record: RunRecord
    summary: Summary | None
    epochs: tuple[EpochRecord, ...]
    warnings: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)
    seed_paths: Mapping[int, Path] = field(default_factory=dict, compare=False)

    def folder(self, seed: int) -> Path | None:
        """The folder that has the weights and predictions of a seed; None if there is none."""
        return self.seed_paths.get(seed, self.path)

    def of_seeds(self, number: int) -> "RunResult":
        """The run as if it had the first of its seeds only."""
        return self.only(self.record.seeds[:number])

    def only(self, seeds: tuple[int, ...]) -> "RunResult":
        """The run as if it had some of its seeds only."""
        summary = self.summary and replace(
            self.summary, seeds=tuple(s for s in self.summary.seeds if s.seed in seeds)
        )
        epochs = tuple(epoch for epoch in self.epochs if epoch.seed in seeds)
        return replace(self, record=self.record.only(seeds), summary=summary, epochs=epochs)

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
            text = diverged_text(lost, len(values)) or metric_text(metric, fmean(values))
            facts[heading(metric)] = text
        return facts


@dataclass(frozen=True, slots=True)
class Facts:
    """What lists and searches of runs need to know of each, in a form that is quick to read.

    Args:
      run_id: as of `RunRecord`; so are the names below that are not explained.
      name: experiment name.
      title: experiment title.
      tags: tags, in order.
      status: status as recorded.
      started_at: start time.
      finished_at: end time.
      task: kind of task.
      dataset: name of the dataset.
      stand_in_for: the dataset that it replaced.
      dataset_digest: digest of its images and labels.
      spec_digest: digest of the experiment.
      epochs: number of epochs requested.
      batch_size: images per training step.
      seeds: the seeds.
      test_augment: test-time augmentation.
      device_kind: `cpu`, `gpu` or `tpu`.
      device: model name of the hardware; of several that trained seeds, all names.
      comparable: text that is equal for runs that can be compared.
      headline: the metric shown in tables; empty without a summary.
      num_diverged: number of seeds that diverged.
      values: means over the seeds: `test_`, `validation_` and `best_validation_` before the names
        of metrics, `num_params`, `train_s`, `eval_s`, `compile_s`, and what `cost` has.
    """

    run_id: str
    name: str
    title: str
    tags: tuple[str, ...]
    status: Status
    started_at: datetime
    finished_at: datetime | None
    task: str
    dataset: str
    stand_in_for: str | None
    dataset_digest: str
    spec_digest: str
    epochs: int
    batch_size: int
    seeds: tuple[int, ...]
    test_augment: str
    device_kind: str
    device: str
    comparable: str
    headline: str
    num_diverged: int
    values: Mapping[str, float]

    @property
    def is_trial(self) -> bool:
        """As of `RunRecord`."""
        return TRIAL in self.tags

    @property
    def tags_text(self) -> str:
        """As of `RunRecord`."""
        return "".join(f" @{tag}" for tag in self.tags)

    @property
    def result(self) -> tuple[str, float] | None:
        """Name and mean of the value in lists: the headline metric, validation before test."""
        names = (f"validation_{self.headline}", f"test_{self.headline}")
        return next(((name, self.values[name]) for name in names if name in self.values), None)


def facts_of(record: RunRecord, summary: Summary | None) -> Facts:
    """Summarizes a run for lists and searches."""
    data, seeds = record.dataset, summary.seeds if summary else ()
    machines = dict.fromkeys(seed.machine.device_model for seed in seeds if seed.machine)
    return Facts(
        run_id=record.run_id,
        name=record.name,
        title=record.title,
        tags=record.tags,
        status=record.status,
        started_at=record.started_at,
        finished_at=record.finished_at,
        task=record.task,
        dataset=data.name,
        stand_in_for=data.stand_in_for,
        dataset_digest=data.digest,
        spec_digest=record.spec_digest,
        epochs=record.epochs,
        batch_size=record.batch_size,
        seeds=record.seeds,
        test_augment=record.test_augment,
        device_kind=record.environment.device_kind,
        device=", ".join(machines) or record.environment.device_model,
        comparable=json.dumps(comparable_key(record)),
        headline=summary.headline if summary else "",
        num_diverged=sum(seed.diverged is not None for seed in seeds),
        values=_means(record, summary) if summary and seeds else {},
    )


def comparable_key(record: RunRecord) -> tuple[object, ...]:
    """Everything that must be equal for runs to be comparable."""
    data = record.dataset
    images = (data.name, data.digest, data.num_train, data.num_validation, data.num_test)
    steps = None if record.stop_metric else record.num_steps
    loss = record.loss if record.task == "reconstruct" else ""
    return (record.task, images, steps, loss, record.environment.device_kind)


def timed_hardware(record: RunRecord, seeds: Sequence[SeedSummary]) -> str:
    """Model of the hardware whose times count: that of the run's record if it trained a seed.

    The costs of the run were measured on it. Without such a seed, the hardware of most seeds.

    Args:
      record: the record of the run.
      seeds: the summaries of its seeds.
    """
    models = [seed.machine.model for seed in seeds if seed.machine]
    first = record.environment.machine.model
    return first if first in models or not models else statistics.mode(models)


def trained_elsewhere(record: RunRecord, seeds: Sequence[SeedSummary]) -> dict[int, str]:
    """The seeds of a run whose times do not count, with the hardware that trained them.

    Args:
      record: the record of the run.
      seeds: the summaries of its seeds; those of older versions, without a machine, count.
    """
    known = {seed.seed: seed.machine.model for seed in seeds if seed.machine}
    usual = timed_hardware(record, seeds)
    return {seed: model for seed, model in known.items() if model != usual}


def _means(record: RunRecord, summary: Summary) -> dict[str, float]:
    """Means over seeds by name, in the order in which tables show them.

    Times are those of the seeds that one hardware trained.
    """
    seeds, other = summary.seeds, trained_elsewhere(record, summary.seeds)
    times = ("train_s", "eval_s", "compile_s")
    per_seed: list[dict[str, float]] = [
        {
            **{f"validation_{name}": value for name, value in seed.final.items()},
            **{f"test_{name}": value for name, value in seed.test.items()},
            **{f"best_validation_{name}": best.value for name, best in seed.best.items()},
            **{name: getattr(seed, name) for name in times},
            **({} if seed.code_accuracy is None else {"code_accuracy": seed.code_accuracy}),
        }
        for seed in seeds
    ]
    common = [name for name in per_seed[0] if all(name in values for values in per_seed)]
    timed = [values for values, seed in zip(per_seed, seeds, strict=True) if seed.seed not in other]
    cost = summary.cost and {f.name: getattr(summary.cost, f.name) for f in fields(Cost)}
    return {
        **{
            name: mean([values[name] for values in (timed if name in times else per_seed)])
            for name in common
        },
        "num_params": summary.num_params,
        **{name: value for name, value in (cost or {}).items() if value is not None},
    }
