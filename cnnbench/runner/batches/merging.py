"""Merges the seeds of several runs, such as shards, into one run folder."""

import dataclasses
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cnnbench.comparisons.merge import finished_runs_of, merged
from cnnbench.errors import UsageError
from cnnbench.runner.open_run import total_timing
from cnnbench.runner.run import with_tables
from cnnbench.runs.folder import PREDICTIONS, RESOLVED_FILE, WEIGHTS, RunFolder, disk
from cnnbench.runs.records import RunRecord, RunResult, SeedSummary, Status
from cnnbench.runs.settings import read_settings
from cnnbench.spec.loader import load_experiment

_NOT_COMPARED = ("name", "title", "seeds")
_MOST = 4  # keys per message


def merge_runs(runs: Sequence[RunResult], results_dir: Path) -> tuple[Path, bool]:
    """Writes a run folder with the seeds of several runs of one experiment.

    Args:
      runs: the runs, read from their folders.
      results_dir: folder for the merged run.

    Returns:
      The folder, and False if `results_dir` already has a run with all seeds.

    Raises:
      UsageError: the runs cannot be merged; the message says why.
      StoreError: a file cannot be read or written.
    """
    _require_alike(runs)
    _require_equal_seeds(runs)
    seeds = sorted({seed for run in runs for seed in run.record.seeds})
    whole = _in_order(merged(runs), seeds)
    if (path := _existing(whole, results_dir)) is not None:
        return path, False
    return _written(whole, runs, results_dir), True


def _existing(whole: RunResult, results_dir: Path) -> Path | None:
    """An existing run with the same seeds and results."""
    record, wanted = whole.record, _by_seed(whole)
    digests = record.spec_digest, record.dataset.digest
    found = finished_runs_of(record.name, results_dir, digests)
    return next((run.path for run in reversed(found) if _by_seed(run) == wanted), None)


def _by_seed(run: RunResult) -> dict[int, str]:
    return {seed.seed: _results(seed) for seed in run.summary.seeds} if run.summary else {}


def _require_alike(runs: Sequence[RunResult]) -> None:
    """Rejects runs of different experiments."""
    first = runs[0]
    for run in runs:
        if run.record.status is not Status.FINISHED or run.summary is None:
            remedy = run.record.how_to_resume(run.path or Path())
            raise UsageError(
                f"merge: {run.path} is {run.record.status}, not finished; resume it with: {remedy}"
            )
        if run.record.looks or run.record.sweep or run.record.is_trial:
            message = f"merge: {run.path} was stopped by a rule, or is a trial"
            raise UsageError(f"{message}; its seeds cannot be merged with others.")
        for what, remedy in _differences(first, run):
            message = f"merge: {first.path} and {run.path} differ in {what}"
            raise UsageError(f"{message}; {remedy}.")


def _differences(first: RunResult, run: RunResult) -> Iterator[tuple[str, str]]:
    one, two = first.record, run.record
    apart = "name runs of one experiment"
    if one.name != two.name:
        yield f"their experiment ({one.name}, {two.name})", apart
    if one.spec_digest != two.spec_digest:
        remedy = "train all seeds with the same settings, or name only matching runs"
        yield f"their settings{_settings_text(first, run)}", remedy
    if one.dataset.digest != two.dataset.digest:
        names = [f"{data.name} {_short(data.digest)}" for data in (one.dataset, two.dataset)]
        yield f"their images ({', '.join(names)})", "train all seeds on the same data"
    kinds = one.environment.device_kind, two.environment.device_kind
    if kinds[0] != kinds[1]:
        yield f"their device ({kinds[0]}, {kinds[1]})", "merge the runs of each device separately"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _settings_text(one: RunResult, two: RunResult) -> str:
    """Differing keys with both values; empty if the folders lack them, as for Python models."""
    own, other = read_settings(one.path), read_settings(two.path)
    keys = [key for key in {**own, **other} if own.get(key) != other.get(key)]
    shown = [
        f"{key} {own.get(key, 'unset')}, {other.get(key, 'unset')}"
        for key in keys
        if key.partition(".")[0] not in _NOT_COMPARED
    ]
    more = [f"and {len(shown) - _MOST} more"] if len(shown) > _MOST else []
    return f" ({'; '.join([*shown[:_MOST], *more])})" if shown else ""


