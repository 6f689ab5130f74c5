"""The folder of a run: made for a new one, opened again for one that goes on."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.data.catalog import KNOWN
from cnnbench.errors import StoreError
from cnnbench.formatting import enumeration, epochs_text
from cnnbench.runs.checkpoints import Checkpoints
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunFolder, create_run, disk, read_run
from cnnbench.runs.records import (
    DatasetRecord,
    Environment,
    EpochRecord,
    Extension,
    RunRecord,
    RunResult,
    Status,
)
from cnnbench.spec.experiment import Experiment
from cnnbench.system.files import remove_partial
from cnnbench.system.settings import Change, changed_settings, current, is_read
from cnnbench.system.stopwatch import Timing
from cnnbench.training.resume import Resume, plan_resume, require_checkpoints, require_epochs

if TYPE_CHECKING:
    from cnnbench.data.dataset import Dataset
    from cnnbench.spec.loader import Loaded
    from cnnbench.training.executables import Job

VERSIONS = ("python", "jax", "jaxlib", "flax", "optax", "numpy")


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that is about to train.

    Args:
      folder: its folder.
      record: as it stands there.
      resume: what is done already; None for a new run.
    """

    folder: RunFolder
    record: RunRecord
    resume: Resume | None = None


@contextmanager
def alone(folder: RunFolder) -> Iterator[None]:
    """Keeps other processes out of a run's folder.

    Raises:
      StoreError: one is in it, or the disk refuses.
    """
    from cnnbench.system.locks import hold

    with ExitStack() as stack:
        with disk(folder.path, "write"):
            mine = stack.enter_context(hold(folder.path))
        if not mine:
            message = f"{folder.path}: another process is training this run"
            raise StoreError(f"{message}; wait for it, or stop it first.")
        yield


@contextmanager
def create(
    job: "Job",
    loaded: "Loaded",
    results_dir: Path,
    command: Sequence[str],
    tags: Sequence[str] = (),
) -> Iterator[Opened]:
    """Makes a new run's folder; its record comes last, so that a run has all that it goes on from.

    It is locked before others can see it: they would take it for a run that was killed.

    Raises:
      StoreError: the disk refuses.
    """
    from cnnbench.runs.environment import environment

    ran_on, source = environment(job.devices, command), source_of(job)
    folder = create_run(results_dir, loaded.experiment.name, datetime.now(UTC))
    with alone(folder):
        record = _first_record(job, folder.run_id, ran_on, source, tags)
        folder.write_spec(loaded.text)
        folder.write_resolved(loaded.resolved())
        if source:
            folder.write("model.py", source)
        folder.write_record(record)
        yield Opened(folder, record)


def _first_record(
    job: "Job", run_id: str, ran_on: Environment, source: bytes, tags: Sequence[str] = ()
) -> RunRecord:
    """The record of a run that begins now."""
    from cnnbench.training.losses import objective_name

    experiment, dataset = job.experiment, job.dataset
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
        batch_size=job.batch_size,
        spec_digest=experiment.digest(source),
        dataset=_dataset_record(dataset),
        environment=ran_on,
        tags=tuple(dict.fromkeys(tags)),
    )


def _dataset_record(dataset: "Dataset") -> DatasetRecord:
    info = dataset.info
    return DatasetRecord(
        name=info.name,
        title=f"{info.name} ({KNOWN[info.name].title})" if info.name in KNOWN else info.name,
        digest=dataset.digest,
        stand_in_for=dataset.stand_in_for,
        num_train=len(dataset.train),
        num_validation=len(dataset.validation),
        num_test=len(dataset.test),
        source=dataset.source,
    )


