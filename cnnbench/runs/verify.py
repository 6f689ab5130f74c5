"""Verification of run folders: every problem, a sentence each."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cnnbench._version import __version__
from cnnbench.errors import CnnbenchError, SpecError
from cnnbench.formatting import enumeration
from cnnbench.runs.checkpoints import Checkpoints, OrbaxCheckpointError
from cnnbench.runs.experiment import load_trained_experiment
from cnnbench.runs.folder import (
    RESOLVED_FILE,
    RunFolder,
    kept_seeds,
    read_predictions,
    read_run,
    read_weights,
)
from cnnbench.runs.predictions import agrees
from cnnbench.runs.records import RunResult, SeedSummary, Status
from cnnbench.runs.summary import lost_seeds, summarize_seed
from cnnbench.runs.weights import digest
from cnnbench.spec.loader import saved_source
from cnnbench.system.arrays import Array, NamedArrays
from cnnbench.system.settings import NUMERIC_OPTIONS, changed_settings, current


def check_run(path: Path) -> list[str]:
    """Lists the problems of a run; empty if the run is intact.

    Args:
      path: the run folder.
    """
    try:
        run = read_run(path)
    except CnnbenchError as error:
        return [str(error)]
    found = [*run.warnings, *_epochs(run), *_times(run), *_settings(run)]
    found += [*_spec(run, path), *_summary(run)]
    return [*found, *_weights(run, path), *_predictions(run, path), *_checkpoints(run, path)]


def _epochs(run: RunResult) -> Iterator[str]:
    """Checks that seeds are unique and epochs are complete and consecutive."""
    record, ended = run.record, set(lost_seeds(run.epochs))
    if run.summary:
        ended |= {s.seed for s in run.summary.seeds if s.num_epochs}  # checked by `_summary`
    twice = [seed for seed, count in Counter(record.seeds).items() if count > 1]
    yield from (f"run.json: duplicate seed {seed}" for seed in twice)
    strangers = dict.fromkeys(e.seed for e in run.epochs if e.seed not in record.seeds)
    yield from (f"epochs.jsonl: seed {seed} is not a seed of the run" for seed in strangers)
    for seed in dict.fromkeys(record.seeds):
        numbers = [epoch.epoch for epoch in run.epochs if epoch.seed == seed]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"epochs.jsonl: the epochs of seed {seed} are not consecutive from 1"
        elif len(numbers) > record.epochs:
            yield f"epochs.jsonl: seed {seed} has {len(numbers)} epochs instead of {record.epochs}"
        elif (
            record.status is Status.FINISHED and seed not in ended and len(numbers) < record.epochs
        ):
            yield f"epochs.jsonl: seed {seed} ends after {len(numbers)} of {record.epochs} epochs"


def _times(run: RunResult) -> Iterator[str]:
    """Checks that no duration is negative, and that parts do not exceed the total.

    Durations come from a monotonic clock. The wall clock may be set back during a run, so a run
    that ends before it starts is not an error.
    """
    record = run.record
    spent = [value for e in run.epochs for value in (e.train_s, e.eval_s, e.samples_per_s)]
    if any(not value >= 0 for value in spent):
        yield "epochs.jsonl: a time is negative or NaN"
    if (timing := record.timing) and record.status is Status.FINISHED:
        parts = timing.train_s + timing.eval_s
        if parts > timing.total_s * 1.001:
            yield (
                f"run.json: {parts:.2f} s of training and evaluation exceed the total of"
                f" {timing.total_s:.2f} s"
            )


def _settings(run: RunResult) -> Iterator[str]:
    """Checks pinned settings, entries of resumptions and the number of devices."""
    record, env = run.record, run.record.environment
    pins = {n: value for n, value in (env.settings or {}).items() if n in NUMERIC_OPTIONS}
    if env.cnnbench == __version__:
        for change in changed_settings(pins, current({})):
            yield (
                f"run.json: {change.name} is {change.then}, but cnnbench {__version__} always"
                f" trains with {change.now}"
            )
    if record.resumed_with and len(record.resumed_with) != len(record.resumed_at):
        times, entries = len(record.resumed_at), len(record.resumed_with)
        yield f"run.json: resumed_at and resumed_with have {times} and {entries} entries"
    if (engine := record.engine) and engine.num_devices > env.num_devices:
        shared = f"{engine.num_devices} devices shared a batch"
        yield f"run.json: {shared}, but only {env.num_devices} exist"


def _spec(run: RunResult, path: Path) -> Iterator[str]:
    """Checks that the resolved experiment is the one that was trained."""
    file = path / RESOLVED_FILE
    try:
        experiment = load_trained_experiment(path, run.record).experiment
        code = saved_source(path)
    except SpecError as error:
        yield str(error)
        return
    except OSError as error:
        yield f"{file}: cannot read: {error.strerror}"
        return
    if experiment.digest(code) != run.record.spec_digest:
        yield f"{RESOLVED_FILE}: not the experiment that was trained (the digests differ)"
    if experiment.seeds != run.record.seeds:
        yield f"{RESOLVED_FILE}: the seeds differ from those in run.json"


def _summary(run: RunResult) -> Iterator[str]:
    """Checks the summary against the epochs."""
    if run.summary is None:
        if run.record.status is Status.FINISHED:
            yield "summary.json: the file is missing"
        return
    if tuple(seed.seed for seed in run.summary.seeds) != run.record.seeds:
        yield "summary.json: the seeds differ from those in run.json"
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
            yield f"summary.json: the values of seed {seed.seed} differ from its epochs"


def _again(run: RunResult, seed: SeedSummary) -> SeedSummary:
    assert run.summary is not None
    own = [epoch for epoch in run.epochs if epoch.seed == seed.seed]
    given = {
        name: getattr(seed, name) for name in ("test", "compile_s", "code_accuracy", "machine")
    }
    given["chosen"] = seed.chosen_epoch
    return summarize_seed(own, metrics=run.summary.metrics, **given)


def _plain(seed: SeedSummary) -> str:
    """A form to compare: NaN equals NaN, and fields that older versions lack are ignored."""
    known = replace(seed, diverged=None, weights_digest=None)
    return repr(replace(known, final=dict(seed.final), best=dict(seed.best)))


def _weights(run: RunResult, path: Path) -> Iterator[str]:
    """Checks that the weights of every seed are readable and have the recorded digest."""
    try:
        kept = {seed: digest(read_weights(path, seed)) for seed in kept_seeds(path)}
    except CnnbenchError as error:
        yield str(error)
        return
    missing = [seed for seed in run.record.seeds if seed not in kept]
    if run.record.status is Status.FINISHED and missing:
        yield f"weights: the file of seed {', '.join(map(str, missing))} is missing"
    for seed in run.summary.seeds if run.summary else ():
        known = seed.weights_digest
        if known and kept.get(seed.seed, known) != known:
            yield f"weights: the file of seed {seed.seed} has changed (the SHA-256 differs)"


def _predictions(run: RunResult, path: Path) -> Iterator[str]:
    """Checks that predictions are readable and have the metrics of the summary as their means."""
    kept: dict[int, NamedArrays] = {}
    for seed in run.record.seeds:
        try:
            found = read_predictions(path, seed)
        except CnnbenchError as error:
            yield str(error)
            found = {}
        if found is not None:
            kept[seed] = found
    missing = [str(seed) for seed in run.record.seeds if seed not in kept]
    if kept and missing and run.record.status is Status.FINISHED:  # older versions have none
        yield f"predictions: the file of seed {', '.join(missing)} is missing"
    for summary in run.summary.seeds if run.summary else ():
        for name, values in sorted(kept.get(summary.seed, {}).items()):
            if problem := misfit(run, summary, name, values):
                yield f"predictions: {name} of seed {summary.seed} {problem}"


def misfit(run: RunResult, seed: SeedSummary, name: str, values: Array) -> str:
    """How the results for each image differ from the run's summary; empty if they do not.

    Args:
      run: the run.
      seed: the summary of the seed.
      name: of the results, such as `test_accuracy`.
      values: the results, (n,).
    """
    split, _, metric = name.partition("_")
    data = run.record.dataset
    size = data.num_test if split == "test" else data.num_validation
    varies = split == "validation" and data.split and data.split.folds  # by one image
    if len(values) != size and not varies:
        return f"has {len(values):,} images instead of {size:,}"
    known = seed.test if split == "test" else seed.final
    if metric in known and not agrees(values, known[metric]):
        return "differs from summary.json"
    return ""


def _checkpoints(run: RunResult, path: Path) -> Iterator[str]:
    """Checks that the checkpoints of an unfinished run are readable."""
    checkpoints = Checkpoints(RunFolder(path), run.record.dataset.num_train)
    for seed in run.record.seeds:
        for point in checkpoints.points(seed):
            try:
                checkpoints.load(seed, *point)
            except OrbaxCheckpointError:
                pass  # from an earlier version, but not damaged
            except CnnbenchError as error:
                yield str(error)
