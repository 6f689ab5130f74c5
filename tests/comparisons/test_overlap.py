"""Verdicts of seeds that share training images: formulas, simulation, sentences."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from benchmarks.calibration.overlap import SPLITS, alarms
from cnnbench.comparisons.samples import Pairing
from cnnbench.comparisons.verdict import Arm, Criteria, Finding, Verdict, judge
from cnnbench.comparisons.verdict_text import how_lines, sentence
from cnnbench.errors import UsageError
from cnnbench.statistics.estimates import mean_interval, standard_error
from cnnbench.statistics.resampled import corrected_p

some_values = st.lists(st.integers(-1000, 1000).map(lambda n: n / 1000), min_size=2, max_size=12)


def corrected_ttest(differences: Any, n_train: int, n_test: int) -> tuple[float, float]:
    """t and p as in scikit-learn's example "Statistical comparison of models using grid search"."""
    kr = len(differences)
    corrected_var = np.var(differences, ddof=1) * (1 / kr + n_test / n_train)
    t_stat = np.mean(differences) / np.sqrt(corrected_var)
    return t_stat, 2 * oracle.t.sf(np.abs(t_stat), kr - 1)


@given(some_values.filter(lambda values: len(set(values)) > 1), st.integers(1, 50))
def test_p_is_that_of_scikit_learns_example(differences: list[float], held_out: int) -> None:
    _, p = corrected_ttest(differences, 100, held_out)
    assert corrected_p(differences, held_out / 100) == pytest.approx(p, rel=1e-6)


@given(some_values.filter(lambda values: len(set(values)) > 1))
def test_without_overlap_it_is_the_t_test(differences: list[float]) -> None:
    found = oracle.ttest_1samp(differences, 0)
    assert corrected_p(differences, 0.0) == pytest.approx(found.pvalue, rel=1e-6)
    interval = mean_interval(differences, 0.9, overlap=0.0)
    ends = found.confidence_interval(0.9)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(tuple(ends), abs=1e-12)


@given(some_values.filter(lambda values: len(set(values)) > 1), st.floats(0.01, 1))
def test_the_interval_excludes_zero_if_p_is_at_most_alpha(
    differences: list[float], overlap: float
) -> None:
    p, interval = corrected_p(differences, overlap), mean_interval(differences, 0.95, overlap)
    assert interval is not None
    if abs(p - 0.05) > 1e-9:
        assert (interval.low > 0 or interval.high < 0) == (p < 0.05)


def test_equal_differences() -> None:
    assert corrected_p([0.1, 0.1], 0.25) == 0.0
    assert corrected_p([0.0, 0.0], 0.25) == 1.0


# Simulation, by benchmarks/calibration/overlap.py.


def test_the_false_positive_rate_is_near_alpha_where_that_of_a_t_test_is_not() -> None:
    (splits,) = [each for each in SPLITS if each.split.by_seed and each.seeds == 30]
    corrected, independent = alarms(splits, 150)
    assert corrected / 150 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    assert independent / 150 > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "least", "least_naive"),
    [
        (0, 0.0, 0.03),  # one round: folds are nearly independent here
        (1, 0.0, 0.03),
        (2, 0.03, 0.4),
        (3, 0.02, 0.1),
        (4, 0.03, 0.2),
        (5, 0.03, 0.4),
    ],
)
def test_false_positive_rates_by_the_number_of_folds_and_seeds(
    place: int, least: float, least_naive: float
) -> None:
    corrected, independent = alarms(SPLITS[place], 2000)
    assert least <= corrected / 2000 <= 0.075
    assert independent / 2000 >= least_naive


# Verdicts.

LIFT = [0.014, 0.016, 0.015, 0.017, 0.013]
BASE = [0.970, 0.972, 0.968, 0.971, 0.969]


def verdicts(*rows: list[float], folds: int = 5, overlap: float = 0.25) -> tuple[Verdict, ...]:
    arms = [
        Arm((f"Run {i}", f"run{i}", f"run{i}/id"), dict(enumerate(row)), {0: 1.0}, overlap, folds)
        for i, row in enumerate(rows)
    ]
    return judge(arms, "accuracy", Criteria(), higher=True)


