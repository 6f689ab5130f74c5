"""A sweep on an HTML page: a table to sort, parallel coordinates, and pictures."""

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from cnnbench.comparisons.sweeps.results import SweepResult, SweepRow
from cnnbench.formatting import clean, is_number
from cnnbench.report.plots.svg import inline_svg
from cnnbench.report.sweeps.picture import sweep_picture
from cnnbench.report.sweeps.table import (
    expected_grid,
    failures,
    meanings,
    metric_heading,
    next_steps,
    score_text,
    sweep_grid,
    winner,
)
from cnnbench.runs.over import in_order
from cnnbench.spec.metrics import metric_text

_STEP, _HEIGHT, _TOP, _SIDE = 170, 300, 40, 70  # of the parallel coordinates
_WIDE = 30.0  # ratio of the largest value to the smallest, from which an axis is logarithmic


class SweepSection(NamedTuple):
    """A sweep on a page.

    Args:
      anchor: its id, unique on the page.
      heading: the sweep and its experiments.
      body: what stands below the heading, as HTML.
    """

    anchor: str
    heading: str
    body: str


def sweep_section(result: SweepResult, results_dir: Path, level: int = 3) -> SweepSection:
    """Everything that a page shows of a sweep; without JavaScript, the best trial is first.

    Args:
      result: the sweep.
      results_dir: folder of all results, for the commands that come next.
      level: of the headings in it.
    """
    anchor = f"sweep-{result.plan.sweep}"
    heading = f"Sweep {result.plan.sweep}: {', '.join(map(clean, result.titles))}"
    said = (*winner(result), *failures(result), *next_steps(result, results_dir))
    parts = [f"<p>{escape(line)}</p>" for line in said]
    if result.best:
        svg = inline_svg(sweep_picture(result, "svg"), anchor, _words(result))
        parts.append(f"<h{level}>Parallel coordinates</h{level}>{_coordinates(result)}")
        parts.append(f"<h{level}>Response and expected best</h{level}>")
        parts.append(f"{_scroll('Response and expected best')}{svg}</div>")
        parts += _expected(result)
    parts.append(f"<h{level}>Trials</h{level}>{_table(result)}")
    parts += (f'<p class="small">{escape(line)}</p>' for line in meanings(result))
    body = "\n".join(parts)
    return SweepSection(anchor, heading, f'<div class="sweep">\n{body}\n</div>')


def template(name: str) -> str:
    """The text of a file that pages include."""
    return (files("cnnbench.report") / "templates" / name).read_text(encoding="utf-8")


def script() -> str:
    """The script that sorts the tables of sweeps and marks the lines of a trial."""
    return template("sweep.js")


def policy(script: str = "") -> str:
    """The content security policy of a page: it loads nothing, and runs this script at most."""
    rules = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if not script:
        return rules
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{rules}; script-src 'sha256-{digest}'"


def _scroll(name: str) -> str:
    """The start of an element that scrolls sideways on narrow screens."""
    return f'<div class="scroll" role="group" aria-label="{escape(name)}" tabindex="0">'


def _expected(result: SweepResult) -> Iterator[str]:
    """The expected best of k trials as a table."""
    if len(result.trained) < 2:
        return
    header, *rows = expected_grid(result)
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        f"{''.join(f'<td>{escape(text)}</td>' for text in others)}</tr>\n"
        for first, *others in rows
    )
    yield (
        f"<details><summary>Expected best as a table</summary>{_scroll('Expected best')}<table>"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{lines}</tbody></table></div></details>"
    )


def _words(result: SweepResult) -> str:
    return f"{metric_heading(result)} by {' and '.join(result.keys)}, and expected best of k trials"


def _table(result: SweepResult) -> str:
    header, *rows = sweep_grid(result)
    heads = "".join(
        f'<th scope="col"><button type="button">{_breakable(name)}</button></th>' for name in header
    )
    lines = "".join(
        f'<tr data-trial="{_name(result, row)}" tabindex="0">{"".join(_cells(row, texts))}</tr>\n'
        for row, texts in zip(result.shown, rows, strict=True)
    )
    caption = "<caption>Select a heading to sort.</caption>"
    name = f"Trials of sweep {result.plan.sweep}"
    return (
        f'{_scroll(name)}<table class="trials">'
        f"{caption}<thead><tr>{heads}</tr></thead>\n<tbody>{lines}</tbody></table></div>"
    )


