"""Pydantic's validation errors in the words of an experiment file."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cnnbench.errors import Flaw, did_you_mean, listing
from cnnbench.fields import shown
from cnnbench.layers import OPERATIONS
from cnnbench.optimizers import OPTIMIZERS, SCHEDULES
from cnnbench.spec import DatasetSpec, Experiment, ModelSpec, Splits, TrainSpec
from cnnbench.yamlio import KeyPath, plain_scalar

_BOOLEAN_WORDS = {
    "yes": "true",
    "on": "true",
    "y": "true",
    "no": "false",
    "off": "false",
    "n": "false",
}
_BOUNDS = {
    "greater_than": ("gt", "small", "a number above {}"),
    "greater_than_equal": ("ge", "small", "{} or more"),
    "less_than": ("lt", "large", "a number below {}"),
    "less_than_equal": ("le", "large", "{} or less"),
}
_TAGS = {*OPERATIONS, *OPTIMIZERS, *SCHEDULES}
_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list in brackets",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
}


def flaws_of(error: ValidationError, data: Any) -> list[Flaw]:
    """What is wrong, value by value.

    Args:
      error: what validating `data` as an `Experiment` raised.
      data: the plain data of the file.
    """
    return [_flaw(detail, data) for detail in error.errors(include_url=False)]


def _flaw(detail: ErrorDetails, data: Any) -> Flaw:
    at = _path_in(data, detail["loc"])
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    match kind:
        case "missing":
            return _missing(at, detail["loc"])
        case "extra_forbidden":
            return _unknown_key(at, detail["loc"])
        case "cnnbench":
            return Flaw(at, context["message"], context["remedy"])
        case "union_tag_invalid" | "union_tag_not_found":
            return _wrong_tag(at, value, context)
        case "literal_error" | "enum":
            return _wrong_choice(at, value, context["expected"])
        case _ if kind in _BOUNDS:
            key, word, phrase = _BOUNDS[kind]
            bound = f"{context[key]:g}"
            return Flaw(at, f"{shown(value)} is too {word}", f"write {phrase.format(bound)}")
        case _ if kind in _KINDS:
            return _wrong_kind(at, value, kind)
        case "finite_number":
            return Flaw(at, f"{shown(value)} is not a finite number", "write a number")
        case "string_pattern_mismatch":
            remedy = "start with a letter and use letters, digits, '-' and '_'"
            return Flaw(at, f"{shown(value)} cannot name a folder", remedy)
        case "string_too_long":
            remedy = f"write at most {context['max_length']} characters"
            return Flaw(at, f"{shown(value)} is too long", remedy)
        case _:
            raise AssertionError(f"an error that nobody worded: {detail}")


def _path_in(data: Any, loc: KeyPath) -> KeyPath:
    """Pydantic's path without the names of union members, which stand in no file."""
    at: list[str | int] = []
    for part in loc[:-1]:
        inner = _item(data, part)
        if inner is not None:
            at.append(part)
            data = inner
    last = loc[-1] if loc else None
    if last is not None and (last not in _TAGS or _item(data, last) is not None):
        at.append(last)
    return tuple(at)


def _item(data: Any, key: str | int) -> Any:
    if isinstance(data, Mapping):
        return data.get(key)
    if isinstance(data, list) and isinstance(key, int) and key < len(data):
        return data[key]
    return None


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
            sections: dict[str, type[BaseModel]] = {
                "dataset": DatasetSpec,
                "model": ModelSpec,
                "train": TrainSpec,
            }
            return sections[section]
        case _:
            return Experiment


def _missing(at: KeyPath, loc: KeyPath) -> Flaw:
    key = str(loc[-1])
    description = _model_at(loc).model_fields[key].description
    return Flaw(at[:-1], f"'{key}' is missing", f"add {key}: {description}")


def _unknown_key(at: KeyPath, loc: KeyPath) -> Flaw:
    keys = [*_model_at(loc).model_fields, *(["extends"] if len(loc) == 1 else [])]
    message = f"there is no key '{loc[-1]}' here{did_you_mean(str(loc[-1]), keys)}"
    return Flaw(at, message, f"use {listing(keys)}" if keys else "remove it")


def _wrong_tag(at: KeyPath, value: Any, context: Mapping[str, Any]) -> Flaw:
    key = context["discriminator"].strip("'")
    if not isinstance(value, Mapping):
        return Flaw(at, f"{shown(value)} is not a layer", "write {op: OPERATION, ...}")
    if key not in value:
        return Flaw(at, f"'{key}' is missing", f"add {key}: and one of {listing(_choices(at))}")
    return _wrong_choice((*at, key), value[key], context["expected_tags"])


def _choices(at: KeyPath) -> list[str]:
    tables: Mapping[Any, Mapping[str, Any]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    return list(tables.get(at[-1], OPERATIONS))


def _wrong_choice(at: KeyPath, value: Any, expected: str) -> Flaw:
    choices = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    message = f"{shown(value)} is not known here"
    if at[-1] == "activation" and value == "softmax":
        return Flaw(at, f"{message}: the loss applies it", "leave the output linear")
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    return Flaw(at, message + hint, f"write {listing(choices)}")


def _wrong_kind(at: KeyPath, value: Any, kind: str) -> Flaw:
    want = _KINDS[kind]
    message = f"{shown(value)} is not {want}"
    if isinstance(value, str) and kind == "bool_type" and value.lower() in _BOOLEAN_WORDS:
        message = f"{shown(value)} is text in YAML 1.2, not {want}"
        return Flaw(at, message, f"write {_BOOLEAN_WORDS[value.lower()]}")
    if isinstance(value, str) and kind in ("int_type", "float_type"):
        if isinstance(plain_scalar(value), int | float):
            return Flaw(at, f"{shown(value)} is text because of its quotes", "remove the quotes")
        if value.replace("_", "").isdigit():
            return Flaw(
                at, f"{shown(value)} is text in YAML 1.2", f"write {value.replace('_', '')}"
            )
    return Flaw(at, message, f"write {want}")
