"""JSON Schema of experiment files, for editors.

Pydantic generates the schema of the models. Added here are ``extends``, the short form
``optimizer: adam``, and that a file with ``extends`` may omit keys and unset others with null.

Only keywords common to draft 7 and draft 2020-12 are used, because editors support either.
Checks across values (shapes, wiring, split sizes) are left to ``cnnbench show``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnbench.data.catalog import KNOWN
from cnnbench.layers import OPERATIONS
from cnnbench.layers.fields import Model
from cnnbench.spec.cross_checks import RESERVED_NAMES
from cnnbench.spec.experiment import NAME_PATTERN, Experiment
from cnnbench.spec.optimizers import DEFAULT_OPTIMIZER, DEFAULT_SCHEDULE, OPTIMIZERS, SCHEDULES

FILE = "cnnbench.schema.json"  # next to an experiment file, whose first line refers to it
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFS = "#/$defs/"
_NULL = {"type": "null"}
_CHANGE = "Change"  # suffix of the definitions for files with `extends`
_EXTENDS = {
    "description": "parent experiment: a file in this folder or a subfolder, or the name of"
    " an experiment that ships with cnnbench",
    "type": "string",
    "pattern": r"^(?!/)(?!(.*/)?\.\.(/|$)).+$",
}

# Tagged unions: discriminator key and members.
_UNIONS = {
    "Layer": ("op", OPERATIONS),
    "Optimizer": ("name", OPTIMIZERS),
    "Schedule": ("name", SCHEDULES),
}
_DEFAULTS = {"Optimizer": DEFAULT_OPTIMIZER, "Schedule": DEFAULT_SCHEDULE}  # used without a tag

Schema = dict[str, Any]
Models = Mapping[str, type[Model]]


def schema() -> Schema:
    """The JSON Schema of an experiment file.

    >>> schema()["$schema"]
    'https://json-schema.org/draft/2020-12/schema'
    """
    whole = Experiment.model_json_schema()
    defs = {**whole.pop("$defs"), "Experiment": whole}
    _add_hints(defs)
    _take_unions(defs)
    full = {name: _tidied(part) for name, part in defs.items()}
    changes = {name + _CHANGE: _change(part) for name, part in full.items()}
    _let_extend(changes["Experiment" + _CHANGE], full["Experiment"])
    for name, (tag, models) in _UNIONS.items():
        for word, model in models.items():
            for part in (full[model.__name__], changes[model.__name__ + _CHANGE]):
                part["title"] = word
        full[name] = _with_default(_by_tag(tag, models), name, full)
        changes[name + _CHANGE] = _change_by_tag(tag, models, changes)
    return {
        "$schema": DIALECT,
        "title": "cnnbench experiment",
        "description": "Dataset, model and training settings of an experiment.",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": _ref("Experiment" + _CHANGE),
        "else": _ref("Experiment"),
        "$defs": dict(sorted((full | changes).items())),
    }


def schema_text() -> str:
    """The JSON Schema as the content of a file."""
    return json.dumps(schema(), indent=1) + "\n"


def _ref(name: str) -> Schema:
    return {"$ref": _DEFS + name}


def _add_hints(defs: Mapping[str, Schema]) -> None:
    """Adds patterns and examples for the names of layers and datasets."""
    names = {"pattern": f"^{NAME_PATTERN}$", "not": {"enum": list(RESERVED_NAMES)}}
    defs["ModelSpec"]["properties"]["layers"]["propertyNames"] = names
    for key in ("name", "offline"):
        defs["DatasetSpec"]["properties"][key]["examples"] = list(KNOWN)


def _take_unions(defs: Mapping[str, Schema]) -> None:
    """Replaces pydantic's unions with references."""
    layers, train = (defs[name]["properties"] for name in ("ModelSpec", "TrainSpec"))
    layers["layers"]["additionalProperties"] = _ref("Layer")
    for key in ("optimizer", "schedule"):
        name, description = key.capitalize(), train[key]["description"]
        short = _words(_UNIONS[name][1])
        train[key] = {"description": description, "anyOf": [short, _ref(name)]}


