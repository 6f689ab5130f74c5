"""Verdicts: statistics against SciPy and by simulation, and the exact sentences."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from cnnbench.comparisons.verdict import ANY, Arm, Criteria, Effect, Finding, Verdict, judge
from cnnbench.comparisons.verdict_text import fields, how_lines, parse_effect, sentence
from cnnbench.errors import UsageError
from cnnbench.statistics.multiple_tests import holm
from cnnbench.statistics.permutation import EXACT, pairs_for, sign_flip_p, smallest_p

SIMULATIONS = 2000

# The test.


@given(st.lists(st.integers(-1000, 1000).map(lambda n: n / 1000), min_size=2, max_size=9))
def test_sign_flip_p_matches_scipys_permutation_test(differences: list[float]) -> None:
    def total(values: Any, axis: int) -> Any:
        return np.round(np.sum(values, axis=axis), 9)

    found = oracle.permutation_test(
        (np.array(differences),),
        total,
        permutation_type="samples",
        n_resamples=math.inf,
        vectorized=True,
    )
    # SciPy takes twice the smaller tail, which is the same for a symmetric distribution.
    assert sign_flip_p(differences) == pytest.approx(found.pvalue, abs=1e-12)


def test_sampled_signs_are_close_to_the_normal_approximation() -> None:
    differences = np.random.default_rng(4).normal(0.3, 1, 60).tolist()
    z = abs(sum(differences)) / math.sqrt(sum(d * d for d in differences))
    found = sign_flip_p(differences)
    assert found == pytest.approx(2 * oracle.norm.sf(z), rel=0.1)
    assert sign_flip_p(differences) == found
    assert sign_flip_p([1.0] * 60) == pytest.approx(1 / 524_289)


def test_exact_up_to_twenty_pairs_and_sampled_beyond() -> None:
    assert EXACT == 20
    assert sign_flip_p([1.0] * 20) == smallest_p(20)
    assert (
        sign_flip_p([1.0] * 21) >= 1 / 524_289 > smallest_p(21)
    )  # the observed signs count as one


@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.05, 0.01, 0.001])
def test_the_fewest_pairs_reach_alpha_and_one_fewer_does_not(alpha: float) -> None:
    fewest = pairs_for(alpha)
    differences = [0.1 * (i + 1) for i in range(fewest)]
    assert sign_flip_p(differences) == smallest_p(fewest) <= alpha
    assert fewest == 1 or sign_flip_p(differences[1:]) > alpha


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni rejects every subset containing it."""

    def adjusted(i: int) -> float:
        others = [j for j in range(len(p_values)) if j != i]
        sets = [
            (i, *rest) for n in range(len(p_values)) for rest in itertools.combinations(others, n)
        ]
        return max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets)

    assert holm(p_values) == pytest.approx([adjusted(i) for i in range(len(p_values))])


# Simulations.


def samples(values: Any) -> list[Arm]:
    """One run per row of values, by seed."""
    return [
        Arm((f"Run {i}", f"run{i}", f"run{i}/id"), dict(enumerate(map(float, row))), {0: 1.0})
        for i, row in enumerate(values)
    ]


def found(values: Any, criteria: Criteria) -> list[Verdict]:
    return list(judge(samples(values), "accuracy", criteria, higher=True))


def within_error(count: int, share: float) -> bool:
    """Within three standard errors of a binomial proportion."""
    return abs(count / SIMULATIONS - share) <= 3 * math.sqrt(share * (1 - share) / SIMULATIONS)


@pytest.mark.parametrize(("num_seeds", "alpha"), [(6, 1 / 32), (10, 0.05), (12, 0.01), (12, 0.1)])
def test_false_positive_rate_is_alpha(num_seeds: int, alpha: float) -> None:
    """Two runs that differ by chance only; seeds vary more than runs."""
    rng = np.random.default_rng(num_seeds)
    alarms = 0
    for _ in range(SIMULATIONS):
        common = rng.normal(0.98, 0.01, num_seeds)
        (verdict,) = found(common + rng.normal(0, 0.002, (2, num_seeds)), Criteria(alpha=alpha))
        assert verdict.p is not None
        alarms += verdict.p <= alpha
        assert verdict.finding in {Finding.BETTER, Finding.WORSE, Finding.NONE}
        if verdict.p > alpha:
            assert verdict.finding is Finding.NONE
    assert within_error(alarms, alpha)


