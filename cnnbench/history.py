"""Past runs: every run there is, the newest of each experiment, those a user names."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cnnbench import commands
from cnnbench.errors import IncomparableError, StoreError, UsageError, did_you_mean, listing
from cnnbench.results import RunResult, Status
from cnnbench.stats import mean
from cnnbench.store import RECORD_FILE, RunEntry, disk, read_entry, read_epochs, read_run

_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")


@dataclass(frozen=True, slots=True)
class Listing:
    """Runs in the order of their start, and what could not be read, a sentence each."""

    entries: tuple[RunEntry, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Runs to compare.

    Args:
      runs: in the order in which they were asked for.
      warnings: what is odd about them or was passed over, a sentence each.
      paths: the folder of each run.
    """

    runs: tuple[RunResult, ...]
    warnings: tuple[str, ...]
    paths: tuple[Path, ...] = ()


def list_runs(results_dir: Path) -> Listing:
    """All runs of all experiments, oldest first.

    Raises:
      StoreError: the folder of results or of an experiment cannot be read.
    """
    return _list_folders(run_folders(results_dir))


def run_folders(results_dir: Path) -> list[Path]:
    """The folders of all runs of all experiments.

    Raises:
      StoreError: the folder of results or of an experiment cannot be read.
    """
    return [path for name in _folders(results_dir) for path in _run_folders(name)]


def read_curve(entry: RunEntry) -> tuple[float, ...]:
    """The headline metric after each epoch, mean over the seeds that came so far.

    Empty where the epochs cannot be read: a list shows what it can.
    """
    try:
        epochs, _ = read_epochs(entry.path)
    except StoreError:
        return ()
    first = next(iter(epochs[0].metrics), "loss") if epochs else "loss"
    metric = entry.summary.headline if entry.summary else first
    values: dict[int, list[float]] = {}
    for epoch in epochs:
        if metric == "loss" or metric in epoch.metrics:
            values.setdefault(epoch.epoch, []).append(epoch.validation(metric))
    return tuple(mean(values[number]) for number in sorted(values))


def newest_finished(results_dir: Path) -> Selection:
    """The newest finished run of each experiment; experiments without one are left out.

    The experiment whose first finished run is the oldest comes first: what came later is judged
    beside it, also when it is trained anew.

    Raises:
      StoreError: a folder or the epochs of a chosen run cannot be read.
    """
    listings = [_list_folders(_run_folders(folder)) for folder in _folders(results_dir)]
    finished = sorted(filter(None, map(_finished, listings)), key=lambda runs: _start(runs[0]))
    warnings = (w for listing in listings for w in listing.warnings)
    return _select((runs[-1].path for runs in finished), warnings)


def find_runs(arguments: Sequence[str], results_dir: Path) -> Selection:
    """The runs that a command line names, in its order.

    Args:
      arguments: for each run its folder, its RUN-ID or the beginning of it, or the
        name or folder of an experiment, which stands for its newest finished run; named
        twice, for its newest two, the older one first.
      results_dir: folder of all results.

    Raises:
      UsageError: an argument names nothing, or several runs.
      IncomparableError: an experiment has no finished run.
      StoreError: a run cannot be read.
    """
    found = [
        find_run(argument, results_dir, skip=arguments[place + 1 :].count(argument))
        for place, argument in enumerate(arguments)
    ]
    return _select((path for path, _ in found), (w for _, warnings in found for w in warnings))


def find_run(argument: str, results_dir: Path, skip: int = 0) -> tuple[Path, tuple[str, ...]]:
    """The folder of a run that a command line names, as `find_runs`, and warnings.

    Args:
      argument: what was written.
      results_dir: folder of all results.
      skip: newer finished runs that a name does not mean.
    """
    candidates = [Path(argument), results_dir / argument] if argument.strip() else []
    with disk(Path(argument), "read"):
        for path in candidates:
            if (path / RECORD_FILE).is_file():
                return path, ()
        for path in candidates:
            if folders := _run_folders(path):
                return _newest_of(path, _list_folders(folders), skip)
    return _find_id(argument, results_dir), ()


