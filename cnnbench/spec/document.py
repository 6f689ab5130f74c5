"""Parses YAML text to plain data with source locations, and writes it back.

Scalars follow YAML 1.2 (`yaml_parser`), not PyYAML's YAML 1.1: ``no`` is a string, ``1e-3``
is a number, and ``010``, which is 8 in one version and 10 in the other, is an error.
So are duplicate keys (otherwise the last one would silently win), tags, merge keys, and
aliases that expand without bound.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import yaml

from cnnbench.errors import Diagnostic, Location, SpecError, nearest, quoted
from cnnbench.spec.shipped import shipped_names
from cnnbench.spec.yaml_parser import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_NODES,
    PLAIN,
    QUOTED,
    compose,
    integer_readings,
    is_number,
    is_text,
    plain_scalar,
)

KeyPath = tuple[str | int, ...]
MAX_WRITTEN = 200  # characters; messages show 40


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data with source locations.

    Args:
      data: dicts with string keys, lists, strings, numbers, booleans and None.
      values: the location of each value, by its path of keys and indices.
      keys: the location of each mapping key, by the same path.
      problems: errors that leave the rest of the document readable.
      text: the bytes that were parsed.
    """

    data: Any
    values: Mapping[KeyPath, Location]
    keys: Mapping[KeyPath, Location]
    problems: tuple[Diagnostic, ...] = ()
    text: bytes = b""


