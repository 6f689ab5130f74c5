"""Runs of one experiment with different seeds as a single run."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from cnnbench.errors import UsageError
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunRecord, RunResult, Status


def same_experiment(one: RunRecord, other: RunRecord) -> bool:
    """True if two runs differ in their seeds only."""
    ours, theirs = (
        (r.name, r.spec_digest, r.dataset.digest, r.environment.device_kind) for r in (one, other)
    )
    return ours == theirs


def finished_runs_of(name: str, results_dir: Path) -> list[RunResult]:
    """Reads the finished runs of the experiments of a name, the oldest first.

    Trials of a tuning are left out: the best of them was chosen for its result.

    Args:
      name: the name.
      results_dir: folder of all runs.

    Raises:
      StoreError: a folder cannot be read.
    """
    found = [entry for entry in list_runs(results_dir).entries if entry.facts.name == name]
    own = [entry for entry in found if not entry.facts.is_trial]
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
    epochs = tuple(e for run, own in parts for e in run.epochs if e.seed in own)
    return replace(
        newest, record=replace(newest.record, seeds=seeds), summary=summary, epochs=epochs
    )
