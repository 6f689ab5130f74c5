"""False alarms, coverage and power by simulation: `python -m benchmarks.calibration`.

Writes the tables of docs/explanation/statistics.md, between `<!-- calibration: NAME -->` and
`<!-- end -->`, and the figures that they show. Every rate has Wilson's 95% interval.

To add a table, write a function here or in a module that `_sections` imports, and register it:

    @section("until-decided")
    def until_decided(simulations: int) -> str:
        rng = generator("until-decided")
        alarms = sum(... for _ in range(simulations))
        return table(["Look", "False alarms"], [["6 seeds", rate(alarms, simulations)]])

Then put its two markers into the page, and run `python -m benchmarks.calibration until-decided`.
A function returns Markdown: a table, or several, or a figure that it saved by `figure`. A test
(tests/benchmarks/test_calibration.py) runs every function with a few simulations.
"""

import argparse
import csv
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from cnnbench.statistics.estimates import Interval, mean_interval
from cnnbench.statistics.improvement import improvement
from cnnbench.statistics.meta import hartung_knapp, paired_effect, pool
from cnnbench.statistics.multiple_tests import holm, holm_levels
from cnnbench.statistics.permutation import MeanTest, exchange_test, sign_flip_test
from cnnbench.statistics.studentized import studentized_test
from cnnbench.statistics.welch import welch_interval

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "statistics.md"
FIGURES = ROOT / "docs" / "images"
MEASURED = Path(__file__).parent / "results" / "seeds_mnist_5k.csv"
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


# What is simulated: the values of two runs, with equal means.


class World(NamedTuple):
    """A distribution of the values of equal seeds of two runs; both means are equal."""

    name: str
    draw: Callable[[np.random.Generator, int], Any]


def _normal(first: float, second: float, correlation: float = 0.0) -> Any:
    covariance = correlation * first * second
    matrix = [[first**2, covariance], [covariance, second**2]]
    return lambda rng, n: rng.multivariate_normal([0, 0], matrix, n, method="cholesky").T


def _accuracies(rng: np.random.Generator, n: int) -> Any:
    """Of 500 images, with two thirds of the spread from the training: many ties."""
    means = np.clip(rng.normal(0.98, 0.004, (2, n)), 0, 1)
    return rng.binomial(500, means) / 500


WORLDS = (
    World("normal", _normal(1, 1)),
    World("spreads 1 : 3", _normal(1, 3)),
    World("pairs correlate 0.5", _normal(1, 1, 0.5)),
    World("heavy tails (t3)", lambda rng, n: rng.standard_t(3, (2, n))),
    World("skewed (exponential)", lambda rng, n: rng.exponential(1, (2, n))),
    World("accuracies of 500 images", _accuracies),
)
NUMBERS = (4, 6, 8)


def unpaired(first: Any, second: Any) -> MeanTest:
    """The unpaired test."""
    return (exchange_test if len(first) == len(second) else studentized_test)(first, second)


def paired(first: Any, second: Any) -> MeanTest:
    """The paired test."""
    return sign_flip_test(second - first)


class Method(NamedTuple):
    """A test and its interval.

    Args:
      name: of the test.
      least: fewest seeds of each run.
      evidence: p-value and 95% interval of two samples.
    """

    name: str
    least: int
    evidence: Callable[[Any, Any], tuple[float, Interval | None]]


def _permutation(
    make: Callable[[Any, Any], MeanTest],
) -> Callable[[Any, Any], tuple[float, Interval | None]]:
    def evidence(first: Any, second: Any) -> tuple[float, Interval | None]:
        test = make(first, second)
        return test.p, test.interval(1 - ALPHA)

    return evidence


def _welch(first: Any, second: Any) -> tuple[float, Interval | None]:
    ends = welch_interval(first, second, 1 - ALPHA)
    return _p_of(ends), ends


def _student(first: Any, second: Any) -> tuple[float, Interval | None]:
    ends = mean_interval(second - first, 1 - ALPHA)
    return _p_of(ends), ends


def _p_of(ends: Interval | None) -> float:
    """A t interval that excludes zero belongs to a p below alpha."""
    return 1.0 if ends is None or ends.low <= 0 <= ends.high else 0.0


METHODS = (
    Method("unpaired permutation test", 4, _permutation(unpaired)),
    Method("sign-flip test of pairs", 6, _permutation(paired)),
    Method("Welch's t", 2, _welch),
    Method("Student's t of pairs", 2, _student),
)


