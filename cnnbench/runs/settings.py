"""Settings of a run: its resolved experiment as dotted paths and texts."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cnnbench.errors import SpecError
from cnnbench.runs.folder import RESOLVED_FILE
from cnnbench.spec.document import inline_text, read_document

_NAMES = ("name", "title")
LAYERS = "model.layers."
NULL = "null"
_TEXTS: dict[str, str] = {}  # of values by their `repr`; many runs have few different ones


def read_settings(path: Path | None, *, nulls: bool = False) -> dict[str, str]:
    """Reads the settings of a run; empty if they are unknown.

    Args:
      path: folder of the run; None if it was not read from one.
      nulls: also those that are not set.
    """
    if path is None:
        return {}
    try:
        data = read_document(path / RESOLVED_FILE).data
    except SpecError:
        return {}
    if not isinstance(data, dict):
        return {}
    return {key: value for key, value in settings_of(data).items() if nulls or value != NULL}


def settings_of(data: Mapping[str, object]) -> dict[str, str]:
    """The settings of an experiment, also those that are not set.

    Args:
      data: the experiment as plain data.

    >>> settings_of({"name": "a", "train": {"epochs": 3, "clip": None}})
    {'train.epochs': '3', 'train.clip': 'null'}
    """
    found = leaves({key: value for key, value in data.items() if key not in _NAMES})
    return {path: _text(repr(value), value) for path, value in found}


def _text(key: str, value: object) -> str:
    if key not in _TEXTS:
        _TEXTS[key] = inline_text(value)
    return _TEXTS[key]


def leaves(value: object, above: str = "", *, lists: bool = False) -> Iterator[tuple[str, object]]:
    """The values in plain data, each with its dotted path; empty mappings and lists are values.

    Args:
      value: the data.
      above: its own path.
      lists: also the items of lists, by number.

    >>> dict(leaves({"a": {"b": 1, "c": {}}, "d": [2, None]}))
    {'a.b': 1, 'a.c': {}, 'd': [2, None]}
    >>> dict(leaves({"d": [2, None]}, "train", lists=True))
    {'train.d.0': 2, 'train.d.1': None}
    """
    if isinstance(value, Mapping) and value:
        items = list(value.items())
    elif lists and isinstance(value, list | tuple) and value:
        items = list(enumerate(value))
    else:
        yield above, value
        return
    for key, inner in items:
        yield from leaves(inner, f"{above}.{key}" if above else str(key), lists=lists)


def as_override(path: str) -> str:
    """A dotted path as in an override: layers without `model.layers`.

    >>> as_override("model.layers.conv1.kernel")
    'model.conv1.kernel'
    """
    return path.replace(LAYERS, "model.", 1)


def setting(settings: Mapping[str, str], key: str) -> str | None:
    """The value of a key as users write it: layers without `model.layers`, short optimizers.

    >>> setting({"model.layers.conv1.kernel": "5"}, "model.conv1.kernel")
    '5'
    >>> setting({"train.optimizer.name": "sgd"}, "train.optimizer")
    'sgd'
    """
    layer = key.replace("model.", LAYERS, 1) if key.startswith("model.") else key
    for form in (key, layer, f"{key}.name"):
        if form in settings:
            return settings[form]
    return None
