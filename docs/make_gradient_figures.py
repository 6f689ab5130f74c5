"""Draw docs/images/gradient_*.svg, figures of docs/explanation/gradient.md, after the post's.

Run ``python docs/make_gradient_figures.py`` after a change; a test checks that the files are up to
date. Each drawing has its own background, light or dark like the reader's system.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "images"
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: var(--ink); text-anchor: middle }
  text.left { text-anchor: start }
  text.sign { font-size: 24px }
  text.small { font-size: 12px; fill: var(--soft) }
  line { stroke: var(--soft); stroke-width: 1.2 }
  line.w0 { stroke: var(--red); stroke-width: 2.2 }
  line.w1 { stroke: var(--green); stroke-width: 2.2 }
  line.w2 { stroke: var(--violet); stroke-width: 2.2 }
  line.cut { stroke-dasharray: 2 5; opacity: .45 }
  line.back { stroke: var(--orange); stroke-width: 2.2; marker-end: url(#tip) }
  rect.card { fill: var(--card) }
  .cell { fill: none; stroke: var(--soft) }
  .blue { fill: var(--blue-fill); stroke: var(--blue) }
  .orange { fill: var(--orange-fill); stroke: var(--orange) }
  .seen { fill: none; stroke: var(--green); stroke-width: 3 }
  svg { --card: #ffffff; --ink: #1f2328; --soft: #6e7781; --red: #b3261e; --green: #1a7f37;
        --violet: #7b3fc4; --blue: #0969da; --blue-fill: #d6e8fc; --orange: #b35900;
        --orange-fill: #ffe3c2 }
  @media (prefers-color-scheme: dark) {
    svg { --card: #161b22; --ink: #e6edf3; --soft: #9aa4af; --red: #ff8f85; --green: #56d364;
          --violet: #c8a4ff; --blue: #6cb6ff; --blue-fill: #143153; --orange: #ffb366;
          --orange-fill: #4d2e0c }
  }
"""
CELL = 44


def picture(width: int, height: int, label: str, parts: Iterable[str]) -> str:
    """A complete SVG file.

    Args:
      width: in pixels.
      height: in pixels.
      label: alternative text.
      parts: its elements.
    """
    tip = '<path d="M0 0L8 4L0 8z" fill="var(--orange)"/>'
    size = 'refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto"'
    size += ' markerUnits="userSpaceOnUse"'
    marker = f'<marker id="tip" {size}>{tip}</marker>'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    )
    body = "\n".join(parts)
    card = f'<rect class="card" width="{width}" height="{height}" rx="10"/>'
    return f"{head}\n<style>{STYLE}</style>\n<defs>{marker}</defs>\n{card}\n{body}\n</svg>\n"


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """A text; `kind` is a class of the style sheet."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> str:
    """A connection."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"/>'


def unit(x: float, y: float, words: str, kind: str, radius: float = 17) -> str:
    """A neuron."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{kind}"/>{text(x, y + 5, words)}'


def fan(words: str, center: tuple[float, float], errors: list[tuple[str, str]]) -> Iterator[str]:
    """Errors in a column that are propagated to one unit, each labeled with its weight."""
    x, y = center
    yield unit(x, y, words, "blue", 24)
    for number, (error, weight) in enumerate(errors):
        from_y = y + 54 * (number - (len(errors) - 1) / 2)
        dx, dy = 140.0, from_y - y
        far = math.hypot(dx, dy)
        along = [(x + dx * part / far, y + dy * part / far) for part in (far - 17, 25, 0.6 * far)]
        yield line(*along[0], *along[1], "back")
        clear = 15 + dy / 10 if dy > 0 else dy / 12 - 11  # below the line, or above it
        yield text(along[2][0], along[2][1] + clear, weight, "small")
        yield unit(x + dx, from_y, error, "orange")


def grid(x: float, y: float, rows: list[list[str]], kinds: list[list[str]]) -> Iterator[str]:
    """A matrix of cells."""
    for i, (row, own) in enumerate(zip(rows, kinds, strict=True)):
        for j, (words, kind) in enumerate(zip(row, own, strict=True)):
            left, top = x + j * CELL, y + i * CELL
            yield f'<rect x="{left:g}" y="{top:g}" width="{CELL}" height="{CELL}" class="{kind}"/>'
            yield text(left + CELL / 2, top + CELL / 2 + 5, words)


def frame(x: float, y: float, rows: int, columns: int) -> str:
    """The window of a kernel."""
    size = f'width="{columns * CELL}" height="{rows * CELL}"'
    return f'<rect x="{x:g}" y="{y:g}" {size} class="seen"/>'


def filled(rows: int, columns: int, kind: str) -> list[list[str]]:
    """The same kind for all cells."""
    return [[kind] * columns for _ in range(rows)]


def sub(name: str, index: str, upper: str = "") -> str:
    """A letter with indices."""
    small = '<tspan font-size="10" dy="{}">{}</tspan>'
    if upper:
        return f"{name}{small.format(-6, upper)}{small.format(10, index)}"
    return f"{name}{small.format(4, index)}"


def mlp_to_convolution() -> str:
    """An MLP's layer; with distant connections removed; with shared weights."""
    parts, titles = [], ("a layer of an MLP", "connections removed", "weights shared")
    for panel, title in enumerate(titles):
        left = 30 + panel * 230
        xs, ys = (left + 30, left + 160), [60 + 44 * i for i in range(5)]
        parts.append(text(left + 95, 30, title))
        for j in range(3):
            for k in range(5):
                tap = k - j
                near = 0 <= tap <= 2
                kind = f"w{tap}" if near and panel == 2 else "" if near or panel == 0 else "cut"
                if near or panel < 2:
                    parts.append(line(xs[0] + 17, ys[k], xs[1] - 17, ys[j + 1], kind))
        parts += [unit(xs[0], ys[k], sub("a", str(k)), "blue") for k in range(5)]
        parts += [unit(xs[1], ys[j + 1], sub("z", str(j)), "orange") for j in range(3)]
    notes = ("15 weights", "9 weights", "3 weights: a kernel")
    parts += [text(125 + 230 * i, 280, note, "small") for i, note in enumerate(notes)]
    parts += [line(532 + 60 * i, 308, 556 + 60 * i, 308, f"w{i}") for i in range(3)]
    parts += [text(564 + 60 * i, 313, sub("w", str(i)), "left") for i in range(3)]
    terms = " + ".join(f"w&#832{i};a&#832{i};" for i in range(3))
    parts.append(text(30, 313, f"z&#8320; = {terms}, and so on down the layer", "left"))
    label = (
        "An MLP's layer becomes a convolution: connections are removed, the others share weights"
    )
    return picture(720, 335, label, parts)