@section("false-alarms")
def false_alarms(simulations: int) -> str:
    """How often each test finds a difference at 5% where both means are equal."""
    return _by_world(simulations, 0)


@section("coverage")
def coverage(simulations: int) -> str:
    """How often each 95% interval covers the difference of the means, which is 0.01."""
    return _by_world(simulations, 1)


def _by_world(simulations: int, which: int) -> str:
    rows = []
    for world, number in itertools.product(WORLDS, NUMBERS):
        counts = _alarms_and_hits(simulations, world, number)
        cells = [
            rate(count[which], simulations) if number >= method.least else "cannot"
            for method, count in zip(METHODS, counts, strict=True)
        ]
        rows.append([world.name, str(number), *cells])
    return table(["Values", "Seeds", *(method.name for method in METHODS)], rows)


@lru_cache
def _alarms_and_hits(simulations: int, world: World, number: int) -> list[tuple[int, int]]:
    """False alarms of each method, and how many of its intervals cover a difference of 0.01."""
    rng = generator(f"{world.name} {number}")
    counts = [[0, 0] for _ in METHODS]
    for _ in range(simulations):
        first, second = world.draw(rng, number)
        for count, method in zip(counts, METHODS, strict=True):
            if number >= method.least:
                p, _ = method.evidence(first, second)
                _, ends = method.evidence(first, second + 0.01)
                count[0] += p <= ALPHA * (1 + 1e-9)
                count[1] += ends is not None and ends.low <= 0.01 <= ends.high
    return [(alarms, hits) for alarms, hits in counts]


@section("unequal-numbers")
def unequal_numbers(simulations: int) -> str:
    """False alarms of the studentized test of different numbers of seeds."""
    rng, rows = generator("unequal-numbers"), []
    for (n, m), spread in itertools.product([(4, 6), (4, 12)], [1 / 3, 1.0, 3.0]):
        values = [(rng.normal(0, spread, n), rng.normal(0, 1, m)) for _ in range(simulations)]
        found = [unpaired(*pair) for pair in values]
        alarms = sum(test.p <= ALPHA for test in found)
        plain = sum(stats.ttest_ind(*pair).pvalue <= ALPHA for pair in values)
        rows.append([f"{n} and {m}", f"{spread:.2g} : 1", rate(alarms, simulations)])
        rows[-1].append(rate(plain, simulations))
    header = ["Seeds", "Spreads", "studentized permutation test", "Student's t (equal variances)"]
    return table(header, rows)


DIFFERENCES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
CORRELATIONS = (0.0, 0.3, 0.5)
SIZES = (4, 5, 6, 8)


@section("power")
def power(simulations: int) -> str:
    """How often a difference is found: the tests side by side, by number of seeds."""
    found = dict(_powers(simulations))
    rows = []
    for correlation, d in itertools.product(CORRELATIONS, (1.0, 1.5, 2.0)):
        cells = [
            " / ".join(f"{found[correlation, n, d][test]:.0%}" for test in (0, 1)) for n in SIZES
        ]
        rows.append([f"{correlation:g}", f"{d:g}", *cells])
    header = ["Correlation of pairs", "Difference", *(f"{n} seeds" for n in SIZES)]
    drawn = figure("power", lambda fig: _draw_power(fig, found), _POWER_TEXT)
    return f"{table(header, rows)}\n\n{drawn}"


_POWER_TEXT = (
    "Power of both tests against the difference, for 4, 6 and 8 seeds without correlation of"
    " pairs. With 4 seeds only the unpaired test can find anything; with 6 and 8 seeds it finds"
    " more than the sign-flip test."
)


def _powers(
    simulations: int,
) -> Iterator[tuple[tuple[float, int, float], tuple[float, float]]]:
    rng = generator("power")
    for correlation, n, d in itertools.product(CORRELATIONS, SIZES, DIFFERENCES):
        if correlation and d not in {1.0, 1.5, 2.0}:
            continue
        draw, counts = _normal(1, 1, correlation), [0, 0]
        for _ in range(simulations):
            first, second = draw(rng, n)
            tests = (unpaired(first, second + d), paired(first, second + d))
            counts = [c + (test.p <= ALPHA) for c, test in zip(counts, tests, strict=True)]
        yield (correlation, n, d), (counts[0] / simulations, counts[1] / simulations)


