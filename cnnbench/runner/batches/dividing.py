"""Splits requests so that interrupted seeds are resumed, not trained again."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from cnnbench.comparisons.merge import is_batch, merged, same_experiment
from cnnbench.formatting import enumeration
from cnnbench.runner.open_run import is_usable
from cnnbench.runner.run import Request
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RESOLVED_FILE, RunEntry
from cnnbench.runs.records import RunResult, Status
from cnnbench.spec.experiment import AUTO, BALANCED, Experiment
from cnnbench.spec.loader import load_experiment
from cnnbench.system import commands
from cnnbench.system.locks import is_held


@dataclass(frozen=True, slots=True)
class DividedRequests:
    """Requests that train only missing seeds.

    Args:
      requests: for each experiment, its interrupted runs and the remaining seeds.
      notes: messages about runs that cannot be resumed.
      origins: number of the experiment of each request.
    """

    requests: list[Request]
    notes: list[str]
    origins: list[int]

    def tell(self, note: Callable[[str], None]) -> None:
        """Reports runs that cannot be resumed."""
        for text in self.notes:
            note(text)

    def joined(self, results: Sequence[RunResult]) -> list[RunResult]:
        """Merges the results of each experiment.

        Args:
          results: finished runs, in the order of the requests unless some are missing.

        Returns:
          One run per experiment.
        """
        if len(results) < len(self.requests):
            return _by_experiment(results)
        found: dict[int, list[RunResult]] = {}
        for origin, run in zip(self.origins, results, strict=True):
            found.setdefault(origin, []).append(run)
        return [runs[0] if len(runs) == 1 else merged(runs) for runs in found.values()]


def with_interrupted(requests: Sequence[Request]) -> DividedRequests:
    """Splits requests with `--needed` into interrupted runs and the remaining seeds.

    This only groups the seeds. A request with exactly the seeds of a run finds the run later, and
    skips it if its images differ.

    Args:
      requests: the experiments.

    Returns:
      The requests, unchanged if no run can be resumed.

    Raises:
      SpecError: an experiment is invalid.
      StoreError: a run cannot be read.
    """
    parts = DividedRequests([], [], [])
    listed = cache(lambda results_dir: list_runs(results_dir).entries)
    for number, request in enumerate(requests):
        own, notes = [request], list[str]()
        if request.needed and not (request.resume or request.looks or request.sweep):
            groups, notes = _groups(request, listed(request.results_dir))
            if groups != [request.load().experiment.seeds]:
                own = [_part(request, group) for group in groups]
        parts.requests.extend(own)
        parts.notes.extend(note for note in notes if note not in parts.notes)
        parts.origins.extend([number] * len(own))
    return parts


def _part(request: Request, seeds: Sequence[int]) -> Request:
    words = f"seeds=[{','.join(map(str, seeds))}]"
    return dataclasses.replace(
        request, overrides=[*request.overrides, words], again=request.again or request.command
    )


def _groups(
    request: Request, entries: Sequence[RunEntry]
) -> tuple[list[tuple[int, ...]], list[str]]:
    """Seeds of each interrupted run, then all others; and notes on unusable runs."""
    spec = request.load().experiment
    runs = _runs_of(spec, request, entries)
    if any(run.facts.seeds == spec.seeds and not is_held(run.path) for run in runs):
        return [spec.seeds], []  # a run of all seeds is found later
    done = {seed for run in runs if _is_finished(run) for seed in run.facts.seeds}
    left, groups, notes = [seed for seed in spec.seeds if seed not in done], [], []
    for run in reversed([run for run in runs if not _is_finished(run)]):
        seeds = run.facts.seeds
        if is_held(run.path):
            notes += _note(run, left, "is being trained; its seeds are trained here, too")
        elif set(seeds) <= set(left):
            groups.append(seeds)
            left = [seed for seed in left if seed not in seeds]
        else:
            line = commands.resume(run.record.environment.command, run.path)
            notes += _note(run, left, f"also has other seeds, so it is not used; resume: {line}")
    rest = tuple(seed for seed in spec.seeds if not any(seed in group for group in groups))
    return [*reversed(groups), *[rest] * bool(rest)], notes


def _note(run: RunEntry, left: Sequence[int], text: str) -> list[str]:
    common = [str(seed) for seed in run.facts.seeds if seed in left]
    some = f"seed{'s' * (len(common) > 1)} {enumeration(common)}"
    return [f"{run.path} ({run.facts.status}, {some}) {text}"] if common else []


def _runs_of(spec: Experiment, request: Request, entries: Sequence[RunEntry]) -> list[RunEntry]:
    """Runs with seeds of a request; none if no run was interrupted.

    Only few records are read, after all other filters: a name may have thousands of runs.
    """
    named = [run for run in entries if run.facts.name == spec.name]
    own = [run for run in named if set(run.facts.seeds) & set(spec.seeds)]
    stopped = alike(spec, [run for run in own if not _is_finished(run)])
    digests = {run.facts.spec_digest for run in stopped}
    asked = request.engine, request.device
    return [
        run
        for run in own
        if run.facts.spec_digest in digests
        and is_batch(run.record)
        and is_usable(run.record, *asked)
    ]


def alike(spec: Experiment, runs: Sequence[RunEntry], source: bytes = b"") -> list[RunEntry]:
    """Runs that match an experiment whose images are not read yet.

    Without its source, which needs JAX, a Python model is matched by the name of the run alone.

    Args:
      spec: the experiment.
      runs: candidate runs.
      source: source code of a Python model; empty if not read, or none.
    """
    digest, name, unread = spec.digest(source), spec.name, spec.model.python and not source
    return [
        run
        for run in runs
        if run.facts.spec_digest == digest
        or (run.facts.name == name and (unread or _is_like(run, spec, source)))
    ]


def _is_like(run: RunEntry, spec: Experiment, source: bytes) -> bool:
    """True if a run differs from an experiment only in numbers computed from images."""
    if not spec.depends_on_images:
        return False
    keys = {
        "dataset": [key for key in ("normalize", "normalize_targets") if _is_open(spec, key)],
        "train": [key for key in ("class_weights", "pos_weight") if _is_open(spec, key)],
    }
    other = load_experiment(run.path / RESOLVED_FILE, run.record.overrides).experiment
    filled = {
        part: getattr(spec, part).model_copy(
            update={key: getattr(getattr(other, part), key) for key in own}
        )
        for part, own in keys.items()
    }
    return spec.model_copy(update=filled).digest(source) == run.facts.spec_digest


def _is_open(spec: Experiment, key: str) -> bool:
    """True if a value is computed from the images."""
    part = spec.dataset if hasattr(spec.dataset, key) else spec.train
    return any(getattr(part, key) == word for word in (AUTO, BALANCED))


def _is_finished(run: RunEntry) -> bool:
    return run.facts.status is Status.FINISHED


def _by_experiment(results: Sequence[RunResult]) -> list[RunResult]:
    """Merges results with disjoint seeds of one experiment."""
    found: list[RunResult] = []
    for run in results:
        for number, other in enumerate(found):
            apart = set(run.record.seeds).isdisjoint(other.record.seeds)
            if apart and same_experiment(run.record, other.record):
                found[number] = merged([other, run])
                break
        else:
            found.append(run)
    return found
