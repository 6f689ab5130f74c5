"""Verdicts: statistics against SciPy and by simulation, and the exact sentences."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from cnnbench.comparisons.samples import Pairing
from cnnbench.comparisons.thresholds import Threshold, check_threshold
from cnnbench.comparisons.verdict import ANY, Arm, Criteria, Effect, Finding, Verdict, judge
from cnnbench.comparisons.verdict_text import (
    fields,
    how_lines,
    interval_text,
    parse_effect,
    sentence,
)
from cnnbench.errors import UsageError
from cnnbench.statistics.estimates import Interval

SIMULATIONS = 2000

# Simulations.


def samples(values: Any) -> list[Arm]:
    """One run per row of values, by seed."""
    return [
        Arm((f"Run {i}", f"run{i}", f"run{i}/id"), dict(enumerate(map(float, row))), {0: 1.0})
        for i, row in enumerate(values)
    ]


PAIRED = Criteria(test="paired")


def found(values: Any, criteria: Criteria = PAIRED) -> list[Verdict]:
    return list(judge(samples(values), "accuracy", criteria, higher=True))


def within_error(count: int, share: float) -> bool:
    """Within three standard errors of a binomial proportion."""
    return abs(count / SIMULATIONS - share) <= 3 * math.sqrt(share * (1 - share) / SIMULATIONS)


@pytest.mark.parametrize(
    ("test", "num_seeds", "alpha", "attained"),
    [
        ("paired", 6, 1 / 32, 1 / 32),
        ("paired", 8, 0.05, 12 / 256),
        ("unpaired", 4, 0.05, 2 / 70),
        ("unpaired", 5, 0.05, 12 / 252),
        ("unpaired", 6, 0.01, 8 / 924),
    ],
)
@pytest.mark.sampled(1)
def test_false_positive_rate_is_alpha(
    test: Pairing, num_seeds: int, alpha: float, attained: float
) -> None:
    """Two runs that differ by chance only; if paired, seeds vary more than runs."""
    rng = np.random.default_rng(num_seeds)
    alarms = 0
    for _ in range(SIMULATIONS):
        common = rng.normal(0.98, 0.01, num_seeds) if test == "paired" else 0.98
        values = common + rng.normal(0, 0.002, (2, num_seeds))
        (verdict,) = found(values, Criteria(alpha=alpha, test=test))
        assert verdict.p is not None
        alarms += verdict.p <= alpha
        alarm = {Finding.BETTER, Finding.WORSE}
        assert verdict.finding in (alarm if verdict.p <= alpha else {Finding.NONE})
    assert within_error(alarms, attained)


@pytest.mark.parametrize("test", ["paired", "unpaired"])
@pytest.mark.sampled(1)
def test_intervals_have_their_nominal_coverage(test: Pairing) -> None:
    """Spreads differ, and with pairs of the same seeds also the values correlate."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(SIMULATIONS):
        values = np.stack([rng.normal(0.97, 0.003, 7), rng.normal(0.975, 0.004, 7)])
        interval = found(values, Criteria(alpha=0.1, test=test))[0].interval
        assert interval is not None
        hits += interval.low <= 0.005 <= interval.high
    exact = 1 - (12 / 128 if test == "paired" else 342 / 3432)
    assert within_error(hits, exact)


@pytest.mark.slow
def test_holm_controls_the_family_wise_error_rate() -> None:
    rng = np.random.default_rng(1)
    alarms = sum(
        any(v.finding is not Finding.NONE for v in found(rng.normal(0, 1, (4, 7)), Criteria()))
        for _ in range(SIMULATIONS)
    )
    assert alarms / SIMULATIONS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)
    assert alarms > 0