def _draw_power(fig: Any, found: Mapping[Any, Sequence[float]]) -> None:
    axes = fig.subplots(1, 3, sharey=True)
    for axis, n in zip(axes, (4, 6, 8), strict=True):
        for test, (label, color, dash) in enumerate(
            [("unpaired", "#0b5cad", "-"), ("paired", "#b3541e", "--")]
        ):
            values = [100 * found[0.0, n, d][test] for d in DIFFERENCES]
            axis.plot(DIFFERENCES, values, dash, color=color, label=label)
        axis.set_title(f"{n} seeds", fontsize=9)
        axis.set_xlabel("difference / sd of a seed")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("power (%)")
    axes[0].legend(frameon=False, loc="upper left")


@section("several-runs")
def several_runs(simulations: int) -> str:
    """Holm's procedure with unpaired tests of three runs against a baseline, 6 seeds each."""
    rng, rows = generator("several-runs"), []
    for effects in ((0, 0, 0), (0, 0, 3), (0, 1, 3), (1, 1, 1), (6, 6, 6)):
        wrong, every, each = 0, 0, 0
        for _ in range(simulations):
            base, *others = rng.normal(0, 1, (4, 6))
            tests = [unpaired(base, o + e) for o, e in zip(others, effects, strict=True)]
            p_values = [test.p for test in tests]
            levels = holm_levels(p_values, ALPHA)
            ends = [test.interval(1 - a) for test, a in zip(tests, levels, strict=True)]
            hits = [end.low <= e <= end.high for end, e in zip(ends, effects, strict=True)]
            adjusted = zip(holm(p_values), effects, strict=True)
            wrong += any(p <= ALPHA and e == 0 for p, e in adjusted)
            every, each = every + all(hits), each + sum(hits)
        alarms = rate(wrong, simulations) if 0 in effects else "none possible"
        name = ", ".join(map(str, effects))
        rows.append([name, alarms, rate(each, 3 * simulations), rate(every, simulations)])
    header = ["Differences / sd", "Any false alarm", "An interval covers", "All three cover"]
    return table(header, rows)


# What was measured: seeds 0, 1, 2, ... of four networks.


def measured() -> dict[tuple[str, int, str], Any]:
    """The values over seeds, by network, epoch and metric."""
    with MEASURED.open() as file:
        lines = list(csv.DictReader(file))
    found: dict[tuple[str, int, str], list[float]] = {}
    for line in lines:
        for metric in ("accuracy", "loss"):
            key = line["network"], int(line["epoch"]), metric
            found.setdefault(key, []).append(float(line[metric]))
    return {key: np.array(values) for key, values in found.items()}


def _measured_pairs(metric: str) -> Iterator[tuple[str, int, Any, Any]]:
    values = measured()
    names = list(dict.fromkeys(name for name, _, _ in values))
    epochs = sorted({epoch for _, epoch, _ in values})
    for one, other in itertools.combinations(names, 2):
        for epoch in epochs:
            yield f"{one}, {other}", epoch, values[one, epoch, metric], values[other, epoch, metric]


@section("correlations")
def correlations(_: int) -> str:
    """The correlation of equal seeds of two networks, by epoch."""
    rows: dict[tuple[str, str], list[str]] = {}
    for metric in ("accuracy", "loss"):
        for names, _epoch, first, second in _measured_pairs(metric):
            rows.setdefault((names, metric), []).append(f"{np.corrcoef(first, second)[0, 1]:.2f}")
    epochs = sorted({epoch for _, epoch, _ in measured()})
    header = ["Networks", "Metric", *(f"epoch {epoch}" for epoch in epochs)]
    return table(header, [[*names, *cells] for names, cells in rows.items()])


@section("spreads")
def spreads(_: int) -> str:
    """The standard deviation over seeds of each network, by epoch."""
    rows: dict[tuple[str, str], list[str]] = {}
    for (network, _epoch, metric), values in sorted(measured().items(), key=lambda e: e[0][1]):
        scale, unit = (100, " points") if metric == "accuracy" else (1, "")
        text = f"{scale * np.std(values, ddof=1):.3g}{unit}"
        rows.setdefault((network, metric), []).append(text)
    epochs = sorted({epoch for _, epoch, _ in measured()})
    header = ["Network", "Metric", *(f"epoch {epoch}" for epoch in epochs)]
    return table(header, [[*names, *cells] for names, cells in sorted(rows.items())])


