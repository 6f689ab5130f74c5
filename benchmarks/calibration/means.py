"""The tests of two means: false alarms, coverage and power, and those of several runs."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.calibration.tables import ALPHA, figure, generator, rate, section, table
from cnnbench.statistics.estimates import Interval, mean_interval
from cnnbench.statistics.multiple_tests import holm, holm_levels
from cnnbench.statistics.permutation import MeanTest, exchange_test, sign_flip_test
from cnnbench.statistics.studentized import studentized_test
from cnnbench.statistics.welch import welch_interval

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