def begun(
    loaded: "Loaded",
    dataset: str,
    folder: Path,
    results_dir: Path,
    asked: tuple[str, str],
    notify: Callable[[str], None],
) -> Path | None:
    """The newest run of the same training: a finished one, or else one that can go on.

    Args:
      loaded: the experiment.
      dataset: the digest of its images.
      folder: of the experiment file, where a Python model may be.
      results_dir: where runs are looked for.
      asked: the engine and the device; ``auto`` takes any.
      notify: is told of a run that only its settings keep from being taken.
    """
    from cnnbench.system.locks import is_held

    source = _source(loaded.experiment.model.python or "", folder)
    wanted = (loaded.experiment.digest(source), loaded.experiment.seeds, dataset)
    runs = [
        entry
        for entry in list_runs(results_dir).entries
        if wanted == (entry.record.spec_digest, entry.record.seeds, entry.record.dataset.digest)
        and _as_asked(entry.record, *asked)
    ]
    same = [entry for entry in runs if not _other_settings(entry.record)]
    if runs and not same:
        change = _other_settings(runs[-1].record)[0]
        notify(f"{runs[-1].path} is not taken: it was trained {change.text}")
    finished = [entry for entry in same if entry.record.status is Status.FINISHED]
    stopped = [entry for entry in same if not is_held(entry.path)]
    return next((entry.path for entry in reversed(finished or stopped)), None)


def _as_asked(record: RunRecord, engine: str, device: str) -> bool:
    """Tests whether a run has the engine and the device that are asked for by name."""
    known = record.engine
    forms = {"auto", known.requested, known.form} if known else {engine}
    return engine in forms and device in {"auto", record.environment.device_kind}


def _other_settings(record: RunRecord) -> list[Change]:
    """Settings that are not as they were; none for a run of a version that did not record them.

    A variable that nothing reads, such as ``JAX_CACHE_DIR``, makes no difference.
    """
    then = record.environment.settings
    if then is None:
        return []
    return [change for change in changed_settings(then, current()) if is_read(change.name)]


