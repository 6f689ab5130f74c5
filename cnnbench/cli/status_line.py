"""What stands beside the bars of runs that train: as much as a terminal has room for."""

import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple


class Said(NamedTuple):
    """What there is to say beside a bar; `title` and `value` come with their punctuation."""

    title: str = ""
    place: str = ""
    value: str = ""
    rate: str = ""
    curve: str = ""


def status(lines: Sequence[Said], room: int) -> list[tuple[str, str, str]]:
    """Text, rate and curve of each bar, as much as finds room beside all of them.

    Titles are shortened last.

    Args:
      lines: what there is to say, a line each.
      room: characters.

    >>> said = Said("Standard CNN: ", "epoch 2/3", ", accuracy 90.00 %", "2,000 images/s", "_@")
    >>> status([said], 56)
    [('Standard CNN: epoch 2/3, accuracy 90.00 %', '2,000 images/s', '')]
    >>> status([said], 31)
    [('Standard...: epoch 2/3, 90.00 %', '', '')]
    """
    brief = [line._replace(value=re.sub("^, [a-z]+ ", ", ", line.value)) for line in lines]
    for said, with_rate, with_curve in (
        (lines, True, True),
        (lines, True, False),
        (lines, False, False),
        (brief, False, False),
    ):
        texts = ["".join(line[:3]) for line in said]
        rates = [line.rate if with_rate else "" for line in said]
        curves = [line.curve if with_curve else "" for line in said]
        if sum(max(map(len, column)) for column in (texts, rates, curves)) <= room:
            return list(zip(texts, rates, curves, strict=True))
    return [(_shortened(line, room), "", "") for line in brief]


def _shortened(line: Said, room: int) -> str:
    rest = line.place + line.value
    if len(line.title + rest) <= room:
        return line.title + rest
    width = max(3, room - len(rest) - 2)
    return f"{textwrap.shorten(line.title.removesuffix(': '), width, placeholder='...')}: {rest}"
