"""Translates pydantic validation errors to issues of an experiment file."""

import shlex
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cnnbench.errors import Issue, Location, or_list, quoted
from cnnbench.formatting import enumeration
from cnnbench.layers import OPERATIONS
from cnnbench.layers.activation import ACTIVATION_NAMES
from cnnbench.layers.fields import VALUE
from cnnbench.layers.parameters import INIT_KEYS, INITIALIZERS, init_choices
from cnnbench.spec import vocabulary
from cnnbench.spec.document import Document, KeyPath, dotted
from cnnbench.spec.experiment import (
    AUGMENTATIONS,
    Augment,
    Clip,
    EarlyStopping,
    Ema,
    Experiment,
    ImbalanceSpec,
    LabelNoiseSpec,
    Splits,
    SplitSpec,
    SubsetSpec,
)
from cnnbench.spec.optimizers import (
    DEFAULT_OPTIMIZER,
    DEFAULT_SCHEDULE,
    OPTIMIZERS,
    SCHEDULES,
    ParameterGroup,
)
from cnnbench.spec.yaml_parser import MAX_DIGITS, is_number

_SECTIONS: Mapping[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Experiment.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
_NOUNS = {
    "operation": vocabulary.OPERATION,
    "activation": vocabulary.ACTIVATION,
    "initializer": vocabulary.INIT,
    "optimizer": vocabulary.OPTIMIZER,
    "schedule": vocabulary.SCHEDULE,
    "loss": vocabulary.LOSS,
    "metric": vocabulary.METRIC,
    "precision": vocabulary.PRECISION,
    "task": vocabulary.TASK,
    "kind": vocabulary.KIND,
}
_PARTS_OF_NETWORKS = frozenset({"operation", "activation", "initializer"})
_CHOICES: Mapping[KeyPath, Mapping[str, type[BaseModel]]] = {
    ("train", "optimizer"): OPTIMIZERS,
    ("train", "schedule"): SCHEDULES,
}
_WITHIN: Mapping[KeyPath, type[BaseModel]] = {  # sections of sections
    ("dataset", "splits"): Splits,
    ("dataset", "split"): SplitSpec,
    ("dataset", "subset"): SubsetSpec,
    ("dataset", "imbalance"): ImbalanceSpec,
    ("dataset", "label_noise"): LabelNoiseSpec,
    ("train", "clip"): Clip,
    ("train", "ema"): Ema,
    ("train", "early_stopping"): EarlyStopping,
    ("dataset", "augment"): Augment,
}
_DEEPER: Mapping[KeyPath, type[BaseModel]] = {
    ("dataset", "augment", name): model for name, model in AUGMENTATIONS.items()
}
_DEFAULTS = {"optimizer": DEFAULT_OPTIMIZER.name, "schedule": DEFAULT_SCHEDULE.name}
NAMING = "start with a letter and use letters, digits, '-' and '_'"
_TRUE_WORDS = ("yes", "on", "y")
_FALSE_WORDS = ("no", "off", "n")
_BOUNDS = {
    "greater_than": ("gt", "small", "a value greater than {}"),
    "greater_than_equal": ("ge", "small", "{} or more"),
    "less_than": ("lt", "large", "a value less than {}"),
    "less_than_equal": ("le", "large", "{} or less"),
}
_MAPPINGS = ("dict_type", "model_type", "model_attributes_type", "union_tag_not_found")
_KINDS = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
}
_EXAMPLES = "such as conv, max_pool or dense"


def issues_of(error: ValidationError, document: Document) -> list[Issue]:
    """One issue per invalid value.

    Args:
      error: raised by validating the data of the document as an `Experiment`.
      document: the data, with values as written.
    """
    return [_issue(detail, document) for detail in error.errors(include_url=False)]