def test_each_interval_of_several_covers_its_difference() -> None:
    """At the levels of Holm's procedure, which depend on the values."""
    rng, truth = np.random.default_rng(3), np.array([0.0, 0.0, 1.0, 3.0])
    hits = np.zeros(3)
    for _ in range(SIMULATIONS // 2):
        verdicts = found(rng.normal(truth[:, None], 1, (4, 6)), Criteria())
        ends = [v.interval for v in verdicts if v.interval]
        hits += [e.low <= t <= e.high for e, t in zip(ends, truth[1:], strict=True)]
    assert min(hits) / (SIMULATIONS // 2) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 * 2 / SIMULATIONS)


@pytest.mark.parametrize("test", ["paired", "unpaired"])
def test_power_grows_with_seeds(test: Pairing) -> None:
    rng = np.random.default_rng(3)
    powers = []
    for num_seeds in (6, 7, 8, 10):
        shifted = rng.normal(0, 1, (300, 2, num_seeds))
        shifted[:, 1] += 1.2
        results = [found(values, Criteria(test=test))[0].finding for values in shifted]
        assert Finding.FEW not in results
        powers.append(results.count(Finding.BETTER))
    assert powers == sorted(powers)
    assert powers[-1] > 1.3 * powers[0] > 0


# The interval and the finding never contradict p.


@given(
    st.lists(
        st.lists(st.integers(470, 500).map(lambda n: n / 500), min_size=7, max_size=7),
        min_size=2,
        max_size=4,
    ),
    st.sampled_from([0.05, 0.1, 0.3]),
    st.sampled_from(["paired", "unpaired"]),
)
def test_an_interval_excludes_zero_if_and_only_if_p_is_at_most_alpha(
    values: list[list[float]], alpha: float, test: Pairing
) -> None:
    for verdict in found(values, Criteria(alpha=alpha, test=test)):
        if verdict.p is None:
            assert verdict.finding is Finding.FEW
            continue
        assert verdict.interval is not None
        excluded = not verdict.interval.low <= 0 <= verdict.interval.high
        assert excluded == (verdict.p <= alpha * (1 + 1e-9))
        assert excluded == (verdict.finding in {Finding.BETTER, Finding.WORSE})
        assert verdict.interval.low <= verdict.difference <= verdict.interval.high
        assert 1 - alpha - 1e-9 <= verdict.level < 1


# Findings.

LIFT = [0.004, 0.006, 0.005, 0.007, 0.003, 0.005]
BASE = [0.970, 0.972, 0.968, 0.971, 0.969, 0.973]


def pair(differences: Sequence[float], base: Sequence[float] = BASE) -> list[list[float]]:
    own = [a + d for a, d in zip(base, differences, strict=False)]
    return [list(base), own]


@pytest.mark.parametrize(
    ("differences", "criteria", "finding"),
    [
        (LIFT, Criteria(), Finding.BETTER),
        ([-d for d in LIFT], Criteria(), Finding.WORSE),
        (LIFT, Criteria(min_effect=Effect(0.01)), Finding.NOISE),
        ([0.004, -0.006, 0.005, -0.002, 0.003, 0.001], Criteria(), Finding.NONE),
        (
            [0.004, -0.006, 0.005, -0.002, 0.003, 0.001],
            Criteria(min_effect=Effect(0.01)),
            Finding.NOISE,
        ),  # p is large, but the interval is within the noise threshold
        (LIFT, Criteria(min_effect=Effect(0.0029)), Finding.BETTER),
        (LIFT, Criteria(min_effect=Effect(0.0031)), Finding.NOISE),
        (LIFT, Criteria(min_effect=Effect(0.01, "relative")), Finding.NOISE),
        (LIFT, Criteria(min_effect=Effect(0.003, "relative")), Finding.BETTER),
        ([0.004, -0.006, 0.005, -0.007, 0.003, 0.001], Criteria(), Finding.NONE),
        ([0.0] * 6, Criteria(), Finding.NONE),
        (LIFT[:5], Criteria(), Finding.FEW),
        (LIFT, Criteria(alpha=0.01), Finding.FEW),
        (LIFT[:1], Criteria(), Finding.FEW),
        ([], Criteria(), Finding.FEW),
        ([math.nan, *LIFT], Criteria(), Finding.DIVERGED),
        ([-math.inf], Criteria(), Finding.DIVERGED),
    ],
)
def test_finding(differences: list[float], criteria: Criteria, finding: Finding) -> None:
    base = BASE if len(differences) < 7 else [*BASE, 0.97]
    (verdict,) = found(pair(differences, base), dataclasses.replace(criteria, test="paired"))
    assert verdict.finding is finding
    assert len(verdict.differences) == len(verdict.seeds) == len(differences)


def test_lower_losses_are_better() -> None:
    (verdict,) = judge(samples(pair(LIFT)), "loss", Criteria(), higher=False)
    assert verdict.finding is Finding.WORSE


def test_runs_are_paired_by_seed_in_any_order() -> None:
    first = Arm(("A", "a", "a/1"), {4: 0.5, 2: 0.25, 9: 1.0}, {4: 2.0, 2: 4.0})
    other = Arm(("B", "b", "b/1"), {7: 0.0, 2: 0.5, 4: 0.75}, {2: 8.0, 4: 4.0, 7: 1.0})
    (verdict,) = judge([first, other], "accuracy", PAIRED, higher=True)
    assert (verdict.seeds, verdict.differences) == ((4, 2), (0.25, 0.25))
    assert verdict.time_ratio == pytest.approx(2)
    assert verdict.time_interval is not None
    assert verdict.time_interval.low == pytest.approx(2) == verdict.time_interval.high


@pytest.mark.parametrize(("others", "fewest"), [(1, 4), (2, 5), (3, 5), (7, 6)])
def test_the_fewest_seeds_suffice_for_all_comparisons(others: int, fewest: int) -> None:
    """Also with one seed each, of which no comparison is tested yet."""
    least = next(n for n in itertools.count(2) if 2 / math.comb(2 * n, n) <= 0.05 / others)
    assert least == fewest
    for seeds in (1, 2):
        arms = [
            Arm((name, name, name), dict.fromkeys(range(seeds), 0.5), {})
            for name in "ABCDEFGH"[: 1 + others]
        ]
        verdicts = judge(arms, "accuracy", Criteria(), higher=True)
        assert {verdict.fewest for verdict in verdicts} == {fewest}


@pytest.mark.parametrize(("slower", "told"), [(1.15, True), (2.0, False), (1e4, False)])
def test_time_intervals_that_say_nothing_are_replaced_by_the_seeds_for_one(
    slower: float, told: bool
) -> None:
    first = Arm(("A", "a", "a/1"), {0: 0.5, 1: 0.25}, {0: 1.0, 1: 1.0})
    other = Arm(("B", "b", "b/1"), {0: 0.5, 1: 0.75}, {0: 1.0, 1: slower})
    (verdict,) = judge([first, other], "accuracy", Criteria(), higher=True)
    logs = np.log([1.0, slower])
    halves = [oracle.t.ppf(0.975, n - 1) * logs.std(ddof=1) / math.sqrt(n) for n in range(2, 200)]
    needed = next(n for n, half in enumerate(halves, start=2) if math.exp(2 * half) <= 10)
    low, high = (math.exp(logs.mean() + sign * halves[0]) for sign in (-1, 1))
    assert verdict.time_interval is not None  # in JSON, as it is
    assert verdict.time_interval.low == pytest.approx(low)
    ratio = f"; an epoch takes {math.sqrt(slower):.2f}x as long"
    text = f"no useful interval with so few seeds; about {needed} would give one"
    expected = f"{low:.2f}x to {high:.2f}x" if told else text
    assert sentence(verdict).endswith(f"{ratio} ({expected}).")
    assert verdict.time_needed == (None if told else needed)
    limit = check_threshold(Threshold("train_s", 1, Effect(0.1, "relative"), "T"), verdict)
    shown = f"95% CI {low:.3g}x to {high:.3g}x" if told else text
    assert limit.text == (
        f"T inconclusive: B: {math.sqrt(slower):.3g}x the baseline's time ({shown})"
    )


def test_differences_that_could_be_anything_have_no_interval() -> None:
    """The t interval of 10 and 60 points is 35 points, give or take 12.7 times 25."""
    first, other = ({0: 0.2, 1: 0.2}, {0: 0.3, 1: 0.8})
    arms = [Arm((n, n, n), v, {}) for n, v in (("A", first), ("B", other))]
    (verdict,) = judge(arms, "accuracy", PAIRED, higher=True)
    assert sentence(verdict) == (
        "Too few seeds to compare B with A: accuracy +35.00 points (no useful 95% t interval,"
        " 2 seeds); p < 0.05 needs at least 6 seeds: run both with --seeds 6."
    )
    assert verdict.interval is not None
    assert verdict.interval.high == pytest.approx(0.35 + oracle.t.ppf(0.975, 1) * 0.25)
    limit = check_threshold(Threshold("accuracy", -1, Effect(0.01), "T"), verdict)
    assert limit.text == ("T inconclusive: B: accuracy +35.00 points (no useful 95% t interval)")
    assert interval_text("accuracy", verdict.interval) == "–"  # noqa: RUF001 - a dash
    without_ends = Interval(-math.inf, math.inf)
    assert interval_text("loss", without_ends) == "–"  # noqa: RUF001 - a dash
    assert interval_text("loss", Interval(0.5, math.inf)) == "+0.5 to +inf"


@pytest.mark.parametrize("name", ["Run 1", "run1", "run1/id"])
def test_the_baseline_is_named(name: str) -> None:
    verdicts = found([BASE, BASE, BASE], Criteria(baseline=name))
    assert [(v.baseline, v.label) for v in verdicts] == [("Run 1", "Run 0"), ("Run 1", "Run 2")]


def test_an_unknown_baseline() -> None:
    with pytest.raises(UsageError) as caught:
        found([BASE, BASE], Criteria(baseline="run2"))
    assert str(caught.value) == (
        "--baseline: no run named 'run2' in this comparison (did you mean 'run0'?); write run0 or"
        " run1."
    )


def test_one_run_has_no_verdict() -> None:
    assert found([BASE], Criteria()) == []


def test_the_reported_sample_size_has_the_stated_power() -> None:
    """For differences of the same mean and spread, by SciPy's noncentral t distribution."""
    differences = [0.004, -0.006, 0.005, -0.002, 0.003, 0.001]
    (verdict,) = found(pair(differences))
    assert verdict.needed is not None
    mean, std = np.mean(differences), np.std(differences, ddof=1)
    n = verdict.needed
    shift = abs(mean) / std * math.sqrt(n)
    power = oracle.nct.sf(oracle.t.ppf(0.975, n - 1), n - 1, shift)
    assert power == pytest.approx(0.8, abs=0.01)
    assert found(pair([0.0] * 6))[0].needed is None
    (verdict,) = found(pair(differences), Criteria())  # unpaired
    assert verdict.needed is not None
    n = verdict.needed
    errors = [np.var(values, ddof=1) for values in pair(differences)]
    shift = abs(mean) / math.sqrt(sum(errors) / n)
    freedom = (n - 1) * sum(errors) ** 2 / sum(error**2 for error in errors)
    power = oracle.nct.sf(oracle.t.ppf(0.975, freedom), freedom, shift)
    assert power == pytest.approx(0.8, abs=0.01)


def test_too_few_seeds_are_not_extrapolated() -> None:
    """The spread of two differences says little about how many would be significant."""
    (verdict,) = found(pair([0.0101, -0.0099]))
    assert (verdict.finding, verdict.fewest, verdict.needed) == (Finding.FEW, 6, 6)
    assert "--seeds 6" in sentence(verdict)


def test_more_comparisons_need_more_seeds() -> None:
    verdicts = found([BASE, pair(LIFT)[1], pair(LIFT)[1]])
    assert [(v.finding, v.fewest) for v in verdicts] == [(Finding.FEW, 7)] * 2


# Sentences.

AS_LONG = "an epoch takes 1.00x as long."
SENTENCES = [
    (
        pair(LIFT),
        Criteria(),
        "Run 1 is more accurate than Run 0: +0.50 points (95% CI +0.30 to +0.70, p = 0.031, "
        f"6 seeds); {AS_LONG}",
    ),
    (
        pair([-10 * d for d in LIFT * 2], BASE * 2),
        Criteria(alpha=0.01),
        "Run 1 is less accurate than Run 0: -5.00 points (99% CI -6.25 to -3.75, p < 0.001, "
        f"12 seeds); {AS_LONG}",
    ),
    (
        pair(LIFT),
        Criteria(min_effect=Effect(0.005)),
        "Run 1 and Run 0 differ, but possibly by less than the noise threshold of 0.50 points: "
        f"accuracy +0.50 points (95% CI +0.30 to +0.70, p = 0.031, 6 seeds); {AS_LONG}",
    ),
    (
        pair(LIFT),
        Criteria(min_effect=Effect(0.01)),
        "Run 1 and Run 0 differ by less than the noise threshold of 1.00 points: accuracy +0.50 "
        f"points (95% CI +0.30 to +0.70, p = 0.031, 6 seeds); {AS_LONG}",
    ),
    (
        pair([0.004, -0.006, 0.005, -0.002, 0.003, 0.001]),
        Criteria(),
        "No difference detected between Run 1 and Run 0: accuracy +0.08 points (95% CI -0.60 to "
        "+0.50, p = 0.69, 6 seeds); detecting a difference of this size takes about 199 seeds "
        f"(80% power); {AS_LONG}",
    ),
    (
        pair([0.0] * 6),
        Criteria(),
        "No difference detected between Run 1 and Run 0: accuracy +0.00 points (95% CI +0.00 to "
        f"+0.00, p = 1, 6 seeds); {AS_LONG}",
    ),
    (
        pair(LIFT[:3]),
        Criteria(),
        "Too few seeds to compare Run 1 with Run 0: accuracy +0.50 points (95% t interval +0.25 to "
        f"+0.75, 3 seeds); p < 0.05 needs at least 6 seeds: run both with --seeds 6; {AS_LONG}",
    ),
    (
        pair(LIFT[:1]),
        Criteria(),
        "Too few seeds to compare Run 1 with Run 0: accuracy +0.40 points with one seed; p < 0.05 "
        f"needs at least 6 seeds: run both with --seeds 6; {AS_LONG}",
    ),
    (
        pair([math.nan, *LIFT[1:]]),
        Criteria(),
        f"Run 1 cannot be compared with Run 0: training diverged with seed 0; {AS_LONG}",
    ),
    (
        pair([math.nan, math.inf, *LIFT[2:]]),
        Criteria(),
        f"Run 1 cannot be compared with Run 0: training diverged with seeds 0 and 1; {AS_LONG}",
    ),
]


@pytest.mark.parametrize(("values", "criteria", "text"), SENTENCES)
def test_sentence(values: Any, criteria: Criteria, text: str) -> None:
    (verdict,) = found(values, dataclasses.replace(criteria, test="paired"))
    assert sentence(verdict) == text
    assert fields(verdict)["sentence"] == text


UNPAIRED = [
    (
        [BASE, pair(LIFT)[1]],
        Criteria(),
        "Run 1 is more accurate than Run 0: +0.50 points (95% CI +0.20 to +0.80, p = 0.011, "
        f"6 seeds); {AS_LONG}",
    ),
    (
        [BASE[:4], pair(LIFT)[1][:4]],
        Criteria(),
        "Run 1 is more accurate than Run 0: +0.55 points (95% CI +0.10 to +1.00, p = 0.029, "
        f"4 seeds); {AS_LONG}",
    ),
    (
        [BASE, [*pair(LIFT)[1], 0.974, 0.976]],
        Criteria(),
        "Run 1 is more accurate than Run 0: +0.49 points (95% CI +0.23 to +0.75, p = 0.0033, 8 "
        f"and 6 seeds); {AS_LONG}",
    ),
    (
        pair([0.004, -0.006, 0.005, -0.002, 0.003, 0.001]),
        Criteria(),
        "No difference detected between Run 1 and Run 0: accuracy +0.08 points (95% CI -0.25 to "
        "+0.40, p = 0.67, 6 seeds); detecting a difference of this size takes about 157 seeds "
        f"(80% power); {AS_LONG}",
    ),
    (
        [BASE[:3], [0.3, 0.29, 0.31]],  # far apart, but no test of three seeds can say so
        Criteria(),
        "Too few seeds to compare Run 1 with Run 0: accuracy -67.00 points (95% Welch's t interval "
        "-69.36 to -64.64, 3 seeds); p < 0.05 needs at least 4 seeds: run both with --seeds 4; "
        f"{AS_LONG}",
    ),
    (
        [BASE, pair(LIFT)[1][:1]],
        Criteria(),
        "Too few seeds to compare Run 1 with Run 0: accuracy +0.35 points with 1 and 6 seeds; "
        f"p < 0.05 needs at least 4 seeds: run both with --seeds 4; {AS_LONG}",
    ),
    (
        [BASE, [*BASE, math.nan]],  # a seed that only one has is compared, too
        Criteria(),
        f"Run 1 cannot be compared with Run 0: training diverged with seed 6; {AS_LONG}",
    ),
]


@pytest.mark.parametrize(("values", "criteria", "text"), UNPAIRED)
def test_sentence_of_unpaired_seeds(values: Any, criteria: Criteria, text: str) -> None:
    (verdict,) = found(values, criteria)
    assert sentence(verdict) == text


def test_several_verdicts_show_the_levels_of_their_intervals() -> None:
    verdicts = found([BASE, pair(LIFT)[1], BASE], Criteria())
    assert [sentence(verdict) for verdict in verdicts] == [
        "Run 1 is more accurate than Run 0: +0.50 points (97.5% CI +0.10 to +0.90, p = 0.022, "
        f"6 seeds); {AS_LONG}",
        "No difference detected between Run 2 and Run 0: accuracy +0.00 points (95% CI -0.25 to "
        f"+0.25, p = 1, 6 seeds); {AS_LONG}",
    ]


def test_runs_without_a_seed_in_common() -> None:
    first = Arm(("A", "a", "a/1"), {0: 0.5}, {0: 2.0})
    other = Arm(("B", "b", "b/1"), {1: 0.5}, {1: 2.0})
    (verdict,) = judge([first, other], "accuracy", PAIRED, higher=True)
    assert sentence(verdict) == (
        "Too few seeds to compare B with A: no seed in common; run both with --seeds 6."
    )


def test_unpaired_runs_need_no_seed_in_common() -> None:
    first = Arm(("A", "a", "a/1"), dict(enumerate(BASE)), {0: 2.0})
    other = Arm(("B", "b", "b/1"), dict(enumerate(pair(LIFT)[1], 10)), {10: 2.0})
    (verdict,) = judge([first, other], "accuracy", Criteria(), higher=True)
    assert (verdict.seeds, verdict.differences, verdict.correlation) == ((), (), None)
    assert sentence(verdict) == (
        "B is more accurate than A: +0.50 points (95% CI +0.20 to +0.80, p = 0.011, 6 seeds)."
    )


def test_losses_are_better_or_worse() -> None:
    (verdict,) = judge(samples(pair(LIFT)), "test_loss", PAIRED, higher=False)
    assert sentence(verdict) == (
        "Run 1 is worse than Run 0: test loss +0.005 (95% CI +0.003 to +0.007, p = 0.031, "
        f"6 seeds); {AS_LONG}"
    )


@pytest.mark.parametrize("text", ["", "pp", "0.1 points", "-1%", "nan", "1e-3", "0,1pp"])
def test_malformed_effect_sizes_are_rejected(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_effect(text)
    assert str(caught.value) == (
        f"--min-effect: '{text}' is not an effect size; write, for example, 0.1pp (points), "
        "2% (of the baseline) or 0.003 (in the metric's unit)."
    )


def test_methods_are_stated_where_something_was_tested() -> None:
    assert how_lines(found(pair(LIFT[:1]))) == []
    times = (
        "Time ratios: geometric mean over seeds, from median epoch times; CI: Student's t of the"
    )
    assert how_lines(found(pair(LIFT))) == [
        "Verdicts: paired by seed; exact sign-flip test; CI: inversion of the test.",
        "Correlation of equal seeds: 0.89.",
        f"{times} logarithms.",
    ]
    three = [BASE, pair(LIFT)[1], BASE]
    assert how_lines(found(three, Criteria()))[:2] == [
        "Verdicts: unpaired; exact permutation test of the seeds; CI: inversion of the test at the"
        " level of Holm's step; p: Holm-adjusted.",
        "Correlation of equal seeds: 0.89 (Run 1) and 1.00 (Run 2).",
    ]
    assert how_lines(found([BASE, BASE[:5]], Criteria()))[0] == (
        "Verdicts: unpaired; exact studentized permutation test of the seeds; CI: inversion of the"
        " test."
    )
    many = np.random.default_rng(0).normal(0.9, 0.01, (2, 21))
    assert [how_lines(found(many, Criteria(test=t)))[0] for t in ("paired", "unpaired")] == [
        "Verdicts: paired by seed; sign-flip test; CI: inversion of the test.",
        "Verdicts: unpaired; permutation test of the seeds; CI: inversion of the test.",
    ]
    # The sentence names the interval of too few seeds, and nothing was tested.
    assert how_lines(found([BASE[:3], BASE[:3]]))[0].startswith("Correlation")
    assert Effect(0.0) == ANY