@section("measured-power")
def measured_power(simulations: int) -> str:
    """Power of both tests for measured values with an added difference."""
    rng, rows = generator("measured-power"), []
    for metric, d in itertools.product(("accuracy", "loss"), (0.0, 1.0, 1.5, 2.0)):
        pairs = [(a, b) for _, _, a, b in _measured_pairs(metric)]
        cells = []
        for n in (4, 6, 8):
            counts, drawn = [0, 0], 0
            for first, second in itertools.islice(itertools.cycle(pairs), simulations):
                seeds = rng.choice(len(first), n, replace=False)
                spread = np.sqrt((np.var(first, ddof=1) + np.var(second, ddof=1)) / 2)
                a = (first - first.mean())[seeds]
                b = (second - second.mean() + d * spread)[seeds]
                tests = (unpaired(a, b), paired(a, b))
                counts = [
                    c + (t.p <= ALPHA * (1 + 1e-9)) for c, t in zip(counts, tests, strict=True)
                ]
                drawn += 1
            cells.append(" / ".join(f"{count / drawn:.1%}" for count in counts))
        rows.append([metric, f"{d:g}", *cells])
    return table(["Metric", "Difference / sd", "4 seeds", "6 seeds", "8 seeds"], rows)


@section("datasets")
def datasets(simulations: int) -> str:
    """Coverage of the mean over datasets: over these, over others, and by Hartung and Knapp."""
    rng, rows = generator("datasets"), []
    for number in (3, 5, 10):
        for tau, unequal in ((0.0, 0.0), (0.5, 1.0), (2.0, 0.5)):
            hits = [0, 0, 0]
            for _ in range(simulations):
                truth, spread = rng.normal(0, tau, number), np.exp(rng.normal(0, unequal, number))
                seeds = truth[:, None] + spread[:, None] * rng.normal(0, 1, (number, 6))
                effects = [paired_effect([float(v) for v in row]) for row in seeds]
                found = pool(effects)
                ends = (found.these, found.others, hartung_knapp(effects)[1])
                for place, (each, true) in enumerate(zip(ends, (truth.mean(), 0, 0), strict=True)):
                    hits[place] += each is not None and each.low <= true <= each.high
            world = f"{tau:g}, {'unequal' if unequal else 'equal'}"
            rows.append([str(number), world, *(rate(hit, simulations) for hit in hits)])
    head = ["Datasets", "Deviation between datasets, spread of the seeds", "These datasets"]
    return table([*head, "Datasets like these", "Hartung and Knapp"], rows)


@section("over")
def over(simulations: int) -> str:
    """False alarms of verdicts at several values of a key, adjusted and not."""
    rng, rows = generator("over"), []
    for values in (3, 5):
        raw = adjusted = 0
        for _ in range(simulations):
            p = [unpaired(*point).p for point in rng.normal(0, 1, (values, 2, 8))]
            raw += min(p) <= ALPHA
            adjusted += min(holm(p)) <= ALPHA
        rows.append([str(values), rate(adjusted, simulations), rate(raw, simulations)])
    return table(["Values", "Adjusted (`--over`)", "Not adjusted"], rows)


@section("improvement")
def improvements(simulations: int) -> str:
    """Coverage of the interval of the probability of improvement."""
    rng, rows = generator("improvement"), []
    for number in (4, 6, 10):
        cells = []
        for shift in (0.0, 1.0, 2.0):
            truth, hits = float(stats.norm.cdf(shift / 2**0.5)), 0
            for _ in range(simulations):
                base, other = rng.normal(0, 1, number), rng.normal(shift, 1, number)
                found = improvement([float(v) for v in base], [float(v) for v in other])
                ends = found.interval if found else None
                hits += ends is not None and ends.low <= truth <= ends.high
            cells.append(rate(hits, simulations))
        rows.append([str(number), *cells])
    return table(["Seeds of each", "P = 50%", "P = 76%", "P = 92%"], rows)


def _sections() -> Mapping[str, TableMaker]:
    """All sections; modules with sections of their own are imported here."""
    return SECTIONS


def rendered(page: str, name: str, text: str) -> str:
    r"""The page with a new table between the markers of a name.

    >>> rendered("<!-- calibration: a -->\nold\n<!-- end -->", "a", "new")
    '<!-- calibration: a -->\n\nnew\n\n<!-- end -->'
    """

    def new(found: re.Match[str]) -> str:
        return f"{found[1]}\n{text}\n\n{found[3]}" if found[2] == name else found[0]

    return _MARKED.sub(new, page)


def main() -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="tables; default: all")
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, metavar="N")
    given = parser.parse_args()
    known = _sections()
    if unknown := set(given.names) - set(known):
        parser.error(f"no table named {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    for name in given.names or list(known):  # written one by one: all of them take minutes
        text = known[name](given.simulations)
        PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")


if __name__ == "__main__":
    main()
