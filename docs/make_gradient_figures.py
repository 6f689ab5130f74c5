"""Draws docs/images/gradient_*.svg, the figures of docs/gradient.md, after those of the post.

Run ``python docs/make_gradient_figures.py`` after a change; a test compares the files with what
this would write. Each drawing has a background of its own, light or dark as the reader's system.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "images"
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: var(--ink); text-anchor: middle }
  text.left { text-anchor: start }
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
    """A whole file.

    Args:
      width: in pixels.
      height: in pixels.
      label: what it shows, for those who cannot see it.
      parts: its elements.
    """
    tip = '<path d="M0 0L8 4L0 8z" fill="var(--orange)"/>'
    size = 'refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"'
    marker = f'<marker id="tip" {size}>{tip}</marker>'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    )
    body = "\n".join(parts)
    card = f'<rect class="card" width="{width}" height="{height}" rx="10"/>'
    return f"{head}\n<style>{STYLE}</style>\n<defs>{marker}</defs>\n{card}\n{body}\n</svg>\n"


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words; a kind is a class of the style."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> str:
    """A connection."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"/>'


def unit(x: float, y: float, words: str, kind: str) -> str:
    """A neuron."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="17" class="{kind}"/>{text(x, y + 5, words)}'


def grid(x: float, y: float, rows: list[list[str]], kinds: list[list[str]]) -> Iterator[str]:
    """A matrix as cells."""
    for i, (row, own) in enumerate(zip(rows, kinds, strict=True)):
        for j, (words, kind) in enumerate(zip(row, own, strict=True)):
            left, top = x + j * CELL, y + i * CELL
            yield f'<rect x="{left:g}" y="{top:g}" width="{CELL}" height="{CELL}" class="{kind}"/>'
            yield text(left + CELL / 2, top + CELL / 2 + 5, words)


def frame(x: float, y: float, rows: int, columns: int) -> str:
    """What a kernel sees."""
    size = f'width="{columns * CELL}" height="{rows * CELL}"'
    return f'<rect x="{x:g}" y="{y:g}" {size} class="seen"/>'


def filled(rows: int, columns: int, kind: str) -> list[list[str]]:
    """One kind for all cells."""
    return [[kind] * columns for _ in range(rows)]


def sub(name: str, index: str, upper: str = "") -> str:
    """A letter with indices."""
    small = '<tspan font-size="10" dy="{}">{}</tspan>'
    high = small.format(-6, upper) + small.format(6, "") if upper else ""
    return f"{name}{high}{small.format(4, index)}"


def mlp_to_convolution() -> str:
    """An MLP's layer; its far connections cut; its weights shared."""
    parts, titles = [], ("a layer of an MLP", "connections cut", "weights shared")
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
    label = "An MLP's layer becomes a convolution: connections are cut, the others share weights"
    return picture(720, 335, label, parts)


def forward() -> str:
    """Two by two outputs of a 2x2 kernel over a 3x3 image, one of them on fingers."""
    a = [[sub("a", f"{i}{j}") for j in range(3)] for i in range(3)]
    w = [[sub("w", f"{i}{j}") for j in range(2)] for i in range(2)]
    z = [[sub("z", f"{i}{j}") for j in range(2)] for i in range(2)]
    marked = [["orange", "cell"], ["cell", "cell"]]
    parts = [
        text(96, 32, "what the layer reads"),
        *grid(30, 50, a, filled(3, 3, "blue")),
        frame(30, 50, 2, 2),
        text(205, 122, "&#8727;"),
        text(284, 32, "kernel"),
        *grid(240, 72, w, filled(2, 2, "cell")),
        text(360, 122, "="),
        text(440, 32, "valid: 2 x 2 places"),
        *grid(396, 72, z, marked),
    ]
    terms = " + ".join(f"w[{i},{j}] a[{i},{j}]" for i in range(2) for j in range(2))
    parts.append(text(30, 215, f"z[0,0] = {terms} + b", "left"))
    return picture(560, 240, "A layer with shared weights is a convolution", parts)


def backward() -> str:
    """Errors of the outputs around one value, and the full convolution that collects them."""
    parts = [
        text(120, 32, "forward, a[1,1] is in four sums"),
        unit(50, 140, "a", "blue"),
    ]
    for number, (index, tap) in enumerate((("00", "11"), ("01", "10"), ("10", "01"), ("11", "00"))):
        y = 65 + 50 * number
        parts += [
            line(172, y, 69, 140 + (number - 1.5) * 6, "back"),
            unit(190, y, sub("&#948;", index), "orange"),
            text(118, y + 0.52 * (140 - y) + (-20, -10, 18, 26)[number], sub("w", tap), "small"),
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
        text(350, 32, "errors &#948; of z, zeros around"),
        *grid(262, 50, delta, kinds),
        frame(262 + CELL, 50 + CELL, 2, 2),
        text(457, 143, "&#8727;"),
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
            " + &#948;[1,1] w[0,0], then times &#963;&#8242;(z[1,1])",
            "left",
        ),
    ]
    label = "The error flows back as a full convolution with the kernel rotated by 180 degrees"
    return picture(760, 290, label, parts)


FIGURES = {
    "gradient_mlp.svg": mlp_to_convolution,
    "gradient_forward.svg": forward,
    "gradient_backward.svg": backward,
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
