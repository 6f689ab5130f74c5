"""A bounded YAML 1.2 parser on top of PyYAML, with its own error messages.

`compose` parses text to nodes, `plain_scalar` resolves plain scalars. PyYAML implements
YAML 1.1, where ``no`` is false, ``1e-3`` is a string and ``010`` is 8; here, scalars follow the
core schema of YAML 1.2.2, chapter 10.3.2.
"""

import re
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from cnnbench.errors import Diagnostic, Location, SpecError, quoted

MAX_BYTES = 256 * 1024
MAX_NODES = 10_000  # after aliases are expanded
MAX_DEPTH = 32
MAX_DIGITS = 40  # of a number

PLAIN = "plain"
QUOTED = "quoted"
# A part of PyYAML's message, and ours: the message and the remedy.
_SYNTAX = (
    ("cannot start any token", "a value cannot start with this character", "quote it"),
    ("another document", "a second document starts here", "write one document per file"),
    ("undefined alias", "this alias has no anchor", "define the anchor first, or quote the '*'"),
    (
        "expected alphabetic or numeric",
        "'*' and '&' have a meaning at the start of a value",
        "put the value in quotes",
    ),
    ("second occurrence", "this anchor is defined twice", "rename one of the two"),
    ("mapping values are not", "unexpected ':'", "quote the text, or fix the indentation"),
    ("unexpected end of stream", "unclosed quote", "close it"),
    ("'<stream end>'", "unclosed bracket", "close it"),
    ("expected ',' or", "the bracket on line {line} is still open", "close it, or add a comma"),
    (
        "<block end>",
        "wrong indentation for the block that starts on line {line}",
        "align it with the lines around it",
    ),
)

