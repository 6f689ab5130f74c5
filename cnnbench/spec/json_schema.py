"""JSON Schema of experiment files, for editors.

Pydantic generates the schema of the models. Added here are ``extends``, the short form
``optimizer: adam``, blocks and their parameters, and that a file with ``extends`` may omit keys
and unset others with null.

A schema cannot refer to names in the file that it describes. Names of blocks and parameters are
completed if they are those of given experiments (`block_names`), and all others are accepted.

Only keywords common to draft 7 and draft 2020-12 are used, because editors support either.
Checks across values (shapes, wiring, split sizes) are left to ``cnnbench show``.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnbench.data.catalog import KNOWN
from cnnbench.layers import OPERATIONS
from cnnbench.layers.base import Layer
from cnnbench.layers.fields import Model
from cnnbench.layers.parameters import INIT_KEYS, INITIALIZERS, short_names
from cnnbench.spec.blocks import PARAM_PATTERN, SHORTCUT_KINDS, WEIGHTS
from cnnbench.spec.cross_checks import RESERVED_NAMES
from cnnbench.spec.experiment import LAYER_PATTERN, Experiment
from cnnbench.spec.inheritance import read_with_parents
from cnnbench.spec.optimizers import DEFAULT_OPTIMIZER, DEFAULT_SCHEDULE, OPTIMIZERS, SCHEDULES
from cnnbench.spec.shipped import find_shipped, shipped_names

FILE = "cnnbench.schema.json"  # next to an experiment file, whose first line refers to it
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFS = "#/$defs/"
_NULL = {"type": "null"}
_LAYER_OR_CALL = "LayerOrCall"
_SWEEP = {
    "description": "values of keys that `run` tries: lists, or log(0.003..0.3) and uniform(0..1)"
    " with trials",
    "type": ["object", "null"],
    "properties": {"trials": {"type": "integer", "minimum": 1, "description": "number of trials"}},
    "additionalProperties": {"type": ["array", "string"], "minItems": 1, "minLength": 1},
}
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
    "Initializer": ("name", INITIALIZERS),
}
_DEFAULTS = {"Optimizer": DEFAULT_OPTIMIZER, "Schedule": DEFAULT_SCHEDULE}  # used without a tag

Schema = dict[str, Any]
Models = Mapping[str, type[Model]]
_NAMED = {"anyOf": [{"required": ["op"]}, {"required": ["block"]}]}  # has a kind of its own


@dataclass(frozen=True, slots=True)
class BlockNames:
    """Names in experiments, for completion.

    Args:
      params: parameters of the networks with their values.
      blocks: parameters of blocks with their defaults, None if required, by block.
      calls: blocks that a layer calls, by its name.
    """

    params: dict[str, Any] = field(default_factory=dict)
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)


def block_names(paths: Iterable[Path]) -> BlockNames:
    """Names of the blocks and parameters of experiments, and of layers that call a block.

    Raises:
      SpecError: a file cannot be read.
    """
    found = BlockNames()
    for path in paths:
        model = _part_of(read_with_parents(path).data, "model")
        found.params.update(_part_of(model, "params"))
        for name, block in _part_of(model, "blocks").items():
            found.blocks.setdefault(name, {}).update(_part_of(block, "params"))
        for name, layer in _part_of(model, "layers").items():
            if isinstance(layer, dict) and isinstance(layer.get("block"), str):
                found.calls.setdefault(name, set()).add(layer["block"])
    return found


def _part_of(value: Any, key: str) -> dict[str, Any]:
    part = value.get(key) if isinstance(value, dict) else None
    return part if isinstance(part, dict) else {}


def schema(known: BlockNames | None = None) -> Schema:
    """The JSON Schema of an experiment file.

    Args:
      known: names to complete.

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
    keys = _each(_or_expression, _keys_of_any("op", OPERATIONS, changes))
    _check_layers_of_shipped(changes["Experiment" + _CHANGE], _object(keys))
    _add_blocks(full, changes)
    for part in (full["Experiment"], changes["Experiment" + _CHANGE]):
        part["properties"]["sweep"] = _SWEEP
    _complete(full, changes, known or BlockNames())
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


