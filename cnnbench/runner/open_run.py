"""Run folders: created for new runs, reopened for runs that are resumed."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cnnbench.data.catalog import KNOWN
from cnnbench.errors import StoreError
from cnnbench.formatting import enumeration, epochs_text
from cnnbench.runs.checkpoints import Checkpoints
from cnnbench.runs.experiment import objective_name
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunEntry, RunFolder, create_run, disk, read_run
from cnnbench.runs.records import (
    DatasetRecord,
    EpochRecord,
    Extension,
    RunRecord,
    RunResult,
    Status,
)
from cnnbench.spec.experiment import Experiment
from cnnbench.statistics.looks import Looks
from cnnbench.system.files import remove_partial
from cnnbench.system.settings import Change, affects_numbers, changed_settings, current
from cnnbench.system.stopwatch import Timing
from cnnbench.training.resume import Resume, plan_resume, require_checkpoints, require_epochs

if TYPE_CHECKING:
    from cnnbench.data.dataset import Dataset
    from cnnbench.runner.work import RunWork
    from cnnbench.spec.loader import Loaded

VERSIONS = ("python", "jax", "jaxlib", "flax", "optax", "numpy")


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that is about to train.

    Args:
      folder: its folder.
      record: its record, as in the folder.
      resume: what is trained already; None for a new run.
    """

    folder: RunFolder
    record: RunRecord
    resume: Resume | None = None


@contextmanager
def alone(folder: RunFolder) -> Iterator[None]:
    """Locks a run's folder against other processes.

    Raises:
      StoreError: another process holds the lock, or the disk cannot be written.
    """
    from cnnbench.system.locks import hold

    with ExitStack() as stack:
        with disk(folder.path, "write"):
            mine = stack.enter_context(hold(folder.path))
        if not mine:
            message = f"{folder.path}: another process is training this run"
            raise StoreError(f"{message}; wait for it to end, or stop it.")
        yield


@contextmanager
def create(
    work: "RunWork",
    loaded: "Loaded",
    results_dir: Path,
    tags: Sequence[str] = (),
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Opened]:
    """Creates the folder of a new run, whose record has `more` fields.

    The folder is locked before other processes can see it; they would take it for a run that was
    killed. The record is written last, so that a run with a record can be resumed.

    Raises:
      StoreError: the disk cannot be written.
    """
    source = source_of(work)
    folder = create_run(results_dir, loaded.experiment.name, datetime.now(UTC))
    with alone(folder):
        record = _first_record(work, folder.run_id, source, tags)
        record = dataclasses.replace(record, **more)
        folder.write_spec(loaded.text)
        folder.write_resolved(loaded.resolved())
        if source:
            folder.write("model.py", source)
        folder.write_record(record)
        yield Opened(folder, record)


def _first_record(
    work: "RunWork", run_id: str, source: bytes, tags: Sequence[str] = ()
) -> RunRecord:
    """Returns the record of a run that starts now."""
    experiment, dataset = work.experiment, work.dataset
    return RunRecord(
        run_id=run_id,
        name=experiment.name,
        title=experiment.type_title,
        task=experiment.task.value,
        loss=objective_name(experiment),
        status=Status.RUNNING,
        started_at=datetime.now(UTC),
        finished_at=None,
        error=None,
        timing=None,
        engine=None,
        seeds=experiment.seeds,
        epochs=experiment.train.epochs,
        batch_size=work.batch_size,
        spec_digest=experiment.digest(source),
        dataset=_dataset_record(dataset),
        environment=work.environment,
        tags=tuple(dict.fromkeys(tags)),
        drop_last=experiment.train.drop_last,
        test_augment=experiment.evaluation.augment or "",
        stop_metric=stopping.metric if (stopping := experiment.train.early_stopping) else "",
        best_metric=experiment.train.restore_best or "",
        folds=_folds(dataset, experiment.seeds),
    )


def _folds(dataset: "Dataset", seeds: Sequence[int]) -> tuple[int, ...]:
    """Returns the fold of each seed; nothing without cross-validation."""
    split = dataset.random
    folds = [split.fold(seed) for seed in seeds] if split else []
    return tuple(fold for fold in folds if fold is not None)


def _dataset_record(dataset: "Dataset") -> DatasetRecord:
    info, held_out = dataset.info, len(dataset.validation)
    return DatasetRecord(
        name=info.name,
        title=f"{info.name} ({KNOWN[info.name].title})" if info.name in KNOWN else info.name,
        digest=dataset.digest,
        stand_in_for=dataset.stand_in_for,
        num_train=len(dataset.train),
        num_validation=held_out,
        num_test=len(dataset.test),
        source=dataset.source,
        classes=info.classes,
        shape=info.shape,
        changes=dataset.changes,
        streamed=dataset.streamed,
        num_classes=info.num_classes,
        split=dataset.random,
        overlap=held_out / (len(dataset.pool) - held_out) if dataset.pool else 0.0,
    )


