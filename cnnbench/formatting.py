"""Formats numbers and names for display.

`digits` is the number of decimals; None chooses it by magnitude.
`others` are the other values of a column, which share a unit.
"""

import math
import re
import unicodedata
from collections.abc import Sequence

MISSING = "–"  # noqa: RUF001 - a dash, for unknown values
_LONGEST = 200  # characters of the message of another error
_MOST = 100_000  # larger numbers get the next unit


def is_number(text: str) -> bool:
    """Returns True if a text is a number.

    >>> is_number("1e-3"), is_number("cat")
    (True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def diverged_text(lost: int, seeds: int) -> str:
    """Note on diverged seeds; empty if none diverged.

    >>> diverged_text(0, 3), diverged_text(1, 3), diverged_text(3, 3)
    ('', '1 of 3 diverged', 'diverged')
    """
    if lost in {0, seeds}:
        return "diverged" if lost else ""
    return f"{lost} of {seeds} diverged"


def seconds_text(value: float, digits: int | None = None, others: Sequence[float] = ()) -> str:
    """Formats seconds, or milliseconds for short times.

    >>> seconds_text(6.7712), seconds_text(0.0123456), seconds_text(0.000182)
    ('6.77 s', '0.0123 s', '0.182 ms')
    >>> seconds_text(0.0123456, others=[0.000182]), seconds_text(0.000182, others=[360.0])
    ('12.3 ms', '0.000182 s')
    >>> seconds_text(1.23, 3, others=[0.379]), seconds_text(1.23, 0, others=[0.379])
    ('1.230 s', '1,230 ms')
    """
    if math.isnan(value):
        return MISSING
    known = _known(value, others)
    few = (
        0.01 if digits is None else min(1.0, 10.0 ** (1 - digits))
    )  # below, less than two digits would remain
    if known and min(known) < few and max(known) < _MOST / 1000:
        return f"{_number(1000 * value, digits)} ms"
    return f"{_number(value, 2 if digits is None and value >= 1 else digits)} s"


def count_text(value: float) -> str:
    """Formats a count; a dash if it is not finite.

    >>> count_text(7407.4), count_text(math.inf)
    ('7,407', '–')
    """  # noqa: RUF002 - the dash
    return f"{value:,.0f}" if math.isfinite(value) else MISSING


def flops_text(value: float, digits: int | None = None, others: Sequence[float] = ()) -> str:
    """Formats a number of operations.

    >>> flops_text(4_524_077.0), flops_text(999.0), flops_text(25_600_000_000.0, 3)
    ('4.52 M', '999', '25.600 G')
    >>> flops_text(1.2e6, others=[9e5]), flops_text(9e5, others=[1.2e6, 1e12])
    ('1,200 k', '0.000900 G')
    """
    return _scaled(value, 1000, ("", "k", "M", "G", "T"), digits, others)


def bytes_text(value: float, digits: int | None = None, others: Sequence[float] = ()) -> str:
    """Formats an amount of memory.

    >>> bytes_text(18_718_088), bytes_text(2048, 0), bytes_text(3 * 2**30, others=[18_718_088])
    ('17.9 MiB', '2 KiB', '3,072 MiB')
    """
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"), digits, others)


def _scaled(
    value: float, step: int, units: tuple[str, ...], digits: int | None, others: Sequence[float]
) -> str:
    """Uses the unit of the smallest value, or the next one in which the largest is not too long."""
    known, place = _known(value, others) or [0.0], 0
    while place < len(units) - 1 and (
        min(known) >= step ** (place + 1) or max(known) >= _MOST * step**place
    ):
        place += 1
    whole = digits is None and place == 0
    return f"{_number(value / step**place, 0 if whole else digits)} {units[place]}".rstrip()


def _known(value: float, others: Sequence[float]) -> list[float]:
    return [number for number in (value, *others) if number > 0 and math.isfinite(number)]


def _number(value: float, digits: int | None) -> str:
    """Three significant digits, or the given number of decimals; large numbers as integers."""
    if digits is None and abs(value) < 99.95:
        return f"{value:#.3g}"
    return f"{value:,.{digits or 0}f}"


def percent_text(value: float, digits: int | None = None) -> str:
    """Formats a fraction as a percentage.

    >>> percent_text(0.384), percent_text(0.384, 1)
    ('38%', '38.4%')
    """
    return f"{100 * value:.{digits or 0}f}%"


def ratio_text(value: float) -> str:
    """Formats a ratio above one; one above a thousand says no more than that it is large.

    >>> ratio_text(1.53), ratio_text(332.5), ratio_text(math.inf)
    ('1.5x', '332x', 'over 1,000x')
    """
    if value > 1000:
        return "over 1,000x"
    return f"{value:.1f}x" if value < 100 else f"{value:,.0f}x"


def epochs_text(number: int) -> str:
    """Formats a number of epochs.

    >>> epochs_text(1), epochs_text(30)
    ('1 epoch', '30 epochs')
    """
    return "1 epoch" if number == 1 else f"{number} epochs"


def enumeration(names: Sequence[str]) -> str:
    """Joins names with commas and "and".

    >>> enumeration(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def named_seeds(seeds: Sequence[int | str]) -> str:
    """Names seeds.

    >>> named_seeds([0]), named_seeds([0, 2])
    ('seed 0', 'seeds 0 and 2')
    """
    return f"seed{'s' * (len(seeds) > 1)} {enumeration(list(map(str, seeds)))}"


def clean(text: str) -> str:
    """Converts text to a single printable line, without line breaks and control codes."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def reason(error: Exception) -> str:
    r"""Message of an error in one short line, to be quoted in another message.

    >>> reason(ValueError("bad \x07magic\nnumber.")), reason(EOFError())
    ('bad magic number', 'EOFError')
    >>> reason(FileNotFoundError(2, "No such file or directory"))
    'no such file or directory'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = clean(str(error)).rstrip(".") or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def escape_controls(text: str) -> str:
    r"""Escapes control codes, so that titles and paths cannot control the terminal.

    >>> escape_controls("a\x1b[31m.yaml: 'x'\nb")
    "a\\x1b[31m.yaml: 'x'\nb"
    """
    return "".join(c if _is_visible(c) else ascii(c)[1:-1] for c in text)


def _is_visible(char: str) -> bool:
    return char.isprintable() or char == "\n" or unicodedata.category(char) == "Zs"


# Inline syntax of CommonMark and GFM: code, emphasis, links, table cells, strikethrough,
# formulas, escapes. Underscores within words have no meaning; HTML tags and character
# references have their own prefixes.
_OPENS = re.compile(
    r"[\\`*\[|~$]|(?<![^\W_])_|_(?![^\W_])|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|#+$", re.ASCII
)
# Block syntax at the start of a line: headings, lists, quotes, rules, setext underlines.
_BEGINS = re.compile(r"(#{1,6}|[-+>]|\d{1,9}[.)])(?=\s|$)|[>=]|-(?=[-\s])")


def escape_markdown(text: str) -> str:
    r"""Escapes text for Markdown (CommonMark and GFM), at any position in a line.

    >>> print(escape_markdown("A|B <i> <0.01 test_accuracy _x_ ~~y~~ &copy; R&D"))
    A\|B \<i> <0.01 test_accuracy \_x\_ \~\~y\~\~ \&copy; R&D
    >>> [escape_markdown(start) for start in ("# a", "1. a", "- a", "-0.5", "1.5")]
    ['\\# a', '1\\. a', '\\- a', '-0.5', '1.5']
    """
    line = clean(text)
    begins = _BEGINS.match(line)
    rest = line[begins.end() :] if begins else line
    start = f"{begins[0][:-1]}\\{begins[0][-1]}" if begins else ""
    return start + _OPENS.sub(r"\\\g<0>", rest)


def csv_cell(value: object) -> object:
    """Escapes a value for CSV, so that spreadsheets do not execute it as a formula (CWE-1236).

    Strings that start like a formula get a leading apostrophe, as recommended by OWASP; numbers
    stay numbers. Line breaks become line feeds: Python before 3.13 does not quote others.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell(-0.5), csv_cell("A = B")
    ("'=1+1", '-0.5', -0.5, 'A = B')
    """
    if not isinstance(value, str) or re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", value):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(_FORMULA) else text


_FORMULA = tuple("=+-@\t\n\uff1d\uff0b\uff0d\uff20")  # includes fullwidth forms


def numbered(titles: Sequence[str]) -> list[str]:
    """Numbers duplicate titles.

    >>> numbered(["A", "B", "A"])
    ['A #1', 'B', 'A #2']
    """
    return [
        f"{title} #{titles[: i + 1].count(title)}" if titles.count(title) > 1 else title
        for i, title in enumerate(titles)
    ]


def depthwise_advice(count: int) -> str:
    """Advice for a Python model with depthwise convolutions computed by XLA.

    >>> depthwise_advice(1).partition(";")[0]
    '1 depthwise convolution is slow on a CPU'
    """
    what = "1 depthwise convolution is" if count == 1 else f"{count} depthwise convolutions are"
    return f"{what} slow on a CPU; pass conv_general_dilated=cnnbench.depthwise to nnx.Conv"