def schema_text(known: BlockNames | None = None) -> str:
    """The JSON Schema as the content of a file.

    Args:
      known: names to complete.
    """
    return json.dumps(schema(known), indent=1) + "\n"


def _ref(name: str) -> Schema:
    return {"$ref": _DEFS + name}


def _add_hints(defs: Mapping[str, Schema]) -> None:
    """Adds patterns and examples for the names of layers and datasets."""
    names = {"pattern": f"^{LAYER_PATTERN}$", "not": {"enum": list(RESERVED_NAMES)}}
    defs["ModelSpec"]["properties"]["layers"]["propertyNames"] = names
    for key in ("name", "offline"):
        defs["DatasetSpec"]["properties"][key]["examples"] = list(KNOWN)


def _take_unions(defs: Mapping[str, Schema]) -> None:
    """Replaces pydantic's unions with references."""
    layers, train = (defs[name]["properties"] for name in ("ModelSpec", "TrainSpec"))
    layers["layers"]["additionalProperties"] = _ref(_LAYER_OR_CALL)
    for key in ("optimizer", "schedule"):
        name, description = key.capitalize(), train[key]["description"]
        short = _words(_UNIONS[name][1])
        train[key] = {"description": description, "anyOf": [short, _ref(name)]}
    for model in OPERATIONS.values():
        own = defs[model.__name__]["properties"]
        for key in INIT_KEYS.keys() & own.keys():
            outer = {name: own[key][name] for name in ("description", "default")}
            own[key] = outer | {"anyOf": [{"enum": short_names(key)}, _ref("Initializer")]}


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


def _check_layers_of_shipped(change: Schema, layer: Schema) -> None:
    """Checks layers without `op` of files that extend a shipped experiment, which has no calls."""
    files = {name: find_shipped(name) for name in shipped_names()}
    plain = [name for name, file in files.items() if file and "blocks:" not in file.read_text()]
    names = [word for name in plain for word in (name, f"{name}.yaml")]
    checked = {"anyOf": [_NULL, {"if": _NAMED, "else": layer}]}
    layers = {"layers": {"additionalProperties": checked}}
    change["if"] = {"properties": {"extends": {"enum": names}}, "required": ["extends"]}
    change["then"] = {"properties": {"model": {"properties": layers}}}


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
    properties = _keys_of_any(tag, models, changes)
    result = _by_tag(tag, models, _CHANGE)
    if tag == "op":  # a change of a call has parameters of a block, with any names and values
        calls = {key: value for key, value in _CALL["properties"].items() if key != "block"}
        properties = _each(_or_anything, properties | calls)
        result["allOf"].append(_unless(tag, {"properties": properties}))
    else:
        result["allOf"].append(_unless(tag, _object(properties)))
    return result


def _keys_of_any(tag: str, models: Models, changes: Mapping[str, Schema]) -> Schema:
    kinds: dict[str, list[Schema]] = {}
    for model in models.values():
        for key, value in changes[model.__name__ + _CHANGE]["properties"].items():
            kinds.setdefault(key, []).append(value)
    return _each(_merged, {key: found for key, found in kinds.items() if key != tag})


def _or_anything(value: Schema) -> Schema:
    return {"anyOf": [value, {}]}


def _merged(kinds: Sequence[Schema]) -> Schema:
    """Union of several definitions of a key."""
    choices = [choice for kind in kinds for choice in kind["anyOf"]]
    return kinds[0] | {"anyOf": [c for i, c in enumerate(choices) if c not in choices[:i]]}


