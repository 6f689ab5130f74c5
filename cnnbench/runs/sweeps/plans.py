"""The plan of a sweep: `RESULTS/.sweeps/ID.json`, and the finished runs that belong to it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cnnbench.errors import UsageError, quoted
from cnnbench.runs import codec
from cnnbench.runs.folder import RunEntry, disk
from cnnbench.runs.records import Status
from cnnbench.system import commands
from cnnbench.system.files import write_atomic

FOLDER = ".sweeps"
_DIGITS = 8  # of an id


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run of a sweep.

    Args:
      name: name of the experiment.
      title: its title.
      spec_digest: as in `run.json`; with the seeds, it says whether the run is there already.
      seeds: the seeds.
    """

    name: str
    title: str
    spec_digest: str
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """A trial of a sweep.

    Args:
      values: the value of each key.
      runs: a run for each experiment.
    """

    values: Mapping[str, str]
    runs: tuple[RunPlan, ...]


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What a sweep trains.

    Args:
      sweep: the id: a digest of experiments, seeds and trials.
      created_at: when the sweep was started for the first time.
      command: its command line, one string per argument.
      specs: the experiment files, or names of those that ship with cnnbench.
      overrides: of all trials, `key=value` each.
      keys: the keys whose values differ.
      trials: the trials, in the order of training.
      sampler: what proposes the trials one after another; empty if they were known at once.
      number: how many trials there will be; 0 if `trials` are all.
    """

    sweep: str
    created_at: datetime
    command: tuple[str, ...]
    specs: tuple[str, ...]
    overrides: tuple[str, ...]
    keys: tuple[str, ...]
    trials: tuple[TrialPlan, ...]
    sampler: str = ""
    number: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the experiments."""
        return tuple(run.name for run in self.trials[0].runs)

    @property
    def short_keys(self) -> tuple[str, ...]:
        """The ends of the keys."""
        return tuple(key.rpartition(".")[2] for key in self.keys)

    def path(self, results_dir: Path) -> Path:
        """The file of the plan."""
        return results_dir / FOLDER / f"{self.sweep}.json"


def sweep_id(trials: Sequence[TrialPlan], *others: object) -> str:
    """The id of a sweep, from what it trains.

    Args:
      trials: its trials.
      *others: what else distinguishes it, as JSON.
    """
    runs = [[[run.name, run.spec_digest, run.seeds] for run in each.runs] for each in trials]
    content = [runs, *others] if others else runs
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_DIGITS]


def write_plan(plan: SweepPlan, results_dir: Path, *, replace: bool = False) -> None:
    """Writes a plan, unless it is there already.

    Args:
      plan: the plan.
      results_dir: folder of all results.
      replace: write it also if it is there.

    Raises:
      StoreError: the disk cannot be written.
    """
    path = plan.path(results_dir)
    with disk(path, "write"):
        if replace or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, codec.encode_fields(plan))


def read_plans(results_dir: Path) -> list[SweepPlan]:
    """Reads the plans of all sweeps, oldest first.

    Raises:
      StoreError: a plan is damaged, or the disk cannot be read.
    """
    folder = results_dir / FOLDER
    with disk(folder, "read"):
        paths = sorted(folder.glob("*.json"))
    return sorted(map(_read_plan, paths), key=lambda plan: (plan.created_at, plan.sweep))


def known_plan(sweep: str, results_dir: Path) -> SweepPlan | None:
    """The plan of a sweep by its id; None if there is none.

    Raises:
      StoreError: the plan is damaged, or the disk cannot be read.
    """
    path = results_dir / FOLDER / f"{sweep}.json"
    with disk(path, "read"):
        if not path.exists():
            return None
    return _read_plan(path)


def _read_plan(path: Path) -> SweepPlan:
    with disk(path, "read"):
        content = path.read_bytes()
    return codec.decode_document(SweepPlan, content, str(path))


def find_plan(word: str | None, results_dir: Path) -> SweepPlan:
    """The sweep that a word refers to: an id or its beginning, or the newest of an experiment.

    Args:
      word: the word; None for the newest sweep.
      results_dir: folder of all results.

    Raises:
      UsageError: there is none, or the beginning of an id is ambiguous.
      StoreError: a plan cannot be read.
    """
    plans = read_plans(results_dir)
    if not plans:
        example = commands.cnnbench("run", "FILE", "KEY=1,2")
        raise UsageError(f"no sweeps in {results_dir}; start one with: {example}")
    if word is None:
        return plans[-1]
    if named := [plan for plan in plans if word in plan.names]:
        return named[-1]
    found = [plan for plan in plans if plan.sweep.startswith(word)]
    if len(found) == 1:
        return found[0]
    see = commands.cnnbench("sweep", "list", *commands.results_dir_option(results_dir))
    what = "is the beginning of several sweeps" if found else "is neither a sweep nor an experiment"
    raise UsageError(f"{quoted(word)} {what}; list all with: {see}")


def now() -> datetime:
    """The time of a new plan."""
    return datetime.now(UTC)


def trained_runs(
    plan: SweepPlan, entries: Iterable[RunEntry]
) -> tuple[tuple[RunEntry | None, ...], ...]:
    """The newest finished run of each trial and experiment; None where there is none.

    Args:
      plan: the sweep.
      entries: all runs, oldest first.
    """
    wanted = {run.spec_digest for trial in plan.trials for run in trial.runs}
    known: dict[str, list[RunEntry]] = {}
    for entry in entries:
        facts = entry.facts
        if facts.status is Status.FINISHED and facts.spec_digest in wanted:
            known.setdefault(facts.spec_digest, []).append(entry)
    return tuple(
        tuple(_newest(known.get(run.spec_digest, ()), run) for run in trial.runs)
        for trial in plan.trials
    )


def failed_runs(plan: SweepPlan, entries: Iterable[RunEntry]) -> Mapping[tuple[str, str], str]:
    """Why the newest run that failed did so, by the name and the digest of an experiment.

    Args:
      plan: the sweep.
      entries: all runs, oldest first.
    """
    wanted = {(run.name, run.spec_digest) for trial in plan.trials for run in trial.runs}
    return {
        key: entry.record.error or "failed"
        for entry in entries
        if entry.facts.status is Status.FAILED
        and (key := (entry.facts.name, entry.facts.spec_digest)) in wanted
    }


def _newest(entries: Iterable[RunEntry], run: RunPlan) -> RunEntry | None:
    """The newest run with the seeds; one that was stopped by looks has the first of them.

    Names are no part of the content, so a run of another name will do if there is none of this.
    """
    fitting = [entry for entry in entries if _has_seeds(entry, run.seeds)]
    own = [entry for entry in fitting if entry.facts.name == run.name]
    return next(reversed(own or fitting), None)


def _has_seeds(entry: RunEntry, seeds: tuple[int, ...]) -> bool:
    own, looks = entry.record.seeds, entry.record.looks
    return own == seeds or (looks is not None and own == seeds[: len(own)])
