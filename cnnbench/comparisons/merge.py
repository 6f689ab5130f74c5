"""Runs of one experiment with different seeds as a single run."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from cnnbench.errors import UsageError
from cnnbench.formatting import enumeration
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunEntry, read_run
from cnnbench.runs.records import Facts, RunRecord, RunResult, Status


def same_experiment(one: RunRecord, other: RunRecord) -> bool:
    """True if two runs differ in their seeds only."""
    ours, theirs = (
        (r.name, r.spec_digest, r.dataset.digest, r.environment.device_kind) for r in (one, other)
    )
    return ours == theirs


def finished_runs_of(
    name: str, results_dir: Path, digests: tuple[str, str] | None = None
) -> list[RunResult]:
    """Reads the finished runs of the experiments of a name, the oldest first.

    Trials of a tuning are left out: the best of them was chosen for its result.

    Args:
      name: the name.
      results_dir: folder of all runs.
      digests: those of the experiment and of its images; None for all.

    Raises:
      StoreError: a folder cannot be read.
    """
    found = [entry for entry in list_runs(results_dir).entries if entry.facts.name == name]
    own = [entry for entry in found if not entry.facts.is_trial]
    if digests:
        own = [e for e in own if (e.facts.spec_digest, e.facts.dataset_digest) == digests]
    done = [entry for entry in own if entry.facts.status is Status.FINISHED]
    return [read_run(e.path) for e in sorted(done, key=lambda entry: entry.facts.run_id)]


def all_seeds(runs: Sequence[RunResult], results_dir: Path) -> list[RunResult]:
    """Combines each run with the finished runs of the same experiment.

    Args:
      runs: the runs.
      results_dir: folder of all runs.

    Raises:
      UsageError: two of them are the same experiment.
      StoreError: a folder cannot be read.
    """
    for number, run in enumerate(runs):
        if any(same_experiment(run.record, other.record) for other in runs[:number]):
            message = f"--anytime: combines all runs of {run.record.name}, which is named twice"
            raise UsageError(f"{message}; name each experiment once.")
    own = [finished_runs_of(run.record.name, results_dir) for run in runs]
    return [
        merged([each for each in found if same_experiment(each.record, run.record)] or [run])
        for run, found in zip(runs, own, strict=True)
    ]


def merged(runs: Sequence[RunResult]) -> RunResult:
    """The runs as one, with the seeds in the order of the runs.

    Args:
      runs: finished runs of one experiment, the oldest first, at least one; of a seed that several
        have, the first run counts.

    Returns:
      The newest run with the seeds of all.
    """
    newest, known = runs[-1], set[int]()
    parts = []
    for run in runs:
        seeds = tuple(seed for seed in run.record.seeds if seed not in known)
        known |= set(seeds)
        parts.append((run, seeds))
    summaries = {
        s.seed: s for run, own in reversed(parts) if run.summary for s in run.summary.seeds
    }
    seeds = tuple(chain.from_iterable(own for _, own in parts))
    summary = newest.summary and replace(
        newest.summary, seeds=tuple(summaries[seed] for seed in seeds if seed in summaries)
    )
    return replace(
        newest,
        record=replace(newest.record, seeds=seeds, folds=_folds(parts)),
        summary=summary,
        epochs=tuple(e for run, own in parts for e in run.epochs if e.seed in own),
        seed_paths={seed: path for run, own in parts for seed in own if (path := run.folder(seed))},
    )


def _folds(parts: Sequence[tuple[RunResult, Sequence[int]]]) -> tuple[int, ...]:
    """The fold of each seed; empty without cross-validation."""
    folds = {s: f for run, _ in parts for s, f in zip(run.record.seeds, run.record.folds)}  # noqa: B905 - empty without folds
    return tuple(folds[seed] for _, own in parts for seed in own if seed in folds)


def batches_of(run: RunResult, entries: Sequence[RunEntry]) -> list[RunResult]:
    """Finished runs that have further seeds of the experiment of a run, and the run itself.

    Of runs that share seeds, the newer one counts. Runs that planned looks or a sweep stopped, and
    those with other tags, are no batches.

    Args:
      run: a finished run.
      entries: all runs, oldest first.

    Returns:
      The runs, oldest first.

    Raises:
      StoreError: a folder cannot be read.
    """
    if not is_batch(run.record):
        return [run]
    found, known = [run], set(run.record.seeds)
    for entry in reversed(entries):
        if _is_like(entry.facts, run.record) and not known.intersection(entry.facts.seeds):
            other = read_run(entry.path)
            if is_batch(other.record):
                found.append(other)
                known.update(other.record.seeds)
    return sorted(found, key=lambda each: each.record.run_id)


def _is_like(facts: Facts, record: RunRecord) -> bool:
    """True if a finished run has the experiment, images, kind of device and tags of a record."""
    ours = (record.spec_digest, record.dataset.digest, record.environment.device_kind, record.tags)
    theirs = (facts.spec_digest, facts.dataset_digest, facts.device_kind, facts.tags)
    return facts.status is Status.FINISHED and facts.name == record.name and ours == theirs


def covering(
    seeds: Sequence[int], runs: Sequence[RunResult]
) -> tuple[list[RunResult], tuple[int, ...]]:
    """Parts of finished runs of an experiment that have some of the wanted seeds.

    Args:
      seeds: the wanted seeds.
      runs: the runs, oldest first; of a seed that several have, the newest run counts.

    Returns:
      The runs, reduced to wanted seeds, and the seeds that no run has.
    """
    missing, parts = list(seeds), list[RunResult]()
    for run in reversed(runs):
        own = tuple(seed for seed in run.record.seeds if seed in missing)
        if own and is_batch(run.record):
            parts.append(run.only(own))
            missing = [seed for seed in missing if seed not in own]
    return parts[::-1], tuple(missing)


def pooled(runs: Sequence[RunResult], results_dir: Path) -> tuple[list[RunResult], list[str]]:
    """Unites each run with the batches of its experiment, as far as all experiments have them.

    All runs then have equal seeds. They stay as they are if that would leave no more seeds.

    Args:
      runs: finished runs of different experiments.
      results_dir: folder of all runs.

    Returns:
      The runs, and a sentence on each that was pooled.

    Raises:
      StoreError: a folder cannot be read.
    """
    entries = list_runs(results_dir).entries
    parts = [batches_of(run, entries) for run in runs]
    whole = [{seed for part in own for seed in part.record.seeds} for own in parts]
    shared = set.intersection(*whole)
    equal = all(seeds == shared for seeds in whole)
    if not equal and len(shared) <= max(len(run.record.seeds) for run in runs):
        return list(runs), []
    found, notes = [], []
    for own, seeds in zip(parts, whole, strict=True):
        kept = [part for part in (_shared(part, shared) for part in own) if part.record.seeds]
        found.append(merged(kept))
        if len(kept) > 1:
            others = enumeration([str(seed) for seed in sorted(seeds - shared)])
            without = f"; without seeds {others}, which not all have" if others else ""
            name = own[0].record.name
            notes.append(f"{name}: {len(shared)} seeds pooled from {len(kept)} runs{without}")
    return found, notes


def _shared(run: RunResult, seeds: set[int]) -> RunResult:
    """A run with only some of its seeds."""
    own = tuple(seed for seed in run.record.seeds if seed in seeds)
    return run if own == run.record.seeds else run.only(own)


def is_batch(record: RunRecord) -> bool:
    """True if the seeds of a run can be united with others: no rule or sweep has chosen them."""
    return record.looks is None and record.sweep is None and not record.is_trial
