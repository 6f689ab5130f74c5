"""Labels of runs: titles and tags, and the overrides that differ between runs of one title."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cnnbench.formatting import numbered
from cnnbench.runs.records import RunRecord
from cnnbench.spec.experiment import Experiment

# Options of `run` that override keys of the experiment.
_OPTIONS = {
    "--seeds": "seeds",
    "--epochs": "train.epochs",
    "--dataset": "dataset.name",
    "--engine": "engine",
}
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


def run_labels(records: Sequence[RunRecord]) -> list[str]:
    """A label for each run: unique, and the same in tables, verdicts and charts.

    Runs of one title get the overrides that differ, and numbers if there are none.

    Args:
      records: records of the runs to be compared.
    """
    titles = [record.title + record.tags_text for record in records]
    commands = [{each.key: each.value for each in overrides(record)} for record in records]
    labels = []
    for title, own in zip(titles, commands, strict=True):
        others = [other for other, name in zip(commands, titles, strict=True) if name == title]
        labels.append(title + _suffix(own, others))
    return numbered(labels)


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
        if name in _OPTIONS:
            text = word if equals else f"{word} {following}"
            yield Override(_OPTIONS[name], value if equals else following, text)
        elif equals and name.split(".")[0] in Experiment.model_fields:
            yield Override(name, value, word)


def _suffix(own: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> str:
    """The overrides of a run that not all runs of its title have, in parentheses."""
    every = {key: {other.get(key) for other in others} for other in others for key in other}
    differing = [key for key, values in every.items() if len(values) > 1]
    words = [f"{_short(key, differing)}={own[key]}" for key in differing if key in own]
    return f" ({', '.join(words)})" if words else ""


def _short(key: str, keys: Sequence[str]) -> str:
    """The end of a key that no other key has; for a layer's option, with the layer's name.

    >>> _short("train.optimizer.learning_rate", []), _short("model.layers.drop1.rate", [])
    ('learning_rate', 'drop1.rate')
    """
    parts = key.split(".")
    others = [other.split(".") for other in keys if other != key]
    fewest = 2 if key.startswith("model.layers.") else 1
    length = next(
        (n for n in range(fewest, len(parts)) if not any(o[-n:] == parts[-n:] for o in others)),
        len(parts),
    )
    return ".".join(parts[-length:])
