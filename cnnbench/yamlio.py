"""YAML text to plain data, with the place of every key and value.

Scalars follow the core schema of YAML 1.2.2 (chapter 10.3), not PyYAML's YAML
1.1: ``no`` is text, ``1e-3`` is a number, and ``010``, which the two versions
read as 8 and as 10, is refused. So are duplicate keys (the last one would win in
silence), tags, merge keys, and aliases that expand without bound.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from cnnbench.errors import Location, Problem, SpecError

KeyPath = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
MAX_NODES = 10_000  # after aliases are expanded
MAX_DEPTH = 32
MAX_DIGITS = 40

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {w: w.lower() == "true" for w in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INT = re.compile(r"[-+]?[0-9]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_PLAIN = "plain"
_QUOTED = "quoted"


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data and where it stands.

    Args:
      data: dicts with text keys, lists, text, numbers, booleans and None.
      values: the location of each value, by its path of keys and indices.
      keys: the location of each mapping key, by the same path.
    """

    data: Any
    values: Mapping[KeyPath, Location]
    keys: Mapping[KeyPath, Location]


def read_document(path: Path) -> Document:
    """Reads a YAML file.

    Args:
      path: the file; messages name it as given here.

    Raises:
      SpecError: the file cannot be read, or is not the YAML described above.
    """
    location = Location(str(path))
    try:
        raw = path.read_bytes()
    except IsADirectoryError:
        raise SpecError([Problem(location, "", "is a folder", "name a .yaml file")]) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        problem = Problem(location, "", f"cannot be read ({reason})", "check the file's name")
        raise SpecError([problem]) from None
    return parse_document(raw, str(path))


def parse_document(raw: bytes, path: str) -> Document:
    """Reads YAML from bytes.

    Args:
      raw: UTF-8 text.
      path: the name that messages give to the text.

    Raises:
      SpecError: all problems found, each with line and column.

    >>> parse_document(b"epochs: 30  # as in the post", "a.yaml").data
    {'epochs': 30}
    """
    if len(raw) > MAX_BYTES:
        message = f"{len(raw):,} bytes are too many for an experiment file"
        remedy = f"keep it below {MAX_BYTES:,} bytes"
        raise SpecError([Problem(Location(path), "", message, remedy)])
    builder = _Builder(path)
    data = builder.build(_compose(raw, path))
    if builder.problems:
        raise SpecError(builder.problems)
    return Document(data, MappingProxyType(builder.values), MappingProxyType(builder.keys))


def parse_value(text: str, path: str) -> Any:
    """The plain data of one YAML value, such as the right side of an override.

    >>> parse_value("[3, 5]", "command line")
    [3, 5]
    """
    return parse_document(text.encode(), path).data


class _TooDeepError(yaml.MarkedYAMLError):
    pass


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's parser without its scalars, and with a bound on nesting."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.depth = 0

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:  # noqa: ARG002
        if kind is not yaml.ScalarNode:
            return _QUOTED
        return _PLAIN if implicit[0] else _QUOTED

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _TooDeepError(
                problem=f"is nested deeper than {MAX_DEPTH} levels", problem_mark=mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(raw: bytes, path: str) -> yaml.Node | None:
    try:
        return _Loader(raw.decode()).get_single_node()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        problem = Problem(
            Location(path, line, column), "", "is not UTF-8 text", "save the file as UTF-8"
        )
    except yaml.reader.ReaderError as error:
        message = f"character #x{error.character:04x} is not allowed in YAML"
        problem = Problem(Location(path), "", message, "remove it")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Location(path, mark.line + 1, mark.column + 1) if mark else Location(path)
        problem = Problem(place, "", _syntax_message(error), _syntax_remedy(error))
    raise SpecError([problem])


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, _TooDeepError):
        return str(error.problem)
    context = f"{error.context}: " if error.context else ""
    return f"is not valid YAML ({context}{error.problem})"


def _syntax_remedy(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    if isinstance(error, _TooDeepError):
        return "flatten it"
    if "\\t" in problem:
        return "indent with spaces, not tabs"
    if "another document" in problem:
        return "keep one document in a file"
    if "undefined alias" in problem:
        return "define the anchor first, or remove the '*'"
    return "check the indentation, colons, quotes and brackets here"


@dataclass(slots=True)
class _Builder:
    """Walks a node graph once, collecting data, places and problems."""

    path: str
    values: dict[KeyPath, Location] = field(default_factory=dict)
    keys: dict[KeyPath, Location] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    num_nodes: int = 0
    open_nodes: set[int] = field(default_factory=set)

    def build(self, node: yaml.Node | None, at: KeyPath = ()) -> Any:
        if node is None:
            return None
        self.values[at] = self._location(node)
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            self._stop(node, at, f"expands to more than {MAX_NODES:,} values")
        if id(node) in self.open_nodes:
            self._stop(node, at, "contains itself through an alias")
        if node.tag not in (_PLAIN, _QUOTED):
            self._report(
                node, at, f"the tag '{node.tag}' is not allowed", "write the value plainly"
            )
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
                message = f"the key '{key}' stands twice (first in line {first.line})"
                self._report(key_node, (*at, key), message, "keep one of them")
                continue
            self.keys[(*at, key)] = self._location(key_node)
            data[key] = self.build(value_node, (*at, key))
        return data

    def _key(self, node: yaml.Node, at: KeyPath) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._report(node, at, "a key must be one word", "write 'key: value'")
            return None
        if node.value == "<<" and node.tag == _PLAIN:
            self._report(node, at, "merge keys ('<<') are not part of YAML 1.2", "use 'extends'")
            return None
        return str(node.value)

    def _scalar(self, node: yaml.Node, at: KeyPath) -> Any:
        text = str(node.value)
        if node.tag != _PLAIN:
            return text
        if _LEADING_ZERO.fullmatch(text) and len(text) <= MAX_DIGITS:
            decimal = int(text)
            octal = f" or 0o{text.lstrip('+-0') or '0'}" if re.fullmatch("0[0-7]+", text) else ""
            message = f"{text} is read as octal by some YAML readers and as decimal by others"
            self._report(node, at, message, f"write {decimal}{octal}")
            return decimal
        if _INT.fullmatch(text) and len(text) > MAX_DIGITS:
            self._report(node, at, f"a number of {len(text)} digits is too long", "shorten it")
            return 0
        return plain_scalar(text)

    def _location(self, node: yaml.Node) -> Location:
        return Location(self.path, node.start_mark.line + 1, node.start_mark.column + 1)

    def _report(self, node: yaml.Node, at: KeyPath, message: str, remedy: str) -> None:
        self.problems.append(Problem(self._location(node), dotted(at), message, remedy))

    def _stop(self, node: yaml.Node, at: KeyPath, message: str) -> None:
        self._report(node, at, message, "write the values out without aliases")
        raise SpecError(self.problems)


def plain_scalar(text: str) -> bool | int | float | str | None:
    """A plain scalar of YAML 1.2's core schema.

    >>> [plain_scalar(t) for t in ("1e-3", "no", "true", "0x10", "~")]
    [0.001, 'no', True, 16, None]
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _BASED_INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def dotted(at: KeyPath) -> str:
    """A path as users write it.

    >>> dotted(("train", "optimizer", "name"))
    'train.optimizer.name'
    """
    return ".".join(str(part) for part in at)
