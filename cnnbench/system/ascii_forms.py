"""ASCII fallbacks for characters that the output encoding does not support.

With `LANG=C`, `PYTHONIOENCODING=ascii` or a legacy code page, Python raises `UnicodeEncodeError`
for characters that the encoding cannot represent. `ERRORS` is an error handler for `str.encode` and
text streams that never raises: symbols are replaced by their usual ASCII forms, letters by Python
escapes.
"""

import codecs
import json
import re
import unicodedata

ERRORS = "cnnbench.ascii"

_SYMBOLS = {
    "\N{PLUS-MINUS SIGN}": "+/-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{DIVISION SIGN}": "/",
    "\N{MINUS SIGN}": "-",
    "\N{MIDDLE DOT}": "*",
    "\N{BULLET}": "*",
    "\N{ALMOST EQUAL TO}": "~",
    "\N{NOT EQUAL TO}": "!=",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{INFINITY}": "inf",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LEFTWARDS ARROW}": "<-",
    "\N{LEFT RIGHT ARROW}": "<->",
    "\N{UPWARDS ARROW}": "^",
    "\N{DOWNWARDS ARROW}": "v",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{FRACTION SLASH}": "/",
    "\N{COPYRIGHT SIGN}": "(c)",
    "\N{REGISTERED SIGN}": "(R)",
    "\N{CHECK MARK}": "ok",
}
_DASHES = dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015", "-")
_SINGLE = dict.fromkeys("\u2018\u2019\u201a\u201b\u2039\u203a", "'")
_DOUBLE = dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"')
# Blocks from low to full (as in `sparkline`), shades, halves.
_BLOCKS = dict(zip("▁▂▃▄▅▆▇█▏▎▍▌▋▊▉░▒▓▀▐", "_.-=+*#@||||###.:#'|", strict=True))
_FORMS = _SYMBOLS | _DASHES | _SINGLE | _DOUBLE | _BLOCKS


def ascii_form(char: str) -> str:
    r"""ASCII form of a character.

    >>> [ascii_form(char) for char in "\u00b1\u2014\u2554\u2550\u00a0\u00b2\u00e9\u4e2d"]
    ['+/-', '-', '+', '-', ' ', '2', '\\xe9', '\\u4e2d']
    """
    if char.isascii():
        return char
    if known := _FORMS.get(char):
        return known
    name = unicodedata.name(char, "")
    if name.startswith("BOX DRAWINGS"):
        return _line(name)
    usual = unicodedata.normalize("NFKD", char)  # such as a no-break space
    if not unicodedata.category(char).startswith("L") and usual.isascii() and usual.isprintable():
        return usual
    return char.encode("ascii", "backslashreplace").decode()


def _line(name: str) -> str:
    """ASCII form of a box-drawing character, by name, such as BOX DRAWINGS LIGHT VERTICAL."""
    directions = set(name.split()) & {"HORIZONTAL", "VERTICAL", "LEFT", "RIGHT", "UP", "DOWN"}
    if directions <= {"HORIZONTAL", "LEFT", "RIGHT"}:
        return "-"
    return "|" if directions <= {"VERTICAL", "UP", "DOWN"} else "+"


def _handle(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(ascii_form, error.object[error.start : error.end])), error.end


codecs.register_error(ERRORS, _handle)


def in_encoding(text: str, encoding: str) -> str:
    """Text with ASCII forms of characters that an encoding does not support.

    >>> in_encoding("98.97 ± 0.05%", "ascii"), in_encoding("98.97 ± 0.05%", "latin-1")
    ('98.97 +/- 0.05%', '98.97 ± 0.05%')
    """
    return text if text.isascii() else text.encode(encoding, ERRORS).decode(encoding)


def json_in_ascii(text: str) -> str:
    r"""Escapes non-ASCII characters in the strings of a JSON document.

    >>> json_in_ascii('{"title": "5 \u00d7 5 \U0001f642"}')
    '{"title": "5 \\u00d7 5 \\ud83d\\ude42"}'
    """
    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)


def html_in_ascii(text: str) -> str:
    r"""Replaces non-ASCII characters in an HTML document by character references.

    >>> html_in_ascii("<p>5 \u00d7 5</p>")
    '<p>5 &#215; 5</p>'
    """
    return text.encode("ascii", "xmlcharrefreplace").decode()
