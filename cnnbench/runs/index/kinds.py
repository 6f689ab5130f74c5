"""Kinds of values, to say why a comparison can never hold, and what values there are."""

import math
from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum

from cnnbench.errors import did_you_mean, or_list, quoted

_SHOWN = 4  # texts in a message


class ValueKind(StrEnum):
    """What a value is, as in messages."""

    NUMBER = "a number"
    TEXT = "a text"
    TIME = "a time"
    TEXTS = "a list of texts"


def kinds_of(values: Collection[object]) -> set[ValueKind]:
    """The kinds of values; none for missing ones.

    >>> sorted(kinds_of([1, None, "relu", True]))
    [<ValueKind.NUMBER: 'a number'>, <ValueKind.TEXT: 'a text'>]
    """
    return {_kind(value) for value in values if value is not None}


def _kind(value: object) -> ValueKind:
    if isinstance(value, str):
        return ValueKind.TEXT
    if isinstance(value, datetime):
        return ValueKind.TIME
    return ValueKind.TEXTS if isinstance(value, tuple) else ValueKind.NUMBER


def is_possible(sign: str, left: set[ValueKind], right: set[ValueKind]) -> bool:
    """True if values of some of the kinds can be compared; a missing value with any other.

    Args:
      sign: `in`, `==` or `<`, which stands for the other inequalities, too.
      left: kinds of the values on the left.
      right: those on the right.

    >>> is_possible("<", {ValueKind.TEXT}, {ValueKind.NUMBER})
    False
    >>> is_possible("==", {ValueKind.TEXTS}, {ValueKind.TEXT})
    True
    """
    if not left or not right:
        return True
    pairs = {frozenset((one, other)) for one in left for other in right}
    allowed = {
        frozenset([ValueKind.TEXT]),
        frozenset([ValueKind.TIME]),
        frozenset([ValueKind.TIME, ValueKind.TEXT]),
    }
    if sign == "in":
        allowed.add(frozenset([ValueKind.TEXT, ValueKind.TEXTS]))
    else:
        allowed |= {
            frozenset([ValueKind.NUMBER]),
            frozenset([ValueKind.TIME, ValueKind.NUMBER]),
        }  # as it says
    if sign == "==":
        allowed |= {frozenset([ValueKind.TEXT, ValueKind.TEXTS]), frozenset([ValueKind.TEXTS])}
    return bool(pairs & allowed)


def example_of(name: str, values: Sequence[object]) -> str:
    """A comparison that may hold for a value.

    >>> example_of("epochs", [None, 10]), example_of("tags", [("night",)])
    ('epochs >= 10', "'night' in tags")
    """
    value = next((value for value in values if value not in (None, ())), None)
    match value:
        case datetime():
            return f"{name} > {value:%Y-%m-%d}"
        case bool():
            return f"{name} == {str(value).lower()}"
        case float() | int():
            return f"{name} >= {value:.4g}"
        case tuple():
            return f"{value[0]!r} in {name}"
    return f"{name} == {value or 'x'!r}"


def range_of(name: str, values: Sequence[object], asked: Sequence[str] = ()) -> str:
    """Says what values there are.

    Args:
      name: their name.
      values: the values.
      asked: texts that were looked for, in vain.

    >>> range_of("epochs", [10, 30, None]), range_of("name", ["mlp", "cnn"], ["mpl"])
    ('epochs is 10 to 30', "name is 'cnn' or 'mlp' (did you mean 'mlp'?)")
    """
    known = [value for value in values if value is not None and value == value]  # noqa: PLR0124
    numbers = [value for value in known if isinstance(value, int | float) and math.isfinite(value)]
    if known and len(numbers) == len(known) and not isinstance(known[0], bool):
        low, high = f"{min(numbers):.4g}", f"{max(numbers):.4g}"
        return f"{name} is {low}" if low == high else f"{name} is {low} to {high}"
    times = [value for value in known if isinstance(value, datetime)]
    if times:
        return f"{name} is {min(times):%Y-%m-%d %H:%M} to {max(times):%Y-%m-%d %H:%M}"
    items = [item for v in known for item in (v if isinstance(v, tuple) else (v,))]
    texts = sorted({str(item).lower() if isinstance(item, bool) else str(item) for item in items})
    if not texts:
        return f"no run has {name}"
    shown = [quoted(text) for text in texts[:_SHOWN]]
    shown += [f"one of {len(texts) - _SHOWN:,} others"] * (len(texts) > _SHOWN)
    hints = [did_you_mean(text, texts) for text in asked if text not in texts]
    return f"{name} is {or_list(shown)}{next(filter(None, hints), '')}"
