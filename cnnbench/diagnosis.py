"""Pydantic's validation errors in the words of an experiment file."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cnnbench.errors import Flaw, did_you_mean, listing, shown
from cnnbench.layers import OPERATIONS
from cnnbench.optimizers import OPTIMIZERS, SCHEDULES
from cnnbench.phrases import enumeration
from cnnbench.scalars import MAX_DIGITS, is_number
from cnnbench.spec import Experiment, Splits
from cnnbench.yamlio import KeyPath, dotted

_SECTIONS: Mapping[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Experiment.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
_TRUE_WORDS = ("yes", "on", "y")
_FALSE_WORDS = ("no", "off", "n")
_BOUNDS = {
    "greater_than": ("gt", "small", "a number above {}"),
    "greater_than_equal": ("ge", "small", "{} or more"),
    "less_than": ("lt", "large", "a number below {}"),
    "less_than_equal": ("le", "large", "{} or less"),
}
_MAPPINGS = ("dict_type", "model_type", "model_attributes_type", "union_tag_not_found")
_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
}


def flaws_of(error: ValidationError, data: Any) -> list[Flaw]:
    """What is wrong, value by value.

    Args:
      error: what validating `data` as an `Experiment` raised.
      data: the plain data of the file.
    """
    return [_flaw(detail, data) for detail in error.errors(include_url=False)]


def _flaw(detail: ErrorDetails, data: Any) -> Flaw:
    at = _path_in_file(detail["loc"])
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    match kind:
        case "missing":
            return _missing(at, detail["loc"])
        case "extra_forbidden":
            return _unknown_key(at, detail["loc"], data)
        case "cnnbench":
            return Flaw(at, context["message"], context["remedy"])
        case "union_tag_not_found" if isinstance(value, Mapping):
            return Flaw(at, "'op' is missing", f"add 'op: ...' ({listing(OPERATIONS)})")
        case "union_tag_invalid":
            short = not isinstance(_item(data, at), Mapping)
            word = value[_tag(at)]
            return _wrong_choice(at if short else (*at, _tag(at)), word, _union(at), _noun(at))
        case "literal_error" | "enum":
            choices = context["expected"].replace(" or ", ", ").split(", ")
            return _wrong_choice(at, value, [word.strip("'") for word in choices], _noun(at))
        case "finite_number":
            return Flaw(at, f"{shown(value)} is not a finite number", "write a number")
        case "string_pattern_mismatch":
            remedy = "start with a letter and use letters, digits, '-' and '_'"
            return Flaw(at, f"{shown(value)} cannot name a folder", remedy)
        case "string_too_long":
            remedy = f"write at most {context['max_length']} characters"
            return Flaw(at, f"{shown(value)} is too long", remedy)
        case "tuple_type":
            remedy = f"write [{value}]" if isinstance(value, str) else "write a list in brackets"
            return Flaw(at, f"{shown(value)} is not a list", remedy)
        case _ if kind in _BOUNDS:
            key, word, phrase = _BOUNDS[kind]
            remedy = f"write {phrase.format(f'{context[key]:g}')}"
            return Flaw(at, f"{shown(value)} is too {word}", remedy)
        case _ if kind in _MAPPINGS:
            return _not_a_mapping(at, value)
        case _ if kind in _KINDS:
            return _wrong_kind(at, value, kind)
        case _:
            raise AssertionError(f"an error that nobody worded: {detail}")


def _path_in_file(loc: KeyPath) -> KeyPath:
    """Pydantic's path without the names of union members, which stand in no file."""
    match loc:
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
        case ("model", "layers", _, str(op), *_):
            return OPERATIONS[op]
        case ("train", "optimizer", str(name), *_):
            return OPTIMIZERS[name]
        case ("train", "schedule", str(name), *_):
            return SCHEDULES[name]
        case ("dataset", "splits", _):
            return Splits
        case (str(section), _):
            return _SECTIONS[section]
        case _:
            return Experiment


def _union(at: KeyPath) -> Mapping[str, type[BaseModel]]:
    """The models that may stand at a path, by the word that selects each."""
    return {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}.get(str(at[-1]), OPERATIONS)


def _tag(at: KeyPath) -> str:
    return "op" if _union(at) is OPERATIONS else "name"


def _noun(at: KeyPath) -> str:
    """What a value at a path is called."""
    match at:
        case ("model", "layers", _):
            return "operation"
        case (*_, "metrics", int()):
            return "metric"
        case _:
            return str(at[-1])


