"""Runs to merge, given by name or in folders of several machines."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cnnbench.errors import UsageError, or_list, quoted
from cnnbench.formatting import clean, enumeration
from cnnbench.runner.batches.merging import merge_runs
from cnnbench.runs.find import find_run, run_folders
from cnnbench.runs.folder import RECORD_FILE, read_run
from cnnbench.runs.records import RunResult, Status

_VERSIONS = ("cnnbench", "python", "jax", "jaxlib", "flax", "optax", "numpy")


def merge_named(
    names: Iterable[str | Path | RunResult], results_dir: Path, output: Path
) -> tuple[list[tuple[RunResult, int, bool]], list[str]]:
    """Merges the runs of each experiment.

    Args:
      names: runs, or results folders.
      results_dir: folder of runs given by name.
      output: results folder for the merged runs.

    Returns:
      For each experiment, the merged run, the number of its parts, and False if it already
      existed; then notes for the user.

    Raises:
      UsageError: the runs cannot be merged.
      StoreError: a file cannot be read or written.
    """
    notes: list[str] = []
    found: list[RunResult] = []
    for name in names:
        own, said = ([name], []) if isinstance(name, RunResult) else _found(name, results_dir)
        found += own
        notes += said
    groups = _by_name(found)
    if output.exists() and not output.is_dir():
        raise UsageError(f"merge: --output: {quoted(str(output))} is not a folder; name a new one.")
    if all(len(own) < 2 for own in groups.values()):
        several = enumeration([clean(name) for name in groups])
        message = f"merge: there is one run of {'each of ' * (len(groups) > 1)}{several}"
        remedy = "name the folders of other machines, too."
        raise UsageError("\n".join([*notes, f"{message}; {remedy}"]))
    written = [(merge_runs(own, output), own) for own in groups.values()]
    notes += [note for _, own in written for note in doubts(own)]
    done = [(read_run(path), len(own), new) for (path, new), own in written]
    return done, list(dict.fromkeys(notes))


def _found(name: str | Path, results_dir: Path) -> tuple[list[RunResult], list[str]]:
    """The run of a name, or the finished runs in a folder."""
    places = [Path(name), results_dir / name]
    for place in places:
        if place.is_dir() and not (place / RECORD_FILE).is_file():
            return runs_below(place)
    known = any(place.exists() for place in places)
    path, warnings = (find_run if known else _find_by_name)(str(name), results_dir)
    return [read_run(path)], list(warnings)


def _find_by_name(name: str, results_dir: Path) -> tuple[Path, Sequence[str]]:
    """Finds the run of a word that is no folder, but may be a RUN-ID or a tag.

    Raises:
      UsageError: nothing has that name, or several runs.
    """
    message = f"merge: no folder {quoted(name)}"
    if len(Path(name).parts) > 1 or not run_folders(results_dir):
        raise UsageError(f"{message}; name folders of results, or runs in {results_dir}.")
    try:
        return find_run(name, results_dir)
    except UsageError as unknown:
        found = str(unknown).removeprefix("command line: ")
        raise UsageError(f"{message}, and {found}") from None


def runs_below(folder: Path) -> tuple[list[RunResult], list[str]]:
    """The finished runs in a folder of results or of an experiment.

    Returns:
      The runs, and a sentence on each other run.

    Raises:
      UsageError: there are none.
      StoreError: one cannot be read.
    """
    records = sorted({*folder.glob("*/run.json"), *folder.glob("*/*/run.json")})
    runs = [read_run(path.parent) for path in records if not path.parent.name.startswith(".")]
    done = [run for run in runs if run.record.status is Status.FINISHED]
    notes = [
        f"{run.path} is {run.record.status}, so it is left out; resume it with:"
        f" {run.record.how_to_resume(run.path or folder)}"
        for run in runs
        if run.record.status is not Status.FINISHED
    ]
    if not done:
        raise UsageError("\n".join([*notes, _nothing_in(folder, some=bool(runs))]))
    return done, notes


def _nothing_in(folder: Path, *, some: bool) -> str:
    """The message on a folder without finished runs.

    Args:
      folder: the folder.
      some: True if it has other runs.
    """
    if some:
        return f"merge: {folder} has no finished run; name another folder."
    deeper = sorted({path.parents[2] for path in folder.glob(f"*/*/*/{RECORD_FILE}")})
    remedy = or_list(map(str, deeper)) if deeper else "folders of results, or runs"
    return f"merge: {folder} is not a folder of results, since it has no runs; name {remedy}."


def _by_name(runs: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Runs by experiment, in the given order; oldest first within each."""
    once = {run.path.resolve(): run for run in runs if run.path}
    found: dict[str, list[RunResult]] = {}
    for run in once.values():
        found.setdefault(run.record.name, []).append(run)
    return {name: sorted(own, key=lambda each: each.record.run_id) for name, own in found.items()}


def doubts(runs: Sequence[RunResult]) -> Iterator[str]:
    """Warns about differing versions and missing shards.

    Args:
      runs: the merged runs.
    """
    name = clean(runs[0].record.name)
    for package in _VERSIONS:
        own = dict.fromkeys(getattr(run.record.environment, package) for run in runs)
        if len(own) > 1:
            both = enumeration(list(own))
            yield f"{name}: runs have {package} {both}, so results may differ slightly"
    shards = [found for run in runs if (found := _shard(run.record.environment.command))]
    for count in dict.fromkeys(count for _, count in shards):
        there = {number for number, own in shards if own == count}
        if lost := [f"{n}/{count}" for n in range(1, count + 1) if n not in there]:
            which = f"shard {lost[0]} is" if len(lost) == 1 else f"shards {enumeration(lost)} are"
            yield f"{name}: {which} missing"


def _shard(command: Sequence[str]) -> tuple[int, int] | None:
    """The shard of a run, from its command line.

    >>> _shard(["cnnbench", "run", "a.yaml", "--shard", "1/2"]), _shard(["cnnbench", "run"])
    ((1, 2), None)
    """
    match = re.search(r"--shard[= ]([0-9]+)/([0-9]+)", " ".join(command))
    return (int(match[1]), int(match[2])) if match else None
