"""Labels of runs: titles and tags, and the overrides that differ between runs of one title."""

from collections.abc import Iterator, Mapping, Sequence

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


def run_labels(records: Sequence[RunRecord]) -> list[str]:
    """A label for each run: unique, and the same in tables, verdicts and charts.

    Runs of one title get the overrides that differ, and numbers if there are none.

    Args:
      records: records of the runs to be compared.
    """
    titles = [record.title + record.tags_text for record in records]
    commands = [dict(overrides(record.environment.command)) for record in records]
    labels = []
    for title, own in zip(titles, commands, strict=True):
        others = [other for other, name in zip(commands, titles, strict=True) if name == title]
        labels.append(title + _suffix(own, others))
    return numbered(labels)


def overrides(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Keys and values that a command line of `cnnbench run` sets.

    Args:
      command: word by word.

    >>> dict(overrides(["cnnbench", "run", "mlp", "--seeds", "3", "train.epochs=2", "--tag=a"]))
    {'seeds': '3', 'train.epochs': '2'}
    """
    for word, following in zip(command, [*command[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name in _OPTIONS:
            yield _OPTIONS[name], value if equals else following
        elif equals and name.split(".")[0] in Experiment.model_fields:
            yield name, value


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