def _issue(detail: ErrorDetails, document: Document) -> Issue:
    at = _path_in_file(detail["loc"])
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    written = quoted(value, at, document.values)
    match kind:
        case "missing":
            return _missing(at, detail["loc"], document.data)
        case "extra_forbidden":
            return _unknown_key(at, detail["loc"], document.data)
        case "cnnbench":
            at = (*at, *context["at"])
            written = quoted(_item(document.data, at), at, document.values)
            return Issue(at, context["message"].replace(VALUE, written), context["remedy"])
        case "union_tag_not_found" | "union_tag_invalid" if at[-1] in INIT_KEYS:
            return _wrong_initializer(at, value, document)
        case "union_tag_not_found" if isinstance(value, Mapping):
            return Issue(at, "'op' is missing", f"add 'op: ...' ({_EXAMPLES})")
        case "union_tag_invalid":
            short = not isinstance(_item(document.data, at), Mapping)
            word, choices, noun = value[_tag(at)], _union(at), _noun(at)
            at = at if short else (*at, _tag(at))
            return _wrong_choice(at, word, quoted(word, at, document.values), choices, noun)
        case "literal_error" | "enum":
            choices = context["expected"].replace(" or ", ", ").split(", ")
            words: Sequence[str] = [word.strip("'") for word in choices]
            words = init_choices(str(at[-1])) if at[-1] in INIT_KEYS else words
            return _wrong_choice(at, value, written, words, _noun(at))
        case "finite_number":
            return Issue(at, f"{written} is not a finite number", "use a finite number")
        case "string_pattern_mismatch":
            return Issue(at, f"{written} is not a valid name", NAMING)
        case "string_too_long":
            remedy = f"use at most {context['max_length']} characters"
            return Issue(at, f"{written} is too long", remedy)
        case "tuple_type":
            remedy = f"write [{value}]" if isinstance(value, str) else "use a list in brackets"
            return Issue(at, f"{written} is not a list", remedy)
        case _ if kind in _BOUNDS:
            key, word, phrase = _BOUNDS[kind]
            remedy = f"use {phrase.format(f'{context[key]:g}')}"
            return Issue(at, f"{written} is too {word}", remedy)
        case _ if kind in _MAPPINGS:
            return _not_a_mapping(at, value, written)
        case _ if kind in _KINDS:
            return _wrong_kind(at, value, kind, document.values)
        case _:
            raise AssertionError(f"unexpected validation error: {detail}")


def _path_in_file(loc: KeyPath) -> KeyPath:
    """Pydantic's path without the names of union members, which are not in the file."""
    match loc:
        case ("model", "layers", name, _, key, _, *rest) if key in INIT_KEYS:
            return ("model", "layers", name, key, *rest)
        case ("model", "layers", name, _, *rest):
            return ("model", "layers", name, *rest)
        case ("train", ("optimizer" | "schedule") as key, _, *rest):
            return ("train", key, *rest)
        case _:
            return loc


def _item(data: Any, at: KeyPath) -> Any:
    for key in at:
        data = data[key]
    return data


def _model_at(loc: KeyPath) -> type[BaseModel]:
    match loc:
        case ("model", "layers", _, _, key, str(name), _) if key in INIT_KEYS:
            return INITIALIZERS[name]
        case ("model", "layers", _, str(op), *_):
            return OPERATIONS[op]
        case ("train", "optimizer", str(name), *_):
            return OPTIMIZERS[name]
        case ("train", "schedule", str(name), *_):
            return SCHEDULES[name]
        case (str(section), str(inner), _) if (section, inner) in _WITHIN:
            return _WITHIN[section, inner]
        case ("train", "groups", *_):
            return ParameterGroup
        case (*section, _) if tuple(section) in _DEEPER:
            return _DEEPER[tuple(section)]
        case (str(section), _):
            return _SECTIONS[section]
        case _:
            return Experiment


def _union(at: KeyPath) -> Mapping[str, type[BaseModel]]:
    """The union of models at a path, by the tag that selects each."""
    return _CHOICES.get(at[:2], OPERATIONS)


def _tag(at: KeyPath) -> str:
    return "op" if _union(at) is OPERATIONS else "name"


def _noun(at: KeyPath) -> str:
    """The kind of value at a path, for messages."""
    match at:
        case ("model", "layers", _):
            return "operation"
        case (*_, "metrics", int()) | (*_, "restore_best"):
            return "metric"
        case (*_, key) if key in INIT_KEYS:
            return "initializer"
        case ("evaluation", "augment"):
            return "test-time augmentation"
        case _:
            return str(at[-1])


def _missing(at: KeyPath, loc: KeyPath, data: Any) -> Issue:
    key = str(loc[-1])
    description = _model_at(loc).model_fields[key].description
    if len(at) > 1 and at[-2] in INIT_KEYS and isinstance(word := _item(data, at[:-1]), str):
        remedy = f"use {{name: {word}, {key}: ...}} ({description})"
        return Issue(at[:-1], f"{word} needs '{key}'", remedy)
    return Issue(at[:-1], f"'{key}' is missing", f"add '{key}: ...' ({description})")