def existing_run(
    loaded: "Loaded",
    dataset: str,
    folder: Path,
    results_dir: Path,
    asked: tuple[str, str],
    notify: Callable[[str], None],
    looks: Looks | None = None,
) -> Path | None:
    """Finds the newest run of the same training: a finished one, or one that can be resumed.

    Args:
      loaded: the experiment.
      dataset: the digest of its images.
      folder: folder of the experiment file, where a Python model may be.
      results_dir: folder of all results.
      asked: the engine and the device; ``auto`` matches any.
      notify: called with a sentence if only the settings of a run do not match.
      looks: the rule that stops the run; None if it trains all seeds.
    """
    source = model_source(loaded.experiment.model.python or "", folder)
    wanted = (loaded.experiment.digest(source), dataset)
    runs = [
        entry
        for entry in list_runs(results_dir).entries
        if wanted == (entry.facts.spec_digest, entry.facts.dataset_digest)
        and has_seeds(entry.record, loaded.experiment.seeds, looks)
        and _as_asked(entry.record, *asked)
    ]
    same = [entry for entry in runs if not _other_settings(entry.record)]
    if runs and not same:
        change = _other_settings(runs[-1].record)[0]
        notify(f"skipping {runs[-1].path}: it was trained {change.text}")
    return found.path if (found := newest_usable(same)) else None


def newest_usable(runs: Sequence[RunEntry]) -> RunEntry | None:
    """Returns the newest finished run, or else the newest one that can be resumed.

    Args:
      runs: runs of the same training, oldest first.
    """
    from cnnbench.system.locks import is_held

    finished = [entry for entry in runs if entry.facts.status is Status.FINISHED]
    stopped = [entry for entry in runs if not is_held(entry.path)]
    return next(reversed(finished or stopped), None)


def has_seeds(record: RunRecord, seeds: tuple[int, ...], looks: Looks | None) -> bool:
    """Returns True if a run has these seeds, or is stopped by the same rule."""
    if looks:
        return record.looks is not None and record.looks.rule == looks
    ended = record.looks is None or record.looks.reason is not None
    return ended and record.seeds == seeds


def is_usable(record: RunRecord, engine: str, device: str) -> bool:
    """Returns True if a run was trained as requested, and with the settings of now."""
    return _as_asked(record, engine, device) and not _other_settings(record)


def _as_asked(record: RunRecord, engine: str, device: str) -> bool:
    """Returns True if a run has the requested engine and device."""
    known = record.engine
    forms = {"auto", known.requested, known.form} if known else {engine}
    return engine in forms and device in {"auto", record.environment.device_kind}


def _other_settings(record: RunRecord) -> list[Change]:
    """Returns settings that have changed since a run; none if it did not record them.

    Variables that nothing reads, such as ``JAX_CACHE_DIR``, are ignored.
    """
    then = record.environment.settings
    if then is None:
        return []
    return [change for change in changed_settings(then, current()) if affects_numbers(change.name)]


