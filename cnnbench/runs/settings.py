"""Settings of a run: its resolved experiment as dotted paths and texts."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cnnbench.errors import SpecError
from cnnbench.runs.folder import RESOLVED_FILE
from cnnbench.spec.document import inline_text, read_document

_NAMES = ("name", "title")
LAYERS = "model.layers."
NULL = "null"


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
    return dict(_flat("", {key: value for key, value in data.items() if key not in _NAMES}))


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


def _flat(above: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{above}.{key}" if above else str(key), inner)
    else:
        yield above, inline_text(value)