def test_holm_controls_the_family_wise_error_rate() -> None:
    rng = np.random.default_rng(1)
    alarms = sum(
        any(v.finding is not Finding.NONE for v in found(rng.normal(0, 1, (4, 12)), Criteria()))
        for _ in range(SIMULATIONS)
    )
    assert alarms / SIMULATIONS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)
    assert alarms > 0


def test_intervals_have_their_nominal_coverage() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(SIMULATIONS):
        values = np.stack([rng.normal(0.97, 0.003, 7), rng.normal(0.975, 0.004, 7)])
        interval = found(values, Criteria(alpha=0.1))[0].interval
        assert interval is not None
        hits += interval.low <= 0.005 <= interval.high
    assert within_error(hits, 0.9)


def test_power_grows_with_seeds() -> None:
    rng = np.random.default_rng(3)
    powers = []
    for num_seeds in (6, 9, 12, 18):
        shifted = rng.normal(0, 1, (400, 2, num_seeds))
        shifted[:, 1] += 1.2
        results = [found(values, Criteria())[0].finding for values in shifted]
        assert Finding.FEW not in results
        powers.append(results.count(Finding.BETTER))
    assert powers == sorted(powers)
    assert powers[-1] > 2 * powers[0] > 0


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
        (LIFT, Criteria(min_effect=Effect(0.0034)), Finding.BETTER),
        (LIFT, Criteria(min_effect=Effect(0.0036)), Finding.NOISE),
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
    (verdict,) = found(pair(differences, base), criteria)
    assert verdict.finding is finding
    assert len(verdict.differences) == len(verdict.seeds) == len(differences)


def test_lower_losses_are_better() -> None:
    (verdict,) = judge(samples(pair(LIFT)), "loss", Criteria(), higher=False)
    assert verdict.finding is Finding.WORSE


def test_runs_are_paired_by_seed_in_any_order() -> None:
    first = Arm(("A", "a", "a/1"), {4: 0.5, 2: 0.25, 9: 1.0}, {4: 2.0, 2: 4.0})
    other = Arm(("B", "b", "b/1"), {7: 0.0, 2: 0.5, 4: 0.75}, {2: 8.0, 4: 4.0, 7: 1.0})
    (verdict,) = judge([first, other], "accuracy", Criteria(), higher=True)
    assert (verdict.seeds, verdict.differences) == ((4, 2), (0.25, 0.25))
    assert verdict.time_ratio == pytest.approx(2)
    assert verdict.time_interval is not None
    assert verdict.time_interval.low == pytest.approx(2) == verdict.time_interval.high


def test_wide_time_intervals_are_written_without_exponents() -> None:
    first = Arm(("A", "a", "a/1"), {0: 0.5, 1: 0.25}, {0: 1.0, 1: 1.0})
    other = Arm(("B", "b", "b/1"), {0: 0.5, 1: 0.75}, {0: 1.0, 1: 2.0})
    (verdict,) = judge([first, other], "accuracy", Criteria(), higher=True)
    logs = np.log([1.0, 2.0])
    half = oracle.t.ppf(0.975, 1) * logs.std(ddof=1) / math.sqrt(2)
    high = math.exp(logs.mean() + half)
    assert 100 < high < 1000
    ends = f"(0.017x to {round(high, -1):.0f}x: too few seeds for a useful interval)"
    assert ends in sentence(verdict)


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
    (verdict,) = found(pair(differences), Criteria())
    assert verdict.needed is not None
    mean, std = np.mean(differences), np.std(differences, ddof=1)
    n = verdict.needed
    shift = abs(mean) / std * math.sqrt(n)
    power = oracle.nct.sf(oracle.t.ppf(0.975, n - 1), n - 1, shift)
    assert power == pytest.approx(0.8, abs=0.01)
    assert found(pair([0.0] * 6), Criteria())[0].needed is None