def _tidied(part: Any) -> Any:
    """Removes titles that only repeat a key, and defaults that cannot be written."""
    if isinstance(part, list):
        return [_tidied(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: _each(_tidied, value) if key == "properties" else _tidied(value)
        for key, value in part.items()
        if not (key == "title" or (key == "default" and _is_nothing(value)))
    }


def _each(work: Callable[[Any], Any], properties: Mapping[str, Any]) -> Schema:
    """Applies a function to the properties, one of which is called ``title``."""
    return {name: work(value) for name, value in properties.items()}


def _is_nothing(default: object) -> bool:
    return isinstance(default, dict) or default in (None, "")


def _change(part: Schema) -> Schema:
    """The definition for files with `extends`: any of the keys, or null."""
    kept = {key: value for key, value in part.items() if key != "required"}
    if "properties" in kept:
        kept["properties"] = _each(_or_null, _each(_of_changes, kept["properties"]))
    return kept


def _of_changes(part: Any) -> Any:
    """Removes defaults, which come from the parent, and refers to definitions for `extends`."""
    if isinstance(part, list):
        return [_of_changes(item) for item in part]
    if not isinstance(part, dict):
        return part
    changed = {key: _of_changes(value) for key, value in part.items() if key != "default"}
    if "$ref" in changed:
        changed["$ref"] += _CHANGE
    if isinstance(inner := changed.get("additionalProperties"), dict):
        changed["additionalProperties"] = _or_null(inner)  # null removes a layer
    return changed


def _or_null(value: Schema) -> Schema:
    if "const" in value:
        return value
    kinds = value.get("anyOf") or [{k: v for k, v in value.items() if k != "description"}]
    description = {"description": value["description"]} if "description" in value else {}
    return {**description, "anyOf": [*kinds, *([] if _NULL in kinds else [_NULL])]}


def _let_extend(change: Schema, full: Schema) -> None:
    """Adds `extends`; name and title are not inherited, so they cannot be unset."""
    own = {key: full["properties"][key] for key in ("name", "title")}
    change["properties"] = {"extends": _EXTENDS} | change["properties"] | own
    change["required"] = ["extends", "name"]


def _words(models: Models) -> Schema:
    """The tags of a union with their descriptions, which editors show."""
    meanings = [str(model.__doc__).partition("\n")[0] for model in models.values()]
    return {"enum": list(models), "enumDescriptions": meanings}


def _by_tag(tag: str, models: Models, ending: str = "") -> Schema:
    """An object whose `tag` selects its definition, so that errors refer to that one."""
    return {
        "type": "object",
        "properties": {tag: _words(models)},
        "allOf": [
            {
                "if": {"properties": {tag: {"const": word}}, "required": [tag]},
                "then": _ref(model.__name__ + ending),
            }
            for word, model in models.items()
        ],
    }


def _with_default(by_tag: Schema, name: str, full: Mapping[str, Schema]) -> Schema:
    """Makes the tag optional if the union has a default, whose keys apply then."""
    tag = _UNIONS[name][0]
    if name not in _DEFAULTS:
        return by_tag | {"required": [tag]}
    default = full[type(_DEFAULTS[name]).__name__]
    then = {key: default[key] for key in ("properties", "additionalProperties")}
    return by_tag | {"allOf": [*by_tag["allOf"], _unless(tag, then)]}


def _unless(tag: str, then: Schema) -> Schema:
    return {"if": {"not": {"required": [tag]}}, "then": then}


def _change_by_tag(tag: str, models: Models, changes: Mapping[str, Schema]) -> Schema:
    """The union for files with `extends`: without a tag, any key of any member is valid."""
    kinds: dict[str, list[Schema]] = {}
    for model in models.values():
        for key, value in changes[model.__name__ + _CHANGE]["properties"].items():
            kinds.setdefault(key, []).append(value)
    properties = _each(_merged, {key: found for key, found in kinds.items() if key != tag})
    untagged = {"type": "object", "properties": properties, "additionalProperties": False}
    result = _by_tag(tag, models, _CHANGE)
    result["allOf"].append(_unless(tag, untagged))
    return result


def _merged(kinds: Sequence[Schema]) -> Schema:
    """Union of several definitions of a key."""
    choices = [choice for kind in kinds for choice in kind["anyOf"]]
    return kinds[0] | {"anyOf": [c for i, c in enumerate(choices) if c not in choices[:i]]}
