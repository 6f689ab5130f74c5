"""Adds seeds to a run: trains the missing seeds as a new run, then merges both.

Neither folder changes while the other trains, so a kill at any time loses nothing.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnnbench.errors import UsageError
from cnnbench.formatting import enumeration
from cnnbench.runner.batches.merging import merge_runs
from cnnbench.runner.run import Request
from cnnbench.runs.folder import RESOLVED_FILE, read_run
from cnnbench.runs.records import RunRecord, RunResult, Status


def growing(resumed: Request, record: RunRecord, seeds: str) -> list[Request]:
    """Requests that add seeds to a run.

    Args:
      resumed: resumes the run.
      record: its record.
      seeds: override of the seeds, such as ``seeds=8``.

    Returns:
      `resumed` if the run is unfinished or has all seeds, then a request for missing seeds.

    Raises:
      SpecError: the seeds are invalid.
      UsageError: the run cannot get these seeds.
    """
    assert resumed.resume
    path = resumed.resume
    _require_growable(record, path)
    there = list(record.overrides)
    wanted = dataclasses.replace(resumed, overrides=[*there, seeds]).load().experiment.seeds
    if lost := [str(seed) for seed in record.seeds if seed not in wanted]:
        message = f"--seeds: {path} also has seed{'s' * (len(lost) > 1)} {enumeration(lost)}"
        most = max(record.seeds) + 1
        most += most == len(record.seeds)  # add at least one seed
        raise UsageError(f"{message}; list all seeds of the run, such as --seeds {most}.")
    missing = [seed for seed in wanted if seed not in record.seeds]
    finished = record.status is Status.FINISHED
    own = [] if finished and missing else [resumed]
    return [*own, _batch(resumed, record, missing)] if missing else own


def _require_growable(record: RunRecord, path: Path) -> None:
    """Rejects runs stopped by a rule, trials, and Python models."""
    if record.looks or record.sweep or record.is_trial:
        message = f"--seeds: {path} was stopped by a rule, or is a trial"
        raise UsageError(f"{message}; start a new run without --resume.")
    if (path / "model.py").is_file():
        message = f"--seeds: {path} has a Python model, which cannot train from a run folder"
        raise UsageError(f"{message}; run its experiment file with --seeds and --needed instead.")


def _batch(resumed: Request, record: RunRecord, missing: Sequence[int]) -> Request:
    """Request for the missing seeds; resumes the run it started before, if any."""
    assert resumed.resume
    path, engine = resumed.resume, record.engine
    automatic = engine is not None and resumed.engine == "auto"
    return dataclasses.replace(
        resumed,
        path=path / RESOLVED_FILE,
        overrides=[*record.overrides, f"seeds=[{','.join(map(str, missing))}]"],
        results_dir=path.parent.parent,
        engine=engine.requested if engine and automatic else resumed.engine,
        device=record.environment.device_kind if resumed.device == "auto" else resumed.device,
        resume=None,
        needed=True,
        tags=tuple(dict.fromkeys((*record.tags, *resumed.tags))),
        again=resumed.command,
        grows=path,
    )


def united(requests: Sequence[Request], results: Sequence[RunResult]) -> list[RunResult]:
    """Merges runs with their added seeds; returns other results unchanged.

    Args:
      requests: the requests of a command.
      results: their finished runs.

    Raises:
      UsageError: the seeds cannot be merged; the message says why.
      StoreError: a file cannot be read or written.
    """
    grown = {request.grows for request in requests if request.grows}
    found = [
        result
        for request, result in zip(requests, results, strict=True)
        if not request.grows and request.resume not in grown
    ]
    for request, result in zip(requests, results, strict=True):
        if request.grows:
            parts = [read_run(request.grows), *_folders_of(result)]
            path, _ = merge_runs(parts, request.results_dir)
            found.append(read_run(path))
    return found


def _folders_of(run: RunResult) -> Iterator[RunResult]:
    """The runs that a run was merged from, from their folders, so that all times add up."""
    seeds: dict[Path, list[int]] = {}
    for seed in run.record.seeds:
        if path := run.folder(seed):
            seeds.setdefault(path, []).append(seed)
    return (read_run(path).only(tuple(own)) for path, own in seeds.items())