def _missing(at: KeyPath, loc: KeyPath) -> Flaw:
    key = str(loc[-1])
    description = _model_at(loc).model_fields[key].description
    return Flaw(at[:-1], f"'{key}' is missing", f"add '{key}: ...' ({description})")


def _unknown_key(at: KeyPath, loc: KeyPath, data: Any) -> Flaw:
    key = str(loc[-1])
    if at[:1] == ("train",) and len(at) == 3 and (owners := _owners(at[:-1], key)):
        return _option_of_others(at, str(loc[2]), owners, data)
    keys = [*_model_at(loc).model_fields, *(["extends"] if len(loc) == 1 else [])]
    hint = did_you_mean(key, keys) or (_belongs(key) if len(loc) == 1 else "")
    return Flaw(at, f"there is no key {shown(key)} here{hint}", f"use {listing(keys)}", of_key=True)


def _owners(at: KeyPath, key: str) -> list[str]:
    """The members of the union at a path that have a key."""
    return [name for name, model in _union(at).items() if key in model.model_fields]


def _option_of_others(at: KeyPath, name: str, owners: list[str], data: Any) -> Flaw:
    """A key of an optimizer or schedule that others of them have."""
    *section, key = at
    where, unnamed = dotted(tuple(section)), "name" not in _item(data, tuple(section))
    this = f"{name}, the default {section[-1]}," if unnamed else name
    have = f"{enumeration(owners)} {'has' if len(owners) == 1 else 'have'} it"
    remedy = f"set {where}.name to {listing(owners)}"
    if not unnamed:
        remedy = f"remove it, or {remedy}"
    return Flaw(at, f"{this} has no {shown(key)} ({have})", remedy, of_key=True)


def _belongs(key: str) -> str:
    sections = [name for name, model in _SECTIONS.items() if key in model.model_fields]
    return f" (did you mean '{sections[0]}.{key}'?)" if sections else ""


def _wrong_choice(at: KeyPath, value: Any, choices: Any, noun: str) -> Flaw:
    message = f"{shown(value)} is no {noun}"
    if noun == "activation" and value == "softmax":
        return Flaw(at, f"{message}: the loss applies it", "leave the output linear")
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    return Flaw(at, message + hint, f"write {listing(choices)}")


def _not_a_mapping(at: KeyPath, value: Any) -> Flaw:
    if at[:2] == ("model", "layers") and len(at) == 3:
        return Flaw(at, f"{shown(value)} is not a layer", "write {op: OPERATION, ...}")
    if at[-1] in {"optimizer", "schedule"}:
        return Flaw(at, f"{shown(value)} is no {at[-1]}", f"write {listing(_union(at))}")
    message = f"{shown(value)} is not a mapping"
    if at == ("dataset",) and isinstance(value, str):
        return Flaw(at, message, f"write {{name: {shown(value)}}}")
    return Flaw(at, message, "write 'key: value' pairs")


def _wrong_kind(at: KeyPath, value: Any, kind: str) -> Flaw:
    what = _KINDS[kind]
    message, remedy = f"{shown(value)} is not {what}", f"write {what}"
    if isinstance(value, str) and kind != "string_type":
        return _wrong_text(at, value, kind) or Flaw(at, message, remedy)
    if kind == "string_type" and isinstance(value, int | float):
        remedy = f"put it in quotes: '{shown(value)}'"
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        remedy = f"write {value:.0f}"
    return Flaw(at, message, remedy)


def _wrong_text(at: KeyPath, value: str, kind: str) -> Flaw | None:
    """Text where YAML 1.1, or the eye, would see another kind of value."""
    word, digits = value.lower(), value.replace("_", "")
    if kind == "bool_type":
        if word in {"true", "false"}:
            return Flaw(at, f"{shown(value)} is text because of its quotes", f"write {word}")
        if word in _TRUE_WORDS + _FALSE_WORDS:
            meant = "true" if word in _TRUE_WORDS else "false"
            return Flaw(at, f"{shown(value)} is text in YAML 1.2", f"write {meant}")
        return None
    if is_number(value) and len(value) <= MAX_DIGITS:
        return Flaw(at, f"{shown(value)} is text because of its quotes", "remove the quotes")
    if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS:
        return Flaw(at, f"{shown(value)} is text in YAML 1.2", f"write {digits}")
    return None