def _wrong_initializer(at: KeyPath, value: Mapping[str, Any], document: Document) -> Issue:
    """Issue for options without a known initializer that has options."""
    choices = init_choices(str(at[-1]))
    if "name" not in value:
        return Issue(at, "'name' is missing", f"add 'name: ...' ({or_list(INITIALIZERS)})")
    name, place = value["name"], (*at, "name")
    if name in choices:
        return Issue(at, f"{name} has no options", f"use {at[-1]}: {name}")
    return _wrong_choice(place, name, quoted(name, place, document.values), choices, _noun(at))


def _unknown_key(at: KeyPath, loc: KeyPath, data: Any) -> Issue:
    key = str(loc[-1])
    keys = [*_model_at(loc).model_fields, *(["extends"] if len(loc) == 1 else [])]
    if at[:2] in _CHOICES and len(at) == 3 and (owners := _owners(at[:-1], key, keys)):
        return _option_of_others(at, str(loc[2]), owners, data)
    remedy = f"use {or_list(keys)}"
    if hint := _key_hint(at, keys, data):
        return Issue(at, f"unknown key {quoted(key)}{hint}", remedy, of_key=True)
    if at[:2] == ("model", "layers") and len(at) == 4:
        return _no_option(at, str(loc[3]), remedy)
    way = vocabulary.alternative(key)
    unsupported = vocabulary.KEY.is_unsupported(key, keys) and not way
    message = f"{quoted(key)} is not supported" if unsupported else f"unknown key {quoted(key)}"
    remedy = f"{way}, or {remedy}" if way else remedy
    return Issue(at, message, remedy, of_key=True)


def _no_option(at: KeyPath, op: str, remedy: str) -> Issue:
    """Issue for a key that an operation does not have, under any name."""
    key = str(at[-1])
    owners = [name for name, model in OPERATIONS.items() if key in model.model_fields]
    message = f"{op} has no {quoted(key)}"
    if owners:
        message += f" (available for {enumeration(owners)})"
    if key == "padding" or vocabulary.KEY.is_unsupported(key, OPERATIONS[op].model_fields):
        way = vocabulary.PYTHON if key == "padding" else vocabulary.alternative_or_python(key)
        remedy = f"remove it, or {way}"
    return Issue(at, message, remedy, of_key=True)


def _owners(at: KeyPath, key: str, keys: Sequence[str]) -> dict[str, list[str]]:
    """Options of other union members that a key may refer to, with the names of these members.

    Empty if it refers to one of `keys`, the options of the selected member.
    """
    options: dict[str, list[str]] = {}
    for name, model in _union(at).items():
        for option in model.model_fields:
            options.setdefault(option, []).append(name)
    if key in options:
        return {key: options[key]}
    if vocabulary.KEY.find_alias(key, keys):
        return {}
    return {option: o for option, o in options.items() if vocabulary.KEY.find_alias(key, [option])}


def _option_of_others(
    at: KeyPath, name: str, owners: Mapping[str, Sequence[str]], data: Any
) -> Issue:
    """Issue for an option of another optimizer or schedule, perhaps under another name."""
    *section, key = at
    where, unnamed = dotted(tuple(section)), "name" not in _item(data, tuple(section))
    this = f"{name}, the default {section[-1]}," if unnamed else name
    message = f"{this} has no {quoted(key)}"
    if key in owners:
        message += f" ({_available_for(owners[str(key)])})"
    else:
        options = (f"'{option}' of {or_list(names)}" for option, names in owners.items())
        message += f" (did you mean {or_list(options)}?)"
    remedy = f"set {where}.name to {or_list(dict.fromkeys(chain(*owners.values())))}"
    if not unnamed:
        remedy = f"remove it, or {remedy}"
    return Issue(at, message, remedy, of_key=True)


def _available_for(names: Sequence[str]) -> str:
    return f"available for {enumeration(names)}"


def _key_hint(at: KeyPath, keys: list[str], data: Any) -> str:
    """A suggestion: one of these keys, or a key of another section."""
    key = str(at[-1])
    found = vocabulary.KEY.find_alias(key, keys)
    alone = at[:2] == ("model", "layers") or at[:-1] in _DEEPER
    if found or alone or vocabulary.KEY.is_unsupported(key, keys):
        return vocabulary.KEY.hint(key, keys)
    if key in ("params", "blocks") and at[:1] != ("train",):
        return f" (did you mean 'model.{key}'?)"
    if elsewhere := key_elsewhere(key, at[:-1], data):
        path, owners = elsewhere
        return f" (did you mean '{path}'{f' of {or_list(owners)}' if owners else ''}?)"
    return vocabulary.KEY.hint(key, keys)


