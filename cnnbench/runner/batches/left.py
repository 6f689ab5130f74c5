"""Seeds that `--needed` or `--resume` leave to train, before images are read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnbench.comparisons.merge import covering
from cnnbench.runner.open_run import has_seeds, is_usable, newest_usable
from cnnbench.runner.run import Request
from cnnbench.runs.folder import RunEntry, read_run, read_run_entry, weights_file
from cnnbench.runs.records import RunRecord, Status


@dataclass(frozen=True, slots=True)
class Left:
    """Remaining work of a request.

    Args:
      seeds: seeds to train or resume.
      resumed: folder of the run to resume; None for a new run.
      there: folders of finished runs with the other seeds.
    """

    seeds: tuple[int, ...]
    resumed: Path | None = None
    there: tuple[Path, ...] = ()


def left_of(request: Request, alike: Sequence[RunEntry]) -> Left:
    """Remaining work of a request.

    Args:
      request: the request.
      alike: runs that match its experiment without reading images, oldest first.

    Raises:
      SpecError: the experiment is invalid.
      StoreError: a run cannot be read.
    """
    spec = request.load().experiment
    if request.resume:
        return _left_of_run(request.resume, spec.train.epochs)
    if not request.needed:
        return Left(spec.seeds)
    asked = request.engine, request.device
    runs = [entry for entry in alike if is_usable(entry.record, *asked)]
    same = [entry for entry in runs if has_seeds(entry.record, spec.seeds, request.looks)]
    if found := newest_usable(same):
        return _left_of_run(found.path, spec.train.epochs)
    if request.looks or request.sweep:
        return Left(spec.seeds)
    done = [read_run(entry.path) for entry in runs if _is_batch_of(entry, spec.name)]
    parts, missing = covering(spec.seeds, done)
    return Left(missing, None, tuple(run.path for run in parts if run.path))


def _is_batch_of(entry: RunEntry, name: str) -> bool:
    facts = entry.facts
    return facts.status is Status.FINISHED and facts.name == name and not facts.is_trial


def _left_of_run(path: Path, epochs: int) -> Left:
    """Remaining work of a run, whose number of epochs may change."""
    record = read_run_entry(path).record
    if record.epochs != epochs or (record.extended and record.status is not Status.FINISHED):
        return Left(record.seeds, path)
    if record.status is Status.FINISHED:
        return Left((), None, (path,))
    return Left(tuple(_unfinished(path, record)), path)


def _unfinished(path: Path, record: RunRecord) -> Iterable[int]:
    """Seeds without stored weights."""
    return (seed for seed in record.seeds if not (path / weights_file(seed)).exists())
