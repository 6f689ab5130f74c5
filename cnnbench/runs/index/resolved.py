"""Settings of runs, from an index or their `resolved.yaml`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.errors import SpecError
from cnnbench.runs.folder import RESOLVED_FILE
from cnnbench.runs.index.blocks import read_plain
from cnnbench.runs.index.lookup import Indexed, look_up
from cnnbench.runs.settings import leaves, settings_of

_OF_IMAGES = (  # parts of a recipe in `dataset`
    "pixel_scale",
    "normalize",
    "normalize_targets",
    "augment",
)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings of a run.

    Args:
      text: the settings as JSON: dotted paths and texts, also of those that are not set.
    """

    text: str

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings by dotted path; empty if they cannot be read."""
        found: Mapping[str, str] = json.loads(self.text)
        return found


def read_resolved(folders: Sequence[Path]) -> list[Resolved]:
    """Reads the settings of runs, in the order of their folders."""
    return look_up(folders, SETTINGS)


def read_recipes(folders: Sequence[Path]) -> list[str]:
    """Texts that are equal for runs whose training and preprocessing are, but for the epochs.

    Args:
      folders: the folders of the runs.
    """
    return look_up(folders, RECIPES)


def read_recipe(folder: Path, epochs: int) -> dict[str, str]:
    """Training and preprocessing of a run by dotted names; empty if they cannot be read."""
    data = _data(folder)
    return _recipe(data) | {"train.epochs": str(epochs)} if data else {}


def _recipe(data: Mapping[str, object]) -> dict[str, str]:
    """The recipe in a resolved experiment.

    Unset keys are omitted, because runs of older versions do not have those that came later.
    """
    dataset = data.get("dataset")
    images = {key: dataset.get(key) for key in _OF_IMAGES} if isinstance(dataset, dict) else {}
    parts = {"train": data.get("train"), "dataset": images, "evaluation": data.get("evaluation")}
    return {path: str(value) for path, value in leaves(parts) if value not in (None, {})}


def _data(folder: Path) -> Mapping[str, object]:
    try:
        data = read_plain(folder / RESOLVED_FILE)
    except SpecError:
        return {}
    return data if isinstance(data, dict) else {}


def _read(folder: Path) -> Resolved:
    return Resolved(json.dumps(settings_of(_data(folder)), separators=(",", ":")))


def _encoded(found: Resolved) -> list[Any]:
    return [found.text]


def _decoded(_: Path, row: list[Any]) -> Resolved:
    return Resolved(*row)


SETTINGS: Indexed[Resolved] = Indexed(
    name="settings",
    verb="indexed the settings of",
    schema="settings",
    files=(RESOLVED_FILE,),
    read=_read,
    encode=_encoded,
    decode=_decoded,
)


def _read_digest(folder: Path) -> str:
    data = _data(folder)
    recipe = _recipe(data)
    recipe.pop("train.epochs", None)
    digest = hashlib.blake2b(json.dumps(sorted(recipe.items())).encode(), digest_size=16)
    return digest.hexdigest() if data else ""


# Apart from the settings, which are long: a comparison needs these of all runs.
RECIPES: Indexed[str] = Indexed(
    name="recipes",
    verb="indexed the settings of",
    schema="recipe",
    files=(RESOLVED_FILE,),
    read=_read_digest,
    encode=lambda digest: [digest],
    decode=lambda _, row: str(row[0]),
)