def key_elsewhere(
    word: str, section: KeyPath, data: Any = None
) -> tuple[str, tuple[str, ...]] | None:
    """Path of the key that matches a word, also by its name in other libraries.

    Args:
      word: the word.
      section: path of the section that contains it; keys below it are preferred.
      data: the experiment, whose optimizer and schedule determine the available keys.

    Returns:
      The path, and the optimizers or schedules with this key unless the selected one has it;
      None if no key matches.

    >>> key_elsewhere("lr", ("train",)), key_elsewhere("rho", ())
    (('train.optimizer.learning_rate', ()), ('train.optimizer.rho', ('adadelta',)))
    """
    paths = _paths(section)
    found = [p for p in paths if vocabulary.KEY.find_alias(word, [p.rpartition(".")[2]])]
    exact = [path for path in found if path.rpartition(".")[2] == word]
    found = exact or found
    options = [(path, _others_with(path, data)) for path in found]
    return next((one for one in options if not one[1]), options[0] if options else None)


def _others_with(path: str, data: Any) -> tuple[str, ...]:
    """Optimizers or schedules with the key at a path; empty if the selected one has it."""
    *section, key = path.split(".")
    members = _CHOICES.get(tuple(section))
    if members is None:
        return ()
    chosen = data
    for part in section:
        chosen = chosen.get(part) if isinstance(chosen, Mapping) else None
    if isinstance(chosen, Mapping):
        chosen = chosen.get("name")
    name = chosen if isinstance(chosen, str) else _DEFAULTS[section[-1]]
    owners = tuple(member for member, model in members.items() if key in model.model_fields)
    return () if name in owners else owners


def _paths(section: KeyPath) -> list[str]:
    """Paths of all keys except the parents of a section; keys below the section come first."""
    paths = [*Experiment.model_fields]
    for name, model in _SECTIONS.items():
        paths += [f"{name}.{key}" for key in model.model_fields]
    for at, model in _WITHIN.items():
        # A seed elsewhere is one of the run rather than that of a split.
        paths += [f"{dotted(at)}.{key}" for key in model.model_fields if key != "seed"]
    for key, models in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        names = dict.fromkeys(name for model in models.values() for name in model.model_fields)
        paths += [f"train.{key}.{name}" for name in names if name != "name"]
    here = dotted(section)
    around = [dotted(section[:end]) for end in range(1, len(section) + 1)]
    paths = [path for path in paths if path not in around]
    return sorted(paths, key=lambda path: not (here and path.startswith(here)))


def _wrong_choice(at: KeyPath, value: Any, written: str, choices: Any, noun: str) -> Issue:
    if noun == "activation" and value == "softmax":
        message = f"{written} is not available as an activation: the loss applies it to the output"
        return Issue(at, message, "leave that linear, and use op: softmax in other places")
    if not isinstance(value, str):
        use = f"use an operation {_EXAMPLES}" if noun == "operation" else f"use {or_list(choices)}"
        if noun == "loss" and isinstance(value, Mapping) and "label_smoothing" in value:
            use = f"use {value.get('name', 'its name')}, and set train.label_smoothing"
        return Issue(at, _is_not(written, noun), use)
    words = _NOUNS.get(noun, vocabulary.OTHER)
    hint = words.hint(value, choices)
    name = value.rpartition(".")[2]
    function = vocabulary.ACTIVATION.find_alias(name, ACTIVATION_NAMES)
    if noun == "operation" and function and not words.find_alias(name, choices):
        layer = f"{{op: activation, activation: {function}}}"
        return Issue(at, f"{written} is an activation, not an operation", f"use {layer}")
    if hint or not words.is_unsupported(value, choices):
        near = words.match(value, choices) if noun == "operation" else None
        use = near or or_list(choices)
        if not hint and noun in _PARTS_OF_NETWORKS:
            use += f"; or {vocabulary.PYTHON}"
        return Issue(at, f"unknown {noun} {written}{hint}", f"use {use}")
    message = f"{noun} {written} is not supported"
    if noun == "operation":
        return Issue(at, message, vocabulary.alternative_or_python(value))
    way = vocabulary.alternative(value)
    if noun in _PARTS_OF_NETWORKS:
        return Issue(at, message, way or f"use {or_list(choices)}; or {vocabulary.PYTHON}")
    return Issue(at, message, f"{way}{', or ' if way else ''}use {or_list(choices)}")


