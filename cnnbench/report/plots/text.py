"""Text in pictures: its width, and lines that fit."""

import textwrap
import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile

from cnnbench.formatting import clean

DOTS = "..."


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a text in matplotlib's font, in inches.

    Args:
      text: one line.
      size: of the letters, in points.
      bold: True for bold letters.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        # A viewer may have the characters that this machine's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def fitting(text: str, size: float, room: float, *, bold: bool = False) -> str:
    """The text, or its beginning and dots where it is wider than the room, in inches."""
    if text_width(text, size, bold=bold) <= room + 0.01:
        return text
    kept = len(text)
    while kept > 1 and text_width(f"{text[:kept]}{DOTS}", size, bold=bold) > room:
        kept -= 1
    return f"{text[:kept]}{DOTS}"


def wrapped(text: str, size: float, room: float, *, bold: bool = False) -> list[str]:
    """The text in lines that fit into the room, in inches; a word that is too wide is divided."""
    lines = [""]
    for word in clean(text).split():
        longer = f"{lines[-1]} {word}".lstrip()
        if text_width(longer, size, bold=bold) <= room:
            lines[-1] = longer
            continue
        pieces = _pieces(word, size, room, bold=bold)
        lines[-1:] = [*filter(None, lines[-1:]), *pieces]
    return list(filter(None, lines))


def _pieces(word: str, size: float, room: float, *, bold: bool) -> list[str]:
    """Parts of a word that fit, of one letter at least."""
    pieces = [word[:1]]
    for letter in word[1:]:
        if text_width(pieces[-1] + letter, size, bold=bold) <= room:
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces


def distinct(labels: Sequence[str], lines: int, characters: int) -> list[list[str]]:
    """Labels in a few lines each, cut so that they still differ where the full ones do.

    Args:
      labels: one line each.
      lines: the most that one may take.
      characters: of a line.

    >>> distinct(["A network with a long name, one", "A network with a long name, two"], 2, 12)
    [['... name,', 'one'], ['... name,', 'two']]
    """
    found = [_cut(label, lines, characters) for label in labels]
    for cut in [cut for number, cut in enumerate(found) if cut in found[:number]]:
        alike = [number for number, other in enumerate(found) if other == cut]
        rests = _rests([labels[number].split() for number in alike])
        for number, rest in zip(alike, rests, strict=True):
            if rest and len(set(rests)) > 1:
                found[number] = _cut(f"{DOTS} {rest}", lines, characters)
    return found


def _cut(label: str, lines: int, characters: int) -> list[str]:
    return textwrap.wrap(label, characters, max_lines=lines, placeholder=f" {DOTS}") or [""]


def _rests(labels: Sequence[Sequence[str]]) -> list[str]:
    """The ends of labels, from the last word that all of them begin with."""
    common = list(takewhile(lambda words: len(set(words)) == 1, zip(*labels, strict=False)))
    return [" ".join(words[max(len(common) - 1, 0) :]) for words in labels]