def read_document(path: Path) -> Document:
    """Reads a YAML file.

    Args:
      path: the file; messages show the path as given here.

    Raises:
      SpecError: the file cannot be read, or `parse_document` cannot read its text.
    """
    location = Location(str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise SpecError([Diagnostic(location, "", "is a folder", "specify a .yaml file")]) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = _meant(path) if isinstance(error, FileNotFoundError) else ""
        problem = Diagnostic(location, "", f"cannot be read: {reason}{hint}", "check the file name")
        raise SpecError([problem]) from None
    return parse_document(raw, str(path))


def _meant(path: Path) -> str:
    """A suggestion for a missing file: a nearby one, or `standard` for `standrd.yaml`."""
    files = [*Path("experiments").glob("*.yaml"), *path.parent.glob("*.yaml")]
    choices = {name: name for name in shipped_names()} | {file.stem: str(file) for file in files}
    near = nearest(path.stem, choices)
    return f" (did you mean '{choices[near]}'?)" if near else ""


def parse_document(raw: bytes, path: str) -> Document:
    """Reads YAML from bytes.

    Args:
      raw: UTF-8 encoded text.
      path: the file name shown in messages.

    Returns:
      The data; its `problems` are the errors that leave the rest readable, such as
      duplicate keys.

    Raises:
      SpecError: the text cannot be parsed; lists all problems found.

    >>> parse_document(b"epochs: 30  # as in the post", "a.yaml").data
    {'epochs': 30}
    """
    builder = _Builder(path)
    data = builder.build(compose(raw, path))
    if builder.broken:
        raise SpecError(builder.problems)
    values, keys = MappingProxyType(builder.values), MappingProxyType(builder.keys)
    return Document(data, values, keys, tuple(builder.problems), raw)


def dump_document(data: Any) -> str:
    r"""Serializes plain data as YAML that YAML 1.1 and 1.2 parsers read the same way.

    >>> dump_document({"title": "1e-3", "rate": 1e-3})
    "title: '1e-3'\nrate: 0.001\n"
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def inline_text(data: Any) -> str:
    """Serializes plain data as YAML on one line.

    >>> inline_text({"op": "conv", "kernel": [3, 5]})
    '{op: conv, kernel: [3, 5]}'
    """
    text = yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=True,
        width=math.inf,
    )
    return text.removesuffix("...\n").rstrip("\n")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # PyYAML would fold Unicode line breaks and leave 1e-3 unquoted.
        style = '"' if not text.isprintable() else None if is_text(text) else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


@dataclass(slots=True)
class _Builder:
    """Walks a node graph once, collecting data, locations and problems.

    `broken` is set if a problem hides data, so that further checks would be misleading.
    """

    path: str
    values: dict[KeyPath, Location] = field(default_factory=dict)
    keys: dict[KeyPath, Location] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    broken: bool = False
    num_nodes: int = 0
    open_nodes: set[int] = field(default_factory=set)

    def build(self, node: yaml.Node | None, at: KeyPath = ()) -> Any:
        if node is None:
            self.values[at] = Location(self.path, 1, 1)
            return None
        self.values[at] = self._location(node)
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            self._stop(node, at, f"expands to more than {MAX_NODES:,} values")
        if id(node) in self.open_nodes:
            self._stop(node, at, "contains itself through an alias")
        if len(at) > MAX_DEPTH:
            self._stop(node, at, f"is nested deeper than {MAX_DEPTH} levels")
        self._refuse_tag(node, at)
        self.open_nodes.add(id(node))
        data = self._content(node, at)
        self.open_nodes.discard(id(node))
        return data

    def _content(self, node: yaml.Node, at: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*at, i)) for i, child in enumerate(node.value)]
        return self._scalar(node, at)

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, at)
            if key is None:
                continue
            if key in data:
                first = self.keys[(*at, key)]
                message = f"duplicate key {quoted(key)} (first defined on line {first.line})"
                self._report(key_node, (*at, key), message, "remove one")
                continue
            self.keys[(*at, key)] = self._location(key_node)
            data[key] = self.build(value_node, (*at, key))
        return data

    def _key(self, node: yaml.Node, at: KeyPath) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._report(node, at, "a key must be a single word", "write 'key: value'", broken=True)
            return None
        if node.value == "<<" and node.tag == PLAIN:
            message = "merge keys ('<<') are not part of YAML 1.2"
            self._report(node, at, message, "write out the keys, or use 'extends'", broken=True)
            return None
        self._refuse_tag(node, at)
        return self._text(node, at)

    def _scalar(self, node: yaml.Node, at: KeyPath) -> Any:
        text = self._text(node, at)
        if node.tag != PLAIN:
            return text
        if len(text) > MAX_DIGITS and is_number(text):
            message = f"a number with {len(text):,} characters is too long"
            self._report(node, at, message, f"use at most {MAX_DIGITS}")
            return 1
        if numbers := integer_readings(text):
            decimal, octal = numbers
            message = f"{text} starts with a zero, which YAML versions interpret differently"
            octal_text = f", {octal} if it is octal," if octal else ""
            self._report(node, at, message, f"use {decimal}{octal_text} or '{text}' for a string")
            return decimal
        return plain_scalar(text)

    def _text(self, node: yaml.Node, at: KeyPath) -> str:
        text = str(node.value)
        if re.search("[\ud800-\udfff]", text):
            message = f"{quoted(text)} contains half a character (a lone surrogate)"
            self._report(node, at, message, "write the full character")
            return "surrogate"
        return text

    def _location(self, node: yaml.Node) -> Location:
        mark = node.start_mark
        return Location(self.path, mark.line + 1, mark.column + 1, _written(node))

    def _refuse_tag(self, node: yaml.Node, at: KeyPath) -> None:
        if node.tag not in (PLAIN, QUOTED):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            message = f"the tag {quoted(tag)} is not allowed"
            self._report(node, at, message, "write the value without a tag", broken=True)

    def _report(
        self, node: yaml.Node, at: KeyPath, message: str, remedy: str, *, broken: bool = False
    ) -> None:
        self.problems.append(Diagnostic(self._location(node), dotted(at), message, remedy))
        self.broken |= broken

    def _stop(self, node: yaml.Node, at: KeyPath, message: str) -> NoReturn:
        self._report(node, at, message, "write out the values without aliases")
        raise SpecError(self.problems)


def _written(node: yaml.Node) -> str | None:
    """A scalar as written; None for unquoted strings and multi-line scalars."""
    if not isinstance(node, yaml.ScalarNode):
        return None
    start, end = node.start_mark, node.end_mark
    if node.tag == PLAIN:
        text = str(node.value)
        return None if is_text(text) else text
    if start.line != end.line or start.buffer is None or end.pointer - start.pointer > MAX_WRITTEN:
        return None
    text = start.buffer[start.pointer : end.pointer]
    text = re.sub(r"^&\S+\s+", "", text)  # an anchor
    return text if text.isprintable() else None


def dotted(at: KeyPath) -> str:
    """A path in dotted notation.

    >>> dotted(("train", "optimizer", "name"))
    'train.optimizer.name'
    """
    return ".".join(_part(str(part)) for part in at)


def _part(part: str) -> str:
    return part if part.isprintable() and 0 < len(part) <= 40 else quoted(part)
