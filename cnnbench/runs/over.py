"""Runs of several experiments at several values of one key: `--over KEY=VALUE,VALUE`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnbench.errors import UsageError, or_list, quoted
from cnnbench.formatting import enumeration, is_number
from cnnbench.runs.find import finished_runs_of, name_in
from cnnbench.runs.folder import RunEntry, read_run_entry
from cnnbench.runs.index.resolved import read_resolved
from cnnbench.runs.records import Status
from cnnbench.runs.settings import LAYERS, as_override
from cnnbench.spec.shipped import ENDINGS, find_shipped
from cnnbench.spec.sweeps import same_value, split_values
from cnnbench.spec.vocabulary import KEY

DATASET = "dataset.name"
_SHORT = {
    "dataset": DATASET,
    "optimizer": "train.optimizer.name",
    "schedule": "train.schedule.name",
}
_PREFERRED = ("train.", "train.optimizer.", "dataset.")  # of keys with the same end
_SEEDS = "seeds"
_OF_DATA = (  # computed from the images
    "dataset.normalize",  # and normalize_targets
    "train.class_weights",
    "train.pos_weight",
)
_SHOWN = 4  # keys in a message


@dataclass(frozen=True, slots=True)
class Over:
    """A key and its values, as written in `--over`.

    Args:
      key: dotted path or the end of one.
      values: the values; empty for all that the runs have.
    """

    key: str
    values: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The value of the option."""
        return f"{self.key}={','.join(self.values)}" if self.values else self.key


def parse_over(text: str) -> Over:
    """Parses `KEY=VALUE,VALUE` or `KEY`.

    Raises:
      UsageError: there is no key, a value is empty, or a value is given twice.

    >>> parse_over("epochs=1,10"), parse_over("pad=[1,2],[2,2]").values
    (Over(key='epochs', values=('1', '10')), ('[1,2]', '[2,2]'))
    """
    key, equals, rest = text.partition("=")
    values = tuple(split_values(rest)) if equals else ()
    example = "write, for example, train_examples=1000,2000,4000"
    if not key.strip() or not all(values):
        raise UsageError(f"--over: {quoted(text)} is not KEY=VALUE,VALUE; {example}.")
    if key.strip() == _SEEDS:
        raise UsageError("--over: seeds are what every verdict is over; name another key.")
    for place, value in enumerate(values):
        if any(same_value(value, other) for other in values[:place]):
            raise UsageError(f"--over {key}: {value} is given twice; remove one of them.")
    return Over(key.strip(), values)


def full_key(key: str, settings: Mapping[str, str], where: str) -> str:
    """The dotted path that a key refers to.

    Args:
      key: a path, or the end of one, such as `train_examples`.
      settings: of an experiment.
      where: the experiment, for messages.

    Raises:
      UsageError: the experiment has no such key, or several.
    """
    key = _SHORT.get(key, key)
    layer = key.replace("model.", LAYERS, 1) if key.startswith("model.") else key
    if key in settings or layer in settings:
        return key
    if f"{key}.name" in settings:
        return f"{key}.name"
    found = [path for path in settings if path.endswith(f".{key}")]
    shortest = [p for p in found if p.removesuffix(key) in _PREFERRED]
    if len(found) > 1 and len(shortest) != 1:
        names = or_list(as_override(path) for path in found[:_SHOWN])
        raise UsageError(f"--over: {where} has several keys {quoted(key)}; write {names}.")
    if not found:
        ends = list(dict.fromkeys(path.rpartition(".")[2] for path in settings))
        hint = KEY.hint(key.rpartition(".")[2], ends)
        message = f"--over: {where} has no key {quoted(key)}{hint}"
        raise UsageError(
            f"{message}; write its dotted path, such as train.optimizer.learning_rate."
        )
    return as_override((shortest or found)[0])


def short_key(key: str) -> str:
    """The end of a key, for tables.

    >>> short_key("dataset.name"), short_key("train.epochs"), short_key("model.conv1.kernel")
    ('dataset', 'epochs', 'conv1.kernel')
    """
    named = {path: short for short, path in _SHORT.items()}
    parts = key.split(".")
    return named.get(key) or ".".join(parts[-2 if parts[0] == "model" else -1 :])


@dataclass(frozen=True, slots=True)
class ArmRuns:
    """The runs that one argument refers to.

    Args:
      argument: as the user wrote it.
      runs: all finished ones with their settings, oldest first.
      spec: the experiment file or its name, if the argument is one.
    """

    argument: str
    runs: tuple[tuple[RunEntry, Mapping[str, str]], ...]
    spec: str | None = None