_BREAKS = "\r\n\x85\u2028\u2029"

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {w: w.lower() == "true" for w in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")


class _RefusedError(yaml.MarkedYAMLError):
    """Valid YAML that is not allowed in an experiment file; `note` is the remedy."""


class _Scanner(Reader, Scanner):
    """PyYAML's scanner, with tabs as white space wherever YAML 1.2 allows them.

    Tabs are allowed between tokens of a line, before comments, in blank lines, and inside
    brackets. Indentation uses spaces only: no key or entry of a block follows a tab on its line
    (YAML 1.2.2, chapters 6.1 and 6.2).
    """

    tab: yaml.Mark | None = None  # before the next token and after the last one or the line break
    key_tab: yaml.Mark | None = None  # the same, for a possible key

    def scan_to_next_token(self) -> None:
        self.tab = None
        if self.index == 0 and self.peek() == "\ufeff":
            self.forward()
        while True:
            while self.peek() in " \t":
                if self.peek() == "\t" and not self.flow_level:
                    self.tab = self.tab or self.get_mark()
                self.forward()
            if self.peek() == "#":
                while self.peek() not in f"\0{_BREAKS}":
                    self.forward()
            if not self._line_break():
                break
            self.tab = None
            if not self.flow_level:
                self.allow_simple_key = True
        if self.tab and self.tab.column <= self.indent and self.peek() != "\0":
            self._refuse_tab(self.tab)

    def save_possible_simple_key(self) -> None:
        super().save_possible_simple_key()
        if not self.flow_level:
            self.key_tab = self.tab

    def fetch_value(self) -> None:
        self._refuse_tab(self.key_tab if self.flow_level in self.possible_simple_keys else self.tab)
        super().fetch_value()

    def fetch_block_entry(self) -> None:
        self._refuse_tab(self.tab)
        super().fetch_block_entry()

    def fetch_key(self) -> None:
        self._refuse_tab(self.tab)
        super().fetch_key()

    def _refuse_tab(self, mark: yaml.Mark | None) -> None:
        if mark and not self.flow_level:
            message = "a tab where YAML allows only spaces"
            raise _RefusedError(problem=message, problem_mark=mark, note="indent with spaces")

    def scan_plain_spaces(self, indent: int, start_mark: yaml.Mark) -> list[str] | None:  # noqa: ARG002
        white = self._ahead("[ \t]*")
        self.forward(len(white))
        if self.peek() not in _BREAKS:
            return [white] if white else []
        first, breaks = self._line_break(), []
        self.allow_simple_key = True
        while not self._ahead(r"(---|\.\.\.)(?=[\0\s\x85])"):
            white = self._ahead("[ \t]*")
            is_blank = self.buffer[self.pointer + len(white)] in _BREAKS
            if "\t" in white[:indent] and not (self.flow_level or is_blank):
                self.forward(white.index("\t"))  # a less indented line ends the scalar
                break
            self.forward(len(white))
            if not is_blank:
                break
            breaks.append(self._line_break())
        else:
            return None
        return [*([first] if first != "\n" else [] if breaks else [" "]), *breaks]

    def _line_break(self) -> str:
        return str(self.scan_line_break())  # type: ignore[no-untyped-call]

    def scan_block_scalar_indicators(self, start_mark: yaml.Mark) -> tuple[bool | None, int | None]:
        found = self._ahead(rf"([1-9][-+]?|[-+][1-9]?|)(?=[ \t\0{_BREAKS}])")
        if not found and self.peek() != "\t":
            return super().scan_block_scalar_indicators(start_mark)  # reports the error, if any
        self.forward(len(found))
        keep = {"+": True, "-": False, "": None}[found.strip("123456789")]
        return keep, int(width) if (width := found.strip("-+")) else None

    def scan_block_scalar_ignored_line(self, start_mark: yaml.Mark) -> None:
        self.forward(len(self._ahead("[ \t]*")))
        super().scan_block_scalar_ignored_line(start_mark)

    def scan_directive_ignored_line(self, start_mark: yaml.Mark) -> None:
        self.forward(len(self._ahead("[ \t]*")))
        super().scan_directive_ignored_line(start_mark)

    def scan_tag(self) -> Any:
        if tag := self._ahead(r"!\S*(?=\t)"):
            message = f"the tag {quoted(tag)} is not allowed"
            remedy = "write the value without a tag"
            raise _RefusedError(problem=message, problem_mark=self.get_mark(), note=remedy)
        return super().scan_tag()

    def _ahead(self, pattern: str) -> str:
        found = re.compile(pattern).match(self.buffer, self.pointer)
        return found[0] if found else ""


class _Loader(_Scanner, Parser, Composer, BaseResolver):
    """PyYAML's parser without scalar resolution, with limits on size and nesting."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.depth = self.num_nodes = 0

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:  # noqa: ARG002
        if kind is not yaml.ScalarNode:
            return QUOTED
        return PLAIN if implicit[0] else QUOTED

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.depth += 1
        self.num_nodes += 1
        if self.depth > MAX_DEPTH:
            self._refuse(event, f"is nested deeper than {MAX_DEPTH} levels", "flatten it")
        if self.num_nodes > MAX_NODES:
            self._refuse(event, f"contains more than {MAX_NODES:,} keys and values", "shorten it")
        if getattr(event, "tag", None) == "!":  # PyYAML would drop it, and read '! "5"' as 5
            self._refuse(event, "the tag '!' is not allowed", "write the value without a tag")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, event: Any, message: str, remedy: str) -> NoReturn:
        raise _RefusedError(problem=message, problem_mark=event.start_mark, note=remedy)


def compose(raw: bytes, path: str) -> yaml.Node | None:
    """Parses the single document of a text to a graph of nodes with tags `PLAIN` or `QUOTED`.

    Args:
      raw: UTF-8 encoded text.
      path: the file name shown in messages.

    Raises:
      SpecError: invalid YAML, or the limits above are exceeded.
    """
    if len(raw) > MAX_BYTES:
        remedy = f"keep it below {MAX_BYTES:,} bytes"
        problem = Diagnostic(Location(path), "", "is too large for an experiment file", remedy)
        raise SpecError([problem])
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line, column = _line_column(raw[: error.start])
        place = Location(path, line, column)
        problem = Diagnostic(place, "", "is not UTF-8 text", "save the file as UTF-8")
        raise SpecError([problem]) from None
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        place = Location(path, *_line_column(text[: error.position].encode()))
        message = f"the character U+{error.character:04X} is not allowed in YAML"
        raise SpecError([Diagnostic(place, "", message, "remove it")]) from None
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise SpecError([_syntax_problem(error, path)]) from None
    except (ValueError, OverflowError):  # PyYAML passes "\UFFFFFFFF" to chr()
        place = Location(path, loader.line + 1, loader.column + 1)
        problem = Diagnostic(place, "", "is not valid YAML (no such character)", "fix the escape")
        raise SpecError([problem]) from None


def _line_column(before: bytes) -> tuple[int, int]:
    line_start = before.rfind(b"\n") + 1
    return before.count(b"\n") + 1, len(before[line_start:].decode(errors="replace")) + 1


def _syntax_problem(error: yaml.MarkedYAMLError, path: str) -> Diagnostic:
    problem, context = str(error.problem), error.context or ""
    start, end = error.context_mark, error.problem_mark
    # Unclosed brackets and quotes started at the context; the problem mark is the end of the file.
    mark = start if start and re.search("stream end|end of stream", problem) else end or start
    place = Location(path, mark.line + 1, mark.column + 1) if mark else Location(path)
    if isinstance(error, _RefusedError):
        return Diagnostic(place, "", problem, str(error.note))
    for words, message, remedy in _SYNTAX:
        if words in problem:
            return Diagnostic(
                place, "", message.format(line=start.line + 1 if start else 0), remedy
            )
    message = f"is not valid YAML ({context}{': ' if context else ''}{problem})"
    return Diagnostic(place, "", message, "check the indentation, colons, quotes and brackets here")


def is_number(text: str) -> bool:
    """Returns True if a plain scalar is a number of any kind.

    >>> is_number("1e-3"), is_number("no"), is_number("1_000")
    (True, False, False)
    """
    return any(kind.fullmatch(text) for kind in (_FLOAT, _BASED_INT, _SPECIAL_FLOAT))


def is_text(text: str) -> bool:
    """Returns True if a plain scalar is a string."""
    return text not in _NULL and text not in _BOOL and not is_number(text)


def integer_readings(text: str) -> tuple[int, str | None] | None:
    """Decimal and octal interpretation of an integer with a leading zero.

    >>> integer_readings("010"), integer_readings("-08"), integer_readings("10")
    ((10, '0o10'), (-8, None), None)
    """
    if not _LEADING_ZERO.fullmatch(text):
        return None
    octal = f"0o{text.lstrip('0') or '0'}" if re.fullmatch("0[0-7]+", text) else None
    return int(text), octal


def plain_scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain scalar; a number has at most `MAX_DIGITS` characters.

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