def reopen(
    job: "Job",
    path: Path,
    notify: Callable[[str], None],
    *,
    resolved: str = "",
    command: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> Opened:
    """Opens the folder of a run that is trained further, cut back to what it continues from.

    Args:
      job: the same training, also with another number of epochs.
      path: the folder.
      notify: is told what may be otherwise than in a run without a break.
      resolved: the experiment, kept where it has another number of epochs.
      command: the command line.
      tags: further tags of the run.

    Raises:
      UsageError: the number of epochs cannot be changed to that of the job.
      StoreError: it is another training, its files cannot be used, or the
        disk refuses.
    """
    run, folder = read_run(path), RunFolder(path)
    _check_same(job, run.record, path)
    require_epochs(run, path, job.experiment)
    other = _other_machine(job, run.record)
    for warning in (*run.warnings, *_doubts(run.record, other)):
        notify(warning)
    remove_partial(path)
    resume = plan_resume(run, checkpoints_of(job, folder), notify)
    require_checkpoints(run, path, resume, job.experiment.train.epochs)
    folder.write_epochs(resume.kept)
    record = with_tags(_running(job, run, resume, command, other), tags)
    # First, since it says which number of epochs holds if the process is killed here.
    folder.write_record(record)
    if record.epochs != run.record.epochs:
        notify(f"{path}: extended from {epochs_text(run.record.epochs)} to {record.epochs}")
    if record.extended:
        _set_aside(folder, run, record, resolved)
    return Opened(folder, record, resume)


def with_tags(record: RunRecord, tags: Sequence[str]) -> RunRecord:
    """The record with further tags."""
    return dataclasses.replace(record, tags=tuple(dict.fromkeys((*record.tags, *tags))))


def _running(
    job: "Job",
    run: RunResult,
    resume: Resume,
    command: Sequence[str],
    other: Mapping[str, str],
) -> RunRecord:
    """The record of a run that is trained further, with what is not as it was."""
    record, now, epochs = run.record, datetime.now(UTC), job.experiment.train.epochs
    changed = (Extension(now, record.epochs, tuple(command)),) if epochs != record.epochs else ()
    return dataclasses.replace(
        record,
        status=Status.RUNNING,
        finished_at=None,
        error=None,
        timing=_spent(record.timing, resume.kept),
        resumed_at=(*record.resumed_at, now),
        # A run that an older version resumed has fewer entries than times.
        resumed_with=(*(record.resumed_with or ({},) * len(record.resumed_at)), other),
        epochs=epochs,
        spec_digest=job.experiment.digest(source_of(job)),
        extended=(*record.extended, *changed),
    )


def _set_aside(folder: RunFolder, run: RunResult, record: RunRecord, resolved: str) -> None:
    """Makes a folder that of an extended run, also where that was interrupted before."""
    if resolved:
        folder.write_resolved(resolved)
    done = max((epoch.epoch for epoch in run.epochs), default=0)
    if done < record.epochs:
        folder.set_summary_aside(done)


def checkpoints_of(job: "Job", folder: RunFolder) -> Checkpoints:
    """The checkpoints in a run's folder."""
    return Checkpoints(folder, job.num_train, job.experiment.checkpoint.keep)


def source_of(job: "Job") -> bytes:
    """The source of a Python model; empty for a graph of layers."""
    return _source(job.reference, job.folder)


def _source(reference: str, folder: Path) -> bytes:
    from cnnbench.nn.python_model import class_source

    return class_source(reference, folder) if reference else b""


def _check_same(job: "Job", record: RunRecord, path: Path) -> None:
    """Refuses to mix two trainings in one folder."""
    for change in _other_settings(record):
        message = f"{path}: it was begun {change.text}"
        raise StoreError(f"{message}; {change.remedy}, or run the experiment again.")
    if _with_epochs(job.experiment, record.epochs).digest(source_of(job)) != record.spec_digest:
        what = "model" if job.plan is None else f"{path / 'resolved.yaml'}"
        message = f"{path}: {what} is not what this run was begun with"
        raise StoreError(f"{message}; restore it, or run the experiment again.")
    if job.experiment.seeds != record.seeds:
        message = f"{path / 'resolved.yaml'}: has other seeds than this run was begun with"
        raise StoreError(f"{message}; restore it, or run the experiment again.")
    if job.dataset.digest != record.dataset.digest:
        found = f"the images of {job.dataset.info.name} are not those it was begun with"
        message = f"{path}: {found} ({record.dataset.title}, from {record.dataset.source})"
        raise StoreError(f"{message}; name their folder with --data-dir, or run it anew.")


def _with_epochs(experiment: Experiment, epochs: int) -> Experiment:
    train = experiment.train.model_copy(update={"epochs": epochs})
    return experiment.model_copy(update={"train": train})


def _other_machine(job: "Job", record: RunRecord) -> dict[str, str]:
    """Versions and devices by which the remaining epochs may differ from an uninterrupted run's."""
    from cnnbench.runs.environment import environment

    now, then = environment(job.devices, ()), record.environment
    found = {name: getattr(now, name) for name in VERSIONS if differs(now, then, name)}
    if now.device_model != then.device_model or now.num_devices != then.num_devices:
        found |= {"num_devices": str(now.num_devices), "device": now.device_model}
    return found


def _doubts(record: RunRecord, other: Mapping[str, str]) -> Iterator[str]:
    """Sentences on that, for a run that goes on."""
    if other:
        named = [f"{name} {value}" for name, value in other.items() if name in VERSIONS]
        if "device" in other:
            named.append(f"{other['num_devices']} x {other['device']}")
        yield (
            f"{record.run_id} is resumed with {enumeration(named)}; an uninterrupted run would have"
            " come to slightly other numbers"
        )
    if record.environment.settings is None:
        yield (
            f"{record.run_id} does not say under which settings of JAX it was begun (an older"
            " version), so its numbers may not be those of an uninterrupted run"
        )


def differs(one: object, other: object, name: str) -> bool:
    """Whether an attribute of two objects is different."""
    return bool(getattr(one, name) != getattr(other, name))


def _spent(earlier: Timing | None, kept: Sequence[EpochRecord]) -> Timing:
    """The seconds before the break, as far as they are known."""
    train_s, eval_s = sum(e.train_s for e in kept), sum(e.eval_s for e in kept)
    if earlier is None:
        return Timing(0.0, 0.0, train_s, eval_s, train_s + eval_s)
    return dataclasses.replace(earlier, train_s=train_s, eval_s=eval_s)


def total_timing(before: Timing | None, now: Timing) -> Timing:
    """The seconds of all parts of a run that was stopped in between."""
    if before is None:
        return now
    fields = (field.name for field in dataclasses.fields(Timing))
    return Timing(**{name: getattr(before, name) + getattr(now, name) for name in fields})
