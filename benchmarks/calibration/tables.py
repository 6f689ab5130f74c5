"""Tables of rates, and the page that shows them."""

import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "statistics.md"
FIGURES = ROOT / "docs" / "images"
SIMULATIONS = 2000
ALPHA = 0.05

_MARKED = re.compile(r"(<!-- calibration: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

TableMaker = Callable[[int], str]
SECTIONS: dict[str, TableMaker] = {}


def section(name: str) -> Callable[[TableMaker], TableMaker]:
    """Registers a function from a number of simulations to Markdown.

    Args:
      name: its name in the markers of the page.
    """

    def register(function: TableMaker) -> TableMaker:
        SECTIONS[name] = function
        return function

    return register


def generator(name: str) -> np.random.Generator:
    """Random numbers that are the same in every run and different in every section."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def rate(count: int, number: int) -> str:
    """A rate in percent, with its 95% interval.

    References:
      Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    >>> rate(100, 2000)
    '5.0% (4.1 to 6.0)'
    """
    found = stats.binomtest(int(count), number).proportion_ci(method="wilson")
    return f"{100 * count / number:.1f}% ({100 * found.low:.1f} to {100 * found.high:.1f})"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the columns but the first are aligned to the right."""
    head = list(header)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|", *lines])


def figure(name: str, draw: Callable[[Any], None], alternative: str, size: Any = (7, 2.6)) -> str:
    """Saves a figure in docs/images, and returns it as Markdown.

    Args:
      name: of the file, without its ending.
      draw: draws on a figure of Matplotlib.
      alternative: text for those who do not see it.
      size: in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {"font.size": 9, "svg.hashsalt": name, "svg.fonttype": "none"}
    with mpl.rc_context(style):
        drawn = Figure(figsize=size, layout="constrained")
        draw(drawn)
        drawn.savefig(FIGURES / f"{name}.svg", metadata={"Date": None, "Creator": None})
    return f"![{alternative}](../images/{name}.svg)"


def rendered(page: str, name: str, text: str) -> str:
    r"""The page with a new table between the markers of a name.

    >>> rendered("<!-- calibration: a -->\nold\n<!-- end -->", "a", "new")
    '<!-- calibration: a -->\n\nnew\n\n<!-- end -->'
    """

    def new(found: re.Match[str]) -> str:
        return f"{found[1]}\n{text}\n\n{found[3]}" if found[2] == name else found[0]

    return _MARKED.sub(new, page)
