"""Plain scalars of YAML 1.2's core schema (YAML 1.2.2, chapter 10.3.2).

PyYAML reads YAML 1.1, where ``no`` is false, ``1e-3`` is text and ``010`` is 8.
"""

import re

MAX_DIGITS = 40

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {w: w.lower() == "true" for w in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")


def is_number(text: str) -> bool:
    """Whether a plain scalar is a number of any kind.

    >>> is_number("1e-3"), is_number("no"), is_number("1_000")
    (True, False, False)
    """
    return any(kind.fullmatch(text) for kind in (_FLOAT, _BASED_INT, _SPECIAL_FLOAT))


def is_text(text: str) -> bool:
    """Whether a plain scalar stands for itself."""
    return text not in _NULL and text not in _BOOL and not is_number(text)


def readings(text: str) -> tuple[int, str | None] | None:
    """What a whole number with a leading zero may mean: in decimal, and in octal.

    >>> readings("010"), readings("-08"), readings("10")
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