def _require_equal_seeds(runs: Sequence[RunResult]) -> None:
    """Rejects runs with different results of one seed."""
    known: dict[int, tuple[RunResult, SeedSummary]] = {}
    for run in runs:
        for seed in run.summary.seeds if run.summary else ():
            other, summary = known.setdefault(seed.seed, (run, seed))
            if _results(summary) != _results(seed):
                message = f"merge: seed {seed.seed} has different results in {other.path} and"
                message += f" {run.path} ({_shown(summary.test)}; {_shown(seed.test)})"
                raise UsageError(f"{message}; leave out one of the two runs.")


def _results(seed: SeedSummary) -> str:
    """Results of training, without times; NaN equals NaN."""
    known = dataclasses.replace(seed, compile_s=0.0, train_s=0.0, eval_s=0.0, machine=None)
    return repr(known)


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"test_{name} {value:.6g}" for name, value in values.items())


def _in_order(run: RunResult, seeds: Sequence[int]) -> RunResult:
    """The run with its seeds in order."""
    assert run.summary is not None
    record, place = run.record, {seed: number for number, seed in enumerate(seeds)}
    folds = dict(zip(record.seeds, record.folds, strict=bool(record.folds)))
    ordered = sorted(run.summary.seeds, key=lambda each: place[each.seed])
    return dataclasses.replace(
        run,
        record=dataclasses.replace(
            record, seeds=tuple(seeds), folds=tuple(folds[s] for s in seeds if s in folds)
        ),
        summary=dataclasses.replace(
            run.summary, seeds=tuple(ordered), compile_s=sum(s.compile_s for s in ordered)
        ),
        epochs=tuple(sorted(run.epochs, key=lambda epoch: (place[epoch.seed], epoch.epoch))),
    )


def _written(whole: RunResult, runs: Sequence[RunResult], results_dir: Path) -> Path:
    """Writes the folder under a hidden name, then renames it when complete."""
    parent = results_dir / whole.record.name
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    hidden, path = parent / f".{run_id}", parent / run_id
    with disk(hidden, "create"):
        hidden.mkdir(parents=True)
    try:
        _write(whole, runs, RunFolder(hidden), run_id)
        with disk(path, "write"):
            hidden.rename(path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return path


def _write(whole: RunResult, runs: Sequence[RunResult], folder: RunFolder, run_id: str) -> None:
    assert whole.summary is not None
    assert whole.path is not None
    for name in ("spec.yaml", "model.py"):
        if (whole.path / name).is_file():
            with disk(whole.path / name, "read"):
                folder.write(name, (whole.path / name).read_bytes())
    seeds = f"seeds=[{','.join(map(str, whole.record.seeds))}]"
    overrides = [*whole.record.overrides, seeds]
    loaded = load_experiment(whole.path / RESOLVED_FILE, overrides)
    folder.write_resolved(loaded.resolved())
    for seed in whole.record.seeds:
        for kind in (WEIGHTS, PREDICTIONS):
            _copy(whole.folder(seed), f"{kind}/seed-{seed}.safetensors", folder)
    folder.write_epochs(whole.epochs)
    folder.write_summary(whole.summary)
    folder.write_record(_record(whole.record, [run.record for run in runs], run_id))
    with_tables(folder)


def _copy(source: Path | None, name: str, folder: RunFolder) -> None:
    """Copies a file of a seed if it exists; older versions wrote fewer files."""
    if source and (source / name).is_file():
        with disk(source / name, "read"):
            content = (source / name).read_bytes()
        folder.write(name, content)


def _record(record: RunRecord, parts: Sequence[RunRecord], run_id: str) -> RunRecord:
    """Record of the merged run, dated like its newest part."""
    timing = parts[0].timing
    for part in parts[1:]:
        timing = total_timing(timing, part.timing) if part.timing else timing
    environment = dataclasses.replace(
        record.environment, command=("cnnbench", "merge", *(part.run_id for part in parts))
    )
    return dataclasses.replace(
        record,
        run_id=run_id,
        environment=environment,
        timing=timing,
        started_at=max(part.started_at for part in parts),
        finished_at=max(part.finished_at or part.started_at for part in parts),
        session=_session(parts),
        tags=tuple(dict.fromkeys(tag for part in parts for tag in part.tags)),
        resumed_at=(),
        resumed_with=(),
        extended=(),
    )


def _session(parts: Sequence[RunRecord]) -> str:
    """Session ID; equal for experiments interleaved on each machine."""
    words = sorted({part.session or repr(part.environment.command) for part in parts})
    return sha256("\n".join(words).encode(errors="backslashreplace")).hexdigest()[:16]