def _breakable(name: str) -> str:
    """A name as HTML, which narrow screens break after its parts.

    >>> _breakable("conv1.filters")
    'conv1.<wbr>filters'
    """
    return re.sub(r"([._])", r"\1<wbr>", escape(name))


def _cells(row: SweepRow, texts: Sequence[str]) -> Iterator[str]:
    """Cells with the number or the text that they sort by."""
    place = len(texts) - 3
    keys = [*texts[:place], repr(row.mean), str(len(row.scores)), repr(row.seconds)]
    for text, key in zip(texts, keys, strict=True):
        yield f'<td data-key="{escape(key)}">{escape(text)}</td>'


def _name(result: SweepResult, row: SweepRow) -> str:
    """The trial of an experiment, unique on a page of several sweeps."""
    return f"{result.plan.sweep}-{result.titles.index(row.title) + 1}-{row.number}"


def _coordinates(result: SweepResult) -> str:
    """An axis for each key and for the metric, and a line for each trial that did not diverge."""
    rows = [row for row in reversed(result.ranked) if math.isfinite(row.mean)]
    width = 2 * _SIDE + _STEP * len(result.keys)
    columns = [[row.values[i] for row in rows] for i in range(len(result.keys))]
    shares = [_shares(column) for column in columns]
    means = _numbers([row.mean for row in rows], wide=False)
    lines = []
    for number, row in enumerate(rows):
        heights = [*(own[number] for own in shares), means[number]]
        points = " ".join(f"{_SIDE + i * _STEP:.1f},{_y(h):.1f}" for i, h in enumerate(heights))
        kind = ' class="best"' if row == result.best else ""
        pairs = zip(result.keys, row.values, strict=True)
        said = ", ".join(f"{key} {value}" for key, value in pairs)
        text = escape(f"trial {row.number}: {said}: {score_text(result, row)}")
        lines.append(
            f'<polyline data-trial="{_name(result, row)}"{kind} points="{points}">'
            f"<title>{text}</title></polyline>"
        )
    axes = "".join(
        _axis(_SIDE + i * _STEP, key, _ends(column))
        for i, (key, column) in enumerate(zip(result.keys, columns, strict=True))
    )
    found = sorted(row.mean for row in rows)
    low, high = (metric_text(result.metric, value) for value in (found[0], found[-1]))
    axes += _axis(width - _SIDE, metric_heading(result), (low, high))
    return (
        f"{_scroll('Parallel coordinates')}"
        f'<svg class="coordinates" style="--width: {width}" viewBox="0 0 {width} {_HEIGHT}"'
        f' role="img" aria-label="'
        f'A line for each trial; the best is bold. The table has the same values.">{axes}'
        f"{''.join(lines)}</svg></div>"
    )


def _y(share: float) -> float:
    return _HEIGHT - _TOP - share * (_HEIGHT - 2 * _TOP)


def _axis(x: float, name: str, ends: tuple[str, str]) -> str:
    low, high = _y(0), _y(1)
    middle = f'x="{x:.1f}" text-anchor="middle"'
    return (
        f'<line x1="{x:.1f}" y1="{low}" x2="{x:.1f}" y2="{high}"/>'
        f'<text {middle} y="16" font-weight="600">{escape(clean(name))}</text>'
        f'<text {middle} y="{high - 8}">{escape(clean(ends[1]))}</text>'
        f'<text {middle} y="{low + 18}">{escape(clean(ends[0]))}</text>'
    )


def _ends(values: Sequence[str]) -> tuple[str, str]:
    order = in_order(list(dict.fromkeys(values)))
    return order[0], order[-1]


def _shares(values: Sequence[str]) -> list[float]:
    """Where values lie on their axis, from 0 to 1; texts are spread evenly.

    >>> _shares(["1", "2", "3"]), _shares(["0.01", "0.1", "1"]), _shares(["a", "b"])
    ([0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [0.0, 1.0])
    """
    if all(map(is_number, values)):
        return _numbers([float(value) for value in values], wide=True)
    order = list(dict.fromkeys(values))
    return [order.index(value) / max(1, len(order) - 1) for value in values]


def _numbers(values: Sequence[float], *, wide: bool) -> list[float]:
    low, high = min(values), max(values)
    if wide and low > 0 and high / low >= _WIDE:
        values = [math.log(value) for value in values]
        low, high = math.log(low), math.log(high)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]