def find_unfinished(argument: str, results_dir: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder of a run that a command line names to go on with, and warnings.

    Args:
      argument: as in `find_runs`; a name or folder of an experiment stands for its newest run
        that has not finished.
      results_dir: folder of all results.

    Raises:
      UsageError: it names nothing, several runs, or an experiment whose runs have all finished.
      StoreError: a folder cannot be read.
    """
    for path in [Path(argument), results_dir / argument] if argument.strip() else []:
        with disk(Path(argument), "read"):
            is_run = (path / RECORD_FILE).is_file()
        if not is_run and (folders := _run_folders(path)):
            runs = _list_folders(folders)
            open_ = [run for run in runs.entries if run.record.status is not Status.FINISHED]
            if not open_:
                raise UsageError(_nothing_open(path, runs))
            return open_[-1].path, runs.warnings
    return find_run(argument, results_dir)


def find_newest(argument: str, results_dir: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder of a run that a command line names to train further, and warnings.

    Args:
      argument: as in `find_runs`; a name or folder of an experiment stands for its newest run,
        whether it has finished or not.
      results_dir: folder of all results.

    Raises:
      UsageError: it names nothing, or several runs.
      StoreError: a folder cannot be read.
    """
    for path in [Path(argument), results_dir / argument] if argument.strip() else []:
        with disk(Path(argument), "read"):
            is_run = (path / RECORD_FILE).is_file()
        if not is_run and (runs := _list_folders(_run_folders(path))).entries:
            return runs.entries[-1].path, runs.warnings
    return find_run(argument, results_dir)


def _nothing_open(folder: Path, runs: Listing) -> str:
    if not runs.warnings:
        return f"--resume: all runs in {folder} are finished; name another."
    others = f"all others in {folder} are finished" if runs.entries else "there are no others"
    return f"--resume: {runs.warnings[-1].rstrip('.')}; {others}."


def _find_id(prefix: str, results_dir: Path) -> Path:
    experiments = _folders(results_dir)
    runs = [path for folder in experiments for path in _run_folders(folder)]
    matches = [path for path in runs if path.name.startswith(prefix)] if prefix.strip() else []
    match matches:
        case [path]:
            return path
        case []:
            raise UsageError(_unknown(prefix, results_dir, [f.name for f in experiments], runs))
    newest = max(path.name for path in matches)
    begun = f"command line: {prefix!r} begins {len(matches)} run ids"
    raise UsageError(f"{begun}; write more of one, such as {newest}")


def _unknown(argument: str, results_dir: Path, names: list[str], runs: list[Path]) -> str:
    place = f"command line: {argument!r} is no run folder, run id or experiment in {results_dir}"
    if not names:
        start = commands.cnnbench("run", "standard", *commands.in_results(results_dir))
        return f"{place}, which holds no runs; start one with: {start}"
    hint = did_you_mean(argument, [*names, *(path.name for path in runs)])
    see = commands.cnnbench("list", *commands.in_results(results_dir))
    return f"{place}{hint}; write {listing(names)}, or see: {see}"


def _newest_of(folder: Path, runs: Listing, skip: int) -> tuple[Path, tuple[str, ...]]:
    """The newest finished run but `skip`; the newest where there are not so many."""
    finished = _finished(runs)
    if finished:
        entry = finished[-1 - skip] if skip < len(finished) else finished[-1]
        return entry.path, runs.warnings
    counts = Counter(entry.status for entry in runs.entries)
    states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    raise IncomparableError(
        f"{folder}: no finished run ({states or 'none readable'}); run the experiment again"
    )


def _finished(runs: Listing) -> list[RunEntry]:
    return [entry for entry in runs.entries if entry.record.status is Status.FINISHED]


def _select(paths: Iterable[Path], warnings: Iterable[str]) -> Selection:
    folders = tuple(paths)
    runs = tuple(map(read_run, folders))
    return Selection(runs, (*warnings, *(w for run in runs for w in run.warnings)), folders)


def _list_folders(folders: Iterable[Path]) -> Listing:
    entries, warnings = [], []
    for folder in folders:
        try:
            entries.append(read_entry(folder))
        except StoreError as error:
            warnings.append(f"passed over: {error}")
    return Listing(tuple(sorted(entries, key=_start)), tuple(warnings))


def _start(entry: RunEntry) -> tuple[datetime, str]:
    return entry.record.started_at, entry.record.run_id


def _folders(parent: Path) -> list[Path]:
    with disk(parent, "read"):
        if not parent.exists():
            return []
        return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def _run_folders(experiment: Path) -> list[Path]:
    with disk(experiment, "read"):
        folders = _folders(experiment) if experiment.is_dir() else []
        return [f for f in folders if (f / RECORD_FILE).exists() or _RUN_ID.fullmatch(f.name)]