def reopen(
    work: "RunWork",
    path: Path,
    notify: Callable[[str], None],
    *,
    resolved: str = "",
    command: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> Opened:
    """Reopens the folder of a run to resume it, cut back to its last usable checkpoints.

    Args:
      work: the same training, possibly with another number of epochs.
      path: the folder.
      notify: called with warnings about differences from an uninterrupted run.
      resolved: the experiment, written if it has another number of epochs.
      command: the command line.
      tags: further tags of the run.

    Raises:
      UsageError: the number of epochs cannot be changed to that of the work.
      StoreError: it is another training, its files are not usable, or the disk cannot be written.
    """
    run, folder = read_run(path), RunFolder(path)
    _check_same(work, run.record, path)
    require_epochs(run, path, work.experiment)
    other = _other_machine(work, run.record)
    for warning in (*run.warnings, *_doubts(run.record, other)):
        notify(warning)
    remove_partial(path)
    resume = plan_resume(run, checkpoints_of(work, folder), notify, work.experiment.train)
    require_checkpoints(run, path, resume, work.experiment.train.epochs)
    folder.write_epochs(resume.kept)
    record = with_tags(_running(work, run, resume, command, other), tags)
    # First, because it says which number of epochs is valid if the process is killed here.
    folder.write_record(record)
    if record.epochs != run.record.epochs:
        notify(f"{path}: {_change_text(run.record.epochs, record.epochs)}")
    if record.extended:
        _set_aside(folder, run, record, resolved)
    return Opened(folder, record, resume)


def _change_text(before: int, after: int) -> str:
    """Describes another number of epochs.

    >>> _change_text(30, 40), _change_text(30, 1)
    ('extended from 30 to 40 epochs', 'shortened from 30 to 1 epoch')
    """
    verb = "extended" if after > before else "shortened"
    return f"{verb} from {before} to {epochs_text(after)}"


def with_tags(record: RunRecord, tags: Sequence[str]) -> RunRecord:
    """Returns the record with further tags."""
    return dataclasses.replace(record, tags=tuple(dict.fromkeys((*record.tags, *tags))))


def _running(
    work: "RunWork",
    run: RunResult,
    resume: Resume,
    command: Sequence[str],
    other: Mapping[str, str],
) -> RunRecord:
    """Returns the record of a resumed run, with what has changed."""
    record, now, epochs = run.record, datetime.now(UTC), work.experiment.train.epochs
    changed = (Extension(now, record.epochs, tuple(command)),) if epochs != record.epochs else ()
    return dataclasses.replace(
        record,
        status=Status.RUNNING,
        finished_at=None,
        error=None,
        timing=_spent(record.timing, resume.kept),
        resumed_at=(*record.resumed_at, now),
        # A run that was resumed by an older version has fewer entries than times.
        resumed_with=(*(record.resumed_with or ({},) * len(record.resumed_at)), other),
        epochs=epochs,
        spec_digest=work.experiment.digest(source_of(work)),
        extended=(*record.extended, *changed),
    )


def _set_aside(folder: RunFolder, run: RunResult, record: RunRecord, resolved: str) -> None:
    """Prepares the folder of an extended run, also if extending it was interrupted before."""
    if resolved:
        folder.write_resolved(resolved)
    done = max((epoch.epoch for epoch in run.epochs), default=0)
    if done < record.epochs:
        folder.set_summary_aside(done)


def checkpoints_of(work: "RunWork", folder: RunFolder) -> Checkpoints:
    """Returns the checkpoints in a run's folder."""
    return Checkpoints(folder, work.num_train, work.experiment.checkpoint.keep)


def source_of(work: "RunWork") -> bytes:
    """Returns the source of a Python model; empty for a graph of layers."""
    return model_source(work.reference, work.folder)


def model_source(reference: str, folder: Path) -> bytes:
    """Returns the source of a Python model by its name; empty for a graph of layers."""
    if not reference:
        return b""
    from cnnbench.nn.python_model import class_source  # imports JAX

    return class_source(reference, folder)


def _check_same(work: "RunWork", record: RunRecord, path: Path) -> None:
    """Refuses to mix two trainings in one folder.

    Raises:
      StoreError: settings, experiment, seeds or images have changed.
    """
    for change in _other_settings(record):
        message = f"{path}: the run was started {change.text}"
        raise StoreError(f"{message}; {change.remedy}, or start a new run.")
    if _with_epochs(work.experiment, record.epochs).digest(source_of(work)) != record.spec_digest:
        what = "model" if work.plan is None else f"{path / 'resolved.yaml'}"
        message = f"{path}: {what} has changed since the run was started"
        raise StoreError(f"{message}; restore it, or start a new run.")
    if work.experiment.seeds != record.seeds:
        message = f"{path / 'resolved.yaml'}: the seeds have changed since the run was started"
        raise StoreError(f"{message}; restore them, or start a new run.")
    if work.dataset.digest != record.dataset.digest:
        found = f"the images of {work.dataset.info.name} are not those the run was started with"
        message = f"{path}: {found} ({record.dataset.title}, from {record.dataset.source})"
        raise StoreError(f"{message}; pass their folder with --data-dir, or start a new run.")


def _with_epochs(experiment: Experiment, epochs: int) -> Experiment:
    train = experiment.train.model_copy(update={"epochs": epochs})
    return experiment.model_copy(update={"train": train})


def _other_machine(work: "RunWork", record: RunRecord) -> dict[str, str]:
    """Returns versions and devices that have changed, so that results may differ slightly."""
    now, then = work.environment, record.environment
    found = {name: getattr(now, name) for name in VERSIONS if differs(now, then, name)}
    if now.device_model != then.device_model or now.num_devices != then.num_devices:
        found |= {"num_devices": str(now.num_devices), "device": now.device_model}
    return found


def _doubts(record: RunRecord, other: Mapping[str, str]) -> Iterator[str]:
    """Yields warnings about differences from an uninterrupted run."""
    if other:
        named = [f"{name} {value}" for name, value in other.items() if name in VERSIONS]
        if "device" in other:
            named.append(f"{other['num_devices']} x {other['device']}")
        yield (
            f"{record.run_id} is resumed with {enumeration(named)}; results may differ slightly"
            " from an uninterrupted run"
        )
    if record.environment.settings is None:
        yield (
            f"{record.run_id} was started by an older version, which did not record JAX settings;"
            " results may differ slightly from an uninterrupted run"
        )


def differs(one: object, other: object, name: str) -> bool:
    """Returns True if an attribute of two objects differs."""
    return bool(getattr(one, name) != getattr(other, name))


def _spent(earlier: Timing | None, kept: Sequence[EpochRecord]) -> Timing:
    """Returns the seconds spent before the interruption, as far as they are known."""
    train_s, eval_s = sum(e.train_s for e in kept), sum(e.eval_s for e in kept)
    if earlier is None:
        return Timing(0.0, 0.0, train_s, eval_s, train_s + eval_s)
    return dataclasses.replace(earlier, train_s=train_s, eval_s=eval_s)


def total_timing(before: Timing | None, now: Timing) -> Timing:
    """Adds up the seconds of all parts of an interrupted run."""
    if before is None:
        return now
    fields = (field.name for field in dataclasses.fields(Timing))
    return Timing(**{name: getattr(before, name) + getattr(now, name) for name in fields})
