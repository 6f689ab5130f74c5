"""Tables of docs/reference/run-folder.md, from the dataclasses stored in the files."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from cnnbench.errors import or_list
from cnnbench.runs.codec import EPOCH_PREFIX
from cnnbench.runs.records import EpochRecord, RunRecord, Summary
from generators.markdown import arguments, code, rows

FILES = {"run-json": RunRecord, "epochs-jsonl": EpochRecord, "summary-json": Summary}
WORDS = {str: "string", int: "integer", float: "number", bool: "boolean", datetime: "time"}
# Names of the keys of objects, unless they are metrics.
NAMES = {"step_s": "FORM", "values": "KEY", "settings": "NAME", "resumed_with": "NAME"}
METRIC = "METRIC"
VERSION = ("`format_version`", "integer", "[version of the format](#format-versions)")


def table(name: str) -> str:
    """Render the table of a file."""
    lines = list(_fields(FILES[name], ""))
    return rows(("Key", "Type", "Meaning"), lines if name == "epochs-jsonl" else [VERSION, *lines])


def _fields(kind: type, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Rows of a dataclass, each followed by the rows of its nested objects."""
    meanings, hints = arguments(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        key, hint = prefix + field.name, hints[field.name]
        if kind is EpochRecord and key == "metrics":  # a line has them at the top level
            yield code(EPOCH_PREFIX + METRIC), "number", meanings[key]
            continue
        if mapping := _mapping(hint):
            many = "[]" if typing.get_origin(hint) is tuple else ""
            key, hint = f"{key}{many}.{NAMES.get(field.name, METRIC)}", mapping
        yield code(key), _words(hint), meanings[field.name]
        yield from _inside(hint, key)


def _mapping(kind: Any) -> Any:
    """The value type of an object with arbitrary keys, of a list of these, or null."""
    parts = typing.get_args(kind)
    match typing.get_origin(kind):
        case types.UnionType:
            return _mapping(parts[0])
        case origin if origin is tuple:
            return _mapping(parts[0])
        case origin if origin is Mapping:
            return parts[1]
    return None


def _inside(kind: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """Rows of a nested object or list of objects."""
    parts = typing.get_args(kind)
    match typing.get_origin(kind) or kind:
        case types.UnionType:
            yield from _inside(parts[0], key)
        case origin if origin is tuple:
            yield from _inside(parts[0], f"{key}[]")
        case origin if dataclasses.is_dataclass(origin):
            yield from _fields(typing.cast(type, origin), f"{key}.")


def _words(kind: Any) -> str:
    """The JSON name of a type."""
    parts = typing.get_args(kind)
    match typing.get_origin(kind) or kind:
        case types.UnionType:
            return f"{_words(parts[0])} or null"
        case origin if origin is tuple:
            return f"list of {_words(parts[0])}s"
        case origin if dataclasses.is_dataclass(origin):
            return "object"
        case origin if issubclass(origin, StrEnum):
            return or_list(f"`{member}`" for member in origin)
        case origin:
            return WORDS[origin]
