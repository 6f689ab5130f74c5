"""Conditions on runs: `test_accuracy > 0.98 and epochs >= 10`, without `eval`.

The grammar is the part of Python's that pandas' `DataFrame.query` shares with SQL: comparisons of
names, numbers and texts, joined by `and`, `or`, `not` and parentheses. `=`, `AND`, `OR` and `NOT`
are understood too, a date needs no quotes, and 98% is 0.98.
"""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from cnnbench.errors import UsageError, quoted
from cnnbench.runs.index.kinds import example_of, is_possible, kinds_of
from cnnbench.runs.index.values import RECORDED, RunValues, Value

_OPTION = "--where"
_EXAMPLE = "write, for example, 'test_accuracy > 0.98 and epochs >= 10'"
_PARTS = re.compile(
    r"""(?P<text>'[^']*'|"[^"]*")"""
    r"|(?P<date>\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?\b)"
    r"|(?P<percent>\b\d+(?:\.\d+)?%)"
    r"|(?P<word>\b(?:AND|OR|NOT|IN)\b)"
    r"|(?P<equal>(?<![<>=!])=(?!=))"
)
_COMPARE: dict[type[ast.cmpop], Callable[[object, object], bool]] = {
    ast.Lt: lambda one, other: one < other,  # type: ignore[operator]
    ast.LtE: lambda one, other: one <= other,  # type: ignore[operator]
    ast.Gt: lambda one, other: one > other,  # type: ignore[operator]
    ast.GtE: lambda one, other: one >= other,  # type: ignore[operator]
    ast.Eq: lambda one, other: one == other,
    ast.NotEq: lambda one, other: one != other,
}
_MEMBERS = (ast.In, ast.NotIn)
_CONSTANTS: dict[str, Value] = {"true": True, "false": False, "null": None, "none": None}


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition.

    Args:
      text: as the user wrote it.
      tree: its expression.
    """

    text: str
    tree: ast.expr

    @property
    def names(self) -> list[str]:
        """The names in it, in order."""
        return list(dict.fromkeys(_names(self.tree)))

    def holds(self, known: RunValues) -> list[bool]:
        """Evaluates it for each run; a comparison with a value that a run lacks is false.

        Raises:
          UsageError: a name is unknown, or two values cannot be compared.
        """
        for name in self.names:
            self._look_up(known, name)
        return self._truth(self.tree, known)

    def _look_up(self, known: RunValues, name: str) -> list[Value]:
        try:
            return known.column(name)
        except UsageError:
            if name not in _bare_texts(self.tree):
                raise
            message = f"{_OPTION}: no run has a value {quoted(name)}"
            raise UsageError(f"{message}; write a text in quotes: '{name}'.") from None

    def _truth(self, node: ast.expr, known: RunValues) -> list[bool]:
        match node:
            case ast.BoolOp(op=op, values=parts):
                every = all if isinstance(op, ast.And) else any
                columns = [self._truth(part, known) for part in parts]
                return [every(row) for row in zip(*columns, strict=True)]
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return [not value for value in self._truth(part, known)]
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._compared([left, *others], ops, known)
        return [value is True for value in self._values(node, known)]

    def _compared(
        self, parts: Sequence[ast.expr], ops: Sequence[ast.cmpop], known: RunValues
    ) -> list[bool]:
        columns = [self._values(part, known) for part in parts]
        for number, op in enumerate(ops):
            self._check_kinds(parts[number : number + 2], op, columns[number : number + 2])
        return [
            all(self._one(op, row[n], row[n + 1]) for n, op in enumerate(ops))
            for row in zip(*columns, strict=True)
        ]

    def _check_kinds(
        self, parts: Sequence[ast.expr], op: ast.cmpop, columns: Sequence[list[object]]
    ) -> None:
        """Refuses a comparison that holds for no run because of what its values are.

        Raises:
          UsageError: it does not hold.
        """
        if isinstance(op, ast.NotEq | ast.NotIn):
            return
        sign = "in" if isinstance(op, ast.In) else "==" if isinstance(op, ast.Eq) else "<"
        left, right = (kinds_of(column) for column in columns)
        if sign == "in" and _name(parts[1]) is None:  # one of several values, or part of a text
            listed = _constant(parts[1])
            possible = isinstance(listed, str) or not left or bool(left & kinds_of(_items(listed)))
        else:
            possible = is_possible(sign, left, right)
        if possible:
            return
        at = next(number for number, part in enumerate(parts) if _name(part) is not None)
        name = _name(parts[at]) or ""
        shown = quoted(ast.unparse(ast.Compare(parts[0], [op], [parts[1]])))
        kinds = " or ".join(sorted((left, right)[at]))
        message = f"{_OPTION}: {name} is {kinds}, so {shown} is never true"
        raise UsageError(f"{message}; write, for example, {example_of(name, columns[at])}.")

    def texts(self) -> list[str]:
        """The texts in it."""
        constants = [node for node in ast.walk(self.tree) if isinstance(node, ast.Constant)]
        return [node.value for node in constants if isinstance(node.value, str)]

    def _values(self, node: ast.expr, known: RunValues) -> list[object]:
        name = _name(node)
        if name is not None and name.lower() not in _CONSTANTS:
            return list(known.column(name))
        return [_constant(node)] * len(known.entries)

    def _one(self, op: ast.cmpop, one: object, other: object) -> bool:
        if isinstance(op, _MEMBERS):
            if one is None or other is None:
                return False
            inside = str(one) in other if isinstance(other, str) else one in _items(other)
            return inside == isinstance(op, ast.In)
        same = isinstance(op, ast.Eq | ast.NotEq)
        if one is None or other is None:
            return same and (one is other) == isinstance(op, ast.Eq)
        if isinstance(one, tuple) != isinstance(other, tuple) and same:
            text, texts = (other, one) if isinstance(one, tuple) else (one, other)
            return (text in _items(texts)) == isinstance(op, ast.Eq)
        one, other = self._alike(one, other)
        if isinstance(one, str) != isinstance(other, str):
            return isinstance(op, ast.NotEq)
        return _COMPARE[type(op)](one, other)

    def _alike(self, one: object, other: object) -> tuple[object, object]:
        """Two values of one kind: texts beside times are dates."""
        if isinstance(one, datetime) and isinstance(other, str):
            return one, self._time(other)
        if isinstance(other, datetime) and isinstance(one, str):
            return self._time(one), other
        if isinstance(one, datetime) != isinstance(other, datetime):
            message = f"{_OPTION}: a time cannot be compared with {other}"
            raise UsageError(f"{message}; write a date, such as started > 2026-11-01.")
        return one, other

    def _time(self, text: str) -> datetime:
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            message = f"{_OPTION}: {quoted(text)} is not a date"
            example = "write, for example, 2026-11-01 or 2026-11-01T14:30"
            raise UsageError(f"{message}; {example}.") from None
        return found if found.tzinfo else found.replace(tzinfo=UTC)


def parse_condition(text: str) -> Condition:
    """Parses a condition.

    Raises:
      UsageError: it is not one.

    >>> parse_condition("train.optimizer.learning_rate < 0.1 AND name = 'a'").names
    ['train.optimizer.learning_rate', 'name']
    """
    try:
        tree = ast.parse(_PARTS.sub(_as_python, text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{_OPTION}: {quoted(text)} is not a condition; {_EXAMPLE}.") from error
    _check(tree, text)
    return Condition(text, tree)


def _as_python(part: re.Match[str]) -> str:
    if part["date"]:
        return f"'{part[0]}'"
    if part["percent"]:
        return str(Decimal(part[0][:-1]) / 100)
    if part["word"]:
        return part[0].lower()
    return "==" if part["equal"] else part[0]


def _check(node: ast.expr, text: str) -> None:
    """Refuses everything but conditions.

    Raises:
      UsageError: it is another expression.
    """
    match node:
        case ast.BoolOp(values=parts):
            pass
        case ast.UnaryOp(op=ast.Not(), operand=part):
            parts = [part]
        case ast.Compare(left=left, ops=ops, comparators=others):
            known = all(isinstance(op, (*_COMPARE, *_MEMBERS)) for op in ops)
            for part in (left, *others):
                _check_value(part, text)
            if known and any(_name(part) is not None for part in (left, *others)):
                return
            raise UsageError(f"{_OPTION}: {quoted(text)} compares no value of a run; {_EXAMPLE}.")
        case _:
            raise UsageError(f"{_OPTION}: {quoted(text)} is not a condition; {_EXAMPLE}.")
    for part in parts:
        _check(part, text)


def _check_value(node: ast.expr, text: str) -> None:
    if _name(node) is not None:
        return
    try:
        _constant(node)
    except ValueError:
        shown = quoted(ast.unparse(node))
        message = f"{_OPTION}: {shown} in {quoted(text)} is neither a name, a number nor a text"
        raise UsageError(f"{message}; {_EXAMPLE}.") from None


def _constant(node: ast.expr) -> object:
    name = _name(node)
    if name is not None:
        return _CONSTANTS[name.lower()]
    found = ast.literal_eval(node)
    kinds = (bool, int, float, str, tuple, list, type(None))
    if not isinstance(found, kinds):
        raise ValueError  # noqa: TRY004 - as literal_eval does
    return tuple(found) if isinstance(found, list) else found


def _items(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _name(node: ast.expr) -> str | None:
    """The dotted name that a node is; None if it is something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (above := _name(node.value)) is not None:
        return f"{above}.{node.attr}"
    return None


def _names(node: ast.expr) -> Iterator[str]:
    if (name := _name(node)) is not None:
        if name.lower() not in _CONSTANTS:
            yield name
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _names(child)


def _bare_texts(node: ast.expr) -> Iterator[str]:
    """Names on the right of comparisons with recorded texts, which are likely to lack quotes."""
    for each in ast.walk(node):
        if isinstance(each, ast.Compare) and _name(each.left) in RECORDED:
            yield from filter(None, map(_name, each.comparators))
