"""The language of experiment files as a JSON Schema, for editors.

Pydantic describes the models; what a file may say beyond them is added here: ``extends``,
the short form ``optimizer: adam``, and that a file which extends another may leave keys out
and take others away with null.

Only keywords that draft 7 and draft 2020-12 share are used, because editors read both.
Whatever ties one value to another (shapes, wiring, sizes of splits) is left to ``cnnbench show``.
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

FILE = "cnnbench.schema.json"  # beside an experiment file, where its first line looks for it
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFS = "#/$defs/"
_NULL = {"type": "null"}
_CHANGE = "Change"  # ends the name of what a file that extends another may say of a part
_EXTENDS = {
    "description": "what this file starts from: a file beside it or in a folder below, or"
    " the name of an experiment that comes with cnnbench",
    "type": "string",
    "pattern": r"^(?!/)(?!(.*/)?\.\.(/|$)).+$",
}

# Tagged unions: the key that selects a member, and the members by its words.
_UNIONS = {
    "Layer": ("op", OPERATIONS),
    "Optimizer": ("name", OPTIMIZERS),
    "Schedule": ("name", SCHEDULES),
}
_DEFAULTS = {"Optimizer": DEFAULT_OPTIMIZER, "Schedule": DEFAULT_SCHEDULE}  # where no tag is

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
        "description": "What is trained, on which images, and how.",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": _ref("Experiment" + _CHANGE),
        "else": _ref("Experiment"),
        "$defs": dict(sorted((full | changes).items())),
    }


def schema_text() -> str:
    """The same as the content of a file."""
    return json.dumps(schema(), indent=1) + "\n"


def _ref(name: str) -> Schema:
    return {"$ref": _DEFS + name}


def _add_hints(defs: Mapping[str, Schema]) -> None:
    """What other modules know of values: names of layers and of datasets."""
    names = {"pattern": f"^{NAME_PATTERN}$", "not": {"enum": list(RESERVED_NAMES)}}
    defs["ModelSpec"]["properties"]["layers"]["propertyNames"] = names
    for key in ("name", "offline"):
        defs["DatasetSpec"]["properties"][key]["examples"] = list(KNOWN)


def _take_unions(defs: Mapping[str, Schema]) -> None:
    """Puts references in the places of pydantic's unions."""
    layers, train = (defs[name]["properties"] for name in ("ModelSpec", "TrainSpec"))
    layers["layers"]["additionalProperties"] = _ref("Layer")
    for key in ("optimizer", "schedule"):
        name, description = key.capitalize(), train[key]["description"]
        short = _words(_UNIONS[name][1])
        train[key] = {"description": description, "anyOf": [short, _ref(name)]}


def _tidied(part: Any) -> Any:
    """Without titles that only repeat a key, and defaults that are no value to write."""
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
    """Keys of a file, one of which is called ``title``."""
    return {name: work(value) for name, value in properties.items()}


def _is_nothing(default: object) -> bool:
    return isinstance(default, dict) or default in (None, "")


def _change(part: Schema) -> Schema:
    """What may be said of a part that another file describes: any of its keys, or null."""
    kept = {key: value for key, value in part.items() if key != "required"}
    if "properties" in kept:
        kept["properties"] = _each(_or_null, _each(_of_changes, kept["properties"]))
    return kept


def _of_changes(part: Any) -> Any:
    """The same without defaults, which are the other file's, and with references to changes."""
    if isinstance(part, list):
        return [_of_changes(item) for item in part]
    if not isinstance(part, dict):
        return part
    changed = {key: _of_changes(value) for key, value in part.items() if key != "default"}
    if "$ref" in changed:
        changed["$ref"] += _CHANGE
    if isinstance(inner := changed.get("additionalProperties"), dict):
        changed["additionalProperties"] = _or_null(inner)  # null takes a layer away
    return changed


def _or_null(value: Schema) -> Schema:
    if "const" in value:
        return value
    kinds = value.get("anyOf") or [{k: v for k, v in value.items() if k != "description"}]
    description = {"description": value["description"]} if "description" in value else {}
    return {**description, "anyOf": [*kinds, *([] if _NULL in kinds else [_NULL])]}


def _let_extend(change: Schema, full: Schema) -> None:
    """A name and a title are not inherited, so they cannot be taken away either."""
    own = {key: full["properties"][key] for key in ("name", "title")}
    change["properties"] = {"extends": _EXTENDS} | change["properties"] | own
    change["required"] = ["extends", "name"]


def _words(models: Models) -> Schema:
    """The words of a union, each with what it means, which editors show."""
    meanings = [str(model.__doc__).partition("\n")[0] for model in models.values()]
    return {"enum": list(models), "enumDescriptions": meanings}


def _by_tag(tag: str, models: Models, ending: str = "") -> Schema:
    """An object whose `tag` says which definition holds for it, so that errors are that one's."""
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
    """The same where the tag may be left out if there is a default, whose keys these are then."""
    tag = _UNIONS[name][0]
    if name not in _DEFAULTS:
        return by_tag | {"required": [tag]}
    default = full[type(_DEFAULTS[name]).__name__]
    then = {key: default[key] for key in ("properties", "additionalProperties")}
    return by_tag | {"allOf": [*by_tag["allOf"], _unless(tag, then)]}


def _unless(tag: str, then: Schema) -> Schema:
    return {"if": {"not": {"required": [tag]}}, "then": then}


def _change_by_tag(tag: str, models: Models, changes: Mapping[str, Schema]) -> Schema:
    """Likewise where the other file may have the tag: any key of any member then."""
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
    """What one of several definitions of a key allows."""
    choices = [choice for kind in kinds for choice in kind["anyOf"]]
    return kinds[0] | {"anyOf": [c for i, c in enumerate(choices) if c not in choices[:i]]}