def mlp_errors() -> str:
    """The error of one unit of an MLP: the errors of the next layer times the unit's weights."""
    errors = [(sub("&#948;", str(i), "2"), sub("w", f"{i}1", "2")) for i in range(3)]
    terms = " + ".join(f"&#948;&#178;&#832{i}; w&#178;&#832{i};&#8321;" for i in range(3))
    parts = [
        text(125, 32, "a&#185;&#8321; is part of three sums"),
        *fan(sub("&#948;", "1", "1"), (55, 120), errors),
        text(270, 125, f"&#948;&#185;&#8321; = ({terms}) &#963;&#8242;(z&#185;&#8321;)", "left"),
    ]
    label = "The error of a unit: the errors of the next layer, scaled by the weights between"
    return picture(620, 215, label, parts)


def forward() -> str:
    """The 2x2 outputs of a 2x2 kernel over a 3x3 image, one of them written out."""
    a = [[sub("a", f"{i}{j}") for j in range(3)] for i in range(3)]
    w = [[sub("w", f"{i}{j}") for j in range(2)] for i in range(2)]
    z = [[sub("z", f"{i}{j}") for j in range(2)] for i in range(2)]
    marked = [["orange", "cell"], ["cell", "cell"]]
    parts = [
        text(96, 32, "input of the layer"),
        *grid(30, 50, a, filled(3, 3, "blue")),
        frame(30, 50, 2, 2),
        text(205, 126, "&#8902;", "sign"),
        text(284, 32, "kernel"),
        *grid(240, 72, w, filled(2, 2, "cell")),
        text(360, 122, "="),
        text(440, 32, "valid: 2 x 2 positions"),
        *grid(396, 72, z, marked),
    ]
    terms = " + ".join(f"w[{i},{j}] a[{i},{j}]" for i in range(2) for j in range(2))
    parts.append(text(30, 215, f"z[0,0] = {terms} + b", "left"))
    return picture(560, 240, "A layer with shared weights is a convolution", parts)


def backward() -> str:
    """Errors of the outputs around one value, and the full convolution that collects them."""
    pairs = (("00", "11"), ("01", "10"), ("10", "01"), ("11", "00"))
    errors = [(sub("&#948;", index), sub("w", tap)) for index, tap in pairs]
    parts = [
        text(125, 32, "a[1,1] is part of four sums"),
        *fan(sub("a", "11"), (55, 140), errors),
    ]
    delta = [["0"] * 4 for _ in range(4)]
    kinds = filled(4, 4, "cell")
    for i in range(2):
        for j in range(2):
            delta[i + 1][j + 1] = sub("&#948;", f"{i}{j}")
            kinds[i + 1][j + 1] = "orange"
    turned = [[sub("w", f"{1 - i}{1 - j}") for j in range(2)] for i in range(2)]
    back = [[sub("e", f"{i}{j}") for j in range(3)] for i in range(3)]
    marked = filled(3, 3, "blue")
    parts += [
        text(350, 32, "next layer's &#948;, zero-padded"),
        *grid(262, 50, delta, kinds),
        frame(262 + CELL, 50 + CELL, 2, 2),
        text(457, 147, "&#8902;", "sign"),
        text(516, 32, "ROT180(w)"),
        *grid(472, 94, turned, filled(2, 2, "cell")),
        text(578, 143, "="),
        text(662, 32, "full: errors e of a"),
        *grid(596, 72, back, marked),
        frame(596 + CELL, 72 + CELL, 1, 1),
        text(
            30,
            268,
            "e[1,1] = &#948;[0,0] w[1,1] + &#948;[0,1] w[1,0] + &#948;[1,0] w[0,1]"
            " + &#948;[1,1] w[0,0]; then times &#963;&#8242;(z[1,1])",
            "left",
        ),
    ]
    label = "The error is propagated by a full convolution with the kernel rotated by 180 degrees"
    return picture(760, 290, label, parts)


FIGURES = {
    "gradient_mlp.svg": mlp_to_convolution,
    "gradient_mlp_errors.svg": mlp_errors,
    "gradient_forward.svg": forward,
    "gradient_backward.svg": backward,
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
