"""Verdicts during training: planned looks, tests after every seed, and what they save."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from benchmarks.calibration.tables import ALPHA, figure, generator, rate, section, table
from cnnbench.comparisons.samples import Pairing, Samples
from cnnbench.statistics.estimates import Interval
from cnnbench.statistics.permutation import TIES
from cnnbench.statistics.sequential import (
    MAX_SEEDS,
    PAIRED_LOOKS,
    UNPAIRED_LOOKS,
    e_values,
    thresholds,
)

DrawSeeds = Callable[[np.random.Generator], Any]


class LookRule(NamedTuple):
    """When to judge, and by which p-value.

    Args:
      name: of the rule.
      test: the test over seeds.
      numbers: numbers of seeds at which there is a verdict; empty for the e-process.
      levels: the p-value that decides at each of them.
    """

    name: str
    test: Pairing
    numbers: tuple[int, ...]
    levels: tuple[float, ...]


class Stop(NamedTuple):
    """Where a rule stops.

    Args:
      number: number of seeds of each run.
      decided: True if a difference is found.
      covered: True if the interval of the verdict has the true difference.
    """

    number: int
    decided: bool
    covered: bool


def _planned(test: Pairing, numbers: tuple[int, ...]) -> LookRule:
    levels = thresholds(numbers, ALPHA, paired=test == "paired")
    return LookRule(f"{test}, looks at {', '.join(map(str, numbers))}", test, numbers, levels)


def _naive(test: Pairing, first: int, last: int) -> LookRule:
    numbers = tuple(range(first, last + 1))
    name = f"{test}, p ≤ {ALPHA:g} after every seed from {first} to {last}"
    return LookRule(name, test, numbers, (ALPHA,) * len(numbers))


@lru_cache
def rules() -> tuple[LookRule, ...]:
    """The rules of `--until-decided` and `--anytime`."""
    return (
        _planned("unpaired", UNPAIRED_LOOKS),
        _planned("paired", PAIRED_LOOKS),
        LookRule(f"`--anytime`, up to {MAX_SEEDS} seeds", "paired", (), ()),
    )


def stopped(rule: LookRule, first: Any, second: Any, true: float | None = None) -> Stop:
    """Tests the first seeds of two runs at each look, until one decides.

    Args:
      rule: when to judge.
      first: the values of all seeds of the baseline.
      second: those of the other run.
      true: the true difference; None if the interval is not asked for.
    """
    if not rule.numbers:
        return _anytime(second - first, true)
    for number, level in zip(rule.numbers, rule.levels, strict=True):
        base, arm = (dict(enumerate(values[:number].tolist())) for values in (first, second))
        test = Samples(base, arm, rule.test).compared()
        if decided := test.p <= level * (1 + TIES):
            break
    ends = Interval(-math.inf, math.inf) if true is None else test.interval(1 - level)
    return Stop(number, decided, true is None or ends.low <= true <= ends.high)


def _anytime(differences: Any, true: float | None) -> Stop:
    """A confidence sequence has the differences that no e-value rejects."""
    found = e_values(differences)
    decided = [number for number, e in enumerate(found, start=1) if e >= 1 / ALPHA]
    number = decided[0] if decided else len(found)
    covered = true is None or max(e_values(differences[:number], true)) < 1 / ALPHA
    return Stop(number, bool(decided), covered)


WORLDS: tuple[tuple[str, DrawSeeds], ...] = (
    ("normal", lambda rng: rng.normal(0, 1, (2, MAX_SEEDS))),
    ("heavy tails (t3)", lambda rng: rng.standard_t(3, (2, MAX_SEEDS))),
    ("rounded (many ties)", lambda rng: np.round(rng.normal(0, 1, (2, MAX_SEEDS)))),
)


@section("looks")
def looks(simulations: int) -> str:
    """How often each rule finds a difference at any look where both means are equal."""
    naive = (_naive("unpaired", 4, 10), _naive("paired", 6, 15))
    rows = []
    for rule in (*rules(), *naive):
        cells = []
        for name, draw in WORLDS:
            rng = generator(f"looks {name}")  # the same values for every rule
            found = (stopped(rule, *draw(rng)) for _ in range(simulations))
            cells.append(rate(sum(each.decided for each in found), simulations))
        rows.append([rule.name, *cells])
    return table(["Rule", *(name for name, _ in WORLDS)], rows)


EFFECTS = (0.5, 1.0, 1.5, 2.0)


class Totals(NamedTuple):
    """What a rule does in many simulations: rates of them, and means."""

    decided: int
    seeds: float
    covered: int


@lru_cache
def _sums(simulations: int) -> dict[tuple[int, float], Totals]:
    """Of each rule, by its place, and each difference; the last rule is a single test."""
    found = {}
    for effect in EFFECTS:
        for place, rule in enumerate((*rules(), _single())):
            rng = generator(f"looks-power {effect}")
            stops = [
                stopped(rule, one, other + effect, effect)
                for one, other in rng.normal(0, 1, (simulations, 2, MAX_SEEDS))
            ]
            found[place, effect] = _summed(stops)
    return found


def _single() -> LookRule:
    return LookRule(f"unpaired, one test of {MAX_SEEDS} seeds", "unpaired", (MAX_SEEDS,), (ALPHA,))


def _summed(stops: Sequence[Stop]) -> Totals:
    seeds = sum(each.number for each in stops) / len(stops)
    return Totals(sum(each.decided for each in stops), seeds, sum(each.covered for each in stops))


@section("looks-power")
def looks_power(simulations: int) -> str:
    """How often each rule finds a difference, and with how many seeds of each run."""
    found = _sums(simulations)
    rows = [
        [rule.name, *(_cell(found[place, effect], simulations) for effect in EFFECTS)]
        for place, rule in enumerate((*rules(), _single()))
    ]
    text = table(["Rule", *(f"{effect:g} sd" for effect in EFFECTS)], rows)
    drawn = figure("looks", lambda fig: _draw(fig, found, simulations), _TEXT)
    return f"{text}\n\n{drawn}"


def _cell(sums: Totals, simulations: int) -> str:
    return f"{rate(sums.decided, simulations)}; {sums.seeds:.1f} seeds"


_TEXT = (
    "Left: the share of comparisons that find a difference, against the difference; planned looks"
    " find somewhat fewer than one test of 20 seeds. Right: the mean number of seeds of each run,"
    " which planned looks bring from 20 down to 7 for large differences."
)


def _draw(fig: Any, found: dict[tuple[int, float], Totals], simulations: int) -> None:
    left, right = fig.subplots(1, 2)
    lines = [
        (0, "planned looks", "#0b5cad", "-"),
        (1, "planned looks, paired", "#b3541e", "--"),
        (2, "--anytime", "#4c7a34", ":"),
        (3, "20 seeds, unpaired", "#666666", "-."),
    ]
    for place, label, color, dash in lines:
        sums = [found[place, effect] for effect in EFFECTS]
        shares = [100 * each.decided / simulations for each in sums]
        left.plot(EFFECTS, shares, dash, color=color, label=label)
        right.plot(EFFECTS, [each.seeds for each in sums], dash, color=color, label=label)
    left.set_ylabel("difference found (%)")
    right.set_ylabel("seeds of each run")
    for axes in (left, right):
        axes.set_xlabel("difference / sd of a seed")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, loc="lower right")


@section("looks-coverage")
def looks_coverage(simulations: int) -> str:
    """How often the interval of the verdict covers the difference, wherever training stopped."""
    found = _sums(simulations)
    rows = [
        [rule.name, *(rate(found[place, effect].covered, simulations) for effect in EFFECTS)]
        for place, rule in enumerate(rules())
    ]
    return table(["Rule", *(f"{effect:g} sd" for effect in EFFECTS)], rows)