@dataclass(frozen=True, slots=True)
class OverRuns:
    """The runs of every experiment at every value.

    Args:
      key: dotted path of the key.
      values: the values, numbers in ascending order.
      arms: the experiments.
      chosen: for each value, the run of each experiment; None where there is none.
      warnings: what else differs between the runs, a sentence each.
    """

    key: str
    values: tuple[str, ...]
    arms: tuple[ArmRuns, ...]
    chosen: tuple[tuple[RunEntry | None, ...], ...]
    warnings: tuple[str, ...]

    @property
    def missing(self) -> tuple[tuple[str, str], ...]:
        """Experiment and value of each missing run."""
        return tuple(
            (arm.argument, value)
            for value, entries in zip(self.values, self.chosen, strict=True)
            for arm, entry in zip(self.arms, entries, strict=True)
            if entry is None
        )


def find_over(arguments: Sequence[str], over: Over, results_dir: Path) -> OverRuns:
    """Finds the runs of experiments at each value of a key.

    Of several runs with one value, those are chosen whose other settings are the same at all
    values and for all experiments if possible, and then the newest.

    Args:
      arguments: as in `find_runs`, or experiment files.
      over: the key and its values.
      results_dir: folder of all results.

    Raises:
      UsageError: an argument matches no run or file, or its experiment has no such key.
      StoreError: a run cannot be read.
    """
    return over_of([_arm(argument, results_dir) for argument in arguments], over)


def over_of(arms: Sequence[ArmRuns], over: Over) -> OverRuns:
    """Chooses a run of each experiment at each value of a key, as `find_over` does.

    Args:
      arms: the experiments with their runs.
      over: the key and its values.

    Raises:
      UsageError: an experiment has no such key.
    """
    arms = tuple(arms)
    keys = {
        full_key(over.key, settings, entry.facts.name)
        for arm in arms
        for entry, settings in arm.runs[-1:]
    }
    key = min(keys) if keys else _SHORT.get(over.key, over.key)
    values = in_order(over.values) or _common_values(arms, key)
    table = [[_with_value(arm, key, value) for arm in arms] for value in values]
    chosen = _chosen(table, key)
    return OverRuns(key, values, arms, chosen, tuple(_warnings(arms, chosen, key)))


RunsWithSettings = list[tuple[RunEntry, Mapping[str, str]]]


def common_datasets(entries: Sequence[RunEntry]) -> tuple[list[str], list[str]]:
    """Experiments with finished runs on the same several datasets, and these datasets.

    Args:
      entries: all runs.

    Returns:
      The names of at least two experiments, and of at least two datasets; or nothing of either.
    """
    own: dict[str, dict[str, None]] = {}
    for entry in entries:
        facts = entry.facts
        if facts.status is Status.FINISHED and not facts.is_trial:
            own.setdefault(facts.name, {})[facts.dataset] = None
    names = [name for name, datasets in own.items() if len(datasets) > 1]
    shared = [data for data in own[names[0]] if all(data in own[n] for n in names)] if names else []
    return (names, shared) if len(names) > 1 and len(shared) > 1 else ([], [])


def arms_of_folders(paths: Sequence[Path]) -> list[ArmRuns]:
    """The experiments of finished runs, in the order of their first runs.

    Args:
      paths: folders of the runs.

    Raises:
      StoreError: a run cannot be read.
    """
    own: dict[str, RunsWithSettings] = {}
    for path in paths:
        entry = read_run_entry(path)
        name = entry.facts.name + "".join(f"@{tag}" for tag in entry.facts.tags)
        own.setdefault(name, []).extend(_with_settings([entry]))
    return [ArmRuns(name, tuple(runs)) for name, runs in own.items()]


def _arm(argument: str, results_dir: Path) -> ArmRuns:
    path = Path(argument)
    is_file = path.suffix in ENDINGS and path.is_file()
    spec = path if is_file else None
    if not is_file and not (results_dir / argument).exists():
        spec = find_shipped(argument)
    name = name_in(spec) if spec else argument
    if spec and not (results_dir / name).exists():
        return ArmRuns(argument, (), argument)
    entries, _ = finished_runs_of(name, results_dir)
    known = [entry for entry in entries if not entry.facts.is_trial] or entries
    return ArmRuns(argument, _with_settings(known), argument if spec else None)


