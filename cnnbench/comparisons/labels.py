"""Labels of runs: titles and tags, and the overrides that differ between runs of one title."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cnnbench.formatting import numbered
from cnnbench.runs.records import RunRecord
from cnnbench.runs.settings import read_settings, setting
from cnnbench.spec.experiment import Experiment

# Options of `run` that override keys of the experiment.
_OPTIONS = {
    "--seeds": "seeds",
    "--epochs": "train.epochs",
    "--dataset": "dataset.name",
    "--engine": "engine",
}
_MOST = 3  # settings in a label
# Options of `run` whose value may look like an override.
_TEXT_OPTIONS = {"--tag", "--results-dir", "--data-dir", "--profile", "--resume"}


class Override(NamedTuple):
    """A value that the command line of a run set.

    Args:
      key: dotted path in the experiment.
      value: its value.
      text: how the command line set it, such as `--epochs 3`.
    """

    key: str
    value: str
    text: str


def run_labels(records: Sequence[RunRecord], paths: Sequence[Path | None] = ()) -> list[str]:
    """A label for each run: unique, and the same in tables, verdicts and charts.

    Runs of one title get the overrides that differ, or else the settings that differ in their
    resolved experiments, and numbers if there are none. Those of a sweep are all that its runs are
    called.

    Args:
      records: records of the runs to be compared.
      paths: the folder of each, where its settings are; none are known if empty.
    """
    titles = [record.title + record.tags_text for record in records]
    folders = paths or [None] * len(records)
    if is_sweep(records):
        found = _what_differs(list(zip(records, folders, strict=True)))
        if all(found) and len(set(found)) == len(found):
            return found
    labels = list(titles)
    for title in dict.fromkeys(titles):
        places = [place for place, other in enumerate(titles) if other == title]
        if len(places) > 1:
            runs = [(records[place], folders[place]) for place in places]
            for place, text in zip(places, _what_differs(runs), strict=True):
                labels[place] += f" ({text})" if text else ""
    return numbered(labels)


def is_sweep(records: Sequence[RunRecord]) -> bool:
    """True for several settings of one experiment, of which none is named: no baseline is meant.

    Two runs are a comparison, and tags name runs.
    """
    # Trials of `run KEY=1,2` have titles of their own.
    titles = {(record.name, "" if record.sweep else record.title) for record in records}
    settings = {record.spec_digest for record in records}
    tagged = any(record.tags for record in records)
    return len(records) > 2 and len(titles) == 1 and not tagged and len(settings) == len(records)


def overrides(record: RunRecord) -> list[Override]:
    """Lists what the command line of a run set, and the present epochs of an extended run."""
    later = list(_parse(record.overrides))
    replaced = {each.key for each in later}
    first = _parse(record.environment.command)
    return [*(each for each in first if each.key not in replaced), *later]


def _parse(command: Sequence[str]) -> Iterator[Override]:
    """Yields the overrides of a command line of `cnnbench run`.

    >>> words = ["cnnbench", "run", "mlp", "--seeds", "3", "train.epochs=2", "--tag", "seeds=4"]
    >>> [each.text for each in _parse(words)]
    ['--seeds 3', 'train.epochs=2']
    """
    neighbors = zip(["", *command], command, [*command[1:], ""], strict=False)
    for before, word, following in neighbors:
        name, equals, value = word.partition("=")
        if before in _TEXT_OPTIONS:
            continue
        if "--over" in (before, name):  # as recorded, with one value
            key, _, value = (word if before == "--over" else value).partition("=")
            if value:
                yield Override(key, value, f"--over {key}={value}")
        elif name in _OPTIONS:
            text = word if equals else f"{word} {following}"
            yield Override(_OPTIONS[name], value if equals else following, text)
        elif equals and name.split(".")[0] in Experiment.model_fields:
            yield Override(name, value, word)


def _what_differs(runs: Sequence[tuple[RunRecord, Path | None]]) -> list[str]:
    """The settings that differ between runs of one title, for each; empty if none do."""
    own = [{each.key: each.value for each in overrides(record)} for record, _ in runs]
    differing = _differing(own)
    if len({tuple(each.get(key) for key in differing) for each in own}) == len(runs):
        own = _with_defaults(own, differing, runs)
    else:
        settings = [read_settings(path) for _, path in runs]
        if all(settings) and (found := _differing(settings)[:_MOST]):
            own, differing = settings, found
    names = {key: short_setting(key, differing) for key in differing}
    return [
        ", ".join(f"{name}={each[key]}" for key, name in names.items() if key in each)
        for each in own
    ]


def _differing(values: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys that not all have with the same value."""
    every = {key: {other.get(key) for other in values} for other in values for key in other}
    return [key for key, found in every.items() if len(found) > 1]


def _with_defaults(
    own: Sequence[Mapping[str, str]],
    keys: Sequence[str],
    runs: Sequence[tuple[RunRecord, Path | None]],
) -> list[dict[str, str]]:
    """Overrides, and the values that runs without an override of a key had in their files."""
    full = []
    for values, (_, path) in zip(own, runs, strict=True):
        missing = [key for key in keys if key not in values]
        settings = read_settings(path) if missing else {}
        found = {key: value for key in missing if (value := setting(settings, key)) is not None}
        full.append({**values, **found})
    return full


def short_setting(key: str, keys: Sequence[str]) -> str:
    """The end of a key that no other key has; for an option, with the name of what has it.

    Options of optimizers and schedules are known by their names.

    >>> short_setting("train.optimizer.learning_rate", [])
    'learning_rate'
    >>> keys = "model.layers.drop1.rate", "train.ema.decay", "dataset.name", "model.params.n"
    >>> [short_setting(key, []) for key in keys]
    ['drop1.rate', 'ema.decay', 'name', 'n']
    """
    parts = key.split(".")
    others = [other.split(".") for other in keys if other != key]
    known = len(parts) < 3 or parts[-2] in ("optimizer", "schedule", "params")
    fewest = 1 if known else 2
    length = next(
        (n for n in range(fewest, len(parts)) if not any(o[-n:] == parts[-n:] for o in others)),
        len(parts),
    )
    return ".".join(parts[-length:])