def _add_blocks(full: dict[str, Schema], changes: dict[str, Schema]) -> None:
    """Adds blocks, calls, and values that depend on parameters."""
    for model in (*OPERATIONS.values(), *INITIALIZERS.values()):
        for part in (full[model.__name__], changes[model.__name__ + _CHANGE]):
            part["properties"] = {
                key: value if key in ("op", "name") else _or_expression(value)
                for key, value in part["properties"].items()
            }
    full |= {
        "Calculated": _calculated(),
        "Expression": _expression(),
        "Call": _CALL,
        "Shortcut": _SHORTCUT,
    }
    for defs, ending in ((full, ""), (changes, _CHANGE)):
        defs[_LAYER_OR_CALL + ending] = _layer_or_call("Layer" + ending)
        defs["Block" + ending] = _block(ending)
        defs["ModelSpec" + ending]["properties"] |= {"params": _PARAMS, "blocks": _blocks(ending)}


def _complete(full: dict[str, Schema], changes: dict[str, Schema], known: BlockNames) -> None:
    """Adds names for completion; without effect on which files are valid."""
    own = [name for params in known.blocks.values() for name in params]
    if names := dict.fromkeys([*own, *known.params]):
        full["Expression"]["anyOf"][0]["examples"] = [f"${name}" for name in names]
    for defs in (full["ModelSpec"], changes["ModelSpec" + _CHANGE]) if known.params else ():
        params = _PARAMS | {"properties": _each(_default, known.params)}
        defs["properties"]["params"] = params
    keys = changes["ModelSpec" + _CHANGE]["properties"]
    if known.blocks:
        call = full["Call"] = dict(_CALL)
        call["allOf"] = [_arguments_of(known, name) for name in known.blocks]
        block = _CALL["properties"]["block"] | {"examples": [*known.blocks]}
        call["properties"] = _CALL["properties"] | {"block": block}
        keys["blocks"]["properties"] = dict.fromkeys(known.blocks, _ref("Block" + _CHANGE))
    layers = keys["layers"]["anyOf"][0]
    layers |= _changes_of_calls(known, layers["additionalProperties"])


def _changes_of_calls(known: BlockNames, layer: Schema) -> Schema:
    """Changes of calls in a file with `extends`: of all repetitions, or of one."""
    found: dict[str, Schema] = {}
    for call, blocks in known.calls.items():
        if params := [_arguments(known, name) for name in sorted(blocks & known.blocks.keys())]:
            found[call] = {"allOf": [layer, {"if": _NAMED, "else": {"anyOf": params}}]}
    each = {rf"^{call}\.[0-9]+$": change for call, change in found.items()}
    return {"properties": found, "patternProperties": each} if found else {}


def _arguments_of(known: BlockNames, block: str) -> Schema:
    """Parameters of a call of a block."""
    called = {"properties": {"block": {"const": block}}, "required": ["block"]}
    return {"if": called, "then": _arguments(known, block)}


def _arguments(known: BlockNames, block: str) -> Schema:
    params = {
        name: {"description": f"parameter of block '{block}'", **_default(value)}
        for name, value in known.blocks[block].items()
    }
    ends = {key: {"properties": params} for key in ("first", "last")}
    return {"properties": params | ends}


def _default(value: Any) -> Schema:
    return {} if value is None else {"default": value}


def _or_expression(value: Schema) -> Schema:
    """A value, or an expression of parameters; errors refer to the one that is meant."""
    outer = {key: value[key] for key in ("description", "default") if key in value}
    inner = {key: _in_lists(part) for key, part in value.items() if key not in outer}
    return outer | {"if": _ref("Calculated"), "then": _ref("Expression"), "else": inner}


def _in_lists(part: Any) -> Any:
    """Definitions whose lists of numbers may contain expressions, such as `[$width, 1]`."""
    if isinstance(part, list):
        return [_in_lists(item) for item in part]
    if not isinstance(part, dict):
        return part
    numbers = part.get("items", {}).get("type") == "integer"
    return part | ({"items": _or_expression(part["items"])} if numbers else _each(_in_lists, part))


