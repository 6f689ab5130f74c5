"""Response curves and heat maps of sweeps in a terminal."""

import math
from collections.abc import Iterator, Sequence

from cnnbench.comparisons.sweeps.responses import ValueGroup, best_of, cells, groups
from cnnbench.comparisons.sweeps.results import SweepResult
from cnnbench.formatting import MISSING, clean
from cnnbench.spec.metrics import metric_text, words

WIDTH = 80  # columns
MOST_BARS = 16
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SHADES = "░▒▓█"


def terminal_charts(result: SweepResult) -> Iterator[str]:
    """Yields lines: a response curve for each key, and a heat map of two keys."""
    for title in result.titles:
        if len(result.of(title)) < 2:
            continue
        name = f"{clean(title)}: " if len(result.titles) > 1 else ""
        if len(result.keys) == 2:
            yield from heat_map(result, title, name)
            continue
        for place, key in enumerate(result.keys):
            shown = groups(result.of(title), place, MOST_BARS)
            best = "best " if any(len(group.rows) > 1 for group in shown) else ""
            yield f"{name}{best}{words(result.metric)} by {key}"
            yield from response_curve(result, shown)
            yield ""


def response_curve(result: SweepResult, shown: Sequence[ValueGroup]) -> Iterator[str]:
    """Yields a bar for each value; the worst has the shortest and the best the longest."""
    means = [best_of(result, group.rows) for group in shown]
    labels = [clean(group.label) for group in shown]
    texts = [_text(result, mean) for mean in means]
    left, right = max(map(len, labels)), max(map(len, texts))
    room = WIDTH - left - right - 4
    best = best_of(result, result.trained)
    for label, mean, text in zip(labels, means, texts, strict=True):
        bar = "" if math.isnan(mean) else _bar(_share(mean, means), room)
        mark = " *" if mean == best else ""
        yield f"{label:>{left}} {text:>{right}} {bar}{mark}".rstrip()


def _share(mean: float, means: Sequence[float]) -> float:
    """Where a value lies between the smallest and the largest, from 0.05 to 1."""
    finite = [value for value in means if math.isfinite(value)]
    low, high = min(finite), max(finite)
    return 0.05 + 0.95 * ((mean - low) / (high - low) if high > low else 1.0)


def _bar(share: float, room: int) -> str:
    """A bar in steps of an eighth of a column.

    >>> _bar(0.5, 5), _bar(1, 3)
    ('██▌', '███')
    """
    whole, rest = divmod(round(share * room * 8), 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def _text(result: SweepResult, value: float) -> str:
    return MISSING if math.isnan(value) else metric_text(result.metric, value)


def heat_map(result: SweepResult, title: str, name: str = "") -> Iterator[str]:
    """Yields a heat map: a row for each value of the first key, a column for each of the second."""
    down, across, values = cells(result, title)
    flat = [value for row in values for value in row if math.isfinite(value)]
    low, high = min(flat, default=0.0), max(flat, default=0.0)
    better = "higher" if result.higher else "lower"
    yield f"{name}{words(result.metric)}, {better} is better: {result.keys[0]} down, " + (
        f"{result.keys[1]} across"
    )
    texts = [[_text(result, value) for value in row] for row in values]
    heads = [clean(group.label) for group in across]
    left = max(len(clean(group.label)) for group in down)
    width = max(map(len, [*heads, *(text for row in texts for text in row)])) + 4
    most = max(1, (WIDTH - left - 1) // width)
    for start in range(0, len(heads), most):
        part = slice(start, start + most)
        yield " " * (left + 1) + "".join(f"{head:>{width}}" for head in heads[part])
        for group, row, own in zip(down, texts, values, strict=True):
            shaded = zip(own[part], row[part], strict=True)
            line = "".join(f"{_shade(v, low, high) + text:>{width}}" for v, text in shaded)
            yield f"{clean(group.label):>{left}} {line}"
        yield ""


def _shade(value: float, low: float, high: float) -> str:
    """Two characters that are darker for larger values.

    >>> _shade(0, 0, 1), _shade(1, 0, 1), _shade(float("nan"), 0, 1)
    ('░░ ', '██ ', '   ')
    """
    if math.isnan(value):
        return "   "
    share = (value - low) / (high - low) if high > low else 1.0
    return 2 * _SHADES[min(3, int(share * 4))] + " "