def lifted(differences: list[float]) -> list[float]:
    return [a + d for a, d in zip(BASE, differences, strict=False)]


def test_five_folds_suffice_for_a_verdict() -> None:
    (verdict,) = verdicts(BASE, lifted(LIFT))
    _, p = corrected_ttest(LIFT, 80, 20)
    assert verdict.finding is Finding.BETTER
    assert verdict.p == pytest.approx(p)
    assert verdict.interval is not None
    half = oracle.t.ppf(0.975, 4) * np.std(LIFT, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    assert verdict.interval.high - verdict.difference == pytest.approx(half)
    assert sentence(verdict) == (
        "Run 1 is more accurate than Run 0: +1.50 points (95% CI +1.21 to +1.79, p < 0.001,"
        " 5 folds); an epoch takes 1.00x as long."
    )
    assert how_lines([verdict])[0] == (
        "Verdicts: paired by fold; corrected resampled t-test (Nadeau and Bengio 2003), since the"
        " folds share training images; CI: inversion of the test."
    )


def test_seeds_of_random_splits_are_named_seeds() -> None:
    (verdict,) = verdicts(BASE, lifted(LIFT), folds=0)
    assert ", 5 seeds);" in sentence(verdict)
    assert how_lines([verdict, verdict])[0] == (
        "Verdicts: paired by seed; corrected resampled t-test (Nadeau and Bengio 2003), since the"
        " seeds share training images; CI: inversion of the test at the level of Holm's step; p:"
        " Holm-adjusted."
    )


def test_an_incomplete_cross_validation_is_too_little() -> None:
    (verdict,) = verdicts(BASE[:3], lifted(LIFT[:3]))
    assert (verdict.finding, verdict.fewest) == (Finding.FEW, 5)
    assert sentence(verdict).endswith(
        "; 5-fold cross-validation needs at least 5 seeds: run both with --seeds 5; an epoch takes"
        " 1.00x as long."
    )
    assert "accuracy +1.50 points (95% t interval +1.17 to +1.83, 3 folds); " in sentence(verdict)
    (verdict,) = verdicts(BASE[:1], lifted(LIFT[:1]), folds=0)
    assert (verdict.finding, verdict.fewest) == (Finding.FEW, 2)


def test_the_number_of_seeds_to_run_is_a_number_of_rounds() -> None:
    (verdict,) = verdicts(BASE, lifted([0.010, 0.003, 0.018, 0.012, 0.022]))
    assert verdict.finding is Finding.NONE
    spread, n = float(np.std(verdict.differences, ddof=1)), verdict.needed
    sizes = {
        m: (oracle.t.ppf(0.975, m - 1) + oracle.t.ppf(0.8, m - 1)) * standard_error(spread, m, 0.25)
        for m in range(10, 1001, 5)
    }
    enough = [m for m, size in sizes.items() if size < abs(verdict.difference)]
    assert n == enough[0]


@pytest.mark.parametrize("test", ["paired", "unpaired"])
@pytest.mark.parametrize(("folds", "split"), [(5, "folds: 5"), (0, "by_seed: true")])
def test_the_test_of_overlapping_seeds_cannot_be_chosen(
    test: Pairing, folds: int, split: str
) -> None:
    arm = Arm(("A", "a", "a/1"), dict(enumerate(BASE)), {}, 0.25, folds)
    with pytest.raises(UsageError) as caught:
        judge(
            [arm, arm._replace(names=("B", "b", "b/1"))],
            "accuracy",
            Criteria(test=test),
            higher=True,
        )
    assert str(caught.value) == (
        f"--test: with 'split: {{{split}}}', seeds share training images, so verdicts use the"
        " corrected resampled t-test; omit --test."
    )


def test_overlap_bounds_what_more_seeds_can_detect() -> None:
    """The standard error of any number of seeds is at least the root of the overlap."""
    (verdict,) = verdicts(BASE, lifted([0.01, -0.01, 0.012, -0.008, 0.001]))
    assert (verdict.finding, verdict.needed) == (Finding.NONE, None)