def _is_not(written: str, noun: str) -> str:
    return f"{written} is not {'an' if noun[0] in 'aeio' else 'a'} {noun}"


def _not_a_mapping(at: KeyPath, value: Any, written: str) -> Issue:
    if at[:2] == ("model", "layers") and len(at) == 3:
        return Issue(at, f"{written} is not a layer", "use {op: OPERATION, ...}")
    if at[-1] in {"optimizer", "schedule"}:
        return Issue(at, _is_not(written, str(at[-1])), f"use {or_list(_union(at))}")
    message = f"{written} is not a mapping"
    if at == ("dataset",) and isinstance(value, str):
        return Issue(at, message, f"use {{name: {written}}}")
    return Issue(at, message, _as_mapping(at, value, written))


def _as_mapping(at: KeyPath, value: Any, written: str) -> str:
    """Remedy for a value without its key, such as `ema: 0.999`."""
    if at == ("model", "layers"):
        return "use 'NAME: {op: OPERATION, ...}' for each layer"
    if at == ("dataset", "augment"):
        return "use a mapping such as {random_flip: horizontal, random_crop: {padding: 4}}"
    fields = model.model_fields if (model := {**_WITHIN, **_DEEPER}.get(at)) else {}
    required = [name for name, field in fields.items() if field.is_required()]
    if model and value is True and not required and _accepts(model, {}):
        return "use {} for the defaults"
    if model and at[-1] != "splits":
        key = next(iter(required or fields))
        fits = value is not True and _accepts(model, {key: value})
        return f"use {{{key}: {written if fits else '...'}}}"
    return "use 'key: value' pairs"


def _accepts(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


def _wrong_kind(at: KeyPath, value: Any, kind: str, places: Mapping[KeyPath, Location]) -> Issue:
    what, written = _KINDS[kind], quoted(value, at, places)
    message, remedy = f"expected {what}, got {written}", f"use {what}"
    if isinstance(value, str) and kind != "string_type":
        return _wrong_text(at, value, kind, written) or Issue(at, message, remedy)
    if kind == "string_type" and isinstance(value, int | float):
        if at == ("name",) and not isinstance(value, bool):
            return Issue(at, f"{written} is a number, not a name", NAMING)
        remedy = _in_quotes(at, written, places)
    if kind == "int_type" and isinstance(value, float):
        if value.is_integer():
            remedy = f"use {value:.0f}"
        elif (place := places.get(at)) and place.text is None:  # a product
            remedy = "add multiple_of: 1 to round it"
    if isinstance(value, Mapping) and kind != "string_type" and at[:2] == ("model", "layers"):
        remedy = f"{remedy}, {{times: [A, B]}} or {{of_input: A}}"
    if isinstance(value, list) and kind in {"float_type", "int_type"} and len(value) > 1:
        remedy += _as_sweep(at, written, places)
    return Issue(at, message, remedy)


def _as_sweep(at: KeyPath, written: str, places: Mapping[KeyPath, Location]) -> str:
    """How to try several values of a number."""
    place = places.get(at)
    if place and place.line is None:
        return ", or omit the brackets to try each of them"
    return f", or write sweep: {{{dotted(at)}: {written}}} to try each of them"


def _in_quotes(at: KeyPath, written: str, places: Mapping[KeyPath, Location]) -> str:
    """Remedy for a number that should be a string; a shell removes the outer pair of quotes."""
    place = places.get(at)
    if place and place.line is None:
        return "put it in quotes: " + shlex.quote(f'{dotted(at)}="{written}"')
    return f"put it in quotes: '{written}'"


def _wrong_text(at: KeyPath, value: str, kind: str, written: str) -> Issue | None:
    """Issue for a string that looks like another kind of value, to YAML 1.1 or the reader."""
    word, digits = value.lower(), value.replace("_", "")
    message = f"expected {_KINDS[kind]}, got the string {written}"
    if kind == "bool_type":
        if word in {"true", "false"}:
            return Issue(at, message, f"remove the quotes: {word}")
        if word in _TRUE_WORDS + _FALSE_WORDS:
            meant = "true" if word in _TRUE_WORDS else "false"
            return Issue(at, f"{message} (in YAML 1.2)", f"use {meant}")
        return None
    if is_number(value) and len(value) <= MAX_DIGITS:
        return Issue(at, message, "remove the quotes")
    if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS:
        return Issue(at, f"{message} (in YAML 1.2)", f"use {digits}")
    return None