def _calculated() -> Schema:
    """Values that depend on parameters, as opposed to an initializer with options."""
    return {
        "anyOf": [
            {"type": "string", "pattern": r"^\$"},
            {"type": "object", "required": ["times"]},
            {"type": "object", "required": ["of_input"]},
        ]
    }


def _expression() -> Schema:
    parameter = {
        "description": "parameter of the block or of the model",
        "type": "string",
        "pattern": rf"^\${PARAM_PATTERN}$",
    }
    number = {"anyOf": [{"type": "number"}, parameter]}
    multiple = {"description": "round to a multiple of this number"} | number
    return {
        "anyOf": [
            parameter,
            _object(
                {
                    "times": {
                        "description": "product of numbers",
                        "type": "array",
                        "items": number,
                    },
                    "multiple_of": multiple,
                },
                "times",
            ),
            _object(
                {
                    "of_input": {"description": "multiple of the channels of the block's input"}
                    | number,
                    "multiple_of": multiple,
                },
                "of_input",
            ),
        ]
    }


def _object(properties: Schema, *required: str) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _layer_or_call(layer: str) -> Schema:
    shortcut = {"properties": {"op": {"const": "shortcut"}}, "required": ["op"]}
    return {
        "type": "object",
        "if": {"required": ["block"]},
        "then": _ref("Call"),
        "else": {"if": shortcut, "then": _ref("Shortcut"), "else": _ref(layer)},
    }


def _blocks(ending: str) -> Schema:
    block = {"anyOf": [_ref("Block" + ending), _NULL]} if ending else _ref("Block")
    return {
        "description": "subnetworks that layers call by name",
        "type": "object",
        "additionalProperties": block,
    }


def _block(ending: str) -> Schema:
    return {
        "description": "A subnetwork with parameters.",
        "type": "object",
        "properties": {
            "params": _PARAMS | {"description": "parameters and defaults; null if required"},
            "layers": {
                "description": "the graph; 'input' is the input of the block",
                "type": "object",
                "additionalProperties": {"anyOf": [_ref(_LAYER_OR_CALL + ending), _NULL]},
            },
            "output": {
                "description": "name of the output layer; default: the last one",
                "anyOf": [{"type": "string"}, _NULL],
            },
        },
        "additionalProperties": False,
    }


_PARAMS: Schema = {
    "description": "parameters, by name; $NAME stands for the value",
    "type": "object",
    "propertyNames": {"pattern": f"^{PARAM_PATTERN}$"},
}
_INPUTS: Schema = _tidied(Layer.model_json_schema()["properties"]["inputs"])
_OF_ONE_REPETITION: Schema = {"type": "object", "description": "parameters of this repetition"}
_CALL: Schema = {
    "description": "A block in place of a layer; all other keys are parameters of the block.",
    "type": "object",
    "properties": {
        "block": {"description": "name of the block", "type": "string"},
        "repeat": {
            "description": "number of repetitions, each of which reads the one before it",
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\$"}],
        },
        "weights": {
            "description": "new: each repetition has its own weights; shared: all use the same",
            "anyOf": [{"enum": list(WEIGHTS)}, {"type": "string", "pattern": r"^\$"}],
            "default": "new",
        },
        "first": _OF_ONE_REPETITION,
        "last": _OF_ONE_REPETITION,
        "inputs": _INPUTS,
    },
    "required": ["block"],
}
_SHORTCUT: Schema = {
    "description": "Identity if the shapes agree, or else a projection (He et al. 2016).",
    "type": "object",
    "properties": {
        "op": {"const": "shortcut"},
        "inputs": _INPUTS,
        "like": {"description": "layer whose shape the shortcut has", "type": "string"},
        "kind": {
            "description": "conv: 1x1 convolution and batch norm (option B);"
            " pad: subsampling and zero channels (option A)",
            "anyOf": [{"enum": list(SHORTCUT_KINDS)}, {"type": "string", "pattern": r"^\$"}],
        },
    },
    "required": ["op", "like"],
    "additionalProperties": False,
}