def _with_settings(
    entries: Sequence[RunEntry],
) -> tuple[tuple[RunEntry, Mapping[str, str]], ...]:
    """Runs with their settings; an extended run has its present number of epochs."""
    found = read_resolved([entry.path for entry in entries])
    return tuple(
        (entry, {**one.settings, "train.epochs": str(entry.facts.epochs)})
        for entry, one in zip(entries, found, strict=True)
    )


def _value(settings: Mapping[str, str], key: str) -> str | None:
    return settings.get(key, settings.get(key.replace("model.", LAYERS, 1)))


def _with_value(arm: ArmRuns, key: str, value: str) -> RunsWithSettings:
    return [
        (entry, settings)
        for entry, settings in arm.runs
        if (found := _value(settings, key)) is not None and same_value(found, value)
    ]


def _common_values(arms: Sequence[ArmRuns], key: str) -> tuple[str, ...]:
    """The values that all experiments have runs with, numbers in order.

    Raises:
      UsageError: there are fewer than two.
    """
    own = [list(dict.fromkeys(_value(s, key) or "null" for _, s in arm.runs)) for arm in arms]
    common = [v for v in own[0] if all(any(same_value(v, w) for w in each) for each in own)]
    if len(common) < 2:
        names = enumeration([arm.argument for arm in arms])
        known = f"only {common[0]}" if common else "none"
        message = f"--over {short_key(key)}: values that {names} all have runs with: {known}"
        raise UsageError(f"{message}; name the values, as in {short_key(key)}=VALUE,VALUE.")
    return in_order(common)


def in_order(values: Sequence[str]) -> tuple[str, ...]:
    """Numbers in ascending order; other values as they are.

    >>> in_order(["1000", "4e2"]), in_order(["b", "a"])
    (('4e2', '1000'), ('b', 'a'))
    """
    return tuple(sorted(values, key=float) if all(map(is_number, values)) else values)


def _rest(key: str) -> Callable[[Mapping[str, str]], tuple[tuple[str, str], ...]]:
    """What else should be equal: training, images, evaluation and seeds."""
    kept = ("train.", "evaluation.", _SEEDS) + (("dataset.",) if key != DATASET else ())
    return lambda settings: tuple(
        sorted(
            (name, value)
            for name, value in settings.items()
            if name.startswith(kept) and name != key and not name.startswith(_OF_DATA)
        )
    )


def _chosen(
    table: Sequence[Sequence[RunsWithSettings]], key: str
) -> tuple[tuple[RunEntry | None, ...], ...]:
    """One run for each value and experiment."""
    rest = _rest(key)
    everything = [runs for row in table for runs in row if runs]
    if wanted := _newest_common(everything, rest):
        return tuple(tuple(_newest(runs, rest, wanted) for runs in row) for row in table)
    columns = list(zip(*table, strict=True))
    own = [_newest_common([runs for runs in column if runs], rest) for column in columns]
    return tuple(
        tuple(_newest(runs, rest, want) for runs, want in zip(row, own, strict=True))
        for row in table
    )


def _newest_common(
    groups: Sequence[RunsWithSettings], rest: Callable[[Mapping[str, str]], object]
) -> object | None:
    """The settings that all groups have, those of the newest run; None if there are none."""
    if not groups:
        return None
    sets = [{rest(settings) for _, settings in runs} for runs in groups]
    common = set.intersection(*sets)
    known = [(entry.facts.started_at, rest(s)) for runs in groups for entry, s in runs]
    return max(((at, r) for at, r in known if r in common), default=(None, None))[1]


def _newest(
    runs: RunsWithSettings, rest: Callable[[Mapping[str, str]], object], wanted: object
) -> RunEntry | None:
    matching = [entry for entry, settings in runs if wanted is None or rest(settings) == wanted]
    return matching[-1] if matching else None


def _warnings(
    arms: Sequence[ArmRuns], chosen: Sequence[Sequence[RunEntry | None]], key: str
) -> Iterator[str]:
    """Other settings that differ between the values of one experiment."""
    rest = _rest(key)
    for arm, column in zip(arms, zip(*chosen, strict=True), strict=True):
        paths = {entry.path for entry in column if entry}
        own = [dict(rest(settings)) for entry, settings in arm.runs if entry.path in paths]
        names = dict.fromkeys(name for each in own for name in each)
        differ = [name for name in names if len({each.get(name) for each in own}) > 1]
        if differ:
            others = enumeration(differ[:_SHOWN])
            yield f"{arm.argument}: its runs differ in {others} as well as in {key}"