def test_too_few_seeds_are_not_extrapolated() -> None:
    """The spread of two differences says little about how many would be significant."""
    (verdict,) = found(pair([0.0101, -0.0099]), Criteria())
    assert (verdict.finding, verdict.fewest, verdict.needed) == (Finding.FEW, 6, 6)
    assert "--seeds 6" in sentence(verdict)


def test_more_comparisons_need_more_seeds() -> None:
    verdicts = found([BASE, pair(LIFT)[1], pair(LIFT)[1]], Criteria())
    assert [(v.finding, v.fewest) for v in verdicts] == [(Finding.FEW, 7)] * 2


# Sentences.

AS_LONG = "an epoch takes 1.00x as long."
SENTENCES = [
    (
        pair(LIFT),
        Criteria(),
        "Run 1 is more accurate than Run 0: +0.50 points (95% CI +0.35 to +0.65, p = 0.031, "
        f"6 seeds); {AS_LONG}",
    ),
    (
        pair([-10 * d for d in LIFT * 2], BASE * 2),
        Criteria(alpha=0.01),
        "Run 1 is less accurate than Run 0: -5.00 points (99% CI -6.21 to -3.79, p < 0.001, "
        f"12 seeds); {AS_LONG}",
    ),
    (
        pair(LIFT),
        Criteria(min_effect=Effect(0.005)),
        "Run 1 and Run 0 differ, but possibly by less than the noise threshold of 0.50 points: "
        f"accuracy +0.50 points (95% CI +0.35 to +0.65, p = 0.031, 6 seeds); {AS_LONG}",
    ),
    (
        pair(LIFT),
        Criteria(min_effect=Effect(0.01)),
        "Run 1 and Run 0 differ by less than the noise threshold of 1.00 points: accuracy +0.50 "
        f"points (95% CI +0.35 to +0.65, p = 0.031, 6 seeds); {AS_LONG}",
    ),
    (
        pair([0.004, -0.006, 0.005, -0.002, 0.003, 0.001]),
        Criteria(),
        "No difference detected between Run 1 and Run 0: accuracy +0.08 points (95% CI -0.35 to "
        "+0.52, p = 0.69, 6 seeds); detecting a difference of this size takes about 199 seeds "
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
        "Too few seeds to compare Run 1 with Run 0: accuracy +0.50 points (95% CI +0.25 to +0.75, "
        f"3 seeds); p < 0.05 takes at least 6 seeds: run both with --seeds 6; {AS_LONG}",
    ),
    (
        pair(LIFT[:1]),
        Criteria(),
        "Too few seeds to compare Run 1 with Run 0: accuracy +0.40 points with one seed; p < 0.05 "
        f"takes at least 6 seeds: run both with --seeds 6; {AS_LONG}",
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
    (verdict,) = found(values, criteria)
    assert sentence(verdict) == text
    assert fields(verdict)["sentence"] == text


def test_runs_without_a_seed_in_common() -> None:
    first = Arm(("A", "a", "a/1"), {0: 0.5}, {0: 2.0})
    other = Arm(("B", "b", "b/1"), {1: 0.5}, {1: 2.0})
    (verdict,) = judge([first, other], "accuracy", Criteria(), higher=True)
    assert sentence(verdict) == (
        "Too few seeds to compare B with A: no seed in common; run both with --seeds 6."
    )


def test_losses_are_better_or_worse() -> None:
    (verdict,) = judge(samples(pair(LIFT)), "test_loss", Criteria(), higher=False)
    assert sentence(verdict) == (
        "Run 1 is worse than Run 0: test loss +0.005 (95% CI +0.00352 to +0.00648, p = 0.031, "
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
    assert how_lines(found(pair(LIFT[:1]), Criteria())) == []
    assert "Holm" not in " ".join(how_lines(found(pair(LIFT), Criteria())))
    assert "Holm" in " ".join(how_lines(found([BASE, BASE, BASE], Criteria())))
    assert Effect(0.0) == ANY
