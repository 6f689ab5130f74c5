"""Reproducibility: repeated runs must be bitwise equal, or differ in a recorded setting.

The same seed gives the same numbers on the same device with the same versions and settings, so
different results come from a recorded difference of these, or from a defect.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from cnnbench.comparisons.comparability import TEST, Finished, values
from cnnbench.errors import UsageError
from cnnbench.formatting import clean, enumeration
from cnnbench.runs.records import EngineRecord, Environment, EpochRecord, RunRecord
from cnnbench.spec.metrics import is_fraction, metric_text, words
from cnnbench.system import commands
from cnnbench.system.settings import Change, affects_numbers, changed_settings

_VERSIONS = ("cnnbench", "python", "jax", "jaxlib", "flax", "optax", "numpy")
_ENGINE = {
    "form": "engine",
    "row": "micro-batch size",
    "num_devices": "devices per batch",
    "steps_per_call": "steps per call",
    "seeds_at_once": "seeds in parallel",
}


def repeats(one: RunRecord, other: RunRecord) -> bool:
    """True if two different runs repeat one experiment with at least one common seed."""
    same = (one.spec_digest, one.dataset.digest) == (other.spec_digest, other.dataset.digest)
    again = (one.name, one.run_id) != (other.name, other.run_id)
    return same and again and bool(set(one.seeds) & set(other.seeds))


def contradiction(one: Finished, other: Finished, labels: tuple[str, str]) -> str | None:
    """A sentence on two runs that should have identical numbers but do not; None if they do.

    Args:
      one: a run.
      other: a run that repeats it.
      labels: their labels in tables.
    """
    if (found := next(_differences(one, other), None)) is None:
        return None
    names, seeds = " and ".join(map(clean, labels)), one.record.seeds
    shared = "the same seeds"
    if seeds != other.record.seeds:
        common = [str(seed) for seed in seeds if seed in other.record.seeds]
        shared = f"common seed{'s' * (len(common) > 1)} {enumeration(common)}"
    return (
        f"{names} are the same experiment with {shared}, but their results differ ({found}):"
        f" {_explanation(one.record, other.record)}."
    )


def _differences(one: Finished, other: Finished) -> Iterator[str]:
    """Differing values of two runs: first the compared metric, then the epochs, then the tests."""
    epochs = [{(e.seed, e.epoch): e for e in run.epochs} for run in (one, other)]
    metric = one.judged_by
    seeds = [seed for seed in one.record.seeds if seed in other.record.seeds]
    name = words(metric if metric.startswith(TEST) else f"validation_{metric}")
    ends = [values(run, metric) for run in (one, other)]
    for seed in seeds:
        yield from _unequal(f"{name} of seed {seed}", metric, *(end[seed] for end in ends))
    for place in (key for key in epochs[0] if key in epochs[1] and key[0] in seeds):
        where = f"of seed {place[0]} after epoch {place[1]}"
        first, second = (_values(each[place]) for each in epochs)
        for name in (name for name in first if name in second):
            yield from _unequal(f"{words(name)} {where}", name, first[name], second[name])
    tests = [{seed.seed: seed.test for seed in run.summary.seeds} for run in (one, other)]
    for seed in seeds:
        for name in (name for name in tests[0][seed] if name in tests[1][seed]):
            pair = [test[seed][name] for test in tests]
            yield from _unequal(f"{words(TEST + name)} of seed {seed}", name, *pair)


def _values(epoch: EpochRecord) -> Mapping[str, float]:
    names = ("loss", *epoch.metrics) if epoch.validated else ()
    own = {f"validation_{name}": epoch.validation(name) for name in names}
    return {"training_loss": epoch.train_loss} | own


def _unequal(what: str, metric: str, one: float, other: float) -> Iterator[str]:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return
    texts = [metric_text(metric, value) for value in (one, other)]
    if texts[0] == texts[1]:  # equal as far as tables show them
        scale = 100 if is_fraction(metric) else 1
        texts = [f"{scale * value!r}{'%' * (scale > 1)}" for value in (one, other)]
    yield f"{what}: {' and '.join(texts)}"


def _explanation(one: RunRecord, other: RunRecord) -> str:
    if found := [*_settings(one.environment, other.environment), *_machines(one, other)]:
        return f"they differ in {enumeration(found)}"
    commits = [_commit(record.environment) for record in (one, other)]
    if commits[0] != commits[1]:
        return f"the only recorded difference is the git commit, {' and '.join(commits)}"
    unread = [change.name for change in _changes(one, other) if not _is_read(change)]
    except_for = f" except for {enumeration(unread)}, which JAX does not read" if unread else ""
    return (
        "nothing in their records explains it: engine, device, versions and settings are the"
        f" same{except_for}; check for a damaged run with {commands.cnnbench('check')}"
    )


def _machines(one: RunRecord, other: RunRecord) -> Iterator[str]:
    """Differences of engine, device and versions, each with both values."""
    engines = [_engine(record.engine) for record in (one, other)]
    yield from _pairs(*engines)
    places = [record.environment for record in (one, other)]
    names = ("device_model", "num_devices", "num_processes", "platform", *_VERSIONS)
    yield from _pairs(*({name: str(getattr(env, name)) for name in names} for env in places))
    for record in (one, other):
        if later := [entry for entry in record.resumed_with if entry]:
            values = enumeration([f"{name} {value}" for name, value in later[-1].items()])
            yield f"the resumed part ({record.run_id} was resumed with {clean(values)})"


def _engine(engine: EngineRecord | None) -> dict[str, str]:
    known = asdict(engine) if engine else {}
    return {title: str(known[name]) for name, title in _ENGINE.items() if name in known}


def _settings(one: Environment, other: Environment) -> Iterator[str]:
    if one.settings is None or other.settings is None:
        if one.settings != other.settings:
            yield "possibly JAX settings (one run is from a version that did not record them)"
        return
    for change in filter(_is_read, changed_settings(one.settings, other.settings)):
        values = (value or "not set" for value in (change.then, change.now))
        yield f"{change.name} ({clean('; '.join(values))})"


def _changes(one: RunRecord, other: RunRecord) -> list[Change]:
    return changed_settings(one.environment.settings or {}, other.environment.settings or {})


def _is_read(change: Change) -> bool:
    """True if results may depend on a setting, or if JAX rejects the query."""
    try:
        return affects_numbers(change.name)
    except UsageError:
        return True


def _pairs(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    for name in one:
        if one[name] != other.get(name, one[name]):
            yield f"{name.replace('_', ' ')} ({clean(one[name])}; {clean(other[name])})"


def _commit(environment: Environment) -> str:
    commit = environment.commit[:12] if environment.commit else "none"
    return f"{commit} with local changes" if environment.dirty else commit
