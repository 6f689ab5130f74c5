"""Whether a run's folder holds what it says: every problem, a sentence each."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cnnbench._version import __version__
from cnnbench.errors import CnnbenchError, SpecError
from cnnbench.formatting import enumeration
from cnnbench.runs.checkpoints import Checkpoints, OrbaxCheckpointError
from cnnbench.runs.folder import RESOLVED_FILE, RunFolder, kept_seeds, read_run, read_weights
from cnnbench.runs.records import RunResult, SeedSummary, Status
from cnnbench.runs.summary import lost_seeds, summarize_seed
from cnnbench.runs.weights import digest
from cnnbench.spec.loader import kept_source, load_experiment
from cnnbench.system.settings import NUMBERS, changed_settings, current


def check_run(path: Path) -> list[str]:
    """What is wrong with a run; nothing where it is sound.

    Args:
      path: its folder.
    """
    try:
        run = read_run(path)
    except CnnbenchError as error:
        return [str(error)]
    found = [*run.warnings, *_epochs(run), *_times(run), *_settings(run)]
    found += [*_spec(run, path), *_summary(run)]
    return [*found, *_weights(run, path), *_checkpoints(run, path)]


def _epochs(run: RunResult) -> Iterator[str]:
    """Seeds are unique, and the epochs of each count up from 1, to the last in a finished run."""
    record, lost = run.record, lost_seeds(run.epochs)
    twice = [seed for seed, count in Counter(record.seeds).items() if count > 1]
    yield from (f"run.json: seed {seed} stands twice" for seed in twice)
    strangers = dict.fromkeys(e.seed for e in run.epochs if e.seed not in record.seeds)
    yield from (f"epochs.jsonl: seed {seed} is none of the run's" for seed in strangers)
    for seed in dict.fromkeys(record.seeds):
        numbers = [epoch.epoch for epoch in run.epochs if epoch.seed == seed]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"epochs.jsonl: the epochs of seed {seed} do not count up from 1"
        elif len(numbers) > record.epochs:
            yield f"epochs.jsonl: seed {seed} has {len(numbers)} epochs of {record.epochs}"
        elif record.status is Status.FINISHED and seed not in lost and len(numbers) < record.epochs:
            yield f"epochs.jsonl: seed {seed} ends after {len(numbers)} of {record.epochs} epochs"


def _times(run: RunResult) -> Iterator[str]:
    """No duration is negative, and the parts are no longer than the whole.

    Durations are of a monotonic clock. The wall clock may be set back while a run trains, so
    that it ends before it began: nothing is wrong with such a run.
    """
    record = run.record
    spent = [value for e in run.epochs for value in (e.train_s, e.eval_s, e.samples_per_s)]
    if any(not value >= 0 for value in spent):
        yield "epochs.jsonl: a time is negative or no number"
    if (timing := record.timing) and record.status is Status.FINISHED:
        parts = timing.train_s + timing.eval_s
        if parts > timing.total_s * 1.001:
            yield f"run.json: {parts:.2f} s of training and evaluation in {timing.total_s:.2f} s"


def _settings(run: RunResult) -> Iterator[str]:
    """What was pinned is what this version pins, and each resumption has its entry."""
    record, env = run.record, run.record.environment
    pins = {n: value for n, value in (env.settings or {}).items() if n in NUMBERS}
    if env.cnnbench == __version__:
        for change in changed_settings(pins, current({})):
            yield (
                f"run.json: {change.name} is {change.then}, and cnnbench {__version__} trains"
                f" with {change.now} only"
            )
    if record.resumed_with and len(record.resumed_with) != len(record.resumed_at):
        times, entries = len(record.resumed_at), len(record.resumed_with)
        yield f"run.json: resumed_at and resumed_with have {times} and {entries} entries"
    if (engine := record.engine) and engine.num_devices > env.num_devices:
        yield f"run.json: {engine.num_devices} devices shared a batch, of {env.num_devices}"


def _spec(run: RunResult, path: Path) -> Iterator[str]:
    """The resolved experiment is the one that was trained."""
    file = path / RESOLVED_FILE
    try:
        experiment = load_experiment(file, run.record.overrides).experiment
        code = kept_source(path)
    except SpecError as error:
        yield str(error)
        return
    except OSError as error:
        yield f"{file}: cannot read: {error.strerror}"
        return
    if experiment.digest(code) != run.record.spec_digest:
        yield f"{RESOLVED_FILE}: is not the experiment that was trained (another digest)"
    if experiment.seeds != run.record.seeds:
        yield f"{RESOLVED_FILE}: has other seeds than run.json"


def _summary(run: RunResult) -> Iterator[str]:
    """The summary is what the epochs add up to."""
    if run.summary is None:
        if run.record.status is Status.FINISHED:
            yield "summary.json: is missing"
        return
    if tuple(seed.seed for seed in run.summary.seeds) != run.record.seeds:
        yield "summary.json: has other seeds than run.json"
        return
    for seed in run.summary.seeds:
        own = [epoch for epoch in run.epochs if epoch.seed == seed.seed]
        needed = set(run.summary.metrics) - {"loss"}
        validates = run.record.dataset.num_validation > 0
        if other := next((e for e in own if e.validated != validates), None):
            has = "a validation loss" if other.validated else "no validation loss"
            counts = f"{run.record.dataset.num_validation:,} validation images"
            yield f"epochs.jsonl: seed {seed.seed}, epoch {other.epoch} has {has}, with {counts}"
        elif validates and (lack := next((e for e in own if not needed <= set(e.metrics)), None)):
            names = enumeration(sorted(needed - set(lack.metrics)))
            yield f"epochs.jsonl: seed {seed.seed}, epoch {lack.epoch} has no {names}"
        elif not own or _plain(seed) != _plain(_again(run, seed)):
            yield f"summary.json: seed {seed.seed} is not what its epochs add up to"


def _again(run: RunResult, seed: SeedSummary) -> SeedSummary:
    assert run.summary is not None
    own = [epoch for epoch in run.epochs if epoch.seed == seed.seed]
    given = {name: getattr(seed, name) for name in ("test", "compile_s", "code_accuracy")}
    return summarize_seed(own, metrics=run.summary.metrics, **given)


def _plain(seed: SeedSummary) -> str:
    """For comparison: NaN is equal to itself, and older versions knew no divergence."""
    known = replace(seed, diverged=None, weights_digest=None)
    return repr(replace(known, final=dict(seed.final), best=dict(seed.best)))


def _weights(run: RunResult, path: Path) -> Iterator[str]:
    """The weights of every seed can be read, and are what it learnt."""
    try:
        kept = {seed: digest(read_weights(path, seed)) for seed in kept_seeds(path)}
    except CnnbenchError as error:
        yield str(error)
        return
    missing = [seed for seed in run.record.seeds if seed not in kept]
    if run.record.status is Status.FINISHED and missing:
        yield f"weights: there are none of seed {', '.join(map(str, missing))}"
    for seed in run.summary.seeds if run.summary else ():
        known = seed.weights_digest
        if known and kept.get(seed.seed, known) != known:
            yield f"weights: those of seed {seed.seed} are not what it learnt (another SHA-256)"


def _checkpoints(run: RunResult, path: Path) -> Iterator[str]:
    """What an unfinished run goes on from can be read."""
    checkpoints = Checkpoints(RunFolder(path), run.record.dataset.num_train)
    for seed in run.record.seeds:
        for epoch in checkpoints.epochs(seed):
            try:
                checkpoints.load(seed, epoch)
            except OrbaxCheckpointError:
                pass  # of an earlier version, and not damaged
            except CnnbenchError as error:
                yield str(error)
