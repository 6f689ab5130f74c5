"""A sweep as a self-contained HTML page: a table to sort, parallel coordinates, and pictures."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from cnnbench.comparisons.sweeps.results import SweepResult, SweepRow
from cnnbench.formatting import clean, is_number
from cnnbench.report.plots.svg import inline_svg
from cnnbench.report.sweeps.picture import sweep_picture
from cnnbench.report.sweeps.table import best_label, metric_heading, notes, score_text, sweep_grid
from cnnbench.runs.over import in_order
from cnnbench.spec.metrics import metric_text

_WIDTH, _HEIGHT, _TOP, _SIDE = 900, 340, 40, 70  # of the parallel coordinates
_WIDE = 30.0  # ratio of the largest value to the smallest, from which an axis is logarithmic

_STYLE = """
.coordinates { width: 100%; max-width: 60rem; height: auto; }
.coordinates polyline { fill: none; stroke: var(--series-0); stroke-width: 1.5; opacity: .45; }
.coordinates polyline.best { stroke: var(--series-1); stroke-width: 3; opacity: 1; }
.coordinates polyline.on { stroke: var(--ink); stroke-width: 3.5; opacity: 1; }
.coordinates line { stroke: var(--soft); } .coordinates text { fill: var(--ink); font-size: 12px; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: .2rem; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
tr.on td { background: var(--right); }
td, th { padding: .25rem .6rem; text-align: right; }
"""
_SCRIPT = """
const table = document.getElementById('trials');
const body = table.tBodies[0];
for (const button of table.querySelectorAll('th button')) {
  button.addEventListener('click', () => {
    const head = button.parentElement, place = head.cellIndex;
    const down = head.getAttribute('aria-sort') !== 'ascending';
    for (const other of head.parentElement.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'ascending' : 'descending');
    const key = row => row.cells[place].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)], [p, q] = [Number(x), Number(y)];
      if (Number.isNaN(p) !== Number.isNaN(q)) return Number.isNaN(p) ? 1 : -1;
      const order = Number.isNaN(p) ? x.localeCompare(y) : p - q;
      return down ? order : -order;
    });
    body.append(...rows);
  });
}
const mark = (id, on) => {
  for (const each of document.querySelectorAll(`[data-trial="${id}"]`))
    each.classList.toggle('on', on);
};
for (const each of document.querySelectorAll('[data-trial]')) {
  for (const kind of ['mouseenter', 'focus']) {
    each.addEventListener(kind, () => mark(each.dataset.trial, true));
  }
  for (const kind of ['mouseleave', 'blur']) {
    each.addEventListener(kind, () => mark(each.dataset.trial, false));
  }
}
"""


def sweep_page(result: SweepResult) -> str:
    """Renders a page, which needs no network; without JavaScript it shows the best trial first."""
    css = files("cnnbench.report.templates").joinpath("report.css").read_text("utf-8")
    title = escape(f"Sweep {result.plan.sweep}: {', '.join(map(clean, result.titles))}")
    parts = [f"<h1>{title}</h1>"]
    if best := result.best:
        number, value = len(result.trained), escape(score_text(result, best))
        parts.append(f"<p>Best of {number}: {escape(best_label(result))}, {value}.</p>")
        parts.append("<h2>Parallel coordinates</h2>" + _coordinates(result))
        svg = inline_svg(sweep_picture(result, "svg"), "sweep", _words(result))
        parts.append(f"<h2>Response and expected best</h2>{svg}")
    parts.append("<h2>Trials</h2>" + _table(result))
    parts += (f'<p class="small">{escape(line)}</p>' for line in notes(result))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>'
        '\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{css}{_STYLE}</style>\n</head>\n"
        f'<body><main class="page">\n{chr(10).join(parts)}\n</main>\n'
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _words(result: SweepResult) -> str:
    return f"{metric_heading(result)} by {' and '.join(result.keys)}, and expected best of k trials"


def _table(result: SweepResult) -> str:
    header, *rows = sweep_grid(result)
    heads = "".join(
        f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in header
    )
    lines = "".join(
        f'<tr data-trial="{_name(row)}" tabindex="0">{"".join(_cells(row, texts))}</tr>\n'
        for row, texts in zip(result.shown, rows, strict=True)
    )
    caption = "<caption>Select a heading to sort.</caption>"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Trials"><table id="trials">'
        f"{caption}<thead><tr>{heads}</tr></thead>\n<tbody>{lines}</tbody></table></div>"
    )


def _cells(row: SweepRow, texts: Sequence[str]) -> Iterator[str]:
    """Cells with the number or the text that they sort by."""
    place = len(texts) - 3
    keys = [*texts[:place], repr(row.mean), str(len(row.scores)), repr(row.seconds)]
    for text, key in zip(texts, keys, strict=True):
        yield f'<td data-key="{escape(key)}">{escape(text)}</td>'


def _name(row: SweepRow) -> str:
    return f"{row.number}-{escape(row.title)}"


def _coordinates(result: SweepResult) -> str:
    """An axis for each key and for the metric, and a line for each trial that did not diverge."""
    rows = [row for row in reversed(result.ranked) if math.isfinite(row.mean)]
    step = (_WIDTH - 2 * _SIDE) / len(result.keys)
    columns = [[row.values[i] for row in rows] for i in range(len(result.keys))]
    shares = [_shares(column) for column in columns]
    means = _numbers([row.mean for row in rows], wide=False)
    lines = []
    for number, row in enumerate(rows):
        heights = [*(own[number] for own in shares), means[number]]
        points = " ".join(f"{_SIDE + i * step:.1f},{_y(h):.1f}" for i, h in enumerate(heights))
        kind = ' class="best"' if row == result.best else ""
        pairs = zip(result.keys, row.values, strict=True)
        said = ", ".join(f"{key} {value}" for key, value in pairs)
        text = escape(f"trial {row.number}: {said}: {score_text(result, row)}")
        lines.append(
            f'<polyline data-trial="{_name(row)}"{kind} points="{points}"><title>{text}</title>'
            "</polyline>"
        )
    axes = "".join(
        _axis(_SIDE + i * step, key, _ends(column))
        for i, (key, column) in enumerate(zip(result.keys, columns, strict=True))
    )
    found = sorted(row.mean for row in rows)
    low, high = (metric_text(result.metric, value) for value in (found[0], found[-1]))
    axes += _axis(_WIDTH - _SIDE, metric_heading(result), (low, high))
    return (
        f'<svg class="coordinates" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="'
        f'A line for each trial; the best is bold. The table has the same values.">{axes}'
        f"{''.join(lines)}</svg>"
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
